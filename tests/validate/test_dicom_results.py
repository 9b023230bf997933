"""DICOM results of every kind, read back by pydicom and by highdicom; `make validate` asks more."""

import importlib.metadata
import json
import re
import sys
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import dicom_cases as cases
import dicom_checks as checks

from mammofm_lite.bundle import LocalizationMember
from mammofm_lite.dicom import read_study
from mammofm_lite.errors import StudyError, UsageError
from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.heads.localization import marks_of_view
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.writers.dicom import (
    DICOM_FILES,
    DICOM_KINDS,
    Case,
    check_kinds,
    dicom_bytes,
    dicom_objects,
    read_origins,
)
from mammofm_lite.writers.dicom._codes import label_code, own_code, short

SECRETS = ("Müller", "Änne", "山田", "4711", "19600229", "0815", "Sommer")


def without_chance(text: str) -> str:
    """JSON whose numbers with a fraction are 0, and checksums are empty: their digits may be
    anybody's by chance."""
    plain = json.dumps(json.loads(text, parse_float=lambda digits: 0), ensure_ascii=False)
    return re.sub(r"\b[0-9a-f]{64}\b", "", plain)


def objects(case: Case, kinds: tuple[str, ...] = DICOM_KINDS) -> dict[str, pydicom.Dataset]:
    """As a reader finds them in files."""
    found = {}
    for name, dataset in dicom_objects(kinds, case):
        found[name] = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom_bytes(dataset)))
    return found


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> cases.Answered:
    return cases.many_findings(tmp_path_factory.mktemp("many"))


@pytest.fixture
def plain(tmp_path: Path) -> cases.Answered:
    """For tests that change its files."""
    return cases.no_finding(tmp_path)


# -------------------- content


@pytest.mark.parametrize("kind", cases.KINDS)
def test_every_kind_reads_back(kind: str, tmp_path: Path) -> None:
    one = cases.KINDS[kind](tmp_path)
    found = objects(one.case())
    states = {f"{info.view}-gsps.dcm" for info in one.result.views}
    assert set(found) == {"cad-sr.dcm", "sr.dcm"} | states
    assert set(found) <= set(DICOM_FILES)
    for name, dataset in found.items():
        checks.check(name, dataset, one)


def test_a_check_can_fail(answered: cases.Answered) -> None:
    """A mark moved by a tenth of a pixel is noticed."""
    found = answered.result.localization
    assert found is not None
    x1, y1, x2, y2 = found.marks[0].box_px
    moved = replace(found.marks[0], box_px=(x1, y1, x2 - 0.1, y2))
    other = cases.answer(answered.study, (moved, *found.marks[1:]))
    for name, dataset in objects(answered.case()).items():
        if "R-" not in name and "L-MLO" not in name:
            with pytest.raises(AssertionError):
                checks.check(name, dataset, replace(answered, result=other))


def test_highdicom_reads_the_measurements(answered: cases.Answered, tmp_path: Path) -> None:
    from highdicom.sr import Comprehensive3DSR, srread

    ((_, dataset),) = dicom_objects(("sr",), answered.case())
    (tmp_path / "sr.dcm").write_bytes(dicom_bytes(dataset))
    document = srread(tmp_path / "sr.dcm")
    assert isinstance(document, Comprehensive3DSR)
    groups = document.content.get_planar_roi_measurement_groups()
    marks = cases.marks_of_result(answered.result)
    assert len(groups) == len(marks) == 18
    for group, mark in zip(groups, marks, strict=True):
        corners = group.roi.value
        np.testing.assert_allclose(corners.min(axis=0), mark.box_px[:2], rtol=1e-6)
        np.testing.assert_allclose(corners.max(axis=0), mark.box_px[2:], rtol=1e-6)
        assert group.tracking_identifier.endswith(mark.label)
        (measured,) = group.get_measurements()
        assert measured.value == pytest.approx(100 * mark.score, abs=5e-4)
    whole = document.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in whole] == [
        "Study",
        "Study: diagnosis",
        "Left breast: diagnosis",
        "Right breast: diagnosis",
        "Study: localization",
        "Study: prognosis",
        "Study: report",
    ]


def test_a_mark_is_the_same_in_every_kind(answered: cases.Answered) -> None:
    found = objects(answered.case())
    tracked = [
        [item.UID for item in checks.tree(found[name]) if checks.concept(item) == "112040"]
        for name in ("cad-sr.dcm", "sr.dcm")
    ]
    count = len(cases.marks_of_result(answered.result))
    assert len(set(tracked[0])) == count
    assert [uid for uid in tracked[1] if uid in tracked[0]] == tracked[0]


def test_nothing_of_the_other_heads_is_in_the_cad_report(answered: cases.Answered) -> None:
    """No assessment, no probability of cancer, no composition: no head says so of a mark."""
    found = objects(answered.case(), ("cad-sr",))["cad-sr.dcm"]
    concepts = {checks.concept(item) for item in checks.tree(found)}
    assert concepts.isdisjoint({"111005", "111053", "111047", "129715009", "111007"})


def test_an_incomplete_exam_never_reads_like_a_negative_one(tmp_path: Path) -> None:
    one = cases.one_view(tmp_path)
    report = objects(one.case(), ("cad-sr",))["cad-sr.dcm"]
    (summary,) = [item for item in checks.tree(report) if checks.concept(item) == "111017"]
    meaning = summary.ConceptCodeSequence[0].CodeMeaning
    assert meaning == "Not all algorithms succeeded; without findings"
    assert report.CompletionFlag == "PARTIAL"
    assert report.CompletionFlagDescription == "no L-MLO, R-CC, R-MLO; no answer: prognosis"
    (said,) = [item for item in checks.tree(report) if checks.concept(item) == "111033"]
    assert "Views missing: L-MLO, R-CC, R-MLO." in said.TextValue


# -------------------- coordinates


@pytest.mark.parametrize("mirrored", [False, True])
def test_coordinates_are_right_to_the_pixel(tmp_path: Path, mirrored: bool) -> None:
    """Pixels marked in an image, through the model's frame and the file, and back to pixels.

    The standard has the corner of the first pixel at 0\\0, so the pixel in row r and column c lies
    inside an outline that holds the point c + 0.5, r + 0.5 (PS3.3 C.18.6.1 and C.10.5).
    """
    one = cases.no_finding(tmp_path)
    image = one.study.views["R-CC"]
    geometry = ViewGeometry(
        rows=image.rows,
        columns=image.columns,
        border_px=5,
        row_runs=((10, 120), (140, 225)),
        column_runs=((20, 180),),
        model_height=152,
        model_width=91,
        mirrored=mirrored,
        pixel_spacing_mm=(1.0, 1.0),
    )
    lesion = np.zeros((image.rows, image.columns), dtype=bool)
    lesion[150:171, 33:60] = True
    rows, columns = np.flatnonzero(lesion.any(axis=1)), np.flatnonzero(lesion.any(axis=0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    boxes = np.sort(geometry.box_to_model([edges]).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    graph = (boxes.astype(np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    member = LocalizationMember("m.xml", "view", ("mass",), 0.5)
    marks = marks_of_view(member, "R-CC", geometry, graph)
    found = objects(replace(one, result=cases.answer(one.study, marks)).case())
    outlines = [
        item.GraphicData
        for name in ("cad-sr.dcm", "sr.dcm", "R-CC-gsps.dcm")
        for item in checks.walk(found[name])
        if item.get("GraphicType") == "POLYLINE"
    ]
    assert len(outlines) == 3
    for outline in outlines:
        np.testing.assert_array_equal(_pixels_inside(outline, lesion.shape), lesion)


def _pixels_inside(outline: Any, shape: tuple[int, ...]) -> Any:
    """Pixels whose centres lie in a closed polygon, by the even-odd rule, edge by edge."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    points = np.array(outline, dtype=np.float64).reshape(-1, 2)
    inside = np.zeros(shape, dtype=bool)
    for (xa, ya), (xb, yb) in pairwise(points):
        if ya == yb:
            continue
        crossing = (y > min(ya, yb)) & (y < max(ya, yb))
        inside ^= crossing & (x > xa + (y - ya) * (xb - xa) / (yb - ya))
    return inside


def test_a_mark_outside_its_image_is_refused(answered: cases.Answered) -> None:
    found = answered.result.localization
    assert found is not None
    outside = replace(found.marks[0], box_px=(10.0, 10.0, 190.5, 20.0))
    result = cases.answer(answered.study, (outside,))
    with pytest.raises(StudyError, match="a mark in L-CC lies in no image of the study"):
        objects(replace(answered, result=result).case())


# -------------------- identifiers


def uids(case: Case) -> dict[str, str]:
    return {name: str(each.SOPInstanceUID) for name, each in objects(case).items()}


def test_a_repeated_run_replaces(answered: cases.Answered) -> None:
    first, later = (objects(answered.case(datetime(year, 1, 1))) for year in (2026, 2031))
    moments = re.compile("Date|Time|FileMeta")
    for name, dataset in first.items():
        before = {each.keyword: each for each in dataset if not moments.search(each.keyword)}
        after = {each.keyword: each for each in later[name] if not moments.search(each.keyword)}
        for one in (before, after):
            del one["ContributingEquipmentSequence"].value[0].ContributionDateTime
        assert before == after, name
    every = [str(each.SOPInstanceUID) for each in first.values()]
    assert len(set(every)) == len(every)


def test_other_answers_are_other_objects(answered: cases.Answered) -> None:
    """Another model, version, choice of heads or set of usable images."""
    result, base = answered.result, uids(answered.case())
    others = [
        replace(result, model=replace(result.model, sha256="f" * 64)),
        replace(result, software=replace(result.software, mammofm_lite="9.9.9")),
        cases.answer(answered.study, heads=("localization",)),
        cases.answer(answered.study, unusable=("R-MLO",)),
    ]
    seen = set(base.values())
    for other in others:
        new = set(uids(replace(answered, result=other).case()).values())
        assert not new & seen
        seen |= new


def test_the_device_changes_with_the_model_alone(answered: cases.Answered, tmp_path: Path) -> None:
    def device(one: cases.Answered) -> str:
        (dataset,) = objects(one.case(), ("cad-sr",)).values()
        return str(dataset.ContributingEquipmentSequence[0].DeviceUID)

    elsewhere = cases.one_view(tmp_path)
    other = replace(answered.result, model=replace(answered.result.model, sha256="f" * 64))
    assert device(elsewhere) == device(answered)
    assert device(replace(answered, result=other)) != device(answered)


def test_unique_identifiers_are_valid(answered: cases.Answered) -> None:
    form = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
    for dataset in objects(answered.case()).values():
        for item in checks.walk(dataset):
            for element in item:
                if element.VR == "UI" and element.keyword != "SOPClassUID":
                    assert form.fullmatch(str(element.value))
                    assert len(str(element.value)) <= 64


# -------------------- patient


def no_secrets(error: pytest.ExceptionInfo[BaseException]) -> None:
    assert not any(secret in str(error.value) for secret in (*SECRETS, "Ander"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientName", "Ander^Eva"), ("PatientSex", "M"), ("IssuerOfPatientID", "B")],
)
def test_files_that_disagree_on_the_patient_are_refused(
    plain: cases.Answered, keyword: str, value: str
) -> None:
    cases.edit(plain.folder, "L-CC", IssuerOfPatientID="A")
    cases.edit(plain.folder, "R-CC", **{keyword: value})
    with pytest.raises(StudyError, match=f"the files disagree on {keyword}") as error:
        read_origins(read_study(plain.folder))
    no_secrets(error)


def test_padding_of_a_name_is_no_disagreement(plain: cases.Answered) -> None:
    cases.edit(plain.folder, "R-CC", PatientName="MÜLLER^Änne^^Dr.=山田^花子^^=")
    read_origins(read_study(plain.folder))


def test_what_one_file_leaves_out_comes_from_another(plain: cases.Answered) -> None:
    cases.edit(plain.folder, "L-CC", AccessionNumber="", PatientSex=None)
    study = read_study(plain.folder)
    case = Case.of(plain.result, study, read_origins(study))
    for dataset in objects(case).values():
        assert dataset.AccessionNumber == cases.PATIENT["AccessionNumber"]
        assert dataset.PatientSex == "F"


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Änne"), ("ISO_IR 144", "Люкceмбypг"), ("GB18030", "王^小东")],
)
def test_names_in_other_character_sets(plain: cases.Answered, charset: str, name: str) -> None:
    for view in plain.study.views:
        cases.edit(
            plain.folder,
            view,
            SpecificCharacterSet=charset,
            PatientName=name,
            PatientID="1",
            ReferringPhysicianName="",
        )
    study = read_study(plain.folder)
    for dataset in objects(Case.of(plain.result, study, read_origins(study))).values():
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert str(dataset.PatientName) == name


@pytest.mark.parametrize(
    ("charset", "words"),
    [
        ("ISO_IR 999", "its character set .SpecificCharacterSet. is not known"),
        ("", "it names no character set .SpecificCharacterSet. for its text"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(
    plain: cases.Answered, charset: str, words: str
) -> None:
    path = plain.folder / "L-MLO.dcm"
    data = path.read_bytes()
    assert data.count(b"ISO_IR 192") == 1
    path.write_bytes(data.replace(b"ISO_IR 192", charset.ljust(10).encode()))
    with pytest.raises(StudyError, match=words) as error:
        read_origins(read_study(plain.folder))
    no_secrets(error)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "9" * 65),
        ("PatientID", "PID\n4711"),
        ("PatientName", "A" * 65),
        ("PatientName", "A=B=C=D"),
        ("PatientID", ["4711", "4712"]),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_patient_who_cannot_be_written_is_refused(
    plain: cases.Answered, keyword: str, value: Any
) -> None:
    for view in plain.study.views:
        _edit_unchecked(plain.folder / f"{view}.dcm", **{keyword: value})
    with pytest.raises(StudyError, match=f"its {keyword} is malformed") as error:
        read_origins(read_study(plain.folder))
    no_secrets(error)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("AccessionNumber", "9" * 17),
        ("StudyID", "9" * 17),
        ("StudyDescription", "9" * 65),
        ("StudyDate", "20261399"),
        ("StudyTime", "250000"),
        ("PatientBirthDate", "1960"),
        ("PatientSex", "female"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_may_not_be_written_is_left_out(
    plain: cases.Answered, keyword: str, value: str
) -> None:
    for view in plain.study.views:
        _edit_unchecked(plain.folder / f"{view}.dcm", **{keyword: value})
    study = read_study(plain.folder)
    (dataset,) = objects(Case.of(plain.result, study, read_origins(study)), ("cad-sr",)).values()
    assert not dataset.get(keyword)


def _edit_unchecked(path: Path, **changes: Any) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    with pydicom.config.disable_value_validation():
        dataset.save_as(path)


def test_a_file_that_changed_is_refused(plain: cases.Answered) -> None:
    cases.edit(plain.folder, "L-CC", PatientName="Ander^Eva")
    with pytest.raises(StudyError, match="the file was changed while the study was read") as error:
        read_origins(plain.study)
    no_secrets(error)


def test_a_result_of_another_study_is_refused(plain: cases.Answered) -> None:
    other = replace(plain.result, study_instance_uid="1.2.3")
    with pytest.raises(StudyError, match="the result is of another study than the files"):
        Case.of(other, plain.study, read_origins(plain.study))


def test_names_of_files_say_nothing_of_the_patient(answered: cases.Answered) -> None:
    assert not any(secret in name for name in DICOM_FILES for secret in SECRETS)
    assert not any(secret in repr(answered.case().images) for secret in SECRETS)


# -------------------- display


@pytest.mark.parametrize("syntax", ["explicit-little", "implicit-little", "explicit-big"])
@pytest.mark.parametrize("vr", ["OW", "US"])
def test_a_table_is_repeated(tmp_path: Path, syntax: str, vr: str) -> None:
    options = PhantomOptions(rows=115, columns=95, pixel_spacing_mm=1.0, transfer_syntax=syntax)
    write_phantom(tmp_path, seed=5, options=options)
    values = np.arange(4096) // 2
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    packed = values.astype(">u2" if syntax == "explicit-big" else "<u2").tobytes()
    item.add_new("LUTData", vr, packed if vr == "OW" else values.tolist())
    cases.edit(tmp_path, "L-CC", VOILUTSequence=[item])
    study = read_study(tmp_path)
    case = Case.of(cases.answer(study), study, read_origins(study))
    state = objects(case, ("gsps",))["L-CC-gsps.dcm"]
    (shown,) = state.SoftcopyVOILUTSequence
    assert "WindowCenter" not in shown
    (table,) = shown.VOILUTSequence
    assert list(table.LUTDescriptor) == [4096, 0, 12]
    data = table.LUTData
    found = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.array(data)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"VOILUTFunction": "SIGMOID"}, {"VOILUTFunction": "SIGMOID"}),
        ({"WindowCenter": [1000, 2000], "WindowWidth": [500, 600]}, {"WindowCenter": 1000}),
    ],
)
def test_a_window_is_repeated(
    plain: cases.Answered, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    cases.edit(plain.folder, "L-CC", **changes)
    study = read_study(plain.folder)
    state = objects(Case.of(plain.result, study, read_origins(study)), ("gsps",))["L-CC-gsps.dcm"]
    (window,) = state.SoftcopyVOILUTSequence
    assert {keyword: window[keyword].value for keyword in expected} == expected


def test_rescale_shutter_and_oblong_pixels_are_repeated(plain: cases.Answered) -> None:
    cases.edit(
        plain.folder,
        "L-CC",
        RescaleSlope=2,
        RescaleIntercept=-7,
        ImagerPixelSpacing=[0.5, 0.7],
        ShutterShape=["CIRCULAR", "POLYGONAL"],
        CenterOfCircularShutter=[115, 95],
        RadiusOfCircularShutter=90,
        VerticesOfThePolygonalShutter=[1, 1, 1, 190, 230, 190, 230, 1],
    )
    study = read_study(plain.folder)
    state = objects(Case.of(plain.result, study, read_origins(study)), ("gsps",))["L-CC-gsps.dcm"]
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (2, -7, "US")
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.PresentationPixelSpacing == [0.5, 0.7]
    assert list(state.ShutterShape) == ["CIRCULAR", "POLYGONAL"]
    assert list(state.CenterOfCircularShutter) == [115, 95]
    assert state.RadiusOfCircularShutter == 90
    assert list(state.VerticesOfThePolygonalShutter) == [1, 1, 1, 190, 230, 190, 230, 1]


# -------------------- codes


@given(st.text(min_size=1))
def test_any_label_becomes_a_code(label: str) -> None:
    code = label_code(label)
    assert len(code.value) <= 16
    assert len(code.meaning.encode()) <= 64
    assert "\\" not in code.meaning


@given(st.text(), st.text())
def test_labels_are_told_apart_by_value(one: str, other: str) -> None:
    assert (label_code(one).value == label_code(other).value) == (one == other)


def test_short_text_keeps_whole_characters() -> None:
    assert short("ä" * 40) == "ä" * 32
    assert short("a \\ b") == "a / b"
    assert own_code("X", "  two\n words ").meaning == "two words"


# -------------------- the command line


def test_infer_writes_them(run: Any, tmp_path: Path) -> None:
    """The demonstration bundle, with a patient whom no stream and no name of a file may tell."""
    study, output = tmp_path / "study", tmp_path / "out"
    write_phantom(study, seed=23)
    for view in ("L-CC", "L-MLO", "R-CC", "R-MLO"):
        cases.edit(study, view, SpecificCharacterSet="ISO_IR 192", **cases.PATIENT)
    arguments = ("infer", study, "-o", output, "--write", "json,cad-sr,sr,gsps")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in output.iterdir()}
    assert names == {"result.json", *DICOM_FILES}
    result = without_chance((output / "result.json").read_text())
    for text in (done.stdout, done.stderr, result, *names):
        assert not any(secret in text for secret in SECRETS)
    first = {name: pydicom.dcmread(output / name) for name in DICOM_FILES}
    assert all(each.PatientID == cases.PATIENT["PatientID"] for each in first.values())
    again = run(*arguments)
    assert again.returncode == 2
    assert "the output folder already has" in again.stderr
    decisions = {each.reason for each in read_study(output.parent).decisions}
    assert {"structured_report", "presentation_state"} <= decisions


def test_the_files_are_read_before_the_model_runs(
    run: Any, plain: cases.Answered, tmp_path: Path
) -> None:
    cases.edit(plain.folder, "R-CC", PatientName="Ander^Eva")
    done = run("infer", plain.folder, "-o", tmp_path / "out", "--write", "gsps")
    assert done.returncode == 3
    assert "the files disagree on PatientName" in done.stderr
    assert "encode" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_highdicom_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    check_kinds(("cad-sr", "gsps"))
    with pytest.raises(UsageError) as error:
        check_kinds(("cad-sr", "sr"))
    assert str(error.value) == (
        "--write sr needs highdicom; install it with: pip install 'mammofm-lite[sr]'"
    )


def test_the_other_kinds_need_no_highdicom(
    answered: cases.Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert len(objects(answered.case(), ("cad-sr", "gsps"))) == 5


def test_the_extra_names_highdicom() -> None:
    extras = importlib.metadata.requires("mammofm-lite") or []
    assert any(one.startswith("highdicom") and "'sr'" in one.replace('"', "'") for one in extras)

"""The C library and the Python runtime answer alike: the same text of JSON, byte for byte."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite import ArrayView, InferOptions, Model, StudyError, array_study
from mammofm_lite.background import Background, HiddenPixels, PixelPadding
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.views import HEADS

AsArrays = Callable[[Path], tuple[list[ArrayView], str]]
TOLERANCE = 1e-5  # of probabilities; what is measured is equality


def python_json(
    model: Model, views: list[ArrayView], uid: str = "", heads: tuple[str, ...] | None = None
) -> str:
    return model.infer(array_study(views, uid), InferOptions(heads)).to_json_text()


@pytest.mark.parametrize("seed", [0, 1])
def test_phantoms(
    seed: int, tmp_path: Path, c_model: Any, py_model: Model, as_arrays: AsArrays
) -> None:
    write_phantom(tmp_path, seed=seed, options=PhantomOptions(rows=1147, columns=957,
                  pixel_spacing_mm=0.2))  # fmt: skip
    views, uid = as_arrays(tmp_path)
    found = c_model.run(views, uid).json()
    assert found == python_json(py_model, views, uid)
    assert len(json.loads(found)["heads"]) == 4


def test_dicom_has_the_same_answers(
    phantom_folder: Path, c_model: Any, py_model: Model, as_arrays: AsArrays
) -> None:
    """What only a file knows differs: its name, windows, and where the spacing stands."""
    views, uid = as_arrays(phantom_folder)
    ours = json.loads(c_model.run(views, uid).json())
    theirs = py_model.infer(phantom_folder).to_json()
    assert {view.pop("pixel_spacing_source") for view in ours["views"]} == {"caller"}
    for view in theirs["views"]:
        view.pop("pixel_spacing_source")
        view["voi"]["file"]["windows"] = []
    del ours["files"], theirs["files"]
    assert ours == theirs


def test_the_real_exam(
    real_exam: Path, tmp_path: Path, c_model: Any, py_model: Model, as_arrays: AsArrays
) -> None:
    subprocess.run([sys.executable, real_exam / "make_dicom.py", tmp_path / "exam"], check=True)
    views, uid = as_arrays(tmp_path / "exam")
    assert c_model.run(views, uid).json() == python_json(py_model, views, uid)


@pytest.mark.parametrize(
    "kept",
    [["R-MLO"], ["L-CC", "R-CC"], ["R-MLO", "L-MLO", "L-CC"], ["L-CC", "R-MLO"]],
    ids=",".join,
)
def test_missing_views(
    kept: list[str], phantom: list[ArrayView], c_model: Any, py_model: Model
) -> None:
    views = [next(v for v in phantom if v.view == name) for name in kept]
    assert c_model.run(views).json() == python_json(py_model, views)


@pytest.mark.parametrize("heads", [("diagnosis",), ("localization", "report"), ("prognosis",)])
def test_heads(
    heads: tuple[str, ...], phantom: list[ArrayView], c_model: Any, py_model: Model
) -> None:
    found = c_model.run(phantom, heads=heads).json()
    assert found == python_json(py_model, phantom, heads=heads)


def test_a_view_that_cannot_be_used(
    phantom: list[ArrayView], c_model: Any, py_model: Model
) -> None:
    blank = replace(phantom[1], pixels=np.full((300, 200), 7, np.uint16))
    views = [phantom[0], blank, *phantom[2:]]
    found = c_model.run(views).json()
    assert found == python_json(py_model, views)
    assert "was found but not used" in found


def test_no_view_can_be_used(
    phantom: list[ArrayView], capi: ModuleType, c_model: Any, py_model: Model
) -> None:
    views = [replace(phantom[1], pixels=np.full((300, 200), 7, np.uint16))]
    with pytest.raises(StudyError) as theirs:
        python_json(py_model, views)
    with pytest.raises(capi.RefusedError) as ours:
        c_model.run(views)
    assert ours.value.status == capi.STUDY
    assert str(ours.value) == str(theirs.value)


def changed(view: ArrayView, how: str) -> ArrayView:
    """The same picture in another form, or another one."""
    pixels = view.pixels
    match how:
        case "inverted":
            return replace(
                view, pixels=pixels.max() - pixels, photometric_interpretation="MONOCHROME1"
            )
        case "signed":
            return replace(view, pixels=pixels.astype(np.int16) - 2000, rescale_intercept=2000.0)
        case "eight bits":
            return replace(view, pixels=(pixels >> 4).astype(np.uint8), pixel_spacing_mm=None)
        case "signed bytes":
            return replace(view, pixels=((pixels >> 5).astype(np.int16) - 90).astype(np.int8))
        case "falling":
            return replace(view, rescale_slope=-0.37, rescale_intercept=1.5)
        case "strides":
            wide = np.zeros((pixels.shape[0], pixels.shape[1] + 13), pixels.dtype)
            wide[:, : pixels.shape[1]] = pixels
            return replace(view, pixels=wide[:, : pixels.shape[1]])
        case "padding":
            bright = pixels.copy()
            bright[:40] = 4095
            return replace(view, pixels=bright, background=Background(PixelPadding(4095, 4095)))
        case "hidden":
            hidden = np.zeros(pixels.shape, np.bool_)
            hidden[:, :30] = hidden[:25] = True
            bright = np.where(hidden, np.uint16(60000), pixels)
            return replace(
                view, pixels=bright, background=Background(None, (HiddenPixels(hidden),))
            )
        case "both":
            one = changed(changed(view, "padding"), "hidden")
            return replace(
                one, background=Background(PixelPadding(4000, 4095), one.background.shutters)
            )
        case "enlarged":
            return replace(view, pixels=np.ascontiguousarray(pixels[::4, ::4]))
    return replace(view, pixels=np.ascontiguousarray(pixels[:1145, : 957 // 3]))  # narrow


HOWS = [
    "inverted", "signed", "eight bits", "signed bytes", "falling", "strides", "padding", "hidden",
    "both", "enlarged", "narrow",
]  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_kinds_of_pixels(how: str, phantom: list[ArrayView], c_model: Any, py_model: Model) -> None:
    views = [changed(phantom[0], how)]
    heads = ("diagnosis", "localization")
    found = c_model.run(views, heads=heads).json()
    assert found == python_json(py_model, views, heads=heads)
    if how in ("padding", "hidden", "both"):
        assert "_masked" in found


@st.composite
def pictures(draw: st.DrawFn) -> ArrayView:
    """Blobs of any size on background, so that runs of all kinds appear."""
    rows, columns = draw(st.integers(18, 900)), draw(st.integers(18, 600))
    kind = draw(st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    pixels = np.full((rows, columns), draw(st.integers(low, high)), kind)
    for _ in range(draw(st.integers(1, 4))):
        top, left = rng.integers(0, rows), rng.integers(0, columns)
        part = pixels[top : top + rng.integers(1, rows), left : left + rng.integers(1, columns)]
        part[...] = rng.integers(low, high, part.shape, endpoint=True)
    padding = draw(st.none() | st.tuples(st.integers(low, high), st.integers(low, high)))
    return ArrayView(
        pixels,
        draw(st.sampled_from(["L-CC", "R-MLO"])),
        photometric_interpretation=draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])),
        rescale_slope=draw(st.sampled_from([1.0, -1.0, 0.123, 7e30, 1e-30])),
        rescale_intercept=draw(st.sampled_from([0.0, -1024.0, 1e8])),
        background=Background(PixelPadding(*sorted(padding)) if padding else None),
    )


@settings(max_examples=25)
@given(picture=pictures())
def test_any_picture(picture: ArrayView, capi: ModuleType, c_model: Any, py_model: Model) -> None:
    """The same JSON, geometry to the pixel, or the same refusal."""
    refused = ""
    try:
        theirs = python_json(py_model, [picture], heads=("diagnosis",))
    except StudyError as error:
        refused = str(error)
    if not refused:
        assert c_model.run([picture], heads=("diagnosis",)).json() == theirs
        return
    with pytest.raises(capi.RefusedError) as ours:
        c_model.run([picture], heads=("diagnosis",))
    assert str(ours.value) == refused


def test_the_structs_say_what_the_json_says(
    phantom: list[ArrayView], capi: ModuleType, c_model: Any
) -> None:
    result = c_model.run(phantom, "1.2.3")
    written = json.loads(result.json())
    summary = result.get(capi.Summary)
    assert summary.recall == written["recall"]["suggested"]
    assert (summary.views_used, summary.heads_asked, summary.heads_answered) == (15, 15, 15)
    notices = [result.words("notice", 1, i)[0] for i in range(summary.notice_count)]
    assert notices == written["notices"]
    basis = [result.words("recall_basis", 1, i)[0] for i in range(summary.recall_basis_count)]
    assert basis == written["recall"]["basis"]
    for head in range(len(HEADS)):
        outcome = result.get(capi.HeadOutcome, head)
        assert (outcome.answered, outcome.reason, outcome.detail) == (1, None, None)


def test_diagnosis_structs(phantom: list[ArrayView], capi: ModuleType, c_model: Any) -> None:
    result = c_model.run(phantom, heads=("diagnosis",))
    head = json.loads(result.json())["heads"]["diagnosis"]["result"]
    scopes = [head["study"], *(head["breasts"][s] for s in "LR"), *head["views"].values()]
    for scope, scores in enumerate(scopes):
        assert result.count("score", scope) == len(scores)
        for i, score in enumerate(scores):
            struct = result.get(capi.Score, scope, i)
            assert struct.label.decode() == score["label"]
            assert (struct.value.decode() if struct.value else None) == score["value"]
            assert struct.threshold == (-1 if score["threshold"] is None else score["threshold"])
            found = [result.probability(scope, i, k) for k in range(struct.probability_count)]
            assert dict(found) == pytest.approx(score["probabilities"], abs=TOLERANCE)


def test_localization_structs(phantom: list[ArrayView], capi: ModuleType, c_model: Any) -> None:
    views = [replace(phantom[0], pixel_spacing_mm=None), *phantom[1:]]
    result = c_model.run(views, heads=("localization",))
    head = json.loads(result.json())["heads"]["localization"]["result"]
    assert result.count("mark") == len(head["marks"]) > 0
    names = ["L-CC", "L-MLO", "R-CC", "R-MLO"]
    for i, mark in enumerate(head["marks"]):
        struct = result.get(capi.Mark, i)
        assert names[struct.view] == mark["view"]
        assert struct.label.decode() == mark["label"]
        assert struct.score == mark["score"]
        assert struct.box_px.values() == mark["box_px"]
        assert struct.has_mm == (mark["box_mm"] is not None)
        assert struct.box_mm.values() == (mark["box_mm"] or [0, 0, 0, 0])
        assert struct.threshold == head["thresholds"][mark["label"]]


def test_prognosis_structs(phantom: list[ArrayView], capi: ModuleType, c_model: Any) -> None:
    result = c_model.run(phantom, heads=("prognosis",))
    head = json.loads(result.json())["heads"]["prognosis"]["result"]
    years = [result.get(capi.Year, i) for i in range(result.count("year"))]
    assert [(y.year, y.score, y.risk) for y in years] == [
        (y["year"], y["score"], y["risk"]) for y in head["years"]
    ]
    peaks = [result.get(capi.Peak, i) for i in range(result.count("peak"))]
    assert [
        (p.year, ("CC", "MLO")[p.projection - 1], p.left_box_px.values(), p.right_box_px.values())
        for p in peaks
    ] == [(p["year"], p["projection"], p["left_box_px"], p["right_box_px"]) for p in head["peaks"]]


def test_report_structs(phantom: list[ArrayView], capi: ModuleType, c_model: Any) -> None:
    result = c_model.run(phantom)
    head = json.loads(result.json())["heads"]["report"]["result"]
    report, struct = head["report"], result.get(capi.Report)
    for name in ("text", "composition", "management"):
        assert getattr(struct, name).decode() == report[name]
    estimate = struct.birads_estimate
    assert (estimate.decode() if estimate else None) == report["birads_estimate"]
    assert (struct.lexicon_name.decode(), struct.recall) == (
        report["lexicon"]["name"], report["recall"],
    )  # fmt: skip
    sections = [result.get(capi.ReportSection, i) for i in range(struct.section_count)]
    assert [(s.name.decode(), s.title.decode(), s.text.decode()) for s in sections] == [
        (s["name"], s["title"], s["text"]) for s in report["sections"]
    ]
    findings = []
    for i in range(struct.finding_count):
        finding = result.get(capi.ReportFinding, i)
        pairs = [result.words("report_descriptor", 2, i, k)
                 for k in range(finding.descriptor_count)]  # fmt: skip
        findings.append((finding.side, finding.kind.decode(), dict(pairs)))
    assert findings == [
        (number, finding["kind"], finding["descriptors"])
        for number, side in ((2, "R"), (1, "L"))
        for finding in report["breasts"][side]["findings"]
    ]
    for number, side in ((1, "L"), (2, "R")):
        assert result.words("report_breast", 1, number) == [report["breasts"][side]["status"]]
    flags = [result.words("report_flag", 2, i) for i in range(struct.flag_count)]
    assert flags == [[flag["code"], flag["detail"]] for flag in head["flags"]]


def test_view_structs(phantom: list[ArrayView], capi: ModuleType, c_model: Any) -> None:
    result = c_model.run([changed(phantom[0], "padding")], heads=("diagnosis",))
    view = result.get(capi.ViewResult, 0)
    rows, columns = phantom[0].pixels.shape
    assert (view.view, view.rows, view.columns, view.mirrored) == (0, rows, columns, 0)
    assert view.sop_instance_uid.decode() == phantom[0].sop_instance_uid
    deviations = [result.words("view_deviation", 1, 0, i) for i in range(view.deviation_count)]
    assert deviations == [["pixel_padding_masked"]]

"""What the page holds; how a browser shows it is `test_html_browser.py`'s."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from mammofm_lite.bundle import LabelSpec
from mammofm_lite.dicom import FileDecision, read_study
from mammofm_lite.errors import BundleError
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.progress import StageReporter
from mammofm_lite.results import HeadOutcome, LocalizationResult, Mark, StudyResult, YearRisk
from mammofm_lite.writers._html_views import colours
from mammofm_lite.writers._meaning import label_meaning
from mammofm_lite.writers._risk_curve import risk_curve, scale_top
from mammofm_lite.writers.folder import ResultFolder
from mammofm_lite.writers.html import Picture, html_page

VIEWS = ("L-CC", "L-MLO", "R-CC", "R-MLO")
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\u202e"


class Page(HTMLParser):
    """Elements with their attributes and the text directly inside."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] in ("script", "style"):
            self.raw[self._in[-1]] = self.raw.get(self._in[-1], "") + data
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str | None]]:
        return [
            given
            for name, given in self.elements
            if name == tag and (kind is None or kind in (given.get("class") or "").split())
        ]


def page_of(answered: Any, result: StudyResult | None = None, **given: Any) -> Page:
    return Page(bytes_of(answered, result, **given))


def bytes_of(
    answered: Any,
    result: StudyResult | None = None,
    *,
    bundle: Any = None,
    orientations: Any = None,
) -> bytes:
    result = result or answered.result
    ramp = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
    pictures = {info.view: Picture(ramp, "Shown in some window.") for info in result.views}
    if orientations is None:
        orientations = {v: one.patient_orientation for v, one in answered.study.views.items()}
    return html_page(result, bundle or answered.bundle, pictures, orientations)


def without(result: StudyResult, *missing: str) -> StudyResult:
    """As if these views had not been there; the heads' answers are left as they are."""
    return dataclasses.replace(
        result,
        views=tuple(info for info in result.views if info.view not in missing),
        missing_views=tuple(view for view in VIEWS if view in missing),  # type: ignore[misc]
    )


def unanswered(result: StudyResult, *heads: str) -> StudyResult:
    failed = HeadOutcome("not_answered", "missing_views", "for a reason of the test", None)
    return dataclasses.replace(result, heads={**result.heads, **dict.fromkeys(heads, failed)})


# -------------------- what it may do


def test_one_file_that_asks_for_nothing(answered: Any) -> None:
    page = page_of(answered)
    for _, given in page.elements:
        for name in given:
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "data", "style")
        if given.get("href"):
            assert re.match(r"#|data:image/png;base64,", given["href"] or "")
        if given.get("filter"):
            assert given["filter"] == "url(#grey)"
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"link", "iframe", "object", "embed", "form", "base", "img", "video"})
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert "url(" not in page.raw["style"]
    assert "@import" not in page.raw["style"]
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|eval|import)\b", page.raw["script"])


def test_the_policy_allows_its_style_and_script_alone(answered: Any) -> None:
    page = page_of(answered)
    (policy,) = (
        given["content"] or ""
        for given in page.all("meta")
        if given.get("http-equiv") == "Content-Security-Policy"
    )
    hashes = {
        kind: base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        for kind in ("style", "script")
    }
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{hashes['style']}'",
        f"script-src 'sha256-{hashes['script']}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def hostile(result: StudyResult) -> StudyResult:
    """The text in every place that a bundle or a file can fill."""

    def words(value: Any) -> Any:
        if isinstance(value, str):
            return HOSTILE
        if isinstance(value, dict) or hasattr(value, "keys"):
            return {key: words(item) for key, item in value.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed = {f.name: words(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **changed)
        if isinstance(value, tuple):
            return tuple(words(item) for item in value)
        return value

    localization = result.localization
    assert localization is not None
    marks = tuple(dataclasses.replace(mark, label=HOSTILE) for mark in localization.marks)
    found = dataclasses.replace(localization, marks=marks, thresholds={HOSTILE: 0.4})
    report = result.report
    assert report is not None
    sections = tuple(
        dataclasses.replace(one, title=HOSTILE, text=HOSTILE) for one in report.report.sections
    )
    spoken = dataclasses.replace(
        report,
        report=dataclasses.replace(
            report.report, sections=sections, lexicon=words(report.report.lexicon),
            birads_estimate=HOSTILE, composition=HOSTILE,
        ),
        flags=tuple(dataclasses.replace(flag, detail=HOSTILE) for flag in report.flags),
    )  # fmt: skip
    assert report.flags
    return dataclasses.replace(
        result,
        study_instance_uid=HOSTILE,
        notices=(HOSTILE,),
        model=words(result.model),
        software=words(result.software),
        files=tuple(dataclasses.replace(item, detail=HOSTILE) for item in result.files),
        recall=dataclasses.replace(result.recall, basis=(HOSTILE,)) if result.recall else None,
        heads={
            **result.heads,
            "localization": HeadOutcome("answered", None, None, found),
            "report": HeadOutcome("answered", None, None, spoken),
            "prognosis": HeadOutcome("not_answered", HOSTILE, HOSTILE, None),
        },
    )


def test_hostile_words_stay_words(answered: Any, tmp_path: Path) -> None:
    bundle = with_card(answered.bundle, tmp_path, HOSTILE.encode())
    page = page_of(answered, hostile(answered.result), bundle=bundle)
    plain = page_of(answered)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"p"}
    assert len(page.all("script")) == 1
    assert page.raw["script"] == plain.raw["script"]
    assert page.raw["style"] == plain.raw["style"]
    for _, given in page.elements:
        assert not any(name.startswith("on") for name in given)
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text


def test_the_same_result_gives_the_same_bytes(answered: Any) -> None:
    assert bytes_of(answered) == bytes_of(answered)


# -------------------- views and marks


def test_boxes_have_the_coordinates_of_the_result(answered: Any) -> None:
    page = page_of(answered)
    localization = answered.result.localization
    boxes = page.all("rect", "box")
    assert len(boxes) == len(localization.marks) > 3
    found = set()
    for given in boxes:
        x, y, width, height = (float(given[key] or "") for key in ("x", "y", "width", "height"))
        found.add((round(x, 6), round(y, 6), round(x + width, 6), round(y + height, 6)))
    assert found == {tuple(round(edge, 6) for edge in mark.box_px) for mark in localization.marks}


def test_pictures_are_grey_and_not_changed(answered: Any) -> None:
    page = page_of(answered)
    ramp = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
    images = page.all("image")
    assert len(images) == 4
    for given in images:
        data = base64.b64decode((given["href"] or "").removeprefix("data:image/png;base64,"))
        with Image.open(BytesIO(data)) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), ramp)
        assert (given["width"], given["height"]) == ("478", "574")


def test_views_in_the_order_in_which_they_hang(answered: Any) -> None:
    views = [given["data-view"] for given in page_of(answered).all("figure")]
    assert views == ["R-CC", "L-CC", "R-MLO", "L-MLO"]


def test_a_missing_view_has_its_place_and_its_reason(answered: Any) -> None:
    result = without(answered.result, "R-MLO", "L-CC")
    refused = FileDecision(9, None, False, "R-MLO", "pixels_unusable", "its pixels are cut off")
    page = page_of(answered, dataclasses.replace(result, files=(*result.files, refused)))
    figures = page.all("figure")
    assert [given["data-view"] for given in figures if "missing" in (given["class"] or "")] == [
        "L-CC", "R-MLO",
    ]  # fmt: skip
    assert "its pixels are cut off" in page.text
    assert "no file of the study shows it" in page.text
    assert "Views missingL-CC, R-MLO" in page.text
    assert len(page.all("image")) == 2


def test_a_view_that_was_not_searched_is_not_called_free_of_marks(answered: Any) -> None:
    page = page_of(answered, unanswered(answered.result, "localization"))
    assert page.text.count("not searched for findings") >= 4
    assert "no mark" not in page.text
    assert "No answer: for a reason of the test." in page.text


def test_no_mark_is_not_no_finding(answered: Any) -> None:
    nothing = LocalizationResult(0.4, VIEWS, (), {"mass": 0.4})  # type: ignore[arg-type]
    heads = {**answered.result.heads}
    heads["localization"] = HeadOutcome("answered", None, None, nothing)
    page = page_of(answered, dataclasses.replace(answered.result, heads=heads))
    assert "That is not the same as no finding." in page.text
    assert page.text.count("no mark.") == 4


def test_tags_do_not_cover_each_other(answered: Any) -> None:
    """Four boxes at one place: four tags, each at its own height."""
    mark = Mark("R-CC", "mass", 0.9, (350.0, 250.0, 380.0, 280.0), None)
    marks = tuple(dataclasses.replace(mark, score=0.9 - i / 10) for i in range(4))
    found = LocalizationResult(0.4, VIEWS, marks, {"mass": 0.4})  # type: ignore[arg-type]
    heads = {**answered.result.heads, "localization": HeadOutcome("answered", None, None, found)}
    page = page_of(answered, dataclasses.replace(answered.result, heads=heads))
    places = [(given["y"], given["dy"]) for given in page.all("text", "tag")]
    assert len(set(places)) == 4


def test_tags_keep_off_the_boxes_of_others(answered: Any) -> None:
    """Above the small box lies the large one: its tag stands below."""
    large = Mark("R-CC", "mass", 0.5, (200.0, 120.0, 380.0, 250.0), None)
    small = Mark("R-CC", "mass", 0.9, (350.0, 260.0, 380.0, 280.0), None)
    found = LocalizationResult(0.4, VIEWS, (small, large), {"mass": 0.4})  # type: ignore[arg-type]
    heads = {**answered.result.heads, "localization": HeadOutcome("answered", None, None, found)}
    page = page_of(answered, dataclasses.replace(answered.result, heads=heads))
    tags = {given["data-mark"]: given for given in page.all("text", "tag")}
    assert tags["1"]["y"] == "280"
    assert tags["2"]["y"] == "120"


def test_a_label_has_one_colour_in_all_studies(answered: Any) -> None:
    """Whatever is marked: the bundle's order of labels decides."""
    thresholds = {"mass": 0.4, "calcifications": 0.4}
    mark = Mark("R-CC", "calcifications", 0.9, (350.0, 250.0, 380.0, 280.0), None)
    seen = []
    for marks in ((), (mark,), (mark, dataclasses.replace(mark, label="mass"))):
        found = LocalizationResult(0.4, VIEWS, marks, thresholds)  # type: ignore[arg-type]
        heads = {**answered.result.heads}
        heads["localization"] = HeadOutcome("answered", None, None, found)
        seen.append(dict(colours(dataclasses.replace(answered.result, heads=heads))))
    assert seen[0] == seen[1] == seen[2]


def test_what_is_stored_mirrored_is_turned_and_its_boxes_with_it(answered: Any) -> None:
    mirrored = {view: ("P" if view.startswith("L") else "A", "F") for view in VIEWS}
    columns = answered.result.views[0].columns
    for orientations, transform, words in (
        (mirrored, f"matrix(-1 0 0 1 {columns} 0)", "Mirrored for hanging."),
        ({}, None, "Hung as stored: the file does not say how."),
    ):
        page = page_of(answered, orientations={v: o for v, o in orientations.items() if "MLO" in v})
        turned = [given["transform"] for given in page.all("g") if given.get("transform")]
        assert turned == ([transform] * 2 if transform else [])
        assert words in page.text


@pytest.fixture(scope="module")
def left_cc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("left")
    write_phantom(folder, seed=1, options=PhantomOptions(574, 478, 0.4))
    return folder / "L-CC.dcm"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["A", "R"], ("A", "R")),
        (["a", "fr"], ("A", "FR")),
        (["A"], None),
        (["A", "LE"], None),
        (["A", "RR"], None),
        (["A", ""], None),
        (None, None),
    ],
)
def test_patient_orientation(left_cc: Path, tmp_path: Path, value: Any, expected: Any) -> None:
    ds = pydicom.dcmread(left_cc)
    del ds.PatientOrientation
    if value is not None:
        with pydicom.config.disable_value_validation():
            ds.PatientOrientation = value
    ds.save_as(tmp_path / "L-CC.dcm")
    assert read_study(tmp_path).views["L-CC"].patient_orientation == expected


# -------------------- answers


@pytest.mark.parametrize("head", ["diagnosis", "localization", "prognosis", "report"])
def test_a_head_that_failed_is_named(answered: Any, head: str) -> None:
    page = page_of(answered, unanswered(answered.result, head))
    assert f"{head.capitalize()} headno answer: for a reason of the test" in page.text
    assert "No answer: for a reason of the test." in page.text
    assert page.text.count("No answer: ") == 1


def test_without_any_head(answered: Any) -> None:
    result = dataclasses.replace(answered.result, heads={}, recall=None)
    page = page_of(answered, result)
    assert "No suggestion" in page.text
    for head in ("diagnosis", "localization", "prognosis", "report"):
        assert f"The {head} head was not asked for." in page.text


def test_all_that_is_in_the_result_is_shown(answered: Any) -> None:
    result = answered.result
    text = page_of(answered).text
    for notice in result.notices:
        assert text.count(notice) >= 2
    for section in result.report.report.sections:
        assert section.title in text
        assert section.text in text
    for flag in result.report.flags:
        assert flag.detail in text
    for year in result.prognosis.years:
        assert f"{year.risk:.3f}" in text
        assert f"{year.score:.3f}" in text
    for mark in result.localization.marks:
        assert f"{mark.score:.3f}" in text
    for item in result.files:
        assert item.detail in text
        assert item.sop_instance_uid is None or item.sop_instance_uid in text
    assert result.model.sha256 in text
    assert "Demonstration of the software only" in text  # the model card
    assert result.recall.suggested is ("Recall suggested" in text)


def test_many_files_are_counted(answered: Any) -> None:
    more = tuple(
        FileDecision(i, None, False, None, "not_dicom", "not a DICOM file") for i in range(6, 1000)
    )
    result = dataclasses.replace(answered.result, files=(*answered.result.files, *more))
    text = page_of(answered, result).text
    assert "999 seen, 4 used" in text
    assert "And 699 more that were not used" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "It counts as yes from 0.5 on, and a study that reaches it is suggested for recall."),
        ({"recall": False}, "It counts as yes from 0.5 on."),
        ({"threshold": None}, "The bundle sets no threshold, so it is neither yes nor no."),
        ({"breast": "max"}, "A breast has the greatest of its views, the study the mean"),
        ({"study": "max"}, "A breast has the mean of its views, the study the greatest"),
        ({"kind": "categorical", "classes": ("a", "b")}, "The most probable class of a, b"),
        ({"kind": "zero_shot", "classes": ("a", "b")}, "no probability of disease"),
    ],
)
def test_meanings_are_the_bundles(changes: dict[str, Any], words: str) -> None:
    plain = LabelSpec("malignancy", "binary", (), 0.5, "mean", "mean", True)
    assert words in label_meaning(dataclasses.replace(plain, **changes))


@pytest.mark.parametrize(
    ("greatest", "top"),
    [(0.0, 0.01), (0.004, 0.004), (0.013, 0.02), (0.35, 0.4), (0.51, 0.6), (0.9, 1.0), (1.0, 1.0)],
)
def test_scale_of_the_risk(greatest: float, top: float) -> None:
    assert scale_top(greatest) == pytest.approx(top)


def test_the_curve_goes_through_the_risks() -> None:
    years = [YearRisk(year, year / 100, year / 100) for year in range(1, 6)]
    page = Page(risk_curve(years).encode())
    points = [(float(g["cx"] or 0), float(g["cy"] or 0)) for g in page.all("circle", "risk")]
    x, y = zip(*points, strict=True)
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)
    np.testing.assert_allclose(np.diff(y), np.diff(y)[0], atol=0.11)
    assert np.diff(y)[0] < 0  # upwards


# -------------------- the model card


def with_card(bundle: Any, folder: Path, data: bytes) -> Any:
    from mammofm_lite.bundle import file_record

    (folder / "MODEL_CARD.md").write_bytes(data)
    record = file_record(folder / "MODEL_CARD.md")
    return dataclasses.replace(bundle, path=folder, files={**bundle.files, "MODEL_CARD.md": record})


def test_a_card_that_is_no_text(answered: Any, tmp_path: Path) -> None:
    bundle = with_card(answered.bundle, tmp_path, b"\xff\xfe")
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md is not UTF-8; export the bundle anew"):
        bytes_of(answered, bundle=bundle)


def test_a_card_that_is_too_large(answered: Any, tmp_path: Path) -> None:
    bundle = with_card(answered.bundle, tmp_path, b"x" * (256 * 1024 + 1))
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md is larger than"):
        bytes_of(answered, bundle=bundle)


def test_no_card(answered: Any) -> None:
    files = {k: v for k, v in answered.bundle.files.items() if k != "MODEL_CARD.md"}
    page = page_of(answered, bundle=dataclasses.replace(answered.bundle, files=files))
    assert "The bundle carries no model card: its limits are not known." in page.text


def test_the_folder_needs_the_bundle(answered: Any, tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "out", ("html",), False)
    with pytest.raises(ValueError, match="needs the bundle"):
        folder.write(answered.result, answered.study, StageReporter(None))
    assert not (tmp_path / "out").exists()

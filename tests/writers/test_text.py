"""The summary on the terminal and the report in plain text."""

import dataclasses
from typing import Any

import pytest

from mammofm_lite.results import (
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    LocalizationResult,
    Mark,
    StudyResult,
)
from mammofm_lite.writers.report_text import report_text
from mammofm_lite.writers.text import operating_points, summary

VIEWS = ("R-CC", "L-CC", "R-MLO", "L-MLO")
HEADS = ("diagnosis", "localization", "prognosis", "report")


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ({"mass": 0.2}, "0.2"),
        ({"mass": 0.195182}, "0.195"),
        ({"mass": 0.2, "calcifications": 0.2}, "0.2"),
        ({"mass": 0.3, "calcifications": 0.25}, "0.3 (mass), 0.25 (calcifications)"),
    ],
)
def test_operating_points(thresholds: dict[str, float], text: str) -> None:
    answer = LocalizationResult(min(thresholds.values()), ("L-CC",), (), thresholds)
    assert operating_points(answer) == text


def without(result: StudyResult, *missing: str) -> StudyResult:
    """As if these views had not been there."""
    views = tuple(info for info in result.views if info.view not in missing)
    return dataclasses.replace(result, views=views, missing_views=missing)  # type: ignore[arg-type]


def unanswered(result: StudyResult, *heads: str) -> StudyResult:
    failed = HeadOutcome("not_answered", "missing_views", "for a reason of the test", None)
    return dataclasses.replace(result, heads={**result.heads, **dict.fromkeys(heads, failed)})


def with_answer(result: StudyResult, head: str, answer: Any) -> StudyResult:
    outcome = HeadOutcome("answered", None, None, answer)
    return dataclasses.replace(result, heads={**result.heads, head: outcome})


# -------------------- the summary


def test_the_summary_is_short_and_aligned(answered: Any) -> None:
    lines = summary(answered.result).splitlines()
    told = len(answered.result.report.flags) + len(answered.result.notices)
    labels = answered.result.localization.thresholds  # a line each
    assert len(lines) - told - len(labels) <= 14
    assert all(line == line.rstrip() for line in lines)
    titles = next(line for line in lines if "right breast" in line)
    columns = [titles.index(word) for word in ("study", "right", "left")]
    for name in ("malignancy", "density", "mass", "calcifications"):
        row = next(line for line in lines if line.startswith(name))
        for column in columns:
            assert row[column] != " "
            assert row[column - 1] == " "


def test_long_names_keep_the_columns(answered: Any) -> None:
    long = "a label with quite a long name"
    score = LabelScore(long, {"yes": 0.25}, None, None)
    result = with_answer(
        answered.result, "diagnosis", DiagnosisResult({}, {"R": (score,), "L": (score,)}, (score,))
    )
    lines = summary(result).splitlines()
    titles = next(line for line in lines if "right breast" in line)
    assert f"{long} 0.250" in summary(result)
    assert titles.index("study") == len(long) + 1


def test_the_summary_says_what_is_missing(answered: Any) -> None:
    assert "Missing" not in summary(answered.result)
    assert "NO ANSWER" not in summary(answered.result)
    partly = summary(without(answered.result, "L-CC", "R-MLO"))
    assert "Views        R-CC  L-MLO\n" in partly
    assert "! Missing    L-CC  R-MLO  (nothing is said of a missing view)\n" in partly
    one_side = summary(without(answered.result, "L-CC", "L-MLO"))
    assert "right breast" in one_side
    assert "left breast" not in one_side.split("Suggestion")[0]


@pytest.mark.parametrize("head", HEADS)
def test_the_summary_names_a_head_that_failed(answered: Any, head: str) -> None:
    told = summary(unanswered(answered.result, head))
    assert f"\n! {head:<10} NO ANSWER: for a reason of the test\n" in told


def test_the_summary_without_a_decision(answered: Any) -> None:
    told = summary(dataclasses.replace(answered.result, recall=None))
    assert "\nSuggestion   none: no head that decides on recall answered\n" in told


# -------------------- the report


def test_the_report_has_its_parts_in_order(answered: Any) -> None:
    text = report_text(answered.result)
    parts = [
        "MAMMOGRAPHY REPORT, DRAFTED BY A MODEL",
        "EXAM",
        "TECHNIQUE",
        "BREAST COMPOSITION",
        "FINDINGS: RIGHT BREAST",
        "FINDINGS: LEFT BREAST",
        "RISK",
        "IMPRESSION, BY THE MODEL",
        "LIMITS",
    ]
    places = [text.index(f"\n{part}\n") for part in parts]
    assert places == sorted(places)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.endswith("\n")


def spoken(text: str) -> str:
    """Without line breaks and columns."""
    return " ".join(text.split())


def test_all_that_was_answered_is_in_the_report(answered: Any) -> None:
    result = answered.result
    text = spoken(report_text(result))
    for section in result.report.report.sections:
        if section.name not in ("comparison", "assessment"):
            assert section.text in text
    for flag in result.report.flags:
        assert flag.detail in text
    for year in result.prognosis.years:
        assert f"Within {year.year} year{'s' if year.year > 1 else ''} {year.risk:.3f}" in text
    for mark in [mark for view in VIEWS for mark in marks_of(result, view)[:5]]:
        x1, y1, x2, y2 = mark.box_px
        assert f"{mark.label.replace('_', ' ')} {mark.score:.2f}" in text
        assert f"(columns {x1:.0f} to {x2:.0f}, rows {y1:.0f} to {y2:.0f})" in text
    for notice in result.notices:
        assert notice.upper() in text
        assert notice in text
    assert f"BI-RADS {result.report.report.birads_estimate} (an estimate, not an" in text
    assert "5 seen, 4 used 1 not used: not a DICOM file" in text


def marks_of(result: StudyResult, view: str) -> list[Mark]:
    assert result.localization
    return [mark for mark in result.localization.marks if mark.view == view]


def test_marks_stand_with_their_breast(answered: Any) -> None:
    text = report_text(answered.result)
    right = text[text.index("FINDINGS: RIGHT") : text.index("FINDINGS: LEFT")]
    left = text[text.index("FINDINGS: LEFT") : text.index("\nRISK")]
    assert "R-CC" in right
    assert "L-" not in right
    assert "L-CC" in left
    assert "R-" not in left


def test_the_report_on_a_breast_without_views(answered: Any) -> None:
    text = spoken(report_text(without(answered.result, "L-CC", "L-MLO")))
    assert "FINDINGS: LEFT BREAST Not imaged Nothing can be said of this breast. RISK" in text
    assert "Views missing L-CC, L-MLO: nothing is said of them." in text


@pytest.mark.parametrize(
    ("head", "times"), [("diagnosis", 2), ("localization", 2), ("prognosis", 1), ("report", 4)]
)
def test_where_a_head_failed_the_report_says_so(answered: Any, head: str, times: int) -> None:
    """Wherever it would have been quoted; nothing is put in its place."""
    text = spoken(report_text(unanswered(answered.result, head)))
    assert text.count(f"NO ANSWER of the {head} head: for a reason of the test.") == times


def test_heads_that_were_not_asked(answered: Any) -> None:
    result = dataclasses.replace(answered.result, heads={}, recall=None)
    text = spoken(report_text(result))
    for head in HEADS:
        assert f"not asked: the {head} head was left out." in text
    assert "Suggestion none: no head that decides on recall answered." in text


def test_a_view_without_marks(answered: Any) -> None:
    searched = LocalizationResult(0.4, ("R-CC",), (), {"mass": 0.4})
    text = spoken(report_text(with_answer(answered.result, "localization", searched)))
    assert text.count("none from 0.4 on") == 1  # the other views were not searched
    assert "No mark and no finding is not the same as no disease." in text


def test_many_marks_are_counted(answered: Any) -> None:
    first = answered.result.localization.marks[0]
    marks = tuple(dataclasses.replace(first, score=0.9 - i / 100) for i in range(9))
    answer = dataclasses.replace(answered.result.localization, marks=marks)
    text = report_text(with_answer(answered.result, "localization", answer))
    assert "and 4 more, with lower scores" in text


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (LabelScore("x", {"yes": 0.5}, "yes", 0.4), "0.500 (at or above the threshold of 0.4)"),
        (LabelScore("x", {"yes": 0.25}, "no", 0.4), "0.250 (below the threshold of 0.4)"),
        (LabelScore("x", {"yes": 0.25}, "no", 0.349183), "0.250 (below the threshold of 0.349)"),
        (LabelScore("x", {"yes": 0.25}, None, None), "0.250 (no threshold is set)"),
        (LabelScore("x", {"a": 0.75, "b": 0.25}, "a", None), "a (probability 0.75)"),
    ],
)
def test_scores_in_words(answered: Any, score: LabelScore, words: str) -> None:
    answer = DiagnosisResult({}, {"R": (score,), "L": (score,)}, (score,))
    assert f"X {words}" in spoken(report_text(with_answer(answered.result, "diagnosis", answer)))

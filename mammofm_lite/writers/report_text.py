"""``result.txt``: the report in plain text, laid out as a radiologist lays one out.

Exam, technique, composition, findings by side, impression with assessment and recommendation, all
as the model's estimate; then limits. What a head did not answer is said where it would stand.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..deviations import DEVIATIONS
from ..results import LabelScore, Mark, ReportResult, StudyResult
from ..views import Laterality, ViewName, laterality
from ._hanging import HANGING
from ._meaning import label_title, marks_meaning, plain_label, risk_meaning, threshold_text
from .text import operating_points, study_uid

__all__ = ["report_text"]

_WIDTH: Final = 80
_NAMES: Final = 16  # width of the names before what is said
_LISTED_MARKS: Final = 5  # per view; result.json has all
_SIDES: Final[tuple[tuple[Laterality, str, str], ...]] = (
    ("R", "Right breast", "right_breast"),
    ("L", "Left breast", "left_breast"),
)


def report_text(result: StudyResult) -> str:
    """The whole report; lines of at most 80 characters where words allow, newline at the end."""
    blocks = [
        _title(result),
        _block("EXAM", _exam(result)),
        _block("TECHNIQUE", _technique(result)),
        _block("BREAST COMPOSITION", _composition(result)),
        *(_block(f"FINDINGS: {name.upper()}", _side(result, side, section))
          for side, name, section in _SIDES),
        _block("RISK", _risk(result)),
        _block("IMPRESSION, BY THE MODEL", _impression(result)),
        _block("LIMITS", _limits(result)),
    ]  # fmt: skip
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _title(result: StudyResult) -> list[str]:
    rule = "=" * _WIDTH
    lines = [line for notice in result.notices for line in _wrapped(notice.upper(), "")]
    return [rule, "MAMMOGRAPHY REPORT, DRAFTED BY A MODEL", *lines, rule]


def _block(title: str, lines: Iterator[str]) -> list[str]:
    return [title, *lines]


def _wrapped(text: str, indent: str, hanging: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _said(name: str, text: str) -> Iterator[str]:
    """A name, and what is said of it in a column of its own."""
    indent = " " * (2 + _NAMES)
    yield from _wrapped(text, f"  {name:<{_NAMES}}", indent)


# -------------------- exam and technique


def _exam(result: StudyResult) -> Iterator[str]:
    used = sum(item.used for item in result.files)
    yield from _said("Study", study_uid(result))
    yield from _said("Files", f"{len(result.files)} seen, {used} used")
    refused = Counter(item.detail for item in result.files if not item.used)
    for detail, count in refused.most_common():
        yield from _said("", f"{count} not used: {detail}")
    yield from _said("Comparison", "None. No earlier examination and no history was read.")


def _technique(result: StudyResult) -> Iterator[str]:
    shown = {info.view for info in result.views}
    yield from _said("Views read", ", ".join(_in_order(shown)))
    missing = ", ".join(_in_order(set(result.missing_views)))
    yield from _said("Views missing", f"{missing}: nothing is said of them." if missing else "none")
    for info in sorted(result.views, key=lambda one: HANGING.index(one.view)):
        for code in info.deviations:
            yield from _said(info.view, f"{DEVIATIONS[code]}.")
    model, software = result.model, result.software
    yield from _said(
        "Read by",
        f"{model.name} {model.version} ({model.precision}, SHA-256 {model.sha256[:12]}), "
        f"mammofm-lite {software.mammofm_lite}, OpenVINO {software.openvino}",
    )


def _in_order(views: set[ViewName]) -> list[ViewName]:
    return [view for view in HANGING if view in views]


# -------------------- what was found


def _unanswered(result: StudyResult, head: str) -> str:
    outcome = result.heads.get(head)
    if outcome is None:
        return f"not asked: the {head} head was left out."
    return f"NO ANSWER of the {head} head: {outcome.detail}."


def _section(answer: ReportResult, name: str) -> str | None:
    return next((one.text for one in answer.report.sections if one.name == name), None)


def _composition(result: StudyResult) -> Iterator[str]:
    if result.report is None:
        yield from _said("Report", _unanswered(result, "report"))
    else:
        told = _section(result.report, "composition") or result.report.report.composition
        yield from _said("Report", told)
    for score in result.diagnosis.study if result.diagnosis else ():
        if score.label == "density":
            yield from _said("Diagnosis head", f"density {_score(score)}")


def _side(result: StudyResult, side: Laterality, section: str) -> Iterator[str]:
    if not any(laterality(info.view) == side for info in result.views):
        yield from _said("Not imaged", "Nothing can be said of this breast.")
        return
    if result.report is None:
        yield from _said("Report", _unanswered(result, "report"))
    else:
        yield from _said("Report", _section(result.report, section) or "says nothing of it.")
    yield from _marks(result, side)
    if result.diagnosis is None:
        yield from _said("Scores", _unanswered(result, "diagnosis"))
    for score in result.diagnosis.breasts[side] if result.diagnosis else ():
        yield from _said(label_title(score.label), _score(score))


def _score(score: LabelScore) -> str:
    if "yes" not in score.probabilities:
        return f"{score.value} (probability {score.probabilities[score.value or '']:.2f})"
    if score.threshold is None:
        return f"{score.probabilities['yes']:.3f} (no threshold is set)"
    limit = threshold_text(score.threshold)
    where = "at or above" if score.value == "yes" else "below"
    return f"{score.probabilities['yes']:.3f} ({where} the threshold of {limit})"


def _marks(result: StudyResult, side: Laterality) -> Iterator[str]:
    answer = result.localization
    if answer is None:
        yield from _said("Marks", _unanswered(result, "localization"))
        return
    searched = [v for v in _in_order(set(answer.views_searched)) if laterality(v) == side]
    for view in searched:
        marks = [mark for mark in answer.marks if mark.view == view]
        if not marks:
            yield from _said(f"Marks {view}", f"none from {operating_points(answer)} on")
        for index, mark in enumerate(marks[:_LISTED_MARKS]):
            yield from _said("" if index else f"Marks {view}", _mark(mark))
        if len(marks) > _LISTED_MARKS:
            yield from _said("", f"and {len(marks) - _LISTED_MARKS} more, with lower scores")


def _mark(mark: Mark) -> str:
    x1, y1, x2, y2 = mark.box_px
    size = ""
    if mark.box_mm:
        size = f", {mark.box_mm[2] - mark.box_mm[0]:.0f} x {mark.box_mm[3] - mark.box_mm[1]:.0f} mm"
    place = f"columns {x1:.0f} to {x2:.0f}, rows {y1:.0f} to {y2:.0f}"
    return f"{plain_label(mark.label)} {mark.score:.2f}{size} ({place})"


def _risk(result: StudyResult) -> Iterator[str]:
    if result.prognosis is None:
        yield from _said("Prognosis", _unanswered(result, "prognosis"))
        return
    for item in result.prognosis.years:
        yield from _said(f"Within {item.year} year{'s' * (item.year != 1)}", f"{item.risk:.3f}")


# -------------------- impression and limits


def _impression(result: StudyResult) -> Iterator[str]:
    answer = result.report
    if answer is None:
        yield from _said("BI-RADS", _unanswered(result, "report"))
        yield from _said("Recommendation", "none: it is the report head that gives one.")
    else:
        category = answer.report.birads_estimate
        estimate = "left open, because views are missing" if category is None else category
        yield from _said("BI-RADS", f"{estimate} (an estimate, not an assessment)")
        advice = _section(answer, "management") or plain_label(answer.report.management)
        yield from _said("Recommendation", advice)
    yield from _said("Suggestion", _suggestion(result))
    for index, flag in enumerate(answer.flags if answer else ()):
        yield from _said("" if index else "Heads disagree", f"{flag.detail}.")


def _suggestion(result: StudyResult) -> str:
    if result.recall is None:
        return "none: no head that decides on recall answered."
    word = "RECALL" if result.recall.suggested else "no recall"
    return f"{word} ({'; '.join(result.recall.basis)})"


def _limits(result: StudyResult) -> Iterator[str]:
    if result.report:
        lexicon = result.report.report.lexicon
        yield from _item(f"Terms of the report: {lexicon.name}, {lexicon.edition}.")
    if result.localization:
        yield from _item(marks_meaning(result.localization))
    if result.prognosis:
        yield from _item(risk_meaning(result.prognosis))
    yield from _item("No mark and no finding is not the same as no disease.")
    yield from _item(f"Intended use: {result.model.intended_use}")
    yield from _item(f"Licence of the weights: {result.model.weights_licence}.")
    for notice in result.notices:
        yield from _item(notice)


def _item(text: str) -> list[str]:
    return _wrapped(text, "  - ", "    ")

"""The summary a person reads: what was asked, what was answered, what is missing."""

from collections.abc import Iterator, Mapping

from ..ask import AskResult
from ..deviations import DEVIATIONS
from ..results import (
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    LocalizationResult,
    Mark,
    PrognosisResult,
    ReportResult,
    StudyResult,
)

__all__ = ["header", "operating_points", "summary"]

LISTED_MARKS = 5  # per view; result.json has all
SIDES: Mapping[str, str] = {"R": "right breast", "L": "left breast"}


def summary(result: StudyResult) -> str:
    """The whole result in plain text, one short block per head; ends with a newline."""
    lines = [*header(result), ""]
    for name, outcome in result.heads.items():
        lines += [name.upper(), *(f"  {line}" for line in _head(outcome)), ""]
    lines += [*_decision(result), ""]
    lines += [f"! {notice}" for notice in result.notices]
    return "\n".join(lines) + "\n"


def header(result: StudyResult | AskResult) -> Iterator[str]:
    """Which study, views and files, which model, on which machine."""
    model, software = result.model, result.software
    yield f"Study     {result.study_instance_uid}"
    views = ", ".join(info.view for info in result.views)
    missing = f"   missing: {', '.join(result.missing_views)}" if result.missing_views else ""
    yield f"Views     {views}{missing}"
    used = sum(decision.used for decision in result.files)
    yield f"Files     {len(result.files)} seen, {used} used"
    for reason, count in _reasons(result).items():
        yield f"          {count} not used: {reason.replace('_', ' ')}"
    for info in result.views:
        for code in info.deviations:
            yield f"Deviation {info.view}: {DEVIATIONS[code]}"
    yield f"Model     {model.name} {model.version} ({model.precision}, sha256 {model.sha256[:12]})"
    yield (
        f"Machine   {software.cpu}, {software.threads} threads, {software.instruction_set}, "
        f"OpenVINO {software.openvino}"
    )


def _reasons(result: StudyResult | AskResult) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for decision in result.files:
        if not decision.used:
            counts[decision.reason] = counts.get(decision.reason, 0) + 1
    return counts


def _head(outcome: HeadOutcome) -> Iterator[str]:
    answer = outcome.result
    if isinstance(answer, DiagnosisResult):
        yield from _diagnosis(answer)
    elif isinstance(answer, LocalizationResult):
        yield from _localization(answer)
    elif isinstance(answer, PrognosisResult):
        yield from _prognosis(answer)
    elif isinstance(answer, ReportResult):
        yield from _report(answer)
    else:
        yield f"no answer: {outcome.detail}"


def _diagnosis(answer: DiagnosisResult) -> Iterator[str]:
    columns = [("study", answer.study)]
    columns += [
        (SIDES[side], answer.breasts[side]) for side in ("R", "L") if side in answer.breasts
    ]
    yield f"{'':<26} " + "".join(f"{name:<22}" for name, _ in columns).rstrip()
    for index, score in enumerate(answer.study):
        cells = (f"{_score(scores[index]):<22}" for _, scores in columns)
        yield f"{score.label:<26} " + "".join(cells).rstrip()


def _score(score: LabelScore) -> str:
    if "yes" in score.probabilities:
        above = f" (at least {score.threshold:g})" if score.value == "yes" else ""
        return f"{score.probabilities['yes']:.3f}{above}"
    return f"{score.value} ({score.probabilities[score.value or '']:.2f})"


def _localization(answer: LocalizationResult) -> Iterator[str]:
    searched = ", ".join(answer.views_searched)
    if not answer.marks:
        yield f"no mark at or above {operating_points(answer)} in {searched}"
    for view in answer.views_searched:
        marks = [mark for mark in answer.marks if mark.view == view]
        yield from (_mark(mark) for mark in marks[:LISTED_MARKS])
        if len(marks) > LISTED_MARKS:
            yield f"{view:<6} and {len(marks) - LISTED_MARKS} more, with lower scores"


def operating_points(answer: LocalizationResult) -> str:
    """One number where all labels share it, and otherwise one for every label."""
    if len(set(answer.thresholds.values())) == 1:
        return f"{answer.threshold:g}"
    return ", ".join(f"{value:g} ({label})" for label, value in answer.thresholds.items())


def _mark(mark: Mark) -> str:
    x1, y1, x2, y2 = mark.box_px
    size = ""
    if mark.box_mm:
        width, height = mark.box_mm[2] - mark.box_mm[0], mark.box_mm[3] - mark.box_mm[1]
        size = f"  {width:.0f} x {height:.0f} mm"
    box = f"columns {x1:.0f} to {x2:.0f}, rows {y1:.0f} to {y2:.0f}"
    return f"{mark.view:<6} {mark.label:<26} {mark.score:.3f}  {box}{size}"


def _prognosis(answer: PrognosisResult) -> Iterator[str]:
    yield "   ".join(f"year {item.year}: {item.risk:.3f}" for item in answer.years)
    yield f"from the asymmetry of {' and '.join(answer.projections_used)}"


def _report(answer: ReportResult) -> Iterator[str]:
    for section in answer.report.sections:
        yield f"{section.title}: {section.text}"
    for flag in answer.flags:
        yield f"! {flag.detail}"


def _decision(result: StudyResult) -> Iterator[str]:
    if result.recall is None:
        yield "SUGGESTION  none: no head that decides on recall answered"
        return
    word = "recall" if result.recall.suggested else "no recall"
    yield f"SUGGESTION  {word}  ({'; '.join(result.recall.basis)})"

"""The summary on the terminal: what was asked, what was answered, what is missing."""

from collections.abc import Iterator, Mapping
from typing import Final

from ..ask import AskResult
from ..deviations import DEVIATIONS
from ..results import (
    LabelScore,
    LocalizationResult,
    PrognosisResult,
    ReportResult,
    SoftwareInfo,
    StudyResult,
)
from ..views import Laterality, laterality
from ._hanging import HANGING
from ._meaning import plain_label, threshold_text

__all__ = ["header", "machine", "operating_points", "study_uid", "summary"]

_NAMES: Final = 12  # width of the names on the left
_COLUMN: Final = 16
_SIDES: Final[Mapping[Laterality, str]] = {"R": "right breast", "L": "left breast"}

_Row = tuple[str, list[str], str]  # name, cells, what they mean


def summary(result: StudyResult) -> str:
    """The whole result in a few aligned lines; ends with a newline.

    First what the study is and lacks, then a column each for the study and both breasts, then what
    is suggested. `report_text.report_text` has the report in full.
    """
    lines = [*header(result), "", *_Table(result).lines(), *_unanswered(result), ""]
    lines += _decision(result)
    lines += [f"! {notice}" for notice in result.notices]
    return "\n".join(lines) + "\n"


def _line(name: str, text: str) -> str:
    return f"{name:<{_NAMES}} {text}".rstrip()


def study_uid(result: StudyResult | AskResult) -> str:
    """The study's UID; of one of arrays it may be unknown."""
    return result.study_instance_uid or "without a UID"


def header(result: StudyResult | AskResult) -> Iterator[str]:
    """Which study, views and files, which model, on which machine."""
    model, software = result.model, result.software
    yield _line("Study", study_uid(result))
    views = {info.view for info in result.views}
    missing = [view for view in HANGING if view in result.missing_views]
    yield _line("Views", "  ".join(view for view in HANGING if view in views))
    if missing:
        yield _line("! Missing", f"{'  '.join(missing)}  (nothing is said of a missing view)")
    used = sum(decision.used for decision in result.files)
    reasons = [f"{count} {reason}" for reason, count in _reasons(result).items()]
    not_used = f"; not used: {', '.join(reasons)}" if reasons else ""
    yield _line("Files", f"{len(result.files)} seen, {used} used{not_used}")
    for info in result.views:
        for code in info.deviations:
            yield _line("Deviation", f"{info.view}: {DEVIATIONS[code]}")
    yield _line(
        "Model", f"{model.name} {model.version} ({model.precision}, sha256 {model.sha256[:12]})"
    )
    yield _line("Machine", f"{machine(software)}, OpenVINO {software.openvino}")


def machine(software: SoftwareInfo) -> str:
    """CPU, threads, and what our kernels run."""
    kernels = software.instruction_set
    if software.attention == "int8":
        kernels += ", attention in INT8"
    return f"{software.cpu}, {software.threads} threads, {kernels}"


def _reasons(result: StudyResult | AskResult) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for decision in result.files:
        if not decision.used:
            words = decision.reason.replace("_", " ")
            counts[words] = counts.get(words, 0) + 1
    return counts


# -------------------- the table


class _Table:
    """A column each for the study and the breasts, a row for every label; then risk and report."""

    def __init__(self, result: StudyResult) -> None:
        shown = {laterality(info.view) for info in result.views}
        self._sides = [side for side in _SIDES if side in shown]
        self._diagnosis, self._localization = result.diagnosis, result.localization
        self._prognosis, self._report = result.prognosis, result.report

    def lines(self) -> Iterator[str]:
        rows = [*self._scores(), *self._marks()]
        if rows:
            rows.insert(0, ("", ["study", *(_SIDES[side] for side in self._sides)], ""))
        rows += [*_risk(self._prognosis), *_report(self._report)]
        width = max((_NAMES, *(len(name) for name, _, _ in rows)))
        for name, cells, note in rows:
            columns = "".join(f"{cell:<{_COLUMN}}" for cell in cells)
            yield f"{name:<{width}} {columns}{note}".rstrip()

    def _scores(self) -> Iterator[_Row]:
        answer = self._diagnosis
        for index, score in enumerate(answer.study if answer else ()):
            assert answer is not None
            cells = [score, *(answer.breasts[side][index] for side in self._sides)]
            note = (
                "" if score.threshold is None else f"yes from {threshold_text(score.threshold)} on"
            )
            yield plain_label(score.label), [_score(cell) for cell in cells], note

    def _marks(self) -> Iterator[_Row]:
        """How many marks of every label; the places are in the report and in result.json."""
        answer = self._localization
        for label, threshold in answer.thresholds.items() if answer else ():
            assert answer is not None
            mine = [laterality(mark.view) for mark in answer.marks if mark.label == label]
            counts = [len(mine), *(mine.count(side) for side in self._sides)]
            cells = [f"{count} marks" if count != 1 else "1 mark" for count in counts]
            yield plain_label(label), cells, f"scores from {threshold_text(threshold)} on"


def _score(score: LabelScore) -> str:
    if "yes" in score.probabilities:
        return f"{score.probabilities['yes']:.3f} {score.value or ''}".rstrip()
    return f"{score.value} ({score.probabilities[score.value or '']:.2f})"


def operating_points(answer: LocalizationResult) -> str:
    """One number where all labels share it, and otherwise one for every label."""
    if len(set(answer.thresholds.values())) == 1:
        return threshold_text(answer.threshold)
    return ", ".join(
        f"{threshold_text(value)} ({label})" for label, value in answer.thresholds.items()
    )


# -------------------- below it


def _risk(answer: PrognosisResult | None) -> Iterator[_Row]:
    if answer:
        yield "risk", [], "   ".join(f"{item.year} y: {item.risk:.3f}" for item in answer.years)


def _report(answer: ReportResult | None) -> Iterator[_Row]:
    if answer:
        report = answer.report
        estimate = report.birads_estimate or "left open, views are missing"
        told = f"{estimate} (the model's estimate); composition {report.composition}"
        yield "BI-RADS", [], told


def _unanswered(result: StudyResult) -> Iterator[str]:
    for name, outcome in result.heads.items():
        if outcome.result is None:
            yield _line(f"! {name}", f"NO ANSWER: {outcome.detail}")


def _decision(result: StudyResult) -> Iterator[str]:
    if result.recall is None:
        yield _line("Suggestion", "none: no head that decides on recall answered")
    else:
        word = "RECALL" if result.recall.suggested else "no recall"
        yield _line("Suggestion", f"{word}  ({'; '.join(result.recall.basis)})")
    if result.report and result.report.flags:
        yield from _disagreements(result.report)


def _disagreements(answer: ReportResult) -> Iterator[str]:
    for flag in answer.flags:
        yield _line("! Disagree", flag.detail)

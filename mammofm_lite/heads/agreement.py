"""Where the report and the other heads disagree: told, never smoothed over."""

from collections.abc import Iterator, Mapping
from typing import Final

from ..bundle import Bundle, DiagnosisSpec
from ..results import (
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    LocalizationResult,
    ReportFlag,
    ReportResult,
)
from ..views import Laterality, laterality
from .diagnosis import recall_basis

__all__ = ["report_flags"]

_SIDES: Final[Mapping[Laterality, str]] = {"R": "right", "L": "left"}
# What a mark of this label may be called in a report; in a single view a mass and a focal asymmetry
# are an asymmetry.
_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "mass": frozenset({"mass", "asymmetry", "focal_asymmetry"}),
    "calcifications": frozenset({"calcifications"}),
    "architectural_distortion": frozenset({"architectural_distortion"}),
    "focal_asymmetry": frozenset({"focal_asymmetry", "asymmetry"}),
    "intramammary_lymph_node": frozenset({"intramammary_lymph_node"}),
}


def report_flags(
    bundle: Bundle, report: ReportResult, outcomes: Mapping[str, HeadOutcome]
) -> tuple[ReportFlag, ...]:
    """Compare a report with the heads that answered.

    Recall against the diagnosis head's recall labels, composition against its ``density`` label,
    findings of a breast against the marks in its views, label by label. A head that did not
    answer, or does not know a term, cannot disagree.
    """
    flags: list[ReportFlag] = []
    diagnosis = _result(outcomes, "diagnosis")
    if bundle.diagnosis and isinstance(diagnosis, DiagnosisResult):
        flags += _against_diagnosis(bundle.diagnosis, diagnosis, report)
    localization = _result(outcomes, "localization")
    if bundle.localization and isinstance(localization, LocalizationResult):
        for label in bundle.localization.labels:
            flags += _against_marks(label, localization, report)
    return tuple(flags)


def _result(outcomes: Mapping[str, HeadOutcome], name: str) -> object:
    return outcomes[name].result if name in outcomes else None


def _against_diagnosis(
    spec: DiagnosisSpec, diagnosis: DiagnosisResult, report: ReportResult
) -> Iterator[ReportFlag]:
    above = recall_basis(spec, diagnosis)
    if above is not None and bool(above) != report.report.recall:
        says = "suggests recall" if report.report.recall else "suggests no recall"
        found = ", ".join(above) or "no label that asks for recall"
        yield ReportFlag(
            "recall_differs", f"the report {says}; the diagnosis head has {found} above threshold"
        )
    density = next((score for score in diagnosis.study if score.label == "density"), None)
    if density and density.value != report.report.composition:
        yield ReportFlag("composition_differs", _composition(density, report))


def _composition(density: LabelScore, report: ReportResult) -> str:
    return (
        f"the report calls the composition {report.report.composition}; "
        f"the diagnosis head says {density.value}"
    )


def _against_marks(
    label: str, localization: LocalizationResult, report: ReportResult
) -> Iterator[ReportFlag]:
    term = _term(label)
    if term is None:
        return
    searched = {laterality(view) for view in localization.views_searched}
    marked = {laterality(mark.view) for mark in localization.marks if mark.label == label}
    for side, breast in report.report.breasts.items():
        if side not in searched:
            continue
        kinds = {finding.kind for finding in breast.findings}
        if term in kinds and side not in marked:
            yield ReportFlag(
                "finding_without_mark",
                f"the report describes {_in_words(term)} in the {_SIDES[side]} breast; "
                f"the localization head marks no {label} there",
            )
        if side in marked and not kinds & _KINDS[term]:
            yield ReportFlag(
                "mark_without_finding",
                f"the localization head marks {label} in the {_SIDES[side]} breast; "
                f"the report describes none",
            )


def _term(label: str) -> str | None:
    """The report's term for a label of the localization head, if there is one."""
    words = _in_words(label.lower())
    if "calcification" in words:
        return "calcifications"
    return next((term for term in _KINDS if _in_words(term) == words), None)


def _in_words(term: str) -> str:
    return term.replace("_", " ")

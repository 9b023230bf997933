"""One study: what is known of a phantom beside what a bundle answered."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mammofm_lite.bundle import Bundle
from mammofm_lite.heads.diagnosis import recall_basis
from mammofm_lite.results import LocalizationResult, Mark, StudyResult
from mammofm_lite.views import laterality

from .metrics import FALSE_MARK, Scores, match_marks

__all__ = [
    "Known",
    "Record",
    "Target",
    "findings_of_report",
    "findings_of_truth",
    "record_of",
    "unflagged_contradictions",
]

FindingKey = tuple[str, str, str]
"""Kind, side, location."""

_NO_HIT: Final = float("-inf")
_KINDS: Final = (
    "mass",
    "calcifications",
    "architectural_distortion",
    "focal_asymmetry",
    "intramammary_lymph_node",
)
# What one view alone shows of a mass or a focal asymmetry is reported as an asymmetry.
_SAME_FINDING: Final[Mapping[str, frozenset[str]]] = {
    "mass": frozenset({"mass", "asymmetry", "focal_asymmetry"}),
    "focal_asymmetry": frozenset({"focal_asymmetry", "asymmetry"}),
}


@dataclass(frozen=True)
class Known:
    """The truth of a study, as far as it is measured; see `mammofm_lite.phantom.PhantomTruth`."""

    seed: int
    density: str
    malignant: bool
    recall: bool
    years_to_cancer: float | None
    risk_by_year: tuple[float, ...]
    findings: tuple[FindingKey, ...]


@dataclass(frozen=True)
class Target:
    """One lesion in one view, of a kind that the localization head's labels cover.

    `score` is that of the mark that hits it, ``-inf`` where none does; `found` is whether a mark
    at the bundle's own threshold hits it, and `named` whether that mark's label is its kind.
    """

    lesion: int
    kind: str
    malignant: bool
    diameter_mm: float
    score: float
    found: bool
    named: bool


@dataclass(frozen=True)
class Record:
    """One study; a head that did not answer leaves ``None``.

    Attributes
    ----------
    breast_cm2
        Size of the breasts: mean area of the cropped views, known because pixel spacing is.
    false_scores
        Scores of the false marks, of the localization head without its threshold.
    false_marks
        How many stand at the bundle's threshold.
    contradictions, unflagged
        Disagreements of the report with other heads, and those of them that carry no flag.
    """

    known: Known
    breast_cm2: float
    malignancy: float | None
    density: str | None
    suggested: bool | None
    images: int
    targets: tuple[Target, ...]
    false_scores: tuple[float, ...]
    false_marks: int
    report_recall: bool | None
    findings: tuple[FindingKey, ...] | None
    contradictions: int
    unflagged: int
    risks: Mapping[int, float] | None

    @property
    def scores(self) -> Scores:
        return Scores(self.false_scores, [target.score for target in self.targets], self.images)


def record_of(
    truth: Any, result: StudyResult, wide: LocalizationResult | None, bundle: Bundle
) -> Record:
    """Lay a bundle's answer beside the truth.

    Parameters
    ----------
    truth
        The study's `PhantomTruth`.
    result
        The bundle's answer to all heads; without the report where none could be parsed.
    wide
        The localization head's answer with its threshold lowered; ``None`` where there is no head.
    """
    diagnosis = {score.label: score for score in result.diagnosis.study} if result.diagnosis else {}
    malignancy, density = diagnosis.get("malignancy"), diagnosis.get("density")
    targets, false_scores, false_marks = _localized(truth, result.localization, wide, bundle)
    report = result.report.report if result.report else None
    contradictions = list(_contradictions(bundle, result))
    return Record(
        known=_known(truth),
        breast_cm2=_breast_cm2(result),
        malignancy=malignancy.probabilities["yes"] if malignancy else None,
        density=density.value if density else None,
        suggested=result.recall.suggested if result.recall else None,
        images=len(result.localization.views_searched) if result.localization else 0,
        targets=targets,
        false_scores=false_scores,
        false_marks=false_marks,
        report_recall=report.recall if report else None,
        findings=findings_of_report(report) if report else None,
        contradictions=len(contradictions),
        unflagged=unflagged_contradictions(bundle, result),
        risks={y.year: y.risk for y in result.prognosis.years} if result.prognosis else None,
    )


def _known(truth: Any) -> Known:
    return Known(
        seed=truth.seed,
        density=truth.density,
        malignant=truth.malignant,
        recall=truth.recall,
        years_to_cancer=truth.years_to_cancer,
        risk_by_year=tuple(truth.risk_by_year),
        findings=findings_of_truth(truth),
    )


def _breast_cm2(result: StudyResult) -> float:
    areas = []
    for view in result.views:
        geometry = view.geometry
        rows = sum(stop - start for start, stop in geometry.row_runs)
        columns = sum(stop - start for start, stop in geometry.column_runs)
        tall, wide = geometry.pixel_spacing_mm or (0.0, 0.0)
        areas.append(rows * tall * columns * wide / 100)
    return sum(areas) / len(areas)


# -------------------- localization


def kind_of_label(label: str) -> str | None:
    """The lesion kind that a label of the localization head stands for, if there is one."""
    word = label.lower().replace(" ", "_")
    if "calcification" in word:
        return "calcifications"
    return word if word in _KINDS else None


def _localized(
    truth: Any,
    at_threshold: LocalizationResult | None,
    wide: LocalizationResult | None,
    bundle: Bundle,
) -> tuple[tuple[Target, ...], tuple[float, ...], int]:
    """Targets, scores of false marks at any threshold, number of false marks at the bundle's."""
    if at_threshold is None or wide is None or bundle.localization is None:
        return (), (), 0
    covered = {kind_of_label(label) for label in bundle.localization.labels}
    targets: list[Target] = []
    false_scores: list[float] = []
    false_marks = 0
    for view in at_threshold.views_searched:
        lesions = [(i, item) for i, item in enumerate(truth.lesions) if view in item.boxes_px]
        sought = [pair for pair in lesions if pair[1].kind in covered]
        boxes = [lesion.boxes_px[view] for _, lesion in sought]
        others = [item.boxes_px[view] for _, item in lesions if item.kind not in covered]
        all_marks, marks = _of_view(wide, view), _of_view(at_threshold, view)
        all_hits = match_marks([mark.box_px for mark in all_marks], boxes, others)
        hits = match_marks([mark.box_px for mark in marks], boxes, others)
        false_scores += _scores_of(all_marks, all_hits, FALSE_MARK)
        false_marks += hits.count(FALSE_MARK)
        for place, (index, lesion) in enumerate(sought):
            score = _scores_of(all_marks, all_hits, place) or [_NO_HIT]
            labels = [m.label for m, hit in zip(marks, hits, strict=True) if hit == place]
            named = any(kind_of_label(label) == lesion.kind for label in labels)
            targets.append(_target(index, lesion, score[0], bool(labels), named))
    return tuple(targets), tuple(false_scores), false_marks


def _target(index: int, lesion: Any, score: float, found: bool, named: bool) -> Target:
    return Target(
        index, lesion.kind, lesion.malignant, float(lesion.diameter_mm), score, found, named
    )


def _of_view(result: LocalizationResult, view: str) -> list[Mark]:
    marks = (mark for mark in result.marks if mark.view == view)
    return sorted(marks, key=lambda mark: -mark.score)


def _scores_of(marks: Sequence[Mark], hits: Sequence[int], place: int) -> list[float]:
    return [mark.score for mark, hit in zip(marks, hits, strict=True) if hit == place]


# -------------------- report


def findings_of_report(report: Any) -> tuple[FindingKey, ...]:
    """Kind, side and location of every finding that a report describes."""
    return tuple(
        (finding.kind, side, finding.descriptors.get("location", ""))
        for side, breast in report.breasts.items()
        for finding in breast.findings
    )


def findings_of_truth(truth: Any) -> tuple[FindingKey, ...]:
    """The same of what was planted, in the report's words."""
    return tuple(
        (lesion.kind, lesion.laterality, location_of(lesion.quadrant)) for lesion in truth.lesions
    )


def location_of(quadrant: str) -> str:
    """A quadrant of the truth (``"upper outer"``) as the report's grammar names it."""
    word = quadrant.replace(" ", "_")
    return f"{word}_quadrant" if word.startswith(("upper_", "lower_")) else word


def unflagged_contradictions(bundle: Bundle, result: StudyResult) -> int:
    """How many disagreements of the report with the other heads no flag tells.

    Found anew from the answers, not with the code that sets the flags.
    """
    if result.report is None:
        return 0
    told = Counter(flag.code for flag in result.report.flags)
    return (Counter(_contradictions(bundle, result)) - told).total()


def _contradictions(bundle: Bundle, result: StudyResult) -> Iterator[str]:
    """The code that a flag of each disagreement should have."""
    if result.report is None:
        return
    report = result.report.report
    if bundle.diagnosis and result.diagnosis:
        above = recall_basis(bundle.diagnosis, result.diagnosis)
        if above is not None and bool(above) != report.recall:
            yield "recall_differs"
        values = {score.label: score.value for score in result.diagnosis.study}
        if values.get("density", report.composition) != report.composition:
            yield "composition_differs"
    if bundle.localization and result.localization:
        labels = {kind_of_label(label) for label in bundle.localization.labels}
        for kind in sorted(label for label in labels if label):
            yield from _against_marks(kind, result.localization, report.breasts)


def _against_marks(
    kind: str, localization: LocalizationResult, breasts: Mapping[Any, Any]
) -> Iterator[str]:
    for side, breast in breasts.items():
        if all(laterality(view) != side for view in localization.views_searched):
            continue
        described = {finding.kind for finding in breast.findings}
        marked = any(
            laterality(mark.view) == side and kind_of_label(mark.label) == kind
            for mark in localization.marks
        )
        if kind in described and not marked:
            yield "finding_without_mark"
        if marked and not described & _SAME_FINDING.get(kind, frozenset({kind})):
            yield "mark_without_finding"

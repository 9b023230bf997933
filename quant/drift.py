"""What quantization changed: in the features of encoders, and in the answers of heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mammofm_lite.errors import ExportError
from mammofm_lite.graphs import Tensors
from mammofm_lite.results import LabelScore, Mark, StudyResult

__all__ = ["HeadDrift", "OutputDrift", "head_drifts", "matched_marks", "output_drifts", "overlap"]

HeadDrift: TypeAlias = Mapping[str, float]

_PARTNERS: Final = 0.5  # IoU of two boxes that mark the same


@dataclass(frozen=True)
class OutputDrift:
    """One output of a graph against its float twin.

    Attributes
    ----------
    cosine
        The least over all views. Of two arrays of zeros it is 1, of one and another 0.
    mean_cosine
        Over all views.
    sqnr_db
        Signal to quantization noise: 10 log10 of the sum of squares of the float output over that
        of the difference, over all views together; capped at 200.
    """

    output: str
    cosine: float
    mean_cosine: float
    sqnr_db: float

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return asdict(self)


def output_drifts(
    expected: Sequence[Tensors], actual: Sequence[Tensors]
) -> tuple[OutputDrift, ...]:
    """Drift of every output, by name; both sequences hold the runs on the same inputs."""
    return tuple(
        _output_drift(name, [run[name] for run in expected], [run[name] for run in actual])
        for name in sorted(expected[0])
    )


def _output_drift(
    name: str, expected: Sequence[npt.NDArray[Any]], actual: Sequence[npt.NDArray[Any]]
) -> OutputDrift:
    signal = noise = 0.0
    cosines = []
    for one, other in zip(expected, actual, strict=True):
        x, y = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
        signal += float(x @ x)
        noise += float((x - y) @ (x - y))
        cosines.append(_cosine(x, y))
    ratio = signal / noise if noise else np.inf
    sqnr = float(np.clip(10 * np.log10(ratio), -200, 200)) if ratio else -200.0
    return OutputDrift(name, min(cosines), float(np.mean(cosines)), sqnr)


def _cosine(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norms:
        return float(x @ y) / norms
    return 1.0 if not x.any() and not y.any() else 0.0


# -------------------- answers


def head_drifts(
    expected: Sequence[StudyResult], actual: Sequence[StudyResult]
) -> dict[str, HeadDrift]:
    """Per head that answered, how far its answers moved; both hold the same studies in order.

    Raises
    ------
    ExportError
        A head answers with one bundle and not with the other.
    """
    found: dict[str, HeadDrift] = {}
    for head, measure in _MEASURES.items():
        pairs = []
        for one, other in zip(expected, actual, strict=True):
            before, after = getattr(one, head), getattr(other, head)
            if (before is None) != (after is None):
                raise ExportError(f"head {head!r} answers with one of the two bundles only")
            if before is not None:
                pairs.append((before, after))
        if pairs:
            found[head] = measure(pairs)
    return found


def _diagnosis(pairs: Sequence[tuple[Any, Any]]) -> HeadDrift:
    changes, values = [], []
    for before, after in pairs:
        for one, other in zip(_scores(before), _scores(after), strict=True):
            changes += [
                abs(value - other.probabilities[name]) for name, value in one.probabilities.items()
            ]
        for one, other in zip(before.study, after.study, strict=True):
            values.append(one.value == other.value)
    return {
        "studies": len(pairs),
        "largest_probability_change": max(changes),
        "mean_probability_change": float(np.mean(changes)),
        "study_values_equal": float(np.mean(values)),
    }


def _scores(result: Any) -> Iterable[LabelScore]:
    for level in (result.views, result.breasts):
        for scores in level.values():
            yield from scores
    yield from result.study


def _localization(pairs: Sequence[tuple[Any, Any]]) -> HeadDrift:
    before = after = 0
    changes: list[float] = []
    for one, other in pairs:
        before, after = before + len(one.marks), after + len(other.marks)
        changes += [
            abs(mark.score - partner.score)
            for mark, partner in matched_marks(one.marks, other.marks)
        ]
    both = before + after
    return {
        "studies": len(pairs),
        "marks_float": before,
        "marks_int8": after,
        "marks_matched": 2 * len(changes) / both if both else 1.0,
        "largest_score_change": max(changes, default=0.0),
    }


def matched_marks(marks: Sequence[Mark], others: Sequence[Mark]) -> list[tuple[Mark, Mark]]:
    """Pairs of the same view and label whose boxes overlap by half, the best overlaps first."""
    candidates = sorted(
        (
            (overlap(mark.box_px, other.box_px), i, k)
            for i, mark in enumerate(marks)
            for k, other in enumerate(others)
            if (mark.view, mark.label) == (other.view, other.label)
        ),
        key=lambda found: (-found[0], found[1], found[2]),
    )
    free, free_others = set(range(len(marks))), set(range(len(others)))
    pairs = []
    for iou, i, k in candidates:
        if iou >= _PARTNERS and i in free and k in free_others:
            free.remove(i)
            free_others.remove(k)
            pairs.append((marks[i], others[k]))
    return pairs


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return common / (areas - common) if areas > common else 0.0


def _prognosis(pairs: Sequence[tuple[Any, Any]]) -> HeadDrift:
    years = [
        both for before, after in pairs for both in zip(before.years, after.years, strict=True)
    ]
    peaks = [one.peaks == other.peaks for one, other in pairs]
    return {
        "studies": len(pairs),
        "largest_risk_change": max(abs(one.risk - other.risk) for one, other in years),
        "mean_risk_change": float(np.mean([abs(one.risk - other.risk) for one, other in years])),
        "peaks_equal": float(np.mean(peaks)),
    }


def _report(pairs: Sequence[tuple[Any, Any]]) -> HeadDrift:
    reports = [(before.report, after.report) for before, after in pairs]

    def equal(name: str) -> float:
        return float(np.mean([getattr(a, name) == getattr(b, name) for a, b in reports]))

    return {
        "studies": len(pairs),
        "recall_equal": equal("recall"),
        "composition_equal": equal("composition"),
        "findings_equal": equal("breasts"),
        "text_equal": equal("text"),
    }


_MEASURES: Final[Mapping[str, Callable[[Sequence[tuple[Any, Any]]], HeadDrift]]] = {
    "diagnosis": _diagnosis,
    "localization": _localization,
    "prognosis": _prognosis,
    "report": _report,
}

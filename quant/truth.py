"""Answers held against what is known of phantoms, the only studies here whose truth is known."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from mammofm_lite.phantom import PhantomTruth
from mammofm_lite.results import LabelScore, StudyResult

from .studies import Case

__all__ = ["area_under_roc", "truth_scores"]

_DENSITY: Final = "density"
_MALIGNANCY: Final = "malignancy"

Known = Sequence[tuple[PhantomTruth, StudyResult]]


def truth_scores(cases: Sequence[Case], results: Sequence[StudyResult]) -> dict[str, float]:
    """Figures over the cases whose truth is known; empty where none is.

    ``studies``; ``recall_correct`` and ``density_correct``, parts of the studies; and
    ``malignancy_auc`` of the study's probability for recall, where both kinds are there. A figure
    is left out where the bundle has no such label.
    """
    known = [
        (case.truth, result)
        for case, result in zip(cases, results, strict=True)
        if case.truth is not None
    ]
    if not known:
        return {}
    found: dict[str, float | None] = {
        "studies": len(known),
        "recall_correct": _part(known, _recall_right),
        "density_correct": _part(known, _density_right),
        "malignancy_auc": _malignancy_auc(known),
    }
    return {name: value for name, value in found.items() if value is not None}


def _part(known: Known, right: Callable[[PhantomTruth, StudyResult], bool | None]) -> float | None:
    answers = [answer for pair in known if (answer := right(*pair)) is not None]
    return float(np.mean(answers)) if answers else None


def _recall_right(truth: PhantomTruth, result: StudyResult) -> bool | None:
    return None if result.recall is None else result.recall.suggested == truth.recall


def _density_right(truth: PhantomTruth, result: StudyResult) -> bool | None:
    score = _label(result, _DENSITY)
    return None if score is None else score.value == truth.density


def _label(result: StudyResult, name: str) -> LabelScore | None:
    scores: Any = result.diagnosis.study if result.diagnosis else ()
    return next((score for score in scores if score.label == name), None)


def _malignancy_auc(known: Known) -> float | None:
    scores = [(_label(result, _MALIGNANCY), truth.recall) for truth, result in known]
    found = [(score.probabilities["yes"], ill) for score, ill in scores if score is not None]
    return area_under_roc([p for p, ill in found if ill], [p for p, ill in found if not ill])


def area_under_roc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Chance that a positive scores above a negative, ties half (Mann-Whitney U); or ``None``."""
    if not positive or not negative:
        return None
    difference = np.subtract.outer(np.asarray(positive), np.asarray(negative))
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))

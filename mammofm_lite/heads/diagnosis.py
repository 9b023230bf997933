"""Diagnosis: the graphs' probabilities per view, combined per breast and per study."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from ..bundle import DiagnosisMember, DiagnosisSpec, LabelSpec
from ..errors import BundleError
from ..results import DiagnosisResult, LabelScore
from ..views import Laterality, ViewName, laterality

__all__ = ["interpret_diagnosis", "recall_basis"]

Array = npt.NDArray[np.float32]

_ROUNDING: Final = 1e-5  # a softmax of float32 may exceed 1 by some of its steps


def interpret_diagnosis(
    spec: DiagnosisSpec, answers: Sequence[Mapping[ViewName, Array]]
) -> DiagnosisResult:
    """Combine the outputs of the head's members.

    Parameters
    ----------
    spec
        Labels in the order of the graphs' columns, with their rules of combination.
    answers
        For every member, per view its graph's ``probabilities``, float32 [1, columns]; all
        members answer for the same views.

    Raises
    ------
    BundleError
        A graph answers another number of columns, or a number that is no probability.
    """
    per_view: dict[ViewName, dict[str, Array]] = {}
    for member, answer in zip(spec.members, answers, strict=True):
        for view, columns in answer.items():
            per_view.setdefault(view, {}).update(_by_label(member, columns))
    sides: dict[Laterality, list[dict[str, Array]]] = {}
    for view, row in per_view.items():
        sides.setdefault(laterality(view), []).append(row)
    per_breast = {side: _breast(spec, rows) for side, rows in sides.items()}
    return DiagnosisResult(
        MappingProxyType({view: _scores(spec, row) for view, row in per_view.items()}),
        MappingProxyType({side: _scores(spec, row) for side, row in per_breast.items()}),
        _scores(spec, _study(spec, list(per_breast.values()))),
    )


def recall_basis(spec: DiagnosisSpec, result: DiagnosisResult) -> tuple[str, ...] | None:
    """Labels above their threshold among those that call for recall; ``None`` if there are none."""
    asking = {label.name for label in spec.labels if label.recall and label.threshold is not None}
    if not asking:
        return None
    return tuple(
        score.label for score in result.study if score.label in asking and score.value == "yes"
    )


def _check(member: DiagnosisMember, answer: Array) -> None:
    columns = sum(label.columns for label in member.labels)
    if answer.shape != (1, columns):
        raise BundleError(
            f"{member.model}: answers {answer.size} probabilities, the bundle's labels need "
            f"{columns}"
        )
    if answer.min() < -_ROUNDING or answer.max() > 1 + _ROUNDING:
        raise BundleError(f"{member.model}: answers a number that is no probability")


def _by_label(member: DiagnosisMember, row: Array) -> dict[str, Array]:
    _check(member, row)
    ends = np.cumsum([label.columns for label in member.labels])
    parts = np.split(row.reshape(-1), ends[:-1])
    return {label.name: part for label, part in zip(member.labels, parts, strict=True)}


def _combine(rule: str, rows: list[Array]) -> Array:
    stacked = np.stack(rows)
    if rule == "mean":
        return np.asarray(stacked.mean(axis=0))
    if rule == "max":
        return np.asarray(stacked.max(axis=0))
    # highest_class: the row whose most probable class comes last decides.
    return rows[int(np.argmax(stacked.argmax(axis=1)))]


def _breast(spec: DiagnosisSpec, rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {
        label.name: _combine(label.breast, [row[label.name] for row in rows])
        for label in spec.labels
    }


def _study(spec: DiagnosisSpec, rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {
        label.name: _combine(label.study, [row[label.name] for row in rows])
        for label in spec.labels
    }


def _scores(spec: DiagnosisSpec, row: dict[str, Array]) -> tuple[LabelScore, ...]:
    return tuple(_score(label, row[label.name]) for label in spec.labels)


def _score(label: LabelSpec, values: Array) -> LabelScore:
    if label.kind != "binary":
        probabilities = _named(label.classes, values)
        return LabelScore(label.name, probabilities, label.classes[int(values.argmax())], None)
    probability = float(values[0])
    value = None
    if label.threshold is not None:
        value = "yes" if probability >= label.threshold else "no"
    return LabelScore(label.name, _named(("yes",), [probability]), value, label.threshold)


def _named(names: tuple[str, ...], values: Iterable[float]) -> Mapping[str, float]:
    return MappingProxyType({name: float(v) for name, v in zip(names, values, strict=True)})

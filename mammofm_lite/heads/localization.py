"""Localization: boxes of the graphs, in prepared pixels, to marks in original pixels and mm."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from ..bundle import LocalizationMember
from ..errors import BundleError
from ..geometry import ViewGeometry
from ..results import Box, Mark
from ..views import STANDARD_VIEWS, ViewName

__all__ = ["by_view", "marks_of_view"]

MOST_BOXES: Final = 10_000  # the reference keeps 100


def by_view(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Marks of all detectors in the order of the standard views, by falling score in every view."""
    return tuple(sorted(marks, key=lambda mark: (STANDARD_VIEWS.index(mark.view), -mark.score)))


def marks_of_view(
    spec: LocalizationMember,
    view: ViewName,
    geometry: ViewGeometry,
    outputs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> tuple[Mark, ...]:
    """Marks of one detector at or above its operating point, by falling score.

    Parameters
    ----------
    outputs
        The graph's boxes float32 [n, 4] (x1, y1, x2, y2 in prepared pixels), scores float32 [n],
        labels int [n].

    Raises
    ------
    BundleError
        The graph answers a label that the bundle does not name, or far too many boxes, or not
        as many scores as boxes.
    """
    boxes, scores, labels = outputs
    if not len(boxes) == len(scores) == len(labels) <= MOST_BOXES:
        raise BundleError(
            f"the localization graph answers {len(boxes)} boxes, {len(scores)} scores and "
            f"{len(labels)} labels; as many of each are needed, at most {MOST_BOXES}"
        )
    keep = scores >= spec.threshold
    if keep.any() and not 0 <= labels[keep].min() <= labels[keep].max() < len(spec.labels):
        raise BundleError(
            f"the localization graph answers labels beyond the bundle's {len(spec.labels)}"
        )
    original = geometry.box_to_original(boxes[keep])
    # The reference clips one side only (facts 5.5), so a box may lie outside the image.
    limits = np.array([geometry.columns, geometry.rows] * 2, dtype=np.float64)
    original = np.clip(original, 0.0, limits)
    marks = [
        _mark(spec, view, geometry, item)
        for item in zip(original, scores[keep], labels[keep], strict=True)
        if item[0][2] > item[0][0] and item[0][3] > item[0][1]
    ]
    return tuple(sorted(marks, key=lambda mark: -mark.score))


def _mark(
    spec: LocalizationMember,
    view: ViewName,
    geometry: ViewGeometry,
    item: tuple[npt.NDArray[np.float64], np.float32, np.int64],
) -> Mark:
    box, score, label = item
    box_mm = geometry.box_to_mm(box[None])[0] if geometry.pixel_spacing_mm else None
    return Mark(
        view=view,
        label=spec.labels[int(label)],
        score=float(score),
        box_px=_box(box),
        box_mm=None if box_mm is None else _box(box_mm),
    )


def _box(values: npt.NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = (round(float(value), 3) for value in values)
    return x1, y1, x2, y2

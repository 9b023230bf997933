"""Boxes of the detector: anchors, decoding, clipping, suppression. Corners are x1, y1, x2, y2.

Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002; facts 5.4, 5.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "ANCHORS_PER_CELL",
    "Detections",
    "anchor_boxes",
    "clip_boxes",
    "decode_boxes",
    "evaluate",
    "level_sizes",
    "non_max_suppression",
    "postprocess",
]

Size = tuple[int, int]

_LEVELS: Final = range(3, 8)
_RATIOS: Final = (0.5, 1.0, 2.0)
_SCALES: Final = (1.0, 2.0 ** (1 / 3), 2.0 ** (2 / 3))
_DELTA_STD: Final = (0.1, 0.1, 0.2, 0.2)
ANCHORS_PER_CELL: Final = len(_RATIOS) * len(_SCALES)


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one picture in the order of falling score.

    Attributes
    ----------
    boxes : Tensor
        float32 ``[n, 4]`` in pixels of the network's input.
    scores : Tensor
        float32 ``[n]``, a sigmoid, not a calibrated probability.
    labels : Tensor
        int64 ``[n]``, index of the class.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def level_sizes(image_size: Size) -> tuple[Size, ...]:
    """Cells (rows, columns) of the pyramid levels P3..P7 for a picture (height, width)."""
    height, width = image_size
    return tuple((math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in _LEVELS)


def _cell_anchors(level: int) -> npt.NDArray[np.float64]:
    """Nine boxes around the origin, ratio (height / width) outer, scale inner."""
    sizes = [
        (math.sqrt(side * side / ratio), math.sqrt(side * side / ratio) * ratio)
        for ratio in _RATIOS
        for side in (2 ** (level + 2) * scale for scale in _SCALES)
    ]
    half = np.array(sizes) / 2
    return np.concatenate([-half, half], axis=1)


def anchor_boxes(image_size: Size) -> npt.NDArray[np.float32]:
    """All anchors of a picture, float32 ``[anchors, 4]``.

    The order is level, row, column, anchor, as the heads flatten their maps. Computed in float64
    and cast last, as the reference does.
    """
    levels = []
    for level, (rows, columns) in zip(_LEVELS, level_sizes(image_size), strict=True):
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        centres = (np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4) + 0.5) * 2**level
        levels.append((centres + _cell_anchors(level)).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes ``[..., 4]`` from anchors ``[..., 4]`` and regression (dx, dy, dw, dh) ``[..., 4]``.

    Neither dw nor dh is limited, as in the reference.
    """
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + 0.5 * size
    scaled = deltas * torch.tensor(_DELTA_STD, dtype=deltas.dtype)
    new_centre = centre + scaled[..., :2] * size
    half = 0.5 * torch.exp(scaled[..., 2:]) * size
    return torch.cat([new_centre - half, new_centre + half], dim=-1)


def clip_boxes(boxes: Tensor, image_size: Size) -> Tensor:
    """Clip the upper-left corner at 0 from below and the lower-right at the size from above.

    One-sided as in the reference: a box outside the picture comes out with x1 > x2 or y1 > y2.
    """
    height, width = image_size
    limit = torch.tensor([width, height], dtype=boxes.dtype)
    upper_left = torch.clamp(boxes[..., :2], min=0)
    lower_right = torch.minimum(boxes[..., 2:], limit)
    return torch.cat([upper_left, lower_right], dim=-1)


def _area(boxes: Tensor) -> Tensor:
    size = boxes[..., 2:] - boxes[..., :2]
    return size[..., 0] * size[..., 1]


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box with many; NaN where both are empty."""
    upper_left = torch.maximum(box[:2], others[:, :2])
    lower_right = torch.minimum(box[2:], others[:, 2:])
    sides = torch.clamp(lower_right - upper_left, min=0)
    shared = sides[:, 0] * sides[:, 1]
    return shared / (_area(box) + _area(others) - shared)


def non_max_suppression(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int | None = None
) -> Tensor:
    """Indices of the kept boxes, falling score, at most `most`; greedy, all classes together.

    A box goes when its overlap with a kept, better one is strictly above the threshold; of equal
    scores the earlier is better. A NaN overlap (two empty boxes) suppresses nothing.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    kept = []
    while order.numel() and (most is None or len(kept) < most):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[~(_overlap(boxes[best], boxes[order]) > iou_threshold)]
    return torch.stack(kept) if kept else order


def postprocess(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    most: int | None = None,
) -> Detections:
    """Detections of one picture from all its decoded, clipped boxes.

    Parameters
    ----------
    boxes : Tensor
        float32 ``[anchors, 4]``.
    scores : Tensor
        float32 ``[anchors, classes]``.
    score_threshold : float
        A box is considered when its best class scores strictly above.
    iou_threshold, most
        See `non_max_suppression`.
    """
    best, labels = scores.max(dim=1)
    candidates = Detections(boxes, best, labels)[best > score_threshold]
    kept = non_max_suppression(candidates.boxes, candidates.scores, iou_threshold, most)
    return candidates[kept]


def evaluate(
    detections: Detections, score_threshold: float = 0.05, max_detections: int = 100
) -> Detections:
    """Return the reference's evaluation subset: score strictly above, at most so many."""
    return detections[detections.scores > score_threshold][:max_detections]

"""What the network is taught by.

Detection as in Lin et al., arXiv 1708.02002: every anchor is matched to a box, to background, or
to nothing; focal loss over anchors, smooth L1 over those with a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.export.models.boxes import anchor_boxes
from mammofm_lite.export.models.retinanet import RetinaNet

__all__ = ["Targets", "dense_loss", "dense_targets", "detection_loss", "match_anchors", "overlaps"]

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]

_ALPHA: Final = 0.25
_GAMMA: Final = 2.0
_OBJECT_IOU: Final = 0.5
_BACKGROUND_IOU: Final = 0.4
_DELTA_STD: Final = np.array([0.1, 0.1, 0.2, 0.2], np.float32)
_BETA: Final = 1 / 9
_BACKGROUND: Final = -1
_NOTHING: Final = -2


@dataclass(frozen=True)
class Targets:
    """What one picture shows.

    Attributes
    ----------
    boxes
        float32 [n, 4] in pixels.
    labels
        int64 [n], class of the detector.
    flags
        float32 [n, dense classes]: what each box teaches the cells that it covers.
    malignant
        Whether a box is a cancer's.
    precursors
        float32 [m, 4], boxes that only the dense classes learn.
    """

    boxes: Floats
    labels: npt.NDArray[np.int64]
    flags: Floats
    malignant: bool
    precursors: Floats


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss per element; `targets` are 0 or 1."""
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = torch.sigmoid(logits)
    right = probability * targets + (1 - probability) * (1 - targets)
    weight = _ALPHA * targets + (1 - _ALPHA) * (1 - targets)
    return weight * (1 - right) ** _GAMMA * entropy


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes [n, 4] with boxes [m, 4]: float32 [n, m]."""
    a, b = first[:, None], second[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(size, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-6), np.float32)


@lru_cache(maxsize=8)
def _anchors(size: Size) -> Floats:
    return anchor_boxes(size)


def match_anchors(boxes: Floats, size: Size) -> npt.NDArray[np.int64]:
    """Per anchor the index of its box, -1 for background, -2 where it teaches nothing.

    An anchor takes the box that it overlaps most, from an IoU of 0.5; below 0.4 it is background.
    The anchors that overlap a box best take it however little that is.
    """
    anchors = _anchors(size)
    if not len(boxes):
        return np.full(len(anchors), _BACKGROUND, np.int64)
    shares = overlaps(anchors, boxes)
    best = shares.argmax(axis=1)
    share = shares[np.arange(len(anchors)), best]
    matched = np.where(share >= _OBJECT_IOU, best, _NOTHING)
    matched[share < _BACKGROUND_IOU] = _BACKGROUND
    for index, top in enumerate(shares.max(axis=0)):
        matched[(shares[:, index] >= top - 1e-6) & (top > 0)] = index
    return matched.astype(np.int64)


def _deltas(anchors: Floats, boxes: Floats) -> Floats:
    """The regression that turns anchors into boxes, the inverse of `decode_boxes`."""
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + wanted / 2 - anchors[:, :2] - size / 2) / size
    return np.asarray(np.concatenate([shift, np.log(wanted / size)], axis=1) / _DELTA_STD)


def detection_loss(
    network: RetinaNet,
    features: tuple[Tensor, Tensor, Tensor],
    targets: Sequence[Targets],
    size: Size,
) -> Tensor:
    """Loss of the detector on pictures of one size."""
    levels = network.fpn(*features, size)
    deltas = torch.cat([network.regressionModel(level) for level in levels], dim=1)
    logits = torch.cat([network.classificationModel(level) for level in levels], dim=1)
    matched = np.stack([match_anchors(one.boxes, size) for one in targets])
    counted, positive = matched != _NOTHING, matched >= 0
    classes = np.zeros(tuple(logits.shape), np.float32)
    for row, one in enumerate(targets):
        at = np.flatnonzero(positive[row])
        classes[row, at, one.labels[matched[row, at]]] = 1
    scale = 1 / max(int(positive.sum()), len(targets))
    losses = focal(logits, torch.from_numpy(classes).to(logits.device)).sum(dim=2)
    loss: Tensor = (losses * torch.from_numpy(counted).to(logits.device)).sum() * scale
    if positive.any():
        wanted = [
            _deltas(_anchors(size)[at], one.boxes[matched[row, at]])
            for row, one in enumerate(targets)
            if (at := np.flatnonzero(positive[row])).size
        ]
        given = deltas[torch.from_numpy(positive).to(deltas.device)]
        aim = torch.from_numpy(np.concatenate(wanted)).to(deltas.device)
        off = functional.smooth_l1_loss(given, aim, beta=_BETA, reduction="sum")
        loss = loss + off * scale / 4
    return loss


def dense_targets(targets: Sequence[Targets], cells: Size, size: Size, precursor: int) -> Floats:
    """What the cells of a map should say: float32 [pictures, classes, rows, columns].

    A cell belongs to a box when its centre lies inside; the cell of the box's centre always does.
    """
    classes = targets[0].flags.shape[1]
    wanted = np.zeros((len(targets), classes, *cells), np.float32)
    step = np.array([size[1] / cells[1], size[0] / cells[0]] * 2, np.float32)
    early = np.zeros((1, classes), np.float32)
    early[0, precursor] = 1
    for row, one in enumerate(targets):
        flags = np.concatenate([one.flags, early.repeat(len(one.precursors), 0)])
        boxes = np.concatenate([one.boxes, one.precursors])
        for box, says in zip(boxes / step, flags, strict=True):
            middle = np.floor((box[:2] + box[2:]) / 2)
            low = np.minimum(np.ceil(box[:2] - 0.5), middle).astype(int).clip(0)
            high = np.maximum(np.ceil(box[2:] - 0.5), middle + 1).astype(int)
            cell = wanted[row, :, low[1] : high[1], low[0] : high[0]]
            np.maximum(cell, says[:, None, None], out=cell)
    return wanted


def dense_loss(logits: Tensor, targets: Sequence[Targets], size: Size, precursor: int) -> Tensor:
    """Focal loss of the cells ``[batch, classes, rows, columns]`` of a map."""
    cells = (int(logits.shape[2]), int(logits.shape[3]))
    wanted = torch.from_numpy(dense_targets(targets, cells, size, precursor)).to(logits.device)
    return focal(logits, wanted).sum() / wanted.sum().clamp(min=len(targets))

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

__all__ = [
    "NO_BOX",
    "Aims",
    "Targets",
    "aims_of",
    "dense_loss",
    "dense_targets",
    "detection_loss",
    "match_anchors",
    "offset_loss",
    "overlaps",
]

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]

_ALPHA: Final = 0.25
_GAMMA: Final = 2.0
_OBJECT_IOU: Final = 0.5
_BACKGROUND_IOU: Final = 0.4
_DELTA_STD: Final = (0.1, 0.1, 0.2, 0.2)
_BETA: Final = 1 / 9
_FARTHEST: Final = 2.0  # cells
_QUIET: Final = 0.1  # of what cells without a lesion say
_BACKGROUND: Final = -1
_NOTHING: Final = -2
NO_BOX: Final = -1
"""Label of what the detector does not look for."""


@dataclass(frozen=True)
class Targets:
    """What one picture shows.

    Attributes
    ----------
    boxes
        float32 [n, 4] in pixels.
    labels
        int64 [n], class of the detector; `NO_BOX` where only the dense classes learn it.
    flags
        float32 [n, dense classes], 0 to 1: what each box teaches the cells that it covers.
    malignant
        Whether a box is a cancer's.
    """

    boxes: Floats
    labels: npt.NDArray[np.int64]
    flags: Floats
    malignant: bool


@dataclass(frozen=True, eq=False)
class Aims:
    """The targets of some pictures, with as many boxes each as the one that has most.

    Attributes
    ----------
    boxes
        float32 ``[pictures, most, 4]``.
    labels
        int64 ``[pictures, most]``; `NO_BOX` also where there is nothing.
    flags
        float32 ``[pictures, most, dense classes]``; all 0 where there is nothing.
    malignant
        float32 ``[pictures]``.
    """

    boxes: Tensor
    labels: Tensor
    flags: Tensor
    malignant: Tensor

    def to(self, device: torch.device) -> "Aims":
        """The same there."""
        return Aims(
            self.boxes.to(device),
            self.labels.to(device),
            self.flags.to(device),
            self.malignant.to(device),
        )


def aims_of(targets: Sequence[Targets]) -> Aims:
    """Put targets together."""
    most = max(len(one.boxes) for one in targets)
    count, classes = len(targets), targets[0].flags.shape[1]
    aims = Aims(
        torch.zeros(count, most, 4),
        torch.full((count, most), NO_BOX),
        torch.zeros(count, most, classes),
        torch.tensor([float(one.malignant) for one in targets]),
    )
    for row, one in enumerate(targets):
        n = len(one.boxes)
        aims.boxes[row, :n] = torch.from_numpy(one.boxes)
        aims.labels[row, :n] = torch.from_numpy(one.labels)
        aims.flags[row, :n] = torch.from_numpy(one.flags)
    return aims


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss per element; `targets` are 0 to 1."""
    logits = logits.float()
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
def _anchors(size: Size, device: torch.device) -> Tensor:
    return torch.from_numpy(anchor_boxes(size)).to(device)


def _shares(anchors: Tensor, boxes: Tensor) -> Tensor:
    """`overlaps` of all anchors with boxes ``[..., 4]``: ``[..., anchors]``."""
    a, b = anchors, boxes[..., None, :]
    size = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = size.clamp(min=0).prod(dim=-1)
    areas = [(one[..., 2:] - one[..., :2]).prod(dim=-1) for one in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


def match_anchors(boxes: Tensor, real: Tensor, size: Size) -> Tensor:
    """Per anchor the index of its box, -1 for background, -2 where it teaches nothing.

    An anchor takes the box that it overlaps most, from an IoU of 0.5; below 0.4 it is background.
    The anchors that overlap a box best take it however little that is.

    Parameters
    ----------
    boxes, real
        float32 ``[pictures, most, 4]``, and bool ``[pictures, most]``: which of them are boxes.

    Returns
    -------
    Tensor
        int64 ``[pictures, anchors]``.
    """
    anchors = _anchors(size, boxes.device)
    if not boxes.shape[1]:
        return torch.full((len(boxes), len(anchors)), _BACKGROUND, device=boxes.device)
    shares = _shares(anchors, boxes) * real[..., None]
    share, matched = shares.max(dim=1)
    matched = torch.where(share >= _OBJECT_IOU, matched, _NOTHING)
    matched = torch.where(share < _BACKGROUND_IOU, _BACKGROUND, matched)
    tops = shares.amax(dim=2)
    for index in range(boxes.shape[1]):  # a later box takes an anchor that is best for two
        top = tops[:, index, None]
        matched = torch.where((shares[:, index] >= top - 1e-6) & (top > 0), index, matched)
    return matched


def _deltas(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The regression that turns anchors into boxes, the inverse of `decode_boxes`."""
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + wanted / 2 - anchors[:, :2] - size / 2) / size
    spread = torch.tensor(_DELTA_STD, device=anchors.device)
    return torch.cat([shift, torch.log(wanted / size)], dim=1) / spread


def detection_loss(
    network: RetinaNet, features: tuple[Tensor, Tensor, Tensor], aims: Aims, size: Size
) -> Tensor:
    """Loss of the detector on pictures of one size."""
    levels = network.fpn(*features, size)
    deltas = torch.cat([network.regressionModel(level) for level in levels], dim=1)
    logits = torch.cat([network.classificationModel(level) for level in levels], dim=1)
    matched = match_anchors(aims.boxes, aims.labels != NO_BOX, size)
    row, anchor = torch.nonzero(matched >= 0, as_tuple=True)
    box = matched[row, anchor]
    classes = torch.zeros(logits.shape, device=logits.device)
    classes[row, anchor, aims.labels[row, box]] = 1
    scale = 1 / max(len(row), len(matched))
    losses = focal(logits, classes).sum(dim=2)
    loss: Tensor = (losses * (matched != _NOTHING)).sum() * scale
    if len(row):
        wanted = _deltas(_anchors(size, logits.device)[anchor], aims.boxes[row, box])
        given = deltas[row, anchor].float()
        off = functional.smooth_l1_loss(given, wanted, beta=_BETA, reduction="sum")
        loss = loss + off * scale / 4
    return loss


def dense_targets(aims: Aims, cells: Size, size: Size) -> Tensor:
    """What the cells of a map should say: float32 ``[pictures, classes, rows, columns]``.

    A cell belongs to a box when its centre lies inside; the cell of the box's centre always does.
    """
    rows, columns = _covered(aims, cells, size)
    said = torch.einsum("bmc,bmy,bmx->bcyx", aims.flags, rows, columns)
    return said.clamp(max=1)


def _in_cells(boxes: Tensor, cells: Size, size: Size) -> Tensor:
    """Boxes in pixels of pictures, in cells of their maps."""
    per_pixel = [cells[1] / size[1], cells[0] / size[0]]
    return boxes * torch.tensor(per_pixel * 2, device=boxes.device)


def _covered(aims: Aims, cells: Size, size: Size) -> tuple[Tensor, Tensor]:
    """Which rows ``[pictures, most, rows]`` and which columns belong to each box: 0 or 1."""
    scaled = _in_cells(aims.boxes, cells, size)
    middle = torch.floor((scaled[..., :2] + scaled[..., 2:]) / 2)
    low = torch.minimum(torch.ceil(scaled[..., :2] - 0.5), middle)
    high = torch.maximum(torch.ceil(scaled[..., 2:] - 0.5), middle + 1)

    def covered(axis: int, count: int) -> Tensor:
        place = torch.arange(count, device=scaled.device)
        return ((place >= low[..., axis, None]) & (place < high[..., axis, None])).float()

    return covered(1, cells[0]), covered(0, cells[1])


def offset_loss(offsets: Tensor, aims: Aims, size: Size) -> Tensor:
    """How wrongly cells of lesions, precursors and the nipple say how far they lie from the middle.

    Parameters
    ----------
    offsets
        Columns to the right and rows down, in cells: ``[pictures, 2, rows, columns]``. From two
        cells on all are alike, and cells of nothing are to say 0.
    """
    cells = (int(offsets.shape[2]), int(offsets.shape[3]))
    rows, columns = _covered(aims, cells, size)
    scaled = _in_cells(aims.boxes, cells, size)
    own = torch.einsum("bm,bmy,bmx->bmyx", aims.flags.amax(dim=2), rows, columns)
    middles = (scaled[..., :2] + scaled[..., 2:]) / 2
    along = (torch.arange(count, device=own.device) + 0.5 for count in reversed(cells))
    centres = torch.stack(torch.meshgrid(*along, indexing="xy"))
    wanted = (middles[..., None, None] - centres).clamp(-_FARTHEST, _FARTHEST)
    given = offsets[:, None].float().expand_as(wanted)
    apart = functional.smooth_l1_loss(given, wanted, beta=_BETA, reduction="none").sum(dim=2)
    elsewhere = own.sum(dim=1, keepdim=True) == 0
    quiet = (offsets.float().square() * elsewhere).mean()
    return (own * apart).sum() / own.sum().clamp(min=len(own)) + _QUIET * quiet


def dense_loss(logits: Tensor, aims: Aims, size: Size) -> Tensor:
    """Focal loss of the cells ``[batch, classes, rows, columns]`` of a map."""
    wanted = dense_targets(aims, (int(logits.shape[2]), int(logits.shape[3])), size)
    return focal(logits, wanted).sum() / wanted.sum().clamp(min=len(wanted))

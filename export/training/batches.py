"""From prepared studies to what one training step sees: crops, whole views, their targets.

Everything is drawn from the generator that is given, so a step depends on its number alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.phantom import PhantomLesion
from mammofm_lite.views import STANDARD_VIEWS, ViewName

from .data import Study, View
from .losses import Targets
from .network import DENSE_CLASSES, DENSITIES

__all__ = ["CropPlan", "Pictures", "crops", "greys", "targets_of", "whole_views"]

Floats = npt.NDArray[np.float32]

_ON_SOMETHING: Final = 0.7  # share of the crops that are drawn around a lesion or precursor
_KEPT: Final = 0.5  # part of a box that a crop must hold for the box to count
_FLAT: Final = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Pictures:
    """What a step sees.

    Attributes
    ----------
    grey
        float32 ``[n, 1, height, width]``, 0 to 1.
    targets
        Per picture.
    density
        int64 ``[n]``, of the woman.
    """

    grey: Tensor
    targets: tuple[Targets, ...]
    density: Tensor


def targets_of(study: Study, view: ViewName, kinds: Sequence[str]) -> Targets:
    """What a whole view shows."""
    shown = study.views[view]
    lesions = [study.truth.lesions[index] for index in shown.lesions]
    flags = np.array([_flags(lesion) for lesion in lesions], np.float32)
    return Targets(
        boxes=_wide_enough(shown.boxes),
        labels=np.array([kinds.index(lesion.kind) for lesion in lesions], np.int64),
        flags=flags.reshape(-1, len(DENSE_CLASSES)),
        malignant=any(lesion.malignant for lesion in lesions),
        precursors=shown.precursor,
    )


def _flags(lesion: PhantomLesion) -> list[float]:
    known = {lesion.kind, "malignant" * lesion.malignant, "suspicious" * lesion.suspicious}
    known |= {f"{name}: {value}" for name, value in lesion.descriptors.items()}
    return [float(name in known) for name in DENSE_CLASSES]


def _wide_enough(boxes: Floats) -> Floats:
    """Boxes of at least a pixel, which regression can aim at."""
    upper = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return np.concatenate([boxes[:, :2], upper], axis=1)


def greys(view: View) -> Floats:
    """A prepared view from 0 to 1, as the encoder's graph scales it: float32 [height, width]."""
    image = view.image.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    return (image - low) / np.float32(high - low)


def _densities(studies: Sequence[Study]) -> Tensor:
    return torch.tensor([DENSITIES.index(study.truth.density) for study in studies])


# -------------------- whole views


def whole_views(
    studies: Sequence[Study], kinds: Sequence[str], random: np.random.Generator | None
) -> Pictures:
    """All views of some studies, view by view within a study; varied where `random` is given."""
    grey = np.stack([greys(s.views[view]) for s in studies for view in STANDARD_VIEWS])
    pictures = torch.from_numpy(grey[:, None])
    if random is not None:
        pictures = vary(pictures, random, alike=len(STANDARD_VIEWS))
    targets = tuple(targets_of(s, view, kinds) for s in studies for view in STANDARD_VIEWS)
    return Pictures(pictures, targets, _densities(studies).repeat_interleave(len(STANDARD_VIEWS)))


# -------------------- crops


@dataclass(frozen=True)
class CropPlan:
    """Square crops of `size` pixels, `count` a step."""

    size: int
    count: int


def crops(
    studies: Sequence[Study], plan: CropPlan, kinds: Sequence[str], random: np.random.Generator
) -> Pictures:
    """Crops of random views, most of them around something; flipped and varied."""
    chosen = [studies[int(random.integers(len(studies)))] for _ in range(plan.count)]
    drawn = [_crop(study, plan.size, kinds, random) for study in chosen]
    grey = torch.from_numpy(np.stack([picture for picture, _ in drawn])[:, None])
    targets = tuple(target for _, target in drawn)
    return Pictures(vary(grey, random, alike=1), targets, _densities(chosen))


def _crop(
    study: Study, size: int, kinds: Sequence[str], random: np.random.Generator
) -> tuple[Floats, Targets]:
    view = _some_view(study, random)
    whole, grey = targets_of(study, view, kinds), greys(study.views[view])
    size = min(size, *grey.shape)
    something = np.concatenate([whole.boxes, whole.precursors])
    limit = np.array([grey.shape[1] - size, grey.shape[0] - size])
    if len(something) and random.random() < _ON_SOMETHING:
        box = something[int(random.integers(len(something)))]
        middle = (box[:2] + box[2:]) / 2 + random.uniform(-0.38, 0.38, 2) * size
        corner = np.clip(np.rint(middle - size / 2), 0, limit).astype(int)
    else:
        corner = random.integers(0, limit + 1)
    x, y = corner.tolist()
    cut, flips = grey[y : y + size, x : x + size], random.random(2) < 0.5
    for axis in np.flatnonzero(flips):
        cut = np.flip(cut, axis)
    return np.ascontiguousarray(cut), _cut_targets(whole, (x, y), size, flips)


def _some_view(study: Study, random: np.random.Generator) -> ViewName:
    """A random view; one with something to see where there is any, most of the time."""
    shown = [
        view
        for view in STANDARD_VIEWS
        if study.views[view].lesions or len(study.views[view].precursor)
    ]
    among = shown if shown and random.random() < _ON_SOMETHING else STANDARD_VIEWS
    return among[int(random.integers(len(among)))]


def _cut_targets(
    whole: Targets, corner: tuple[int, int], size: int, flips: npt.NDArray[np.bool_]
) -> Targets:
    boxes, kept = _cut_boxes(whole.boxes, corner, size, flips)
    precursors, _ = _cut_boxes(whole.precursors, corner, size, flips)
    flags = whole.flags[kept]
    malignant = bool(flags[:, DENSE_CLASSES.index("malignant")].any())
    return Targets(boxes, whole.labels[kept], flags, malignant, precursors)


def _cut_boxes(
    boxes: Floats, corner: tuple[int, int], size: int, flips: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Boxes within a crop, and which of all they are; `flips` of rows and of columns."""
    moved = boxes - np.array(corner * 2, np.float32)
    inside = moved.clip(0, size)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (inside, moved)]
    kept = areas[0] >= _KEPT * np.maximum(areas[1], 1e-6)
    inside = _wide_enough(inside[kept])
    for axis in np.flatnonzero(flips):  # axis 0 is y, which stands second in a box
        low, high = 1 - axis, 3 - axis
        inside[:, [low, high]] = size - inside[:, [high, low]]
    return inside, kept


# -------------------- variation


def vary(grey: Tensor, random: np.random.Generator, *, alike: int) -> Tensor:
    """Other grey scale, sharpness and noise, drawn once per `alike` consecutive pictures.

    No phantom of another vendor or texture is trained on: this alone has to cover them.
    """
    groups = len(grey) // alike

    def drawn(low: float, high: float) -> Tensor:
        values = random.uniform(low, high, groups).repeat(alike).astype(np.float32)
        return torch.from_numpy(values)[:, None, None, None]

    blurred = functional.avg_pool2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, 1)
    varied = grey + drawn(-0.4, 0.7) * (blurred - grey)
    varied = varied.clamp(0, 1) ** torch.exp(drawn(-0.25, 0.25))
    noise = random.standard_normal(tuple(grey.shape), dtype=np.float32)
    varied = varied * drawn(0.8, 1.1) + drawn(0.0, 0.02) * torch.from_numpy(noise) * (grey > 0)
    return varied.clamp(0, 1)

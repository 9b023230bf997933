"""From prepared studies to what one training step sees: crops, whole views, their targets.

Everything is drawn from the generator that is given, so a step depends on its number alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.phantom import PhantomLesion, PhantomTruth
from mammofm_lite.views import STANDARD_VIEWS, ViewName

from .data import Study
from .losses import NO_BOX, Aims, Targets, aims_of
from .network import DENSE_CLASSES, DENSITIES
from .nipple import nipple_box

__all__ = ["CropPlan", "Pictures", "crops", "targets_of", "varied_images", "whole_views"]

Floats = npt.NDArray[np.float32]
UInt8s = npt.NDArray[np.uint8]

_ON_SOMETHING: Final = 0.7  # share of the crops that are drawn around a lesion or precursor
_KEPT: Final = 0.5  # part of a box that a crop must hold for the box to count
_STRONGEST: Final = 0.95  # a logit without an end would be wanted for 1
_PRECURSOR, _NIPPLE = (DENSE_CLASSES.index(name) for name in ("precursor", "nipple"))


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a step sees, as it is drawn: on the CPU, in 8 bits.

    Attributes
    ----------
    stored
        uint8 ``[n, 1, height, width]``.
    limits
        float32 ``[n, 2]``: what is black and what is white, of the view that each comes from.
    aims
        What they show.
    density
        int64 ``[n]``, of the woman.
    alike
        So many in a row are of one examination, and vary together.
    noise
        Seed of the variation; ``None`` leaves them as they are.
    """

    stored: Tensor
    limits: Tensor
    aims: Aims
    density: Tensor
    alike: int = 1
    noise: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.stored.shape[2]), int(self.stored.shape[3])

    def grey(self, device: torch.device) -> Tensor:
        """float32 ``[n, 1, height, width]`` from 0 to 1, as the encoder's graph scales views."""
        grey = _scaled(self.stored.to(device), self.limits.to(device))
        if self.noise is None:
            return grey
        return vary(grey, torch.Generator(device).manual_seed(self.noise), alike=self.alike)


def _scaled(stored: Tensor, limits: Tensor) -> Tensor:
    """Pictures ``[n, 1, height, width]``: 0 at the limit of black, 1 at that of white."""
    low, high = limits[:, :, None, None, None].unbind(1)
    return (stored.float() - low) / (high - low)


def targets_of(study: Study, view: ViewName, kinds: Sequence[str]) -> Targets:
    """What a whole view shows: lesions, then a precursor, then the nipple."""
    shown = study.views[view]
    lesions = [study.truth.lesions[index] for index in shown.lesions]
    early = len(shown.precursor)
    flags = np.zeros((len(lesions) + early + 1, len(DENSE_CLASSES)), np.float32)
    for row, lesion in zip(flags, lesions, strict=False):
        row[:] = _flags(lesion)
    flags[len(lesions) : -1, _PRECURSOR] = precursor_share(study.truth)
    flags[-1, _NIPPLE] = 1
    labels = [kinds.index(lesion.kind) for lesion in lesions] + [NO_BOX] * (early + 1)
    nipple = nipple_box(shown.image)
    return Targets(
        boxes=_wide_enough(np.concatenate([shown.boxes, shown.precursor, nipple[None]])),
        labels=np.array(labels, np.int64),
        flags=flags,
        malignant=any(lesion.malignant for lesion in lesions),
    )


def precursor_share(truth: PhantomTruth) -> float:
    """How much of a precursor its cells are to say, 0 to 1: little of a faint one.

    The logarithm of the hazard is in proportion to the strength, and so are then the values of the
    map's channel at which the focal loss is least: 1.2, 2.2, 3.1 and 4.9 for strengths of 0.3, 0.5,
    0.7 and 1. By presence alone, faint ones, which hardly show and hardly count, were given as much
    to learn as strong ones, which raise a risk sixfold against them.
    """
    return _STRONGEST * truth.precursor.strength if truth.precursor else 0.0


def _flags(lesion: PhantomLesion) -> list[float]:
    known = {lesion.kind, "malignant" * lesion.malignant, "suspicious" * lesion.suspicious}
    known |= {f"{name}: {value}" for name, value in lesion.descriptors.items()}
    return [float(name in known) for name in DENSE_CLASSES]


def _wide_enough(boxes: Floats) -> Floats:
    """Boxes of at least a pixel, which regression can aim at."""
    upper = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return np.concatenate([boxes[:, :2], upper], axis=1)


def _limits(image: UInt8s) -> tuple[float, float]:
    return float(image.min()), float(image.max())


def _densities(studies: Sequence[Study]) -> Tensor:
    return torch.tensor([DENSITIES.index(study.truth.density) for study in studies])


def _noise(random: np.random.Generator) -> int:
    return int(random.integers(2**62))


# -------------------- whole views


def whole_views(
    studies: Sequence[Study], kinds: Sequence[str], random: np.random.Generator | None
) -> Pictures:
    """All views of some studies, view by view within a study; varied where `random` is given."""
    views = [(study, view) for study in studies for view in STANDARD_VIEWS]
    stored = np.stack([study.views[view].image for study, view in views])
    return Pictures(
        stored=torch.from_numpy(stored[:, None]),
        limits=torch.tensor([_limits(image) for image in stored]),
        aims=aims_of([targets_of(study, view, kinds) for study, view in views]),
        density=_densities(studies).repeat_interleave(len(STANDARD_VIEWS)),
        alike=len(STANDARD_VIEWS),
        noise=None if random is None else _noise(random),
    )


def varied_images(study: Study, random: np.random.Generator) -> list[UInt8s]:
    """All views of a study, varied, as a graph takes them: uint8 ``[height, width]``."""
    stored = np.stack([study.views[view].image for view in STANDARD_VIEWS])
    limits = torch.tensor([_limits(image) for image in stored])
    grey = _scaled(torch.from_numpy(stored[:, None]), limits)
    varied = vary(grey, torch.Generator().manual_seed(_noise(random)), alike=len(stored))
    return list((255 * varied[:, 0]).round().byte().numpy())


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
    return Pictures(
        stored=torch.from_numpy(np.stack([crop.picture for crop in drawn])[:, None]),
        limits=torch.tensor([crop.limits for crop in drawn]),
        aims=aims_of([crop.targets for crop in drawn]),
        density=_densities(chosen),
        noise=_noise(random),
    )


class _Crop(NamedTuple):
    picture: UInt8s
    limits: tuple[float, float]
    targets: Targets


def _crop(study: Study, size: int, kinds: Sequence[str], random: np.random.Generator) -> _Crop:
    view = _some_view(study, random)
    whole, image = targets_of(study, view, kinds), study.views[view].image
    size = min(size, *image.shape)
    limit = np.array([image.shape[1] - size, image.shape[0] - size])
    lesions = whole.boxes[:-1]
    if len(lesions) and random.random() < _ON_SOMETHING:
        box = lesions[int(random.integers(len(lesions)))]
        middle = (box[:2] + box[2:]) / 2 + random.uniform(-0.38, 0.38, 2) * size
        corner = np.clip(np.rint(middle - size / 2), 0, limit).astype(int)
    else:
        corner = random.integers(0, limit + 1)
    x, y = corner.tolist()
    cut, flips = image[y : y + size, x : x + size], random.random(2) < 0.5
    for axis in np.flatnonzero(flips):
        cut = np.flip(cut, axis)
    return _Crop(
        np.ascontiguousarray(cut), _limits(image), _cut_targets(whole, (x, y), size, flips)
    )


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
    flags = whole.flags[kept]
    malignant = bool(flags[:, DENSE_CLASSES.index("malignant")].any())
    return Targets(boxes, whole.labels[kept], flags, malignant)


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


def vary(grey: Tensor, dice: torch.Generator, *, alike: int) -> Tensor:
    """Other grey scale, sharpness and noise, drawn once per `alike` consecutive pictures.

    No phantom of another vendor or texture is trained on: this alone has to cover them.
    """
    device = grey.device

    def drawn(low: float, high: float) -> Tensor:
        values = torch.rand(len(grey) // alike, generator=dice, device=device)
        return (low + (high - low) * values).repeat_interleave(alike)[:, None, None, None]

    blurred = functional.avg_pool2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), 3, 1)
    varied = grey + drawn(-0.4, 0.7) * (blurred - grey)
    varied = varied.clamp(0, 1) ** torch.exp(drawn(-0.4, 0.4))
    varied = _sigmoid_scale(varied, drawn(0.5, 6.0), drawn(0.3, 0.6))
    noise = torch.randn(grey.shape, generator=dice, device=device)
    varied = varied * drawn(0.8, 1.1) + drawn(0.0, 0.02) * noise * (grey > 0)
    return varied.clamp(0, 1)


def _sigmoid_scale(grey: Tensor, slope: Tensor, middle: Tensor) -> Tensor:
    """A grey scale steep around `middle` and flat at both ends, as processing for display often is;
    0 and 1 stay where they are."""
    black, white = (torch.sigmoid(slope * (end - middle)) for end in (0.0, 1.0))
    return (torch.sigmoid(slope * (grey - middle)) - black) / (white - black)

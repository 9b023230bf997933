"""Features of a frozen encoder on disk, for the heads that are trained on them."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mammofm_lite.phantom import PhantomTruth
from mammofm_lite.views import STANDARD_VIEWS

from .data import Study
from .encoders import FrozenEncoder
from .network import RISK_CLASSES, Prognoses

__all__ = [
    "Bools",
    "FeatureSet",
    "Floats",
    "Halves",
    "Shown",
    "make_features",
    "save_array",
    "shown_lesions",
    "to_halves",
]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Shown = Mapping[int, tuple[float, float, float, float]]
"""Boxes of lesions by their place in the truth's list: left, top, right and lower edge as shares of
the view's width and height."""

_CHUNK: Final = 20
_LARGEST_HALF: Final = 6e4


@dataclass(frozen=True)
class FeatureSet:
    """What the encoder gives for some studies.

    Attributes
    ----------
    maps
        Per chunk float16 [studies, 4, channels, rows, columns].
    roots
        Per chunk float16 [studies, 2, channels, windows]: the pooled differences of the prognosis,
        of the channels that say what raises a risk.
    averages
        Per chunk float32 [studies, 4, channels]: what the encoder pools.
    truths
        Of all studies.
    shown
        Of all studies, view by view: the lesions that it shows.
    """

    maps: Sequence[Halves]
    roots: Sequence[Halves]
    averages: Sequence[Floats]
    truths: Sequence[PhantomTruth]
    shown: Sequence[Sequence[Shown]]

    def map(self, index: int, view: int) -> Halves:
        """One view's map."""
        one: Halves = self.maps[index // _CHUNK][index % _CHUNK, view]
        return one

    def cells(self, index: int, view: int, lesion: int) -> Bools:
        """Which cells of a view's map a lesion reaches into ``[rows, columns]``: none of a view
        that does not show it."""
        rows, columns = self.maps[0].shape[-2:]
        reached = np.zeros((rows, columns), np.bool_)
        box = self.shown[index][view].get(lesion)
        if box is not None:
            left, top, right, lower = np.array(box) * (columns, rows, columns, rows)
            reached[int(top) : math.ceil(lower), int(left) : math.ceil(right)] = True
        return reached

    def pooled(self) -> Tensor:
        """Pooled features of all views: float32 ``[studies, 4, channels]``."""
        return torch.from_numpy(np.concatenate(self.averages))

    def squares(self) -> Tensor:
        """Squared pooled differences ``[studies, 2, channels, windows]``."""
        return torch.from_numpy(np.concatenate(self.roots).astype(np.float32)) ** 2


def make_features(
    folder: Path,
    encoder: FrozenEncoder,
    prognosis: Prognoses,
    studies: Sequence[Study],
    tell: Callable[[int, int], None],
) -> FeatureSet:
    """Encode what is missing of some studies. A folder of another encoder's features is removed.

    `prognosis` says how differences of maps are pooled, for which it needs no weights.
    """
    name = encoder.fingerprint()
    for old in folder.glob("*"):
        if old.name != name:
            shutil.rmtree(old)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    kinds = ("maps", "roots", "pooled")
    chunks = []
    for start in range(0, len(studies), _CHUNK):
        stop = min(start + _CHUNK, len(studies))
        paths = [target / f"{kind}-{start:06d}-{stop:06d}.npy" for kind in kinds]
        if not all(path.exists() for path in paths):
            found = encoder([studies[index] for index in range(start, stop)])
            squares = prognosis.study_squares(found.maps.flatten(0, 1)[:, : len(RISK_CLASSES)])
            pooled = found.pooled.detach().float().cpu().numpy()
            for path, values in zip(
                paths, (to_halves(found.maps), to_halves(torch.sqrt(squares)), pooled), strict=True
            ):
                save_array(path, values)
        tell(stop, len(studies))
        chunks.append([np.load(path, mmap_mode="r") for path in paths])
    maps, roots, averages = ([chunk[place] for chunk in chunks] for place in range(len(kinds)))
    known = [studies[index] for index in range(len(studies))]
    shown = [shown_lesions(study) for study in known]
    return FeatureSet(maps, roots, averages, [study.truth for study in known], shown)


def shown_lesions(study: Study) -> list[Shown]:
    """What every view of a study shows, in the order of the standard views."""
    views = [study.views[view] for view in STANDARD_VIEWS]
    return [
        {
            lesion: tuple(box / np.array(view.image.shape[::-1] * 2))
            for lesion, box in zip(view.lesions, view.boxes, strict=True)
        }
        for view in views
    ]


@torch.no_grad()
def to_halves(values: Tensor) -> Halves:
    """Numbers as they are kept on disk."""
    limited = values.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return np.asarray(limited.half().cpu().numpy())


def save_array(path: Path, values: Halves | Floats) -> None:
    """Write an array, whole or not at all."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        np.save(file, values)
    temporary.replace(path)

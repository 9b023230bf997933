"""What the report head hears of studies: its projection of every cell, plain and varied.

The projection is made before the report is taught, see `report_start`, and then stays: taught, it
took from the features what tells one phantom from another. So its numbers are all that need be
kept, a tenth of the features, and pictures can be heard in several variations. The head is to learn
what lesions have in common. Taught with 1900 phantoms, plain, it told the findings of the same
phantoms with an F1 of 0.955, and of 600 others with 0.824.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from .data import Study
from .encoders import Encoded, FrozenEncoder
from .features import FeatureSet, Floats, Halves, save_array, to_halves

__all__ = ["VARIATIONS", "Heard", "Variations", "make_heard"]

VARIATIONS: Final = 1
"""Besides the pictures as they are."""

_TOGETHER: Final = 20


@dataclass(frozen=True)
class Heard:
    """Studies in one or several variations of their pictures.

    Attributes
    ----------
    variations
        float16 ``[studies, 4, dim, rows, columns]`` each, the first of pictures as they are.
    pooled
        Of the same pictures, what the encoder pools: float32 ``[studies, 4, channels]`` each.
    features
        Of the same studies: their truths, and which cells their lesions reach into.
    """

    variations: Sequence[Halves]
    pooled: Sequence[Floats]
    features: FeatureSet

    def view(self, study: int, place: int, variation: int = 0) -> Halves:
        """One view's cells: ``[dim, rows, columns]``."""
        one: Halves = self.variations[variation][study, place]
        return one


@dataclass(frozen=True)
class Variations:
    """How often studies are heard varied, besides plain, and what says what of them."""

    encoder: FrozenEncoder
    studies: Sequence[Study]
    count: int
    seed: int

    def chunks(self, number: int) -> Iterator[Encoded]:
        """What the encoder says of one variation."""
        random = np.random.default_rng([self.seed, number])
        for start in range(0, len(self.studies), _TOGETHER):
            stop = min(start + _TOGETHER, len(self.studies))
            yield self.encoder([self.studies[index] for index in range(start, stop)], random)


def make_heard(
    folder: Path,
    projection: nn.Linear,
    features: FeatureSet,
    variations: Variations,
    tell: Callable[[int, int], None],
) -> Heard:
    """Project what is missing of the features of some studies, and of their variations.

    Parameters
    ----------
    folder
        Where `make_features` put those features.
    """
    target, name = folder / variations.encoder.fingerprint(), _digest(projection)
    sources = [_plain(features), *(variations.chunks(place) for place in range(variations.count))]
    cells, pooled = [], []
    for number, chunks in enumerate(sources):
        paths = [target / f"{kind}-{name}-{number}.npy" for kind in ("heard", "heard-pooled")]
        if not all(path.exists() for path in paths):
            arrays = _gathered(len(features.truths), projection, chunks)
            for path, array in zip(paths, arrays, strict=True):
                save_array(path, array)
        tell(number + 1, len(sources))
        for found, path in zip((cells, pooled), paths, strict=True):
            found.append(np.load(path, mmap_mode="r"))
    return Heard(cells, pooled, features)


def _gathered(
    count: int, projection: nn.Linear, chunks: Iterable[Encoded]
) -> tuple[Halves, Floats]:
    """Projected and pooled features of so many studies.

    In arrays that are made whole at first: what stays of every chunk, between what is freed of it,
    would leave holes too small for the next one (23 GB of 6000 studies).
    """
    cells, pooled, done = np.empty(0, np.float16), np.empty(0, np.float32), 0
    for chunk in chunks:
        numbers = _projected(projection, chunk.maps)
        if not done:
            cells = np.empty((count, *numbers.shape[1:]), np.float16)
            pooled = np.empty((count, *chunk.pooled.shape[1:]), np.float32)
        stop = done + len(numbers)
        cells[done:stop], pooled[done:stop] = numbers, chunk.pooled.cpu().numpy()
        done = stop
    return cells, pooled


def _plain(features: FeatureSet) -> Iterator[Encoded]:
    for maps, pooled in zip(features.maps, features.averages, strict=True):
        yield Encoded(*(torch.from_numpy(np.array(one)).float() for one in (maps, pooled)))


@torch.no_grad()
def _projected(projection: nn.Linear, maps: Tensor) -> Halves:
    weight, bias = projection.weight, projection.bias[:, None, None]
    numbers = torch.einsum("nvcrk,dc->nvdrk", maps.to(weight.device), weight) + bias
    return to_halves(numbers)


def _digest(projection: nn.Linear) -> str:
    digest = hashlib.sha256()
    for tensor in (projection.weight, projection.bias):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

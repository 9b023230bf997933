"""Seeds whose phantoms hold what training would otherwise meet too seldom to learn.

After 35 minutes of crops and as much of whole views, masses and linear calcifications were told
from benign things (areas under the curve 0.95 to 0.99 by look), distortions and amorphous
calcifications not at all (0.32 and 0.45): one study in twenty-five had shown the former. Choosing
seeds changes what is practised; phantoms that are measured on are drawn as they come.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from types import MappingProxyType
from typing import Final

from mammofm_lite.errors import ExportError
from mammofm_lite.phantom import PhantomOptions
from mammofm_lite.phantom._plan import Planted
from mammofm_lite.phantom._render import draw_plan

__all__ = ["RARE", "rare_seeds"]

RARE: Final[Mapping[str, float]] = MappingProxyType(
    {"architectural_distortion": 0.2, "amorphous": 0.4, "focal_asymmetry": 0.4}
)
"""Looks that are sought, and the share of the seeds that each is sought for."""

_BATCH: Final = 64


def rare_seeds(
    seeds: Iterable[int], count: int, options: PhantomOptions, *, workers: int
) -> tuple[int, ...]:
    """The first seeds that hold rare looks, about `count` of them in the shares of `RARE`.

    Nothing is rendered: planning a phantom takes a hundredth of a second of one of the `workers`
    (processes; 0 plans in this one).

    Raises
    ------
    ExportError
        There are not enough among `seeds`.
    """
    missing = Counter({look: max(round(share * count), 1) for look, share in RARE.items()})
    found = []
    for seed, planned in _planned(seeds, options, workers):
        if looks := planned & set(+missing):
            missing.subtract(looks)
            found.append(seed)
        if not +missing:
            return tuple(found)
    raise ExportError(f"training: too few phantoms with {', '.join(+missing)} among the seeds")


def _planned(
    seeds: Iterable[int], options: PhantomOptions, workers: int
) -> Iterator[tuple[int, set[str]]]:
    """Seeds and what their phantoms hold, in order."""
    looks, source = partial(_looks, options=options), iter(seeds)
    if workers == 0:
        yield from ((seed, looks(seed)) for seed in source)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while batch := list(islice(source, _BATCH * workers)):
            yield from zip(batch, pool.map(looks, batch, chunksize=_BATCH // 4), strict=True)


def _looks(seed: int, options: PhantomOptions) -> set[str]:
    _, _, planned = draw_plan(seed, options)
    return {_look(lesion) for lesion in planned.lesions}


def _look(lesion: Planted) -> str:
    return lesion.descriptors.get("morphology", lesion.kind)

"""Prepared phantoms on disk: rendered once by worker processes, read as memory maps.

A folder holds chunks of studies, ``00012.npy`` (uint8 [studies, 4, height, width]) and
``00012.json`` (truths, and boxes in prepared pixels). A chunk is there whole or not at all, and
depends on nothing but its seeds and the options, so an interrupted run goes on where it stopped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mammofm_lite import phantom, prepare
from mammofm_lite.phantom import PhantomOptions, PhantomTruth, render_phantom
from mammofm_lite.prepare import PreprocessingSpec, prepare_view
from mammofm_lite.views import STANDARD_VIEWS, ViewName, laterality
from mammofm_lite.writers.files import write_atomically

__all__ = ["DataPlan", "Practice", "Study", "StudySet", "View", "make_studies"]

UInt8Array = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]

_CHUNK: Final = 10
_FIELD_MM: Final = (229.4, 191.4)
_DESCRIPTION: Final = "data.json"


@dataclass(frozen=True)
class DataPlan:
    """Which phantoms, rendered and prepared how.

    Attributes
    ----------
    seeds
        One study each.
    pixel_spacing_mm
        Coarser renders faster; it must stay below the spacing of prepared pixels, of which the
        smallest measure about 0.17 mm across, for training to see what inference sees.
    preprocessing
        That of the bundle.
    prevalence
        Share of studies with a cancer, as of the phantoms.
    """

    seeds: Sequence[int]
    pixel_spacing_mm: float
    preprocessing: PreprocessingSpec
    prevalence: float = PhantomOptions.prevalence

    @property
    def options(self) -> PhantomOptions:
        """Options of every phantom: the default field at this spacing and prevalence."""
        rows, columns = (round(side / self.pixel_spacing_mm) for side in _FIELD_MM)
        return PhantomOptions(
            rows=rows,
            columns=columns,
            pixel_spacing_mm=self.pixel_spacing_mm,
            prevalence=self.prevalence,
        )

    @property
    def chunks(self) -> list[Sequence[int]]:
        """Seeds of every chunk."""
        starts = range(0, len(self.seeds), _CHUNK)
        return [self.seeds[start : start + _CHUNK] for start in starts]

    def describe(self) -> dict[str, Any]:
        """All that the pixels depend on, apart from the seeds."""
        described = {
            "code": _code_digest(),
            "phantom": asdict(self.options),
            "preprocessing": asdict(self.preprocessing),
            "first_seed": self.seeds[0],
        }
        if not isinstance(self.seeds, range):  # which is told by where it starts, however long
            described["seeds"] = hashlib.sha256(str(tuple(self.seeds)).encode()).hexdigest()[:16]
        return described


@cache
def _code_digest() -> str:
    """Of the sources that draw and prepare phantoms: other code makes other pictures."""
    digest = hashlib.sha256()
    sources = [*Path(phantom.__file__).parent.glob("*.py"), Path(prepare.__file__)]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class View:
    """One prepared view of a study.

    Attributes
    ----------
    image
        uint8 [height, width].
    boxes
        Of the study's lesions that this view shows, float32 [n, 4] in prepared pixels.
    lesions
        Their places in the truth's list.
    precursor
        Box of a precursor that it shows, float32 [0 or 1, 4].
    """

    image: UInt8Array
    boxes: Boxes
    lesions: tuple[int, ...]
    precursor: Boxes


@dataclass(frozen=True)
class Study:
    """One study: its truth and its views."""

    truth: PhantomTruth
    views: Mapping[ViewName, View]


class StudySet(Sequence[Study]):
    """The studies of a folder that `make_studies` has filled."""

    def __init__(self, folder: Path, plan: DataPlan) -> None:
        self._folder = folder
        self._count = len(plan.seeds)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        chunk, place = divmod(range(self._count)[index], _CHUNK)
        images, records = self._chunks[chunk]
        truth, boxes = records[place]
        views = {
            view: _view(images[place, i], boxes[view]) for i, view in enumerate(STANDARD_VIEWS)
        }
        return Study(truth, views)

    def truths(self) -> Iterator[PhantomTruth]:
        """The truth of every study, in order."""
        for _, records in self._chunks:
            yield from (truth for truth, _ in records)

    @cached_property
    def _chunks(self) -> list[tuple[UInt8Array, list[tuple[PhantomTruth, dict[str, Any]]]]]:
        count = -(-self._count // _CHUNK)
        return [self._read(number) for number in range(count)]

    def _read(self, number: int) -> tuple[UInt8Array, list[tuple[PhantomTruth, dict[str, Any]]]]:
        images = np.load(self._folder / f"{number:05d}.npy", mmap_mode="r", allow_pickle=False)
        records = json.loads((self._folder / f"{number:05d}.json").read_text(encoding="utf-8"))
        return images, [(PhantomTruth.from_json(r["truth"]), r["boxes"]) for r in records]


class Practice(Sequence[Study]):
    """Some studies once and others several times over."""

    def __init__(self, once: Sequence[Study], often: Sequence[Study], times: int) -> None:
        self._once, self._often = once, often
        self._count = len(once) + max(times, 1) * len(often)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        place = range(self._count)[index] - len(self._once)
        return self._once[place] if place < 0 else self._often[place % len(self._often)]


def _view(image: UInt8Array, boxes: Mapping[str, Any]) -> View:
    def array(values: list[list[float]]) -> Boxes:
        return np.array(values, np.float32).reshape(-1, 4)

    return View(image, array(boxes["lesions"]), tuple(boxes["which"]), array(boxes["precursor"]))


def make_studies(
    folder: Path, plan: DataPlan, *, workers: int, tell: Callable[[int, int], None]
) -> StudySet:
    """Render what is missing of a plan's studies, and open all of them.

    A folder of other phantoms (other code, spacing or preprocessing) is emptied first.

    Parameters
    ----------
    workers
        Processes; 0 renders in this one.
    tell
        Called with studies done and studies in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _forget_others(folder, plan)
    missing = [
        (number, seeds)
        for number, seeds in enumerate(plan.chunks)
        if not (folder / f"{number:05d}.{len(seeds)}").exists()
    ]
    done = len(plan.seeds) - sum(len(seeds) for _, seeds in missing)
    tell(done, len(plan.seeds))
    for seeds in _rendered(folder, plan, missing, workers):
        done += len(seeds)
        tell(done, len(plan.seeds))
    return StudySet(folder, plan)


def _forget_others(folder: Path, plan: DataPlan) -> None:
    text = json.dumps(plan.describe(), indent=1) + "\n"
    path = folder / _DESCRIPTION
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    for old in folder.iterdir():
        old.unlink()
    write_atomically(path, text.encode())


def _rendered(
    folder: Path, plan: DataPlan, missing: Sequence[tuple[int, Sequence[int]]], workers: int
) -> Iterator[Sequence[int]]:
    if workers == 0:
        for number, seeds in missing:
            yield _make_chunk(folder, plan, number, seeds)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_make_chunk, folder, plan, *chunk) for chunk in missing]
        for future in as_completed(waiting):
            yield future.result()


def _make_chunk(folder: Path, plan: DataPlan, number: int, seeds: Sequence[int]) -> Sequence[int]:
    spec = plan.preprocessing
    images = np.empty((len(seeds), len(STANDARD_VIEWS), spec.height, spec.width), np.uint8)
    records = [_make_study(seed, plan, images[i]) for i, seed in enumerate(seeds)]
    for size in range(1, _CHUNK + 1):  # of the chunk as it was in a plan of more or fewer studies
        (folder / f"{number:05d}.{size}").unlink(missing_ok=True)
    temporary = folder / f"{number:05d}.npy.new"
    with temporary.open("wb") as file:
        np.save(file, images)
    temporary.replace(folder / f"{number:05d}.npy")
    write_atomically(folder / f"{number:05d}.json", (json.dumps(records) + "\n").encode())
    (folder / f"{number:05d}.{len(seeds)}").touch()  # last: the chunk is whole
    return seeds


def _make_study(seed: int, plan: DataPlan, images: UInt8Array) -> dict[str, Any]:
    """Render and prepare one study into `images`; what is known of it as JSON types."""
    options = plan.options
    truth, pictures = render_phantom(seed, options)
    boxes = {}
    for i, view in enumerate(STANDARD_VIEWS):
        prepared = prepare_view(
            pictures[view],
            photometric_interpretation=options.photometric_interpretation,
            rescale_slope=1.0,
            rescale_intercept=0.0,
            laterality=laterality(view),
            spec=plan.preprocessing,
        )
        images[i] = prepared.image
        which = [n for n, lesion in enumerate(truth.lesions) if view in lesion.boxes_px]
        known = [truth.lesions[n].boxes_px[view] for n in which]
        precursor = truth.precursor
        early = [precursor.boxes_px[view]] if precursor and view in precursor.boxes_px else []
        to_model = prepared.geometry.box_to_model
        boxes[view] = {
            "which": which,
            "lesions": [to_model(box).round(2).tolist() for box in known],
            "precursor": [to_model(box).round(2).tolist() for box in early],
        }
    return {"truth": truth.to_json(), "boxes": boxes}

"""Ask bundles about held-out phantoms, on each shift, and measure the answers."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from mammofm_lite import InferOptions, Model, __version__
from mammofm_lite.bundle import DESCRIPTION, Bundle
from mammofm_lite.errors import BundleError, UsageError
from mammofm_lite.phantom import PhantomOptions, PhantomTruth, write_phantom
from mammofm_lite.results import StudyResult

from ..seeds import HELD_OUT, TRAINING, VALIDATION
from .figures import (
    CALIBRATION_BINS,
    FALSE_MARKS_PER_IMAGE,
    Measure,
    confusion,
    measures,
)
from .metrics import HIT_IOU, interval
from .records import Record, record_of

__all__ = ["FORMAT", "SHIFTS", "EvaluationOptions", "evaluate", "with_low_threshold"]

FORMAT: Final = "mammofm-evaluation"
SHIFTS: Final = ("none", "vendor", "noise", "texture")
LARGEST_FALL: Final = 0.01
# Marks below this are no use at any operating point, and there are many of them.
_LOWEST_SCORE: Final = 0.01
_FIELD_MM: Final = (229.4, 191.4)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure on.

    Parameters
    ----------
    studies
        Held-out phantoms per condition, 2 to a million; the same seeds in every condition.
    shifts
        Conditions, out of `SHIFTS`; ``"none"`` is as in training.
    pixel_spacing_mm
        How finely the phantoms are rendered, on a field of 229 mm by 191 mm.
    replicates
        Of the bootstrap over studies.

    Raises
    ------
    UsageError
        An option is out of its range.
    """

    studies: int = 200
    shifts: tuple[str, ...] = SHIFTS
    pixel_spacing_mm: float = 0.1
    replicates: int = 1000
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.studies <= len(HELD_OUT):
            raise UsageError(f"studies must be from 2 to {len(HELD_OUT)}, not {self.studies}")
        if self.replicates < 100:
            raise UsageError("replicates must be 100 or more: fewer give no interval")
        if unknown := [shift for shift in self.shifts if shift not in SHIFTS]:
            raise UsageError(f"unknown shift {unknown[0]!r}; choose from {', '.join(SHIFTS)}")

    def phantom(self, shift: str) -> PhantomOptions:
        """How the phantoms of a condition are rendered."""
        rows, columns = (round(size / self.pixel_spacing_mm) for size in _FIELD_MM)
        return PhantomOptions(
            rows=rows,
            columns=columns,
            pixel_spacing_mm=self.pixel_spacing_mm,
            shift=shift,  # type: ignore[arg-type]
        )


class _Asked:
    """A bundle and its two models: as it is, and with marks far below its threshold."""

    def __init__(self, path: Path, scratch: Path, threads: int | None) -> None:
        self.model = Model.load(path, threads=threads)
        self.bundle = self.model.bundle
        self._wide: Model | None = None
        if self.bundle.localization:
            self._wide = Model.load(with_low_threshold(self.bundle, scratch), threads=threads)

    def record(self, truth: Any, study: Path) -> Record:
        """Ask both, and lay the answers beside the truth."""
        wide = None
        if self._wide:
            wide = self._wide.infer(study, InferOptions(("localization",))).localization
        return record_of(truth, self._answer(study), wide, self.bundle)

    def _answer(self, study: Path) -> StudyResult:
        """All heads; a report that the grammar cannot read counts as none."""
        try:
            return self.model.infer(study)
        except BundleError:
            others = tuple(head for head in self.bundle.heads if head != "report")
            if len(others) == len(self.bundle.heads):
                raise
            return self.model.infer(study, InferOptions(others))


def with_low_threshold(bundle: Bundle, folder: Path) -> Path:
    """A copy of a bundle, in the new folder `folder`, that shows nearly every mark it finds."""
    folder.mkdir()
    for name in bundle.files:
        shutil.copy(bundle.file(name), folder / name)
    description = json.loads((bundle.path / DESCRIPTION).read_text(encoding="utf-8"))
    _lower(description["heads"]["localization"])
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    return folder


def _lower(value: Any) -> None:
    """Every threshold below a head, whichever way its members are nested."""
    if isinstance(value, dict):
        if "threshold" in value:
            value["threshold"] = min(_LOWEST_SCORE, value["threshold"])
        for part in value.values():
            _lower(part)
    elif isinstance(value, list):
        for part in value:
            _lower(part)


def evaluate(
    bundles: Sequence[Path], options: EvaluationOptions | None = None, tell: Tell | None = None
) -> dict[str, Any]:
    """Measure bundles side by side, on the same studies.

    Parameters
    ----------
    bundles
        One or more; the others are compared with the first.
    tell
        Is given a line of progress now and then.

    Returns
    -------
    dict
        JSON types: ``machine``, ``software``, ``settings``, and ``bundles`` with the figures of
        each condition; of all but the first also how they differ from the first.

    Raises
    ------
    BundleError, UsageError
        A bundle or an option is unusable.
    """
    options = options or EvaluationOptions()
    if not bundles:
        raise UsageError("no bundle to measure")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        asked = [
            _Asked(path, scratch / f"bundle{i}", options.threads) for i, path in enumerate(bundles)
        ]
        results = [_described(item.bundle) for item in asked]
        for shift in options.shifts:
            records = _ask(asked, shift, options, scratch, tell or _silent)
            _measure(asked, results, records, shift, options)
        software = _software(asked[0], scratch)
    return {
        "format": FORMAT,
        "version": 1,
        "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0))},
        "software": software,
        "settings": _settings(options),
        "seconds": round(time.perf_counter() - start, 1),
        "bundles": results,
    }


def _silent(line: str) -> None:
    """Nobody asked."""


def _ask(
    asked: Sequence[_Asked], shift: str, options: EvaluationOptions, scratch: Path, tell: Tell
) -> list[list[Record]]:
    """Records per bundle, in the order of the seeds."""
    records: list[list[Record]] = [[] for _ in asked]
    start = time.perf_counter()
    for done, (truth, study) in enumerate(_drawn(shift, options, scratch), start=1):
        for item, kept in zip(asked, records, strict=True):
            kept.append(item.record(truth, study))
        if done % 10 == 0 or done == options.studies:
            each = (time.perf_counter() - start) / done
            left = each * (options.studies - done) / 60
            tell(f"shift {shift}: {done} of {options.studies} studies, {left:.1f} min left")
    return records


def _drawn(
    shift: str, options: EvaluationOptions, scratch: Path
) -> Iterator[tuple[PhantomTruth, Path]]:
    """Truth and folder of every study; the next one is drawn while its forerunner is asked about.

    A folder is used again for the study after the next.
    """
    folders, settings = (scratch / "study", scratch / "next-study"), options.phantom(shift)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        waiting: Future[PhantomTruth] | None = None
        for place, seed in enumerate(HELD_OUT[: options.studies]):
            truth = (waiting or pool.submit(_draw, folders[place % 2], seed, settings)).result()
            if place + 1 < options.studies:
                waiting = pool.submit(_draw, folders[(place + 1) % 2], seed + 1, settings)
            yield truth, folders[place % 2]


def _draw(folder: Path, seed: int, options: PhantomOptions) -> PhantomTruth:
    return write_phantom(folder, seed=seed, options=options)


def _measure(
    asked: Sequence[_Asked],
    results: Sequence[dict[str, Any]],
    records: Sequence[Sequence[Record]],
    shift: str,
    options: EvaluationOptions,
) -> None:
    """Add the figures of one condition to the results."""
    first: dict[str, tuple[Any, Any]] = {}
    for item, result, kept in zip(asked, results, records, strict=True):
        mine: dict[str, tuple[Any, Any]] = {}
        for measure in measures(kept, item.bundle.heads, shifted=shift != "none"):
            figure, drawn = measure.figure(len(kept), options.replicates)
            if measure.name in first:
                figure["against_first"] = _difference(measure, figure, drawn, first[measure.name])
            mine[measure.name] = (figure, drawn)
        first = first or mine
        condition: dict[str, Any] = {"figures": [figure for figure, _ in mine.values()]}
        if "density" in mine:
            condition["density_confusion"] = confusion(kept)
        result["conditions"][shift] = condition


def _difference(
    measure: Measure, figure: Mapping[str, Any], drawn: Any, first: tuple[Any, Any]
) -> dict[str, Any] | None:
    """This bundle minus the first on the same studies, with a paired interval."""
    other, other_drawn = first
    if figure["value"] is None or other["value"] is None:
        return None
    between = interval(drawn - other_drawn)
    change = figure["value"] - other["value"]
    fall = -change if measure.higher else change
    return {
        "change": change,
        "low": between.low if between else None,
        "high": between.high if between else None,
        "within_0.01": bool(fall <= LARGEST_FALL) if measure.quality else None,
    }


def _described(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "precision": bundle.precision,
        "megabytes": round(sum(record.bytes for record in bundle.files.values()) / 1e6, 1),
        "intended_use": bundle.intended_use,
        "licence": bundle.weights.licence,
        "notice": bundle.weights.notice,
        "synthetic": bundle.weights.synthetic,
        "heads": list(bundle.heads),
        "input": [bundle.preprocessing.height, bundle.preprocessing.width],
        "conditions": {},
    }


def _software(asked: _Asked, scratch: Path) -> dict[str, Any]:
    software = asked.model.infer(scratch / "study", InferOptions(asked.bundle.heads[:1])).software
    return {
        "mammofm_lite": __version__,
        "openvino": software.openvino,
        "instruction_set": software.instruction_set,
        "cpu": software.cpu,
        "threads": software.threads,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _settings(options: EvaluationOptions) -> dict[str, Any]:
    seeds = HELD_OUT[: options.studies]
    return {
        "studies": options.studies,
        "shifts": list(options.shifts),
        "seeds": [seeds[0], seeds[-1]],
        "training_seeds_below": TRAINING.stop,
        "validation_seeds_below": VALIDATION.stop,
        "pixel_spacing_mm": options.pixel_spacing_mm,
        "prevalence": options.phantom("none").prevalence,
        "difficulty": options.phantom("none").difficulty,
        "bootstrap_replicates": options.replicates,
        "calibration_bins": CALIBRATION_BINS,
        "false_marks_per_image": FALSE_MARKS_PER_IMAGE,
        "hit": f"centre of the mark in the lesion's box, or IoU of {HIT_IOU} or more",
    }

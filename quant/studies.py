"""The studies that a bundle is calibrated on, and those held out to judge it."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mammofm_lite.dicom import Study, read_study
from mammofm_lite.errors import ExportError, StudyError
from mammofm_lite.phantom import PhantomTruth, write_phantom
from mammofm_lite.progress import StageReporter

__all__ = ["Case", "Found", "Preparer", "StudyChoice", "StudySets", "find_studies", "study_sets"]

# Seeds of phantoms: far from those that people and training runs choose, and from each other.
_CALIBRATION_SEED: Final = 5_000_000
_HELD_OUT_SEED: Final = 6_000_000
TRUTH_FILE: Final = "truth.json"  # as the phantom command names it
_HELD_OUT_EVERY: Final = 4  # of a folder without held-out studies of its own, one in four

Tell = Callable[[str], None]


class Preparer(Protocol):
    """What reads, decodes and prepares: the runtime's `Model`."""

    def prepare(self, study: Any, reporter: StageReporter) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Case:
    """One study, prepared by the runtime; `truth` of a phantom, else ``None``."""

    prepared: Any
    truth: PhantomTruth | None = None

    @property
    def uid(self) -> str:
        """Study Instance UID: never written, it only tells studies apart."""
        return str(self.prepared.study.study_instance_uid)

    @property
    def views(self) -> int:
        """How many views were prepared."""
        return len(self.prepared.views)


@dataclass(frozen=True)
class StudyChoice:
    """Where the studies come from.

    Parameters
    ----------
    calibration, held_out
        Folders of DICOM studies, of any depth.
    phantoms
        How many synthetic studies to calibrate on, besides; a quarter as many, at least two, are
        held out.

    Raises
    ------
    ExportError
        Nothing to calibrate on is named.
    """

    calibration: Path | None = None
    held_out: Path | None = None
    phantoms: int = 0

    def __post_init__(self) -> None:
        if self.calibration is None and not self.phantoms:
            raise ExportError("nothing to calibrate on: give --calibration DIR or --phantoms N")


@dataclass(frozen=True)
class StudySets:
    """Both sets, with no study in common, and how they were told apart."""

    calibration: tuple[Case, ...]
    held_out: tuple[Case, ...]
    split: str
    skipped: int

    def to_json(self) -> dict[str, Any]:
        """Counts alone: nothing of a patient enters a bundle."""
        return {
            "calibration_studies": len(self.calibration),
            "calibration_views": sum(case.views for case in self.calibration),
            "held_out_studies": len(self.held_out),
            "held_out_views": sum(case.views for case in self.held_out),
            "held_out_with_truth": sum(case.truth is not None for case in self.held_out),
            "split": self.split,
            "skipped_studies": self.skipped,
        }


def study_sets(choice: StudyChoice, preparer: Preparer, tell: Tell) -> StudySets:
    """Read and prepare all studies.

    Raises
    ------
    ExportError
        A folder holds no usable study, too few to hold one out, or one that is in both sets.
    """
    splits: list[str] = []
    reader = _Reader(preparer, tell)
    given: list[Case] = []
    held_out: list[Case] = []
    if choice.calibration:
        given = reader.folder(choice.calibration, "calibration")
    if choice.held_out:
        held_out = reader.folder(choice.held_out, "held-out")
        splits.append("held-out studies from a folder of their own")
    elif given:
        given, held_out = _split(given)
        splits.append(f"of the folder every {_HELD_OUT_EVERY}th study, and the last, is held out")
    if choice.phantoms:
        given += reader.phantoms(_CALIBRATION_SEED, choice.phantoms)
        seeds = f"{_CALIBRATION_SEED}"
        if not choice.held_out:
            held_out += reader.phantoms(_HELD_OUT_SEED, _held_out_phantoms(choice.phantoms))
            seeds += f", held out from seed {_HELD_OUT_SEED}"
        splits.append(f"phantoms from seed {seeds}")
    _check_disjoint(given, held_out)
    return StudySets(tuple(given), tuple(held_out), "; ".join(splits), reader.skipped)


def _held_out_phantoms(count: int) -> int:
    return max(2, count // _HELD_OUT_EVERY)


def _split(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    if len(cases) < 2:
        raise ExportError(
            "the calibration folder holds one usable study, and one more must be held out to judge "
            "the result; add studies or give --held-out DIR"
        )
    last = len(cases) - 1
    held = [i for i in range(len(cases)) if i == last or i % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1]
    return [cases[i] for i in range(len(cases)) if i not in held], [cases[i] for i in held]


def _check_disjoint(calibration: Sequence[Case], held_out: Sequence[Case]) -> None:
    uids = [case.uid for case in (*calibration, *held_out)]
    if len(set(uids)) != len(uids):
        raise ExportError(
            "a study is given twice, by its Study Instance UID; a study that calibrates must not "
            "judge: take it out of one folder"
        )


class _Reader:
    def __init__(self, preparer: Preparer, tell: Tell) -> None:
        self._preparer = preparer
        self._tell = tell
        self.skipped = 0

    def folder(self, root: Path, what: str) -> list[Case]:
        if not root.is_dir():
            raise ExportError(f"the {what} folder does not exist")
        cases = []
        for number, found in enumerate(find_studies(root), start=1):
            try:
                if isinstance(found.study, StudyError):
                    raise found.study
                cases.append(Case(self._prepared(found.study), _truth(found.place)))
            except StudyError as error:
                self.skipped += 1
                self._tell(f"        {what} study {number} skipped: {error}")
        if not cases:
            raise ExportError(f"the {what} folder holds no study that can be used")
        return cases

    def phantoms(self, first: int, count: int) -> list[Case]:
        """Rendered, read as any study, and gone."""
        cases = []
        for seed in range(first, first + count):
            with tempfile.TemporaryDirectory() as scratch:
                truth = write_phantom(Path(scratch), seed=seed)
                cases.append(Case(self._prepared(Path(scratch)), truth))
        return cases

    def _prepared(self, study: Study | Path) -> Any:
        """All views are done when the block is left."""
        with self._preparer.prepare(study, StageReporter(None)) as prepared:
            return prepared


def _truth(place: Path) -> PhantomTruth | None:
    """What the phantom command wrote beside its pictures; no other study has it."""
    path = place / TRUTH_FILE
    if not path.is_file():
        return None
    try:
        return PhantomTruth.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ExportError(
            f"{TRUTH_FILE} of a phantom is not JSON; write the phantom anew"
        ) from error


@dataclass(frozen=True)
class Found:
    """A place that holds one study, or why it cannot be used."""

    place: Path
    study: Study | StudyError


def find_studies(root: Path) -> Iterator[Found]:
    """Every study under a folder, in the order of names.

    What `read_study` accepts as one study is one; where it does not, for there may be several, the
    sub-folders and zips are looked at one by one. A place without any of them that cannot be used
    gives the reason.
    """
    try:
        yield Found(root, read_study(root))
    except StudyError as error:
        inside = _inside(root)
        if not inside:
            yield Found(root, error)
        for path in inside:
            yield from find_studies(path)


def _inside(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(
        path
        for path in root.iterdir()
        if not path.is_symlink() and (path.is_dir() or path.suffix.lower() == ".zip")
    )

"""Views are decoded and prepared ahead of those who use them, a few at once."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from .dicom import Instance, Study, read_pixels
from .errors import StudyError
from .prepare import PreparedView, PreprocessingSpec, prepare_view
from .progress import StageEvent, StageReporter
from .views import STANDARD_VIEWS, ViewName

__all__ = ["MOST_AT_ONCE", "PixelsTaker", "PreparedViews"]

MOST_AT_ONCE: Final = 2
"""Views in work at one time: each takes about 150 MB while 4096 x 3328 of JPEG 2000 decode."""

PixelsTaker = Callable[[Instance, npt.NDArray[np.integer[Any]], PreparedView], None]


@dataclass(frozen=True)
class _Work:
    """What is done to a view, whichever thread does it."""

    spec: PreprocessingSpec
    decoder_threads: int
    take_pixels: PixelsTaker | None

    def __call__(self, instance: Instance) -> "_Outcome":
        start = time.perf_counter()
        try:
            stored = read_pixels(instance, self.decoder_threads)
        except StudyError as error:
            return _Outcome(None, error, None, None)
        decoded = time.perf_counter()
        try:
            prepared = prepare_view(
                stored,
                photometric_interpretation=instance.photometric_interpretation,
                rescale_slope=instance.rescale_slope,
                rescale_intercept=instance.rescale_intercept,
                laterality=instance.laterality,
                spec=self.spec,
                pixel_spacing_mm=instance.pixel_spacing_mm,
                background=instance.background,
            )
        except StudyError as error:
            return _Outcome(None, error, decoded - start, None)
        done = time.perf_counter()
        if self.take_pixels is not None:
            self.take_pixels(instance, stored, prepared)
        return _Outcome(prepared, None, decoded - start, done - decoded)


@dataclass(frozen=True)
class _Outcome:
    """A prepared view, or why there is none; seconds of the stages that ended."""

    prepared: PreparedView | None
    error: StudyError | None
    decode_s: float | None
    prepare_s: float | None


class PreparedViews(Mapping[ViewName, PreparedView]):
    """The usable views of a study, in the order of `STANDARD_VIEWS`; waits for what is asked for.

    With more than one thread, up to `MOST_AT_ONCE` views are in work in threads of their own, from
    the begin of the ``with`` block on, so that one view can be encoded while others are decoded.
    No such thread is left when the block ends, however it ends. With one thread every view is done
    when it is asked for. What comes out is the same.

    The observer is called by the thread that asks and never by another: per view the begin and end
    of ``decode``, then of ``prepare``, with the seconds that the work took, waiting apart.

    Parameters
    ----------
    study
        Its views; one that cannot be used is left out, see `failures`.
    spec
        Of the bundle.
    threads
        Of the model.
    take_pixels
        Called once per usable view with its stored pixels before they are let go, in the thread
        that decoded them, so perhaps by two at once; what it raises ends the iteration.
    """

    def __init__(
        self,
        study: Study,
        spec: PreprocessingSpec,
        threads: int,
        reporter: StageReporter,
        take_pixels: PixelsTaker | None = None,
    ) -> None:
        at_once = min(MOST_AT_ONCE, threads, max(len(study.views), 1))
        self._work = _Work(spec, threads // at_once, take_pixels)
        self._instances = [study.views[view] for view in STANDARD_VIEWS if view in study.views]
        self._pool = ThreadPoolExecutor(at_once, "mammofm-view") if at_once > 1 else None
        self._outcomes: Iterator[_Outcome] = iter(())
        self._next = 0
        self._reporter = reporter
        self._done: dict[ViewName, PreparedView] = {}
        self._failures: dict[ViewName, str] = {}

    def __enter__(self) -> Self:
        mapped = self._pool.map if self._pool else map
        self._outcomes = iter(mapped(self._work, self._instances))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            if self._pool:
                self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[ViewName]:
        seen = 0
        while seen < len(self._done) or self._advance():
            if seen < len(self._done):
                yield list(self._done)[seen]
                seen += 1

    def __len__(self) -> int:
        self._finish()
        return len(self._done)

    def __getitem__(self, view: ViewName) -> PreparedView:
        while view not in self._done and self._advance():
            pass
        return self._done[view]

    @property
    def failures(self) -> Mapping[ViewName, str]:
        """Why views cannot be used; waits for all views."""
        self._finish()
        return self._failures

    def _finish(self) -> None:
        while self._advance():
            pass

    def _advance(self) -> bool:
        """Take the next view, usable or not; whether there was one."""
        if self._next == len(self._instances):
            return False
        instance = self._instances[self._next]
        self._next += 1
        self._tell("decode", instance, None)
        outcome = next(self._outcomes)
        if outcome.decode_s is not None:
            self._tell("decode", instance, outcome.decode_s)
            self._tell("prepare", instance, None)
        if outcome.prepare_s is not None:
            self._tell("prepare", instance, outcome.prepare_s)
        if outcome.prepared is not None:
            self._done[instance.view] = outcome.prepared
        if outcome.error is not None:
            self._failures[instance.view] = str(outcome.error)
        return True

    def _tell(self, stage: str, instance: Instance, seconds: float | None) -> None:
        self._reporter.tell(StageEvent(stage, instance.view, seconds))

"""What happens while a study is processed, told to whoever asked: events and their durations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .errors import CancelledError

__all__ = ["Cancelled", "Observer", "StageEvent", "StageReporter"]


@dataclass(frozen=True)
class StageEvent:
    """One step, when it begins (`seconds` is ``None``) and when it has ended.

    `stage` is ``read``, ``decode``, ``prepare``, ``encode``, a head's name, ``text``, ``ask``,
    ``compile`` or ``write``; `detail` names the view or graph, or a text by its number.
    """

    stage: str
    detail: str
    seconds: float | None


# Called only by the thread that called `Model.infer`, whichever thread did the work.
Observer = Callable[[StageEvent], None]
# Asked by the same thread between stages, and between the tokens of a report.
Cancelled = Callable[[], bool]


class StageReporter:
    """Times stages with a monotonic clock and tells the observer, if there is one."""

    def __init__(self, observer: Observer | None, cancelled: Cancelled | None = None) -> None:
        self._observer = observer
        self._cancelled = cancelled

    def check_cancelled(self) -> None:
        """Raises `CancelledError` where the caller wants to end."""
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("cancelled by the caller")

    @contextmanager
    def stage(self, stage: str, detail: str = "") -> Iterator[None]:
        """Report the begin and, unless the block raises, the end of one stage."""
        self.tell(StageEvent(stage, detail, None))
        start = time.perf_counter()
        yield
        self.tell(StageEvent(stage, detail, time.perf_counter() - start))

    def tell(self, event: StageEvent) -> None:
        """Pass on an event of a stage that was timed elsewhere."""
        if event.seconds is None:
            self.check_cancelled()
        if self._observer is not None:
            self._observer(event)

"""Progress for a person: one line on a terminal, rewritten; a line per stage elsewhere."""

import sys
from types import TracebackType
from typing import Self

from .progress import StageEvent

__all__ = ["Progress"]

LONGEST = 60


class Progress:
    """An observer of stages that writes to stderr. Silent when `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._stream = None if quiet else sys.stderr
        self._rewrites = bool(self._stream and self._stream.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream and self._rewrites:
            self._stream.write("\r" + " " * LONGEST + "\r")
            self._stream.flush()

    def __call__(self, event: StageEvent) -> None:
        if self._stream is None:
            return
        text = f"{event.stage} {event.detail}".strip()
        if self._rewrites:
            if event.seconds is None:
                self._stream.write(f"\r{text[:LONGEST]:<{LONGEST}}")
                self._stream.flush()
        elif event.seconds is not None:
            self._stream.write(f"{text}: {event.seconds:.2f} s\n")

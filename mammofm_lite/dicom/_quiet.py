"""Keeps the DICOM library from writing a study's values and paths to stderr or to a log."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet"]

_lock = threading.Lock()
_inside = 0
_saved: list[Any] = []


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log records of pydicom leave the block.

    Its messages quote attribute values and file names ("Invalid value for VR ..."), which can
    identify a patient. Blocks may nest and overlap over threads: the first one in switches the
    messages off and the last one out back on.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _lock:
        if _inside == 0:
            logger = logging.getLogger("pydicom")
            catcher = warnings.catch_warnings()
            catcher.__enter__()
            warnings.simplefilter("ignore")
            _saved[:] = [catcher, logger, logger.propagate, logger.handlers[:]]
            logger.propagate = False
            logger.handlers[:] = [logging.NullHandler()]
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            catcher, logger, logger.propagate, logger.handlers[:] = _saved
            catcher.__exit__(None, None, None)
            _saved.clear()

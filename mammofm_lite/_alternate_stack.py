"""What OpenVINO does to the stack of signal handlers, undone.

Its CPU plugin gives the thread that creates it another alternate signal stack (sigaltstack(2)),
and when it goes, puts back the one that it found, if its own is still in use. Several plugins that
go in another order than they came, or in another thread, leave a thread with a stack that is no
longer mapped; the next signal with a handler on it, and Python's all are, kills the process.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["own_alternate_stack"]


class _Stack(ctypes.Structure):
    """``stack_t`` of signal.h on Linux."""

    _fields_ = (
        ("ss_sp", ctypes.c_void_p),
        ("ss_flags", ctypes.c_int),
        ("ss_size", ctypes.c_size_t),
    )


@contextmanager
def own_alternate_stack() -> Iterator[None]:
    """Whatever is done meanwhile, this thread has the alternate signal stack that it had."""
    system, own = ctypes.CDLL(None), _Stack()
    system.sigaltstack(None, ctypes.byref(own))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(own), None)

"""Mammo-FM on a CPU: four heads for DICOM mammography studies. Not a medical device.

>>> from mammofm_lite import Model
>>> result = Model.load().infer("study/")   # doctest: +SKIP
>>> result.recall, result.report             # doctest: +SKIP

Importing this package is cheap; OpenVINO is loaded when `Model` is first touched.
"""

import logging
from typing import TYPE_CHECKING, Any

from .errors import (
    BundleError,
    CancelledError,
    ExportError,
    KernelError,
    MammoFMError,
    StudyError,
    UsageError,
)

if TYPE_CHECKING:
    from .arrays import ArrayView, array_study
    from .ask import AskResult
    from .bundle import Bundle
    from .engine import InferOptions, Model
    from .progress import StageEvent
    from .results import StudyResult

__all__ = [
    "ArrayView",
    "AskResult",
    "Bundle",
    "BundleError",
    "CancelledError",
    "ExportError",
    "InferOptions",
    "KernelError",
    "MammoFMError",
    "Model",
    "StageEvent",
    "StudyError",
    "StudyResult",
    "UsageError",
    "__version__",
    "array_study",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

_LAZY = {
    "ArrayView": "arrays",
    "AskResult": "ask",
    "Bundle": "bundle",
    "InferOptions": "engine",
    "Model": "engine",
    "StageEvent": "progress",
    "StudyResult": "results",
    "array_study": "arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)

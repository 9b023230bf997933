"""The pixel steps and the geometry of the compiled library, as numpy sees them.

They are written once, in C++ (``c_ext/src/runtime``), for this runtime and for ``libmammofm``.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .errors import StudyError
from .native import compiled_library

__all__ = ["Picture", "Steps", "along_axis", "crop_runs", "prepare", "resize_area"]

UInt8Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Runs = tuple[tuple[int, int], ...]

_DIRECT: Final = ("uint8", "int8", "uint16", "int16", "int32")  # what the library reads in place
_STUDY_FAILURE: Final = 3  # MFM_ERROR_STUDY
_INT32: Final = np.iinfo(np.int32)
_int32, _int64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class _Preparation(ctypes.Structure):
    """``mammofm_preparation`` of python_api.cpp, field by field."""

    _fields_ = (
        ("pixels", _pointer), ("rows", _int64), ("columns", _int64), ("stride_bytes", _int64),
        ("bytes", _int32), ("is_signed", _int32), ("photometric", _int32), ("has_padding", _int32),
        ("padding_low", _int32), ("padding_high", _int32), ("rescale_slope", ctypes.c_double),
        ("rescale_intercept", ctypes.c_double), ("hidden", _pointer), ("height", _int64),
        ("width", _int64), ("border_px", _int64), ("background_threshold", _int64),
        ("mirrored", _int32), ("masked", _int32), ("image", _pointer), ("row_runs", _pointer),
        ("column_runs", _pointer), ("row_run_count", _int64), ("column_run_count", _int64),
        ("error", ctypes.c_char * 512),
    )  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """What is done to a view.

    `padding` are the stored values that are no image, both ends included; `hidden` is bool
    [rows, columns].
    """

    inverted: bool
    rescale: tuple[float, float]
    size: tuple[int, int]
    border_px: int
    background_threshold: int
    mirrored: bool
    padding: tuple[int, int] | None
    hidden: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Picture:
    """A prepared view, the runs that were kept, and which masks were applied."""

    image: UInt8Image
    row_runs: Runs
    column_runs: Runs
    padding_masked: bool
    hidden_masked: bool


def prepare(stored: npt.NDArray[np.integer[Any]], steps: Steps) -> Picture:
    """Steps 1 to 6 of the reference (facts, section 7) on stored values [rows, columns].

    Raises
    ------
    StudyError
        The image makes no picture.
    """
    stored = _readable(stored)
    rows, columns = stored.shape
    image = np.empty(steps.size, np.uint8)
    row_runs, column_runs = np.empty((rows, 2), np.int64), np.empty((columns, 2), np.int64)
    hidden = None if steps.hidden is None else np.ascontiguousarray(steps.hidden, np.uint8)
    job = _Preparation(
        pixels=stored.ctypes.data, rows=rows, columns=columns, stride_bytes=stored.strides[0],
        bytes=stored.itemsize, is_signed=int(stored.dtype.kind == "i"),
        photometric=1 if steps.inverted else 2,
        rescale_slope=steps.rescale[0], rescale_intercept=steps.rescale[1],
        hidden=None if hidden is None else hidden.ctypes.data,
        height=steps.size[0], width=steps.size[1], border_px=steps.border_px,
        background_threshold=steps.background_threshold, mirrored=int(steps.mirrored),
        image=image.ctypes.data, row_runs=row_runs.ctypes.data,
        column_runs=column_runs.ctypes.data,
    )  # fmt: skip
    _set_padding(job, steps.padding)
    status = compiled_library().mammofm_prepare(ctypes.byref(job))
    if status == _STUDY_FAILURE:
        raise StudyError(job.error.decode())
    _check(status)
    return Picture(
        image,
        _pairs(row_runs, job.row_run_count),
        _pairs(column_runs, job.column_run_count),
        bool(job.masked & 1),
        bool(job.masked & 2),
    )


def crop_runs(grey: UInt8Image, background_threshold: int) -> tuple[Runs, Runs]:
    """Row runs and column runs that the reference keeps of uint8 [rows, columns]."""
    grey = np.ascontiguousarray(grey)
    rows, columns = grey.shape
    row_runs, column_runs = np.empty((rows, 2), np.int64), np.empty((columns, 2), np.int64)
    counts = np.empty(2, np.int64)
    _check(
        compiled_library().mammofm_crop_runs(
            _pointer(grey.ctypes.data), _int64(rows), _int64(columns), _int32(background_threshold),
            _pointer(row_runs.ctypes.data), _pointer(column_runs.ctypes.data),
            _pointer(counts.ctypes.data),
        )
    )  # fmt: skip
    return _pairs(row_runs, int(counts[0])), _pairs(column_runs, int(counts[1]))


def resize_area(image: UInt8Image, height: int, width: int) -> UInt8Image:
    """OpenCV's INTER_AREA of uint8 [rows, columns], not empty."""
    image = np.ascontiguousarray(image)
    out = np.empty((height, width), np.uint8)
    _check(
        compiled_library().mammofm_resize_area(
            _pointer(image.ctypes.data), *map(_int64, (*image.shape, height, width)),
            _pointer(out.ctypes.data),
        )
    )  # fmt: skip
    return out


def along_axis(runs: Runs, model_size: int, mirrored: bool, edge: int, values: Floats) -> Floats:
    """Coordinates along one axis of a view's geometry, float64 of any shape.

    `edge` says what a prepared coordinate is on its way to the original: 0 a point, 1 the low and
    2 the high edge of a box; -1 is the way from original to prepared.
    """
    values = np.asarray(values, np.float64, order="C")  # ascontiguousarray adds an axis to a scalar
    edges = np.array(runs, np.int64)
    out = np.empty_like(values)
    _check(
        compiled_library().mammofm_along_axis(
            _pointer(edges.ctypes.data), _int64(len(runs)), _int64(model_size),
            _int32(mirrored), _int32(edge), _pointer(values.ctypes.data), _int64(values.size),
            _pointer(out.ctypes.data),
        )
    )  # fmt: skip
    return out


def _readable(stored: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """The same values, rows without gaps between their pixels, of a type that the library reads.

    Raises
    ------
    StudyError
        A value does not fit into 32 bits.
    """
    if stored.dtype.name not in _DIRECT or not stored.dtype.isnative:
        low, high = int(stored.min()), int(stored.max())
        if low < _INT32.min or high > _INT32.max:
            raise StudyError(f"stored values {low} to {high} are not those of an image of 32 bits")
        stored = stored.astype(np.int32)
    in_place = stored.strides[1] == stored.itemsize and stored.strides[0] > 0
    return stored if in_place else np.ascontiguousarray(stored)


def _set_padding(job: _Preparation, padding: tuple[int, int] | None) -> None:
    """Values beyond 32 bits are those of no pixel."""
    if padding is None or padding[1] < _INT32.min or padding[0] > _INT32.max:
        return
    job.has_padding = 1
    job.padding_low, job.padding_high = (
        min(max(value, int(_INT32.min)), int(_INT32.max)) for value in padding
    )


def _pairs(runs: npt.NDArray[np.int64], count: int) -> Runs:
    return tuple((int(start), int(stop)) for start, stop in runs[:count])


def _check(status: int) -> None:
    if status != 0:
        raise MemoryError

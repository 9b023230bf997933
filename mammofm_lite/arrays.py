"""Views as numpy arrays in place of DICOM files: what a program passes on that reads DICOM itself.

The same checks, and the same answers, as ``mfm_model_run`` of ``mammofm.h``.

>>> from mammofm_lite import ArrayView, Model, array_study
>>> view = ArrayView(pixels, "L-CC", pixel_spacing_mm=(0.07, 0.07))     # doctest: +SKIP
>>> Model.load().infer(array_study([view])).diagnosis                   # doctest: +SKIP
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .background import NO_BACKGROUND, Background
from .dicom import FileDecision, GivenPixels, Instance, Study, VoiLut
from .dicom._pixels import MAX_PIXELS, MAX_SIDE_PX
from .errors import UsageError
from .views import STANDARD_VIEWS, ViewName, laterality

__all__ = ["ArrayView", "array_study"]

_TYPES: Final = ("uint8", "int8", "uint16", "int16")
_UID: Final = re.compile(r"[0-9.]{1,64}")
_MOST_SPACING_MM: Final = 100.0  # far beyond any detector; no product of it overflows
_SOURCE: Final = "caller"  # what the result says of where the pixel spacing comes from


@dataclass(frozen=True)
class ArrayView:
    """One mammogram: stored values as a DICOM For Presentation image holds them, decoded.

    Parameters
    ----------
    pixels
        uint8, int8, uint16 or int16 [rows, columns], of any strides; no VOI LUT applied. Read
        while `Model.infer` runs, so not to be changed meanwhile.
    view
        What it shows.
    photometric_interpretation
        ``"MONOCHROME1"`` or ``"MONOCHROME2"``.
    rescale_slope, rescale_intercept
        The linear Modality LUT.
    pixel_spacing_mm
        Distance of rows, then of columns, at the breast; ``None`` where it is unknown.
    sop_instance_uid
        Stands in the result, so that views can be told apart; may be empty.
    bits_stored
        8 to 16; a value beyond is refused. All bits of the type if not given.
    background
        Pixels that are no image: padding values, shutters (`mammofm_lite.background`).

    Raises
    ------
    UsageError
        A field makes no sense.
    """

    pixels: npt.NDArray[np.integer[Any]] = field(repr=False)
    view: ViewName
    photometric_interpretation: str = "MONOCHROME2"
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0
    pixel_spacing_mm: tuple[float, float] | None = None
    sop_instance_uid: str = ""
    bits_stored: int | None = None
    background: Background = NO_BACKGROUND

    def __post_init__(self) -> None:
        if self.view not in STANDARD_VIEWS:
            raise UsageError(f"view {self.view!r}: allowed are {', '.join(STANDARD_VIEWS)}")
        _check_uid(self.sop_instance_uid, "sop_instance_uid")
        if self.photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise UsageError(
                f"photometric_interpretation is {self.photometric_interpretation!r}; allowed: "
                "MONOCHROME1, MONOCHROME2"
            )
        spacing = self.pixel_spacing_mm
        if spacing is not None and not all(0 < value <= _MOST_SPACING_MM for value in spacing):
            raise UsageError("pixel_spacing_mm must be two numbers above 0, at most 100, or None")
        _check_pixels(self.pixels)
        _check_bits(self.pixels, self.bits_stored)


def array_study(views: Sequence[ArrayView], study_instance_uid: str = "") -> Study:
    """A study for `Model.infer` and `Model.ask` out of one to four views.

    Raises
    ------
    UsageError
        No view, or two of one kind; or the UID is none.
    """
    _check_uid(study_instance_uid, "study_instance_uid")
    names = [view.view for view in views]
    if not names:
        raise UsageError("no view given; a study has one to four")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two views are {twice[0]}; choose one of them")
    by_name = {view.view: view for view in views}
    return Study(
        study_instance_uid=study_instance_uid,
        views=MappingProxyType(
            {name: _instance(by_name[name]) for name in STANDARD_VIEWS if name in by_name}
        ),
        decisions=tuple(
            FileDecision(
                index, view.sop_instance_uid or None, True, view.view, "used",
                f"used for {view.view}",
            )
            for index, view in enumerate(views, start=1)
        ),
    )  # fmt: skip


def _instance(view: ArrayView) -> Instance:
    rows, columns = view.pixels.shape
    return Instance(
        sop_instance_uid=view.sop_instance_uid,
        view=view.view,
        laterality=laterality(view.view),
        rows=rows,
        columns=columns,
        photometric_interpretation=view.photometric_interpretation,
        rescale_slope=float(view.rescale_slope),
        rescale_intercept=float(view.rescale_intercept),
        pixel_spacing_mm=_floats(view.pixel_spacing_mm),
        pixel_spacing_source=_SOURCE if view.pixel_spacing_mm else None,
        background=view.background,
        voi=VoiLut(),
        deviations=(),
        pixels=GivenPixels(view.pixels),
    )


def _floats(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if spacing is None else (float(spacing[0]), float(spacing[1]))


def _check_uid(uid: str, name: str) -> None:
    if uid and not _UID.fullmatch(uid):
        raise UsageError(f"{name} is not a UID: 1 to 64 digits and points, or empty")


def _check_pixels(pixels: Any) -> None:
    if not isinstance(pixels, np.ndarray) or pixels.dtype.name not in _TYPES:
        raise UsageError(f"pixels must be a numpy array of {', '.join(_TYPES)}")
    if not pixels.dtype.isnative:
        raise UsageError("pixels must be in this machine's byte order")
    fits = pixels.ndim == 2 and min(pixels.shape) > 0 and max(pixels.shape) <= MAX_SIDE_PX
    if not fits or pixels.size > MAX_PIXELS:
        raise UsageError(f"pixels are {list(pixels.shape)}, not an image of rows x columns")


def _check_bits(pixels: npt.NDArray[np.integer[Any]], bits_stored: int | None) -> None:
    """Of a value beyond nothing says what it means: an overlay, noise, or a wrong number."""
    allocated = 8 * pixels.dtype.itemsize
    bits = allocated if bits_stored is None else bits_stored
    if not 8 <= bits <= allocated:
        raise UsageError(f"bits_stored is {bits}, allowed 8 to {allocated}")
    signed = pixels.dtype.kind == "i"
    least = -(1 << (bits - 1)) if signed else 0
    most = (1 << (bits - 1 if signed else bits)) - 1
    low, high = int(pixels.min()), int(pixels.max())
    if low < least or high > most:
        raise UsageError(
            f"stored values from {low} to {high} do not fit into bits_stored {bits}; "
            "mask the other bits"
        )

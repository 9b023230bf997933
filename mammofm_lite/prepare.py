"""From stored pixel values to the 8-bit picture that the encoders take, as the reference does it.

Source: reference facts, section 7, steps 1 to 6 (the CPU branch). Equal bit for bit: all
arithmetic is float32, the 8-bit value is truncated, the crop and resizing rules keep their
oddities, because the checkpoints were trained on what they give.

One step is added, for pixels that the file itself calls no image: padding and what a display
shutter covers are set to background where they would spoil the grey scale of all others, and then
the result says so. The reference knows neither, and its checkpoints were trained so; usually that
does no harm, and nothing is changed.

The steps themselves are written in C++ (``c_ext/src/runtime/prepare.cpp``), once for this runtime
and for ``libmammofm``.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from . import _native_pixels as native
from .background import NO_BACKGROUND, Background, hidden_pixels
from .deviations import PADDING_MASKED, SHUTTER_MASKED
from .errors import StudyError, UsageError
from .geometry import Runs, ViewGeometry
from .views import Laterality

__all__ = ["PreparedView", "PreprocessingSpec", "crop_runs", "prepare_view"]

StoredImage = npt.NDArray[np.integer[Any]]
UInt8Image = npt.NDArray[np.uint8]

_PHOTOMETRIC: Final = ("MONOCHROME1", "MONOCHROME2")
_MIN_INSIDE_PX: Final = 8  # nothing smaller is a mammogram, and the crop rule needs some pixels


@dataclass(frozen=True)
class PreprocessingSpec:
    """The constants of a bundle's preprocessing.

    Parameters
    ----------
    height, width
        Size of the prepared view in pixels.
    border_px
        Frame that is dropped on all four sides.
    background_threshold
        Grey levels up to this one (of 255) count as background when the breast is cut out.
    mirror
        ``"right"`` flips right breasts left to right, so that all breasts face one way; ``"none"``
        leaves every view as it is, like the reference.

    Raises
    ------
    UsageError
        A constant is out of range.
    """

    height: int = 1520
    width: int = 912
    border_px: int = 5
    background_threshold: int = 40
    mirror: Literal["none", "right"] = "none"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.border_px < 0:
            raise UsageError(
                f"preprocessing: a size of {self.height} x {self.width} with a border of "
                f"{self.border_px} px is not possible"
            )
        if not 0 <= self.background_threshold < 255:
            raise UsageError(
                f"preprocessing: background_threshold is {self.background_threshold}, allowed 0 "
                "to 254"
            )
        if self.mirror not in ("none", "right"):
            raise UsageError(f"preprocessing: mirror is {self.mirror!r}, allowed none, right")


@dataclass(frozen=True)
class PreparedView:
    """A view as the encoders take it.

    Parameters
    ----------
    image
        uint8 [height, width].
    geometry
        Where its pixels came from.
    deviations
        Codes out of `DEVIATIONS`; empty where every step was the reference's.
    """

    image: UInt8Image
    geometry: ViewGeometry
    deviations: tuple[str, ...] = ()


def prepare_view(
    stored: StoredImage,
    *,
    photometric_interpretation: str,
    rescale_slope: float,
    rescale_intercept: float,
    laterality: Laterality,
    spec: PreprocessingSpec,
    pixel_spacing_mm: tuple[float, float] | None = None,
    background: Background = NO_BACKGROUND,
) -> PreparedView:
    """Prepare one view.

    Parameters
    ----------
    stored
        Stored values, integers [rows, columns], before rescale.
    photometric_interpretation, rescale_slope, rescale_intercept
        The DICOM attributes of these names.
    laterality
        ``"L"`` or ``"R"``; matters only when `spec` mirrors.
    pixel_spacing_mm
        Distance of rows, then of columns; kept in the geometry.
    background
        Pixels that are no image by the file's own word.

    Raises
    ------
    StudyError
        The image is too small, constant, of several frames or colours, or its attributes make no
        picture.
    """
    _check_image(stored, spec.border_px)
    _check_attributes(photometric_interpretation, rescale_slope, rescale_intercept)
    padding = background.padding
    mirrored = spec.mirror == "right" and laterality == "R"
    steps = native.Steps(
        inverted=photometric_interpretation == "MONOCHROME1",
        rescale=(rescale_slope, rescale_intercept),
        size=(spec.height, spec.width),
        border_px=spec.border_px,
        background_threshold=spec.background_threshold,
        mirrored=mirrored,
        padding=None if padding is None else (padding.low, padding.high),
        hidden=hidden_pixels(stored.shape, background),
    )
    picture = native.prepare(stored, steps)
    geometry = ViewGeometry(
        rows=stored.shape[0],
        columns=stored.shape[1],
        border_px=spec.border_px,
        row_runs=picture.row_runs,
        column_runs=picture.column_runs,
        model_height=spec.height,
        model_width=spec.width,
        mirrored=mirrored,
        pixel_spacing_mm=pixel_spacing_mm,
    )
    applied = (PADDING_MASKED, picture.padding_masked), (SHUTTER_MASKED, picture.hidden_masked)
    return PreparedView(picture.image, geometry, tuple(code for code, on in applied if on))


def _check_image(stored: StoredImage, border_px: int) -> None:
    if stored.ndim != 2 or stored.dtype.kind not in "iu":
        raise StudyError(
            f"the pixels are {stored.dtype} {list(stored.shape)}; a view is one frame of one "
            "grey channel, stored as integers"
        )
    least = 2 * border_px + _MIN_INSIDE_PX
    rows, columns = stored.shape
    if min(rows, columns) < least:
        raise StudyError(
            f"the image is {rows} rows x {columns} columns, too small for a mammogram; "
            f"at least {least} x {least} are needed"
        )


def _check_attributes(photometric: str, slope: float, intercept: float) -> None:
    if photometric not in _PHOTOMETRIC:
        raise StudyError(
            f"PhotometricInterpretation is {photometric!r}; allowed: {', '.join(_PHOTOMETRIC)}"
        )
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        raise StudyError(
            f"RescaleSlope is {slope:g} and RescaleIntercept {intercept:g}; the slope must be "
            "non-zero and both finite"
        )


def crop_runs(grey: UInt8Image, background_threshold: int) -> tuple[Runs, Runs]:
    """Runs of rows and of columns that the reference keeps of a picture (facts, section 7, step 5).

    Columns first: one is on when, over the central rows and with background set to 0, its values
    are not all equal. Then rows, over the central columns of what is left. The longest run stays;
    runs of equal length all stay and are glued.

    Parameters
    ----------
    grey
        uint8 [rows, columns].

    Returns
    -------
    Row runs and column runs, each rising ``(start, stop)``, stop exclusive.
    """
    return native.crop_runs(grey, background_threshold)

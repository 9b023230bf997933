"""From stored pixel values to the 8-bit picture that the encoders take, as the reference does it.

Source: reference facts, section 7, steps 1 to 6 (the CPU branch). Equal bit for bit: all
arithmetic is float32, the 8-bit value is truncated, the crop and resizing rules keep their
oddities, because the checkpoints were trained on what they give.

One step is added, for pixels that the file itself calls no image (`_without_misleading`): it
changes nothing unless they would spoil the grey scale of all others, and then the result says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .background import NO_BACKGROUND, Background, background_masks, filled
from .errors import StudyError, UsageError
from .geometry import Runs, ViewGeometry
from .resize import resize_area
from .views import Laterality

__all__ = ["PreparedView", "PreprocessingSpec", "crop_runs", "prepare_view"]

StoredImage = npt.NDArray[np.integer[Any]]
UInt8Image = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
_T = TypeVar("_T", bound=np.generic)

_PHOTOMETRIC: Final = ("MONOCHROME1", "MONOCHROME2")
_MIN_INSIDE_PX: Final = 8  # nothing smaller is a mammogram, and the crop rule needs some pixels
_LEAST_SHOWN: Final = 0.01  # part of the image that padding and shutter must leave
_CHUNK_ELEMENTS: Final = 1 << 17  # of float32: half a megabyte, stays in the L2 cache


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
    inside = _inside_border(stored, spec.border_px)
    _check_attributes(photometric_interpretation, rescale_slope, rescale_intercept)
    inverted = photometric_interpretation == "MONOCHROME1"
    rescale = (rescale_slope, rescale_intercept)
    inside, deviations = _without_misleading(
        inside,
        {
            code: _cut(mask, spec.border_px)
            for code, mask in background_masks(stored, background).items()
        },
        _Stretch(rescale, inverted, spec.background_threshold),
    )
    grey = _grey_levels(inside, rescale, inverted)
    row_runs, column_runs = crop_runs(grey, spec.background_threshold)
    image = resize_area(_glue(grey, row_runs, column_runs), spec.height, spec.width)
    if image.min() == image.max():  # the encoder would divide by zero
        raise StudyError("the prepared view is constant; the image shows nothing to analyse")
    mirrored = spec.mirror == "right" and laterality == "R"
    geometry = ViewGeometry(
        rows=stored.shape[0],
        columns=stored.shape[1],
        border_px=spec.border_px,
        row_runs=_shifted(row_runs, spec.border_px),
        column_runs=_shifted(column_runs, spec.border_px),
        model_height=spec.height,
        model_width=spec.width,
        mirrored=mirrored,
        pixel_spacing_mm=pixel_spacing_mm,
    )
    image = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
    return PreparedView(image, geometry, deviations)


def _inside_border(stored: StoredImage, border_px: int) -> StoredImage:
    _check_image(stored, border_px)
    return _cut(stored, border_px)


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


def _cut(image: npt.NDArray[_T], border_px: int) -> npt.NDArray[_T]:
    rows, columns = image.shape
    return image[border_px : rows - border_px, border_px : columns - border_px]


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


# -------------------- before step 3: pixels that are no image


@dataclass(frozen=True)
class _Stretch:
    """What the way from stored values to grey levels depends on, besides their extremes."""

    rescale: tuple[float, float]
    inverted: bool
    background_threshold: int

    @property
    def falling(self) -> bool:
        """Whether a greater stored value is darker."""
        return (self.rescale[0] < 0) != self.inverted


def _without_misleading(
    inside: StoredImage, masks: Mapping[str, Flags], stretch: _Stretch
) -> tuple[StoredImage, tuple[str, ...]]:
    """Set pixels that are no image to background, where they would mislead the steps that follow.

    The reference knows neither padding nor shutters, and its checkpoints were trained so. Usually
    that does no harm: manufacturers name the air beside the breast as padding, and it is dark. It
    misleads where such pixels are brighter than background, or where they lie so far off that the
    image is left with less than half of the grey levels. Everything else stays bit for bit.

    Returns
    -------
    The image, and the codes of the masks that were applied.
    """
    masks = {code: mask for code, mask in masks.items() if mask.any()}
    if not masks:
        return inside, ()
    _grey_scale(*_extremes(inside), stretch.rescale, stretch.inverted)  # refuses what is constant
    codes = _misleading(inside, masks, stretch)
    if not codes:
        return inside, ()
    mask = _union([masks[code] for code in codes])
    if np.count_nonzero(mask) > (1 - _LEAST_SHOWN) * mask.size:
        raise StudyError("pixel padding and display shutter cover the whole image")
    changed = filled(inside, mask, falling=stretch.falling)
    if changed.min() == changed.max():
        raise StudyError("the image is constant apart from pixel padding and display shutter")
    return changed, codes


def _misleading(
    inside: StoredImage, masks: Mapping[str, Flags], stretch: _Stretch
) -> tuple[str, ...]:
    """The masks that mislead, one after the other, each seen on the scale that the others leave."""
    image = inside[~_union(list(masks.values()))]
    if not image.size:
        return tuple(masks)
    ends = {code: _extremes(inside[mask]) for code, mask in masks.items()}
    shown = _extremes(image)
    codes: list[str] = []
    while (code := _most_misleading(ends, shown, stretch)) is not None:
        codes.append(code)
        del ends[code]
    return tuple(code for code in masks if code in codes)


def _most_misleading(
    ends: Mapping[str, tuple[int, int]], shown: tuple[int, int], stretch: _Stretch
) -> str | None:
    """By the extremes of each mask's pixels and of the image that is `shown`."""
    least = min([shown[0], *(low for low, _ in ends.values())])
    most = max([shown[1], *(high for _, high in ends.values())])
    if not ends or least == most:
        return None
    scale = _grey_scale(least, most, stretch.rescale, stretch.inverted)
    brightest = {code: int(scale.levels(pair).max()) for code, pair in ends.items()}
    for code, level in brightest.items():
        if level > stretch.background_threshold:
            return code
    if 2 * (shown[1] - shown[0]) < most - least:
        return next(code for code, pair in ends.items() if pair[0] == least or pair[1] == most)
    return None


def _extremes(stored: StoredImage) -> tuple[int, int]:
    return int(stored.min()), int(stored.max())


def _union(masks: Sequence[Flags]) -> Flags:
    return masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)


# -------------------- steps 1, 3 and 4: grey levels


@dataclass(frozen=True)
class _GreyScale:
    """The way from a stored value to 0..255, every step in float32 as the reference takes it."""

    slope: np.float32
    intercept: np.float32
    top: np.float32 | None  # MONOCHROME1: the value that black becomes
    low: np.float32
    span: np.float32

    def apply(self, values: npt.NDArray[np.float32]) -> None:
        """In place, 0 to 255, not yet truncated."""
        if self.slope != 1:
            values *= self.slope
        if self.intercept != 0:
            values += self.intercept
        if self.top is not None:
            np.subtract(self.top, values, out=values)
        values -= self.low
        values /= self.span
        values *= np.float32(255)

    def levels(self, stored: Sequence[int]) -> UInt8Image:
        """Grey levels of some stored values."""
        values = np.array(stored, np.float32)
        self.apply(values)
        return values.astype(np.uint8)


def _grey_levels(inside: StoredImage, rescale: tuple[float, float], inverted: bool) -> UInt8Image:
    """Rescale, invert, stretch to 0..255 and truncate: uint8 [rows, columns].

    Piece by piece, so that the float32 image never exists as a whole.
    """
    scale = _grey_scale(int(inside.min()), int(inside.max()), rescale, inverted)
    rows, columns = inside.shape
    step = max(_CHUNK_ELEMENTS // columns, 1)
    piece = np.empty((step, columns), np.float32)
    grey = np.empty((rows, columns), np.uint8)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        values = piece[: stop - start]
        np.copyto(values, inside[start:stop], casting="unsafe")
        scale.apply(values)
        np.copyto(grey[start:stop], values, casting="unsafe")
    return grey


def _grey_scale(least: int, most: int, rescale: tuple[float, float], inverted: bool) -> _GreyScale:
    """From the stored extremes.

    Every step is monotone, also when it rounds, so the extremes of an intermediate image are the
    images of the stored extremes and need no pass over the pixels.

    Raises
    ------
    StudyError
        The image is constant, or not finite after the rescale.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        slope, intercept = np.float32(rescale[0]), np.float32(rescale[1])
        ends = np.array([least, most], dtype=np.float32) * slope + intercept
        top = ends.max() if inverted else None
        if top is not None:
            ends = top - ends
        low = ends.min()
        span = ends.max() - low
    if not np.isfinite(span):
        raise StudyError(
            f"stored values {least} to {most} with RescaleSlope {rescale[0]:g} and "
            f"RescaleIntercept {rescale[1]:g} leave the float32 range"
        )
    if span == 0:
        raise StudyError(
            f"the image is constant (stored value {least} in every pixel inside the border); "
            "there is nothing to analyse"
            if least == most
            else f"the image is constant after the rescale (stored values {least} to {most})"
        )
    return _GreyScale(slope, intercept, top, low, span)


# -------------------- step 5: the breast


def crop_runs(grey: UInt8Image, background_threshold: int) -> tuple[Runs, Runs]:
    """Runs of rows and of columns that the reference keeps of a picture.

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
    columns = _kept_runs(_varies(grey[_central(grey.shape[0])], background_threshold))
    cut = _glue(grey, ((0, grey.shape[0]),), columns)
    across = cut[:, _central(cut.shape[1])]
    return _kept_runs(_varies(across.T, background_threshold)), columns


def _central(size: int) -> slice:
    reach = int(0.4 * size)
    return slice(size // 2 - reach, size // 2 + reach)


def _varies(grey: UInt8Image, background_threshold: int) -> Flags:
    """Which columns of [n, columns] hold more than one value once background is 0.

    The reference asks for a standard deviation that is not zero; of equal values it is exactly
    zero. Setting background to 0 keeps the order of values, so only the extremes need it. Of no
    values at all the deviation is NaN, which is not zero either.
    """
    if grey.shape[0] == 0:
        return np.ones(grey.shape[1], np.bool_)
    low, high = grey.min(axis=0), grey.max(axis=0)
    low[low <= background_threshold] = 0
    high[high <= background_threshold] = 0
    varies: Flags = low != high
    return varies


def _kept_runs(on: Flags) -> Runs:
    """The longest runs, by the reference's measure; everything where nothing is on."""
    measured = [(start, stop, _run_length(start, stop, on.size)) for start, stop in _runs(on)]
    longest = max((length for _, _, length in measured), default=-1)
    if longest < 0:
        return ((0, on.size),)
    return tuple((start, stop) for start, stop, length in measured if length == longest)


def _runs(on: Flags) -> Runs:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], on, [False]))))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def _run_length(start: int, stop: int, size: int) -> int:
    """Distance of the neighbours that are off, less one.

    Where a run touches the picture's edge it has no such neighbour and its own last index stands
    in, so it counts one less there (facts 7.5).
    """
    before = max(start - 1, 0)
    after = min(stop, size - 1)
    return after - before - 1


def _glue(grey: UInt8Image, row_runs: Runs, column_runs: Runs) -> UInt8Image:
    """The kept rows and columns; a view where one run of each is kept."""
    if len(row_runs) > 1:
        grey = np.concatenate([grey[start:stop] for start, stop in row_runs], axis=0)
    else:
        grey = grey[slice(*row_runs[0])]
    if len(column_runs) > 1:
        return np.concatenate([grey[:, start:stop] for start, stop in column_runs], axis=1)
    return grey[:, slice(*column_runs[0])]


def _shifted(runs: Runs, offset: int) -> Runs:
    return tuple((start + offset, stop + offset) for start, stop in runs)

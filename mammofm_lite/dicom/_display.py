"""What a file says of its display: padding, shutter, VOI LUT and the sense of its grey scale."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..background import (
    Background,
    CircularShutter,
    PixelPadding,
    PolygonalShutter,
    RectangularShutter,
)
from ..deviations import PADDING_NOT_APPLIED, SHUTTER_NOT_APPLIED
from ._header import Header
from ._numbers import number
from ._refused import FileRefusedError

__all__ = ["VoiLut", "background", "check_presentation", "patient_orientation", "voi_lut"]

_VOI_FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MAX_VERTICES: Final = 10_000
_PRESENTATION: Final = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
_Shutter = RectangularShutter | CircularShutter | PolygonalShutter


class _NotUnderstoodError(Exception):
    """An attribute is malformed or incomplete; never leaves this module."""


@dataclass(frozen=True)
class VoiLut:
    """The VOI LUT module of a file (PS3.3 C.11.2), as far as it can be understood.

    Parameters
    ----------
    windows
        Centre and width of every window, in rescaled values.
    function
        How the windows are meant: ``"LINEAR"``, ``"LINEAR_EXACT"`` or ``"SIGMOID"``; ``None``
        where the file names another.
    tables
        How many tables VOI LUT Sequence has; one of them takes precedence over the windows.
    """

    windows: tuple[tuple[float, float], ...] = ()
    function: str | None = "LINEAR"
    tables: int = 0


def voi_lut(header: Header) -> VoiLut:
    """What the file carries; what is malformed counts as absent, because nothing depends on it."""
    centres = [number((text,)) for text in header.texts("WindowCenter")]
    widths = [number((text,)) for text in header.texts("WindowWidth")]
    windows = [
        (centre, width)
        for centre, width in zip(centres, widths, strict=False)
        if centre is not None and width is not None
    ]
    whole = len(centres) == len(widths) == len(windows)
    function = header.text("VOILUTFunction") or "LINEAR"
    return VoiLut(
        tuple(windows) if whole else (),
        function if function in _VOI_FUNCTIONS else None,
        len(header.items("VOILUTSequence")),
    )


def check_presentation(header: Header, photometric_interpretation: str) -> None:
    """Presentation LUT Shape must agree with the photometric interpretation (PS3.3 C.8.11.3).

    Raises
    ------
    FileRefusedError
        One of the two is wrong, and nothing says which: the image may be its own negative.
    """
    shape = header.text("PresentationLUTShape")
    if shape in _PRESENTATION.values() and shape != _PRESENTATION[photometric_interpretation]:
        raise FileRefusedError(
            "presentation_contradiction",
            f"PresentationLUTShape {shape} contradicts {photometric_interpretation}",
        )


def patient_orientation(header: Header) -> tuple[str, str] | None:
    """Where rows and columns run to (PS3.3 C.7.6.1.1.1); what is malformed counts as absent."""
    values = tuple(value.upper() for value in header.texts("PatientOrientation"))
    if len(values) != 2 or not all(re.fullmatch(r"(?!.*(.).*\1)[APRLHF]{1,3}", v) for v in values):
        return None
    return values


# -------------------- pixels that are no image


def background(header: Header, *, signed: bool) -> tuple[Background, tuple[str, ...]]:
    """Padding and shutters, and the codes of what is there and cannot be understood.

    Parameters
    ----------
    signed
        Whether stored values are signed, by Pixel Representation.
    """
    padding: PixelPadding | None = None
    shutters: tuple[_Shutter, ...] = ()
    codes = []
    try:
        padding = _padding(header, signed)
    except _NotUnderstoodError:
        codes.append(PADDING_NOT_APPLIED)
    try:
        shutters = tuple(_shutter(header, shape) for shape in header.texts("ShutterShape"))
    except _NotUnderstoodError:
        codes.append(SHUTTER_NOT_APPLIED)
    return Background(padding, shutters), tuple(codes)


def _padding(header: Header, signed: bool) -> PixelPadding | None:
    """Which of the two limits is the greater one depends on the photometric interpretation."""
    given = [
        header.number(keyword, signed=signed)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.values.get(keyword)
    ]
    limits = [limit for limit in given if limit is not None]
    if not given:
        return None
    if len(limits) != len(given) or not header.values.get("PixelPaddingValue"):
        raise _NotUnderstoodError
    return PixelPadding(min(limits), max(limits))


def _shutter(header: Header, shape: str) -> _Shutter:
    if shape.upper() == "RECTANGULAR":
        return _rectangle(header)
    if shape.upper() == "CIRCULAR":
        return _circle(header)
    if shape.upper() == "POLYGONAL":
        return _polygon(header)
    raise _NotUnderstoodError


def _rectangle(header: Header) -> RectangularShutter:
    return RectangularShutter(
        *_integers(header.texts("ShutterLeftVerticalEdge"), 1),
        *_integers(header.texts("ShutterRightVerticalEdge"), 1),
        *_integers(header.texts("ShutterUpperHorizontalEdge"), 1),
        *_integers(header.texts("ShutterLowerHorizontalEdge"), 1),
    )


def _circle(header: Header) -> CircularShutter:
    row, column = _integers(header.texts("CenterOfCircularShutter"), 2)
    (radius,) = _integers(header.texts("RadiusOfCircularShutter"), 1)
    if radius < 0:
        raise _NotUnderstoodError
    return CircularShutter(row, column, radius)


def _polygon(header: Header) -> PolygonalShutter:
    values = header.texts("VerticesOfThePolygonalShutter")
    count, odd = divmod(len(values), 2)
    if odd or not 3 <= count <= _MAX_VERTICES:
        raise _NotUnderstoodError
    numbers = _integers(values, len(values))
    return PolygonalShutter(tuple(zip(numbers[::2], numbers[1::2], strict=True)))


def _integers(values: Sequence[str], count: int) -> list[int]:
    """Integer strings (PS3.5 6.2) of a size that an image can have."""
    if len(values) != count or not all(re.fullmatch(r"[+-]?\d{1,6}", value) for value in values):
        raise _NotUnderstoodError
    return [int(value) for value in values]

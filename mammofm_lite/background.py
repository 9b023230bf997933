"""Pixels that are no image by the file's own word: pixel padding and what a shutter covers."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .deviations import PADDING_MASKED, SHUTTER_MASKED
from .errors import UsageError

__all__ = [
    "NO_BACKGROUND",
    "Background",
    "CircularShutter",
    "HiddenPixels",
    "PixelPadding",
    "PolygonalShutter",
    "RectangularShutter",
    "background_masks",
    "filled",
    "hidden_pixels",
]

StoredImage = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelPadding:
    """Stored values from `low` to `high`, both included, are padding (PS3.3 C.7.5.1.1.2)."""

    low: int
    high: int


@dataclass(frozen=True)
class RectangularShutter:
    """What is seen: rows `top` to `bottom`, columns `left` to `right`, counted from 1."""

    left: int
    right: int
    top: int
    bottom: int

    def visible(self, rows: int, columns: int) -> Flags:
        """Which pixels of an image of this size are not covered."""
        row, column = _positions(rows, columns)
        return ((self.top <= row) & (row <= self.bottom)) & (
            (self.left <= column) & (column <= self.right)
        )


@dataclass(frozen=True)
class CircularShutter:
    """What is seen: the inside of a circle, its centre counted from 1."""

    row: int
    column: int
    radius: int

    def visible(self, rows: int, columns: int) -> Flags:
        """Which pixels of an image of this size are not covered."""
        row, column = _positions(rows, columns)
        return (row - self.row) ** 2 + (column - self.column) ** 2 <= self.radius**2


@dataclass(frozen=True)
class PolygonalShutter:
    """What is seen: the inside of a polygon of (row, column) vertices, counted from 1."""

    vertices: tuple[tuple[int, int], ...]

    def visible(self, rows: int, columns: int) -> Flags:
        """Which pixels of an image of this size are not covered, to within one pixel.

        Along a row every edge that is crossed changes from outside to inside or back.
        """
        crossed = np.zeros((rows, columns + 1), np.bool_)
        following = (*self.vertices[1:], self.vertices[0])
        for (row_a, column_a), (row_b, column_b) in zip(self.vertices, following, strict=True):
            if row_a == row_b:
                continue
            (top, start), (bottom, end) = sorted([(row_a, column_a), (row_b, column_b)])
            row = np.arange(max(top, 1), min(bottom, rows + 1))
            column = start + (row - top) * ((end - start) / (bottom - top))
            at = np.clip(np.ceil(column).astype(np.int64) - 1, 0, columns)
            crossed[row - 1, at] ^= True
        inside: Flags = np.logical_xor.accumulate(crossed, axis=1)
        return inside[:, :columns]


@dataclass(frozen=True, eq=False)
class HiddenPixels:
    """What is covered, pixel by pixel: bool [rows, columns], as large as the image."""

    hidden: Flags

    def visible(self, rows: int, columns: int) -> Flags:
        """Which pixels of an image of this size are not covered.

        Raises
        ------
        UsageError
            The image has another size.
        """
        if self.hidden.shape != (rows, columns):
            raise UsageError(
                f"hidden pixels are {list(self.hidden.shape)}, the image [{rows}, {columns}]"
            )
        return ~self.hidden


Shutter = RectangularShutter | CircularShutter | PolygonalShutter | HiddenPixels


@dataclass(frozen=True)
class Background:
    """What of a file is no image.

    Parameters
    ----------
    padding
        Values that are padding.
    shutters
        Shapes of the display shutter (PS3.3 C.7.6.11); what any of them covers is hidden.
    """

    padding: PixelPadding | None = None
    shutters: tuple[Shutter, ...] = ()


NO_BACKGROUND: Final = Background()


def _positions(rows: int, columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and column numbers, from 1, that broadcast to [rows, columns]."""
    return np.arange(1, rows + 1)[:, None], np.arange(1, columns + 1)[None, :]


def background_masks(stored: StoredImage, background: Background) -> dict[str, Flags]:
    """Which pixels the file calls padding, and which others a shutter covers.

    Parameters
    ----------
    stored
        The whole image, stored values [rows, columns].

    Returns
    -------
    Per deviation code its pixels, bool [rows, columns]; a pixel is in one of them at most.
    """
    masks: dict[str, Flags] = {}
    if background.padding is not None:
        masks[PADDING_MASKED] = _between(stored, background.padding)
    hidden = hidden_pixels(stored.shape, background)
    if hidden is not None:
        masks[SHUTTER_MASKED] = hidden & ~masks.get(PADDING_MASKED, np.False_)
    return masks


def hidden_pixels(shape: tuple[int, ...], background: Background) -> Flags | None:
    """What any of the shutters covers, bool [rows, columns]; ``None`` where there is no shutter."""
    if not background.shutters:
        return None
    rows, columns = shape
    shapes = [each.visible(rows, columns) for each in background.shutters]
    hidden: Flags = ~np.logical_and.reduce(shapes)
    return hidden


def _between(stored: StoredImage, padding: PixelPadding) -> Flags:
    limits = np.iinfo(stored.dtype)
    if padding.high < limits.min or padding.low > limits.max:  # no pixel can have such a value
        return np.zeros(stored.shape, np.bool_)
    if padding.low == padding.high:
        return np.asarray(stored == padding.low)
    return np.asarray((stored >= padding.low) & (stored <= padding.high))


def filled(stored: StoredImage, mask: Flags, *, falling: bool) -> StoredImage:
    """The image with masked pixels as dark as the darkest of the others.

    Parameters
    ----------
    mask
        bool [rows, columns]; not all of it.
    falling
        Whether a greater stored value is darker.
    """
    others = stored[~mask]
    darkest = others.max() if falling else others.min()
    return np.where(mask, darkest, stored)

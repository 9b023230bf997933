"""What an overlay is drawn with: rectangles, a picture, and where the view lies in it."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..geometry import ViewGeometry
from ._font import ADVANCE, LINE, text_mask

__all__ = ["BLACK", "WHITE", "Box", "Canvas", "Colour", "Frame", "Rect", "text_size"]

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

BLACK: Final[Colour] = (0, 0, 0)
WHITE: Final[Colour] = (235, 235, 235)


@dataclass(frozen=True)
class Rect:
    """Whole pixels from x1, y1 up to but without x2, y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    def grown(self, by: int) -> "Rect":
        return Rect(self.x1 - by, self.y1 - by, self.x2 + by, self.y2 + by)

    def overlaps(self, other: "Rect") -> bool:
        beside = self.x2 <= other.x1 or other.x2 <= self.x1
        return not (beside or self.y2 <= other.y1 or other.y2 <= self.y1)

    def within(self, other: "Rect") -> bool:
        across = other.x1 <= self.x1 and self.x2 <= other.x2
        return across and other.y1 <= self.y1 and self.y2 <= other.y2

    def moved_into(self, other: "Rect") -> "Rect":
        """Shifted sideways as little as possible to lie between the sides of `other`."""
        shift = min(0, other.x2 - self.x2)
        shift = max(shift, other.x1 - self.x1)
        return Rect(self.x1 + shift, self.y1, self.x2 + shift, self.y2)


@dataclass(frozen=True)
class Frame:
    """Where the view lies in the picture: in `area`, `scale` picture pixels per original one."""

    scale: float
    area: Rect
    geometry: ViewGeometry

    def rect(self, box: Box, inset: int) -> Rect:
        """Picture pixels that a box of original pixels touches, `inset` inside the view's sides."""
        limit = self.area.grown(-inset)
        x = np.clip(np.array(box[0::2]) * self.scale + self.area.x1, limit.x1, limit.x2)
        y = np.clip(np.array(box[1::2]) * self.scale + self.area.y1, limit.y1, limit.y2)
        return Rect(int(x[0]), int(y[0]), int(np.ceil(x[1])), int(np.ceil(y[1])))


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of one line."""
    return ADVANCE * size * len(text), LINE * size


class Canvas:
    """A picture uint8 [rows, columns, 3], drawn on in place; what lies outside of it is cut off."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def _slices(self, rect: Rect) -> tuple[slice, slice]:
        rows, columns = self.pixels.shape[:2]
        return (
            slice(min(max(rect.y1, 0), rows), min(max(rect.y2, 0), rows)),
            slice(min(max(rect.x1, 0), columns), min(max(rect.x2, 0), columns)),
        )

    def fill(self, rect: Rect, colour: Colour, opacity: float = 1.0) -> None:
        target = self.pixels[self._slices(rect)]
        target[:] = np.rint(target + opacity * (np.array(colour) - target))

    def frame(self, inner: Rect, width: int, colour: Colour) -> None:
        """A frame of `width` pixels around `inner`, none of which is covered."""
        outer = inner.grown(width)
        self.fill(Rect(outer.x1, outer.y1, outer.x2, inner.y1), colour)
        self.fill(Rect(outer.x1, inner.y2, outer.x2, outer.y2), colour)
        self.fill(Rect(outer.x1, inner.y1, inner.x1, inner.y2), colour)
        self.fill(Rect(inner.x2, inner.y1, outer.x2, inner.y2), colour)

    def text(self, at: tuple[int, int], text: str, size: int, colour: Colour) -> None:
        """One line with its top-left corner at x, y."""
        x, y = at
        width, height = text_size(text, size)
        rect = Rect(x, y, x + width, y + height)
        rows, columns = self._slices(rect)
        mask = text_mask(text, size)
        seen = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        self.blend((rows, columns), seen, np.array(colour, dtype=np.float32))

    def blend(
        self,
        where: tuple[slice, slice],
        opacity: npt.NDArray[np.floating[Any]],
        colour: npt.NDArray[np.floating[Any]],
    ) -> None:
        """Mix `colour` [3] or [rows, columns, 3] in, by `opacity` [rows, columns] in 0..1."""
        target = self.pixels[where]
        target[:] = np.rint(target + opacity[..., None] * (colour - target))

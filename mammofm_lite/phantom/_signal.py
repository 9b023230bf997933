"""Where a lesion is drawn, and how what it changes is cut out and kept."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ._grid import Floats, Grid, as_floats, smoothstep
from ._truth import Box

__all__ = ["Signal", "Window", "blurred", "convolved"]

# A change of brightness below this is not seen, and not drawn: it bounds the box.
_VISIBLE: Final = 0.008
_VISIBLE_SHARE: Final = 0.25  # of the largest change, where all of it is faint


@dataclass(frozen=True)
class Signal:
    """What a lesion changes in a view: `patch` float32, not 0 up to every side of `box`.

    The box is x1, y1, x2, y2 in pixels of the grid it was drawn on.
    """

    box: Box
    patch: Floats

    def add_to(self, image: Floats) -> None:
        """Add it to a whole image, in place."""
        x1, y1, x2, y2 = self.box
        image[y1:y2, x1:x2] += self.patch


@dataclass(frozen=True)
class Window:
    """The pixels around a point.

    Attributes
    ----------
    box
        x1, y1, x2, y2 on the whole grid.
    x, y
        Position relative to the point, mm: float32 [1, width] and [height, 1].
    """

    box: Box
    x: Floats
    y: Floats
    step_mm: float

    @classmethod
    def around(cls, grid: Grid, centre_mm: tuple[float, float], reach_mm: float) -> "Window":
        """What lies within `reach_mm` of a point, as far as the grid goes."""
        x, y = centre_mm
        reach = int(np.ceil(reach_mm / grid.step_mm)) + 1
        column, row = int(x / grid.step_mm), int(y / grid.step_mm)
        x1, x2 = max(column - reach, 0), min(column + reach + 1, grid.columns)
        y1, y2 = max(row - reach, 0), min(row + reach + 1, grid.rows)
        return cls(
            (x1, y1, x2, y2),
            grid.x_mm[:, x1:x2] - np.float32(x),
            grid.y_mm[y1:y2] - np.float32(y),
            grid.step_mm,
        )

    def of(self, image: Floats) -> Floats:
        """This part of a whole image."""
        x1, y1, x2, y2 = self.box
        return image[y1:y2, x1:x2]

    def empty(self) -> Floats:
        """Zeros of its size."""
        return np.zeros((self.y.shape[0], self.x.shape[1]), np.float32)

    def trimmed(self, drawn: Floats) -> Signal:
        """Let go of what is not visible, and bound the rest."""
        size = np.abs(drawn)
        peak = float(size.max())
        least = np.float32(max(min(_VISIBLE, _VISIBLE_SHARE * peak), 1e-6))
        visible = drawn * smoothstep((size - least) / least)
        rows = np.flatnonzero(np.abs(visible).max(axis=1))
        columns = np.flatnonzero(np.abs(visible).max(axis=0))
        if not rows.size:  # nothing is drawn where there is no tissue
            rows, columns = np.array([0]), np.array([0])
        x1, y1 = self.box[:2]
        top, bottom, left, right = (
            int(edge) for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        )
        patch = np.ascontiguousarray(visible[top:bottom, left:right])
        return Signal((x1 + left, y1 + top, x1 + right, y1 + bottom), as_floats(patch))


def blurred(image: Floats, sigma_mm: float, step_mm: float) -> Floats:
    """Gaussian blur: float32 like `image`, whose border values go on beyond it."""
    square = (sigma_mm / step_mm) ** 2
    if square < 1e-4:
        return image
    if square <= 0.5:  # too narrow to be sampled: three weights of the same variance
        return convolved(image, np.array([square / 2, 1 - square, square / 2]))
    reach = int(np.ceil(3 * square**0.5))
    weights = np.exp(-0.5 * np.arange(-reach, reach + 1) ** 2 / square)
    return convolved(image, weights / weights.sum())


def convolved(image: Floats, weights: npt.NDArray[np.float64]) -> Floats:
    """By the same odd number of symmetric weights along both axes: float32 like `image`."""
    reach = len(weights) // 2
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (reach, reach)
        padded = np.pad(image, widths, mode="edge")
        count = image.shape[axis]
        image = np.zeros_like(image)
        for at, weight in enumerate(weights.astype(np.float32)):
            part = slice(at, at + count)
            image += weight * (padded[:, part] if axis else padded[part])
    return image

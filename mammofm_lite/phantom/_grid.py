"""Sampling: where pixel centres lie in millimetres, and smooth fields at a finer step.

Images are made in one orientation, chest wall at column 0 and lateral or cranial at the top, and
only as wide as the breast; the rest of a mammogram is air. Right breasts are mirrored at the end.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Grid", "as_floats", "smoothstep"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """A raster that starts at the image's top-left corner.

    Parameters
    ----------
    rows, columns
        Its size.
    step_mm
        Distance of its points; the first lies half a step inside.
    """

    rows: int
    columns: int
    step_mm: float

    @classmethod
    def covering(cls, height_mm: float, width_mm: float, step_mm: float) -> "Grid":
        """The smallest grid of this step that covers a rectangle."""
        rows, columns = (int(np.ceil(size / step_mm - 1e-6)) for size in (height_mm, width_mm))
        return cls(rows, columns, step_mm)

    @property
    def y_mm(self) -> Floats:
        """Ordinates of the rows: float32 [rows, 1]."""
        return ((np.arange(self.rows, dtype=np.float32) + 0.5) * np.float32(self.step_mm))[:, None]

    @property
    def x_mm(self) -> Floats:
        """Abscissas of the columns: float32 [1, columns]."""
        return ((np.arange(self.columns, dtype=np.float32) + 0.5) * np.float32(self.step_mm))[None]

    def sample(self, field: Floats, other: "Grid") -> Floats:
        """A field of the grid `other` at the points of this one, by linear interpolation.

        Parameters
        ----------
        field
            float32 [other.rows, other.columns].

        Returns
        -------
        numpy.ndarray
            float32 [rows, columns]; beyond the outermost points of `other` its values go on.
        """
        if self == other:
            return field
        ratio = self.step_mm / other.step_mm
        tall = _interpolate(field, self.rows, ratio)
        wide: Floats = _interpolate(np.ascontiguousarray(tall.T), self.columns, ratio).T
        return np.ascontiguousarray(wide)


def _interpolate(field: Floats, count: int, ratio: float) -> Floats:
    """Linear interpolation along the first axis."""
    at = np.clip((np.arange(count) + 0.5) * ratio - 0.5, 0, len(field) - 1)
    low = np.minimum(at.astype(np.intp), max(len(field) - 2, 0))
    high = np.minimum(low + 1, len(field) - 1)
    share = (at - low).astype(np.float32)[:, None]
    result: Floats = field[high]
    result -= field[low]
    result *= share
    result += field[low]
    return result


def as_floats(value: npt.ArrayLike) -> Floats:
    """The same array; converted only where it is not float32."""
    return np.asarray(value, dtype=np.float32)


def smoothstep(value: npt.ArrayLike) -> Floats:
    """0 below 0, 1 above 1, a smooth cubic between: elementwise, float32."""
    t = np.clip(as_floats(value), 0, 1)
    return as_floats(t * t * (3 - 2 * t))

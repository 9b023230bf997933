"""Dose, scatter and the detector: what comes between the tissue and the stored values.

Quantum noise follows the number of photons, which falls with thickness and brightness of tissue;
a pixel's variance is inverse to its area, so that coarse pixels are as noisy as fine ones
averaged. Scatter that passes the grid, about a sixth of the primary (J. M. Boone, K. K. Lindfors,
V. N. Cooper and J. A. Seibert, Med. Phys. 27, 2408-2416, 2000, before the grid: 0.3 to 0.6), lays
a smooth veil over the breast.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from ._anatomy import Body
from ._grid import Floats, Grid, as_floats
from ._look import Look
from ._signal import blurred

__all__ = ["Exposure"]

_SCATTER: Final = 0.15
_SCATTER_SIGMA_MM: Final = 12.0
_SCATTER_STEP_MM: Final = 3.0
_AVERAGE: Final = 0.4
_NOISE_BLUR_MM: Final = 0.06
_REFERENCE_MM: Final = 0.1


@dataclass(frozen=True)
class Exposure:
    """Of one woman's views at one pixel size.

    Attributes
    ----------
    noise
        Standard deviation of a pixel behind average tissue, before the detector's blur.
    """

    noise: float
    scatter: float
    blur_mm: float
    step_mm: float

    @classmethod
    def of(cls, look: Look, body: Body, step_mm: float) -> "Exposure":
        thick = body.thickness_mm / 50
        return cls(
            noise=look.noise * thick**0.4 * _REFERENCE_MM / step_mm,
            scatter=_SCATTER * thick,
            blur_mm=look.blur_mm,
            step_mm=step_mm,
        )

    def veiled(self, tissue: Floats) -> Floats:
        """Tissue under scatter and blur: float32 like `tissue`, still 0 in air."""
        rows, columns = tissue.shape
        grid = Grid(rows, columns, self.step_mm)
        few = Grid.covering(rows * self.step_mm, columns * self.step_mm, _SCATTER_STEP_MM)
        veil = grid.sample(
            blurred(few.sample(tissue, grid), _SCATTER_SIGMA_MM, _SCATTER_STEP_MM), few
        )
        share = np.float32(self.scatter)
        seen = as_floats((tissue + share * veil) / (1 + share))
        if self.blur_mm:
            seen = blurred(seen, self.blur_mm, self.step_mm)
        return as_floats(np.where(tissue > 0, seen, 0))

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
        """Noise behind average tissue, blurred by the detector: float32."""
        white = as_floats(random.standard_normal(shape, dtype=np.float32))
        white *= np.float32(self.noise)
        side = 0.5 * min(float(np.hypot(_NOISE_BLUR_MM, self.blur_mm)) / self.step_mm, 0.7) ** 2
        return _smoothed(_smoothed(white, np.float32(side), 0), np.float32(side), 1)

    def scaled(self, noise: Floats, bright: Floats) -> Floats:
        """Noise by the brightness of its own pixel alone."""
        return as_floats(noise * np.exp(np.float32(0.9) * (bright - np.float32(_AVERAGE))))


def _smoothed(image: Floats, side: np.float32, axis: int) -> Floats:
    """Convolved with (side, 1 - 2 side, side) along an axis."""
    smooth = image * (1 - 2 * side)
    low, high = (slice(None, -1), slice(1, None))
    if axis:
        smooth[:, low] += side * image[:, high]
        smooth[:, high] += side * image[:, low]
    else:
        smooth[low] += side * image[high]
        smooth[high] += side * image[low]
    return as_floats(smooth)

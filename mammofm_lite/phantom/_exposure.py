"""Dose, scatter and the detector: what comes between the tissue and the stored values.

Quantum noise follows the number of photons, which falls with thickness and brightness of tissue;
a pixel's variance is inverse to its area, so that coarse pixels are as noisy as fine ones
averaged. Scatter that passes the grid, about a sixth of the primary (J. M. Boone, K. K. Lindfors,
V. N. Cooper and J. A. Seibert, Med. Phys. 27, 2408-2416, 2000, before the grid: 0.3 to 0.6), lays
a smooth veil over the breast.
"""

from dataclasses import dataclass
from functools import cache
from math import erf
from typing import Final

import numpy as np
import numpy.typing as npt

from ._anatomy import Body
from ._grid import Floats, Grid, as_floats
from ._look import Look
from ._signal import blurred, convolved

__all__ = ["Exposure"]

Doubles = npt.NDArray[np.float64]

_SCATTER: Final = 0.15
_SCATTER_SIGMA_MM: Final = 12.0
_SCATTER_STEP_MM: Final = 3.0
_AVERAGE: Final = 0.4
_DETECTOR_MM: Final = 0.06  # standard deviation of its blur
_REFERENCE_MM: Final = 0.1
_FINEST_MM: Final = 0.2  # step of tissue, see `_texture.step_for`


@dataclass(frozen=True)
class Exposure:
    """Of one woman's views at one pixel size.

    Attributes
    ----------
    noise
        Standard deviation of a pixel of 0.1 mm behind average tissue.
    """

    noise: float
    scatter: float
    blur_mm: float
    step_mm: float

    @classmethod
    def of(cls, look: Look, body: Body, step_mm: float) -> "Exposure":
        thick = body.thickness_mm / 50
        return cls(
            noise=look.noise * thick**0.4,
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
        seen = blurred(
            seen, float(np.hypot(self.blur_mm, _aperture_mm(self.step_mm))), self.step_mm
        )
        return as_floats(np.where(tissue > 0, seen, 0))

    def draw(self, shape: tuple[int, int], random: np.random.Generator) -> Floats:
        """Noise behind average tissue, blurred by the detector: float32."""
        white = as_floats(random.standard_normal(shape, dtype=np.float32))
        white *= np.float32(self.noise)
        blur = float(np.hypot(_DETECTOR_MM, self.blur_mm))
        unit = _covariance(_REFERENCE_MM, blur)[0] ** 0.5
        return convolved(white, _noise_weights(self.step_mm, blur) / unit)

    def scaled(self, noise: Floats, bright: Floats) -> Floats:
        """Noise by the brightness of its own pixel alone."""
        return as_floats(noise * np.exp(np.float32(0.9) * (bright - np.float32(_AVERAGE))))


def _aperture_mm(step_mm: float) -> float:
    """Blur by which points of a coarse step become averages: float, 0 at the finest step.

    As pixels of 0.1 mm, interpolated from points 0.2 mm apart, would be averaged.
    """
    if step_mm <= _FINEST_MM:
        return 0.0
    return float(((step_mm**2 - _REFERENCE_MM**2) / 12 + _FINEST_MM**2 / 6) ** 0.5)


def _covariance(step_mm: float, blur_mm: float) -> Doubles:
    """Along one axis, of white noise of unit density, blurred and averaged over pixels.

    It is the autocorrelation of a pixel's width, a triangle, under a Gaussian of twice the blur's
    variance; of pixels 0 to 31 apart, 1/mm.
    """
    at = np.arange(-1, 33) * step_mm
    spread = 2 * blur_mm  # the square root of twice the Gaussian's variance
    twice_integrated = at * np.array([erf(x / spread) for x in at]) / 2
    twice_integrated += spread / (2 * np.pi**0.5) * np.exp(-((at / spread) ** 2))
    second: Doubles = np.diff(twice_integrated, 2) / step_mm**2
    return second


@cache
def _noise_weights(step_mm: float, blur_mm: float) -> Doubles:
    """What gives white noise that covariance: an odd number of symmetric weights."""
    half = _covariance(step_mm, blur_mm)
    power = np.fft.fft(np.concatenate([half, half[-2:0:-1]])).real
    weights = np.fft.ifft(np.sqrt(np.maximum(power, 0))).real[: len(half)]
    reach = int(np.flatnonzero(np.abs(weights) > 0.01 * weights[0])[-1])
    both: Doubles = np.concatenate([weights[reach:0:-1], weights[: reach + 1]])
    return both

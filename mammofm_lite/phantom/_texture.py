"""Random fields with the spatial statistics of breast tissue.

The power spectrum of mammograms falls as a power of frequency, ``P(f) = K / f**beta``, with
``beta`` near 3, and from 1.5 to 3.5 between women (A. E. Burgess, F. L. Jacobson and P. F. Judy,
Med. Phys. 28, 419-437, 2001; A. E. Burgess and P. F. Judy, J. Opt. Soc. Am. A 24, B52-B60, 2007).
Gaussian noise filtered to that spectrum is the plain background of this phantom; lobes of gland
come of it by a threshold. Where lumps are wanted (focal asymmetries) they are clustered as in F. O.
Bochud, C. K. Abbey and M. P. Eckstein, Opt. Express 4, 33-43, 1999.

Fields live on a fixed rectangle, whatever the pixel: a coarser sampling takes the same
coefficients, fewer of them, and so shows the same tissue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ._grid import Floats, Grid, as_floats

__all__ = [
    "EXPONENT",
    "Coefficients",
    "Law",
    "Noise",
    "band_law",
    "bulk_law",
    "step_for",
    "tissue_law",
]

EXPONENT: Final = 3.0
# Fields repeat after this; no breast is larger.
_PERIOD_MM: Final = (240.0, 150.0)
# Each rung holds the frequencies of the rungs before it and adds its own.
_STEPS_MM: Final = (1.2, 0.6, 0.3, 0.2)
# Structures larger than this carry no more power: a breast is no larger, and P must stay finite.
_OUTER_SCALE_MM: Final = 80.0
# Left and right are alike in what is larger than this, and strangers in what is smaller.
_ALIKE_ABOVE_MM: Final = 12.0
_ALIKENESS: Final = 0.9

Coefficients = npt.NDArray[np.complex64]
Law = Callable[[Floats, Floats], Floats]


def step_for(spacing_mm: float) -> float:
    """The coarsest step at which fields can be made for pixels of this distance."""
    fitting = [step for step in _STEPS_MM if step <= spacing_mm * 1.001]
    return fitting[0] if fitting else _STEPS_MM[-1]


@cache
def tissue_law(exponent: float) -> Law:
    """Amplitudes that give the power law, isotropic."""
    outer = np.float32(_OUTER_SCALE_MM**-2)

    def law(down: Floats, across: Floats) -> Floats:
        return as_floats((down * down + across * across + outer) ** np.float32(-exponent / 4))

    return law


@cache
def bulk_law(exponent: float, smooth_mm: float) -> Law:
    """The power law without what is finer than `smooth_mm`."""
    power = tissue_law(exponent)

    def law(down: Floats, across: Floats) -> Floats:
        fine = (down * down + across * across) * np.float32(smooth_mm**2)
        return as_floats(power(down, across) / (1 + fine))

    return law


@cache
def band_law(size_mm: float, stretch: float) -> Law:
    """Structures near `size_mm`, `stretch` times as long across as down."""

    def law(down: Floats, across: Floats) -> Floats:
        squared = (down * down + (across * np.float32(stretch)) ** 2) * np.float32(size_mm**2)
        return as_floats(squared / (1 + squared * squared))

    return law


@dataclass(frozen=True)
class Noise:
    """Gaussian fields sampled every `step_mm`, one of the steps of `step_for`."""

    step_mm: float

    def draw(self, random: np.random.Generator) -> Coefficients:
        """White noise in the frequency domain: complex64 [rows, columns // 2 + 1].

        The coefficients of a coarser step are among those of a finer one.
        """
        white = np.zeros((0, 1), np.complex64)
        for step in _STEPS_MM:
            rows, columns = _shape(step)
            pairs = random.standard_normal((rows, columns // 2 + 1, 2), dtype=np.float32)
            finer = (pairs * np.float32(np.sqrt(0.5))).view(np.complex64)[..., 0]
            half, low = len(white) // 2, white.shape[1] - 1  # without its Nyquist frequencies
            finer[:half, :low] = white[:half, :low]
            if half:
                finer[1 - half :, :low] = white[1 - half :, :low]
            white = finer
            if step == self.step_mm:
                break
        return white

    def cut(self, finer: Coefficients) -> Coefficients:
        """Those of a finer step's coefficients that this step can show."""
        rows, columns = _shape(self.step_mm)
        if finer.shape == (rows, columns // 2 + 1):
            return finer
        white = np.zeros((rows, columns // 2 + 1), np.complex64)
        half, low = rows // 2, columns // 2
        white[:half, :low] = finer[:half, :low]
        white[1 - half :, :low] = finer[1 - half :, :low]
        return white

    def alike(self, shared: Coefficients, own: Coefficients, share: float = 1.0) -> Coefficients:
        """White noise of one breast out of that of both and its own.

        Parameters
        ----------
        share
            Of the usual likeness of sides, 0 to 1.
        """
        common = _likeness(self.step_mm) * np.float32(share)
        mixed: Coefficients = common * shared + np.sqrt(1 - common * common) * own
        return mixed

    def field(self, white: Coefficients, law: Law) -> Floats:
        """Noise of mean 0 and variance 1: float32, the whole periodic rectangle."""
        amplitudes = _amplitudes(self.step_mm, law)
        return as_floats(np.fft.irfft2(white * amplitudes, s=_shape(self.step_mm), norm="forward"))

    def crop(self, field: Floats, grid: Grid) -> Floats:
        """The part of a field that a grid of the same step covers, repeated where it is larger."""
        rows = np.arange(grid.rows) % field.shape[0]
        part: Floats = field[rows]
        if grid.columns <= field.shape[1]:
            return np.ascontiguousarray(part[:, : grid.columns])
        return np.ascontiguousarray(part[:, np.arange(grid.columns) % field.shape[1]])


def _shape(step_mm: float) -> tuple[int, int]:
    return round(_PERIOD_MM[0] / step_mm), round(_PERIOD_MM[1] / step_mm)


def _frequencies(step_mm: float) -> tuple[Floats, Floats]:
    """Cycles per mm: float32 [rows, 1] and [1, columns // 2 + 1]."""
    rows, columns = _shape(step_mm)
    down = np.fft.fftfreq(rows, step_mm).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(columns, step_mm).astype(np.float32)[None]
    return down, across


@cache
def _scale(law: Law) -> np.float32:
    """What makes the variance one, at the finest step: coarser ones lose what they cannot show."""
    amplitudes = law(*_frequencies(_STEPS_MM[-1]))
    # Half of the plane is stored; all but its first column stands for two coefficients.
    squares = amplitudes.astype(np.float64) ** 2
    power = 2 * squares.sum() - squares[:, 0].sum() - squares[0, 0]
    return np.float32(1 / np.sqrt(power))


@cache
def _amplitudes(step_mm: float, law: Law) -> Coefficients:
    """Amplitudes, turned in phase so that the first sample lies half a step inside."""
    down, across = _frequencies(step_mm)
    amplitudes = law(down, across) * _scale(law)
    amplitudes[0, 0] = 0
    phase = np.exp(np.complex64(1j * np.pi * step_mm) * (down + across))
    turned: Coefficients = (amplitudes * phase).astype(np.complex64)
    turned.setflags(write=False)
    return turned


@cache
def _likeness(step_mm: float) -> Floats:
    down, across = _frequencies(step_mm)
    scale = np.float32(_ALIKE_ABOVE_MM**2)
    likeness = as_floats(np.float32(_ALIKENESS) / (1 + (down * down + across * across) * scale))
    likeness.setflags(write=False)
    return likeness

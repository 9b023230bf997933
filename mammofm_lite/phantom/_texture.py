"""Random fields with the spatial statistics of breast tissue.

The power spectrum of mammograms falls as a power of frequency, ``P(f) = K / f**beta``, with
``beta`` near 3 (A. E. Burgess, Proc. SPIE 3661, 1999; A. E. Burgess, F. L. Jacobson and P. F. Judy,
Med. Phys. 28, 419-437, 2001). Gaussian noise filtered to that spectrum is the plain background of
this phantom. It has no lobules; a clustered lumpy background (F. O. Bochud, C. K. Abbey and M. P.
Eckstein, Opt. Express 4, 33-43, 1999) would, at a far greater price.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from ._grid import Floats, Grid, as_floats

__all__ = ["EXPONENT", "Noise", "fast_size"]

EXPONENT: Final = 3.0
# Structures larger than this carry no more power: a breast is no larger, and P must stay finite.
_OUTER_SCALE_MM: Final = 80.0
# Left and right are alike in what is larger than this, and strangers in what is smaller.
_ALIKE_ABOVE_MM: Final = 12.0
_ALIKENESS: Final = 0.9
# The border of the gland is smoother than its inside.
_SMOOTH_BELOW_MM: Final = 12.0
_SMALLEST_PRIMES: Final = (2, 3, 5)

Coefficients = npt.NDArray[np.complex64]


def fast_size(count: int) -> int:
    """The next even size without prime factors above 5, which the FFT likes."""
    size = count + count % 2
    while _without(size, _SMALLEST_PRIMES) > 1:
        size += 2
    return size


def _without(size: int, primes: tuple[int, ...]) -> int:
    for prime in primes:
        while size % prime == 0:
            size //= prime
    return size


@dataclass(frozen=True)
class Noise:
    """Gaussian fields on one grid, filtered in the frequency domain; they repeat at its edges."""

    grid: Grid

    @cached_property
    def _shape(self) -> tuple[int, int]:
        return fast_size(self.grid.rows), fast_size(self.grid.columns)

    @cached_property
    def _frequencies(self) -> tuple[Floats, Floats]:
        """Cycles per mm: float32 [rows, 1] and [1, columns // 2 + 1]."""
        rows, columns = self._shape
        down = np.fft.fftfreq(rows, self.grid.step_mm).astype(np.float32)[:, None]
        across = np.fft.rfftfreq(columns, self.grid.step_mm).astype(np.float32)[None]
        return down, across

    @cached_property
    def _squared_frequency(self) -> Floats:
        down, across = self._frequencies
        return down * down + across * across

    @cached_property
    def _power_law(self) -> Floats:
        """Amplitudes of the isotropic tissue noise, float32."""
        outer = np.float32(_OUTER_SCALE_MM**-2)
        return self._unit((self._squared_frequency + outer) ** np.float32(-EXPONENT / 4))

    @cached_property
    def _smooth_law(self) -> Floats:
        fine = 1 + self._squared_frequency * np.float32(_SMOOTH_BELOW_MM**2)
        return self._unit(self._power_law / fine)

    @cached_property
    def _alikeness(self) -> Floats:
        scale = np.float32(_ALIKE_ABOVE_MM**2)
        return np.float32(_ALIKENESS) / (1 + self._squared_frequency * scale)

    def _band(self, size_mm: float, stretch: float) -> Floats:
        """Amplitudes of structures near `size_mm`, `stretch` times as long across as down."""
        down, across = self._frequencies
        squared = (down * down + (across * np.float32(stretch)) ** 2) * np.float32(size_mm**2)
        return self._unit(squared / (1 + squared * squared))

    def _unit(self, amplitudes: Floats) -> Floats:
        """Scaled so that the field that comes of them has variance one."""
        amplitudes[0, 0] = 0
        # Half of the plane is stored; all but its first column stands for two coefficients.
        power = 2 * np.sum(amplitudes**2, dtype=np.float64) - np.sum(amplitudes[:, 0] ** 2)
        rows, columns = self._shape
        return amplitudes * np.float32(rows * columns / np.sqrt(power))

    def draw(self, random: np.random.Generator) -> Coefficients:
        """White noise in the frequency domain: complex64 [rows, columns // 2 + 1]."""
        rows, columns = self._shape
        pairs = random.standard_normal((rows, columns // 2 + 1, 2), dtype=np.float32)
        white: Coefficients = (pairs * np.float32(np.sqrt(0.5))).view(np.complex64)[..., 0]
        return white

    def alike(self, shared: Coefficients, own: Coefficients) -> Coefficients:
        """White noise of one breast out of that of both and its own."""
        common = self._alikeness
        mixed: Coefficients = common * shared + np.sqrt(1 - common * common) * own
        return mixed

    def tissue(self, white: Coefficients) -> Floats:
        """Power-law noise of mean 0 and variance 1: float32 [grid.rows, grid.columns]."""
        return self._crop(self._field(white * self._power_law))

    def bulk(self, white: Coefficients) -> Floats:
        """The same noise without its fine part, mean 0 and variance 1: float32 like `tissue`."""
        return self._crop(self._field(white * self._smooth_law))

    def band(self, white: Coefficients, size_mm: float, stretch: float) -> Floats:
        """Noise of one structure size, mean 0 and variance 1, stretched along the rows.

        Returns
        -------
        numpy.ndarray
            float32, a little larger than the grid, and periodic: its edges fit each other.
        """
        return self._field(white * self._band(size_mm, stretch))

    def _field(self, coefficients: Coefficients) -> Floats:
        return as_floats(np.fft.irfft2(coefficients, s=self._shape))

    def _crop(self, field: Floats) -> Floats:
        return np.ascontiguousarray(field[: self.grid.rows, : self.grid.columns], dtype=np.float32)

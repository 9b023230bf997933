"""When the cancer comes: the stated hazard, its closed form and times drawn from it.

Of a woman without a visible cancer the hazard of a diagnosis is proportional and constant::

    h(t) = h0 * exp(b_density[density] + b_asymmetry * asymmetry + b_precursor * strength)

for the ten years of the horizon. A cancer that is visible now is diagnosed within the first year
with probability 0.95 (a hazard of -ln 0.05 in that year); after it the hazard is that of others.

Where the sizes come from: in the general population, against less than 5 % dense, breasts of
5-24 %, 25-49 %, 50-74 % and 75 % or more have relative risks of 1.8, 2.1, 2.9 and 4.6, and BI-RADS
b, c and d against a 2.2, 3.0 and 4.0 (V. A. McCormack and I. dos Santos Silva, Cancer Epidemiol.
Biomarkers Prev. 15, 1159-1169, 2006). Against b that is about 0.5 for a, 1.4 for c and 2 for d: the
ratios here are 0.6, 1.5 and 2.1. That asymmetry of dense tissue goes with cancers now and soon is
known (S. M. Hudson et al., Br. J. Radiol. 93, 20200154, 2020; J. Donnelly et al., Radiology 310,
e232780, 2024, AsymMirai), with far smaller effects than here. The coefficients of
asymmetry and precursor, and the base of 1.2 % a year, are chosen so that most of what can be
predicted is seen when left is compared with right: they serve to test a prognosis, and nothing
about women follows from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from ._truth import YEARS_TOLD, Density

__all__ = ["HORIZON_YEARS", "Hazard"]

HORIZON_YEARS: Final = 10.0
_BASE_PER_YEAR: Final = 0.012
_LOG_RATIO_OF_DENSITY: Final[Mapping[Density, float]] = MappingProxyType(
    {"a": -0.5, "b": 0.0, "c": 0.4, "d": 0.75}
)
_LOG_RATIO_OF_ASYMMETRY: Final = 2.6
_LOG_RATIO_OF_PRECURSOR: Final = 2.8
# With a hazard of -ln 0.05 for one year, 95 % are diagnosed in it.
_VISIBLE_PER_YEAR: Final = float(-np.log(0.05))


@dataclass(frozen=True)
class Hazard:
    """Hazard of one woman, per year: piecewise constant, before and after the end of year one."""

    first_year: float
    later: float

    @classmethod
    def of(cls, density: Density, asymmetry: float, strength: float, malignant: bool) -> "Hazard":
        """From what is known of her.

        Parameters
        ----------
        strength
            Of the precursor; 0 where there is none.
        malignant
            Whether a cancer is visible now.
        """
        log_ratio = (
            _LOG_RATIO_OF_DENSITY[density]
            + _LOG_RATIO_OF_ASYMMETRY * asymmetry
            + _LOG_RATIO_OF_PRECURSOR * strength
        )
        later = _BASE_PER_YEAR * float(np.exp(log_ratio))
        return cls(_VISIBLE_PER_YEAR if malignant else later, later)

    def risk(self, years: float) -> float:
        """Probability of a diagnosis within so many years."""
        cumulative = self.first_year * min(years, 1.0) + self.later * max(years - 1.0, 0.0)
        return float(-np.expm1(-cumulative))

    def risk_by_year(self) -> tuple[float, ...]:
        """Probability of a diagnosis within 1, 2, ... 5 years."""
        return tuple(self.risk(year) for year in range(1, YEARS_TOLD + 1))

    def draw(self, random: np.random.Generator) -> float | None:
        """Years until the diagnosis, by inversion; ``None`` beyond the horizon."""
        left = float(random.exponential())
        if left <= self.first_year:
            return left / self.first_year
        years = 1.0 + (left - self.first_year) / self.later
        return years if years <= HORIZON_YEARS else None

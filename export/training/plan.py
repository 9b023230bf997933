"""How much of everything: from the hours that are given to studies, seconds and rates."""

from dataclasses import dataclass
from typing import Final

from mammofm_lite.errors import UsageError
from mammofm_lite.export.seeds import TRAINING, VALIDATION

from .batches import CropPlan
from .loop import Budget

__all__ = ["Plan"]

# Shares of the whole time; what is left is rendering, encoding and export.
_CROPS: Final = 0.35
_VIEWS: Final = 0.35
_REPORT: Final = 0.1
_RISK: Final = 0.01
_STUDIES_PER_HOUR: Final = 1200
_CHECKED_PER_HOUR: Final = 140
_ENCODED_PER_HOUR: Final = 900
_HOURS: Final = (0.02, 48.0)


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Attributes
    ----------
    studies, checked, encoded
        Phantoms to train on, to choose operating points on, and (of the first) to train the light
        heads on.
    prevalence
        Share of cancers among the studies to train on: more of them than elsewhere, as cancers have
        most to teach. Calibration, on phantoms with the usual share, makes up for it.
    fine_mm
        Pixel spacing of the phantoms for the operating points: what users' phantoms have.
    coarse_mm
        Pixel spacing of those to train on: about what is left of it in a prepared view.
    """

    studies: int
    checked: int
    encoded: int
    crop: CropPlan
    views: int
    crops_budget: Budget
    views_budget: Budget
    report_budget: Budget
    risk_budget: Budget
    seed: int = 0
    prevalence: float = 0.5
    fine_mm: float = 0.1
    coarse_mm: float = 0.2

    def __str__(self) -> str:
        budgets = {
            "crops": self.crops_budget,
            "views": self.views_budget,
            "risk": self.risk_budget,
            "report": self.report_budget,
        }
        lasts = ", ".join(f"{name} {budget}" for name, budget in budgets.items())
        return f"{self.studies} phantoms to train on, {self.checked} to check on; {lasts}"

    @classmethod
    def for_hours(cls, hours: float, *, seed: int) -> "Plan":
        """The plan for so many hours on two cores.

        Raises
        ------
        UsageError
            Fewer hours than give anything, or more than two days.
        """
        low, high = _HOURS
        if not low <= hours <= high:
            raise UsageError(f"training: hours is {hours:g}, allowed {low:g} to {high:g}")
        seconds = hours * 3600
        studies = min(max(int(_STUDIES_PER_HOUR * hours), 8), len(TRAINING))
        return cls(
            studies=studies,
            checked=min(max(int(_CHECKED_PER_HOUR * hours), 8), len(VALIDATION)),
            encoded=min(max(int(_ENCODED_PER_HOUR * hours), 8), studies),
            crop=CropPlan(160, 20),
            views=2,
            crops_budget=Budget(_CROPS * seconds),
            views_budget=Budget(_VIEWS * seconds),
            report_budget=Budget(_REPORT * seconds),
            risk_budget=Budget(_RISK * seconds),
            seed=seed,
        )

    @classmethod
    def smoke(cls, *, seed: int) -> "Plan":
        """A few steps of everything, to see that it runs; what comes out has learned nothing."""
        few = Budget(0, steps=3)
        return cls(16, 4, 8, CropPlan(160, 4), 1, few, few, few, few, seed, fine_mm=0.2)

"""How much of everything: from the hours that are given to studies, seconds and rates."""

from dataclasses import dataclass
from typing import Final

from mammofm_lite.errors import UsageError
from mammofm_lite.export.seeds import TRAINING, VALIDATION

from .batches import CropPlan
from .loop import Budget

__all__ = ["Plan"]

# Shares of the whole time; what is left is rendering, encoding and export.
_CROPS: Final = 0.27
_VIEWS: Final = 0.27
_RARE: Final = 0.22
_REPORT: Final = 0.08
_RISK: Final = 0.008
_STUDIES_PER_HOUR: Final = 930
_RARE_PER_HOUR: Final = 230
_CHECKED_PER_HOUR: Final = 110
_ENCODED_PER_HOUR: Final = 700
_HOURS: Final = (0.02, 48.0)


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Attributes
    ----------
    studies, rare, checked, encoded
        Phantoms to train on, more of them chosen for rare looks, to choose operating points on, and
        (of the first) to train the light heads on.
    prevalence
        Share of cancers among the studies to train on: more of them than elsewhere, as cancers have
        most to teach. Calibration, on phantoms with the usual share, makes up for it.
    fine_mm
        Pixel spacing of the phantoms for the operating points: what users' phantoms have.
    coarse_mm
        Pixel spacing of those to train on: about what is left of it in a prepared view.
    """

    studies: int
    rare: int
    checked: int
    encoded: int
    crop: CropPlan
    practice: CropPlan
    views: int
    crops_budget: Budget
    views_budget: Budget
    rare_budget: Budget
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
            "rare": self.rare_budget,
            "risk": self.risk_budget,
            "report": self.report_budget,
        }
        lasts = ", ".join(f"{name} {budget}" for name, budget in budgets.items())
        phantoms = f"{self.studies} phantoms to train on, {self.rare} more with rare looks"
        return f"{phantoms}, {self.checked} to check on; {lasts}"

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
            rare=max(int(_RARE_PER_HOUR * hours), 8),
            checked=min(max(int(_CHECKED_PER_HOUR * hours), 8), len(VALIDATION)),
            encoded=min(max(int(_ENCODED_PER_HOUR * hours), 8), studies),
            crop=CropPlan(160, 20),
            practice=CropPlan(160, 16),
            views=2,
            crops_budget=Budget(_CROPS * seconds),
            views_budget=Budget(_VIEWS * seconds),
            rare_budget=Budget(_RARE * seconds),
            report_budget=Budget(_REPORT * seconds),
            risk_budget=Budget(_RISK * seconds),
            seed=seed,
        )

    @classmethod
    def smoke(cls, *, seed: int) -> "Plan":
        """A few steps of everything, to see that it runs; what comes out has learned nothing."""
        few = Budget(0, steps=3)
        crop = CropPlan(160, 4)
        budgets = (few, few, few, few, few)
        return cls(16, 4, 4, 8, crop, crop, 1, *budgets, seed, fine_mm=0.2)

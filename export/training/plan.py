"""How much of everything: from the hours and the machine to studies, seconds and sizes."""

from dataclasses import dataclass, replace
from typing import Final

from mammofm_lite.errors import UsageError
from mammofm_lite.export.seeds import TRAINING, VALIDATION, training_seeds

from .batches import CropPlan
from .loop import Budget

__all__ = ["Machine", "Plan"]

_HOURS: Final = (0.02, 48.0)
# Of the time for crops and views, where they are known; the rest of it renders and encodes a tenth
# more phantoms. Rare looks and the report keep theirs and get these shares on top.
_ANEW_GOING_ON: Final = 0.04
_CROPS_GOING_ON: Final = 0.77
_RARE_GOING_ON: Final = 0.02
_LEANT_GOING_ON: Final = 0.03
_REPORT_GOING_ON: Final = 0.1
_MORE_PHANTOMS: Final = 1.1
_NO_TIME: Final = Budget(0)


@dataclass(frozen=True)
class Machine:
    """What is trained on: processor cores, which render and draw, and whether a GPU learns."""

    cores: int
    gpu: bool


@dataclass(frozen=True)
class _Pace:
    """Shares of the whole time, phantoms per hour of a core, and sizes of a step.

    What is left of the time is rendering (for a study to train on 0.6 s of a core, or 1.3 s where
    two share one), encoding and export.
    """

    crops: float
    views: float
    rare: float
    report: float
    studies: int
    rare_studies: int
    checked: int
    encoded: int
    crop: CropPlan
    again: CropPlan
    practice: CropPlan
    whole: int
    women: int
    first: float = 1.0


# Crops of 224 and more pixels hold the largest distortions.
_ON_CPU: Final = _Pace(
    *(0.27, 0.27, 0.22, 0.08),
    *(465, 115, 55, 350),
    CropPlan(160, 20),
    CropPlan(224, 24),
    CropPlan(224, 8),
    whole=2,
    women=16,
)
# A GPU learns faster than cores render: it starts on a part, and the cores render on meanwhile.
_ON_GPU: Final = _Pace(
    *(0.2, 0.1, 0.36, 0.14),
    *(550, 140, 50, 400),
    CropPlan(256, 96),
    CropPlan(256, 96),
    CropPlan(256, 32),
    whole=12,
    women=48,
    first=0.4,
)


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Attributes
    ----------
    studies, rare, checked, encoded
        Phantoms to train on, more of them chosen for rare looks, to choose operating points on, and
        (of the first) to train the light heads on.
    first
        Of the phantoms to train on those that crops are cut from; while they are, the others are
        rendered.
    crop, again, practice
        Crops of a step: from nothing, by weights that go on, and beside whole views.
    prevalence
        Share of cancers among the studies to train on: more of them than elsewhere, as cancers have
        most to teach. Calibration, on phantoms with the usual share, makes up for it.
    fine_mm
        Pixel spacing of the phantoms for the operating points: what users' phantoms have.
    coarse_mm
        Pixel spacing of those to train on: about what is left of it in a prepared view.
    whole, women
        Studies of a step on whole views, and of a step on reports.
    """

    studies: int
    first: int
    rare: int
    checked: int
    encoded: int
    crop: CropPlan
    again: CropPlan
    practice: CropPlan
    whole: int
    women: int
    crops_budget: Budget
    views_budget: Budget
    rare_budget: Budget
    report_budget: Budget
    seed: int = 0
    anew_budget: Budget = _NO_TIME
    leant_budget: Budget = _NO_TIME
    prevalence: float = 0.5
    fine_mm: float = 0.1
    coarse_mm: float = 0.2

    @property
    def phantoms(self) -> range:
        """Seeds of the phantoms to train on, in their order."""
        return training_seeds(self.seed)

    def __str__(self) -> str:
        budgets = {
            "crops": self.crops_budget,
            "views": self.views_budget,
            "anew": self.anew_budget,
            "rare": self.rare_budget,
            "leant": self.leant_budget,
            "report": self.report_budget,
        }
        lasts = ", ".join(f"{name} {budget}" for name, budget in budgets.items() if budget)
        phantoms = f"{self.studies} phantoms to train on, {self.rare} more with rare looks"
        return f"{phantoms}, {self.checked} to check on; {lasts}"

    @classmethod
    def for_hours(cls, hours: float, machine: Machine, *, seed: int) -> "Plan":
        """The plan for so many hours on a machine.

        Raises
        ------
        UsageError
            Fewer hours than give anything, or more than two days.
        """
        low, high = _HOURS
        if not low <= hours <= high:
            raise UsageError(f"training: hours is {hours:g}, allowed {low:g} to {high:g}")
        seconds = hours * 3600
        pace = _ON_GPU if machine.gpu else _ON_CPU

        def phantoms(rate: int, most: int) -> int:
            return min(max(int(rate * hours * machine.cores), 8), most)

        studies = phantoms(pace.studies, len(TRAINING) // 2)
        return cls(
            studies=studies,
            first=max(int(pace.first * studies), 8),
            rare=phantoms(pace.rare_studies, studies),
            checked=phantoms(pace.checked, len(VALIDATION)),
            encoded=phantoms(pace.encoded, studies),
            crop=pace.crop,
            again=pace.again,
            practice=pace.practice,
            whole=pace.whole,
            women=pace.women,
            crops_budget=Budget(pace.crops * seconds),
            views_budget=Budget(pace.views * seconds),
            rare_budget=Budget(pace.rare * seconds),
            report_budget=Budget(pace.report * seconds),
            seed=seed,
        )

    def going_on(self) -> "Plan":
        """The same time for weights that know crops and views already: for larger crops, the
        report, and a tenth more phantoms."""
        known = self.crops_budget.seconds + self.views_budget.seconds
        studies = min(round(_MORE_PHANTOMS * self.studies), len(TRAINING) // 2)
        return replace(
            self,
            studies=studies,
            rare=round(_MORE_PHANTOMS * self.rare),
            encoded=studies,
            crops_budget=replace(self.crops_budget, seconds=_CROPS_GOING_ON * known),
            views_budget=_NO_TIME,
            anew_budget=self.anew_budget.longer(_ANEW_GOING_ON * known),
            rare_budget=self.rare_budget.longer(_RARE_GOING_ON * known),
            leant_budget=self.leant_budget.longer(_LEANT_GOING_ON * known),
            report_budget=self.report_budget.longer(_REPORT_GOING_ON * known),
        )

    @classmethod
    def smoke(cls, *, seed: int) -> "Plan":
        """A few steps of everything, to see that it runs; what comes out has learned nothing."""
        few = Budget(0, steps=3)
        crop = CropPlan(160, 4)
        budgets = (few, few, few, few)
        return cls(16, 10, 4, 4, 8, crop, crop, crop, 1, 4, *budgets, seed, few, few, fine_mm=0.2)

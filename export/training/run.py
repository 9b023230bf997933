"""The whole run: phantoms, crops, views, rare looks, light heads, operating points, bundle."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch

from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.recipe import Recipe, load_recipe
from mammofm_lite.export.seeds import TRAINING, VALIDATION

from .data import DataPlan, Practice, StudySet, make_studies
from .features import ReportLosses, RiskLosses, Writing, make_features, start_report
from .loop import Loss, Stage, keep_memory, run_stage, save_state
from .network import DemoNetwork, ReportWords, parts_of
from .plan import Plan
from .points import Points, answers, choose_points, summary
from .rare import rare_seeds
from .stages import CropLosses, MixedLosses, ViewLosses, hold_norms, settle_norms, start_views
from .write import filled_recipe

__all__ = ["Training"]

Tell = Callable[[str], None]

_SETTLING: Final = 64  # batches of crops that batch norms take their final statistics from
_STARTING: Final = 64  # studies by which answers about whole views are scaled at first
# What the first blocks see (edges, specks) is learned in crops; without their gradients a whole
# view takes two thirds of the time.
_FROZEN: Final = ("_conv_stem", "_bn0", "_blocks.0.", "_blocks.1.", "_blocks.2.")
_STAGE_RATES: Final = {
    "crops": {"encoder": 1.5e-3, "malignancy": 1.5e-3, "density": 1.5e-3,
              "localization": 1.5e-3, "dense": 1.5e-3},
    "views": {"encoder": 4e-4, "malignancy": 1e-3, "density": 1e-3,
              "localization": 6e-4, "dense": 6e-4, "prognosis": 1e-3,
              **{f"encoder.{name}": 0.0 for name in _FROZEN}},
    "rare": {"encoder": 4e-4, "malignancy": 6e-4, "density": 6e-4,
             "localization": 6e-4, "dense": 6e-4, "prognosis": 6e-4,
             **{f"encoder.{name}": 0.0 for name in _FROZEN}},
    "report": {"report": 1e-3},
    "risk": {"prognosis": 5e-4},
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A run in a folder; the same folder and plan go on where they stopped."""

    recipe_path: Path
    folder: Path
    plan: Plan
    workers: int
    tell: Tell

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe whose sizes are trained."""
        return load_recipe(self.recipe_path)

    @cached_property
    def device(self) -> torch.device:
        """A GPU where torch sees one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self) -> Path:
        """Do all that is not done yet; where the bundle is.

        Raises
        ------
        ExportError
            A saved state is unreadable, the loss is not finite, or the export fails.
        """
        keep_memory()
        torch.manual_seed(self.plan.seed)
        words = ReportWords()
        network = DemoNetwork(self.recipe, words)
        network = network.to(self.device).to(memory_format=torch.channels_last)
        self.tell(f"training on {self.device}, {torch.get_num_threads()} threads")
        self.tell(f"plan: {self.plan}")
        spec, plan = self.recipe.preprocessing, self.plan
        seeds = TRAINING[: plan.studies], VALIDATION[: plan.checked]
        drawn = DataPlan(seeds[0], plan.coarse_mm, spec, plan.prevalence)
        studies = self._studies("train", drawn)
        rare = self._studies("rare", self._rare(drawn))
        checked = self._studies("check", DataPlan(seeds[1], plan.fine_mm, spec))
        self._crops(network, studies)
        self._views(network, studies)
        self._mixed(network, studies, rare)
        self._light_heads(network, studies, words)
        points = self._points(network, checked)
        return self._export(network, points)

    def _rare(self, drawn: DataPlan) -> DataPlan:
        others = TRAINING[self.plan.studies :]
        return replace(drawn, seeds=rare_seeds(others, self.plan.rare, drawn.options))

    def _studies(self, name: str, plan: DataPlan) -> StudySet:
        counter = self._counter(f"phantoms ({name})")
        return make_studies(self.folder / name, plan, workers=self.workers, tell=counter)

    def _counter(self, what: str) -> Callable[[int, int], None]:
        """Tell of whole tenths only."""
        told = -1

        def tell(done: int, count: int) -> None:
            nonlocal told
            if (tenth := 10 * done // max(count, 1)) > told:
                told = tenth
                self.tell(f"{what}: {done} of {count}")

        return tell

    def _stage(self, name: str, number: int, network: DemoNetwork, loss: Loss) -> None:
        budget = getattr(self.plan, f"{name}_budget")
        rates = _STAGE_RATES[name]
        stage = Stage(name, number, network, loss, rates, budget, self.plan.seed)
        run_stage(stage, self.folder / f"{name}.state", self.tell)

    def _crops(self, network: DemoNetwork, studies: StudySet) -> None:
        network.train()
        losses = CropLosses(network, studies, self.plan.crop, self.device)
        self._stage("crops", 1, network, losses)
        generator = np.random.default_rng([self.plan.seed, _SETTLING])
        settle_norms(network, losses, _SETTLING, generator)

    def _views(self, network: DemoNetwork, studies: StudySet) -> None:
        some = [studies[i] for i in range(min(len(studies), _STARTING))]
        start_views(network, some, self.device)
        hold_norms(network)
        self._stage("views", 2, network, ViewLosses(network, studies, self.plan.views, self.device))

    def _mixed(self, network: DemoNetwork, studies: StudySet, rare: StudySet) -> None:
        """Half of what is practised holds something rare."""
        practice = Practice(studies, rare, round(len(studies) / len(rare)))
        whole = ViewLosses(network, practice, self.plan.views // 2 or 1, self.device)
        hold_norms(network)
        self._stage("rare", 5, network, MixedLosses(whole, self.plan.practice))

    def _light_heads(self, network: DemoNetwork, studies: StudySet, words: ReportWords) -> None:
        encoded = [studies[i] for i in range(min(self.plan.encoded, len(studies)))]
        counter = self._counter("features")
        folder = self.folder / "features"
        folder.mkdir(exist_ok=True)
        features = make_features(folder, network, encoded, self.device, counter)
        mirrored = self.recipe.preprocessing.mirror == "right"
        self._stage("risk", 3, network, RiskLosses(network, features, 32, self.device))
        start_report(network)
        losses = ReportLosses(network, features, Writing(words), 16, mirrored, self.device)
        self._stage("report", 4, network, losses)

    def _points(self, network: DemoNetwork, checked: StudySet) -> Points:
        given = answers(network, checked, self.device)
        truths = list(checked.truths())
        points = choose_points(network, given, truths)
        for name, value in summary(given, truths, points).items():
            self.tell(f"validation: {name} {value:.3f}")
        return points

    def _export(self, network: DemoNetwork, points: Points) -> Path:
        network.to("cpu")
        save_state(
            self.folder / "model.pth",
            {
                key: {name: tensor.contiguous() for name, tensor in tensors.items()}
                for key, tensors in parts_of(network).items()
            },
        )
        recipe = self.folder / "demo.toml"
        recipe.write_text(filled_recipe(self.recipe_path.read_text(encoding="utf-8"), points))
        bundle = self.folder / "demo.mfm"
        export_bundle(recipe, bundle, force=True, tell=self.tell)
        shutil.rmtree(self.folder / "features", ignore_errors=True)
        return bundle

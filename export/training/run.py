"""The whole run: phantoms, crops, views, rare looks, light heads, operating points, bundle."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from mammofm_lite.bundle import Bundle
from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.recipe import Recipe, load_recipe
from mammofm_lite.export.seeds import VALIDATION

from .data import DataPlan, Practice, Study, StudySet, make_studies
from .encoders import FrozenEncoder, TorchEncoder, pooled_exactly, quantized_encoder
from .features import FeatureSet, make_features
from .heads import Checks, fit_heads
from .heard import VARIATIONS, Heard, Variations, make_heard
from .loop import Loss, Stage, in_tenths, keep_memory, run_stage, save_state
from .network import DemoNetwork, ReportWords, parts_of
from .plan import Machine, Plan
from .points import Points, answers, choose_points, summary
from .rare import rare_seeds
from .read_back import lean_back, read_back, read_report, writes_alike
from .report_check import findings_told
from .report_start import NippleViews, renew_report, start_report
from .reports import REPORT_RATES, ReportLosses, TaughtReport, Writing
from .stages import (
    CropLosses,
    MixedLosses,
    ViewLosses,
    begin_rounding,
    hold_norms,
    settle_norms,
    start_views,
)
from .write import filled_recipe

__all__ = ["Training"]

Tell = Callable[[str], None]

_FEATURES: Final = "features"
_CHECKED: Final = "features-check"
_SETTLING: Final = 64  # batches of crops that batch norms take their final statistics from
_MOST_DRAWERS: Final = 8
_CALIBRATING: Final = 24  # studies that the encoder is quantized on before the heads hear it
_TWINS: Final = 250  # studies by which diagnosis is to be alike in both precisions
_STARTING: Final = 64  # studies by which answers about whole views are scaled at first
# What the first blocks see (edges, specks) is learned in crops; without their gradients a whole
# view takes two thirds of the time, which a processor has not.
_FROZEN: Final = dict.fromkeys(
    (
        f"encoder.{name}"
        for name in ("_conv_stem", "_bn0", "_blocks.0.", "_blocks.1.", "_blocks.2.")
    ),
    0.0,
)
_LEANT_BACK: Final = 0.35
_LARGER_BATCH: Final = 1.5  # what rates are multiplied by where a step sees six times as many views
_STAGE_RATES: Final = {
    "crops": {"encoder": 1.5e-3, "malignancy": 1.5e-3, "density": 1.5e-3,
              "localization": 1.5e-3, "dense": 1.5e-3},
    "views": {"encoder": 4e-4, "malignancy": 1e-3, "density": 1e-3,
              "localization": 6e-4, "dense": 6e-4, "prognosis": 1e-3},
    "rare": {"encoder": 4e-4, "malignancy": 6e-4, "density": 6e-4,
             "localization": 6e-4, "dense": 6e-4, "prognosis": 6e-4},
    "report": REPORT_RATES,
    # What no bundle gives back is learned before the rest moves, lest its first gradients lead
    # everything else away from what it knows.
    "anew": {"dense": 3e-3},
    "leant": {"dense": 1e-3, "localization": 2e-4},
}  # fmt: skip
_GOING_ON: Final = {
    "crops": {"encoder": 7e-4, "malignancy": 4e-4, "localization": 6e-4, "dense": 6e-4},
    "rare": {"encoder": 3e-4, "malignancy": 6e-4, "density": 6e-4,
             "localization": 4e-4, "dense": 6e-4, "prognosis": 6e-4},
}  # fmt: skip


def _render(folder: Path, sets: Mapping[str, DataPlan], cores: int) -> None:
    for name, plan in sets.items():
        make_studies(folder / name, plan, workers=cores, tell=lambda done, count: None)


@dataclass(frozen=True)
class Training:
    """A run in a folder; the same folder and plan go on where they stopped."""

    recipe_path: Path
    folder: Path
    plan: Plan
    machine: Machine
    tell: Tell
    start: Bundle | None = None
    """Whose weights training goes on from, INT8 or not; the plan is then one that goes on."""

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe whose sizes are trained."""
        return load_recipe(self.recipe_path)

    @cached_property
    def device(self) -> torch.device:
        """A GPU where the plan is for one."""
        return torch.device("cuda" if self.machine.gpu else "cpu")

    def run(self) -> Path:
        """Do all that is not done yet; where the bundle is.

        Raises
        ------
        ExportError
            A saved state is unreadable, the loss is not finite, or the export fails.
        """
        keep_memory()
        torch.manual_seed(self.plan.seed)
        torch.set_float32_matmul_precision("high")  # of a GPU's products: TF32
        words = ReportWords()
        network = DemoNetwork(self.recipe, words)
        network = network.to(self.device).to(memory_format=torch.channels_last)
        self.tell(f"training on {self.device}, {torch.get_num_threads()} threads")
        self.tell(f"plan: {self.plan}")
        spec, plan = self.recipe.preprocessing, self.plan
        drawn = DataPlan(plan.phantoms[: plan.studies], plan.coarse_mm, spec, plan.prevalence)
        checked = DataPlan(VALIDATION[: plan.checked], plan.fine_mm, spec)
        sets = {"train": drawn, "rare": self._rare(drawn), "check": checked}
        first = replace(drawn, seeds=drawn.seeds[: plan.first])
        early = self.start is None and plan.first < plan.studies
        if early:
            some = self._studies("train", first)
            with self._rendering(sets):
                self._crops(network, some)
        studies, rare, checks = (self._studies(name, one) for name, one in sets.items())
        practice = Practice(studies, rare, round(len(studies) / len(rare)))
        if self.start is not None:
            self._go_on(network, self.start, practice)
        else:
            if not early:
                self._crops(network, studies)
            self._views(network, studies)
        begin_rounding(network, self._some(studies), self.device)
        self._stage("rare", 5, network, self._mixed(network, practice))
        if self.start is not None:
            self._lean_back(network, self.start, practice)
        self._light_heads(network, studies, checks, words)
        points = self._points(network, checks)
        return self._export(network, points)

    def _go_on(self, network: DemoNetwork, start: Bundle, practice: Practice) -> None:
        """Take up a bundle's weights; let the encoder learn more of lesions, free of the rounding
        and in many crops a step, than beside whole views it can."""
        self.tell(f"going on from {start.name} {start.version}, {start.precision}")
        read_back(network, start)
        some = self._some(practice)
        views = start_views(network, some, self.device)
        hold_norms(network)
        self._stage("anew", 6, network, self._mixed(network, practice))
        losses = CropLosses(network, practice, self.plan.again, self.device, views)
        self._stage("crops", 1, network, losses)
        start_views(network, some, self.device)

    def _lean_back(self, network: DemoNetwork, start: Bundle, practice: Practice) -> None:
        """Keep more of what the weights knew at first; cells learn to read what comes of it.

        Measured between two bundles of which one went on from the other: leaning back by a third
        to a half, the area under the curve of malignancy stays 0.942 on 300 plain phantoms and
        rises from 0.910 to 0.914 where their pictures are varied.
        """
        lean_back(network, start, _LEANT_BACK)
        begin_rounding(network, self._some(practice), self.device)
        self._stage("leant", 8, network, self._mixed(network, practice))

    @contextmanager
    def _rendering(self, sets: Mapping[str, DataPlan]) -> Iterator[None]:
        """Render in a process of its own meanwhile; what it leaves undone is rendered later."""
        arguments = (self.folder, sets, self.machine.cores)
        process = get_context("spawn").Process(target=_render, args=arguments)
        process.start()
        try:
            yield
        except BaseException:
            process.terminate()
            raise
        finally:
            process.join()

    def _rare(self, drawn: DataPlan) -> DataPlan:
        others = self.plan.phantoms[self.plan.studies :]
        found = rare_seeds(others, self.plan.rare, drawn.options, workers=self.machine.cores)
        return replace(drawn, seeds=found)

    def _studies(self, name: str, plan: DataPlan) -> StudySet:
        counter = in_tenths(self.tell, f"phantoms ({name})")
        return make_studies(self.folder / name, plan, workers=self.machine.cores, tell=counter)

    def _stage(self, name: str, number: int, module: nn.Module, loss: Loss) -> None:
        budget = getattr(self.plan, f"{name}_budget")
        rates, gpu = _STAGE_RATES[name], self.machine.gpu
        if self.start is not None:
            rates = _GOING_ON.get(name, rates)
        if name in ("views", "rare"):
            larger = {part: _LARGER_BATCH * rate for part, rate in rates.items()}
            rates = larger if gpu else rates | _FROZEN
        drawers = min(max(self.machine.cores - 2, 1), _MOST_DRAWERS) if gpu else 0
        seed, begun = self.plan.seed, ""
        if self.start is not None:  # draws other things than what it goes on from has met
            begun = f"-{self.start.sha256[:8]}"
            seed += int(self.start.sha256[:8], 16)
        stage = Stage(name, number, module, loss, rates, budget, seed, drawers=drawers)
        run_stage(stage, self.folder / f"{name}{begun}.state", self.tell)

    def _crops(self, network: DemoNetwork, studies: StudySet) -> None:
        network.train()
        losses = CropLosses(network, studies, self.plan.crop, self.device)
        self._stage("crops", 1, network, losses)
        generator = np.random.default_rng([self.plan.seed, _SETTLING])
        settle_norms(network, losses, _SETTLING, generator)

    def _views(self, network: DemoNetwork, studies: StudySet) -> None:
        start_views(network, self._some(studies), self.device)
        hold_norms(network)
        self._stage("views", 2, network, ViewLosses(network, studies, self.plan.whole, self.device))

    def _some(self, studies: Sequence[Study]) -> list[Study]:
        return [studies[i] for i in range(min(len(studies), _STARTING))]

    def _mixed(self, network: DemoNetwork, practice: Practice) -> MixedLosses:
        """Losses of whole views and crops; half of what is practised holds something rare."""
        count = self.plan.whole if self.machine.gpu else max(self.plan.whole // 2, 1)
        whole = ViewLosses(network, practice, count, self.device)
        return MixedLosses(whole, self.plan.practice)

    def _light_heads(
        self, network: DemoNetwork, studies: StudySet, checks: StudySet, words: ReportWords
    ) -> None:
        begin_rounding(network, self._some(studies), self.device)
        encoded = [studies[i] for i in range(min(self.plan.encoded, len(studies)))]
        encoder = self._frozen(network, studies)
        features = self._features(network, encoder, encoded, _FEATURES)
        views = NippleViews.of(features, self._some(encoded))
        if self.start is not None and writes_alike(self.start, words):
            read_report(network.report, self.start)
            renew_report(network, views)
        else:
            start_report(network, views)
        varied = Variations(encoder, encoded, VARIATIONS, self.plan.seed)
        heard = self._heard(network, features, varied, _FEATURES)
        exact = pooled_exactly(network, encoded[:_TWINS])
        fit_heads(network, features, Checks.of(heard, exact), self.device)
        self._report(network, heard, words)
        self._tell_findings(network, encoder, checks, words)

    def _features(
        self, network: DemoNetwork, encoder: FrozenEncoder, studies: Sequence[Study], name: str
    ) -> FeatureSet:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        counter = in_tenths(self.tell, name)
        return make_features(folder, encoder, network.prognosis, studies, counter)

    def _heard(
        self, network: DemoNetwork, features: FeatureSet, varied: Variations, name: str
    ) -> Heard:
        projection, counter = network.report.projection, in_tenths(self.tell, f"{name} heard")
        return make_heard(self.folder / name, projection, features, varied, counter)

    def _report(self, network: DemoNetwork, heard: Heard, words: ReportWords) -> None:
        mirrored = self.recipe.preprocessing.mirror == "right"
        taught, writing = TaughtReport(network.report).to(self.device), Writing(words)
        losses = ReportLosses(taught, heard, writing, self.plan.women, mirrored, self.device)
        self._stage("report", 4, taught, losses)

    def _tell_findings(
        self, network: DemoNetwork, encoder: FrozenEncoder, checks: StudySet, words: ReportWords
    ) -> None:
        studies = [checks[i] for i in range(len(checks))]
        features = self._features(network, encoder, studies, _CHECKED)
        plain = Variations(encoder, studies, 0, self.plan.seed)
        heard = self._heard(network, features, plain, _CHECKED)
        told = findings_told(network.report, Writing(words), heard)
        for name, value in zip(("precision", "recall", "F1"), told, strict=True):
            self.tell(f"validation: {name} of findings {value:.3f}")

    def _frozen(self, network: DemoNetwork, studies: StudySet) -> FrozenEncoder:
        """What the light heads hear."""
        if self.machine.gpu:
            return TorchEncoder(network, self.device)
        return quantized_encoder(network, self._some(studies)[:_CALIBRATING], self.machine.cores)

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
        for name in (_FEATURES, _CHECKED):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return bundle

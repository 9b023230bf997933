"""``python -m mammofm_lite.export.training.refit BUNDLE OUTPUT``: teach the report head more.

The encoder and the other heads of a bundle stay as they are, INT8 or not; the report head goes on
from what it knows, on what this encoder says of phantoms. After quantization that is the encoder
which it will hear, and no float model is needed. The bundle's self-test, untrue now, is left out
like its signature: make it anew.

With the same bundle in float32 beside it malignancy is fitted anew, too: quantization has chosen
other ranges since it was fitted in training. Then it is that bundle which is written, with the new
heads: quantize it as before, and the INT8 bundle tells what INT8 costs them. Calibration is not
touched, see `thresholds`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import click
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.bundle import Bundle
from mammofm_lite.errors import ExportError, MammoFMError
from mammofm_lite.expected import SELFTEST_FILE
from mammofm_lite.export.recipe import Recipe, WeightSource, load_recipe
from mammofm_lite.export.report_part import ReportPart
from mammofm_lite.export.seeds import training_seeds
from mammofm_lite.export.writing import changed_bundle
from mammofm_lite.quant.layers import treatment
from mammofm_lite.quant.ptq import compress_weights, read_graph, save_graph
from mammofm_lite.views import STANDARD_VIEWS

from .data import DataPlan, Study, make_studies
from .encoders import encoder_of
from .features import make_features
from .heads import Checks, Examples, fit_malignancy
from .heard import VARIATIONS, Heard, Variations, make_heard
from .loop import Budget, Stage, Tell, in_tenths, keep_memory, print_line, run_stage, save_state
from .network import DemoNetwork, ReportWords
from .read_back import read_back, read_report, writes_alike
from .reports import REPORT_RATES, ReportLosses, TaughtReport, Writing
from .thresholds import change_malignancy

__all__ = ["Refit", "check_twins"]

_RECIPE: Final = Path(__file__).resolve().parents[1] / "recipes" / "demo.toml"
_TOLERANCE: Final = 1e-4
_COARSE_MM: Final = 0.2
_PREVALENCE: Final = 0.5
_WOMEN: Final = 16
_TWINS: Final = 250
_ALIKE: Final = 0.95  # of the demonstration 0.99


@dataclass(frozen=True)
class Refit:
    """A run in a folder; the same folder and plan go on where they stopped."""

    bundle: Bundle
    folder: Path
    hours: float
    studies: int
    cores: int
    tell: Tell
    seed: int = 0
    exact: Bundle | None = None
    """The bundle in float32, by which malignancy is fitted anew, too, and which is then written."""

    @cached_property
    def recipe(self) -> Recipe:
        """Sizes of the report head, and how pictures are prepared: as the bundle's."""
        recipe = load_recipe(_RECIPE)
        if recipe.preprocessing != self.bundle.preprocessing:
            raise ExportError("the bundle prepares pictures otherwise than the demonstration does")
        return recipe

    def run(self, output: Path, *, force: bool) -> Bundle:
        """Teach, and write the bundle with the new head.

        Raises
        ------
        ExportError
            The bundle has another encoder, preparation or report grammar than the demonstration,
            `exact` is another model, the loss is not finite, or a graph differs from torch.
        """
        keep_memory()
        torch.manual_seed(self.seed)
        words = ReportWords()
        network = DemoNetwork(self.recipe, words)
        if self.bundle.report is None:
            raise ExportError("the bundle has no report head to teach")
        if not writes_alike(self.bundle, words):
            raise ExportError("the bundle writes reports by another grammar than the demonstration")
        encoder = encoder_of(self.bundle, self.bundle.report.encoder, self.cores)
        plan = DataPlan(
            training_seeds(self.seed)[: self.studies],
            _COARSE_MM,
            self.recipe.preprocessing,
            _PREVALENCE,
        )
        studies = make_studies(
            self.folder / "train", plan, workers=self.cores, tell=in_tenths(self.tell, "phantoms")
        )
        features = make_features(
            _made(self.folder / "heard"),
            encoder,
            network.prognosis,
            studies,
            in_tenths(self.tell, "features"),
        )
        read_report(network.report, self.bundle)
        variations = Variations(encoder, studies, VARIATIONS, self.seed)
        heard = make_heard(
            self.folder / "heard",
            network.report.projection,
            features,
            variations,
            in_tenths(self.tell, "variations"),
        )
        if self.exact is not None:
            self._judge(network, heard, studies)
        self._teach(network, heard, words)
        return self._write(network, studies[0], output, force=force)

    def _judge(self, network: DemoNetwork, heard: Heard, studies: Sequence[Study]) -> None:
        """Fit malignancy to what this encoder pools, varied and plain, and alike in float32."""
        assert self.exact is not None
        read_back(network, self.bundle)
        (name,) = self.exact.encoders
        some = [studies[index] for index in range(min(_TWINS, len(studies)))]
        exact = encoder_of(self.exact, name, self.cores)(some).pooled
        check_twins(heard.features.pooled()[: len(some)], exact)
        examples = Examples.of(heard.features, Checks.of(heard, exact), torch.device("cpu"))
        fit_malignancy(network.malignancy, examples)

    def _teach(self, network: DemoNetwork, heard: Heard, words: ReportWords) -> None:
        network.train()
        mirrored = self.recipe.preprocessing.mirror == "right"
        cpu, budget = torch.device("cpu"), Budget(self.hours * 3600)
        taught = TaughtReport(network.report)
        losses = ReportLosses(taught, heard, Writing(words), _WOMEN, mirrored, cpu)
        stage = Stage("report", 7, taught, losses, REPORT_RATES, budget, self.seed)
        run_stage(stage, self.folder / f"refit-{self.bundle.sha256[:8]}.state", self.tell)

    # ---- the bundle

    @property
    def _changed(self) -> Bundle:
        return self.exact or self.bundle

    def _write(self, network: DemoNetwork, study: Study, output: Path, *, force: bool) -> Bundle:
        weights = self.folder / "report.pth"
        save_state(weights, {"report": dict(network.report.state_dict())})
        part = self._part(weights, study)
        without = {SELFTEST_FILE}  # untrue now
        opened = changed_bundle(self._changed, output, force=force, without=without)
        with opened as (scratch, description):
            part.convert(scratch, half_weights=self._changed.precision != "f32")
            part.check(scratch, _TOLERANCE)
            if self._changed.precision == "int8":
                for file in (part.entry["fusion"], part.entry["decoder"]):
                    _treat(scratch / file)
            if self.exact is not None:
                self._put_malignancy(scratch, network)
            self._describe(description, part)
        return Bundle.open(output)

    def _put_malignancy(self, scratch: Path, network: DemoNetwork) -> None:
        assert self._changed.diagnosis is not None
        (member,) = self._changed.diagnosis.members
        layer = network.malignancy.classifier.classification_head
        fitted = layer.weight.detach(), layer.bias.detach()
        half = self._changed.precision != "f32"
        change_malignancy(scratch / member.model, lambda *_: fitted, half=half)

    def _part(self, weights: Path, study: Study) -> ReportPart:
        assert self.recipe.report is not None
        assert self._changed.report is not None
        name = self._changed.report.encoder
        source = WeightSource("file", path=weights, key="report")
        spec = replace(self.recipe.report, encoder=name, weights=source)
        maps = encoder_of(self._changed, name, self.cores)([study]).maps[0].numpy()
        shown = {view: {"map": one[None]} for view, one in zip(STANDARD_VIEWS, maps, strict=True)}
        part = ReportPart(spec, (1, *maps.shape[1:]), shown)
        part.load()
        return part

    def _describe(self, description: dict[str, Any], part: ReportPart) -> None:
        description["heads"]["report"] = part.entry
        description["provenance"]["head report"] = {
            **part.provenance,
            "taught_on": {"bundle": self.bundle.sha256, "studies": self.studies},
        }
        description["self_check"]["head report"] = {
            "largest_relative_difference": part.differences,
            "operations": part.census,
        }


def check_twins(pooled: Tensor, exact: Tensor) -> None:
    """Refuse an encoder that pools something else of the same views ``[studies, 4, channels]``."""
    cosine = float(functional.cosine_similarity(pooled, exact, dim=2).mean())
    if cosine < _ALIKE:
        raise ExportError(
            f"the bundle in float32 is of another model: pooled features have a cosine of "
            f"{cosine:.2f}, {_ALIKE} is wanted"
        )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _treat(path: Path) -> None:
    """As quantization treats a graph of the report: weights to 8 bits, or nothing."""
    if treatment(read_graph(path)) == "compress":
        _replace(path, compress_weights(path))


def _replace(path: Path, model: Any) -> None:
    """Into new files: the model may still be reading the old ones."""
    for old in (path, path.with_suffix(".bin")):
        old.unlink()
    save_graph(model, path, half_weights=True)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--exact",
    type=click.Path(exists=True, path_type=Path),
    help="The bundle in float32: fit malignancy, too, to what BUNDLE says, and write this one.",
)
@click.option("--folder", default=Path("build/demo-model"), type=click.Path(path_type=Path))
@click.option("--hours", default=0.5, show_default=True, help="Of teaching, after rendering.")
@click.option("--studies", default=1400, show_default=True, help="Phantoms to teach with.")
@click.option("--workers", default=2, show_default=True, help="Processes that render; threads.")
@click.option("--seed", default=0, show_default=True, help="Of the phantoms and of every draw.")
@click.option("--force", is_flag=True, help="Replace OUTPUT.")
def main(
    bundle: Path,
    output: Path,
    exact: Path | None,
    folder: Path,
    hours: float,
    studies: int,
    workers: int,
    seed: int,
    force: bool,
) -> None:
    """Teach the report head of BUNDLE more, on what its encoder says; write the whole as OUTPUT."""
    try:
        opened = Bundle.open(bundle)
        same = None if exact is None else Bundle.open(exact)
        refit = Refit(opened, _made(folder), hours, studies, workers, print_line, seed, same)
        made = refit.run(output, force=force)
    except MammoFMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print_line(f"done: {made.path}")


if __name__ == "__main__":
    main()

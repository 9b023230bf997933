"""Accuracy control of one graph: quantize, look, give precision back where it helps most.

The method in full. A graph's operations are cut into at most 16 runs of neighbours. To find out
which run costs most, each in turn computes in float again inside the quantized graph, and the
cosine of the worst output on a few held-out views tells how much better the graph then is. The
best run stays float from then on, and the graph is quantized anew, so that statistics and bias
correction fit what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mammofm_lite._openvino import cpu_properties, make_core
from mammofm_lite.graphs import Graph, Tensors

from .drift import OutputDrift, output_drifts
from .lab import Run
from .layers import bypass, layer_names, operation_runs, single_cell_layers
from .ptq import BiasCorrection, quantize_graph, read_graph

__all__ = ["QuantizedGraph", "compiled_graph", "run_model"]

_RUNS: Final = 16
_RANKING_VIEWS: Final = 4


@dataclass
class QuantizedGraph:
    """A graph on its way: the float file, its runs on both sets of studies, what stays float.

    Attributes
    ----------
    path
        The float graph.
    calibration, held_out
        Its runs in the float bundle.
    given_back
        Operations that accuracy control made float again, in order.
    model
        The quantized ``openvino.Model``, after `quantize`.
    drifts
        Of its outputs on the held-out runs, after `measure`.
    """

    path: Path
    calibration: Sequence[Run]
    held_out: Sequence[Run]
    bias_correction: BiasCorrection
    threads: int
    given_back: list[str] = field(default_factory=list)
    model: Any = None
    drifts: tuple[OutputDrift, ...] = ()

    def quantize(self) -> None:
        """(Re)make the quantized graph."""
        self.model = quantize_graph(
            self.path,
            [run.inputs for run in self.calibration],
            [*single_cell_layers(read_graph(self.path)), *self.given_back],
            self.bias_correction,
        )

    def measure(self) -> None:
        """Compare its outputs with the float ones."""
        outputs = run_model(self.model, self.held_out, self.threads)
        self.drifts = output_drifts([run.outputs for run in self.held_out], outputs)

    @property
    def float_layers(self) -> list[str]:
        """All convolutions that stay float, in the order they run."""
        original = read_graph(self.path)
        kept = {*single_cell_layers(original), *self.given_back}
        return [name for name in layer_names(original) if name in kept]

    @property
    def layers(self) -> int:
        """How many convolutions there are."""
        return len(layer_names(read_graph(self.path)))

    def give_back(self) -> list[str]:
        """Make the run that costs most float, for the next `quantize`; empty if none is left."""
        original = read_graph(self.path)
        spared = {*single_cell_layers(original), *self.given_back}
        if spared.issuperset(layer_names(original)):
            return []
        runs = operation_runs(original, _RUNS, spared)
        worst = max(runs, key=lambda run: self._without(original, run))
        self.given_back += worst
        return [name for name in layer_names(original) if name in worst]

    def _without(self, original: Any, run: Sequence[str]) -> float:
        """The least cosine of all outputs when a run computes in float."""
        held_out = self.held_out[:: max(1, len(self.held_out) // _RANKING_VIEWS)]
        outputs = run_model(bypass(self.model, original, run), held_out, self.threads)
        drifts = output_drifts([run.outputs for run in held_out], outputs)
        return min(drift.cosine for drift in drifts)


def compiled_graph(model: Any, threads: int) -> Graph:
    """An ``openvino.Model``, compiled as the runtime does."""
    compiled = make_core().compile_model(model, "CPU", cpu_properties(threads))
    return Graph(model.get_friendly_name(), compiled)


def run_model(model: Any, runs: Sequence[Run], threads: int) -> list[Tensors]:
    """Outputs of a graph on the inputs of recorded runs."""
    graph = compiled_graph(model, threads)
    return [graph.run(run.inputs) for run in runs]

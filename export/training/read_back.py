"""Weights of a finished bundle, back into torch: training goes on from what is shipped.

A bundle holds what it computes with: batch norms folded into convolutions, weights in 8 bits with
their scales, embeddings of places added up. Each is read where its layer stands in the graph, whose
operations still bear the names of the torch modules, and becomes a weight again of the same
function. Of an INT8 bundle that is the function with rounded weights and without the rounding of
what flows between the layers.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from openvino import passes
from torch import Tensor, nn

from mammofm_lite._openvino import make_core, ov
from mammofm_lite.bundle import Bundle, DiagnosisMember, LocalizationMember
from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.efficientnet import EfficientNet
from mammofm_lite.export.models.report import ReportModel
from mammofm_lite.grammar import Grammar
from mammofm_lite.views import STANDARD_VIEWS, laterality, projection

from .folding import NORMED
from .network import DemoNetwork, ReportWords

__all__ = ["constant_of", "lean_back", "read_back", "read_report", "writes_alike"]

_TINY: Final = 1e-12
_BEFORE_PLACES: Final = "projection_norm"
_OF_PLACES: Final = ("row_embedding", "column_embedding", "side_embedding", "view_embedding")
"""The layers of the report that `_read_places` reads together."""


def read_back(network: DemoNetwork, bundle: Bundle) -> None:
    """Give encoder, diagnosis and localization the weights that a bundle has.

    The prognosis is left as it is: its numbers are learned from features in seconds. So is the
    report, which `read_report` reads where `writes_alike`. What cells are taught to say is in no
    bundle.

    Raises
    ------
    ExportError
        The bundle has not the demonstration's encoder and heads, or a graph lacks a layer.
    """
    diagnosis, localization = _members(bundle, network.kinds)
    (encoder,) = bundle.encoders.values()
    _read_encoder(network.encoder, _Graph(bundle.path / encoder.model))
    graph = _Graph(bundle.path / diagnosis.model)
    for place, head in enumerate((network.malignancy, network.density)):
        _read_layers(head, [graph], f"classifiers.{place}")
    _read_layers(network.localization, [_Graph(bundle.path / localization.model)], "detector")


@torch.no_grad()
def lean_back(network: DemoNetwork, bundle: Bundle, share: float) -> None:
    """Move encoder, diagnosis and localization a share of the way back to the weights that a bundle
    has, from which they went on: between the two the function holds what both know (M. Wortsman et
    al., CVPR 2022, arXiv 2109.01903).

    Raises as `read_back` does.
    """
    before = copy.deepcopy(network)
    read_back(before, bundle)
    known = dict(before.named_parameters())
    for part in ("encoder", "malignancy", "density", "localization"):
        for name, parameter in getattr(network, part).named_parameters(prefix=part):
            parameter.lerp_(known[name], share)


def read_report(report: ReportModel, bundle: Bundle) -> None:
    """Give the report head the weights that a bundle has; raises as `read_back` does."""
    if bundle.report is None:
        raise ExportError("the bundle has no report head")
    files = bundle.report.fusion, bundle.report.decoder
    fusion, decoder = (_Graph(bundle.path / file) for file in files)
    _read_layers(report, [fusion, decoder], "model")
    _read_places(report, fusion)


def writes_alike(bundle: Bundle, words: ReportWords) -> bool:
    """Whether a bundle writes reports, and in these words."""
    head = bundle.report
    return head is not None and Grammar.open(bundle.path / head.grammar) == words.written


def _members(bundle: Bundle, kinds: Sequence[str]) -> tuple[DiagnosisMember, LocalizationMember]:
    refused = ExportError("the bundle has not the demonstration's one encoder, heads and labels")
    if len(bundle.encoders) != 1 or bundle.diagnosis is None or bundle.localization is None:
        raise refused
    answered = tuple(label.name for label in bundle.diagnosis.labels)
    if answered != ("malignancy", "density") or bundle.localization.labels != tuple(kinds):
        raise refused
    (diagnosis,), (localization,) = bundle.diagnosis.members, bundle.localization.members
    return diagnosis, localization


class _Graph:
    """A graph whose operations are found by name, and whose constants can be read."""

    def __init__(self, path: Path) -> None:
        self._file = path.name
        self._model = make_core().read_model(str(path))
        self._nodes = {node.get_friendly_name(): node for node in self._model.get_ops()}

    def find(self, name: str) -> Any | None:
        """The operation of that name."""
        return self._nodes.get(f"__module.{name}")

    def operation(self, name: str) -> Any:
        """As `find`, for what must be there."""
        if (node := self.find(name)) is None:
            raise ExportError(f"{self._file} has no operation {name}")
        return node

    def constant(self, node: Any, place: int) -> Tensor:
        """As `constant_of`."""
        return constant_of(node, place, self._file)


def constant_of(node: Any, place: int, file: str) -> Tensor:
    """Value of an operation's input that depends on nothing that flows: float32.

    Raises
    ------
    ExportError
        It depends on what flows; the message names the `file`.
    """
    alone = ov.Model([node.input_value(place)], [])
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(alone)
    (result,) = alone.get_results()
    found = result.input_value(0).get_node()
    if found.get_type_name() != "Constant":
        raise ExportError(f"{file}: {node.get_friendly_name()} has no constant weights")
    return torch.from_numpy(found.data.astype(np.float32))


def _fill(parameter: Tensor | None, value: Tensor) -> None:
    """Copy a value whose axes of length 1 may be elsewhere."""
    assert parameter is not None
    if parameter.numel() != value.numel():
        raise ExportError(
            f"a layer of {value.numel()} numbers where {parameter.numel()} are wanted"
        )
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


# -------------------- encoder


def _read_encoder(encoder: EfficientNet, graph: _Graph) -> None:
    modules = dict(encoder.named_modules())
    for name, layer in modules.items():
        if not isinstance(layer, nn.Conv2d):
            continue
        block, _, own = name.rpartition(".")
        if own not in NORMED:
            _read_convolution(layer, [graph], f"encoder.{name}")
            continue
        norm = ".".join(filter(None, (block, NORMED[own])))
        shifted = graph.operation(f"encoder.{norm}/aten::batch_norm/BatchNormInference")
        kernel = graph.constant(shifted.input_value(0).get_node(), 1)
        folded = modules[norm]
        assert isinstance(folded, nn.BatchNorm2d)
        _unfold(layer, folded, kernel, graph.constant(shifted, 1))


def _unfold(layer: nn.Conv2d, norm: nn.BatchNorm2d, kernel: Tensor, shift: Tensor) -> None:
    """Part a kernel into weights of usual size and the scale of its batch norm.

    So every channel learns at the same pace again, however its norm had scaled it. A kernel on one
    grey channel is shared evenly by three equal ones.
    """
    if kernel.numel() * layer.in_channels == layer.weight.numel():
        kernel = (kernel / layer.in_channels).expand(-1, layer.in_channels, -1, -1)
    kernel = kernel.reshape(len(kernel), -1)
    usual = math.sqrt(2 / (layer.weight[0, 0].numel() * layer.out_channels / layer.groups))
    scale = kernel.square().mean(dim=1).sqrt().clamp(min=_TINY) / usual
    _fill(layer.weight, kernel / scale[:, None])
    for parameter, value in ((norm.weight, scale), (norm.bias, shift)):
        _fill(parameter, value)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


# -------------------- layers that stand in a graph as they are


def _read_layers(module: nn.Module, graphs: Sequence[_Graph], prefix: str) -> None:
    for name, layer in module.named_modules():
        path = f"{prefix}.{name}"
        if isinstance(layer, nn.Conv2d):
            _read_convolution(layer, graphs, path)
        elif isinstance(layer, nn.Linear):
            _read_shifted(layer, graphs, f"{path}/aten::linear/Add")
        elif isinstance(layer, nn.LayerNorm) and name != _BEFORE_PLACES:
            _read_shifted(layer, graphs, f"{path}/aten::layer_norm/Add")
        elif isinstance(layer, nn.Embedding) and name not in _OF_PLACES:
            graph, node = _found(graphs, f"{path}/aten::embedding/Gather")
            _fill(layer.weight, graph.constant(node, 0))


def _read_convolution(layer: nn.Conv2d, graphs: Sequence[_Graph], path: str) -> None:
    _read_shifted(layer, graphs, f"{path}/aten::_convolution/Add")


def _read_shifted(layer: Any, graphs: Sequence[_Graph], name: str) -> None:
    """Weight and bias of a product and the addition after it, which has the name."""
    graph, node = _found(graphs, name)
    _fill(layer.weight, graph.constant(node.input_value(0).get_node(), 1))
    _fill(layer.bias, graph.constant(node, 1))


def _found(graphs: Sequence[_Graph], name: str) -> tuple[_Graph, Any]:
    for graph in graphs:
        if (node := graph.find(name)) is not None:
            return graph, node
    return graphs[0], graphs[0].operation(name)  # which says what is missing


def _read_places(report: ReportModel, fusion: _Graph) -> None:
    """Part the sum of what a token knows of its place, which is all that the graph has.

    It is the bias of a norm and one embedding each of row, column, side and projection. The mean of
    all places becomes the bias, and what a row has more than that in the mean the row's, and so on:
    the same sums.
    """
    scaled = fusion.operation(f"model.{_BEFORE_PLACES}/aten::layer_norm/Multiply_1")
    _fill(report.projection_norm.weight, fusion.constant(scaled, 1))
    (placed,) = (port.get_node() for port in scaled.output(0).get_target_inputs())
    shape = (len(STANDARD_VIEWS), report.config.rows, report.config.columns, report.config.dim)
    sums = fusion.constant(placed, 1).reshape(shape)
    mean = sums.mean(dim=(0, 1, 2))
    more = sums - mean
    _fill(report.projection_norm.bias, mean)
    _fill(report.row_embedding.weight, more.mean(dim=(0, 2)))
    _fill(report.column_embedding.weight, more.mean(dim=(0, 1)))
    views = more.mean(dim=(1, 2))
    right = torch.tensor([laterality(view) == "R" for view in STANDARD_VIEWS])
    oblique = torch.tensor([projection(view) == "MLO" for view in STANDARD_VIEWS])
    for embedding, second in ((report.side_embedding, right), (report.view_embedding, oblique)):
        halves = [views[~second].mean(dim=0), views[second].mean(dim=0)]
        _fill(embedding.weight, torch.stack(halves))

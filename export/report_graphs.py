"""The two graphs of the report head: fusion of all views, and one decoding step with its cache.

The cache is state of the decoding graph: it stays inside OpenVINO from one token to the next, and
`reset_state` empties it before a report.
"""

from __future__ import annotations

from collections.abc import Iterator

import openvino as ov
import torch
from openvino import passes
from torch import Tensor, nn

from mammofm_lite.contract import map_input
from mammofm_lite.views import STANDARD_VIEWS

from .attention import attention_extension
from .graphs import convert, single
from .models.report import DecoderStep, ReportModel

__all__ = ["decoder_graph", "fusion_graph", "memory_names"]


def memory_names(layers: int) -> list[str]:
    """Names of what the fusion graph gives and the decoding graph takes, in order."""
    return ["memory_mask", *_pairs("memory", layers)]


def _pairs(name: str, layers: int) -> Iterator[str]:
    for layer in range(layers):
        yield f"{name}_key_{layer}"
        yield f"{name}_value_{layer}"


class _Fusion(nn.Module):
    def __init__(self, model: ReportModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *maps, present = inputs
        memory = self.model.memory(maps, present)
        pairs = zip(memory.keys, memory.values, strict=True)
        return (memory.mask, *(tensor for pair in pairs for tensor in pair))


def fusion_graph(model: ReportModel) -> ov.Model:
    """Graph from the views' maps to the decoder's memory.

    Inputs ``map_l_cc``, ``map_l_mlo``, ``map_r_cc``, ``map_r_mlo`` float32 [1, C, h, w] (zeros for
    a missing view) and ``present`` float32 [1, 4]. Outputs ``memory_mask`` boolean [1, 4 h w], and
    ``memory_key_N``, ``memory_value_N`` float32 [1, heads, 4 h w, dim / heads] per layer.
    """
    config = model.config
    inputs = {
        map_input(view): torch.zeros(1, config.channels, config.rows, config.columns)
        for view in STANDARD_VIEWS
    }
    inputs["present"] = torch.ones(1, len(STANDARD_VIEWS))
    names = single(memory_names(config.decoder_layers))
    return convert(_Fusion(model), inputs, names, [attention_extension()])


def decoder_graph(model: ReportModel) -> ov.Model:
    """Graph of one decoding step.

    Inputs ``token`` and ``position`` int64 [1, 1] and the memory as `fusion_graph` names it.
    Output ``logits`` float32 [1, vocabulary] of the next token. The keys and values of earlier
    positions are state; positions must be given in order from 0 after `reset_state`.
    """
    config = model.config
    layers, width = config.decoder_layers, config.dim // config.heads
    memory = torch.zeros(1, config.heads, len(STANDARD_VIEWS) * config.cells, width)
    inputs = {
        "token": torch.zeros(1, 1, dtype=torch.int64),
        "position": torch.zeros(1, 1, dtype=torch.int64),
        "memory_mask": torch.ones(1, memory.shape[2], dtype=torch.bool),
    }
    inputs |= dict.fromkeys(_pairs("memory", layers), memory)
    caches = list(_pairs("cache", layers))
    cached = [tensor for pair in model.empty_cache() for tensor in pair]
    inputs |= dict(zip(caches, cached, strict=True))
    outputs = ["logits", *(f"new_{name}" for name in caches)]
    graph = convert(DecoderStep(model), inputs, single(outputs), [attention_extension()])
    _keep_as_state(graph, caches)
    return graph


def _keep_as_state(graph: ov.Model, caches: list[str]) -> None:
    """Turn cache inputs and outputs into variables."""
    manager = passes.Manager()
    manager.register_pass(passes.MakeStateful({name: f"new_{name}" for name in caches}))
    manager.run_passes(graph)

"""An encoder that learns no more, as the heads after it hear it: in torch, of a bundle, or in INT8.

The light heads are taught on INT8 features where a processor makes them: they are what the shipped
heads hear, and take a quarter of the time that rounding takes in torch.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mammofm_lite.bundle import Bundle
from mammofm_lite.export.graphs import encoder_graph
from mammofm_lite.export.models.efficientnet import EfficientNet
from mammofm_lite.graphs import Graph, GraphStore, Tensors
from mammofm_lite.progress import StageReporter
from mammofm_lite.quant.control import QuantizedGraph, compiled_graph
from mammofm_lite.quant.lab import Run
from mammofm_lite.quant.ptq import save_graph
from mammofm_lite.views import STANDARD_VIEWS

from .batches import varied_images, whole_views
from .data import Study, UInt8Array
from .network import DemoNetwork

__all__ = [
    "Encoded",
    "FrozenEncoder",
    "GraphEncoder",
    "TorchEncoder",
    "encoder_input",
    "encoder_of",
    "pooled_exactly",
    "quantized_encoder",
]

_TOGETHER: Final = 20


class Encoded(NamedTuple):
    """What an encoder says of some studies."""

    maps: Tensor
    """``[studies, 4, channels, rows, columns]``."""
    pooled: Tensor
    """``[studies, 4, channels]``: in INT8 not the means of the maps, but of their rounded cells."""


class FrozenEncoder(Protocol):
    """An encoder that stays as it is."""

    def fingerprint(self) -> str:
        """Another one for other weights."""

    def __call__(
        self, studies: Sequence[Study], random: np.random.Generator | None = None
    ) -> Encoded:
        """What it says of all their views, varied as training varies them where `random` is
        given."""


@dataclass(frozen=True)
class TorchEncoder:
    """That of a network, in torch."""

    network: DemoNetwork
    device: torch.device

    def fingerprint(self) -> str:
        return _digest(self.network.encoder, self.network.rounding)

    @torch.no_grad()
    def __call__(
        self, studies: Sequence[Study], random: np.random.Generator | None = None
    ) -> Encoded:
        self.network.eval()
        together = 1 if self.device.type == "cpu" else _TOGETHER
        found = []
        for start in range(0, len(studies), together):
            pictures = whole_views(studies[start : start + together], self.network.kinds, random)
            seen = self.network.features(pictures.grey(self.device))
            found.append((seen.map, seen.pooled))
        maps, pooled = (
            torch.cat(parts).unflatten(0, (-1, len(STANDARD_VIEWS)))
            for parts in zip(*found, strict=True)
        )
        return Encoded(maps, pooled)


def pooled_exactly(network: DemoNetwork, studies: Sequence[Study]) -> Tensor:
    """What a network pools of all views without rounding: ``[studies, 4, channels]``."""
    exact = TorchEncoder(network, next(network.parameters()).device)
    rounding, rounds = network.rounding, network.rounding.on
    rounding.on = False
    try:
        return torch.cat([exact([study]).pooled for study in studies])
    finally:
        rounding.on = rounds


def _digest(*modules: nn.Module) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class GraphEncoder:
    """A graph of OpenVINO, made when it is first needed."""

    name: str
    make: Callable[[], Graph]

    def fingerprint(self) -> str:
        return self.name

    @cached_property
    def _graph(self) -> Graph:
        return self.make()

    def __call__(
        self, studies: Sequence[Study], random: np.random.Generator | None = None
    ) -> Encoded:
        images = [study.views[view].image for study in studies for view in STANDARD_VIEWS]
        if random is not None:
            images = [image for study in studies for image in varied_images(study, random)]
        answers = [self._graph.run(encoder_input(image)) for image in images]
        maps, pooled = (
            torch.from_numpy(np.concatenate([answer[name] for answer in answers]))
            for name in ("map", "pooled")
        )
        shape = (len(studies), len(STANDARD_VIEWS))
        return Encoded(maps.unflatten(0, shape), pooled.unflatten(0, shape))


def encoder_input(image: UInt8Array) -> Tensors:
    """A view as an encoder's graph takes it."""
    return {"image": np.array(image)[None, None]}


def encoder_of(bundle: Bundle, name: str, threads: int) -> GraphEncoder:
    """An encoder of a bundle, by the runtime."""
    file = bundle.encoders[name].model
    halves = (file, str(Path(file).with_suffix(".bin")))

    def make() -> Graph:
        return GraphStore(bundle, threads).graph(file, StageReporter(None))

    return GraphEncoder("-".join(bundle.files[half].sha256[:16] for half in halves), make)


def quantized_encoder(network: DemoNetwork, studies: Sequence[Study], threads: int) -> GraphEncoder:
    """The encoder of a network in INT8, as `quantize` makes it, calibrated on these studies."""

    def make() -> Graph:
        images = [study.views[view].image for study in studies for view in STANDARD_VIEWS]
        runs = [Run(encoder_input(image), {}) for image in images]
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "encoder.xml"
            model = encoder_graph(_plain(network.encoder), network.size, outputs=network.outputs)
            save_graph(model, path, half_weights=True)
            graph = QuantizedGraph(path, runs, (), "fast", threads)
            graph.quantize()
            return compiled_graph(graph.model, threads)

    return GraphEncoder(f"{_digest(network.encoder)}-int8", make)


def _plain(encoder: EfficientNet) -> EfficientNet:
    """A copy that nothing rounds or trains."""
    plain = EfficientNet(encoder.config)
    plain.load_state_dict(encoder.state_dict())
    return plain.eval()

"""Golden vectors and full-size networks, made once for all tests of the export path."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch

from mammofm_lite.export.graphs import encoder_graph
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.synthetic import fill_module, synthetic_image

Arrays = dict[str, npt.NDArray[Any]]
Golden = Callable[[str], Arrays]
RunIR = Callable[[ov.Model, Mapping[str, npt.ArrayLike]], Arrays]

SEED = 1


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def golden(reference: Path) -> Golden:
    """Load one of the reference's golden archives by name."""

    def load(name: str) -> Arrays:
        with np.load(reference / f"{name}.npz") as archive:
            return dict(archive)

    return load


@pytest.fixture(scope="session")
def stored() -> Golden:
    """Load one of the small golden archives kept beside the tests."""
    folder = Path(__file__).parents[1] / "data" / "golden"

    def load(name: str) -> Arrays:
        with np.load(folder / f"{name}.npz") as archive:
            return dict(archive)

    return load


@pytest.fixture(scope="session")
def run_ir() -> RunIR:
    """Compile a graph for the CPU in float32 and run it once."""
    core = ov.Core()

    def run(model: ov.Model, inputs: Mapping[str, npt.ArrayLike]) -> Arrays:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        result = compiled({name: np.asarray(value) for name, value in inputs.items()})
        return {
            name: np.array(result[output]) for output in compiled.outputs for name in output.names
        }

    return run


@pytest.fixture(scope="session")
def b5() -> EfficientNet:
    """The full-size encoder with synthetic weights."""
    return fill_module(EfficientNet(named_config("b5")), SEED)


@pytest.fixture(scope="session")
def b2() -> EfficientNet:
    """The smaller published encoder with synthetic weights."""
    return fill_module(EfficientNet(named_config("b2")), SEED)


@pytest.fixture(scope="session")
def detectors() -> Callable[[int], RetinaNet]:
    """Full-size detector with synthetic weights, by number of classes."""
    made: dict[int, RetinaNet] = {}

    def detector(n_classes: int) -> RetinaNet:
        if n_classes not in made:
            config = RetinaNetConfig.with_own_encoder(named_config("b5"), n_classes)
            made[n_classes] = fill_module(RetinaNet(config), SEED)
        return made[n_classes]

    return detector


@pytest.fixture(scope="session")
def encoded_ir(b5: EfficientNet) -> Callable[[str, bool], Arrays]:
    """Full-size features of a synthetic view through the IR, perhaps mirrored; each made once."""
    model = encoder_graph(b5, (1520, 912))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    @cache
    def encode(view: str, mirrored: bool = False) -> Arrays:
        image = synthetic_image(1520, 912, SEED, view, "R" if view.startswith("R") else "L")
        result = compiled([(image[:, ::-1] if mirrored else image)[None, None]])
        return {name: np.array(result[name]) for name in ("pooled", "map")}

    return encode

"""Weights read back out of a bundle compute what the bundle computes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mammofm_lite._openvino import cpu_properties, make_core
from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.contract import map_input
from mammofm_lite.errors import ExportError
from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.recipe import load_recipe
from mammofm_lite.export.seeds import HELD_OUT
from mammofm_lite.export.training.data import DataPlan, make_studies
from mammofm_lite.export.training.loop import save_state
from mammofm_lite.export.training.network import DemoNetwork, ReportWords, parts_of
from mammofm_lite.export.training.read_back import lean_back, read_back, read_report
from mammofm_lite.graphs import Graph, GraphStore
from mammofm_lite.progress import StageReporter
from mammofm_lite.views import STANDARD_VIEWS

RECIPE = Path(__file__).resolve().parents[2] / "export" / "recipes" / "demo.toml"


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def new_network(seed: int) -> DemoNetwork:
    torch.manual_seed(seed)
    return DemoNetwork(load_recipe(RECIPE), ReportWords()).eval()


def shaken(seed: int) -> DemoNetwork:
    """A network whose norms and embeddings are not what they begin as."""
    network = new_network(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.2, 0.2)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2)
        elif isinstance(layer, nn.LayerNorm):
            layer.weight.uniform_(0.5, 1.5)
        bias = getattr(layer, "bias", None)
        if bias is not None and not bias.any():  # what is 0 is not added
            bias.uniform_(-0.2, 0.2)
    for head in network.prognosis.heads:  # equal ones would be computed once
        for stretch in (head.cc_stretch_params, head.mlo_stretch_params):
            stretch.uniform_(0.5, 1.5)
    return network


def answers(network: DemoNetwork, picture: Tensor) -> dict[str, Tensor]:
    """What a network says of a grey picture ``[1, 1, height, width]``, shown in all views."""
    found = network.features(picture)
    pooled = network.pooled(found)
    size = (picture.shape[2], picture.shape[3])
    raw = network.localization.raw(found.c3, found.c4, found.c5, size)
    memory = network.report.memory([found.map] * 4, torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    tokens = torch.arange(6)[None]
    return {
        **{name: getattr(found, name) for name in ("pooled", "map", "c3", "c4")},
        "malignancy": pooled.malignancy,
        "density": pooled.density,
        "scores": raw.scores,
        "deltas": raw.deltas,
        "keys": torch.stack(memory.keys),
        "values": torch.stack(memory.values),
        "token": network.report.token_embedding(tokens),
    }


def apart(one: Tensor, other: Tensor) -> float:
    """Largest difference over largest value."""
    return float((one - other).abs().max() / one.abs().max())


def test_of_a_float_bundle(tmp_path: Path) -> None:
    network = shaken(1)
    parts = {key: dict(tensors) for key, tensors in parts_of(network).items()}
    save_state(tmp_path / "model.pth", parts)
    recipe = RECIPE.read_text(encoding="utf-8").replace(
        "half_weights = true", "half_weights = false"
    )
    (tmp_path / "demo.toml").write_text(recipe, encoding="utf-8")
    bundle = tmp_path / "demo.mfm"
    export_bundle(tmp_path / "demo.toml", bundle, force=False, tell=lambda line: None)

    again = new_network(2)
    read_back(again, Bundle.open(bundle))
    read_report(again.report, Bundle.open(bundle))
    picture = torch.rand(1, 1, 640, 384)
    wanted, found = answers(network, picture), answers(again, picture)
    differences = {name: apart(wanted[name], found[name]) for name in wanted}
    assert max(differences.values()) < 1e-4, differences
    states = (one.report.decoder.state_dict() for one in (network, again))
    for (name, before), after in zip(next(states).items(), next(states).values(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6, msg=name)


def test_leaning_back_goes_a_share_of_the_way() -> None:
    """From any weights to those of a bundle; what no bundle gives back stays."""
    bundle = Bundle.open(demo_bundle_path())
    known, network = new_network(1), shaken(2)
    read_back(known, bundle)
    before = {name: one.clone() for name, one in network.named_parameters()}
    lean_back(network, bundle, 0.25)
    ends = dict(known.named_parameters())
    leant = ("encoder", "malignancy", "density", "localization")
    for name, one in network.named_parameters():
        wanted = before[name]
        if name.startswith(leant):
            wanted = 0.75 * wanted + 0.25 * ends[name]
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6, msg=name)


def test_of_the_bundle_that_is_shipped(tmp_path: Path) -> None:
    """Its report head has rounded weights alone; OpenVINO rounds what meets them, to 8 bits too,
    which is turned off here: the weights are what is compared."""
    spec = load_recipe(RECIPE).preprocessing
    plan = DataPlan(HELD_OUT[:1], 0.2, spec)
    (study,) = make_studies(tmp_path, plan, workers=0, tell=lambda done, count: None)
    bundle = Bundle.open(demo_bundle_path())
    network = new_network(3)
    read_back(network, bundle)
    read_report(network.report, bundle)
    encoder = GraphStore(bundle, 1).graph(bundle.encoders["view"].model, StageReporter(None))
    core = make_core()
    fusion = core.read_model(str(bundle.path / (bundle.report.fusion if bundle.report else "")))
    exactly = {**cpu_properties(1), "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    fuse = Graph("fusion", core.compile_model(fusion, "CPU", exactly))
    image = np.array(study.views["L-CC"].image)[None, None]
    seen = encoder.run({"image": image})
    own = network.features(torch.from_numpy(image).float() / float(image.max()))
    for name in ("pooled", "map", "c3", "c4"):
        pair = torch.from_numpy(seen[name]).flatten(), getattr(own, name).flatten()
        assert float(torch.cosine_similarity(*pair, dim=0)) > 0.95, name

    maps = {map_input(view): seen["map"] for view in STANDARD_VIEWS}
    fused = fuse.run({**maps, "present": np.ones((1, 4), np.float32)})
    memory = network.report.memory([torch.from_numpy(seen["map"])] * 4, torch.ones(1, 4))
    for layer, (key, value) in enumerate(zip(memory.keys, memory.values, strict=True)):
        assert apart(torch.from_numpy(fused[f"memory_key_{layer}"]), key) < 1e-3
        assert apart(torch.from_numpy(fused[f"memory_value_{layer}"]), value) < 1e-3


def test_other_bundles_are_refused() -> None:
    bundle = Bundle.open(demo_bundle_path())
    network = new_network(4)
    with pytest.raises(ExportError, match="not the demonstration's"):
        read_back(network, dataclasses.replace(bundle, diagnosis=None))
    with pytest.raises(ExportError, match="no report head"):
        read_report(network.report, dataclasses.replace(bundle, report=None))
    spec = bundle.report
    assert spec is not None
    other = dataclasses.replace(bundle, report=dataclasses.replace(spec, fusion=spec.decoder))
    with pytest.raises(
        ExportError, match=r"head_report_decoder\.xml has no operation model\.projection"
    ):
        read_report(network.report, other)

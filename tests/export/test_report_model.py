"""The report head: caching changes nothing, missing views say nothing, the graphs equal torch."""

import numpy as np
import openvino as ov
import pytest
import torch
from torch.nn import functional

from mammofm_lite.export.graphs import compare, operation_census
from mammofm_lite.export.models.report import Memory, ReportConfig, ReportModel
from mammofm_lite.export.part import compile_graph
from mammofm_lite.export.report_graphs import decoder_graph, fusion_graph, memory_names
from mammofm_lite.export.report_part import decode_logits
from mammofm_lite.export.synthetic import fill_module, synthetic_feature

CONFIG = ReportConfig(
    channels=24,
    rows=5,
    columns=3,
    dim=64,
    heads=2,
    fusion_layers=2,
    decoder_layers=3,
    vocabulary=50,
    max_tokens=16,
)
TOKENS = [0, 7, 7, 49, 3, 12, 31, 8]
FLOAT32_TOLERANCE = 1e-5  # against the same mathematics in another order, over the spread
GRAPH_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> ReportModel:
    return fill_module(ReportModel(CONFIG), 1)


def maps(seed: int = 1) -> list[torch.Tensor]:
    shape = (1, CONFIG.channels, CONFIG.rows, CONFIG.columns)
    return [torch.from_numpy(synthetic_feature(f"view{i}", shape, seed)) for i in range(4)]


def decoded(model: ReportModel, memory: Memory) -> torch.Tensor:
    """Logits step by step, with the cache."""
    cache, rows = model.empty_cache(), []
    for position, token in enumerate(TOKENS):
        step = model.step(torch.tensor([[token]]), torch.tensor([[position]]), memory, cache)
        cache = list(zip(step.keys, step.values, strict=True))
        rows.append(step.logits)
    return torch.cat(rows)


def at_once(model: ReportModel, memory: Memory) -> torch.Tensor:
    """Logits of all positions in one pass with a causal mask: another way to the same numbers."""

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (CONFIG.heads, -1)).transpose(1, 2)

    x = model.token_embedding(torch.tensor([TOKENS]))
    x = x + model.position_embedding(torch.arange(len(TOKENS)))
    for index, layer in enumerate(model.decoder):
        own, y = layer.self_attention, layer.self_norm(x)
        looked = functional.scaled_dot_product_attention(
            heads(own.query(y)), heads(own.key(y)), heads(own.value(y)), is_causal=True
        )
        x = x + own.out(looked.transpose(1, 2).flatten(2))
        cross, query = (
            layer.cross_attention,
            heads(layer.cross_attention.query(layer.cross_norm(x))),
        )
        scores = query @ memory.keys[index].transpose(-1, -2) / (CONFIG.dim // CONFIG.heads) ** 0.5
        scores = scores.masked_fill(~memory.mask[:, None, None], -torch.inf)
        looked = torch.softmax(scores, -1) @ memory.values[index]
        x = x + cross.out(looked.transpose(1, 2).flatten(2))
        x = x + layer.mlp.fall(functional.gelu(layer.mlp.rise(layer.mlp_norm(x))))
    return (model.decoder_norm(x) @ model.token_embedding.weight.T)[0]


def test_the_cache_changes_nothing(model: ReportModel) -> None:
    memory = model.memory(maps(), torch.ones(1, 4))
    expected, actual = at_once(model, memory), decoded(model, memory)
    assert (expected - actual).abs().max() <= FLOAT32_TOLERANCE * expected.std()


def test_a_missing_view_says_nothing(model: ReportModel) -> None:
    present = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    one, other = maps(1), maps(1)
    other[1], other[3] = maps(2)[1], torch.zeros_like(other[3])
    first, second = (decoded(model, model.memory(given, present)) for given in (one, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    everything = decoded(model, model.memory(one, torch.ones(1, 4)))
    assert (everything - first).abs().max() > 0.01


def test_every_view_and_place_counts(model: ReportModel) -> None:
    """Swapping two views, or two cells of one view, changes the report's logits."""
    given = maps()
    base = decoded(model, model.memory(given, torch.ones(1, 4)))
    swapped = [given[1], given[0], given[2], given[3]]
    rolled = [given[0].roll(1, dims=3), *given[1:]]
    for changed in (swapped, rolled):
        other = decoded(model, model.memory(changed, torch.ones(1, 4)))
        assert (other - base).abs().max() > 1e-3


@pytest.mark.parametrize("present", [(1, 1, 1, 1), (0, 1, 0, 0), (1, 0, 1, 1)])
def test_graphs_equal_torch(model: ReportModel, present: tuple[int, ...]) -> None:
    flags = torch.tensor([present], dtype=torch.float32)
    memory = model.memory(maps(), flags)
    names = ("map_l_cc", "map_l_mlo", "map_r_cc", "map_r_mlo")
    inputs = {name: one.numpy() for name, one in zip(names, maps(), strict=True)}
    fusion = compile_graph(fusion_graph(model))
    result = fusion({**inputs, "present": flags.numpy()})
    actual = {name: np.array(result[name]) for name in memory_names(CONFIG.decoder_layers)}
    np.testing.assert_array_equal(actual["memory_mask"], memory.mask.numpy())
    seen = memory.mask[0].numpy()
    wanted = {f"memory_key_{i}": key.numpy()[:, :, seen] for i, key in enumerate(memory.keys)}
    wanted |= {f"memory_value_{i}": v.numpy()[:, :, seen] for i, v in enumerate(memory.values)}
    errors = compare(wanted, {name: actual[name][:, :, seen] for name in wanted})
    assert max(errors.values()) <= GRAPH_TOLERANCE, errors

    logits = decode_logits(decoder_graph(model), actual, TOKENS)
    errors = compare({"logits": decoded(model, memory).numpy()}, {"logits": logits})
    assert errors["logits"] <= GRAPH_TOLERANCE


def test_operations_and_state(model: ReportModel) -> None:
    fusion, decoder = operation_census(fusion_graph(model)), operation_census(decoder_graph(model))
    assert fusion["TiledAttention"] == CONFIG.fusion_layers
    assert decoder["TiledAttention"] == 2 * CONFIG.decoder_layers
    assert decoder["ReadValue"] == decoder["Assign"] == 2 * CONFIG.decoder_layers
    assert "Softmax" not in fusion
    assert "Softmax" not in decoder


def test_a_reset_forgets_the_last_report(model: ReportModel, tmp_path) -> None:
    """Also after the graph was saved and read back, which is how a bundle carries it."""
    ov.save_model(decoder_graph(model), str(tmp_path / "d.xml"), compress_to_fp16=False)
    request = compile_graph(str(tmp_path / "d.xml")).create_infer_request()
    memory = model.memory(maps(), torch.ones(1, 4))
    pairs = zip(memory.keys, memory.values, strict=True)
    flat = (memory.mask, *(tensor for pair in pairs for tensor in pair))
    fixed = {n: t.numpy() for n, t in zip(memory_names(CONFIG.decoder_layers), flat, strict=True)}

    def run(tokens: list[int]) -> np.ndarray:
        request.reset_state()
        for position, token in enumerate(tokens):
            step = {"token": np.array([[token]]), "position": np.array([[position]])}
            request.infer({**fixed, **step})
        return np.array(request.get_tensor("logits").data)

    first = run(TOKENS)
    other = run([1, 2, 3])
    np.testing.assert_array_equal(run(TOKENS), first)
    assert np.abs(other - first).max() > 0.01

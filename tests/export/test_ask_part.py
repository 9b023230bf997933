"""The text encoder of a bundle: its graphs equal torch, and what does not fit is refused."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openvino as ov
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite._openvino import make_core
from mammofm_lite.errors import ExportError
from mammofm_lite.export.ask_part import AskModules, AskPart, text_match_graph
from mammofm_lite.export.models.clip import ImageProjection
from mammofm_lite.export.models.match import TextMatch
from mammofm_lite.export.part import HALF, compile_graph
from mammofm_lite.export.synthetic import fill_module

TOLERANCE = 1e-4  # of an export
CHANNELS, SIZE, MAP = 20, 12, (5, 3)


@pytest.fixture(scope="module")
def made(ask_bundle: Any, ask_bundles: ModuleType, tmp_path_factory: Any) -> dict[str, Any]:
    """A bundle per architecture; the second has the other projection and half-precision weights."""
    folder = tmp_path_factory.mktemp("parts") / "bert.mfm"
    bert = ask_bundles.make(folder, "bert", "mlp", half_weights=True)
    return {"modernbert": ask_bundle, "bert": bert}


def tokens(lengths: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(4, 13, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("architecture", ["modernbert", "bert"])
def test_the_text_encoder_is_torch_at_every_length(made: dict[str, Any], architecture: str) -> None:
    bundle = made[architecture]
    compiled = compile_graph(str(bundle.path / "text_encoder.xml"))
    tolerance = 2e-3 if architecture == "bert" else 1e-5  # half-precision weights, or not
    for lengths in [(1,), (100,), (7, 7), (3, 90, 1, 41)]:
        inputs = tokens(lengths)
        actual = compiled(inputs)["embedding"]
        expected = bundle.modules.encoder(*map(torch.from_numpy, inputs.values())).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, rtol=0, atol=1e-5)


def test_padding_changes_nothing(made: dict[str, Any]) -> None:
    compiled = compile_graph(str(made["modernbert"].path / "text_encoder.xml"))
    inputs = tokens((3, 60, 17))
    together = np.array(compiled(inputs)["embedding"])
    for row, length in enumerate((3, 60, 17)):
        alone = {name: values[row : row + 1, :length] for name, values in inputs.items()}
        np.testing.assert_allclose(
            compiled(alone)["embedding"][0], together[row], rtol=0, atol=1e-5
        )


def test_the_part_is_checked_and_counted(made: dict[str, Any], ask_bundles: ModuleType) -> None:
    for architecture, bundle in made.items():
        full = {k: v for k, v in bundle.part.differences.items() if HALF not in k}
        assert set(full) == {"embedding", "embedding of one text", "similarity", "agreement"}
        assert max(full.values()) <= TOLERANCE
        census = bundle.part.census["text_encoder.xml"]
        assert census["TiledAttention"] == ask_bundles.LAYERS, architecture
        assert census.keys().isdisjoint({"Softmax", "ScaledDotProductAttention"})
    assert sum(HALF in name for name in made["bert"].part.differences) == 4


def test_windows_of_modernbert(made: dict[str, Any]) -> None:
    """The first of three layers sees everything, the others eight tokens a side."""
    graph = make_core().read_model(str(made["modernbert"].path / "text_encoder.xml"))
    windows = [
        op.get_attributes()["window"]
        for op in graph.get_ordered_ops()
        if op.get_type_name() == "TiledAttention"
    ]
    assert windows == [-1, 8, 8]


def test_what_the_bundle_says(made: dict[str, Any]) -> None:
    assert made["bert"].part.entry == {
        "encoder": "view",
        "model": "text_encoder.xml",
        "match": "text_match.xml",
        "tokenizer": "text_tokenizer.json",
        "max_length": 100,
        "vocabulary": 13,
        "size": 24,
        "architecture": "bert",
        "agreement": "cells",
    }
    assert made["modernbert"].part.entry["agreement"] == "exact"
    assert made["bert"].part.provenance == {"source": "synthetic"}


def test_the_tokenizer_no_longer_cuts_or_pads(made: dict[str, Any]) -> None:
    library = tokenizers.Tokenizer.from_file(str(made["bert"].path / "text_tokenizer.json"))
    assert library.truncation is None
    assert library.padding is None
    assert library.encode("dense breast, round mass").ids == [2, 11, 9, 10, 12, 5, 3]


# -------------------- the map


def match(kind: Any, seed: int) -> tuple[TextMatch, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(1, CHANNELS, *MAP, generator=generator)
    texts = torch.nn.functional.normalize(torch.randn(3, SIZE, generator=generator))
    module = TextMatch(fill_module(ImageProjection(CHANNELS, SIZE, kind), seed)).eval()
    return module, [cells.mean(dim=(2, 3)), cells, texts]


@given(st.integers(0, 10_000))
def test_the_exact_map_has_the_similarity_as_its_mean(seed: int) -> None:
    module, inputs = match("linear", seed)
    similarity, agreement = module(*inputs)
    np.testing.assert_allclose(agreement.mean(dim=(1, 2)), similarity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_map_by_its_definition(kind: str) -> None:
    """Cell by cell in float64, through the projection's own module."""
    module, inputs = match(kind, 1)
    pooled, cells, texts = (tensor.double() for tensor in inputs)
    projection = module.projection.double()
    view = projection(pooled)[0]
    expected = torch.empty(3, *MAP, dtype=torch.float64)
    for row, column in np.ndindex(*MAP):
        own = projection(cells[:, :, row, column])[0]
        expected[:, row, column] = texts @ own / (view if kind == "linear" else own).norm()
    similarity = texts @ view / view.norm()
    module.float()
    compiled = compile_graph(text_match_graph(module, (1, CHANNELS, *MAP), SIZE))
    for count in (3, 1, 2):
        names = dict(zip(("pooled", "map"), (one.numpy() for one in inputs), strict=False))
        found = compiled({**names, "embedding": inputs[2][:count].numpy()})
        np.testing.assert_allclose(found["similarity"], similarity[:count], rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["agreement"], expected[:count], rtol=0, atol=2e-6)


# -------------------- refused


def part(ask_bundles: ModuleType, **changes: Any) -> AskPart:
    shape = (1, 8, 4, 3)
    cells = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    features = {"L-CC": {"map": cells, "pooled": cells.mean(axis=(2, 3))}}
    given_modules = {
        "encoder": lambda: ask_bundles.text_encoder("bert"),
        "projection": lambda: fill_module(ImageProjection(8, ask_bundles.SIZE, "linear"), 2),
        "tokenizer": ask_bundles.tokenizer,
        "provenance": lambda: None,
    } | changes
    modules = AskModules(**{name: make() for name, make in given_modules.items()})
    return AskPart("view", features, lambda _: modules)


def test_a_graph_that_answers_otherwise(ask_bundles: ModuleType, tmp_path: Path) -> None:
    spoiled = part(ask_bundles)
    spoiled.load()
    spoiled.convert(tmp_path, half_weights=False)
    layer = spoiled._encoder.text_projection.projection
    layer.bias = torch.nn.Parameter(layer.bias + 0.01)  # not in place: the graph shares memory
    with pytest.raises(ExportError, match="text: output 'embedding' of the IR differs from torch"):
        spoiled.check(tmp_path, TOLERANCE)


def test_attention_that_is_not_ours(ask_bundles: ModuleType, tmp_path: Path) -> None:
    """The right numbers by transformers' own attention: still not what the bundle promises."""

    def other() -> torch.nn.Module:
        encoder = ask_bundles.text_encoder("bert")
        encoder.text_encoder.text_encoder.config._attn_implementation = "eager"
        return encoder

    foreign = part(ask_bundles, encoder=other)
    foreign.load()
    foreign.convert(tmp_path, half_weights=False)
    with pytest.raises(ExportError, match="the IR has 0 TiledAttention operations, expected 3"):
        foreign.check(tmp_path, TOLERANCE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda made: "{}", "text: the tokenizer is not a usable tokenizer.json"),
        (lambda made: made.tokenizer(marked=False), r"does not mark begin and end .*\[CLS\]"),
        (
            lambda made: made.tokenizer().replace('"round":12', '"round":13'),
            "numbers tokens up to 13, the text encoder has 13",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit(ask_bundles: ModuleType, text: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        part(ask_bundles, tokenizer=lambda: text(ask_bundles)).load()


def test_an_image_encoder_without_a_map(ask_bundles: ModuleType, tmp_path: Path) -> None:
    lacking = part(ask_bundles)
    del lacking._features["L-CC"]["map"]
    lacking.load()
    with pytest.raises(ExportError, match="encoder 'view' has no output 'map'; add it to its"):
        lacking.convert(tmp_path, half_weights=False)


def test_the_match_graph_takes_any_number_of_texts() -> None:
    module, _ = match("linear", 1)
    graph = text_match_graph(module, (1, CHANNELS, *MAP), SIZE)
    shapes = {port.get_any_name(): port.get_partial_shape() for port in graph.inputs}
    assert shapes["embedding"] == ov.PartialShape([-1, SIZE])
    assert shapes["map"] == ov.PartialShape([1, CHANNELS, *MAP])

"""Text encoders equal transformers' own, and tokenizers give transformers' own numbers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mammofm_lite.errors import ExportError
from mammofm_lite.export.ask_part import text_encoder_graph
from mammofm_lite.export.graphs import operation_census
from mammofm_lite.export.models.text import TextConfig, TextEncoder
from mammofm_lite.export.recipe import DiagnosisRecipe, WeightSource
from mammofm_lite.export.synthetic import fill_module, synthetic_vector
from mammofm_lite.export.text import TextSource, read_text_config, read_text_tokenizer
from mammofm_lite.export.text_recipe import TextRecipe
from mammofm_lite.native import extension_path

TOLERANCE = 1e-5  # absolute, on token states of order one and on unit vectors
SEED = 1
LENGTHS = (40, 21, 5)
ARCHITECTURES = ("bert", "modernbert")
FINAL_NORMS = (("bert", True), ("modernbert", True), ("modernbert", False))

Recipes = tuple[TextRecipe, DiagnosisRecipe]


def recipes(folder: Path, **changed: Any) -> Recipes:
    """A recipe's tables for a folder: synthetic weights, embeddings of 16 numbers."""
    weights = WeightSource("synthetic", seed=SEED)
    final_norm = True if folder.name == "modernbert" else None
    text = TextRecipe(folder, "eos", final_norm, 64, False, weights)
    head = DiagnosisRecipe(
        shared_backbone=False,
        labels=(),
        projection="linear",
        projection_encoder="clip",
        projection_size=16,
        projection_weights=weights,
    )
    return replace(text, **changed), head


def config_of(folder: Path, **changed: Any) -> TextConfig:
    return replace(read_text_config(*recipes(folder)), **changed)


def batch(config: TextConfig) -> tuple[Tensor, Tensor]:
    """Random tokens with padding on the right."""
    dice = torch.Generator().manual_seed(0)
    vocabulary = config.model_config.vocab_size
    ids = torch.randint(5, vocabulary, (len(LENGTHS), max(LENGTHS)), generator=dice)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return ids * mask, mask


def plain_states(folder: Path, encoder: TextEncoder, inputs: tuple[Tensor, Tensor]) -> Any:
    """What transformers' own eager model answers with the encoder's weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    names = encoder.state_dict()
    prefix = "text_encoder.text_encoder." if config.model_type == "bert" else "text_encoder."
    own = {n[len(prefix) :]: t for n, t in names.items() if n.startswith(prefix)}
    lacking = model.load_state_dict(own, strict=False)
    assert not lacking.unexpected_keys
    assert all(key.startswith(("pooler.", "final_norm.")) for key in lacking.missing_keys)
    return model, model(*inputs).last_hidden_state


@pytest.mark.parametrize(("name", "final_norm"), FINAL_NORMS)
def test_states_equal_transformers(text_folders: dict[str, Path], name: str, final_norm: bool):
    config = config_of(text_folders[name], final_norm=final_norm)
    encoder = fill_module(TextEncoder(config), SEED)
    ids, mask = batch(config)
    found = encoder.hidden(ids, mask)
    model, expected = plain_states(text_folders[name], encoder, (ids, mask))
    if not final_norm:
        caught: list[Tensor] = []
        model.final_norm.register_forward_pre_hook(lambda _module, given: caught.append(given[0]))
        model(ids, mask)
        expected = caught[0]
    tokens = mask[..., None].bool()
    assert torch.where(tokens, found - expected, 0).abs().max() <= TOLERANCE
    assert torch.where(tokens, expected, 0).abs().max() > 0.5


def test_the_last_normalisation_matters(text_folders: dict[str, Path]):
    embeddings = []
    for final_norm in (True, False):
        config = config_of(text_folders["modernbert"], final_norm=final_norm)
        encoder = TextEncoder(config).eval()
        fill_module(encoder, SEED)
        embeddings.append(encoder(*batch(config)))
    assert (embeddings[0] - embeddings[1]).abs().max() > 0.01


def test_local_layers_see_their_neighbourhood(text_folders: dict[str, Path]):
    """Two tokens to either side in three of four layers: without the window, states differ."""
    config = config_of(text_folders["modernbert"])
    values = dict(config.transformers) | {"global_attn_every_n_layers": 1}
    everywhere = replace(config, transformers=values)
    states = [fill_module(TextEncoder(c), SEED).hidden(*batch(c)) for c in (config, everywhere)]
    assert (states[0] - states[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pooling", ["eos", "bos", "mean"])
def test_padding_changes_nothing(text_folders: dict[str, Path], name: str, pooling: Any):
    config = config_of(text_folders[name], pooling=pooling)
    encoder = fill_module(TextEncoder(config), SEED)
    ids, mask = batch(config)
    together = encoder(ids, mask)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(LENGTHS)))
    for i, length in enumerate(LENGTHS):
        alone = encoder(ids[i : i + 1, :length], mask[i : i + 1, :length].bool())
        assert (alone[0] - together[i]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_embeddings_equal_reference(
    golden: Callable[[str], Any], text_folders: dict[str, Path], kind: Any
):
    """From the reference's token states on; the states stand in for an encoder's."""
    expected = golden("clip_classifier")
    config = config_of(text_folders["bert"], projection=kind, size=512)
    values = dict(config.transformers) | {"hidden_size": 768, "num_hidden_layers": 1}
    encoder = TextEncoder(replace(config, transformers=values))
    fill_module(encoder.text_projection, SEED, lambda key: f"text_projection.{key}")
    states = torch.from_numpy(synthetic_vector("text/hidden", (4, 9, 768), SEED))
    encoder.hidden = lambda ids, mask: states
    mask = torch.from_numpy(expected["attention_mask"])
    found = encoder(torch.zeros(4, 9, dtype=torch.int64), mask)
    np.testing.assert_allclose(found, expected[f"{kind}/text_embeddings"], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("manifest", "values", "unused"),
    [
        ("text_bioclinicalbert", {"model_type": "bert", "vocab_size": 28996}, 2),
        ("text_modernbert_base", {"model_type": "modernbert"}, 0),
    ],
)
def test_keys_are_the_manifest(reference: Path, manifest: str, values: Any, unused: int):
    entries = json.loads((reference / f"manifest_{manifest}.json").read_text())
    projection = json.loads((reference / "manifest_projections_b5.json").read_text())[-2:]
    with torch.device("meta"):
        config = TextConfig(values["model_type"], values, "eos", True, 256, "linear", 512)
        encoder = TextEncoder(config)
    own = [[key, list(tensor.shape), "float32"] for key, tensor in encoder.state_dict().items()]
    taken = [entry for entry in entries if not entry[0].startswith(encoder.unused or ("none",))]
    assert sorted(own) == sorted(taken + projection)
    assert len(entries) - len(taken) == unused


@pytest.mark.parametrize(
    ("name", "windows"), [("bert", {-1: 2}), ("modernbert", {-1: 2, 2: 2})], ids=ARCHITECTURES
)
def test_attention_converts_to_our_operation(
    text_folders: dict[str, Path], name: str, windows: dict[int, int]
):
    """Any number of texts of any length, the windows in the operations."""
    config = config_of(text_folders[name])
    encoder = fill_module(TextEncoder(config), SEED)
    ids, mask = batch(config)
    graph = text_encoder_graph(encoder)
    assert operation_census(graph)["TiledAttention"] == sum(windows.values())
    assert "ScaledDotProductAttention" not in operation_census(graph)
    found: dict[int, int] = {}
    for node in graph.get_ops():
        if node.get_type_name() == "TiledAttention":
            window = node.get_attributes()["window"]
            found[window] = found.get(window, 0) + 1
    assert found == windows
    core = ov.Core()
    core.add_extension(str(extension_path()))
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for rows, length in ((3, 40), (1, 5), (2, 21)):
        given = (ids[:rows, :length], mask[:rows, :length])
        answer = compiled([tensor.numpy() for tensor in given])[0]
        assert np.abs(answer - encoder(*given).numpy()).max() <= TOLERANCE


# ---- configurations -----------------------------------------------------------------------------


def changed_folder(folder: Path, target: Path, **values: Any) -> Path:
    """A copy of a folder whose config.json says something else."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | values
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("bert", {"model_type": "gpt2"}, "'model_type' is 'gpt2', allowed: bert, modernbert"),
        ("bert", {"hidden_size": "wide"}, "config.json is not a bert configuration: "),
        ("bert", {"max_position_embeddings": 32}, "32 positions; 'max_length' cannot be 64"),
        ("bert", {"is_decoder": True}, "'is_decoder' is True, which is not supported; only False"),
        ("bert", {"position_embedding_type": "relative_key"}, "'relative_key', which is not supp"),
        ("bert", {"vocab_size": 20}, "the text encoder 20 tokens: they are not of one model"),
        ("modernbert", {"pad_token_id": 0}, "pad_token_id is 3, config.json says 0"),
        ("modernbert", {"num_attention_heads": 5}, "not a multiple of"),
    ],
)
def test_folders_that_do_not_fit(
    text_folders: dict[str, Path], tmp_path: Path, name: str, values: Any, message: str
):
    folder = changed_folder(text_folders[name], tmp_path / name, **values)
    with pytest.raises(ExportError, match=message):
        TextSource(*recipes(folder)).embed(["no mass"])


def test_old_names_of_settings_are_read(text_folders: dict[str, Path], tmp_path: Path):
    """As transformers 4.48 wrote them, and as ModernBERT's own folder has them (facts 4.6)."""
    given = {"global_rope_theta": 81.0, "local_rope_theta": 16.0, "reference_compile": True}
    folder = changed_folder(text_folders["modernbert"], tmp_path / "modernbert", **given)
    config = config_of(folder)
    rotary = TextEncoder(config).text_encoder.rotary_emb  # channels of a head: 16
    assert float(rotary.full_attention_inv_freq[4]) == pytest.approx(1 / 9)
    assert float(rotary.sliding_attention_inv_freq[4]) == pytest.approx(1 / 4)
    local = [kind == "sliding_attention" for kind in config.model_config.layer_types]
    assert local == [False, True, True, False]
    usual = TextConfig("modernbert", {}, "eos", True, 256, "linear", 512).model_config
    thetas = {name: rope["rope_theta"] for name, rope in usual.rope_parameters.items()}
    assert thetas == {"full_attention": 160000, "sliding_attention": 10000}
    assert (usual.sliding_window, usual.norm_eps, usual.norm_bias) == (64, 1e-5, False)


def test_a_configuration_in_half_precision_is_run_in_float32(
    text_folders: dict[str, Path], tmp_path: Path
):
    folder = changed_folder(text_folders["bert"], tmp_path / "bert", torch_dtype="float16")
    encoder = TextEncoder(config_of(folder))
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "final_norm", "message"),
    [
        ("bert", False, "'final_norm' has no meaning for BERT"),
        ("modernbert", None, "'final_norm' must be true or false for ModernBERT"),
    ],
)
def test_final_norm_is_asked_for_modernbert_only(
    text_folders: dict[str, Path], name: str, final_norm: bool | None, message: str
):
    with pytest.raises(ExportError, match=message):
        TextSource(*recipes(text_folders[name], final_norm=final_norm))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no config.json in the text encoder's folder"),
        ("config.json", "{", "config.json is not readable: "),
        ("config.json", "[]", "'model_type' is None"),
        ("tokenizer.json", None, "no tokenizer.json and no vocab.txt"),
        ("tokenizer.json", '{"model": 3}', "the tokenizer in .* is not readable: "),
    ],
)
def test_missing_and_damaged_files(
    text_folders: dict[str, Path], tmp_path: Path, file: str, content: str | None, message: str
):
    folder = changed_folder(text_folders["modernbert"], tmp_path / "modernbert")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ExportError, match=message):
        TextSource(*recipes(folder))


# ---- tokenizers ---------------------------------------------------------------------------------

TEXTS = [
    "no mass",
    "Mass in the LEFT breast",
    "spiculated massés, suspicious calcification!",
    " ".join(["no mass"] * 60),
    "",
]
FOLDERS = ("bert", "bert-cased", "bert-plain", "modernbert")


def same_numbers(folder: Path, texts: list[str]) -> None:
    """Numbers and mask of a batch, against transformers' own call with the reference's options."""
    ours = read_text_tokenizer(folder, config_of(folder)).tokenizer.encode_batch(texts)
    own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected = own(texts, padding="longest", truncation=True, max_length=64)
    assert [encoding.ids for encoding in ours] == expected["input_ids"]
    assert [encoding.attention_mask for encoding in ours] == expected["attention_mask"]


@pytest.mark.parametrize("name", FOLDERS)
def test_numbers_are_transformers_own(text_folders: dict[str, Path], name: str):
    same_numbers(text_folders[name], TEXTS)


@pytest.mark.parametrize("name", FOLDERS)
def test_numbers_are_the_same_from_a_saved_tokenizer(
    text_folders: dict[str, Path], tmp_path: Path, name: str
):
    """What transformers writes today: tokenizer.json for both, and no vocab.txt."""
    AutoTokenizer.from_pretrained(text_folders[name], local_files_only=True).save_pretrained(
        tmp_path / "modernbert" if name == "modernbert" else tmp_path / "bert"
    )
    folder = next(tmp_path.iterdir())
    shutil.copy(text_folders[name] / "config.json", folder)
    assert (folder / "tokenizer.json").is_file()
    assert not (folder / "vocab.txt").exists()
    same_numbers(folder, TEXTS)


@pytest.mark.parametrize("name", ["bert-cased", "modernbert"])
def test_any_text_has_transformers_own_numbers(text_folders: dict[str, Path], name: str):
    ours = read_text_tokenizer(text_folders[name], config_of(text_folders[name])).tokenizer
    own = AutoTokenizer.from_pretrained(text_folders[name], local_files_only=True)

    @given(st.text(max_size=200))
    def check(text: str) -> None:
        expected = own(text, truncation=True, max_length=64)["input_ids"]
        assert ours.encode(text).ids == expected

    check()


def test_padding_is_on_the_right_and_texts_are_cut(text_folders: dict[str, Path]):
    for name in ARCHITECTURES:
        made = read_text_tokenizer(text_folders[name], config_of(text_folders[name])).tokenizer
        short, long = made.encode_batch(["no mass", " ".join(["no mass"] * 60)])
        assert len(long.ids) == len(short.ids) == 64
        assert short.attention_mask == sorted(short.attention_mask, reverse=True)
        assert long.tokens[0] == "[CLS]"
        assert long.tokens[-1] == "[SEP]"


def test_letter_case_is_the_files_own(text_folders: dict[str, Path]):
    tokens = {
        name: read_text_tokenizer(text_folders[name], config_of(text_folders[name]))
        .tokenizer.encode("Mass")
        .tokens[1:-1]
        for name in ("bert", "bert-cased", "bert-plain")
    }
    # Without a setting transformers makes letters small, even for a vocabulary with capitals.
    assert tokens == {"bert": ["mass"], "bert-cased": ["Mass"], "bert-plain": ["mass"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mass €", "'mass €' has words that the tokenizer does not know; reword it"),
        ("\u00ad", "has words that the tokenizer does not know"),
        (" ".join(["no mass"] * 60), "has more than 64 tokens; shorten it"),
    ],
)
def test_prompts_that_would_lose_words_are_refused(
    text_folders: dict[str, Path], text: str, message: str
):
    side = TextSource(*recipes(text_folders["bert"]))
    with pytest.raises(ExportError, match=message):
        side.embed(["no mass", text])

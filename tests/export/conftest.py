"""Golden vectors and full-size networks, made once for all tests of the export path."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

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


# ---- text encoders ------------------------------------------------------------------------------

WORDS = ["no", "mass", "suspicious", "calcification", "malignancy", "in", "the", "left", "breast"]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # of random weights: embeddings of texts lie apart
}


def _bert_folder(folder: Path, *, lower: bool | None) -> None:
    letters = "abcdefghijklmnopqrstuvwxyzMASQ"
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Mass", *WORDS, *pieces]
    config = {**TINY, "model_type": "bert", "vocab_size": len(vocabulary), "pad_token_id": 0}
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "config.json").write_text(json.dumps(config))
    if lower is not None:
        settings = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _modernbert_folder(folder: Path) -> None:
    """Byte-level BPE with the special tokens and the files of ModernBERT's own folder."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    settings = {f"{key}_token": name for key, name in names.items()}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        **TINY,
        "num_hidden_layers": 4,
        "model_type": "modernbert",
        "vocab_size": tokenizer.get_vocab_size() + 3,  # ModernBERT's own is padded, too
        "local_attention": 4,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        **{f"{key}_token_id": ids[name] for key, name in names.items() if key in CHECKED},
        "bos_token_id": ids["[CLS]"],
        "eos_token_id": ids["[SEP]"],
    }
    (folder / "config.json").write_text(json.dumps(config))


CHECKED = ("cls", "sep", "pad")


@pytest.fixture(scope="session")
def text_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hugging Face folders with tiny configurations and vocabularies, by what they are."""
    root = tmp_path_factory.mktemp("text")
    folders = {name: root / name for name in ("bert", "bert-cased", "bert-plain", "modernbert")}
    for folder in folders.values():
        folder.mkdir()
    _bert_folder(folders["bert"], lower=True)
    _bert_folder(folders["bert-cased"], lower=False)
    _bert_folder(folders["bert-plain"], lower=None)
    _modernbert_folder(folders["modernbert"])
    return folders

"""A small bundle that carries a text encoder, made in seconds, and torch's answers to it."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors

from mammofm_lite._openvino import OPENVINO_VERSION
from mammofm_lite.bundle import SCHEMA_VERSION, file_record
from mammofm_lite.export.ask_part import AskModules, AskPart
from mammofm_lite.export.graphs import encoder_graph
from mammofm_lite.export.models.clip import ImageProjection, ProjectionKind, normalised
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.models.text import TextConfig, TextEncoder
from mammofm_lite.export.synthetic import fill_module
from mammofm_lite.prepare import PreprocessingSpec

Architecture = Literal["bert", "modernbert"]

WORDS = ("spiculated", "mass", "no", "suspicious", "calcification", "breast", ",", "dense", "round")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
HEIGHT, WIDTH, SIZE, LAYERS, MAX_LENGTH = 192, 128, 24, 3, 100


def tokenizer(*, marked: bool = True) -> str:
    """One token per known word; cuts and pads unless told not to, as files of models do."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if marked:
        made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_truncation(4)
    made.enable_padding(length=20)
    text: str = made.to_str()
    return text


def text_encoder(architecture: Architecture, vocabulary: int = len(TOKENS)) -> TextEncoder:
    """Random weights; ModernBERT with global, local, local layers that see 8 tokens a side."""
    config: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": MAX_LENGTH,
    }
    if architecture == "modernbert":
        config |= {"local_attention": 16, "global_attn_every_n_layers": 3}
        config |= {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(3)
    made = TextEncoder(
        TextConfig(
            architecture=architecture,
            transformers=config,
            pooling="eos",
            final_norm=True,
            max_length=MAX_LENGTH,
            projection="linear",
            size=SIZE,
        )
    ).eval()
    with torch.no_grad():  # transformers' start is so small that all texts would be alike
        for name, value in made.named_parameters():
            if value.dim() == 2:
                torch.nn.init.normal_(value, std=1.0 if "embeddings" in name else 0.2)
    return made


@dataclass(frozen=True)
class AskBundle:
    """The folder, and the torch modules that its graphs were made from."""

    path: Path
    part: AskPart
    image: EfficientNet
    modules: AskModules

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_file(str(self.path / "text_tokenizer.json"))

    def embedding(self, text: str) -> torch.Tensor:
        """float32 [1, size] by torch."""
        ids = torch.tensor([self.library.encode(text).ids])
        with torch.no_grad():
            made: torch.Tensor = self.modules.encoder(ids, torch.ones_like(ids))
        return made

    def answer(self, picture: np.ndarray, text: str) -> tuple[float, np.ndarray]:
        """Similarity and agreement of one prepared picture by torch, as facts 4 describe them."""
        image = torch.from_numpy(picture.astype(np.float32))
        image = (image - image.min()) / (image.max() - image.min())
        image = ((image - 0.3089279) / 0.25053555408335154).expand(1, 3, -1, -1)
        text_embedding = self.embedding(text)
        with torch.no_grad():
            features = self.image.features(image)
            view = self.modules.projection(features.pooled)
            similarity = float(normalised(view) @ text_embedding.T)
            cells = torch.stack([self.modules.projection(x) for x in features.map[0].flatten(1).T])
            along = cells @ text_embedding[0]
            linear = self.modules.projection.kind == "linear"
            along = along / (view.norm() if linear else cells.norm(dim=1))
        return similarity, along.reshape(features.map.shape[2:]).numpy()


def make(
    folder: Path,
    architecture: Architecture = "modernbert",
    projection: ProjectionKind = "linear",
    *,
    half_weights: bool = False,
) -> AskBundle:
    """Write a bundle of one image encoder, a text encoder and no heads."""
    folder.mkdir(parents=True)
    image = fill_module(EfficientNet(named_config("b0")), 1)
    graph = encoder_graph(image, (HEIGHT, WIDTH), outputs=("pooled", "map"))
    ov.save_model(graph, str(folder / "encoder_view.xml"), compress_to_fp16=half_weights)
    shapes = {output.get_any_name(): list(output.get_shape()) for output in graph.outputs}
    shape = tuple(shapes["map"])
    modules = AskModules(
        encoder=text_encoder(architecture),
        projection=fill_module(ImageProjection(shape[1], SIZE, projection), 2),
        tokenizer=tokenizer(),
        provenance={"source": "synthetic"},
    )
    generator = np.random.default_rng(0)
    cells = generator.standard_normal(shape, dtype=np.float32)
    features = {"L-CC": {"map": cells, "pooled": cells.mean(axis=(2, 3))}}
    part = AskPart("view", features, lambda _: modules)
    part.load()
    part.convert(folder, half_weights=half_weights)
    part.check(folder, 1e-4)
    describe(folder, part.entry, shapes)
    return AskBundle(folder, part, image, modules)


def describe(folder: Path, text: dict[str, Any] | None, shapes: dict[str, list[int]]) -> None:
    """Write ``bundle.json`` for what lies in the folder."""
    sizes = PreprocessingSpec(height=HEIGHT, width=WIDTH)
    description = {
        "format": "mammofm-bundle",
        "schema_version": SCHEMA_VERSION,
        "name": "ask-test",
        "version": "0",
        "intended_use": "Tests only.",
        "weights": {"synthetic": True, "licence": "Apache-2.0", "notice": ""},
        "precision": "f32",
        "made_with": {"mammofm_lite": "0.1.0", "openvino": OPENVINO_VERSION},
        "preprocessing": asdict(sizes),
        "encoders": {"view": {"model": "encoder_view.xml", "outputs": shapes}},
        "heads": {},
        "self_check": {},
        "text": text,
        "files": {
            path.name: asdict(file_record(path))
            for path in sorted(folder.iterdir())
            if path.name != "bundle.json"
        },
    }
    if text is None:
        del description["text"]
    (folder / "bundle.json").write_text(json.dumps(description), encoding="utf-8")

"""From a local Hugging Face folder and a CLIP checkpoint to embeddings of prompts.

Nothing is downloaded, and no code of the folder is run: transformers is asked for files on this
disk only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from mammofm_lite.bundle import file_record
from mammofm_lite.errors import ExportError

from .ask_part import AskModules, AskPart
from .models.clip import ImageProjection
from .models.text import TextArchitecture, TextConfig, TextEncoder
from .part import Part
from .parts import CLIP_BACKBONE, CLIP_REST, EncoderPart
from .recipe import DiagnosisRecipe
from .text_recipe import TextRecipe
from .weights import load_into

__all__ = ["TextSource", "TextTokenizer", "read_text_config", "read_text_tokenizer"]

# What else a CLIP checkpoint holds (facts 2.1).
_IMAGE_SIDE: Final = ("image_encoder.", "image_projection.", "logit_scale")
_VOCABULARIES: Final = ("tokenizer.json", "vocab.txt")
_RECORDED: Final = (
    "config.json",
    *_VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def read_text_config(recipe: TextRecipe, diagnosis: DiagnosisRecipe) -> TextConfig:
    """What a recipe's text encoder is, from the folder's ``config.json``.

    Raises
    ------
    ExportError
        The file is missing, not JSON or of another architecture, or `final_norm` is given for
        BERT or not given for ModernBERT.
    """
    path = recipe.folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"no config.json in the text encoder's folder {recipe.folder}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"the text encoder's config.json is not readable: {error}") from error
    architecture = values.get("model_type") if isinstance(values, dict) else None
    if architecture not in ("bert", "modernbert"):
        raise ExportError(
            f"the text encoder's config.json: 'model_type' is {architecture!r}, "
            "allowed: bert, modernbert"
        )
    assert diagnosis.projection is not None  # the recipe is refused without one
    return TextConfig(
        architecture=cast(TextArchitecture, architecture),
        transformers=values,
        pooling=recipe.pooling,
        final_norm=_final_norm(recipe, architecture),
        max_length=recipe.max_length,
        projection=diagnosis.projection,
        size=diagnosis.projection_size,
    )


def _final_norm(recipe: TextRecipe, architecture: str) -> bool:
    if architecture == "bert":
        if recipe.final_norm is not None:
            raise ExportError("[text]: 'final_norm' has no meaning for BERT; delete it")
        return True
    if recipe.final_norm is None:
        raise ExportError(
            "[text]: 'final_norm' must be true or false for ModernBERT: whether the checkpoint was "
            "trained on token states after the last normalisation (transformers 5) or before it "
            "(transformers 4)"
        )
    return recipe.final_norm


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer that cuts and pads as the encoder needs it, and its unknown token."""

    tokenizer: Tokenizer
    unknown: int | None


def read_text_tokenizer(folder: Path, config: TextConfig) -> TextTokenizer:
    """The tokenizer of a folder as transformers makes it, its files' own settings included.

    It adds the special tokens, cuts at ``config.max_length`` tokens, and pads on the right to the
    longest text of a batch.

    Raises
    ------
    ExportError
        There is no vocabulary or it is unreadable, or it is not this encoder's.
    """
    # Without a vocabulary transformers would make one up, of the five special tokens alone.
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ExportError(
            f"no tokenizer.json and no vocab.txt in the text encoder's folder {folder}"
        )
    try:
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer: Tokenizer = made.backend_tokenizer
    except Exception as error:  # `tokenizers` raises plain ones
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(f"the tokenizer in {folder} is not readable: {reason}") from error
    _check_tokenizer(made, config)
    tokenizer.enable_truncation(config.max_length)
    tokenizer.enable_padding(pad_id=made.pad_token_id, pad_token=made.pad_token)
    return TextTokenizer(tokenizer, made.unk_token_id)


def _check_tokenizer(made: Any, config: TextConfig) -> None:
    """Refuse a tokenizer whose numbers cannot be the encoder's."""
    rows = config.model_config.vocab_size
    highest = max(made.backend_tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= rows:
        raise ExportError(
            f"the tokenizer knows token {highest}, the text encoder {rows} tokens: "
            "they are not of one model"
        )
    for name in ("pad_token_id", "cls_token_id", "sep_token_id"):
        own, expected = getattr(made, name), config.transformers.get(name)
        if own is None or (expected is not None and own != expected):
            raise ExportError(
                f"the tokenizer's {name} is {own}, config.json says {expected}: "
                "they are not of one model"
            )


class TextSource:
    """The text encoder of a recipe: its folder is read at once, its weights when first needed."""

    def __init__(self, recipe: TextRecipe, diagnosis: DiagnosisRecipe) -> None:
        self.recipe = recipe
        self.diagnosis = diagnosis
        self.config = read_text_config(recipe, diagnosis)
        self._tokenizer = read_text_tokenizer(recipe.folder, self.config)
        for label in diagnosis.labels:
            if label.weights.source == "text":
                self._encode(label.classes)
        self._origin: Mapping[str, Any] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """Cuts and pads as the encoder needs it."""
        return self._tokenizer.tokenizer

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder with its weights, in evaluation mode."""
        encoder = TextEncoder(self.config).eval()
        ignored = (*_IMAGE_SIDE, *encoder.unused)
        self._origin = load_into(encoder, self.recipe.weights, ignored)
        return encoder

    @property
    def provenance(self) -> dict[str, Any]:
        """Which encoder this is; the checkpoint's hash once it has been read."""
        folder = self.recipe.folder
        present = [name for name in _RECORDED if (folder / name).is_file()]
        final_norm = (
            {} if self.recipe.final_norm is None else {"final_norm": self.config.final_norm}
        )
        return {
            **(self._origin or self.recipe.weights.describe()),
            "architecture": self.config.architecture,
            "pooling": self.config.pooling,
            **final_norm,
            "max_length": self.config.max_length,
            "folder": {name: file_record(folder / name).sha256 for name in present},
        }

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 ``[texts, size]``.

        Raises
        ------
        ExportError
            A text is longer than the encoder takes, or has words that its tokenizer lacks.
        """
        encodings = self._encode(texts)
        ids = torch.tensor([encoding.ids for encoding in encodings])
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        with torch.no_grad():
            embeddings: Tensor = self.encoder(ids, mask)
        return embeddings

    def part(self, encoder: EncoderPart) -> AskPart:
        """The text encoder as a part of the bundle, for views of an image encoder."""

        def read(part: Part) -> AskModules:
            holder = torch.nn.Module()
            head = self.diagnosis
            assert head.projection is not None  # the recipe is refused without one
            assert head.projection_weights is not None
            self._check_pair(encoder)
            holder.image_projection = projection = ImageProjection(
                encoder.config.head_channels, head.projection_size, head.projection
            )
            part.fill(holder, head.projection_weights, ignore=CLIP_REST)
            text = self.encoder
            return AskModules(text, projection, self.tokenizer.to_str(), self.provenance)

        return AskPart(encoder.name, encoder.features, read)

    def _check_pair(self, encoder: EncoderPart) -> None:
        """Refuse to compare texts with views of another encoder than they were trained with."""
        source = self.diagnosis.projection_weights
        assert source is not None
        differing = encoder.own_backbone(source, CLIP_BACKBONE)
        if differing and not self.diagnosis.shared_backbone:
            raise ExportError(
                f"[text]: its checkpoint holds another image encoder than {encoder.name!r} "
                f"(tensors that differ: {len(differing)}, the first {differing[0]}). Declare an "
                "encoder from this file and name it in [heads.diagnosis.projection]"
            )

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        encodings = self.tokenizer.encode_batch(list(texts))
        for text, encoding in zip(texts, encodings, strict=True):
            if encoding.overflowing:
                raise ExportError(
                    f"prompt {text!r} has more than {self.config.max_length} tokens; shorten it"
                )
            if self._tokenizer.unknown in encoding.ids or all(encoding.special_tokens_mask):
                raise ExportError(
                    f"prompt {text!r} has words that the tokenizer does not know; reword it"
                )
        return encodings

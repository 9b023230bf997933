"""The ``[text]`` table of a recipe, and prompts given beside the recipe.

``folder`` is a Hugging Face folder on this disk (``config.json`` and the tokenizer's files, no
weights); ``weights`` is the CLIP checkpoint that also holds the image projection. Kind and size of
the text projection are those of ``[heads.diagnosis.projection]``: a checkpoint has one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from mammofm_lite._jsonread import Fields
from mammofm_lite.errors import ExportError

if TYPE_CHECKING:
    from .recipe import Recipe, WeightSource

__all__ = ["Prompts", "TextRecipe", "check_text", "check_texts", "parse_prompts", "read_text"]

MAX_LENGTH = 256

Prompts = Mapping[str, tuple[str, ...]]
"""Prompts of zero-shot labels, by label."""


@dataclass(frozen=True)
class TextRecipe:
    """A text encoder; `final_norm` is given for ModernBERT only, `carry` puts it into the bundle.

    `max_length` counts tokens, special ones included.
    """

    folder: Path
    pooling: Literal["eos", "bos", "mean"]
    final_norm: bool | None
    max_length: int
    carry: bool
    weights: WeightSource


def read_text(
    fields: Fields, folder: Path, weights: Callable[[Fields], WeightSource]
) -> TextRecipe:
    """The table `fields` of a recipe in `folder`."""
    fields.only("folder", "pooling", "final_norm", "max_length", "carry", "weights")
    length = fields.optional("max_length", lambda key: fields.integer(key, 3, 8192))
    pooling = fields.choice("pooling", ("eos", "bos", "mean"))
    return TextRecipe(
        folder=folder / fields.text("folder"),
        pooling=cast(Literal["eos", "bos", "mean"], pooling),
        final_norm=fields.optional("final_norm", fields.flag),
        max_length=length or MAX_LENGTH,
        carry=fields.optional("carry", fields.flag) or False,
        weights=weights(fields.object("weights")),
    )


def check_text(recipe: Recipe, fields: Fields) -> None:
    """Refuse labels without a text encoder, and one that is no pair with the image projection.

    Embeddings can be compared only inside the space that one training made: the cosine of a
    picture and a text of two checkpoints is a number without meaning.
    """
    head, text = recipe.diagnosis, recipe.text
    asking = [label for label in head.labels if label.weights.source == "text"] if head else []
    if text is None:
        if asking:
            raise fields.error(
                f"{fields.where}: label {asking[0].name!r} needs a text encoder; add a [text] table"
            )
        return
    on = head.projection_encoder if head else None
    if head is None or on is None:
        raise fields.error(f"{fields.where}: [text] needs a [heads.diagnosis.projection]")
    if head.projection_weights != text.weights:
        raise fields.error(
            f"{fields.where}: 'weights' of [text] and of [heads.diagnosis.projection] must be the "
            "same: a text encoder fits the projection of its own checkpoint only"
        )
    if text.carry and "map" not in recipe.encoder(on).outputs:
        raise fields.error(
            f"{fields.where}: a text encoder that is carried needs output 'map' of encoder {on!r}"
        )


def parse_prompts(values: Iterable[str]) -> Prompts:
    """Prompts of the form ``NAME=no mass|mass``, by name.

    Raises
    ------
    ExportError
        Another form, a name given twice, or fewer than two prompts.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        texts = tuple(rest.split("|"))
        if not equals or not name or len(texts) < 2:
            raise ExportError(f"prompt {value!r}: write it as 'NAME=negative text|positive text'")
        if name in found:
            raise ExportError(f"prompt {name!r} is given twice")
        check_texts(name, texts)
        found[name] = texts
    return found


def check_texts(name: str, texts: tuple[str, ...]) -> None:
    """Refuse empty prompts, equal ones, and spaces around one, which some tokenizers count."""
    for text in texts:
        if text != text.strip() or not text:
            raise ExportError(f"label {name!r}: prompt {text!r} is empty or has spaces around it")
    if len(set(texts)) != len(texts):
        raise ExportError(f"label {name!r}: two prompts are the same")

"""The text encoder as a part of a bundle, for `mammofm-lite ask`: two graphs and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import openvino as ov
import tokenizers
import torch

from mammofm_lite.errors import ExportError
from mammofm_lite.tokenizer import Tokenizer

from .attention import attention_extension
from .graphs import compare, convert, single
from .models.clip import ImageProjection
from .models.match import TextMatch
from .models.text import TextEncoder
from .part import Arrays, Part, as_numpy, check_census, gate, run_graph, stored_differences

__all__ = ["AskModules", "AskPart", "text_encoder_graph", "text_match_graph"]

_MODEL: Final = "text_encoder.xml"
_MATCH: Final = "text_match.xml"
_TOKENIZER: Final = "text_tokenizer.json"
# Cosines, and shares of one, are measured in absolute terms.
_COSINES: Final = frozenset({"similarity", "agreement"})
# Of unlike lengths; the last is longer than a local layer of ModernBERT sees.
_SAMPLES: Final = ("mass", "no suspicious calcification", "spiculated mass, " * 40)


@dataclass(frozen=True, eq=False)
class AskModules:
    """What a CLIP checkpoint says of texts, its modules filled.

    Attributes
    ----------
    encoder : TextEncoder
        From tokens to embeddings.
    projection : ImageProjection
        From the image encoder's pooled features to the same space.
    tokenizer : str
        Content of the checkpoint's ``tokenizer.json``.
    provenance : any
        Where all of it came from, as JSON types.
    """

    encoder: TextEncoder
    projection: ImageProjection
    tokenizer: str
    provenance: Any


class AskPart(Part):
    """The ``text`` section of a bundle.

    Parameters
    ----------
    encoder : str
        Name of the image encoder.
    features : mapping
        Its ``pooled`` and ``map`` of example views, filled by its own check, which comes first.
    read : callable
        Gives the filled modules; called once, with this part, whose `fill` it may use.
    """

    kind: ClassVar[Literal["encoder", "head", "text"]] = "text"

    def __init__(
        self,
        encoder: str,
        features: Mapping[str, Arrays],
        read: Callable[[Part], AskModules],
    ) -> None:
        super().__init__("text")
        self._image_encoder = encoder
        self._features = features
        self._read = read

    @property
    def entry(self) -> dict[str, Any]:
        return self._entry

    @property
    def provenance(self) -> Any:
        return self._provenance

    def load(self) -> None:
        side = self._read(self)
        self._provenance = side.provenance
        self._encoder, self._match = side.encoder.eval(), TextMatch(side.projection).eval()
        self._tokenizer = _checked_tokenizer(side.tokenizer, _vocabulary(side.encoder))
        self._entry = self._description()

    def _description(self) -> dict[str, Any]:
        config = self._encoder.config
        return {
            "encoder": self._image_encoder,
            "model": _MODEL,
            "match": _MATCH,
            "tokenizer": _TOKENIZER,
            "max_length": config.max_length,
            "vocabulary": _vocabulary(self._encoder),
            "size": config.size,
            "architecture": config.architecture,
            "agreement": self._match.kind,
        }

    def convert(self, folder: Path, *, half_weights: bool) -> None:
        self._half_weights = half_weights
        view = self._view()
        self._graphs = {
            _MODEL: text_encoder_graph(self._encoder),
            _MATCH: text_match_graph(self._match, view["map"].shape, self._encoder.config.size),
        }
        for name, graph in self._graphs.items():
            ov.save_model(graph, str(folder / name), compress_to_fp16=half_weights)
        (folder / _TOKENIZER).write_text(self._tokenizer, encoding="utf-8")

    def _view(self) -> Arrays:
        """Features of the example view."""
        features = self._features["L-CC"]
        if missing := [name for name in ("pooled", "map") if name not in features]:
            raise ExportError(
                f"text: encoder {self._image_encoder!r} has no output {missing[0]!r}; add it to "
                "its 'outputs'"
            )
        return {name: features[name] for name in ("pooled", "map")}

    def check(self, folder: Path, tolerance: float) -> None:
        """Embed texts of unlike lengths, together and alone, and compare them with a view."""
        texts = self._texts(Tokenizer.open(folder / _TOKENIZER))
        expected = self._torch_answers(texts)
        converted = self._answers(self._graphs, texts)
        self.differences = dict(compare(expected, converted, _COSINES))
        gate(self.name, self.differences, tolerance)
        if self._half_weights:
            files = {name: str(folder / name) for name in self._graphs}
            stored = self._answers(files, texts)
            self.differences |= stored_differences(compare(converted, stored, _COSINES))
        self.census = {
            name: check_census(self.name, graph, self._expected_operations()[name])
            for name, graph in self._graphs.items()
        }
        del self._graphs, self._encoder, self._match

    def _texts(self, tokenizer: Tokenizer) -> list[Sequence[int]]:
        """Tokens of the samples; a long one keeps its last token where it is cut."""
        most = self._encoder.config.max_length
        texts = [tokenizer.encode_whole(sample) for sample in _SAMPLES]
        return [text if len(text) <= most else [*text[: most - 1], text[-1]] for text in texts]

    def _torch_answers(self, texts: Sequence[Sequence[int]]) -> Arrays:
        view = self._view()
        with torch.no_grad():
            together, alone = (
                self._encoder(*map(torch.from_numpy, _batch(some).values()))
                for some in (texts, texts[:1])
            )
            pooled, cells = torch.from_numpy(view["pooled"]), torch.from_numpy(view["map"])
            similarity, agreement = self._match(pooled, cells, together)
        named = {"embedding": together, "embedding of one text": alone}
        return as_numpy({**named, "similarity": similarity, "agreement": agreement})

    def _answers(self, graphs: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> Arrays:
        together, alone = (
            run_graph(graphs[_MODEL], _batch(some))["embedding"] for some in (texts, texts[:1])
        )
        named = {"embedding": together, "embedding of one text": alone}
        return named | run_graph(graphs[_MATCH], {**self._view(), "embedding": together})

    def _expected_operations(self) -> dict[str, dict[str, int]]:
        layers = int(self._encoder.config.model_config.num_hidden_layers)
        none = {"Softmax": 0, "ScaledDotProductAttention": 0}
        return {_MODEL: {"TiledAttention": layers, **none}, _MATCH: {"TiledAttention": 0, **none}}


def _vocabulary(encoder: TextEncoder) -> int:
    return int(encoder.config.model_config.vocab_size)


def _batch(texts: Sequence[Sequence[int]]) -> Arrays:
    """Inputs of the text encoder, int64 [n, length], padded on the right."""
    length = max(map(len, texts))
    ids = np.zeros((len(texts), length), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def _checked_tokenizer(text: str, vocabulary: int) -> str:
    """A tokenizer without cutting and padding; refused where it does not fit the text encoder."""
    try:
        library = tokenizers.Tokenizer.from_str(text)
        library.no_truncation()
        library.no_padding()
        plain, whole = (library.encode("mass", add_special_tokens=s).ids for s in (False, True))
        largest = max(library.get_vocab().values())
    except Exception as error:
        raise ExportError("text: the tokenizer is not a usable tokenizer.json") from error
    if largest >= vocabulary:
        raise ExportError(
            f"text: the tokenizer numbers tokens up to {largest}, the text encoder has "
            f"{vocabulary}; give the tokenizer it was trained with"
        )
    if not plain or list(whole[1:-1]) != list(plain):
        raise ExportError(
            "text: the tokenizer does not mark begin and end of a text ([CLS] and [SEP]); give the "
            "tokenizer.json of the text encoder, with its post-processor"
        )
    ready: str = library.to_str(pretty=False)
    return ready


def text_encoder_graph(encoder: TextEncoder) -> ov.Model:
    """Graph ``input_ids``, ``attention_mask`` int64 [n, length] -> ``embedding`` [n, size].

    Both sizes are free. ``attention_mask`` is 1 at tokens and 0 at padding, which is on the right.
    """
    ids = torch.arange(3, 13, dtype=torch.int64).reshape(2, 5) % _vocabulary(encoder)
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    return convert(
        encoder,
        {"input_ids": ids, "attention_mask": mask},
        single(["embedding"]),
        [attention_extension()],
        {"input_ids": (0, 1), "attention_mask": (0, 1)},
    )


def text_match_graph(match: TextMatch, map_shape: Sequence[int], size: int) -> ov.Model:
    """Graph of a view and n texts -> ``similarity`` [n], ``agreement`` [n, rows, columns].

    Inputs float32 ``pooled`` [1, C], ``map`` [1, C, rows, columns] and ``embedding`` [n, size], of
    which n is free.
    """
    inputs = {
        "pooled": torch.ones(1, map_shape[1]),
        "map": torch.ones(*map_shape),
        "embedding": torch.ones(2, size),
    }
    outputs = single(["similarity", "agreement"])
    return convert(match, inputs, outputs, free={"embedding": (0,)})

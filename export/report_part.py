"""The report head as a part of a bundle: two graphs, a grammar and a tokenizer."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mammofm_lite._jsonread import Fields
from mammofm_lite._openvino import ov
from mammofm_lite.contract import map_input
from mammofm_lite.errors import ExportError
from mammofm_lite.grammar import Grammar
from mammofm_lite.views import STANDARD_VIEWS

from .graphs import compare
from .models.report import Memory, ReportConfig, ReportModel
from .part import (
    Arrays,
    Part,
    as_numpy,
    check_census,
    compile_graph,
    gate,
    run_graph,
    stored_differences,
)
from .recipe import ReportRecipe
from .report_graphs import decoder_graph, fusion_graph, memory_names
from .report_text import BOS, report_grammar, report_tokenizer, sample_report

__all__ = ["ReportPart", "decode_logits"]

_FUSION: Final = "head_report_fusion.xml"
_DECODER: Final = "head_report_decoder.xml"
_TOKENIZER: Final = "tokenizer.json"
_GRAMMAR: Final = "grammar.json"


class ReportPart(Part):
    """`features` are filled by the encoder's own check, which comes first."""

    def __init__(
        self, spec: ReportRecipe, map_shape: Sequence[int], features: Mapping[str, Arrays]
    ) -> None:
        super().__init__("report")
        self.spec = spec
        self._map_shape = tuple(map_shape)
        self._features = features

    @property
    def entry(self) -> dict[str, Any]:
        return {
            "fusion": _FUSION,
            "decoder": _DECODER,
            "tokenizer": _TOKENIZER,
            "grammar": _GRAMMAR,
            "encoder": self.spec.encoder,
            "max_tokens": self.spec.max_tokens,
        }

    @property
    def provenance(self) -> Any:
        return self.origin(self.spec.weights)

    def load(self) -> None:
        self._grammar_json = report_grammar()
        grammar = Grammar.parse(Fields(self._grammar_json, _GRAMMAR))
        self._tokenizer = report_tokenizer()
        self._language = grammar.language(STANDARD_VIEWS)
        longest = 1 + self._language.automaton(self._encode).longest
        if longest > self.spec.max_tokens:
            raise ExportError(
                f"report: the longest report has {longest} tokens, "
                f"'max_tokens' is {self.spec.max_tokens}"
            )
        self._module = ReportModel(self._config()).eval()
        self.fill(self._module, self.spec.weights)

    def _config(self) -> ReportConfig:
        _, channels, rows, columns = self._map_shape
        return ReportConfig(
            channels=channels,
            rows=rows,
            columns=columns,
            dim=self.spec.dim,
            heads=self.spec.heads,
            fusion_layers=self.spec.fusion_layers,
            decoder_layers=self.spec.decoder_layers,
            vocabulary=self._tokenizer.get_vocab_size(),
            max_tokens=self.spec.max_tokens,
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def convert(self, folder: Path, *, half_weights: bool) -> None:
        self._half_weights = half_weights
        self._graphs = {
            _FUSION: fusion_graph(self._module),
            _DECODER: decoder_graph(self._module),
        }
        for name, graph in self._graphs.items():
            ov.save_model(graph, str(folder / name), compress_to_fp16=half_weights)
        text = json.dumps(self._grammar_json, indent=1) + "\n"
        (folder / _GRAMMAR).write_text(text, encoding="utf-8")
        self._tokenizer.save(str(folder / _TOKENIZER))

    def check(self, folder: Path, tolerance: float) -> None:
        """Fuse four example views, then decode a sample report with given tokens."""
        maps = [self._features[view]["map"] for view in STANDARD_VIEWS]
        tokens = self._sample_tokens()
        expected = self._torch_answers(maps, tokens)
        converted = _answers(self._graphs[_FUSION], self._graphs[_DECODER], maps, tokens)
        self.differences = dict(compare(expected, converted))
        gate(self.name, self.differences, tolerance)
        if self._half_weights:
            files = (str(folder / _FUSION), str(folder / _DECODER))
            stored = _answers(*files, maps, tokens)
            self.differences |= stored_differences(compare(converted, stored))
        self.census = {
            name: check_census(self.name, graph, self._expected_operations()[name])
            for name, graph in self._graphs.items()
        }
        del self._graphs, self._module

    def _sample_tokens(self) -> list[int]:
        """A report, cut into tokens as a whole: any tokens serve to compare two decoders."""
        text = sample_report(self._language, random.Random(0))  # noqa: S311
        return [self._tokenizer.token_to_id(BOS), *self._encode(text)][: self.spec.max_tokens]

    def _torch_answers(self, maps: Sequence[Any], tokens: Sequence[int]) -> Arrays:
        with torch.no_grad():
            memory = self._module.memory(
                [torch.from_numpy(one) for one in maps], torch.ones(1, len(STANDARD_VIEWS))
            )
            logits = _torch_logits(self._module, memory, tokens)
        pairs = zip(memory.keys, memory.values, strict=True)
        flat = (memory.mask, *(tensor for pair in pairs for tensor in pair))
        named = dict(zip(memory_names(self.spec.decoder_layers), flat, strict=True))
        return as_numpy({**named, "logits": logits})

    def _expected_operations(self) -> dict[str, dict[str, int]]:
        layers = self.spec.decoder_layers
        states = 2 * layers
        return {
            _FUSION: {"TiledAttention": self.spec.fusion_layers},
            _DECODER: {"TiledAttention": 2 * layers, "ReadValue": states, "Assign": states},
        }


def _torch_logits(model: ReportModel, memory: Memory, tokens: Sequence[int]) -> torch.Tensor:
    """Logits ``[tokens, vocabulary]`` after each of the given tokens."""
    cache, rows = model.empty_cache(), []
    for position, token in enumerate(tokens):
        step = model.step(torch.tensor([[token]]), torch.tensor([[position]]), memory, cache)
        cache = list(zip(step.keys, step.values, strict=True))
        rows.append(step.logits)
    return torch.cat(rows)


def _answers(fusion: Any, decoder: Any, maps: Sequence[Any], tokens: Sequence[int]) -> Arrays:
    inputs = {map_input(view): one for view, one in zip(STANDARD_VIEWS, maps, strict=True)}
    inputs["present"] = np.ones((1, len(STANDARD_VIEWS)), np.float32)
    memory = run_graph(fusion, inputs)
    return {**memory, "logits": decode_logits(decoder, memory, tokens)}


def decode_logits(decoder: Any, memory: Arrays, tokens: Sequence[int]) -> Any:
    """Logits float32 ``[tokens, vocabulary]`` of the decoding graph after each given token."""
    request = compile_graph(decoder).create_infer_request()
    rows = []
    for position, token in enumerate(tokens):
        step = {"token": np.array([[token]]), "position": np.array([[position]])}
        request.infer({**memory, **step})
        rows.append(np.array(request.get_tensor("logits").data))
    return np.concatenate(rows)

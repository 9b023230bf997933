"""Free text against a study: how well every view fits a text, and where in the view it does.

Needs a bundle that carries its text encoder. What comes out are cosine similarities of the shared
space of images and texts: a ranking, not probabilities. They serve to compare views of one study
with each other, or texts, and are never a finding by themselves.

A text may hold what identifies a patient. It stands in the result, which is the caller's, and
nowhere else: errors and progress name a text by its number.

Source: Radford et al., arXiv 2103.00020; facts 4.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from .bundle import Bundle, TextSpec
from .contract import check_any_size, graph_contracts
from .dicom import FileDecision
from .errors import BundleError, MammoFMError, UsageError
from .geometry import ViewGeometry
from .graphs import Graph, GraphStore, Tensors
from .prepare import PreparedView
from .progress import StageReporter
from .results import NOT_IN_JSON, Box, ModelInfo, SoftwareInfo, ViewInfo, record
from .tokenizer import Tokenizer
from .views import Laterality, ViewName, laterality

__all__ = [
    "ASK_NOTICES",
    "ASK_SCHEMA_VERSION",
    "AgreementPeak",
    "AskResult",
    "Asker",
    "Query",
    "TextAnswer",
    "ViewAgreement",
    "ask_schema",
    "interpret_ask",
]

ASK_SCHEMA_VERSION: Final = "1.1"  # 1.1: software.attention, software.kernels
ASK_NOTICES: Final = (
    "Similarities are cosines: a ranking, not probabilities. Compare views of this study, or "
    "texts, with each other; no value is a finding by itself.",
)
_MOST_TEXTS: Final = 32
_LONGEST_TEXT: Final = 16_384  # characters; far above what 8192 tokens of words have, never slow
_COSINE_SLACK: Final = 1e-3  # rounding, and weights kept in half precision

Floats = npt.NDArray[np.float32]


# -------------------- results


@dataclass(frozen=True)
class AgreementPeak:
    """The cell of the map that agrees most, however little: its box in original pixels."""

    box_px: Box
    agreement: float


@dataclass(frozen=True)
class ViewAgreement:
    """One text and one view.

    `agreement` is float32 [rows, columns] over the whole prepared view. Of kind ``exact`` its mean
    is `similarity`; of kind ``cells`` every cell is a cosine of its own.
    """

    similarity: float
    peak: AgreementPeak
    agreement: Floats = field(metadata=NOT_IN_JSON, compare=False, repr=False)


@dataclass(frozen=True)
class TextAnswer:
    """One text, as it was given, and its number of tokens; breasts and study are the best view."""

    text: str = field(repr=False)
    tokens: int
    views: Mapping[ViewName, ViewAgreement]
    breasts: Mapping[Laterality, float]
    study: float


@dataclass(frozen=True)
class AskResult:
    """Everything that `Model.ask` found, and everything needed to trace it."""

    schema_version: str
    study_instance_uid: str
    notices: tuple[str, ...]
    model: ModelInfo
    software: SoftwareInfo
    files: tuple[FileDecision, ...]
    views: tuple[ViewInfo, ...]
    missing_views: tuple[ViewName, ...]
    text_encoder: str
    agreement_kind: Literal["exact", "cells"]
    texts: tuple[TextAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON types, valid against `ask_schema`; without the maps."""
        return record(self)

    def to_json_text(self) -> str:
        """`to_json` as text, as `StudyResult.to_json_text` writes it."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@cache
def ask_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `AskResult.to_json`."""
    path = Path(__file__).parent / "schema" / "ask-1.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


# -------------------- texts


@dataclass(frozen=True)
class Query:
    """A text that can be asked: its tokens with those that mark begin and end."""

    text: str = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)


def _check_text(number: int, text: str) -> None:
    if not text.strip():
        raise UsageError(f"text {number} is empty; give words to look for")
    if not text.isprintable():
        raise UsageError(
            f"text {number} holds a control character or one that is not shown; give one line of "
            "plain words"
        )
    if len(text) > _LONGEST_TEXT:
        raise UsageError(f"text {number} has more than {_LONGEST_TEXT} characters; give a shorter")


def _read_query(spec: TextSpec, tokenizer: Tokenizer, number: int, text: str) -> Query:
    _check_text(number, text)
    tokens = tuple(tokenizer.encode_whole(text))
    if not tokens or min(tokens) < 0 or max(tokens) >= spec.vocabulary:
        raise BundleError(
            f"{spec.tokenizer}: its tokens do not fit the text encoder; export the bundle anew"
        )
    if len(tokens) > spec.max_length:
        raise UsageError(
            f"text {number} has {len(tokens)} tokens, the text encoder reads {spec.max_length} and "
            "would not see its end; give a shorter text"
        )
    if tokenizer.unknown in tokens:
        raise UsageError(
            f"text {number} holds a word or sign that the text encoder does not know; put it in "
            "other words"
        )
    return Query(text, tokens)


# -------------------- the graphs


class Asker:
    """The text encoder of one bundle and what compares it with views; compiled when first needed.

    Raises
    ------
    BundleError
        The bundle carries no text encoder, or its tokenizer or graphs do not fit it.
    """

    def __init__(self, bundle: Bundle, graphs: GraphStore) -> None:
        if bundle.text is None:
            raise BundleError(
                f"the bundle {bundle.name!r} carries no text encoder; export it anew from a recipe "
                "with 'carry = true' in its [text] table"
            )
        self.spec: Final = bundle.text
        self._encoder = bundle.encoders[self.spec.encoder]
        self._graphs = graphs
        contracts = graph_contracts(bundle)
        graphs.check(self._encoder.model)
        for name in (self.spec.model, self.spec.match):
            check_any_size(name, graphs.model(name), contracts[name])
        self._tokenizer = Tokenizer.open(bundle.file(self.spec.tokenizer))

    @property
    def files(self) -> set[str]:
        """The graphs that answers come from."""
        return {self._encoder.model, self.spec.model, self.spec.match}

    def read(self, texts: Sequence[str]) -> tuple[Query, ...]:
        """Check and tokenize texts.

        Raises
        ------
        UsageError
            There is none, or too many; or one is empty, too long, or holds what the text encoder
            cannot read. The text itself is not in the message.
        """
        several = not isinstance(texts, str) and all(isinstance(text, str) for text in texts)
        if not several or not 1 <= len(texts) <= _MOST_TEXTS:
            raise UsageError(f"ask takes a list of 1 to {_MOST_TEXTS} texts")
        return tuple(
            _read_query(self.spec, self._tokenizer, number, text)
            for number, text in enumerate(texts, 1)
        )

    def answer(
        self,
        queries: Sequence[Query],
        views: Mapping[ViewName, PreparedView],
        reporter: StageReporter,
    ) -> tuple[TextAnswer, ...]:
        """Compare every text with every view."""
        embedding = self._embed(queries, reporter)
        encoder = self._graphs.graph(self._encoder.model, reporter)
        match = self._graphs.graph(self.spec.match, reporter)
        outputs: dict[ViewName, Tensors] = {}
        for view, prepared in views.items():
            with reporter.stage("encode", f"{self._encoder.name} {view}"):
                found = encoder.run({"image": prepared.image[None, None]})
            inputs = {"pooled": found["pooled"], "map": found["map"], "embedding": embedding}
            with reporter.stage("ask", view):
                outputs[view] = _run(self.spec.match, match, inputs)
        geometries = {view: prepared.geometry for view, prepared in views.items()}
        return interpret_ask(self.spec, queries, outputs, geometries)

    def _embed(self, queries: Sequence[Query], reporter: StageReporter) -> Floats:
        """Embeddings float32 [texts, size]; each text by itself, so that nothing is padded."""
        graph = self._graphs.graph(self.spec.model, reporter)
        rows = []
        for number, query in enumerate(queries, 1):
            ids = np.array([query.tokens], np.int64)
            with reporter.stage("text", f"{number} of {len(queries)}"):
                inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                rows.append(_run(self.spec.model, graph, inputs)["embedding"])
        embedding: Floats = np.concatenate(rows)
        length = np.linalg.norm(embedding, axis=1)
        if embedding.shape[0] != len(queries) or np.abs(length - 1).max() > _COSINE_SLACK:
            raise BundleError(
                f"{self.spec.model}: its embeddings are not of length 1; export the bundle anew"
            )
        return embedding


def _run(name: str, graph: Graph, inputs: Tensors) -> Tensors:
    """Sizes are free, so a graph that passes its contract may still fail on some of them."""
    with _running(name):
        return graph.run(inputs)


@contextmanager
def _running(name: str) -> Iterator[None]:
    try:
        yield
    except (MammoFMError, MemoryError):
        raise
    except Exception as error:
        raise BundleError(f"{name}: cannot be run on this text; export the bundle anew") from error


# -------------------- names for what came out


def interpret_ask(
    spec: TextSpec,
    queries: Sequence[Query],
    outputs: Mapping[ViewName, Mapping[str, npt.NDArray[Any]]],
    geometries: Mapping[ViewName, ViewGeometry],
) -> tuple[TextAnswer, ...]:
    """Name the outputs of the graph that compares.

    Parameters
    ----------
    queries
        The texts, in order.
    outputs
        Per view ``similarity`` float32 [texts] and ``agreement`` float32 [texts, rows, columns].
    geometries
        Of the same views.

    Raises
    ------
    BundleError
        The graph answers for another number of texts, or with values that are no cosines.
    """
    for found in outputs.values():
        _check(spec, len(queries), found)
    return tuple(
        _text_answer(
            query,
            {
                view: _agreement(
                    found["similarity"][index], found["agreement"][index], geometries[view]
                )
                for view, found in outputs.items()
            },
        )
        for index, query in enumerate(queries)
    )


def _check(spec: TextSpec, texts: int, found: Mapping[str, npt.NDArray[Any]]) -> None:
    similarity, agreement = found["similarity"], found["agreement"]
    if similarity.shape != (texts,) or agreement.shape[:1] != (texts,) or agreement.size == 0:
        raise BundleError(f"{spec.match}: its answers are not for {texts} texts")
    cosines = [similarity] if spec.agreement == "exact" else [similarity, agreement]
    if any(np.abs(values).max() > 1 + _COSINE_SLACK for values in cosines):
        raise BundleError(f"{spec.match}: answers a similarity beyond 1; export the bundle anew")


def _agreement(similarity: Any, values: Floats, geometry: ViewGeometry) -> ViewAgreement:
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    cell_x = geometry.model_width / values.shape[1]
    cell_y = geometry.model_height / values.shape[0]
    cell = np.array([[column, row, column + 1, row + 1]]) * (cell_x, cell_y, cell_x, cell_y)
    x1, y1, x2, y2 = (round(float(edge), 1) for edge in geometry.box_to_original(cell)[0])
    peak = AgreementPeak((x1, y1, x2, y2), float(values[row, column]))
    return ViewAgreement(float(similarity), peak, values)


def _text_answer(query: Query, views: Mapping[ViewName, ViewAgreement]) -> TextAnswer:
    breasts: dict[Laterality, float] = {}
    for view, found in views.items():
        side = laterality(view)
        breasts[side] = max(breasts.get(side, -np.inf), found.similarity)
    return TextAnswer(
        text=query.text,
        tokens=len(query.tokens),
        views=MappingProxyType(dict(views)),
        breasts=MappingProxyType(breasts),
        study=max(breasts.values()),
    )

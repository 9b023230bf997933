"""Features of a frozen encoder on disk, and the stages that train the light heads on them."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.errors import ExportError
from mammofm_lite.export.report_text import BOS
from mammofm_lite.grammar import TokenAutomaton
from mammofm_lite.phantom import PhantomTruth
from mammofm_lite.views import STANDARD_VIEWS, Laterality, ViewName, laterality

from .batches import whole_views
from .data import Study
from .network import DemoNetwork, Prognoses, ReportWords, logit_of_rare, write_logits
from .report_truth import report_pieces, wanted_report
from .stages import risks

__all__ = [
    "REPORT_RATES",
    "FeatureSet",
    "FrozenEncoder",
    "ReportLosses",
    "RiskLosses",
    "TorchEncoder",
    "Writing",
    "make_features",
    "start_report",
]

Halves = npt.NDArray[np.float16]

_CHUNK: Final = 20
_LARGEST_HALF: Final = 6e4
_VIEW_SETS: Final = ((0, 1, 2), (0, 2, 3), (0, 1), (2, 3), (0, 2), (1, 3), (1,), (2,))


REPORT_RATES: Final[Mapping[str, float]] = MappingProxyType(
    {"report": 1e-3, "report.projection": 1e-4}
)
"""Learning rates of the report head. Tokens keep what their cells say: free to take more from the
features, they took what tells one phantom from another, and the decoder knew them by heart."""


@dataclass(frozen=True)
class FeatureSet:
    """What the encoder gives for some studies.

    Attributes
    ----------
    maps
        Per chunk float16 [studies, 4, channels, rows, columns].
    roots
        Per chunk float16 [studies, 2, channels, windows]: the pooled differences of the prognosis.
    truths
        Of all studies.
    """

    maps: Sequence[Halves]
    roots: Sequence[Halves]
    truths: Sequence[PhantomTruth]

    def map(self, index: int, view: int) -> Halves:
        """One view's map."""
        one: Halves = self.maps[index // _CHUNK][index % _CHUNK, view]
        return one

    def squares(self, indices: Sequence[int]) -> Tensor:
        """Squared pooled differences ``[n, 2, channels, windows]``."""
        rows = [self.roots[i // _CHUNK][i % _CHUNK] for i in indices]
        return torch.from_numpy(np.stack(rows).astype(np.float32)) ** 2


class FrozenEncoder(Protocol):
    """An encoder that stays as it is."""

    def fingerprint(self) -> str:
        """Another one for other weights."""

    def __call__(self, studies: Sequence[Study]) -> Tensor:
        """Maps ``[studies, 4, channels, rows, columns]``."""


@dataclass(frozen=True)
class TorchEncoder:
    """That of a network, in torch."""

    network: DemoNetwork
    device: torch.device

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in (self.network.encoder, self.network.rounding):
            for tensor in part.state_dict().values():
                digest.update(tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def __call__(self, studies: Sequence[Study]) -> Tensor:
        self.network.eval()
        together = 1 if self.device.type == "cpu" else _CHUNK
        found = []
        for start in range(0, len(studies), together):
            pictures = whole_views(studies[start : start + together], self.network.kinds, None)
            maps = self.network.features(pictures.grey(self.device)).map
            found.append(maps.unflatten(0, (-1, len(STANDARD_VIEWS))))
        return torch.cat(found)


def make_features(
    folder: Path,
    encoder: FrozenEncoder,
    prognosis: Prognoses,
    studies: Sequence[Study],
    tell: Callable[[int, int], None],
) -> FeatureSet:
    """Encode what is missing of some studies. A folder of another encoder's features is removed.

    `prognosis` says how differences of maps are pooled, for which it needs no weights.
    """
    name = encoder.fingerprint()
    for old in folder.glob("*"):
        if old.name != name:
            shutil.rmtree(old)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    maps, roots = [], []
    for start in range(0, len(studies), _CHUNK):
        stop = min(start + _CHUNK, len(studies))
        paths = [target / f"{kind}-{start:06d}-{stop:06d}.npy" for kind in ("maps", "roots")]
        if not all(path.exists() for path in paths):
            found = encoder([studies[index] for index in range(start, stop)])
            squares = prognosis.study_squares(found.flatten(0, 1))
            for path, values in zip(paths, (found, torch.sqrt(squares)), strict=True):
                _save(path, _half(values))
        tell(stop, len(studies))
        maps.append(np.load(paths[0], mmap_mode="r"))
        roots.append(np.load(paths[1], mmap_mode="r"))
    truths = [studies[index].truth for index in range(len(studies))]
    return FeatureSet(maps, roots, truths)


@torch.no_grad()
def _half(values: Tensor) -> Halves:
    limited = values.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return np.asarray(limited.half().cpu().numpy())


def _save(path: Path, values: Halves) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        np.save(file, values)
    temporary.replace(path)


# -------------------- prognosis


@dataclass(frozen=True)
class RiskLosses:
    """The asymmetry heads alone, which see a study in a thousandth of the encoder's time."""

    network: DemoNetwork
    features: FeatureSet
    count: int
    device: torch.device

    def draw(self, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = random.integers(len(self.features.truths), size=self.count).tolist()
        return self.features.squares(chosen), risks([self.features.truths[i] for i in chosen])

    def __call__(self, drawn: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        squares, wanted = (one.to(self.device) for one in drawn)
        logits = self.network.prognosis.logits(squares)
        return {"risk": functional.binary_cross_entropy_with_logits(logits, wanted)}


# -------------------- report


_EVIDENCE: Final = 0.5
_PLACE: Final = 1.5
_WAVES: Final = 2


@torch.no_grad()
def start_report(network: DemoNetwork) -> None:
    """Let visual tokens begin with what is known: what its cell was taught to say, and its place.

    The first numbers of a token are the answers of its cell, so that the decoder learns to read
    findings; that they are there the encoder knows already. The last are where the cell lies, as
    ramps and waves along rows and columns, and whose breast it shows in which projection: of random
    numbers for every row, as embeddings begin otherwise, a quadrant was not learned in ten minutes
    (the right one of four in a quarter of the findings).
    """
    report, cells = network.report, network.dense_map
    projection = report.projection
    assert cells.bias is not None
    count = len(cells.bias)
    projection.weight[:count] = _EVIDENCE * cells.weight.flatten(1)
    projection.bias[:count] = _EVIDENCE * (cells.bias - logit_of_rare())
    width = 1 + 2 * _WAVES
    places = {
        report.row_embedding: _waves(report.config.rows),
        report.column_embedding: _waves(report.config.columns),
        report.side_embedding: torch.tensor([[-1.0], [1.0]]),
        report.view_embedding: torch.tensor([[-1.0], [1.0]]),
    }
    first = report.config.dim - 2 * width - 2
    if first < count:
        raise ExportError(f"a report of {report.config.dim} numbers a token has no room for places")
    projection.weight[first:] = 0
    projection.bias[first:] = 0
    place = first
    for embedding, values in places.items():
        embedding.weight[:, first:] = 0
        end = place + values.shape[1]
        embedding.weight[:, place:end] = _PLACE * values.to(embedding.weight)
        place = end


def _waves(count: int) -> Tensor:
    """A ramp from -1 to 1 and waves of it: ``[count, 1 + 2 * _WAVES]``."""
    ramp = torch.linspace(-1, 1, count)[:, None]
    angles = [np.pi * (wave + 1) * ramp for wave in range(_WAVES)]
    return torch.cat([ramp, *(f(a) for a in angles for f in (torch.sin, torch.cos))], dim=1)


class Writing:
    """What a decoder that follows the grammar may write, and where it has a choice."""

    def __init__(self, words: ReportWords) -> None:
        self._words = words
        self.begin: int = words.tokenizer.token_to_id(BOS)
        self.vocabulary: int = words.tokenizer.get_vocab_size()
        self.automaton = lru_cache(maxsize=16)(self._automaton)
        self._language = lru_cache(maxsize=16)(words.grammar.language)

    def _automaton(self, views: tuple[ViewName, ...]) -> TokenAutomaton:
        return self._language(views).automaton(self._words.encode)

    def tokens(self, truth: PhantomTruth, views: tuple[ViewName, ...]) -> list[int]:
        """The report of a study on some views, without the begin token."""
        pieces = report_pieces(wanted_report(truth, views), self._language(views))
        return [token for piece in pieces for token in self._words.encode(piece)]

    def choices(
        self, tokens: Sequence[int], views: tuple[ViewName, ...]
    ) -> list[tuple[int, tuple[int, ...]]]:
        """Positions at which more than one token may come, and those tokens."""
        automaton, found = self.automaton(views), []
        states = automaton.start
        for position, token in enumerate(tokens):
            allowed = automaton.allowed(states)
            if len(allowed) > 1:
                found.append((position, allowed))
            states = automaton.after(states, token)
        return found

    @torch.no_grad()
    def write(self, network: DemoNetwork, maps: Sequence[Tensor], views: Sequence[ViewName]) -> str:
        """The report that a network writes on one study, greedily, as the runtime decodes."""
        present = torch.tensor([[float(view in views) for view in STANDARD_VIEWS]])
        memory = network.report.memory(maps, present.to(maps[0].device))
        automaton, tokens = self.automaton(tuple(views)), [self.begin]
        states = automaton.start
        while allowed := automaton.allowed(states):
            token = allowed[0]
            if len(allowed) > 1:
                seen = torch.tensor([tokens], device=maps[0].device)
                logits = write_logits(network.report, seen, memory)[0, -1]
                token = allowed[int(logits[list(allowed)].argmax())]
            tokens.append(token)
            states = automaton.after(states, token)
        return str(self._words.tokenizer.decode(tokens[1:]))


@dataclass(frozen=True)
class ReportLosses:
    """The report decoder, taught where the grammar leaves it a choice and nowhere else.

    Breasts of two women of the same composition make a new woman, so that few studies give many
    reports; where right views are mirrored, any breast may stand on either side.
    """

    network: DemoNetwork
    features: FeatureSet
    writing: Writing
    count: int
    mirrored: bool
    device: torch.device
    dropped: float = 0.15

    def draw(self, random: np.random.Generator) -> "_Reports":
        women = [self._draw(random) for _ in range(self.count)]
        maps = tuple(
            torch.from_numpy(np.stack([woman.maps[i] for woman in women]))
            for i in range(len(STANDARD_VIEWS))
        )
        present = [[float(view in woman.views) for view in STANDARD_VIEWS] for woman in women]
        texts = [self.writing.tokens(woman.truth, woman.views) for woman in women]
        tokens = torch.full((len(texts), max(map(len, texts))), self.writing.begin)
        places, wanted, closed = [], [], []
        for row, (text, woman) in enumerate(zip(texts, women, strict=True)):
            tokens[row, 1 : len(text)] = torch.tensor(text[:-1])
            for position, allowed in self.writing.choices(text, woman.views):
                places.append((row, position))
                wanted.append(text[position])
                mask = torch.ones(self.writing.vocabulary, dtype=torch.bool)
                mask[list(allowed)] = False
                closed.append(mask)
        return _Reports(
            maps,
            torch.tensor(present),
            tokens,
            torch.tensor(places),
            torch.tensor(wanted),
            torch.stack(closed),
        )

    def __call__(self, drawn: "_Reports") -> Mapping[str, Tensor]:
        device, report = self.device, self.network.report
        maps = [one.to(device).float() for one in drawn.maps]
        memory = report.memory(maps, drawn.present.to(device))
        logits = write_logits(report, drawn.tokens.to(device), memory)
        rows, positions = drawn.places.to(device).unbind(1)
        chosen = logits[rows, positions].masked_fill(drawn.closed.to(device), -1e9)
        return {"words": functional.cross_entropy(chosen, drawn.wanted.to(device))}

    @cached_property
    def _alike(self) -> Mapping[str, Sequence[int]]:
        """Women by composition."""
        alike: dict[str, list[int]] = {}
        for index, truth in enumerate(self.features.truths):
            alike.setdefault(truth.density, []).append(index)
        return alike

    def _draw(self, random: np.random.Generator) -> "_Woman":
        left = int(random.integers(len(self.features.truths)))
        alike = self._alike[self.features.truths[left].density]
        right = alike[int(random.integers(len(alike)))]
        sides: list[Laterality] = ["L", "R"]
        if self.mirrored:
            sides = [("L", "R")[int(i)] for i in random.integers(2, size=2)]
        views: tuple[int, ...] = (0, 1, 2, 3)
        if random.random() < self.dropped:
            views = _VIEW_SETS[int(random.integers(len(_VIEW_SETS)))]
        return _woman(self.features, ((left, sides[0]), (right, sides[1])), views)


@dataclass(frozen=True, eq=False)
class _Reports:
    """Women and their reports, as a step sees them.

    Attributes
    ----------
    maps
        Per view float16 ``[women, channels, rows, columns]``.
    present
        float32 ``[women, views]``.
    tokens
        int64 ``[women, longest]``, the begin token first.
    places
        int64 ``[choices, 2]``: woman, and position at which there is a choice.
    wanted, closed
        The token to choose there, and bool ``[choices, vocabulary]``: those that may not come.
    """

    maps: tuple[Tensor, ...]
    present: Tensor
    tokens: Tensor
    places: Tensor
    wanted: Tensor
    closed: Tensor


@dataclass(frozen=True)
class _Woman:
    """A woman made of two breasts: her maps in the order of the views, what is true of her."""

    maps: tuple[Halves, ...]
    truth: PhantomTruth
    views: tuple[ViewName, ...]


def _woman(
    features: FeatureSet,
    breasts: tuple[tuple[int, Laterality], tuple[int, Laterality]],
    views: tuple[int, ...],
) -> _Woman:
    maps, lesions = [], []
    sides: tuple[Laterality, Laterality] = ("L", "R")
    for becomes, (index, side) in zip(sides, breasts, strict=True):
        places = [i for i, view in enumerate(STANDARD_VIEWS) if laterality(view) == side]
        maps += [features.map(index, place) for place in places]
        own = [lesion for lesion in features.truths[index].lesions if lesion.laterality == side]
        lesions += [replace(lesion, laterality=becomes) for lesion in own]
    truth = replace(features.truths[breasts[0][0]], lesions=tuple(lesions))
    return _Woman(tuple(maps), truth, tuple(STANDARD_VIEWS[i] for i in views))

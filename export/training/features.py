"""Features of a frozen encoder on disk, and the stages that train the light heads on them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.export.report_text import BOS
from mammofm_lite.grammar import TokenAutomaton
from mammofm_lite.phantom import PhantomTruth
from mammofm_lite.views import STANDARD_VIEWS, Laterality, ViewName, laterality

from .data import Study
from .encoders import FrozenEncoder
from .network import DemoNetwork, Prognoses, ReportWords, write_logits
from .report_truth import report_pieces, wanted_report
from .stages import risks

__all__ = [
    "REPORT_RATES",
    "FeatureSet",
    "ReportLosses",
    "RiskLosses",
    "Writing",
    "make_features",
]

Halves = npt.NDArray[np.float16]

_CHUNK: Final = 20
_LARGEST_HALF: Final = 6e4
_MOST_MOVED: Final = 2  # rows of cells
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
    reports; where right views are mirrored, any breast may stand on either side. Every view is
    moved up or down a little: rows in the picture are no measure of a quadrant, those from the
    nipple are.
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
            torch.from_numpy(np.stack([_moved(woman.maps[i], random) for woman in women]))
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


def _moved(view: Halves, random: np.random.Generator) -> Halves:
    """A map ``[channels, rows, columns]`` some rows up or down; the edge goes on."""
    rows = np.arange(view.shape[1]) + random.integers(-_MOST_MOVED, _MOST_MOVED + 1)
    moved: Halves = view[:, rows.clip(0, view.shape[1] - 1)]
    return moved


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

"""The stage that trains the report head on features of a frozen encoder."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.export.models.report import Memory, ReportModel, Visual
from mammofm_lite.export.report_text import BOS
from mammofm_lite.grammar import TokenAutomaton
from mammofm_lite.phantom import PhantomTruth
from mammofm_lite.report import Report, read_report
from mammofm_lite.views import (
    STANDARD_VIEWS,
    Laterality,
    Projection,
    ViewName,
    laterality,
    projection,
)

from .features import Bools, Halves
from .heard import Heard
from .network import ReportWords, decoded
from .report_truth import report_pieces, wanted_report

__all__ = ["REPORT_RATES", "ReportLosses", "TaughtReport", "Writing"]

_MOST_MOVED: Final = 2  # rows of cells
_LOOKING: Final = 0.2
_QUADRANTS: Final = 0.5
_CLOCK: Final = 1.0
_OF_LESIONS: Final = 1.4
_OF_WORDING: Final = 0.1
_DROPOUT: Final = 0.1
_HALVES: Final = ("outer", "upper")  # what the CC view tells of a quadrant, and the MLO view
_VIEW_SETS: Final = ((0, 1, 2), (0, 2, 3), (0, 1), (2, 3), (0, 2), (1, 3), (1,), (2,))
_PROJECTIONS: Final[tuple[Projection, ...]] = ("CC", "MLO")
_UNSEEN: Final = -1e9

REPORT_RATES: Final[Mapping[str, float]] = MappingProxyType(
    {"report": 1e-3, "report.projection": 0.0, "halves": 1e-3, "clock": 1e-3}
)
"""Learning rates of the report head. The projection, and the norm after it, stay: see `Heard`."""


class TaughtReport(nn.Module):
    """A report head, and what its visual tokens are taught to say beside it, which is in no bundle.

    `halves` reads from a token of a lesion whether that lies in the outer and in the upper half;
    `clock` reads from what the decoder has seen, while it tells of a lesion, how far out and up
    that lies. An hour says more than a quadrant, most of all at the border of two.
    """

    def __init__(self, report: ReportModel) -> None:
        super().__init__()
        self.report = report
        self.halves = nn.Linear(report.config.dim, len(_HALVES))
        self.clock = nn.Linear(report.config.dim, len(_HALVES))
        for part in (report.fusion, report.decoder):
            for module in part.modules():
                if isinstance(module, nn.Dropout):
                    module.p = _DROPOUT


class Token(NamedTuple):
    """Of a report; `lesion` and `wording` as of its `Piece`."""

    number: int
    lesion: int | None
    wording: bool


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

    def tokens(
        self,
        truth: PhantomTruth,
        views: tuple[ViewName, ...],
        random: np.random.Generator | None = None,
    ) -> list[Token]:
        """The report of a study on some views, without the begin token; `random` words it."""
        pieces = report_pieces(wanted_report(truth, views), self._language(views), random)
        return [
            Token(number, piece.lesion, piece.wording)
            for piece in pieces
            for number in self._words.encode(piece.text)
        ]

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
    def write(self, report: ReportModel, cells: Sequence[Tensor]) -> str:
        """The report that a head writes on all views of one study, greedily, as the runtime
        decodes; `cells` as `fused` takes them."""
        memory = report.remember(fused(report, cells, cells[0].new_ones(1, len(cells))))
        written = self._words.written.language(STANDARD_VIEWS)
        automaton, tokens = written.automaton(self._words.encode), [self.begin]
        states = automaton.start
        while allowed := automaton.allowed(states):
            token = allowed[0]
            if len(allowed) > 1:
                seen = torch.tensor([tokens], device=cells[0].device)
                logits = decoded(report, seen, memory).logits[0, -1]
                token = allowed[int(logits[list(allowed)].argmax())]
            tokens.append(token)
            states = automaton.after(states, token)
        return str(self._words.tokenizer.decode(tokens[1:]))

    def read(self, text: str) -> Report:
        """What such a report says."""
        return read_report(self._words.written, self._words.written.language(STANDARD_VIEWS), text)


def fused(report: ReportModel, cells: Sequence[Tensor], present: Tensor) -> Visual:
    """Fuse views whose cells are projected: float ``[batch, dim, rows, columns]`` of each standard
    view; `present` as `ReportModel.fuse` takes it."""
    tokens = [one.float().flatten(2).transpose(1, 2) for one in cells]
    return report.fuse_cells(torch.cat(tokens, dim=1), present)


@dataclass(frozen=True)
class ReportLosses:
    """The report decoder, taught where the grammar leaves it a choice and nowhere else.

    Breasts of two women of the same composition make a new woman, so that few studies give many
    reports; where right views are mirrored, any breast may stand on either side. Every view is
    moved up or down a little: rows in the picture are no measure of a quadrant, those from the
    nipple are.

    While it tells of a lesion, two heads of every layer are taught to look at it, one per
    projection: what the words say is to come from there. And what is there is taught to know in
    which quadrant it lies, of every lesion in every report, told of or not: a report has a word or
    two for it, and of the reports in that word alone it was learned slowly.

    Words of lesions count more than others. A decoder writes what is likelier than not; but F1 of
    findings is highest where one is told from half that F1 on (arXiv 1402.1892), so from about 0.42
    on, and of 211 findings 22 were missed and 5 invented.
    """

    taught: TaughtReport
    heard: Heard
    writing: Writing
    count: int
    mirrored: bool
    device: torch.device
    dropped: float = 0.15

    def draw(self, random: np.random.Generator) -> "_Reports":
        women = [self._draw(random).moved(random) for _ in range(self.count)]
        views = tuple(
            torch.from_numpy(np.stack([woman.maps[i] for woman in women]))
            for i in range(len(STANDARD_VIEWS))
        )
        present = [[float(view in woman.views) for view in STANDARD_VIEWS] for woman in women]
        texts = [self.writing.tokens(woman.truth, woman.views, random) for woman in women]
        tokens = torch.full((len(texts), max(map(len, texts))), self.writing.begin)
        places, wanted, closed, weights, telling, lesions = [], [], [], [], [], []
        placed: list[tuple[int, _Placed]] = []
        for row, (text, woman) in enumerate(zip(texts, women, strict=True)):
            numbers = [token.number for token in text]
            tokens[row, 1 : len(text)] = torch.tensor(numbers[:-1])
            first = len(placed)
            placed += [(row, place) for place in woman.placed()]
            for position, allowed in self.writing.choices(numbers, woman.views):
                places.append((row, position))
                wanted.append(numbers[position])
                mask = torch.ones(self.writing.vocabulary, dtype=torch.bool)
                mask[list(allowed)] = False
                closed.append(mask)
                lesion = text[position].lesion
                weights.append(_weight(text[position]))
                if lesion is not None:
                    telling.append((row, position))
                    lesions.append(first + lesion)
        cells = views[0].shape[-2] * views[0].shape[-1] * len(STANDARD_VIEWS)
        return _Reports(
            views,
            torch.tensor(present),
            tokens,
            torch.tensor(places),
            torch.tensor(wanted),
            torch.stack(closed),
            torch.tensor(weights),
            torch.tensor(telling, dtype=torch.long).reshape(-1, 2),
            torch.tensor(lesions, dtype=torch.long),
            torch.tensor([row for row, _ in placed], dtype=torch.long),
            torch.from_numpy(
                np.array([place.cells for _, place in placed], np.bool_).reshape(-1, 2, cells)
            ),
            torch.tensor([place.halves for _, place in placed]).reshape(-1, len(_HALVES)),
            torch.tensor([place.away for _, place in placed]).reshape(-1, len(_HALVES)),
        )

    def __call__(self, drawn: "_Reports") -> Mapping[str, Tensor]:
        device, report = self.device, self.taught.report
        cells = [one.to(device) for one in drawn.cells]
        seen = fused(report, cells, drawn.present.to(device))
        memory = report.remember(seen)
        told = decoded(report, drawn.tokens.to(device), memory)
        rows, positions = drawn.places.to(device).unbind(1)
        chosen = told.logits[rows, positions].masked_fill(drawn.closed.to(device), _UNSEEN)
        losses = {"words": worded(chosen, drawn.wanted.to(device), drawn.weights.to(device))}
        placed = drawn.placed.to(device)
        if len(drawn.telling):
            telling, lesions = drawn.telling.to(device), drawn.lesions.to(device)
            apart = looking_elsewhere(report, memory, told.looking, telling, placed[lesions])
            losses["looking"] = _LOOKING * apart
            said = self.taught.clock(told.states[telling[:, 0], telling[:, 1]])
            shown = placed[lesions].any(dim=2)
            losses["clock"] = _CLOCK * squared_error(said, drawn.away.to(device)[lesions], shown)
        if placed.any():
            said = self.taught.halves(seen.tokens)[drawn.owners.to(device)]
            elsewhere = misplaced(said, placed, drawn.halves.to(device))
            losses["quadrants"] = _QUADRANTS * elsewhere
        return losses

    @property
    def _truths(self) -> Sequence[PhantomTruth]:
        return self.heard.features.truths

    @cached_property
    def _alike(self) -> Mapping[str, Sequence[int]]:
        """Women by composition."""
        alike: dict[str, list[int]] = {}
        for index, truth in enumerate(self._truths):
            alike.setdefault(truth.density, []).append(index)
        return alike

    def _draw(self, random: np.random.Generator) -> "_Woman":
        left = int(random.integers(len(self._truths)))
        alike = self._alike[self._truths[left].density]
        right = alike[int(random.integers(len(alike)))]
        sides: list[Laterality] = ["L", "R"]
        if self.mirrored:
            sides = [("L", "R")[int(i)] for i in random.integers(2, size=2)]
        views: tuple[int, ...] = (0, 1, 2, 3)
        if random.random() < self.dropped:
            views = _VIEW_SETS[int(random.integers(len(_VIEW_SETS)))]
        one, other = random.integers(len(self.heard.variations), size=2).tolist()
        breasts = _Breast(left, sides[0], one), _Breast(right, sides[1], other)
        return _woman(self.heard, breasts, views)


def _weight(token: Token) -> float:
    if token.wording:
        return _OF_WORDING
    return 1.0 if token.lesion is None else _OF_LESIONS


def worded(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of choices of words ``[choices]`` by their weights: the mean."""
    apart = functional.cross_entropy(logits, wanted, reduction="none")
    return (weights * apart).sum() / weights.sum()


def looking_elsewhere(
    report: ReportModel,
    memory: Memory,
    looking: Sequence[Tensor],
    telling: Tensor,
    lesions: Tensor,
) -> Tensor:
    """How little of what two heads look at are the lesions told of: the mean of its logarithm.

    The first head of every layer is to look at the cranio-caudal view, the second at the oblique.

    Parameters
    ----------
    looking
        Per layer, what its cross attention asks with: ``[women, tokens, dim]``.
    telling
        int64 ``[n, 2]``: woman, and position where something is told of a lesion.
    lesions
        bool ``[n, 2, 4 * cells]``: those of it in each projection; none where it is not shown.
    """
    women, positions = telling.unbind(1)
    shown = lesions.any(dim=2)
    losses = []
    for index, (layer, asked) in enumerate(zip(report.decoder, looking, strict=True)):
        keys = memory.keys[index][women, :2]
        width = keys.shape[-1]
        attention: Any = layer.cross_attention
        query = attention.query(asked[women, positions]).unflatten(1, (-1, width))[:, :2]
        scores = torch.einsum("nhd,nhcd->nhc", query, keys) / width**0.5
        scores = scores.masked_fill(~memory.mask[women, None], _UNSEEN)
        there = torch.logsumexp(scores.masked_fill(~lesions, _UNSEEN), dim=2)
        losses.append((torch.logsumexp(scores, dim=2) - there)[shown].sum())
    return torch.stack(losses).sum() / (len(losses) * shown.sum().clamp(min=1))


def misplaced(said: Tensor, cells: Tensor, halves: Tensor) -> Tensor:
    """How wrongly cells of lesions say in which halves of the breast these lie: the mean of the
    cross entropy over lesions and over the halves that the views tell.

    Parameters
    ----------
    said
        Logits of all cells, per lesion: ``[lesions, 4 * cells, 2]``.
    cells
        bool ``[lesions, 2, 4 * cells]``: those of it in each projection; none where it is not
        shown, which leaves the half open that this projection tells. Some lesion is shown.
    halves
        float32 ``[lesions, 2]``: 1 for outer, and for upper.
    """
    own = cells.any(dim=1).float()
    wrong = functional.binary_cross_entropy_with_logits(
        said, halves[:, None].expand_as(said), reduction="none"
    )
    shares = own / own.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("nc,nch->nh", shares, wrong)[cells.any(dim=2)].mean()


def squared_error(said: Tensor, away: Tensor, shown: Tensor) -> Tensor:
    """Mean squared error of what is said ``[n, 2]``, as far as it is shown: bool, the same."""
    return ((said - away).square() * shown).sum() / shown.sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class _Reports:
    """Women and their reports, as a step sees them.

    Attributes
    ----------
    cells
        Per view float16 ``[women, dim, rows, columns]``.
    present
        float32 ``[women, views]``.
    tokens
        int64 ``[women, longest]``, the begin token first.
    places
        int64 ``[choices, 2]``: woman, and position at which there is a choice.
    wanted, closed
        The token to choose there, and bool ``[choices, vocabulary]``: those that may not come.
    weights
        Of those choices in the loss, float32 ``[choices]``.
    telling, lesions
        Those places that tell of a lesion, int64 ``[n, 2]``, and which one that is, int64 ``[n]``.
    owners, placed, halves, away
        Of every lesion there is: whose it is, int64 ``[lesions]``, and its `_Placed`: bool
        ``[lesions, 2, 4 * cells]`` and float32 ``[lesions, 2]``.
    """

    cells: tuple[Tensor, ...]
    present: Tensor
    tokens: Tensor
    places: Tensor
    wanted: Tensor
    closed: Tensor
    weights: Tensor
    telling: Tensor
    lesions: Tensor
    owners: Tensor
    placed: Tensor
    halves: Tensor
    away: Tensor


class _Placed(NamedTuple):
    """Where a lesion lies.

    Attributes
    ----------
    cells
        As of `_Woman.seen`.
    halves
        1 for outer, and for upper, or else 0.
    away
        How far outwards and upwards its hour lies on the clock face, from -1 to 1.
    """

    cells: Bools
    halves: tuple[float, float]
    away: tuple[float, float]


@dataclass(frozen=True)
class _Woman:
    """A woman made of two breasts.

    Attributes
    ----------
    maps
        Of the standard views, cells as projected: ``[dim, rows, columns]``.
    truth
        What is true of her.
    views
        Those that are at hand.
    lesions
        Of each lesion of the truth the cells that it reaches into: bool ``[views, rows, columns]``.
    """

    maps: tuple[Halves, ...]
    truth: PhantomTruth
    views: tuple[ViewName, ...]
    lesions: tuple[Bools, ...]

    def seen(self, lesion: int) -> Bools:
        """Where a lesion is seen in the views at hand, per projection:
        bool ``[2, views * rows * columns]``."""
        apart = [
            [cells & (view in self.views and projection(view) == shown)
             for view, cells in zip(STANDARD_VIEWS, self.lesions[lesion], strict=True)]
            for shown in _PROJECTIONS
        ]  # fmt: skip
        return np.array(apart).reshape(len(_PROJECTIONS), -1)

    def placed(self) -> Iterator["_Placed"]:
        """Where every lesion is seen, and where it lies."""
        for index, lesion in enumerate(self.truth.lesions):
            vertical, across = lesion.quadrant.split()
            outer, upper = float(across == "outer"), float(vertical == "upper")
            angle = 2 * math.pi * lesion.clock / 12
            out, up = abs(math.sin(angle)), abs(math.cos(angle))
            away = (out if outer else -out, up if upper else -up)
            yield _Placed(self.seen(index), (outer, upper), away)

    def moved(self, random: np.random.Generator) -> "_Woman":
        """The same, every view some rows up or down; its edge goes on."""
        count = self.maps[0].shape[1]
        steps = random.integers(-_MOST_MOVED, _MOST_MOVED + 1, size=len(self.maps))
        rows = [(np.arange(count) + step).clip(0, count - 1) for step in steps]
        maps = tuple(view[:, own] for view, own in zip(self.maps, rows, strict=True))
        lesions = tuple(
            np.stack([cells[own] for cells, own in zip(lesion, rows, strict=True)])
            for lesion in self.lesions
        )
        return replace(self, maps=maps, lesions=lesions)


class _Breast(NamedTuple):
    """Which study it is taken from, on which side it stands there, and the pictures' variation."""

    study: int
    side: Laterality
    variation: int = 0


def _woman(heard: Heard, breasts: tuple[_Breast, _Breast], views: tuple[int, ...]) -> _Woman:
    features, maps, lesions, cells = heard.features, [], [], []
    sides: tuple[Laterality, Laterality] = ("L", "R")
    for becomes, (index, side, variation) in zip(sides, breasts, strict=True):
        places, her = _views_of(side), _views_of(becomes)
        maps += [heard.view(index, place, variation) for place in places]
        for number, lesion in enumerate(features.truths[index].lesions):
            if lesion.laterality == side:
                lesions.append(replace(lesion, laterality=becomes))
                own = np.zeros((len(STANDARD_VIEWS), *maps[0].shape[1:]), np.bool_)
                own[her] = [features.cells(index, place, number) for place in places]
                cells.append(own)
    truth = replace(features.truths[breasts[0].study], lesions=tuple(lesions))
    return _Woman(tuple(maps), truth, tuple(STANDARD_VIEWS[i] for i in views), tuple(cells))


def _views_of(side: Laterality) -> list[int]:
    return [i for i, view in enumerate(STANDARD_VIEWS) if laterality(view) == side]

"""What the report head is given before it learns: answers of cells, places, and the nipple's row.

A report says quadrants, which are counted from the nipple, while a cell knows where it lies in the
picture alone. Of 1855 lesions of phantoms a small network told 0.83 of the quadrants from the cells
in both views, and 0.91 with the nipple's row in them; the report head, which had to find out that
row for itself, was at 0.84.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.report import ReportModel
from mammofm_lite.views import STANDARD_VIEWS

from .data import Study
from .features import FeatureSet
from .network import DENSE_CLASSES, DemoNetwork, logit_of_rare
from .nipple import nipple_row
from .report_norms import balance, steady

__all__ = ["NippleViews", "renew_report", "start_report"]

_NIPPLE: Final = DENSE_CLASSES.index("nipple")  # of the classes the last
_EVIDENCE: Final = 0.5
_PLACE: Final = 1.5
_WAVES: Final = 2
_RELATIVE: Final = 4.0  # a cell must tell on which side of the nipple it lies by half of one

_SPREAD: Final = 0.6  # of the wanted answer, in cells: a nipple between two has a share of both
_STEPS: Final = 800
_TOGETHER: Final = 32
_RATE: Final = 0.03
_LESIONS: Final = 0.005  # share of the cells of all views that a lesion is in, or less
_OTHER_VIEWS: Final = 12.0  # logits below which cells of other views are not looked at


@dataclass(frozen=True)
class NippleViews:
    """Views whose nipple is known.

    Attributes
    ----------
    maps
        float32 ``[views, channels, rows, columns]``.
    rows
        float32 ``[views]``: where the nipple lies, in rows of cells from the middle of the first.
    """

    maps: Tensor
    rows: Tensor

    @classmethod
    def of(cls, features: FeatureSet, studies: Sequence[Study]) -> "NippleViews":
        """All views of some studies."""
        maps, rows = [], []
        for index, study in enumerate(studies):
            for place, view in enumerate(STANDARD_VIEWS):
                image, one = study.views[view].image, features.map(index, place)
                maps.append(torch.from_numpy(one.astype(np.float32)))
                rows.append(nipple_row(image) / image.shape[0] * one.shape[1] - 0.5)
        return cls(torch.stack(maps), torch.tensor(rows))

    def to(self, device: torch.device) -> "NippleViews":
        """The same there."""
        return NippleViews(self.maps.to(device), self.rows.to(device))

    def wanted(self) -> Tensor:
        """Shares ``[views, cells]`` in a blurred nipple, which lies in the last column."""
        count, _, rows, columns = self.maps.shape
        apart = torch.arange(rows, device=self.rows.device) - self.rows[:, None]
        shares = self.maps.new_zeros(count, rows, columns)
        shares[..., -1] = torch.softmax(-((apart / _SPREAD) ** 2) / 2, dim=1)
        return shares.flatten(1)


def start_report(network: DemoNetwork, views: NippleViews) -> None:
    """Let visual tokens begin with what is known.

    The first numbers of a token are the answers of its cell, so that the decoder learns to read
    findings; that they are there the encoder knows already. The last are where the cell lies, as
    ramps and waves along rows and columns, and whose breast it shows in which projection: of random
    numbers for every row, as embeddings begin otherwise, a quadrant was not learned in ten minutes
    (the right one of four in a quarter of the findings). Between them stands the cell's row counted
    from the nipple, and what `report_norms` needs.
    """
    report = network.report
    layout = _layout(network)
    if layout.free.start >= layout.free.stop:
        raise ExportError(f"a report of {report.config.dim} numbers a token has no room for places")
    with torch.no_grad():
        _start_places(report, layout)
    renew_report(network, views)


@dataclass(frozen=True)
class _Layout:
    """Which numbers of a token say what: `evidence` comes first, so many."""

    evidence: int
    places: int

    @property
    def relative(self) -> int:
        return self.evidence

    @property
    def pair(self) -> slice:
        """Two that are large and say nothing, see `steady`."""
        return slice(self.relative + 1, self.relative + 3)

    @property
    def free(self) -> slice:
        """Those that learn what to say."""
        return slice(self.relative + 3, self.places)

    @property
    def column(self) -> int:
        return self.places + 1 + 2 * _WAVES

    @property
    def side(self) -> int:
        return self.column + 1 + 2 * _WAVES

    @property
    def projection(self) -> int:
        return self.side + 1


def _layout(network: DemoNetwork) -> _Layout:
    width = 1 + 2 * _WAVES
    return _Layout(len(network.dense_map.weight), network.report.config.dim - 2 * width - 2)


def renew_report(network: DemoNetwork, views: NippleViews) -> None:
    """Let visual tokens say what `start_report` has them say, as the encoder is now.

    What a bundle's report reads off them stays. With the weights that it had for another encoder's
    channels the nipple strayed by 2.1 cells (standard deviation of the row, 240 views of phantoms),
    more than if it were always in the same row (1.4).
    """
    views = views.to(network.report.projection.weight.device)
    _renew_evidence(network, views.maps)
    _look_for_nipple(network.report, _layout(network), views)


@torch.no_grad()
def _renew_evidence(network: DemoNetwork, maps: Tensor) -> None:
    """Let the first numbers of a visual token be what its cell says as the encoder is now, and let
    the ramps that say where a cell lies say where in it the middle of its lesion lies."""
    projection, cells = network.report.projection, network.dense_map
    assert cells.bias is not None
    count = len(cells.bias)
    projection.weight[:count] = _EVIDENCE * cells.weight.flatten(1)
    projection.bias[:count] = _EVIDENCE * (cells.bias - logit_of_rare())
    layout = _layout(network)
    balance(projection, layout.free)
    steady(network.report, layout.pair, maps, lambda seen: _lesions(network, seen))
    _move_within_cells(network, maps)
    balance(projection, layout.free)


def _lesions(network: DemoNetwork, maps: Tensor) -> Tensor:
    """The cells that say most of a lesion: bool ``[views, rows, columns]``."""
    says = network.dense_map(maps)[:, :_NIPPLE].amax(dim=1)
    return says >= says.quantile(1 - _LESIONS)


def _move_within_cells(network: DemoNetwork, maps: Tensor) -> None:
    """A token's numbers are divided by their spread before its place is added to them: what the
    cells of lesions say of their offsets is multiplied by the spread that such cells have."""
    report, layout, offsets = network.report, _layout(network), network.dense_offsets
    assert offsets.bias is not None
    config, norm = report.config, report.projection_norm.weight
    tokens = report.projection(maps.flatten(2).transpose(1, 2)).flatten(0, 1)
    spread = tokens[_lesions(network, maps).flatten()].std(dim=1).mean()
    ramps = (
        (layout.column, 0, _PLACE, config.columns),
        (layout.places, 1, _PLACE, config.rows),
        (layout.relative, 1, _RELATIVE, config.rows),
    )
    for place, axis, steep, count in ramps:
        scale = spread / norm[place] * steep * 2 / (count - 1)
        report.projection.weight[place] = scale * offsets.weight[axis].flatten()
        report.projection.bias[place] = scale * offsets.bias[axis]


def _start_places(report: ReportModel, layout: _Layout) -> None:
    own = [layout.relative, *range(layout.places, report.config.dim)]
    report.projection.weight[own] = 0
    report.projection.bias[own] = 0
    places = {
        report.row_embedding: (layout.places, _waves(report.config.rows)),
        report.column_embedding: (layout.column, _waves(report.config.columns)),
        report.side_embedding: (layout.side, torch.tensor([[-1.0], [1.0]])),
        report.view_embedding: (layout.projection, torch.tensor([[-1.0], [1.0]])),
    }
    for embedding, (start, values) in places.items():
        embedding.weight[:, own] = 0
        embedding.weight[:, start : start + values.shape[1]] = _PLACE * values.to(embedding.weight)
    report.row_embedding.weight[:, layout.relative] = _RELATIVE * _ramp(report.config.rows)


def _ramp(count: int) -> Tensor:
    return torch.linspace(-1, 1, count)


def _waves(count: int) -> Tensor:
    """A ramp from -1 to 1 and waves of it: ``[count, 1 + 2 * _WAVES]``."""
    ramp = _ramp(count)[:, None]
    angles = [np.pi * (wave + 1) * ramp for wave in range(_WAVES)]
    return torch.cat([ramp, *(f(a) for a in angles for f in (torch.sin, torch.cos))], dim=1)


# -------------------- the nipple


def _look_for_nipple(report: ReportModel, layout: _Layout, views: NippleViews) -> None:
    """Let the first head of the first fusion layer look, from every cell, for the nipple of its
    view, and count the cell's row from there: in a number of its own, finely, and in the ramp of
    rows, as if all nipples were at the same height."""
    sight = _Sight(report, layout, views)
    sight.learn()
    strength = _OTHER_VIEWS / (2 * sight.tokens[..., layout.side].square().mean())
    fusion: Any = report.fusion[0]
    attention, width = fusion.attention, report.config.dim // report.config.heads
    share = _PLACE / _RELATIVE
    root = width**0.5  # by which the products of queries and keys are divided
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value):
            layer.weight[:width] = 0
            layer.bias[:width] = 0
        for place, known in enumerate((layout.side, layout.projection)):
            attention.query.weight[place, known] = root * strength
            attention.key.weight[place, known] = 1
        attention.query.bias[2] = root
        attention.key.weight[2] = sight.key
        attention.value.weight[0] = sight.value
        attention.out.weight[:, :width] = 0
        middle = _PLACE * (2 * views.rows.mean() / (report.config.rows - 1) - 1)
        for place, scale, start in ((layout.relative, 1, 0), (layout.places, share, middle)):
            attention.out.weight[place] = 0
            attention.out.weight[place, 0] = scale
            attention.out.bias[place] = start


class _Sight:
    """What tells the nipple's cell from all others of a view, by what their tokens say.

    Attributes
    ----------
    key
        Of the numbers of a token ``[dim]``: the score that is highest at the nipple.
    value
        Of the same: what is to be added there to a row, that it counts from the nipple.
    """

    def __init__(self, report: ReportModel, layout: _Layout, views: NippleViews) -> None:
        self._views, self._rows = views, report.config.rows
        self.tokens = _first_seen(report, views.maps)
        self.key, self.value = (
            self.tokens.new_zeros(report.config.dim, requires_grad=True) for _ in range(2)
        )
        with torch.no_grad():
            self.key[_NIPPLE] = 1
            self.key[layout.column] = 1
            self.value[layout.places] = -_RELATIVE / _PLACE

    def learn(self) -> None:
        """Learn both."""
        wanted, rows = self._views.wanted(), self._rows
        shift, cell = 1 - 2 * self._views.rows / (rows - 1), 2 / (rows - 1)
        dice = torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW([self.key, self.value], _RATE)
        for step in range(_STEPS):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
            some = torch.randint(len(wanted), (_TOGETHER,), generator=dice)
            tokens = self.tokens[some]
            scores = tokens @ self.key
            moved = (torch.softmax(scores, dim=1) * (tokens @ self.value)).sum(dim=1)
            apart = (moved / _RELATIVE - shift[some]) / cell
            loss = functional.cross_entropy(scores, wanted[some]) + apart.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def _first_seen(report: ReportModel, maps: Tensor) -> Tensor:
    """What the first fusion layer sees of views, which stand in their usual order: ``[views, cells,
    dim]``."""
    places = report._places().unflatten(0, (len(STANDARD_VIEWS), -1))
    projected = report.projection_norm(report.projection(maps.flatten(2).transpose(1, 2)))
    fusion: Any = report.fusion[0]
    seen: Tensor = fusion.attention_norm(
        projected + places[torch.arange(len(maps), device=maps.device) % len(places)]
    )
    return seen

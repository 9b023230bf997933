"""Tokens of a report that normalisation hardly changes, so that numbers in them stay numbers.

A layer norm takes from every number of a token the mean of all, and divides by their spread. Both
grow with all that a cell has to say, and what a token counts, the row of its lesion from the
nipple, was changed with them. Of 685 lesions of phantoms that nothing was trained on the encoder
told the row to 0.13 cells (standard deviation); after the first norm it was told to 0.4 cells; a
quadrant hangs on less.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from mammofm_lite.export.models.report import ReportModel
from mammofm_lite.views import STANDARD_VIEWS

__all__ = ["balance", "steady"]

# Beside which the spread of cells' answers, 0.2 to 0.7, counts little, and that of tokens, 1 to 3.
_FIRST: Final = 8.0
_LATER: Final = 24.0

Places = slice
Norm = nn.LayerNorm


@torch.no_grad()
def balance(projection: nn.Linear, free: Places) -> None:
    """Let the numbers of every token add up to nothing, by those in `free`."""
    count = len(projection.bias[free])
    for numbers in (projection.weight, projection.bias):
        numbers[free] -= numbers.sum(dim=0) / count


@torch.no_grad()
def steady(
    report: ReportModel, pair: Places, maps: Tensor, lesions: Callable[[Tensor], Tensor]
) -> None:
    """Let two numbers of every token be large, alike everywhere, and read by nothing.

    They decide the spread that norms divide by. All else is multiplied by as much as it becomes
    smaller by that in cells of lesions, so that these say what they said. Done twice, the second
    time changes nothing.

    Parameters
    ----------
    pair
        Two numbers of a token that say nothing known yet.
    maps
        Of whole studies, float32 ``[4 * studies, channels, rows, columns]``.
    lesions
        Says of such maps which cells show a lesion: bool ``[4 * studies, rows, columns]``.
    """
    views = maps.unflatten(0, (-1, len(STANDARD_VIEWS))).unbind(1)
    cells = lesions(maps).flatten(1).unflatten(0, (-1, len(STANDARD_VIEWS))).flatten(1)
    norms = _norms(report)
    before = [_spread(report, norm, views, cells) for norm in norms]
    ends = torch.tensor([1.0, -1.0], device=maps.device)
    report.projection.bias[pair] = _FIRST * ends
    for norm in norms:
        norm.weight[pair] = norm.bias[pair] = 0
    report.projection_norm.bias[pair] = _LATER * ends
    for embedding in (
        report.row_embedding,
        report.column_embedding,
        report.side_embedding,
        report.view_embedding,
    ):
        embedding.weight[:, pair] = 0
    for norm, spread in zip(norms, before, strict=True):  # what a norm is given hangs on the others
        norm.weight *= _spread(report, norm, views, cells) / spread


def _norms(report: ReportModel) -> list[Norm]:
    """All that visual tokens pass, in their order."""
    layers: list[Any] = list(report.fusion)
    inner = [norm for layer in layers for norm in (layer.attention_norm, layer.mlp_norm)]
    return [report.projection_norm, *inner, report.fusion_norm]


def _spread(report: ReportModel, norm: Norm, views: tuple[Tensor, ...], cells: Tensor) -> Tensor:
    """The mean spread of the tokens of some cells ``[studies, tokens]`` where a norm is given
    them."""
    found: list[Tensor] = []
    hook = norm.register_forward_pre_hook(
        lambda _, given: found.append(given[0].std(dim=2)[cells].mean())
    )
    try:
        report.fuse(views, views[0].new_ones(len(cells), len(views)))
    finally:
        hook.remove()
    return found[0]

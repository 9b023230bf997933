"""Bilateral asymmetry on feature maps: risk of breast cancer, one set of parameters per year.

Source: Donnelly et al., "AsymMirai", Radiology 2024; facts 2.3, 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.errors import ExportError

__all__ = [
    "Asymmetry",
    "AsymmetryConfig",
    "AsymmetryHead",
    "Prognosis",
    "PrognosisModel",
    "asymmetry_heatmap",
    "peak_positions",
    "usable_views",
]

Alignment = Literal["pixel", "latent"]
Stretch = Literal["matrix", "vector", "none"]
_BATCH_NORM_EPS: Final = 1e-5


@dataclass(frozen=True)
class AsymmetryConfig:
    """How one checkpoint compares the two sides.

    Attributes
    ----------
    channels : int
        Channels of the encoder's map.
    latent_height, latent_width : int
        The pooling window is the map's size divided by these, rounded down.
    stretch : {"matrix", "vector", "none"}
        Linear map of the channels before the comparison.
    flexible : bool
        Slide the window by one cell; otherwise by its own size.
    alignment : {"pixel", "latent"}, optional
        "latent" mirrors the right map here. "pixel" means that whoever runs the encoder has
        mirrored the right picture already. None, the reference's default, mirrors nothing.
    use_bn : bool
        Normalise the stretched maps and skip the standardisation of the score.
    topk : int, optional
        Score the weighted mean of the k largest heatmap values instead of the largest.
    mean, std : float
        Standardise the asymmetry before the sigmoid: learned values where the checkpoint has
        them, its initial ones otherwise.
    """

    channels: int = 2048
    latent_height: int = 5
    latent_width: int = 5
    stretch: Stretch = "matrix"
    flexible: bool = True
    alignment: Alignment | None = None
    use_bn: bool = False
    topk: int | None = None
    mean: float = 364.0
    std: float = 163.0

    def heatmap_size(self, map_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the heatmap for a feature map of (rows, columns)."""
        window = _window(map_size, (self.latent_height, self.latent_width))
        strides = (1, 1) if self.flexible else window
        rows, columns = (
            (size - kernel) // stride + 1
            for size, kernel, stride in zip(map_size, window, strides, strict=True)
        )
        return rows, columns


class Asymmetry(NamedTuple):
    """What one head says about a batch of exams; projections are ordered CC, MLO."""

    raw: Tensor
    """``[batch]``: mean of the usable projections' values."""
    score: Tensor
    """``[batch]``: sigmoid of the standardised ``raw``."""
    scaled: Tensor
    """``[batch]``: the standardised ``raw``."""
    value: Tensor
    """``[batch, 2]``: asymmetry of each projection."""
    heatmap: Tensor
    """``[batch, 2, rows, columns]``."""


class Prognosis(NamedTuple):
    """One exam over all years, in the order of the model's ``years``."""

    score: Tensor
    """``[years]`` as the reference computes them; not ordered between years."""
    risk: Tensor
    """``[years]``, the running maximum of ``score``: never decreasing."""
    heatmap: Tensor
    """``[years, 2, rows, columns]`` for CC and MLO."""
    peak: Tensor
    """int64 ``[years, 2, 2]``: (row, column) of the largest heatmap value."""
    asymmetry: Tensor
    """``[years]``: the raw asymmetry before standardisation."""


def _window(map_size: tuple[int, int], latent: tuple[int, int]) -> tuple[int, int]:
    kernel = (map_size[0] // latent[0], map_size[1] // latent[1])
    if min(kernel) < 1:
        raise ExportError(
            f"a feature map of {map_size[0]}x{map_size[1]} cells cannot be divided into "
            f"{latent[0]}x{latent[1]} windows: lower latent_height or latent_width"
        )
    return kernel


def asymmetry_heatmap(difference: Tensor, latent: tuple[int, int], flexible: bool) -> Tensor:
    """Heatmap ``[batch, rows, columns]`` of a map of differences ``[batch, channels, h, w]``.

    The window's maximum is taken per channel *before* the norm over channels, so each channel may
    pick another cell of the window.
    """
    window = _window((int(difference.shape[2]), int(difference.shape[3])), latent)
    pooled = functional.max_pool2d(difference.abs(), window, stride=1 if flexible else window)
    return torch.sqrt((pooled * pooled).sum(dim=1))


def peak_positions(heatmap: Tensor) -> Tensor:
    """(row, column) of the first largest value: int64 ``[..., 2]`` of ``[..., rows, columns]``."""
    columns = heatmap.shape[-1]
    index = heatmap.flatten(-2).argmax(dim=-1)
    row = torch.div(index, columns, rounding_mode="floor")
    return torch.stack([row, index - row * columns], dim=-1)


def usable_views(cc_left: Tensor, mlo_left: Tensor) -> Tensor:
    """float32 ``[batch, 2]``: 0 where the left input of a projection sums to exactly zero.

    This is the reference's own rule; a missing right picture alone goes unnoticed by it. Our
    runtime knows which pictures exist and says so instead.
    """
    sums = [view.flatten(1).sum(dim=1) for view in (cc_left, mlo_left)]
    return (torch.stack(sums, dim=1) != 0).float()


class AsymmetryHead(nn.Module):
    """Score of one checkpoint from the maps of the left and right CC and MLO pictures."""

    def __init__(self, config: AsymmetryConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        if config.stretch != "none":
            matrix = config.stretch == "matrix"
            start = torch.eye(channels) if matrix else torch.ones(channels)
            self.cc_stretch_params = nn.Parameter(start)
            self.mlo_stretch_params = nn.Parameter(start.clone())
        self.bn = nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS) if config.use_bn else None

    def _stretched(self, difference: Tensor, projection: Literal["cc", "mlo"]) -> Tensor:
        """Stretch the difference once; the same map on both sides would give the same."""
        if self.config.stretch == "none":
            return difference
        params: Tensor = getattr(self, f"{projection}_stretch_params")
        if self.config.stretch == "vector":
            return difference * params[:, None, None]
        return functional.conv2d(difference, params[:, :, None, None])

    def _normalised(self, difference: Tensor) -> Tensor:
        """Batch norm of a difference: the shift cancels, the scale stays."""
        if self.bn is None:
            return difference
        running_var = self.bn.get_buffer("running_var")
        scale = self.bn.weight / torch.sqrt(running_var + self.bn.eps)
        return difference * scale[:, None, None]

    def heatmap(self, left: Tensor, right: Tensor, projection: Literal["cc", "mlo"]) -> Tensor:
        """Heatmap ``[batch, rows, columns]`` of one projection."""
        config = self.config
        if config.alignment == "latent":
            right = right.flip(3)
        difference = self._normalised(self._stretched(left - right, projection))
        latent = (config.latent_height, config.latent_width)
        return asymmetry_heatmap(difference, latent, config.flexible)

    def _value(self, heatmap: Tensor) -> Tensor:
        """Asymmetry ``[batch]`` of a heatmap."""
        flat = heatmap.flatten(1)
        k = self.config.topk
        if k is None:
            return flat.amax(dim=1)
        # As the reference has it: the largest value gets weight 0, the k-th the most.
        weights = torch.arange(k, dtype=flat.dtype)
        return (flat.topk(k, dim=1).values * (weights / weights.sum())).sum(dim=1)

    def _scaled(self, raw: Tensor) -> Tensor:
        return raw if self.config.use_bn else (raw - self.config.mean) / self.config.std

    def forward(
        self,
        cc_left: Tensor,
        cc_right: Tensor,
        mlo_left: Tensor,
        mlo_right: Tensor,
        usable: Tensor,
    ) -> Asymmetry:
        """Compare both projections.

        Parameters
        ----------
        cc_left, cc_right, mlo_left, mlo_right : Tensor
            Maps ``[batch, channels, height, width]``.
        usable : Tensor
            float32 ``[batch, 2]``: 1 where CC, MLO take part. None usable gives NaN.
        """
        cc = self.heatmap(cc_left, cc_right, "cc")
        mlo = self.heatmap(mlo_left, mlo_right, "mlo")
        value = torch.stack([self._value(cc), self._value(mlo)], dim=1)
        raw = (value * usable).sum(dim=1) / usable.sum(dim=1)
        scaled = self._scaled(raw)
        return Asymmetry(raw, torch.sigmoid(scaled), scaled, value, torch.stack([cc, mlo], dim=1))


def _running_maximum(values: Tensor) -> Tensor:
    """Largest value so far along the only axis; unrolled, a handful of years."""
    highest = [values[0]]
    for value in values[1:]:
        highest.append(torch.maximum(highest[-1], value))
    return torch.stack(highest)


class PrognosisModel(nn.Module):
    """One asymmetry head per year over the same maps.

    Parameters
    ----------
    heads : mapping of int to AsymmetryHead
        Head of every year; all must give heatmaps of the same size.

    Raises
    ------
    ExportError
        If there is no head, or the windows differ between years.
    """

    def __init__(self, heads: Mapping[int, AsymmetryHead]) -> None:
        super().__init__()
        windows = {
            (head.config.latent_height, head.config.latent_width, head.config.flexible)
            for head in heads.values()
        }
        if len(windows) != 1:
            raise ExportError(
                f"{len(windows)} different heatmap windows among {len(heads)} years of prognosis: "
                "at least one year is needed, and all years must share one window"
            )
        self.years = tuple(sorted(heads))
        self.heads = nn.ModuleList(heads[year] for year in self.years)

    def forward(
        self,
        cc_left: Tensor,
        cc_right: Tensor,
        mlo_left: Tensor,
        mlo_right: Tensor,
        usable: Tensor,
    ) -> Prognosis:
        """Prognosis of one exam from maps ``[1, channels, h, w]`` and flags ``[2]`` (CC, MLO)."""
        maps = (cc_left, cc_right, mlo_left, mlo_right)
        years: list[Asymmetry] = [head(*maps, usable[None]) for head in self.heads]
        score = torch.cat([year.score for year in years])
        heatmap = torch.cat([year.heatmap for year in years])
        return Prognosis(
            score=score,
            risk=_running_maximum(score),
            heatmap=heatmap,
            peak=peak_positions(heatmap),
            asymmetry=torch.cat([year.raw for year in years]),
        )

"""EfficientNet image encoder with the reference's static padding and state-dict keys.

Two facts decide whether features agree with the reference: padding is fixed at construction from
a *nominal* square input, not from the picture; and the nominal size shrinks along the network in
the encoder of CLIP, classifier and prognosis ("progressive") but stays in the detector's copy
("nominal"). Source: Tan & Le, arXiv 1905.11946; reference facts 1.1-1.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.errors import ExportError

__all__ = [
    "CONFIGS",
    "Block",
    "BlockSpec",
    "EfficientNet",
    "EfficientNetConfig",
    "Features",
    "Padding",
    "PaddingRule",
    "named_config",
    "static_padding",
]

PaddingRule = Literal["progressive", "nominal"]
Padding = tuple[int, int]
"""Zeros (before, after) along one axis; rows and columns are padded alike."""

Size = tuple[int, int]

_BATCH_NORM_EPS: Final = 1e-3
_BATCH_NORM_MOMENTUM: Final = 0.01
_SQUEEZE_RATIO: Final = 0.25
_STEM_KERNEL: Final = 3
_STEM_STRIDE: Final = 2


class _Stage(NamedTuple):
    """One row of the base (B0) table."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    out_channels: int


_BASE_STEM: Final = 32
_BASE_HEAD: Final = 1280
_BASE_STAGES: Final = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def static_padding(kernel: int, stride: int, nominal_px: int) -> Padding:
    """Zeros before and after an axis of ``nominal_px`` so that a convolution keeps its size.

    Source: facts 1.2.
    """
    out_px = math.ceil(nominal_px / stride)
    total = max((out_px - 1) * stride + kernel - nominal_px, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class BlockSpec:
    """Shape of one inverted-residual block."""

    kernel: int
    stride: int
    expand: int
    in_channels: int
    out_channels: int
    first: bool
    """First block of its stage: carries the stride and never has a shortcut."""
    padding: Padding

    @property
    def hidden_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return self.in_channels * self.expand

    @property
    def squeeze_channels(self) -> int:
        """Channels of the squeeze-excite bottleneck: a quarter of the block's *input*."""
        return max(1, int(self.in_channels * _SQUEEZE_RATIO))


@dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet by its compound coefficients.

    Attributes
    ----------
    name : str
        For messages and bundle records only.
    width, depth : float
        Multipliers of channels and of blocks per stage, against B0.
    nominal_px : int
        Side of the square input that static padding is derived from.
    padding : {"progressive", "nominal"}
        Whether ``nominal_px`` halves after every strided convolution, or stays (detector).
    in_channels : int
        Channels of the picture; 3 in the reference, all equal.
    """

    name: str
    width: float
    depth: float
    nominal_px: int
    padding: PaddingRule = "progressive"
    in_channels: int = 3

    def with_padding(self, padding: PaddingRule) -> EfficientNetConfig:
        """Return the same network under the other padding rule."""
        return replace(self, padding=padding)

    def _scaled(self, channels: int) -> int:
        wanted = channels * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem convolution."""
        return self._scaled(_BASE_STEM)

    @property
    def head_channels(self) -> int:
        """Channels of the map and of the pooled vector."""
        return self._scaled(_BASE_HEAD)

    @property
    def stem_padding(self) -> Padding:
        """Padding of the stem convolution."""
        return static_padding(_STEM_KERNEL, _STEM_STRIDE, self.nominal_px)

    def _next_nominal(self, nominal_px: int, stride: int) -> int:
        return math.ceil(nominal_px / stride) if self.padding == "progressive" else nominal_px

    @cached_property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """All blocks, first to last."""
        specs: list[BlockSpec] = []
        nominal_px = self._next_nominal(self.nominal_px, _STEM_STRIDE)
        channels = self.stem_channels
        for stage in _BASE_STAGES:
            out_channels = self._scaled(stage.out_channels)
            for index in range(math.ceil(self.depth * stage.blocks)):
                stride = stage.stride if index == 0 else 1
                padding = static_padding(stage.kernel, stride, nominal_px)
                shape = (stage.kernel, stride, stage.expand, channels, out_channels)
                specs.append(BlockSpec(*shape, first=index == 0, padding=padding))
                nominal_px = self._next_nominal(nominal_px, stride)
                channels = out_channels
        return tuple(specs)

    @cached_property
    def endpoint_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks that are the last at strides 2, 4, 8, 16 and 32."""
        strided = [index for index, spec in enumerate(self.blocks) if spec.stride > 1]
        return (*(index - 1 for index in strided), len(self.blocks) - 1)

    @property
    def c3_block(self) -> int:
        """Block whose output the detector calls C3: the last at stride 16 (facts 5.2)."""
        return self.endpoint_blocks[3]

    @property
    def c4_block(self) -> int:
        """Block whose output the detector calls C4: the last but one (facts 5.2)."""
        return len(self.blocks) - 2

    @property
    def pyramid_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4 and C5."""
        c3, c4 = (self.blocks[index].out_channels for index in (self.c3_block, self.c4_block))
        return c3, c4, self.head_channels

    def feature_shapes(self, image_size: Size) -> dict[str, tuple[int, ...]]:
        """Shapes of ``pooled``, ``map``, ``c3``, ``c4`` and ``c5`` for one picture of a size.

        Parameters
        ----------
        image_size : tuple of int
            Height and width in pixels.
        """
        size = _conv_size(image_size, _STEM_KERNEL, _STEM_STRIDE, self.stem_padding)
        sizes = []
        for spec in self.blocks:
            size = _conv_size(size, spec.kernel, spec.stride, spec.padding)
            sizes.append(size)
        c3, c4, c5 = self.pyramid_channels
        return {
            "pooled": (1, c5),
            "map": (1, c5, *size),
            "c3": (1, c3, *sizes[self.c3_block]),
            "c4": (1, c4, *sizes[self.c4_block]),
            "c5": (1, c5, *size),
        }


def _conv_size(size: Size, kernel: int, stride: int, padding: Padding) -> Size:
    height, width = ((axis + sum(padding) - kernel) // stride + 1 for axis in size)
    return height, width


CONFIGS: Final[dict[str, EfficientNetConfig]] = {
    config.name: config
    for config in (
        EfficientNetConfig("b0", 1.0, 1.0, 224),
        EfficientNetConfig("b2", 1.1, 1.2, 260),
        EfficientNetConfig("b5", 1.6, 2.2, 456),
    )
}


def named_config(name: str, padding: PaddingRule = "progressive") -> EfficientNetConfig:
    """Return a published configuration: ``b0``, ``b2`` or ``b5``.

    Raises
    ------
    ExportError
        If the name is unknown.
    """
    if name not in CONFIGS:
        raise ExportError(f"unknown encoder {name!r}: expected one of {', '.join(CONFIGS)}")
    return CONFIGS[name].with_padding(padding)


@dataclass(frozen=True, eq=False)
class Features:
    """What one pass over pictures yields.

    Attributes
    ----------
    pooled : Tensor
        ``[batch, channels]``, the mean of ``map`` over space.
    map : Tensor
        ``[batch, channels, height, width]``, stride 32; also called C5.
    c3, c4 : Tensor
        Block outputs at strides 16 and 32 that the detector reads.
    """

    pooled: Tensor
    map: Tensor
    c3: Tensor
    c4: Tensor

    @property
    def c5(self) -> Tensor:
        """The map under the name the detector gives it."""
        return self.map


class _PaddedConv(nn.Conv2d):
    """Convolution without bias whose padding may differ before and after."""

    def __init__(self, channels: tuple[int, int], spec: tuple[int, int, Padding], groups: int = 1):
        kernel, stride, (before, after) = spec
        symmetric = before if before == after else 0
        super().__init__(
            *channels, kernel, stride=stride, padding=symmetric, groups=groups, bias=False
        )
        self._extra = None if before == after else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self._extra is None else functional.pad(x, self._extra))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS, momentum=_BATCH_NORM_MOMENTUM)


class Block(nn.Module):
    """Expand 1x1, depthwise, squeeze-excite, project 1x1, shortcut."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        hidden = spec.hidden_channels
        self.expands = spec.expand != 1
        self.has_shortcut = (
            not spec.first and spec.stride == 1 and spec.in_channels == spec.out_channels
        )
        if self.expands:
            self._expand_conv = nn.Conv2d(spec.in_channels, hidden, 1, bias=False)
            self._bn0 = _batch_norm(hidden)
        convolution = (spec.kernel, spec.stride, spec.padding)
        self._depthwise_conv = _PaddedConv((hidden, hidden), convolution, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._swish = nn.SiLU()
        self._se_reduce = nn.Conv2d(hidden, spec.squeeze_channels, 1)
        self._se_expand = nn.Conv2d(spec.squeeze_channels, hidden, 1)
        self._gate = nn.Sigmoid()
        self._project_conv = nn.Conv2d(hidden, spec.out_channels, 1, bias=False)
        self._bn2 = _batch_norm(spec.out_channels)

    def _excitation(self, x: Tensor) -> Tensor:
        squeezed = self._se_reduce(x.mean((2, 3), keepdim=True))
        gate: Tensor = self._gate(self._se_expand(functional.silu(squeezed)))
        return gate

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._swish(self._bn1(self._depthwise_conv(y)))
        y = y * self._excitation(y)
        projected: Tensor = self._bn2(self._project_conv(y))
        return projected + x if self.has_shortcut else projected


class _MeanOfCells(nn.Module):
    """``[batch, channels, height, width]`` to ``[batch, channels]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class EfficientNet(nn.Module):
    """The image encoder. State-dict keys and their order are those of the reference checkpoints."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        stem = (_STEM_KERNEL, _STEM_STRIDE, config.stem_padding)
        self._conv_stem = _PaddedConv((config.in_channels, config.stem_channels), stem)
        self._bn0 = _batch_norm(config.stem_channels)
        self._blocks = nn.ModuleList(Block(spec) for spec in config.blocks)
        last_channels = config.blocks[-1].out_channels
        self._conv_head = nn.Conv2d(last_channels, config.head_channels, 1, bias=False)
        self._bn1 = _batch_norm(config.head_channels)
        self._pool = _MeanOfCells()

    def block_outputs(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the output of every block in turn; nothing is kept.

        Parameters
        ----------
        image : Tensor
            Normalised float32 ``[batch, in_channels, height, width]``.
        """
        x = functional.silu(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
            yield x

    def head(self, last: Tensor) -> Tensor:
        """Turn the last block's output into the map."""
        return functional.silu(self._bn1(self._conv_head(last)))

    def _selected(self, image: Tensor, wanted: frozenset[int]) -> dict[int, Tensor]:
        outputs = enumerate(self.block_outputs(image))
        return {index: output for index, output in outputs if index in wanted}

    def features(self, image: Tensor) -> Features:
        """Everything the heads read, in one pass."""
        config = self.config
        last = len(config.blocks) - 1
        outputs = self._selected(image, frozenset((config.c3_block, config.c4_block, last)))
        feature_map = self.head(outputs[last])
        return Features(
            pooled=self._pool(feature_map),
            map=feature_map,
            c3=outputs[config.c3_block],
            c4=outputs[config.c4_block],
        )

    def endpoints(self, image: Tensor) -> dict[str, Tensor]:
        """Last output at each stride as ``reduction_1..5``, and the map as ``reduction_6``."""
        indices = self.config.endpoint_blocks
        outputs = self._selected(image, frozenset(indices))
        named = {f"reduction_{i}": outputs[index] for i, index in enumerate(indices, start=1)}
        named[f"reduction_{len(indices) + 1}"] = self.head(outputs[indices[-1]])
        return named

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``pooled`` [batch, channels] and ``map`` [batch, channels, height, width]."""
        features = self.features(image)
        return features.pooled, features.map

    def gray_stem_weight(self) -> Tensor:
        """Stem weights ``[out, 1, 3, 3]`` for one channel instead of equal ones.

        With equal input channels, convolving with the sum of the weights is the same function.
        """
        return self._conv_stem.weight.sum(dim=1, keepdim=True)

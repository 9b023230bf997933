"""Training on what 8 bits leave: inputs and weights of convolutions rounded as quantization will.

Post-training quantization clips and rounds what training never saw clipped or rounded. Trained on
the rounded values, with gradients that pass straight through the rounding (arXiv 1308.3432; for
networks of integers arXiv 1712.05877), the weights settle where it costs little. Places and ranges
are those of `quant.ptq`: activations asymmetric in 8 bits, from the mean of the least to the mean
of the largest values of whole views; before a depthwise convolution one range per channel, from the
least to the largest of all views; weights symmetric per output channel, for the overflow fix in
half of their range, those of depthwise convolutions in all of it. Rounded is what convolutions
read, both sides of a shortcut and of a squeeze-excite product, and what is averaged; the
convolutions of squeeze-excite paths are not.
"""

from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from mammofm_lite.export.models.efficientnet import Block, EfficientNet

__all__ = ["Rounding"]

_MOST: Final = 255
_MOST_OF_WEIGHTS: Final = 127
_KEPT_OF_MEANS: Final = 0.99
_KEPT_OF_EXTREMES: Final = 0.999
_TINY: Final = 1e-9
_EDGE: Final = 1e-3  # of a step: a value on the edge of the range is in it


class _Point(nn.Module):
    """A place where values are rounded, with the range that they are rounded in."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        size = () if channels is None else (channels,)
        self.register_buffer("low", torch.zeros(size))
        self.register_buffer("high", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(()))

    def forget(self) -> None:
        """Have seen nothing yet."""
        for buffer in (self.low, self.high, self.seen):
            buffer.zero_()

    @torch.no_grad()
    def follow(self, values: Tensor) -> None:
        """Let the range follow some pictures; what was long ago counts less and less."""
        values = values.float().permute(0, 2, 3, 1)  # in the order of memory: without a copy
        if self.low.dim():
            low, high = (one(values.flatten(0, 2), dim=0) for one in (torch.amin, torch.amax))
            torch.minimum(low, self.low * _KEPT_OF_EXTREMES, out=self.low)
            torch.maximum(high, self.high * _KEPT_OF_EXTREMES, out=self.high)
            return
        keep = min(_KEPT_OF_MEANS, float(self.seen / (1 + self.seen)))
        self.seen += 1
        flat = values.flatten(1)
        self.low.lerp_(flat.amin(1).mean().clamp(max=0), 1 - keep)
        self.high.lerp_(flat.amax(1).mean().clamp(min=0), 1 - keep)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Step, and steps below zero: the range is widened until zero is one of its values."""
        span = (self.high - self.low).clamp(min=_TINY)
        below = torch.round(-self.low / span * _MOST)
        steps = torch.stack([self.high / (_MOST - below), -self.low / below])
        return steps.nan_to_num(0, 0, 0).amax(0).clamp(min=_TINY), below

    def forward(self, values: Tensor) -> Tensor:
        return _rounded(values.float(), *self.grid())


class _Rounded(torch.autograd.Function):
    """At most so many multiples of a step, with a gradient as if nothing had been rounded."""

    @staticmethod
    def forward(values: Tensor, step: Tensor, most: int) -> Tensor:
        return (values / step).round_().clamp_(-most, most).mul_(step)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


class _Stored(torch.autograd.Function):
    """Values as they are when they were stored in 8 bits, with a gradient for all that lie in the
    range.

    On a core, forth and back, a sixth of the time of `_Rounded` after a clamp with one range for
    all, a third with one for every channel.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, below: Tensor) -> Tensor:
        if not step.dim():
            low, high = -below * step, (_MOST - below) * step
            ctx.range = float(low - _EDGE * step), float(high + _EDGE * step)
            ctx.save_for_backward(values)
            return torch.quantize_per_tensor(values, step, below.int(), torch.quint8).dequantize()
        # A sixth of the time of `torch.quantize_per_channel`; comparing values with one range for
        # every channel would take longer than all of it.
        step, below = step[:, None, None], below[:, None, None]
        counted = torch.addcmul(below, values, 1 / step)
        ctx.range = -_EDGE, _MOST + _EDGE
        ctx.save_for_backward(counted)
        return counted.round().clamp_(0, _MOST).sub_(below).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, values, *ctx.range), None, None


def _rounded(values: Tensor, step: Tensor, below: Tensor) -> Tensor:
    """One of 256 multiples of a step, of which so many are below zero: of one step, or of one for
    each channel of values ``[batch, channels, rows, columns]``."""
    if values.device.type == "cpu":
        return cast(Tensor, _Stored.apply(values, step, below))
    step, below = (one[:, None, None] if one.dim() else one for one in (step, below))
    within = values.clamp(-below * step, (_MOST - below) * step)
    return cast(Tensor, _Rounded.apply(within, step, _MOST))


def _rounded_weights(weight: Tensor, *, depthwise: bool) -> Tensor:
    """Of every output channel, 127 multiples of a step, or of a depthwise convolution 255.

    The largest weight lies on the last of 255, and by the overflow fix half a step beyond the last
    of 127. A gradient passes all of them, lest the largest stay as they are.
    """
    largest = weight.detach().float().abs().amax((1, 2, 3), keepdim=True).clamp(min=_TINY)
    step = largest / _MOST_OF_WEIGHTS if depthwise else largest / (_MOST_OF_WEIGHTS / 2)
    most = _MOST_OF_WEIGHTS if depthwise else _MOST_OF_WEIGHTS // 2
    return cast(Tensor, _Rounded.apply(weight, step, most))


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels > 1


class Rounding(nn.Module):
    """The rounding of an encoder, off until `on` is set.

    The ranges are buffers of its own, so that the layers keep the keys of a checkpoint.

    Parameters
    ----------
    encoder
        Whose values are rounded where `quant.ptq` has its graph rounded.

    Attributes
    ----------
    begun
        Whether ranges are wanted yet.
    follows
        Whether they follow what passes: whole views alone should move them.
    on
        Whether what passes is rounded.
    """

    def __init__(self, encoder: EfficientNet) -> None:
        super().__init__()
        self.points = nn.ModuleList()
        self.begun = self.on = self.follows = False
        self._round_layer(encoder._conv_stem)
        for block in encoder._blocks:
            assert isinstance(block, Block)
            self._round_block(block)
        self._round_layer(encoder._conv_head)
        self._round_input(encoder._pool)

    def begin(self) -> None:
        """Let the ranges begin anew, and round nothing meanwhile."""
        self.begun, self.on = True, False
        for point in self.points:
            assert isinstance(point, _Point)
            point.forget()

    def _round_block(self, block: Block) -> None:
        if block.has_shortcut:  # which adds what the expansion reads
            self._round_input(block)
            self._round_weights(block._expand_conv)
        elif block.expands:
            self._round_layer(block._expand_conv)
        self._round_layer(block._depthwise_conv)
        self._round_output(block._swish)
        self._round_output(block._gate)
        self._round_layer(block._project_conv)
        if block.has_shortcut:
            self._round_output(block._bn2)

    def _round_layer(self, layer: nn.Conv2d) -> None:
        channels = layer.in_channels if _is_depthwise(layer) else None
        self._round_weights(layer, self._point(channels))

    def _round_weights(self, layer: nn.Conv2d, point: _Point | None = None) -> None:
        plain = layer._conv_forward
        depthwise = _is_depthwise(layer)

        def rounded(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            weight = _rounded_weights(weight, depthwise=depthwise) if self.on else weight
            values = values if point is None else self._passed(point, values)
            return plain(values, weight, bias)

        # The one place where torch hands padded input and weights over together.
        layer._conv_forward = rounded  # type: ignore[method-assign]

    def _round_input(self, layer: nn.Module) -> None:
        point = self._point(None)
        layer.register_forward_pre_hook(lambda _, given: (self._passed(point, given[0]),))

    def _round_output(self, layer: nn.Module) -> None:
        point = self._point(None)
        layer.register_forward_hook(lambda _, given, output: self._passed(point, output))

    def _point(self, channels: int | None) -> _Point:
        point = _Point(channels)
        self.points.append(point)
        return point

    def _passed(self, point: _Point, values: Tensor) -> Tensor:
        if self.follows:
            point.follow(values)
        return point(values) if self.on else values

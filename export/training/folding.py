"""Batch norms that are held, as part of the convolutions before them.

With the statistics that it has, a batch norm multiplies and shifts every channel. Multiplied into
the weights, and with the shift as a bias, the function and its gradients are the same, for a pass
over all activations less, forward and back. The parameters stay where a checkpoint has them.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from mammofm_lite.export.models.efficientnet import EfficientNet

__all__ = ["NORMED", "fold_norms"]

NORMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "_expand_conv": "_bn0",
        "_depthwise_conv": "_bn1",
        "_project_conv": "_bn2",
        "_conv_stem": "_bn0",
        "_conv_head": "_bn1",
    }
)
"""Which batch norm of a module of the encoder follows which convolution."""


def _normed_layers(encoder: EfficientNet) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution that a batch norm follows, with it."""
    for module in encoder.modules():
        for convolution, norm in NORMED.items():
            if isinstance(layer := getattr(module, convolution, None), nn.Conv2d):
                yield layer, getattr(module, norm)


def fold_norms(encoder: EfficientNet) -> None:
    """Compute with all batch norms folded wherever they are held (in ``eval`` mode); elsewhere
    nothing changes."""
    for layer, norm in _normed_layers(encoder):
        _fold(layer, norm)


def _fold(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    plain, normed = layer._conv_forward, norm.forward

    def folded(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if norm.training:
            return plain(values, weight, bias)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        return plain(values, weight * scale[:, None, None, None], shift)

    # Both under the hooks of rounding, which sees padded input, folded weights and normed output.
    layer._conv_forward = folded  # type: ignore[method-assign]
    norm.forward = lambda values: normed(values) if norm.training else values  # type: ignore

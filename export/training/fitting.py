"""Few numbers fitted to many examples at once."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mammofm_lite.export.models.diagnosis import LinearClassifier

__all__ = ["fit_head", "minimise"]

_STEPS: Final = 200
_RIDGE: Final = 1e-3
_STILL: Final = 1e-3  # added to a channel's spread: one that never moves is not made much of


def minimise(parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    """Move parameters to the next minimum of a loss by L-BFGS (Liu and Nocedal 1989)."""
    optimizer = torch.optim.LBFGS(parameters, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)


def fit_head(head: LinearClassifier, pooled: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """Move a head from where it is to what fits best, little along what few examples tell.

    A ridge on the change, channels in units of their spread (Hoerl and Kennard 1970), so that few
    examples with a class missing leave it finite.

    Parameters
    ----------
    pooled
        float32 ``[n, channels]``.
    loss
        Of the head's logits ``[n, outputs]``.
    """
    layer: nn.Linear = head.classifier.classification_head
    middle, spread = pooled.mean(dim=0), pooled.std(dim=0) + _STILL
    units, before = (pooled - middle) / spread, head(pooled).detach()
    change, shift = (nn.Parameter(torch.zeros_like(one)) for one in (layer.weight, layer.bias))

    def whole() -> Tensor:
        return loss(before + units @ change.T + shift) + _RIDGE * change.square().sum()

    minimise((change, shift), whole)
    with torch.no_grad():
        moved = change / spread
        layer.weight.add_(moved)
        layer.bias.add_(shift - moved @ middle)

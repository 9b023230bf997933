"""Few numbers fitted to many examples at once."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["minimise"]

_STEPS: Final = 200


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

"""Folded batch norms against batch norms: the same function and the same gradients."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.training.folding import fold_norms


@pytest.fixture(autouse=True)
def _gradients() -> Iterator[None]:
    with torch.enable_grad():
        yield


def encoder() -> EfficientNet:
    """With norms that have met something."""
    torch.manual_seed(0)
    made = EfficientNet(named_config("b0"))
    for norm in norms(made):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    return made


def norms(made: EfficientNet) -> list[nn.BatchNorm2d]:
    return [layer for layer in made.modules() if isinstance(layer, nn.BatchNorm2d)]


def learned(made: EfficientNet, picture: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What it answers, and the gradients of all weights."""
    pooled, cells = made(picture)
    made.zero_grad()
    (pooled.square().mean() + cells.square().mean()).backward()
    return pooled.detach(), [parameter.grad for parameter in made.parameters()]


def test_held_norms_are_computed_in_the_convolutions_before_them() -> None:
    made, picture = encoder().eval(), torch.rand(2, 3, 64, 64)
    answer, gradients = learned(made, picture)
    fold_norms(made)
    for norm in norms(made):
        assert torch.equal(norm(picture), picture)
    folded, others = learned(made, picture)
    torch.testing.assert_close(folded, answer, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        assert float((one - other).abs().max()) <= 1e-3 * float(one.abs().max())


def test_norms_that_learn_statistics_are_not_folded() -> None:
    made, picture = encoder().train(), torch.rand(2, 3, 64, 64)
    plain = encoder().train()
    fold_norms(made)
    torch.testing.assert_close(learned(made, picture)[0], learned(plain, picture)[0])
    for one, other in zip(norms(made), norms(plain), strict=True):
        torch.testing.assert_close(one.running_var, other.running_var)
        assert int(one.num_batches_tracked) == 1


def test_a_checkpoint_of_a_folded_encoder_is_that_of_a_plain_one() -> None:
    made = encoder()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    fold_norms(made)
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert list(made.state_dict()) == list(before)

"""Rounding in training, against closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.training.rounding import Rounding, _Point, _rounded_weights

LEVELS = 255


def followed(values: torch.Tensor, channels: int | None = None) -> _Point:
    point = _Point(channels)
    point.follow(values)
    return point


def pictures() -> torch.Tensor:
    """Two pictures of two channels whose extremes are known."""
    values = torch.zeros(2, 2, 3, 3)
    values[0, 0, 0, 0], values[0, 1, 0, 0] = 4.0, -1.0
    values[1, 0, 1, 1], values[1, 1, 2, 2] = 2.0, 10.0
    return values


def test_a_range_is_the_mean_of_the_pictures_extremes_or_per_channel_the_extremes() -> None:
    whole = followed(pictures())
    assert (float(whole.low), float(whole.high)) == (-0.5, 7.0)
    each = followed(pictures(), channels=2)
    assert each.low.tolist() == [0.0, -1.0]
    assert each.high.tolist() == [4.0, 10.0]


def test_the_first_pictures_count_alike_and_later_ones_little() -> None:
    point = _Point(None)
    for high in (1.0, 2.0, 6.0):
        point.follow(torch.full((1, 1, 1, 1), high))
    assert float(point.high) == pytest.approx(3.0)
    point.seen.fill_(10_000)
    point.follow(torch.full((1, 1, 1, 1), 103.0))
    assert float(point.high) == pytest.approx(4.0)


def test_channels_remember_their_extremes_a_while() -> None:
    point = _Point(2)
    for picture in (pictures(), torch.zeros(1, 2, 3, 3)):
        point.follow(picture)
    assert point.low.tolist() == pytest.approx([0.0, -0.999])
    assert point.high.tolist() == pytest.approx([3.996, 9.99])
    point.forget()
    assert not any(value.any() for value in point.state_dict().values())


@pytest.mark.parametrize("channels", [None, 2])
def test_values_become_multiples_of_a_step_and_nothing_else(channels: int | None) -> None:
    values = torch.linspace(-2, 9, 2 * 2 * 50).reshape(2, 2, 5, 10)
    point = followed(pictures(), channels)
    low, high = (end.numpy().reshape(-1, 1, 1) for end in (point.low, point.high))
    step = (high - low) / LEVELS
    zero = np.round(-low / step)
    expected = (np.clip(np.round(values.numpy() / step) + zero, 0, LEVELS) - zero) * step
    np.testing.assert_allclose(point(values).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_passes_within_the_range_only() -> None:
    point = followed(pictures())
    values = torch.tensor([[[[-3.0, 0.01, 5.0, 20.0]]]], requires_grad=True)
    with torch.enable_grad():
        point(values).sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0, 1, 1, 0]


def test_weights_use_half_of_their_range() -> None:
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = _rounded_weights(weight)
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    levels = rounded / largest * 63
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert float(levels.abs().max()) == pytest.approx(63)
    assert bool(((rounded - weight).abs() <= largest / 126 + 1e-6).all())


class TestEncoder:
    def encoder(self) -> tuple[EfficientNet, Rounding, torch.Tensor]:
        torch.manual_seed(0)
        encoder = EfficientNet(named_config("b0")).eval()
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        grey = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        return encoder, Rounding(encoder), grey

    def test_nothing_changes_until_it_is_on(self) -> None:
        encoder, rounding, grey = self.encoder()
        plain = EfficientNet(named_config("b0")).eval()
        plain.load_state_dict(encoder.state_dict())
        assert torch.equal(encoder(grey)[1], plain(grey)[1])
        assert not any(bool(value.any()) for value in rounding.state_dict().values())

    def test_every_convolution_but_squeeze_excite_is_rounded(self) -> None:
        encoder, rounding, grey = self.encoder()
        rounding.follows = True
        encoder(grey)
        layers = [name for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d)]
        rounded = [name for name in layers if "_se_" not in name]
        shortcuts = [block for block in encoder._blocks if block.has_shortcut]
        assert len(rounding.points) == len(rounded) + len(shortcuts) == 49 + 9
        assert all(float(point.high.max()) > 0 for point in rounding.points)
        rounding.follows, rounding.on = False, True
        used: list[torch.Tensor] = []
        real = torch.nn.functional.conv2d

        def seen(values: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
            used.append(weight)
            return real(values, weight, *rest)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "conv2d", seen)
            encoder(grey)
        weights = {name: m.weight for name, m in encoder.named_modules() if name in layers}
        same = [any(w is one for one in used) for w in weights.values()]
        assert [name for name, kept in zip(weights, same, strict=True) if kept] == [
            name for name in layers if "_se_" in name
        ]

    def test_a_rounded_encoder_learns(self) -> None:
        encoder, rounding, grey = self.encoder()
        encoder.train()  # batch statistics, without which values dwindle from layer to layer
        rounding.follows = True
        encoder(grey)
        rounding.on = True
        with torch.enable_grad():
            encoder(grey)[1].square().sum().backward()
        stem = encoder._conv_stem.weight.grad
        assert stem is not None
        assert float(stem.abs().sum()) > 0

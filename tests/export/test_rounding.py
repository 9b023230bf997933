"""Rounding in training, against closed forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mammofm_lite._openvino import make_core, ov
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.training.rounding import Rounding, _Point, _rounded_weights
from mammofm_lite.quant.layers import single_cell_layers
from mammofm_lite.quant.ptq import quantize_graph, read_graph, save_graph

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
    step = np.maximum(-low / np.maximum(zero, 1), high / (LEVELS - zero))
    expected = (np.clip(np.round(values.numpy() / step) + zero, 0, LEVELS) - zero) * step
    np.testing.assert_allclose(point(values).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_passes_within_the_range_only() -> None:
    point = followed(pictures())
    values = torch.tensor([[[[-3.0, 0.01, 5.0, 20.0]]]], requires_grad=True)
    with torch.enable_grad():
        point(values).sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(("depthwise", "half", "last"), [(False, 63.5, 63), (True, 127.0, 127)])
def test_weights_use_half_of_their_range_or_all(depthwise: bool, half: float, last: int) -> None:
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = _rounded_weights(weight, depthwise=depthwise)
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    levels = rounded / largest * half
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert float(levels.abs().max()) == pytest.approx(last)
    assert bool(((rounded - weight).abs() <= largest / half / 2 + 1e-6).all())


def test_a_gradient_passes_every_weight() -> None:
    weight = torch.randn(5, 7, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.enable_grad():
        _rounded_weights(weight, depthwise=False).sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad == 1).all())


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
        products = len(encoder._blocks)
        # A shortcut adds what the expansion reads: one place for both.
        count = len(rounded) + len(shortcuts) + 2 * products + 1
        assert len(rounding.points) == count == 49 + 9 + 32 + 1
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


def test_training_rounds_what_quantization_rounds(tmp_path: Path) -> None:
    """NNCF's graph: the same places, the same ranges, the same errors of the first block.

    Errors of later blocks agree less and less: a value in the middle of a step falls to one side
    here and to the other there, and all that follows differs. NNCF's correction of biases is left
    out, for it depends on errors that are not those of training's pictures.
    """
    encoder, grey = _settled_encoder()
    floats = [_observed(encoder, one[None]) for one in grey]
    graph, calibration = _graph_of(encoder, grey, tmp_path)
    ranges = _ranges_of(graph)
    compiled = make_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rounding = Rounding(encoder)
    places: list[_Point] = []
    real = rounding._passed

    def passed(point: _Point, values: torch.Tensor) -> torch.Tensor:
        places.append(point)
        return real(point, values)

    rounding._passed = passed  # type: ignore[method-assign]
    rounding.follows = True
    _observed(encoder, grey)  # at once, for channels forget a little from step to step
    rounding.follows, rounding.on = False, True
    places.clear()
    _observed(encoder, grey[:1])
    assert len(places) == len(ranges) == 91
    apart = np.concatenate(
        [_steps_apart(*pair) for pair in zip(places, ranges, strict=True)], axis=None
    )
    assert np.mean(apart > 0.01) < 1e-3  # of the others zero lies in the middle of a step
    errors = []
    for one, exact, inputs in zip(grey, floats, calibration, strict=True):
        ours, theirs = _observed(encoder, one[None])[0], compiled(inputs)[0]
        errors.append((ours.numpy() - exact[0].numpy(), theirs - exact[0].numpy()))
    ours, theirs = (np.ravel(each) for each in zip(*errors, strict=True))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def _steps_apart(point: _Point, ends: tuple[Any, Any]) -> Any:
    """How far the ends of a range lie from those of training, in steps; per channel."""
    step, below = (one.numpy() for one in point.grid())
    lows, highs = np.abs(-below * step - ends[0]), np.abs((LEVELS - below) * step - ends[1])
    return np.ravel(np.maximum(lows, highs) / step)


def _settled_encoder() -> tuple[EfficientNet, torch.Tensor]:
    """Random weights whose batch norms know the pictures, so that values neither die nor grow."""
    torch.manual_seed(0)
    encoder = EfficientNet(named_config("b0"))
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of all batches
    dice = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 3, 8, 8, generator=dice)
    grey = functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    grey = grey + 0.1 * torch.randn(grey.shape, generator=dice)
    encoder.train()
    encoder(grey)
    return encoder.eval(), grey


class _Observed(nn.Module):
    """The first block's output, and the pooled vector, for which all the others are needed."""

    def __init__(self, encoder: EfficientNet) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = list(self.encoder.block_outputs(image))
        return blocks[0], self.encoder._pool(self.encoder.head(blocks[-1]))


def _observed(encoder: EfficientNet, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    seen: tuple[torch.Tensor, torch.Tensor] = _Observed(encoder)(image)
    return seen


def _graph_of(
    encoder: EfficientNet, grey: torch.Tensor, folder: Path
) -> tuple[Any, list[dict[str, Any]]]:
    """As `quantize` makes it, its biases left alone, and the inputs that it was made on."""
    module = _Observed(encoder).eval()
    model = ov.convert_model(module, example_input=grey[:1], input=[(1, *grey.shape[1:])])
    path = folder / "encoder.xml"
    save_graph(model, path, half_weights=False)
    inputs = [{model.inputs[0].get_any_name(): one[None].numpy()} for one in grey]
    floats = single_cell_layers(read_graph(path))
    return quantize_graph(path, inputs, floats, bias_correction="none"), inputs


def _ranges_of(graph: Any) -> list[tuple[Any, Any]]:
    """Lowest and highest value of every place where the graph rounds activations, in order."""
    found = []
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "FakeQuantize":
            ends = (np.ravel(op.input_value(i).get_node().get_data()) for i in (1, 2))
            found.append(tuple(end if len(end) > 1 else end[0] for end in ends))
    return found

"""What of the grey picture is folded into the stem, and what is not, with the reason.

The three equal channels are: a convolution is linear in its weights. The normalisation is not: the
stem pads the *normalised* picture with zeros, which stand for the mean grey value, so a folded
stem would have to pad the raw picture with that value first: a pass over the picture as long as
the one it saves.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, pad

from mammofm_lite.export.models.efficientnet import EfficientNet, EfficientNetConfig
from mammofm_lite.export.synthetic import PIXEL_MEAN, PIXEL_STD, fill_module


@pytest.fixture(scope="module")
def encoder() -> EfficientNet:
    return fill_module(EfficientNet(EfficientNetConfig("tiny", 0.25, 0.1, 64)), 1)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    grey = np.random.default_rng(0).uniform(0, 1, (1, 1, 24, 16))
    return torch.from_numpy(grey.astype(np.float32))


def test_equal_channels_fold_exactly(encoder: EfficientNet, picture: torch.Tensor) -> None:
    """To float64 the sum over channels is the same; in float32 the last bits differ."""
    weight = encoder.state_dict()["_conv_stem.weight"].double()
    three = conv2d(picture.double().expand(-1, 3, -1, -1), weight, stride=2, padding=1)
    one = conv2d(picture.double(), weight.sum(dim=1, keepdim=True), stride=2, padding=1)
    torch.testing.assert_close(one, three, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        encoder.gray_stem_weight().double(), weight.sum(dim=1, keepdim=True), rtol=0, atol=1e-6
    )


def test_normalisation_folds_inside_but_not_at_the_border(
    encoder: EfficientNet, picture: torch.Tensor
) -> None:
    weight = encoder.gray_stem_weight().detach().double()
    grey = picture.double()
    expected = conv2d((grey - PIXEL_MEAN) / PIXEL_STD, weight, stride=1, padding=1)
    shift = -PIXEL_MEAN / PIXEL_STD * weight.sum(dim=(1, 2, 3))
    folded = conv2d(grey, weight / PIXEL_STD, shift, stride=1, padding=1)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(folded[inside], expected[inside], rtol=0, atol=1e-10)
    assert float((folded - expected).abs().max()) > 1e-2
    filled = pad(grey, (1, 1, 1, 1), value=PIXEL_MEAN)
    exact = conv2d(filled, weight / PIXEL_STD, shift, stride=1)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-10)

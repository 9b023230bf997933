"""The encoder agrees with the reference: keys, padding, and features at every depth."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.efficientnet import (
    EfficientNet,
    EfficientNetConfig,
    named_config,
    static_padding,
)
from mammofm_lite.export.synthetic import fill_module, normalise, synthetic_image

FLOAT32_TOLERANCE = 1e-4  # largest difference over the standard deviation
POOLED_TOLERANCE = 1e-5  # a mean over space averages errors out


def _image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(normalise(synthetic_image(height, width, 1)))


def _error(expected: np.ndarray, actual: torch.Tensor) -> float:
    assert expected.shape == tuple(actual.shape)
    return float(np.abs(actual.numpy() - expected).max() / expected.std())


def _statistics(tensors: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, std, shape = zip(
        *((float(x.mean()), float(x.std()), tuple(x.shape)) for x in tensors), strict=True
    )
    return np.array(mean), np.array(std), np.array(shape)


def _check_statistics(golden: dict[str, np.ndarray], prefix: str, size: str, tensors):
    mean, std, shape = _statistics(tensors)
    np.testing.assert_array_equal(shape, golden[f"{prefix}_shape_{size}"])
    expected_std = golden[f"{prefix}_std_{size}"]
    assert np.all(np.abs(std - expected_std) <= FLOAT32_TOLERANCE * expected_std)
    assert np.all(
        np.abs(mean - golden[f"{prefix}_mean_{size}"]) <= FLOAT32_TOLERANCE * expected_std
    )


# ---- structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_state_dict_is_the_manifest_in_order(reference: Path, name: str):
    manifest = json.loads((reference / f"manifest_{name}.json").read_text())
    with torch.device("meta"):
        state = EfficientNet(named_config(name)).state_dict()
    ours = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()]
    assert ours == manifest


# Published parameter counts of EfficientNet, less the 1000-class layer we do not have.
@pytest.mark.parametrize(
    ("name", "total", "head"),
    [("b0", 5_288_548, 1280), ("b2", 9_109_994, 1408), ("b5", 30_389_784, 2048)],
)
def test_parameter_count_is_the_published_one(name: str, total: int, head: int):
    with torch.device("meta"):
        network = EfficientNet(named_config(name))
    assert network.config.head_channels == head
    assert sum(p.numel() for p in network.parameters()) == total - 1000 * (head + 1)


PADDING_TABLE = {  # strided convolutions of facts 1.2, as (before, after)
    ("b5", "progressive"): {3: (0, 1), 8: (1, 2), 13: (1, 1), 27: (2, 2)},
    ("b5", "nominal"): {3: (0, 1), 8: (1, 2), 13: (0, 1), 27: (1, 2)},
    ("b2", "progressive"): {2: (0, 1), 5: (2, 2), 8: (1, 1), 16: (2, 2)},
    ("b2", "nominal"): {2: (0, 1), 5: (1, 2), 8: (0, 1), 16: (1, 2)},
}


@pytest.mark.parametrize(("name", "rule"), PADDING_TABLE)
def test_static_padding_is_the_reference_table(name: str, rule):
    config = named_config(name, rule)
    strided = {i: spec.padding for i, spec in enumerate(config.blocks) if spec.stride == 2}
    assert config.stem_padding == (0, 1)
    assert strided == PADDING_TABLE[name, rule]
    symmetric = {(spec.kernel, spec.padding) for spec in config.blocks if spec.stride == 1}
    assert symmetric == {(3, (1, 1)), (5, (2, 2))}


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 600))
def test_static_padding_keeps_the_nominal_size(kernel: int, stride: int, nominal_px: int):
    before, after = static_padding(kernel, stride, nominal_px)
    size = (nominal_px + before + after - kernel) // stride + 1
    assert 0 <= after - before <= 1
    assert size == math.ceil(nominal_px / stride)


def test_pyramid_blocks_are_the_reference_ones():
    b5, b2 = named_config("b5"), named_config("b2")
    assert (b5.c3_block, b5.c4_block, b5.pyramid_channels) == (26, 37, (176, 512, 2048))
    assert (b2.c3_block, b2.c4_block, b2.pyramid_channels) == (15, 21, (120, 352, 1408))
    assert b5.endpoint_blocks == (2, 7, 12, 26, 38)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["b0", "b2", "b5"]),
    st.sampled_from(["progressive", "nominal"]),
    st.integers(33, 400),
    st.integers(33, 400),
)
def test_feature_shapes_predict_the_network(name: str, rule, height: int, width: int):
    config = named_config(name, rule)
    with torch.device("meta"):
        features = EfficientNet(config).eval().features(torch.empty(1, 3, height, width))
    shapes = config.feature_shapes((height, width))
    assert shapes == {key: tuple(getattr(features, key).shape) for key in shapes}


def test_full_size_shapes():
    shapes = named_config("b5").feature_shapes((1520, 912))
    assert shapes["map"] == (1, 2048, 48, 29)
    assert shapes["c3"] == (1, 176, 95, 57)
    detector = named_config("b5", "nominal").feature_shapes((1520, 912))
    assert detector["map"] == (1, 2048, 47, 28)


def test_unknown_encoder_is_refused():
    with pytest.raises(ExportError, match=r"unknown encoder 'b9': expected one of b0, b2, b5"):
        named_config("b9")


def test_gray_stem_equals_equal_channels():
    config = EfficientNetConfig("tiny", 0.25, 0.1, 64)
    network = fill_module(EfficientNet(config), 4)
    image = _image(64, 48)
    three = torch.nn.functional.conv2d(image, network._conv_stem.weight)
    one = torch.nn.functional.conv2d(image[:, :1], network.gray_stem_weight())
    torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-6)


# ---- golden features ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["320x192", "301x187"])
def test_b2_pooled_equals_stored(stored, b2: EfficientNet, size: str):
    height, width = map(int, size.split("x"))
    pooled, _ = b2(_image(height, width))
    assert _error(stored("encoder_b2")[f"pooled_{size}"], pooled[0]) <= POOLED_TOLERANCE


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_320x192_equals_reference(golden, request, name: str):
    expected, network = golden(f"encoder_{name}"), request.getfixturevalue(name)
    endpoints = network.endpoints(_image(320, 192))
    feature_map = endpoints["reduction_6"]
    assert _error(expected["raw_320x192"], feature_map[0]) <= FLOAT32_TOLERANCE
    assert _error(expected["pooled_320x192"], feature_map[0].mean((1, 2))) <= POOLED_TOLERANCE
    _check_statistics(expected, "endpoint", "320x192", list(endpoints.values()))


ENDPOINT_SPACING = {1: 8, 2: 4, 3: 2, 4: 1, 5: 1}


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_odd_size_equals_reference_at_every_stride(golden, request, name: str):
    expected, network = golden(f"encoder_{name}"), request.getfixturevalue(name)
    endpoints = network.endpoints(_image(301, 187))
    for level, spacing in ENDPOINT_SPACING.items():
        output = endpoints[f"reduction_{level}"][0, ::8, ::spacing, ::spacing]
        assert _error(expected[f"reduction_{level}_slice_301x187"], output) <= FLOAT32_TOLERANCE
    feature_map = endpoints["reduction_6"][0]
    assert _error(expected["raw_slice_301x187"], feature_map[::8]) <= FLOAT32_TOLERANCE
    assert _error(expected["pooled_301x187"], feature_map.mean((1, 2))) <= POOLED_TOLERANCE


def test_full_size_equals_reference_at_every_block(golden, b5: EfficientNet):
    expected = golden("encoder_b5")
    statistics, endpoints = [], []
    for index, output in enumerate(b5.block_outputs(_image(1520, 912))):
        statistics.append(_statistics([output]))
        if index in b5.config.endpoint_blocks:
            endpoints.append(output)
    mean, std, shape = (np.concatenate(values) for values in zip(*statistics, strict=True))
    scale = expected["block_std_1520x912"]
    np.testing.assert_array_equal(shape, expected["block_shape_1520x912"])
    assert np.all(np.abs(std - scale) <= FLOAT32_TOLERANCE * scale)
    assert np.all(np.abs(mean - expected["block_mean_1520x912"]) <= FLOAT32_TOLERANCE * scale)
    feature_map = b5.head(output)
    _check_statistics(expected, "endpoint", "1520x912", [*endpoints, feature_map])
    pooled = feature_map[0].mean((1, 2))
    assert _error(expected["pooled_1520x912"], pooled) <= POOLED_TOLERANCE
    part = feature_map[0, ::64, ::6, ::4]
    assert _error(expected["raw_slice_1520x912"], part) <= FLOAT32_TOLERANCE


def test_padding_rule_changes_features():
    """The two encoders share weights and still differ: mixing them up must not go unnoticed."""
    progressive = fill_module(EfficientNet(named_config("b2")), 1)
    nominal = fill_module(EfficientNet(named_config("b2", "nominal")), 1)
    image = _image(128, 128)
    difference = progressive(image)[0] - nominal(image)[0]
    assert difference.abs().max() > 0.1 * progressive(image)[0].std()

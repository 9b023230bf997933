"""The encoder's graph: golden features through the CPU plugin, resize and input included."""

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite.errors import ExportError
from mammofm_lite.export.graphs import compare, cubic_matrix, encoder_graph, operation_census
from mammofm_lite.export.models.efficientnet import EfficientNet, EfficientNetConfig, named_config
from mammofm_lite.export.synthetic import fill_module, normalise, synthetic_image

SEED = 1
FLOAT32_TOLERANCE = 1e-4  # largest difference over the standard deviation


def _uint8(height: int, width: int) -> np.ndarray:
    return synthetic_image(height, width, SEED)[None, None]


@pytest.fixture(scope="module")
def tiny() -> EfficientNet:
    return fill_module(EfficientNet(EfficientNetConfig("tiny", 0.25, 0.4, 128)), SEED)


# ---- golden -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_320x192_equals_reference(golden, run_ir, request, name: str):
    expected = golden(f"encoder_{name}")
    model = encoder_graph(request.getfixturevalue(name), (320, 192))
    result = run_ir(model, {"image": _uint8(320, 192)})
    wanted = {"pooled": expected["pooled_320x192"][None], "map": expected["raw_320x192"][None]}
    errors = compare(wanted, result)
    assert max(errors.values()) <= FLOAT32_TOLERANCE, errors


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_odd_size_equals_reference(golden, run_ir, request, name: str):
    expected = golden(f"encoder_{name}")
    outputs = ("pooled", "map", "c3")
    model = encoder_graph(request.getfixturevalue(name), (301, 187), outputs=outputs)
    result = run_ir(model, {"image": _uint8(301, 187)})
    actual = {
        "pooled": result["pooled"][0],
        "map": result["map"][0, ::8],
        "c3": result["c3"][0, ::8],
    }
    wanted = {
        "pooled": expected["pooled_301x187"],
        "map": expected["raw_slice_301x187"],
        "c3": expected["reduction_4_slice_301x187"],
    }
    errors = compare(wanted, actual)
    assert max(errors.values()) <= FLOAT32_TOLERANCE, errors


def test_full_size_equals_reference(golden, encoded_ir):
    expected = golden("encoder_b5")
    result = encoded_ir("image")
    feature_map = result["map"][0]
    actual = {"pooled": result["pooled"][0], "map": feature_map[::64, ::6, ::4]}
    wanted = {"pooled": expected["pooled_1520x912"], "map": expected["raw_slice_1520x912"]}
    errors = compare(wanted, actual)
    assert max(errors.values()) <= FLOAT32_TOLERANCE, errors
    std = float(expected["raw_std_1520x912"])
    assert abs(feature_map.mean() - expected["raw_mean_1520x912"]) <= FLOAT32_TOLERANCE * std
    assert abs(feature_map.std() - std) <= FLOAT32_TOLERANCE * std


# ---- contract -----------------------------------------------------------------------------------


def test_graph_is_static_and_named(tiny):
    model = encoder_graph(tiny, (96, 64), outputs=("pooled", "map", "c3", "c4"))
    shapes = tiny.config.feature_shapes((96, 64))
    (image,) = model.inputs
    assert image.names == {"image"}
    assert image.element_type == ov.Type.u8
    assert list(image.shape) == [1, 1, 96, 64]
    assert [(port.any_name, tuple(port.shape)) for port in model.outputs] == [
        (name, shapes[name]) for name in ("pooled", "map", "c3", "c4")
    ]


def test_map_and_c5_are_one_output_with_two_names(tiny, run_ir):
    model = encoder_graph(tiny, (96, 64), outputs=("map", "c3", "c5"))
    assert [set(port.names) for port in model.outputs] == [{"map", "c5"}, {"c3"}]
    result = run_ir(model, {"image": _uint8(96, 64)})
    assert result["map"] is not None
    np.testing.assert_array_equal(result["map"], result["c5"])


def test_pyramid_outputs_equal_torch(tiny, run_ir):
    names = ("pooled", "c3", "c4", "c5")
    result = run_ir(encoder_graph(tiny, (96, 64), outputs=names), {"image": _uint8(96, 64)})
    features = tiny.features(torch.from_numpy(normalise(_uint8(96, 64)[0, 0])))
    errors = compare({name: getattr(features, name) for name in names}, result)
    assert max(errors.values()) <= FLOAT32_TOLERANCE, errors


def test_census_counts_the_network():
    """No padding or batch norm survives as an operation of its own; the stem reads one channel."""
    config = named_config("b0")
    model = encoder_graph(fill_module(EfficientNet(config), SEED), (96, 64))
    census = operation_census(model)
    blocks = config.blocks
    expanding = sum(spec.expand != 1 for spec in blocks)
    assert census["GroupConvolution"] == len(blocks)
    # stem, head, and per block: squeeze, excite, project, perhaps expand
    assert census["Convolution"] == 2 + 3 * len(blocks) + expanding
    assert "BatchNormInference" not in census
    assert "Pad" not in census
    stem = next(op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    assert list(stem.input(1).get_shape()) == [32, 1, 3, 3]


def test_means_over_large_maps_are_split(tiny, run_ir):
    """One long float32 sum per channel would cost four digits: see the full-size golden test."""
    census = operation_census(encoder_graph(tiny, (192, 128)))
    stage_1_blocks = sum(spec.out_channels == 8 for spec in tiny.config.blocks[:1])
    assert census["AvgPool"] == stage_1_blocks == 1
    assert "AvgPool" not in operation_census(encoder_graph(tiny, (96, 64)))
    result = run_ir(encoder_graph(tiny, (192, 128)), {"image": _uint8(192, 128)})
    pooled, _ = tiny(torch.from_numpy(normalise(_uint8(192, 128)[0, 0])))
    assert compare({"pooled": pooled}, result)["pooled"] <= FLOAT32_TOLERANCE


def test_export_leaves_the_module_alone(tiny):
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    encoder_graph(tiny, (64, 64))
    assert tiny.config.in_channels == 3
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("pooled", "c9"), r"encoder outputs c9: expected some of pooled, map"),
        ((), r"encoder outputs none: expected"),
    ],
)
def test_unknown_outputs_are_refused(tiny, outputs, message: str):
    with pytest.raises(ExportError, match=message):
        encoder_graph(tiny, (64, 64), outputs=outputs)


# ---- resize -------------------------------------------------------------------------------------


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = cubic_matrix(image.shape[0], height), cubic_matrix(image.shape[1], width)
    return np.clip(np.floor(rows @ image.astype(np.float32) @ columns.T + 0.5), 0, 255)


@pytest.mark.parametrize("size", ["53x31", "64x64", "190x130"])
def test_cubic_resize_is_within_one_grey_level_of_stored(stored, size: str):
    vectors = stored("cubic")
    height, width = map(int, size.split("x"))
    difference = np.abs(_resize(vectors["in"], height, width) - vectors[f"out_{size}"])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(4, 120)] * 4), st.integers(0, 2**31))
def test_cubic_resize_is_within_one_grey_level_of_opencv(sizes, seed: int):
    height, width, new_height, new_width = sizes
    image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_CUBIC)
    assert np.abs(_resize(image, new_height, new_width) - expected).max() <= 1


@given(st.integers(4, 200), st.integers(1, 200))
def test_cubic_weights_keep_a_constant(source_px: int, target_px: int):
    matrix = cubic_matrix(source_px, target_px)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert (matrix != 0).sum(axis=1).max() <= 4


@pytest.mark.parametrize("size", ["512x512", "768x512"])
def test_cubic_resize_equals_the_reference(golden, size: str):
    """All but a few pixels of the picture that the reference's own detector was given."""
    height, width = map(int, size.split("x"))
    wanted = golden("retinanet_b5")[f"image_{size}"]
    difference = np.abs(_resize(synthetic_image(1520, 912, SEED), height, width) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).sum() <= 10


def test_resize_to_same_size_is_identity():
    np.testing.assert_array_equal(cubic_matrix(40, 40), np.eye(40, dtype=np.float32))


def test_graph_resizes_like_the_matrices(tiny, run_ir):
    model = encoder_graph(tiny, (64, 64), source_size=(152, 91))
    assert list(model.input("image").shape) == [1, 1, 152, 91]
    image = synthetic_image(152, 91, SEED)
    result = run_ir(model, {"image": image[None, None]})
    resized = _resize(image, 64, 64).astype(np.uint8)
    pooled, feature_map = tiny(torch.from_numpy(normalise(resized)))
    errors = compare({"pooled": pooled, "map": feature_map}, result)
    assert max(errors.values()) <= FLOAT32_TOLERANCE, errors

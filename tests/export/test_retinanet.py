"""The detector agrees with the reference from anchors to the evaluation's boxes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mammofm_lite.export.models.boxes import (
    Detections,
    anchor_boxes,
    clip_boxes,
    decode_boxes,
    evaluate,
    level_sizes,
    non_max_suppression,
    postprocess,
)
from mammofm_lite.export.models.efficientnet import named_config
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.synthetic import fill_module, normalise

SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE_PX = 1e-2
FLOAT32_TOLERANCE = 1e-4  # largest difference over the standard deviation

DetectorOf = Callable[[int], RetinaNet]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _check(detections: Detections, golden: dict[str, np.ndarray], size: str):
    np.testing.assert_array_equal(detections.labels.numpy(), golden[f"det_labels_{size}"])
    for name, tolerance in (("scores", SCORE_TOLERANCE), ("boxes", BOX_TOLERANCE_PX)):
        expected = golden[f"det_{name}_{size}"]
        actual = getattr(detections, name).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["b2", "b5"])
def test_state_dict_is_the_manifest_in_order(reference: Path, name: str):
    manifest = json.loads((reference / f"manifest_retinanet_{name}.json").read_text())
    with torch.device("meta"):
        config = RetinaNetConfig.with_own_encoder(named_config(name), n_classes=1)
        state = RetinaNet(config).state_dict()
    ours = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()]
    assert ours == manifest


# ---- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["96x64", "100x70"])
def test_anchors_equal_reference_exactly(stored, size: str):
    height, width = map(int, size.split("x"))
    anchors = anchor_boxes((height, width))
    assert anchors.dtype == np.float32
    np.testing.assert_array_equal(anchors, stored("detector_rules")[f"anchors/{size}"])


def test_anchor_count_at_evaluation_size():
    assert anchor_boxes((512, 512)).shape == (49104, 4)
    assert level_sizes((1520, 912)) == ((190, 114), (95, 57), (48, 29), (24, 15), (12, 8))


def test_decoding_and_one_sided_clipping(stored):
    rules = stored("detector_rules")
    boxes = decode_boxes(_tensor(rules["decode/anchors"]), _tensor(rules["decode/deltas"]))
    np.testing.assert_allclose(boxes, rules["decode/boxes_unclipped"], rtol=1e-5, atol=1e-5)
    height, width = map(int, rules["decode/image_h_w"])
    clipped = clip_boxes(boxes, (height, width))
    np.testing.assert_allclose(clipped, rules["decode/boxes_clipped"], rtol=1e-5, atol=1e-5)
    assert (clipped[:, 0] > clipped[:, 2]).any()


def test_suppression_equals_reference(stored):
    rules = stored("detector_rules")
    kept = non_max_suppression(_tensor(rules["nms/boxes"]), _tensor(rules["nms/scores"]), 0.5)
    np.testing.assert_array_equal(kept, rules["nms/keep"])


def test_suppression_is_strict_and_keeps_the_earlier_of_equals():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1]])
    scores = torch.tensor([0.5, 0.4, 0.5])
    assert non_max_suppression(boxes, scores, 0.5).tolist() == [0, 1]
    assert non_max_suppression(boxes, scores, 0.49).tolist() == [0]


def test_inverted_box_overlaps_nothing():
    boxes = torch.tensor([[5.0, 0, 4, 1], [5, 0, 4, 1], [4, 0, 5, 1]])
    assert non_max_suppression(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]


def test_nothing_above_threshold_gives_three_empty_tensors():
    boxes, scores = torch.rand(5, 4), torch.full((5, 2), 0.05)
    nothing = postprocess(boxes, scores)
    assert (nothing.boxes.shape, nothing.scores.shape, nothing.labels.shape) == ((0, 4), (0,), (0,))
    assert nothing.labels.dtype == torch.int64


def test_forward_without_encoder_is_refused():
    detector = RetinaNet(RetinaNetConfig((4, 4, 4), n_classes=1, channels=4))
    with pytest.raises(TypeError, match=r"no encoder of|has no encoder"):
        detector(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("rule", ["progressive", "nominal"])
@pytest.mark.parametrize("size", [(304, 176), (301, 187), (256, 128)])
def test_any_encoder_features_can_be_shared(rule, size):
    """A shared encoder's padding may gain or lose a cell; boxes and scores stay aligned."""
    encoder = named_config("b0", rule)
    config = RetinaNetConfig(encoder.pyramid_channels, n_classes=2, channels=8)
    detector = fill_module(RetinaNet(config), 5)
    shapes = encoder.feature_shapes(size)
    raw = detector.raw(*(torch.rand(shapes[name]) for name in ("c3", "c4", "c5")), size)
    anchors = len(anchor_boxes(size))
    assert raw.scores.shape == (1, anchors, 2)
    assert detector.decode(raw.deltas, size).shape == (1, anchors, 4)


# ---- golden outputs -----------------------------------------------------------------------------


def test_postprocessing_alone_equals_reference(golden):
    raw, expected = golden("retinanet_b5_raw512"), golden("retinanet_b5")
    anchors = _tensor(anchor_boxes((512, 512)))
    boxes = clip_boxes(decode_boxes(anchors, _tensor(raw["reg_512x512"])), (512, 512))
    detections = postprocess(boxes, _tensor(raw["cls_512x512"]))
    _check(detections, expected, "512x512")
    for threshold, name in ((0.05, "005"), (0.2, "020")):
        subset = evaluate(detections, threshold)
        rows = torch.cat([subset.boxes, subset.scores[:, None]], dim=1)
        np.testing.assert_allclose(rows, expected[f"eval_thr{name}_512x512"], rtol=0, atol=1e-3)
    assert len(evaluate(detections, 0.05, max_detections=10).scores) == 10


@pytest.mark.parametrize("size", ["512x512", "768x512"])
def test_one_class_equals_reference(golden, detectors: DetectorOf, size: str):
    expected, detector = golden("retinanet_b5"), detectors(1)
    image = expected[f"image_{size}"]
    features = detector.efficientnet.features(_tensor(normalise(image)))
    pyramid = detector.fpn(features.c3, features.c4, features.c5, image.shape)
    maps = [features.c3, features.c4, features.c5, *pyramid]
    scale = expected[f"feature_std_{size}"]
    for index, feature in enumerate(maps):
        assert tuple(feature.shape) == tuple(expected[f"feature_shapes_{size}"][index])
        mean = expected[f"feature_mean_{size}"][index]
        assert abs(float(feature.mean()) - mean) <= FLOAT32_TOLERANCE * scale[index]
        assert abs(float(feature.std()) - scale[index]) <= FLOAT32_TOLERANCE * scale[index]
    raw = detector.raw(*maps[:3], image.shape)
    boxes = detector.decode(raw.deltas, image.shape)[0]
    _check_raw(raw, expected, size)
    np.testing.assert_array_equal(
        anchor_boxes(image.shape)[::32], expected[f"anchors_slice_{size}"]
    )
    expected_boxes = expected[f"decoded_slice_{size}"]
    np.testing.assert_allclose(boxes[::32], expected_boxes, rtol=0, atol=BOX_TOLERANCE_PX)
    _check(postprocess(boxes, raw.scores[0]), expected, size)


def _check_raw(raw, expected: dict[str, np.ndarray], size: str):
    scores, deltas = raw.scores[0, ::16].numpy(), raw.deltas[0, ::32].numpy()
    expected_scores, expected_deltas = expected[f"cls_slice_{size}"], expected[f"reg_slice_{size}"]
    np.testing.assert_allclose(
        scores.reshape(expected_scores.shape), expected_scores, rtol=0, atol=SCORE_TOLERANCE
    )
    error = np.abs(deltas - expected_deltas).max() / expected_deltas.std()
    assert error <= FLOAT32_TOLERANCE


def test_three_classes_are_suppressed_together(golden, detectors: DetectorOf):
    expected, detector = golden("retinanet_b5_c3"), detectors(3)
    image = _tensor(normalise(golden("retinanet_b5")["image_512x512"]))
    features = detector.efficientnet.features(image)
    raw = detector.raw(features.c3, features.c4, features.c5, (512, 512))
    _check_raw(raw, expected, "512x512")
    detections = postprocess(detector.decode(raw.deltas, (512, 512))[0], raw.scores[0])
    assert len(detections.scores) == 106  # class by class it would be 109
    _check(detections, expected, "512x512")

"""The heads' graphs: golden results through the CPU plugin."""

from collections.abc import Mapping

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from mammofm_lite.export.graphs import (
    LocalizationOptions,
    candidates_graph,
    compare,
    diagnosis_graph,
    encoder_graph,
    localization_graph,
    operation_census,
    prognosis_graph,
    suppress,
)
from mammofm_lite.export.models.asymmetry import AsymmetryConfig, AsymmetryHead, PrognosisModel
from mammofm_lite.export.models.boxes import non_max_suppression
from mammofm_lite.export.models.clip import ClipProjections, normalised, pool_text
from mammofm_lite.export.models.diagnosis import DiagnosisHead, LabelGroup, LinearClassifier
from mammofm_lite.export.models.efficientnet import named_config
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.synthetic import (
    fill_module,
    synthetic_asym_features,
    synthetic_image,
    synthetic_tensor,
    synthetic_vector,
)

SEED = 1
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE_PX = 1e-2
PROBABILITY_TOLERANCE = 1e-5
RISK_TOLERANCE = 1e-6
HEATMAP_TOLERANCE = 1e-5  # relative to the largest value
IMAGE_HEATMAP_TOLERANCE = 5e-5  # the same, with the encoder's float32 error in it
PYRAMID = ("c3", "c4", "c5")


# ---- localization -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector_features(golden, detectors, run_ir):
    """C3, C4, C5 of the golden pictures by the detector's own encoder, through the IR."""
    encoder = detectors(1).efficientnet
    features = {}
    for size in ("512x512", "768x512"):
        image = golden("retinanet_b5")[f"image_{size}"]
        model = encoder_graph(encoder, image.shape, outputs=PYRAMID)
        result = run_ir(model, {"image": image[None, None]})
        features[size] = {name: result[name] for name in PYRAMID}
    return features


def _check_boxes(result: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray], size: str):
    np.testing.assert_array_equal(result["labels"], golden[f"det_labels_{size}"])
    for name, tolerance in (("scores", SCORE_TOLERANCE), ("boxes", BOX_TOLERANCE_PX)):
        expected = golden[f"det_{name}_{size}"]
        np.testing.assert_allclose(result[name], expected, rtol=0, atol=tolerance)


def _shapes(features: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in features.items()}


@pytest.mark.parametrize("size", ["512x512", "768x512"])
def test_boxes_equal_reference(golden, detectors, detector_features, run_ir, size: str):
    features = detector_features[size]
    image_size = tuple(map(int, size.split("x")))
    options = LocalizationOptions(image_size, image_size, max_detections=1000)
    model = localization_graph(detectors(1), _shapes(features), options)
    _check_boxes(run_ir(model, features), golden("retinanet_b5"), size)


def test_three_classes_are_suppressed_together(golden, detectors, detector_features, run_ir):
    features = detector_features["512x512"]
    options = LocalizationOptions((512, 512), (512, 512), max_detections=1000)
    result = run_ir(localization_graph(detectors(3), _shapes(features), options), features)
    assert len(result["scores"]) == 106
    _check_boxes(result, golden("retinanet_b5_c3"), "512x512")


def test_raw_outputs_equal_reference(golden, detectors, detector_features, run_ir):
    features = detector_features["512x512"]
    model = candidates_graph(detectors(1), _shapes(features), (512, 512))
    result = run_ir(model, features)
    expected = golden("retinanet_b5_raw512")["cls_512x512"][:, 0]
    np.testing.assert_allclose(result["all_scores"][0], expected, rtol=0, atol=SCORE_TOLERANCE)
    boxes = golden("retinanet_b5")["decoded_slice_512x512"]
    np.testing.assert_allclose(result["all_boxes"][0, ::32], boxes, rtol=0, atol=BOX_TOLERANCE_PX)


def test_evaluation_step_is_in_the_options(golden, detectors, detector_features, run_ir):
    features = detector_features["512x512"]
    options = LocalizationOptions((512, 512), (1520, 912), score_threshold=0.2, max_detections=20)
    result = run_ir(localization_graph(detectors(1), _shapes(features), options), features)
    expected = golden("retinanet_b5")["eval_thr020_512x512"][:20]
    np.testing.assert_allclose(result["scores"], expected[:, 4], rtol=0, atol=SCORE_TOLERANCE)
    scale = np.array([912 / 512, 1520 / 512] * 2)
    np.testing.assert_allclose(result["boxes"], expected[:, :4] * scale, rtol=0, atol=3e-2)


def test_whole_way_from_the_prepared_view(golden, detectors, run_ir):
    """The graph's own resize may differ by a grey level: the boxes that matter stay."""
    detector = detectors(1)
    encoder = encoder_graph(detector.efficientnet, (512, 512), (1520, 912), PYRAMID)
    image = synthetic_image(1520, 912, SEED)
    features = run_ir(encoder, {"image": image[None, None]})
    options = LocalizationOptions((512, 512), (512, 512), score_threshold=0.2)
    features = {name: features[name] for name in PYRAMID}
    result = run_ir(localization_graph(detector, _shapes(features), options), features)
    expected = golden("retinanet_b5")["eval_thr020_512x512"]
    assert len(result["scores"]) == len(expected)
    np.testing.assert_allclose(result["scores"], expected[:, 4], rtol=0, atol=1e-2)


def test_no_box_gives_empty_outputs(run_ir):
    detector = fill_module(RetinaNet(RetinaNetConfig((4, 4, 4), n_classes=2, channels=8)), SEED)
    shapes = {"c3": (1, 4, 4, 4), "c4": (1, 4, 2, 2), "c5": (1, 4, 2, 2)}
    options = LocalizationOptions((64, 64), (64, 64), score_threshold=0.999)
    model = localization_graph(detector, shapes, options)
    result = run_ir(model, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert result["boxes"].shape == (0, 4)
    assert result["scores"].shape == (0,)
    assert result["labels"].shape == (0,)


def test_features_of_another_encoder_equal_torch(run_ir):
    size = (152, 88)
    encoder = named_config("b0")
    config = RetinaNetConfig(encoder.pyramid_channels, n_classes=2, channels=8)
    detector = fill_module(RetinaNet(config), SEED)
    shapes = {name: encoder.feature_shapes(size)[name] for name in PYRAMID}
    rng = np.random.default_rng(0)
    features = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    result = run_ir(candidates_graph(detector, shapes, size), features)
    raw = detector.raw(*(torch.from_numpy(features[name]) for name in PYRAMID), size)
    expected = {"all_boxes": detector.decode(raw.deltas, size), "all_scores": raw.scores.amax(2)}
    assert max(compare(expected, result).values()) <= 1e-4


def _suppression_model(count: int, options: LocalizationOptions) -> ov.Model:
    boxes, scores = ops.parameter([1, count, 4], np.float32), ops.parameter([1, count], np.float32)
    labels = ops.parameter([1, count], np.int64)
    for node, name in ((boxes, "all_boxes"), (scores, "all_scores"), (labels, "all_labels")):
        node.output(0).get_tensor().set_names({name})
    # The identity keeps a candidate from being both an input and an output.
    outputs = [
        ops.add(node, np.array(0, kind))
        for node, kind in ((boxes, np.float32), (scores, np.float32), (labels, np.int64))
    ]
    return suppress(ov.Model([op.output(0) for op in outputs], [boxes, scores, labels]), options)


def _suppressed(run_ir, boxes: np.ndarray, scores: np.ndarray, **options) -> np.ndarray:
    """Indices that survive, carried through the labels."""
    model = _suppression_model(len(boxes), LocalizationOptions((64, 64), (64, 64), **options))
    inputs = {
        "all_boxes": boxes[None],
        "all_scores": scores[None],
        "all_labels": np.arange(len(boxes))[None],
    }
    return run_ir(model, inputs)["labels"]


def test_suppression_equals_reference(stored, run_ir):
    rules = stored("detector_rules")
    kept = _suppressed(run_ir, rules["nms/boxes"], rules["nms/scores"], score_threshold=0.0)
    np.testing.assert_array_equal(kept, rules["nms/keep"])


def test_suppression_of_inverted_boxes_equals_torch(stored, run_ir):
    """One-sided clipping inverts boxes; OpenVINO alone would swap their corners."""
    boxes = np.concatenate([stored("detector_rules")["decode/boxes_clipped"]] * 2)
    inverted = (boxes[:, 0] > boxes[:, 2]) | (boxes[:, 1] > boxes[:, 3])
    assert inverted.any()
    scores = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, len(boxes)))
    scores = scores.astype(np.float32)
    expected = non_max_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    np.testing.assert_array_equal(_suppressed(run_ir, boxes, scores), expected)


def test_score_threshold_is_strict(run_ir):
    boxes = np.array([[x, 0, x + 1, 1] for x in range(0, 6, 2)], np.float32)
    scores = np.array([0.05, np.nextafter(np.float32(0.05), np.float32(1)), 0.5], np.float32)
    np.testing.assert_array_equal(_suppressed(run_ir, boxes, scores), [2, 1])


@pytest.mark.parametrize("seed", range(4))
def test_random_suppression_equals_torch(run_ir, seed: int):
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 40, (200, 2)), rng.integers(0, 16, (200, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.06, 0.99, 200)).astype(np.float32)
    expected = non_max_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    np.testing.assert_array_equal(_suppressed(run_ir, boxes, scores, max_detections=200), expected)


# ---- prognosis ----------------------------------------------------------------------------------

LEARNED = {
    name: float(synthetic_tensor(f"learned_asym_{name}", (), SEED)) for name in ("mean", "std")
}
# Cases whose heatmaps have one size form one model, a case in the place of a year.
CASE_GROUPS = (
    {
        "default": AsymmetryConfig(),
        "learned": AsymmetryConfig(**LEARNED),
        "latent_flip": AsymmetryConfig(alignment="latent"),
        "vector_stretch": AsymmetryConfig(stretch="vector"),
        "no_stretch": AsymmetryConfig(stretch="none"),
        "topk3": AsymmetryConfig(topk=3),
        "batchnorm": AsymmetryConfig(use_bn=True),
    },
    {"fixed_stride": AsymmetryConfig(flexible=False)},
    {"latent_8x4": AsymmetryConfig(latent_height=8, latent_width=4)},
)
INPUTS = {"cc_left": "L-CC", "cc_right": "R-CC", "mlo_left": "L-MLO", "mlo_right": "R-MLO"}


def _graph(configs: Mapping[str, AsymmetryConfig]) -> ov.Model:
    heads = [fill_module(AsymmetryHead(config), SEED) for config in configs.values()]
    return prognosis_graph(PrognosisModel(dict(enumerate(heads))), (2048, 48, 29))


def _inputs(exam, usable=(1, 1), missing=()) -> dict[str, np.ndarray]:
    maps = {
        name: np.zeros_like(exam[view]) if view in missing else exam[view]
        for name, view in INPUTS.items()
    }
    return {**maps, "usable": np.array(usable, np.float32)}


def _check_case(golden, case, result, index=0, row=0, tolerance=HEATMAP_TOLERANCE):
    """Compare year ``index`` of a result with exam ``row`` of a recorded case."""
    expected = {key.removeprefix(f"{case}/"): value for key, value in golden.items()}
    actual = {name: array[index] for name, array in result.items()}
    np.testing.assert_allclose(actual["score"], golden[f"{case}/risk"][row], atol=RISK_TOLERANCE)
    np.testing.assert_allclose(actual["asymmetry"], golden[f"{case}/raw_mean"][row], rtol=tolerance)
    for axis, projection in enumerate(("CC", "MLO")):
        heatmap = expected[f"{projection}_heatmap"][row]
        limit = tolerance * heatmap.max()
        np.testing.assert_allclose(actual["heatmap"][axis], heatmap, rtol=0, atol=limit)
        if f"{case}/{projection}_row_col" in golden:
            peak = golden[f"{case}/{projection}_row_col"][row]
            np.testing.assert_array_equal(actual["peak"][axis], peak)


@pytest.fixture(scope="module")
def exams():
    return [synthetic_asym_features(SEED, exam=index) for index in range(2)]


@pytest.mark.parametrize("configs", CASE_GROUPS, ids=lambda configs: next(iter(configs)))
def test_asymmetry_modes_equal_reference(golden, exams, run_ir, configs):
    result = run_ir(_graph(configs), _inputs(exams[0]))
    for index, case in enumerate(configs):
        _check_case(golden("asymmetry"), case, result, index)
    np.testing.assert_allclose(result["risk"], np.maximum.accumulate(result["score"]))


@pytest.fixture(scope="module")
def default_prognosis():
    compiled = ov.Core().compile_model(
        _graph({"default": AsymmetryConfig()}), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(inputs):
        result = compiled(inputs)
        return {port.any_name: np.array(result[port]) for port in compiled.outputs}

    return run


@pytest.mark.parametrize(
    ("case", "usable", "missing"),
    [
        ("cc_missing", (0, 1), ("L-CC", "R-CC")),
        ("left_cc_missing", (0, 1), ("L-CC",)),
        ("right_cc_missing", (1, 1), ("R-CC",)),
        ("mlo_missing", (1, 0), ("L-MLO", "R-MLO")),
        ("all_missing", (0, 0), tuple(INPUTS.values())),
    ],
)
def test_missing_views_equal_reference(golden, exams, default_prognosis, case, usable, missing):
    result = default_prognosis(_inputs(exams[0], usable, missing))
    _check_case(golden("asymmetry"), case, result)


def test_every_exam_of_a_batch_equals_reference(golden, exams, default_prognosis):
    runs = [(exams[0], (1, 1), ()), (exams[1], (1, 1), ()), (exams[1], (0, 1), ("L-CC", "R-CC"))]
    for row, run in enumerate(runs):
        _check_case(golden("asymmetry"), "batch3", default_prognosis(_inputs(*run)), row=row)


@pytest.mark.parametrize("alignment", [None, "pixel", "latent"])
def test_images_equal_reference(golden, encoded_ir, run_ir, alignment):
    maps = {
        view: encoded_ir(view, alignment == "pixel" and view.startswith("R"))["map"]
        for view in INPUTS.values()
    }
    result = run_ir(_graph({"year": AsymmetryConfig(alignment=alignment)}), _inputs(maps))
    case = f"align_{alignment}"
    _check_case(golden("prognosis_images"), case, result, tolerance=IMAGE_HEATMAP_TOLERANCE)


def test_prognosis_graph_stretches_each_difference_once():
    heads = {}
    for year in range(1, 6):
        head = AsymmetryHead(AsymmetryConfig(channels=8))
        head.cc_stretch_params.data += year
        head.mlo_stretch_params.data -= year
        heads[year] = head
    model = prognosis_graph(PrognosisModel(heads), (8, 12, 10))
    assert operation_census(model)["Convolution"] == 5 * 2
    assert {port.any_name: tuple(port.shape) for port in model.outputs} == {
        "score": (5,),
        "risk": (5,),
        "heatmap": (5, 2, 11, 9),
        "peak": (5, 2, 2),
        "asymmetry": (5,),
    }


# ---- diagnosis ----------------------------------------------------------------------------------


def test_diagnosis_equals_reference(golden, run_ir):
    expected = golden("clip_classifier")
    clip = fill_module(ClipProjections(2048, 768, 512, "linear"), SEED)
    hidden = torch.from_numpy(synthetic_vector("text/hidden", (4, 9, 768), SEED))
    pooled_text = pool_text(hidden, torch.from_numpy(expected["attention_mask"]), "eos")
    text = normalised(clip.text_projection(pooled_text))
    density = fill_module(
        LinearClassifier(2048, 4), SEED, lambda key: key.replace("classifier.", "classifier4.")
    )
    head = DiagnosisHead(
        [
            LabelGroup("malignancy", "binary", fill_module(LinearClassifier(2048, 1), SEED)),
            LabelGroup("density", "categorical", density),
            LabelGroup("prompts", "zero_shot", text),
            LabelGroup("pair", "zero_shot", text[:2]),
        ],
        clip.image_projection,
    )
    model = diagnosis_graph(head, 2048)
    parts = (
        expected["classifier_binary/prob"][:, None],
        expected["classifier_density/prob"],
        expected["linear/zero_shot_prob_all4"],
        expected["linear/zero_shot_prob_pair01"],
    )
    wanted = np.concatenate(parts, axis=1)
    for row, pooled in enumerate(expected["image_pooled"]):
        result = run_ir(model, {"pooled": pooled[None]})
        np.testing.assert_allclose(
            result["probabilities"][0], wanted[row], rtol=0, atol=PROBABILITY_TOLERANCE
        )
        embedding = expected["linear/image_embeddings"][row]
        np.testing.assert_allclose(
            result["image_embedding"][0], embedding, rtol=0, atol=PROBABILITY_TOLERANCE
        )


def test_mlp_projection_equals_reference(golden, run_ir):
    expected = golden("clip_classifier")
    clip = fill_module(ClipProjections(2048, 768, 512, "mlp"), SEED)
    text = torch.from_numpy(expected["mlp/text_embeddings"])
    head = DiagnosisHead([LabelGroup("prompts", "zero_shot", text)], clip.image_projection)
    result = run_ir(diagnosis_graph(head, 2048), {"pooled": expected["image_pooled"][:1]})
    wanted = {
        "probabilities": expected["mlp/zero_shot_prob_all4"][:1],
        "image_embedding": expected["mlp/image_embeddings"][:1],
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(result[name], value, rtol=0, atol=PROBABILITY_TOLERANCE)


def test_diagnosis_without_projection_has_one_output():
    head = DiagnosisHead([LabelGroup("malignancy", "binary", LinearClassifier(8, 1))])
    model = diagnosis_graph(head, 8)
    assert [port.any_name for port in model.outputs] == ["probabilities"]
    assert tuple(model.output("probabilities").shape) == (1, 1)


# ---- comparison ---------------------------------------------------------------------------------


def test_compare_measures_against_the_spread():
    expected = {"spread": np.array([0.0, 2.0]), "equal": np.array([4.0, 4.0]), "none": np.empty(0)}
    actual = {"spread": [0.0, 2.5], "equal": [4.0, 5.0], "none": [], "other": [1.0]}
    assert compare(expected, actual) == {"spread": 0.5, "equal": 0.25, "none": 0.0}


def test_compare_takes_another_shape_or_nan_for_a_failure():
    assert compare({"x": np.zeros(2)}, {"x": np.zeros(3)}) == {"x": float("inf")}
    assert compare({"x": np.ones(2)}, {"x": np.array([1.0, np.nan])}) == {"x": float("inf")}
    with pytest.raises(KeyError, match="missing"):
        compare({"missing": np.zeros(1)}, {})

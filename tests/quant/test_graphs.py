"""One graph through quantization, against the arithmetic written out."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from scipy.signal import correlate

from mammofm_lite._openvino import cpu_properties, make_core
from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.errors import ExportError
from mammofm_lite.export.report_part import decode_logits
from mammofm_lite.quant.layers import (
    bypass,
    layer_names,
    never_quantized,
    operation_runs,
    single_cell_layers,
    treatment,
)
from mammofm_lite.quant.ptq import compress_weights, quantize_graph, read_graph, save_graph

DEMO = demo_bundle_path()


def small_graph(path: Path) -> np.ndarray:
    """Write a graph of one convolution 2 -> 3 channels, 3 x 3; its weights."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    image = ops.parameter([1, 2, 8, 8], np.float32, "image")
    layer = ops.convolution(image, weights, [1, 1], [1, 1], [1, 1], [1, 1], name="layer")
    layer.output(0).get_tensor().set_names({"map"})
    image.output(0).get_tensor().set_names({"image"})
    ov.save_model(ov.Model([layer], [image], "small"), str(path), compress_to_fp16=False)
    return weights


def run(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    compiled = make_core().compile_model(model, "CPU", cpu_properties(1))
    return np.array(compiled(inputs)[compiled.output(0)])


@pytest.fixture
def inputs() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"image": rng.uniform(-1, 3, (1, 2, 8, 8)).astype(np.float32)} for _ in range(4)]


def test_a_quantized_convolution_is_the_arithmetic_of_integers(
    tmp_path: Path, inputs: list[dict[str, np.ndarray]]
) -> None:
    original = small_graph(tmp_path / "small.xml")
    model = quantize_graph(tmp_path / "small.xml", inputs, [])
    layer = next(op for op in model.get_ops() if op.get_type_name() == "Convolution")
    scaled = layer.input_value(1).get_node()
    integers = scaled.input_value(0).get_node().input_value(0).get_node().get_data()
    scale = scaled.input_value(1).get_node().get_data()
    assert integers.dtype == np.int8
    # The overflow fix: 255 * 64 * 2 fits 16 bits, 255 * 127 * 2 does not.
    assert np.abs(integers.astype(int)).max() in (63, 64)
    weights = integers * scale
    assert np.abs(weights - original).max() <= 0.51 * scale.max()

    levels = layer.input_value(0).get_node()
    assert levels.get_type_name() == "FakeQuantize"
    assert levels.get_attributes()["levels"] == 256
    low, high = (float(levels.input_value(i).get_node().get_data().item()) for i in (1, 2))
    picture = inputs[0]["image"][0]
    step = (high - low) / 255
    quantized = np.round((np.clip(picture, low, high) - low) / step) * step + low
    padded = np.pad(quantized, ((0, 0), (1, 1), (1, 1)))
    expected = np.stack([correlate(padded, kernel, "valid")[0] for kernel in weights])
    np.testing.assert_allclose(run(model, inputs[0])[0], expected, rtol=0, atol=1e-4)


def test_float_layers_stay_float_and_a_bypass_restores(
    tmp_path: Path, inputs: list[dict[str, np.ndarray]]
) -> None:
    path = tmp_path / "small.xml"
    small_graph(path)
    exact = run(read_graph(path), inputs[0])
    quantized = quantize_graph(path, inputs, [])
    assert np.abs(run(quantized, inputs[0]) - exact).max() > 1e-3
    restored = bypass(quantized, read_graph(path), ["layer"])
    np.testing.assert_allclose(run(restored, inputs[0]), exact, rtol=0, atol=1e-5)
    kept = quantize_graph(path, inputs, ["layer"])
    np.testing.assert_allclose(run(kept, inputs[0]), exact, rtol=0, atol=1e-5)


def test_nothing_to_calibrate_on_is_told(tmp_path: Path) -> None:
    small_graph(tmp_path / "small.xml")
    with pytest.raises(ExportError, match=r"small\.xml: no calibration study feeds this graph"):
        quantize_graph(tmp_path / "small.xml", [], [])


def test_quantization_is_silent_on_stdout(
    tmp_path: Path, inputs: list[dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    small_graph(tmp_path / "small.xml")
    quantize_graph(tmp_path / "small.xml", inputs, [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("encoder_view.xml", "quantize"),
        ("head_localization.xml", "quantize"),
        ("head_diagnosis.xml", "keep"),
        ("head_prognosis.xml", "keep"),
        ("head_report_decoder.xml", "compress"),
        ("head_report_fusion.xml", "compress"),
    ],
)
def test_what_is_done_to_the_graphs_of_a_bundle(file: str, kind: str) -> None:
    assert treatment(read_graph(DEMO / file)) == kind


def test_the_layers_of_an_encoder() -> None:
    """EfficientNet-B0: 16 blocks with two squeeze-excite layers each, 15 of them expanding."""
    model = read_graph(DEMO / "encoder_view.xml")
    assert len(layer_names(model)) == 2 + 16 * 4 + 15
    assert len(single_cell_layers(model)) == 2 * 16
    kept = never_quantized(model)
    assert any("Divide" in name for name in kept)
    assert not set(kept) & set(layer_names(model))


def test_boxes_and_scores_of_a_detector_stay_float() -> None:
    model = read_graph(DEMO / "head_localization.xml")
    kept = set(never_quantized(model))
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("NonMaxSuppression", "Sigmoid", "Exp", "Multiply"):
            assert op.get_friendly_name() in kept
    assert not kept & set(layer_names(model))


def test_runs_share_out_every_layer_once() -> None:
    model = read_graph(DEMO / "encoder_view.xml")
    spared = set(single_cell_layers(model))
    runs = operation_runs(model, 5, spared)
    assert len(runs) == 5
    names = [name for run in runs for name in run]
    assert len(set(names)) == len(names)
    assert set(layer_names(model)) - spared <= set(names)
    assert not spared & set(names)
    assert operation_runs(model, 5, layer_names(model)) == []


def test_compressed_weights_keep_our_operations_and_the_decoders_state(
    tmp_path: Path, float_bundle: Path
) -> None:
    """Weights rounded to 8 bits per channel: the logits' error is a few percent of their spread."""
    rng = np.random.default_rng(0)
    path = float_bundle / "head_report_decoder.xml"
    model = compress_weights(path)
    save_graph(model, tmp_path / "decoder.xml", half_weights=True)
    assert (tmp_path / "decoder.bin").stat().st_size < 0.6 * path.with_suffix(".bin").stat().st_size
    memory = {}
    for port in model.inputs:
        name = next(iter(port.get_names()))
        if name.startswith("memory"):
            shape = port.get_shape()
            mask = name == "memory_mask"
            memory[name] = (
                np.ones(shape, bool) if mask else rng.normal(size=shape).astype(np.float32)
            )
    tokens = [0, 5, 9, 11, 40, 3]
    expected = decode_logits(str(path), memory, tokens)
    actual = decode_logits(str(tmp_path / "decoder.xml"), memory, tokens)
    error = float(np.sqrt(np.mean((actual - expected) ** 2)))
    assert 0 < error < 0.05 * expected.std()
    # The state works: another past gives other logits for the same last token.
    other = decode_logits(str(tmp_path / "decoder.xml"), memory, [0, 7, 8, 2, 1, 3])
    assert np.abs(other[-1] - actual[-1]).max() > 1e-3

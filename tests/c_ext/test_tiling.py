"""Blocks are found in a quantized graph, and answer as OpenVINO's own operations do."""

import dataclasses
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino.opset15 as opset
import pytest

from mammofm_lite._openvino import cpu_properties, make_core, ov
from mammofm_lite.tiling import tile

BLOCKS = runpy.run_path(str(Path(__file__).with_name("mbconv_blocks.py")))
Block, encoder, stock, quantizer = (
    BLOCKS[name] for name in ("Block", "encoder", "stock", "quantizer")
)

RANGES = Block().ranges
INNER = {**RANGES, "x": RANGES["output"]}  # of a block behind another one
PICTURE = Block(channels=1, expand=3, pads=(0, 1, 1, 1), row_means=True)
PLAIN = Block(hidden=24, expand=0, shortcut=True, ranges=INNER, seed=1)
STRIDED = Block(hidden=144, outputs=40, kernel=5, stride=2, pads=(0, 0, 1, 2), ranges=INNER, seed=2)
SHORTCUT = Block(channels=40, hidden=240, outputs=40, shortcut=True, ranges=INNER, seed=3)
CHAIN = [PICTURE, PLAIN, STRIDED, SHORTCUT]
SIZE = (46, 34)
STEP = (RANGES["output"][1] - RANGES["output"][0]) / 255


def types(model: Any) -> Counter[str]:
    return Counter(op.get_type_name() for op in model.get_ops())


def run(model: Any) -> dict[str, np.ndarray]:
    shape = list(model.inputs[0].shape)
    x = np.random.default_rng(7).uniform(-4, 4, shape).astype(np.float32)
    compiled = make_core().compile_model(model, "CPU", cpu_properties(2))
    answers = compiled([x])
    return {min(port.get_names()): answers[port] for port in compiled.outputs}


def both(blocks: list[Any], outputs: list[int]) -> tuple[Any, Any]:
    """The graph as it was, and with its blocks replaced."""
    first, second = (encoder(blocks, SIZE, outputs) for _ in range(2))
    assert len(tile(second)) == len(blocks)
    return first, second


@pytest.mark.parametrize("outputs", [[], [1], [2, 3], [0, 1, 2, 3]], ids=str)
def test_answers_stay(outputs: list[int]) -> None:
    """But for what falls beside a boundary between two bytes, which OpenVINO rounds as it likes."""
    before, after = both(CHAIN, outputs)
    assert types(after)["TiledMBConv"] == 4
    assert types(after)["GroupConvolution"] == types(after)["Convolution"] == 0
    expected, found = run(before), run(after)
    assert expected.keys() == found.keys() == {"end", *(f"block{i}" for i in outputs)}
    for name, value in expected.items():
        error = np.abs(found[name] - value)
        assert error.max() < 3.5 * STEP, name
        cosine = (found[name] * value).sum() / np.linalg.norm(value) / np.linalg.norm(found[name])
        assert cosine > 0.998, name


def test_floats_leave_only_where_they_are_read() -> None:
    _, after = both(CHAIN, [1])
    nodes = [op for op in after.get_ordered_ops() if op.get_type_name() == "TiledMBConv"]
    assert [op.get_attributes()["emit_float"] for op in nodes] == [False, True, False, True]
    assert [op.input_value(0).get_element_type() for op in nodes] == [
        ov.Type.f32,
        ov.Type.u8,
        ov.Type.u8,
        ov.Type.u8,
    ]


def test_a_block_in_the_middle_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours are of another form: of 128 levels."""
    odd = dataclasses.replace(PLAIN, expand=0, kernel=3)
    namespace = stock.__globals__
    plain = namespace["quantizer"]

    def fewer(x: Any, low: Any, high: Any, levels: int = 128) -> Any:
        return plain(x, low, high, levels)

    picture = opset.parameter([1, 24, 12, 10], np.float32)
    x = plain(picture, *INNER["x"])
    monkeypatch.setitem(namespace, "quantizer", fewer)
    x, _ = stock(odd, x)
    monkeypatch.setitem(namespace, "quantizer", plain)
    x = plain(x, *INNER["x"])
    x, _ = stock(dataclasses.replace(STRIDED, pads=(0, 0, 2, 2)), x)
    model = ov.Model([opset.swish(x).output(0)], [picture])
    assert len(tile(model)) == 1
    counts = types(model)
    assert (counts["TiledMBConv"], counts["GroupConvolution"]) == (1, 1)


def halves(x: Any, *_: Any, mean: Any = opset.avg_pool) -> Any:
    return mean(x, [1, 2], [0, 0], [0, 0], [1, 2], True)


@pytest.mark.parametrize("what", ["swish", "sigmoid", "avg_pool"])
def test_another_form_stays(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Another activation, or a mean that is not of rows."""
    other = {
        "swish": opset.relu,
        "sigmoid": opset.hsigmoid,
        "avg_pool": halves,
    }[what]
    monkeypatch.setattr(opset, what, other)
    model = encoder([dataclasses.replace(PLAIN, row_means=True)], (12, 10), [])
    before = types(model)
    assert tile(model) == []
    assert types(model) == before


def test_a_swish_with_a_factor_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = opset.swish
    monkeypatch.setattr(opset, "swish", lambda x: plain(x, np.float32(1.5)))
    model = encoder([PLAIN], (12, 10), [])
    assert tile(model) == []


# -------------------- float graphs

FLOATS = [dataclasses.replace(block, precision="float32") for block in CHAIN]


def closely(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < 1e-5 * np.abs(value).max(), name


@pytest.mark.parametrize("outputs", [[], [1], [2, 3], [0, 1, 2, 3]], ids=str)
def test_answers_of_a_float_graph_stay(outputs: list[int]) -> None:
    before, after = both(FLOATS, outputs)
    assert types(after)["TiledMBConvF32"] == 4
    assert types(after)["GroupConvolution"] == types(after)["Convolution"] == 0
    assert types(after)["Transpose"] == 0
    emitting = [index in {*outputs, 3} for index in range(4)]
    nodes = [op for op in after.get_ordered_ops() if op.get_type_name() == "TiledMBConvF32"]
    assert [op.get_attributes()["emit_planes"] for op in nodes] == emitting
    closely(run(after), run(before))


def test_a_float_block_behind_something_else() -> None:
    """Its input is turned around."""
    before, after = both(FLOATS[1:2], [])
    assert types(after)["Transpose"] == 1
    closely(run(after), run(before))


def test_weights_in_half_precision(tmp_path: Path) -> None:
    """They are given on as they are stored; what they round to is what both compute with."""
    path = tmp_path / "halves.xml"
    ov.save_model(encoder(FLOATS, SIZE, [2]), str(path), compress_to_fp16=True)
    before, after = (make_core().read_model(str(path)) for _ in range(2))
    assert len(tile(after)) == 4
    nodes = [op for op in after.get_ordered_ops() if op.get_type_name() == "TiledMBConvF32"]
    assert {str(op.get_input_element_type(1)) for op in nodes} == {str(ov.Type.f16)}
    closely(run(after), run(before))


def test_only_the_precisions_asked_for() -> None:
    for blocks, other in ((CHAIN, "float32"), (FLOATS, "int8")):
        model = encoder(blocks, SIZE, [])
        assert tile(model, frozenset({other})) == []
        assert types(model)["GroupConvolution"] == 4


def test_a_sum_that_is_no_shortcut_stays() -> None:
    """Of a projection with something else than the block's input."""
    picture = opset.parameter([1, 24, 12, 10], np.float32)
    block = dataclasses.replace(FLOATS[1], shortcut=False)
    projected, _ = stock(block, picture)
    model = ov.Model([opset.add(projected, opset.relu(picture)).output(0)], [picture])
    assert len(tile(model)) == 1
    (node,) = (op for op in model.get_ordered_ops() if op.get_type_name() == "TiledMBConvF32")
    assert node.get_attributes()["shortcut"] is False
    assert types(model)["Add"] == 1


def test_a_convolution_alone_stays() -> None:
    x = opset.parameter([1, 8, 9, 9], np.float32)
    weights = np.ones((8, 1, 1, 3, 3), np.float32)
    y = opset.group_convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    assert tile(ov.Model([y.output(0)], [x])) == []

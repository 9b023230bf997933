"""TiledMBConv against its definition in float64, on every instruction set; and as a node."""

import itertools
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mammofm_lite._openvino import cpu_properties, make_core, ov
from mammofm_lite.native import mbconv_kernel, supported_instruction_sets

WORKER = Path(__file__).with_name("mbconv_blocks.py")
BLOCKS = runpy.run_path(str(WORKER))
Block, values_of, floats_of, operation = (
    BLOCKS[name] for name in ("Block", "values_of", "floats_of", "operation")
)

Answer = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module", params=["portable", "avx2", "avx512"])
def answer(request: pytest.FixtureRequest) -> Iterator[Answer]:
    """The operation, once per instruction set that this machine has."""
    if request.param not in supported_instruction_sets():
        pytest.skip(f"this CPU lacks {request.param}")
    process = subprocess.Popen(
        [sys.executable, str(WORKER)],
        env={**os.environ, "MAMMOFM_ISA": request.param},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def ask(block: Any, picture: np.ndarray, threads: int = 2) -> list[np.ndarray]:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump((vars(block), picture, threads), process.stdin)
        process.stdin.flush()
        result = pickle.load(process.stdout)
        assert isinstance(result, list), result
        return result

    yield ask
    process.communicate()


def _as_it_is(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x


def _rounded(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    """FakeQuantize to 256 levels."""
    low, high = torch.as_tensor(low).double(), torch.as_tensor(high).double()
    if low.ndim:
        low, high = low[:, None, None], high[:, None, None]
    step = (high - low) / 255
    return torch.round((x.clamp(low, high) - low) / step) * step + low


def truth(block: Any, x: torch.Tensor) -> torch.Tensor:
    """The values before they are rounded last, float64 [1, C, H, W]."""
    rounded = _rounded if block.precision == "int8" else _as_it_is
    values = values_of(block)
    w = {name: torch.from_numpy(array).double() for name, array in vars(values).items()}
    expand_step, expand_bias, low, high, depth_step, depth_bias = w["hidden"]
    ranges = block.ranges
    x = rounded(x, *ranges["x"])
    y = x
    if block.expand:
        kernel = 3 if block.expand == 3 else 1
        weights = w["expand"].reshape(block.hidden, -1, kernel, kernel)
        weights = weights * expand_step[:, None, None, None]
        before, after = block.pads[:2]
        y = functional.pad(y, (before, after, before, after))
        y = functional.silu(functional.conv2d(y, weights, expand_bias, stride=(kernel + 1) // 2))
        y = rounded(y, low, high)
    before, after = block.pads[2:]
    y = functional.pad(y, (before, after, before, after))
    weights = w["depthwise"][:, None] * depth_step[:, None, None, None]
    y = functional.conv2d(y, weights, depth_bias, stride=block.stride, groups=block.hidden)
    y = rounded(functional.silu(y), *ranges["depthwise"])
    if block.row_means:
        mean = rounded(y.mean(3, keepdim=True), *ranges["row_mean"]).mean((2, 3))
    else:
        mean = y.mean((2, 3))
    squeezed = functional.silu(mean @ w["reduce"].T + w["reduce_bias"])
    gate = torch.sigmoid(squeezed @ w["excite"].T + w["excite_bias"])
    y = rounded(y * rounded(gate, *ranges["gate"])[:, :, None, None], *ranges["gated"])
    weights = w["project"][:, :, None, None] * w["output"][0][:, None, None, None]
    y = functional.conv2d(y, weights, w["output"][1])
    return rounded(y, *ranges["inner"]) + x if block.shortcut else y


CASES = {
    "expand": Block(),
    "expand, 5x5, strided": Block(hidden=144, outputs=40, kernel=5, stride=2, pads=(0, 0, 1, 2)),
    "expand, 3x3, strided": Block(hidden=144, outputs=16, stride=2, pads=(0, 0, 0, 1)),
    "expand, 5x5, shortcut": Block(
        channels=40, hidden=240, outputs=40, kernel=5, pads=(0, 0, 2, 2), shortcut=True
    ),
    "means of rows": Block(shortcut=True, row_means=True),
    "channels that fill no chunk": Block(channels=20, hidden=56, outputs=8, squeeze=3),
    "many outputs": Block(channels=8, hidden=48, outputs=176, seed=3),
    "nothing expanded": Block(hidden=24, expand=0, shortcut=True),
    "nothing expanded, 40 channels": Block(channels=40, hidden=40, expand=0, outputs=16),
    "a picture": Block(channels=1, expand=3, pads=(0, 1, 1, 1), row_means=True),
    "a picture, padded on both sides": Block(channels=1, expand=3, pads=(1, 1, 1, 1)),
}
SIZES = [(9, 13), (6, 30), (5, 6)]


def picture(block: Any, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Bytes [1, H, W, C]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (1, *size, block.channels)).astype(np.uint8)


def meaning(block: Any, image: np.ndarray) -> torch.Tensor:
    """What the bytes of a picture stand for, float64 [1, C, H, W]."""
    low, high = block.ranges["x"]
    return torch.from_numpy(image).double().permute(0, 3, 1, 2) * ((high - low) / 255) + low


@pytest.mark.parametrize(("name", "size"), [*zip(CASES, itertools.cycle(SIZES), strict=False)])
def test_against_the_definition(answer: Answer, name: str, size: tuple[int, int]) -> None:
    """Values that fall beside a boundary between two bytes may be rounded to the other one. Such a
    step of an inner tensor changes all outputs of its pixels, by far less than one of their own."""
    block = CASES[name]
    image = meaning(block, picture(block, size))
    planes = image.to(torch.float32).numpy()
    x = planes if block.expand == 3 else picture(block, size)
    found_bytes, found = answer(block, x)
    expected = truth(block, image)
    assert found.shape == tuple(expected.shape)
    low, high = block.ranges["output"]
    step = (high - low) / 255
    error = np.abs(found - expected.numpy())
    assert np.quantile(error, 0.2) < 1e-5
    assert error.mean() < 0.1 * step
    assert error.max() < step
    again = np.clip(np.round((found - low) / step), 0, 255).transpose(0, 2, 3, 1)
    assert np.abs(again - found_bytes).max() <= 1
    assert (again != found_bytes).mean() < 0.01


FLOAT = {
    **CASES,
    "several blocks of chunks": Block(channels=16, hidden=816, outputs=72, squeeze=4),
    "more pixels than a tile": Block(channels=8, hidden=48, outputs=8),
}
"""Blocks of the second pass hold 384 channels, its tiles 96 pixels."""


def float_picture(block: Any, size: tuple[int, int]) -> np.ndarray:
    """float32 [1, C, H, W]."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((1, block.channels, *size)).astype(np.float32)


def as_input(block: Any, planes: np.ndarray) -> np.ndarray:
    """A picture has its plane first, all else its channels last."""
    return planes if block.expand == 3 else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "size"), [*zip(FLOAT, itertools.cycle(SIZES), strict=False)])
def test_float32_against_the_definition(answer: Answer, name: str, size: tuple[int, int]) -> None:
    block = replace(FLOAT[name], precision="float32")
    size = (17, 23) if name.startswith("more pixels") else size
    planes = float_picture(block, size)
    last, first = answer(block, as_input(block, planes))
    expected = truth(block, torch.from_numpy(planes).double()).numpy()
    assert first.shape == expected.shape
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))
    assert np.abs(first - expected).max() < 2e-6 * np.abs(expected).max()


def test_swish_of_large_numbers(answer: Answer) -> None:
    """Also where the exponential is 0 or beyond float32; and a number that is none stays none."""
    block = replace(CASES["expand"], precision="float32")
    planes = float_picture(block, (9, 13)) * 3e3
    last, first = answer(block, as_input(block, planes))
    expected = truth(block, torch.from_numpy(planes).double()).numpy()
    assert np.abs(first - expected).max() < 3e-6 * np.abs(expected).max()
    planes[0, 3, 4, 5] = np.nan
    last, _ = answer(block, as_input(block, planes))
    assert np.isnan(last).all()  # by the mean that gates all pixels


def test_float32_threads_change_nothing(answer: Answer) -> None:
    block = replace(CASES["expand, 5x5, shortcut"], precision="float32")
    x = as_input(block, float_picture(block, (130, 10)))
    for one, two in zip(answer(block, x, 1), answer(block, x, 2), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["expand, 5x5, shortcut", "a picture", "nothing expanded"])
def test_threads_change_nothing(answer: Answer, name: str) -> None:
    """Of an image high enough that its rows are cut among threads."""
    block = CASES[name]
    x = picture(block, (130, 10))
    x = meaning(block, x).to(torch.float32).numpy() if block.expand == 3 else x
    for one, two in zip(answer(block, x, 1), answer(block, x, 2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_floats_are_rounded_first(answer: Answer) -> None:
    """Also where they exceed their range."""
    block = CASES["expand"]
    image = picture(block, (7, 5))
    low, high = block.ranges["x"]
    floats = meaning(block, image) + 0.3 * (high - low) / 255
    floats[image.transpose(0, 3, 1, 2) == 255] += 100
    planes = np.ascontiguousarray(floats.to(torch.float32).numpy())
    for one, other in zip(answer(block, image), answer(block, planes), strict=True):
        np.testing.assert_array_equal(one, other)


def test_instruction_sets_agree() -> None:
    """The kernel of this process is the highest one that the CPU has."""
    has = supported_instruction_sets()[-1]
    runs = {"avx512": "avx2", "avx512_vnni": "avx512vnni"}
    assert mbconv_kernel() == runs.get(has, has)


# -------------------- the node


def node(block: Any, shape: tuple[int, ...] = (1, 9, 13, 24), **changes: Any) -> Any:
    x = ov.opset15.parameter(list(shape), changes.pop("type", np.uint8))
    return operation(block, x, **changes)


def test_the_node() -> None:
    made = node(CASES["expand, 5x5, strided"])
    assert made.get_type_info().version_id == "mammofm"
    assert list(made.get_output_shape(0)) == [1, 4, 6, 40]
    assert list(made.get_output_shape(1)) == [1, 40, 4, 6]
    assert made.get_output_element_type(0) == ov.Type.u8
    assert made.get_output_element_type(1) == ov.Type.f32
    assert node(Block(), emit_float=False).get_output_size() == 1


def test_saved_and_read_again(tmp_path: Path) -> None:
    x = ov.opset15.parameter([1, 9, 13, 24], np.uint8)
    made = operation(CASES["means of rows"], x)
    ov.save_model(ov.Model([made.output(0)], [x]), tmp_path / "m.xml", compress_to_fp16=False)
    again = make_core().read_model(tmp_path / "m.xml")
    (read,) = (op for op in again.get_ops() if op.get_type_name() == "TiledMBConv")
    ours, theirs = made.get_attributes(), read.get_attributes()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expand": 2}, "expand must be 0, 1 or 3, not 2"),
        ({"kernel": 7}, "kernel must be 3 or 5, not 7"),
        ({"stride": 3}, "stride must be 1 or 2, not 3"),
        ({"pads": [0, 0, 1]}, "pads must be 4 numbers, not 3"),
        ({"pads": [0, 0, 3, 1]}, "pads must be 0 to 2, not 3"),
        ({"ranges": [0.0, 1.0]}, "ranges must be 14 numbers, not 2"),
        ({"ranges": [1.0, 0.0] * 7}, "ranges must be finite and not fall"),
        ({"ranges": [float("nan"), 1.0] * 7}, "ranges must be finite"),
        ({"shape": (1, 9, 13, 20)}, "expand must have 960 elements, not 1152"),
        ({"shape": (1, 9, 13, 18)}, "do not fit x of 18 channels"),
        ({"shape": (2, 9, 13, 24)}, r"x must have the fixed shape \[1, H, W, C\]"),
        ({"shape": (1, -1, 13, 24)}, "x must have the fixed shape"),
        ({"type": np.int32}, "x must be u8 or f32, not i32"),
        ({"shortcut": True, "stride": 2}, "a shortcut needs an output shaped like x"),
        ({"project": np.zeros((24, 47), np.int8)}, "project must have 1152 elements, not 1128"),
        ({"project": np.zeros((24, 48), np.uint8)}, "project must be i8, not u8"),
        ({"output": np.zeros((2, 12), np.float32)}, "must be a multiple of 8, not 12"),
        ({"reduce": np.zeros((6, 40), np.float32)}, "reduce must have 288 elements, not 240"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        node(Block(), **changes)


def test_a_picture_smaller_than_the_kernel() -> None:
    with pytest.raises(RuntimeError, match="x is smaller than the kernel"):
        node(Block(kernel=5, pads=(0, 0, 0, 0)), (1, 4, 9, 24))


# -------------------- the node in float32

PLAIN = replace(Block(), precision="float32")


def float_node(shape: tuple[int, ...] = (1, 9, 13, 24), **changes: Any) -> Any:
    x = ov.opset15.parameter(list(shape), changes.pop("type", np.float32))
    return operation(changes.pop("block", PLAIN), x, **changes)


def test_the_float_node(tmp_path: Path) -> None:
    x = ov.opset15.parameter([1, 9, 13, 24], np.float32)
    block = replace(CASES["expand, 5x5, strided"], precision="float32")
    made = operation(block, x)
    assert made.get_type_info().version_id == "mammofm"
    assert list(made.get_output_shape(0)) == [1, 4, 6, 40]
    assert list(made.get_output_shape(1)) == [1, 40, 4, 6]
    assert float_node(emit_planes=False).get_output_size() == 1
    ov.save_model(ov.Model([made.output(0)], [x]), tmp_path / "m.xml", compress_to_fp16=False)
    again = make_core().read_model(tmp_path / "m.xml")
    (read,) = (op for op in again.get_ops() if op.get_type_name() == "TiledMBConvF32")
    assert made.get_attributes() == read.get_attributes()


def test_weights_in_half_precision_are_what_they_round_to() -> None:
    """Those of the convolutions may be; those of the gate are read in place, and may not."""
    values = floats_of(PLAIN)
    packed = ("depthwise", "project", "expand", "expand_bias")
    halves = {name: values[name].astype(np.float16) for name in packed}
    picture = as_input(PLAIN, float_picture(PLAIN, (9, 13)))
    answers = []
    for changes in (halves, {name: half.astype(np.float32) for name, half in halves.items()}):
        x = ov.opset15.parameter([1, 9, 13, 24], np.float32)
        model = ov.Model([operation(PLAIN, x, **changes).output(0)], [x])
        compiled = make_core().compile_model(model, "CPU", cpu_properties(1))
        answers.append(np.array(compiled([picture])[0]))
    np.testing.assert_array_equal(*answers)
    with pytest.raises(RuntimeError, match="reduce must be f32, not f16"):
        float_node(reduce=values["reduce"].astype(np.float16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expand": 2}, "expand must be 0, 1 or 3, not 2"),
        ({"shape": (1, 9, 13, 20)}, "expand must have 960 elements, not 1152"),
        ({"shape": (2, 9, 13, 24)}, r"x must have the fixed shape \[1, H, W, C\]"),
        ({"type": np.uint8}, "x must be f32, not u8"),
        ({"shortcut": True, "stride": 2}, "a shortcut needs an output shaped like x"),
        ({"project": np.zeros((24, 47), np.float32)}, "project must have 1152 elements, not 1128"),
        ({"project": np.zeros((24, 48), np.int8)}, "project must be f32 or f16, not i8"),
        ({"project_bias": np.zeros(12, np.float32)}, "must be a multiple of 8, not 12"),
        ({"expand_bias": np.zeros(12, np.float32)}, "expand_bias must have 48 elements, not 12"),
        ({"excite_bias": np.zeros(12, np.float32)}, "excite_bias must have 48 elements, not 12"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_does_not_fit_in_float32(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        float_node(**changes)

"""Random inverted bottlenecks: their values, their definition, and the operation.

Run as a program it is a process with its own MAMMOFM_ISA that reads pickled (block, picture,
threads) from stdin and writes the pickled outputs of the operation, or the text of the exception.
"""

import pickle
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino.opset15 as opset
from openvino.utils.node_factory import NodeFactory

from mammofm_lite._openvino import cpu_properties, make_core, ov
from mammofm_lite.native import extension_path

Range = tuple[float, float]

NAMES = (
    *("depthwise", "project", "hidden", "output"),
    *("reduce", "reduce_bias", "excite", "excite_bias"),
)


@dataclass(frozen=True)
class Block:
    """Sizes; `expand` and `pads` as the operation's attributes. In float32 nothing is rounded."""

    precision: str = "int8"
    channels: int = 24
    hidden: int = 48
    outputs: int = 24
    expand: int = 1
    kernel: int = 3
    stride: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 1, 1)
    shortcut: bool = False
    row_means: bool = False
    squeeze: int = 6
    seed: int = 0
    ranges: dict[str, Range] = field(
        default_factory=lambda: {
            "x": (-4.0 * 254 / 255, 4.0),
            "depthwise": (-0.28, 6.72),
            "row_mean": (-0.28, 3.92),
            "gate": (0.0, 0.9),
            "gated": (-0.2, 4.9),
            "inner": (-3.0, 3.375),
            "output": (-6.0, 6.75),
        }
    )


@dataclass(frozen=True)
class Values:
    """Weights as bytes, steps and biases; lows and highs of the expanded tensor's channels."""

    expand: np.ndarray
    depthwise: np.ndarray
    project: np.ndarray
    hidden: np.ndarray
    output: np.ndarray
    reduce: np.ndarray
    reduce_bias: np.ndarray
    excite: np.ndarray
    excite_bias: np.ndarray


def values_of(block: Block) -> Values:
    """Drawn so that all tensors fill their ranges."""
    rng = np.random.default_rng(block.seed)
    hidden, outputs, squeeze = block.hidden, block.outputs, block.squeeze
    inputs = {0: 1, 1: block.channels, 3: 9}[block.expand]

    def bytes_of(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def floats(scale: float, *shape: int) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def steps(count: int, inputs: int) -> np.ndarray:
        return (rng.uniform(0.5, 1.5, count) / 73 / np.sqrt(inputs)).astype(np.float32)

    if block.expand == 0:
        low = np.full(hidden, block.ranges["x"][0], np.float32)
        high = np.full(hidden, block.ranges["x"][1], np.float32)
    else:
        step = rng.uniform(0.01, 0.03, hidden)
        zero = np.round(0.28 / step)
        low, high = (-step * zero).astype(np.float32), (step * (255 - zero)).astype(np.float32)
    rows = [
        steps(hidden, inputs) * (0 if block.expand == 0 else 1),
        floats(0.5, hidden),
        low,
        high,
        steps(hidden, block.kernel**2),
        floats(0.5, hidden),
    ]
    return Values(
        expand=bytes_of(hidden, inputs),
        depthwise=bytes_of(hidden, block.kernel, block.kernel),
        project=bytes_of(outputs, hidden),
        hidden=np.stack(rows).astype(np.float32),
        output=np.stack([steps(outputs, hidden), floats(0.5, outputs)]),
        reduce=floats(hidden**-0.5, squeeze, hidden),
        reduce_bias=floats(1.0, squeeze),
        excite=floats(squeeze**-0.5, hidden, squeeze),
        excite_bias=floats(1.0, hidden),
    )


def floats_of(block: Block) -> dict[str, np.ndarray]:
    """What the bytes stand for: the inputs of the operation in float32, by name."""
    values = values_of(block)
    expand_step, expand_bias, _, _, depth_step, depth_bias = values.hidden
    gate = ("reduce", "reduce_bias", "excite", "excite_bias")
    return {
        "depthwise": values.depthwise * depth_step[:, None, None],
        "depthwise_bias": depth_bias,
        "project": values.project * values.output[0][:, None],
        "project_bias": values.output[1],
        **{name: getattr(values, name) for name in gate},
        "expand": values.expand * expand_step[:, None],
        "expand_bias": expand_bias,
    }


def operation(block: Block, x: Any, **changes: Any) -> Any:
    """The node; `changes` replace attributes, or arrays of the same name."""
    arrays = {k: v for k, v in changes.items() if isinstance(v, np.ndarray)}
    attributes = {
        "expand": block.expand,
        "kernel": block.kernel,
        "stride": block.stride,
        "pads": list(block.pads),
        "shortcut": block.shortcut,
    }
    if block.precision == "int8":
        kind = "TiledMBConv"
        values = vars(values_of(block))
        names = [*NAMES, *(["expand"] if block.expand else [])]
        attributes["emit_float"] = True
        attributes["ranges"] = [
            value
            for name, pair in block.ranges.items()
            for value in (pair if name != "row_mean" or block.row_means else (0.0, 0.0))
        ]
    else:
        kind = "TiledMBConvF32"
        values = floats_of(block)
        names = list(values) if block.expand else list(values)[:-2]
        attributes["emit_planes"] = True
    values = {**values, **arrays}
    attributes |= {k: v for k, v in changes.items() if k not in arrays}
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))
    inputs = [x.output(0), *(opset.constant(values[name]).output(0) for name in names)]
    return factory.create(kind, inputs, attributes)


def quantizer(x: Any, low: Any, high: Any, levels: int = 256) -> Any:
    """FakeQuantize per tensor or per channel."""
    low, high = (np.float32(v) if np.ndim(v) == 0 else v.reshape(1, -1, 1, 1) for v in (low, high))
    return opset.fake_quantize(x, low, high, low, high, levels)


def _weights(block: Block, values: np.ndarray, steps: np.ndarray) -> Any:
    """Bytes, converted and scaled, as NNCF writes them; or what they stand for."""
    steps = steps.reshape(-1, *[1] * (values.ndim - 1))
    if block.precision == "float32":
        return opset.constant(values * steps)
    return opset.multiply(opset.convert(opset.constant(values), np.float32), steps)


def rounding(block: Block, x: Any, low: Any, high: Any) -> Any:
    """`quantizer` in 8 bits, nothing in float32."""
    return quantizer(x, low, high) if block.precision == "int8" else x


def _biased(x: Any, biases: np.ndarray) -> Any:
    return opset.add(x, biases.reshape(1, -1, 1, 1))


def stock(block: Block, x: Any) -> tuple[Any, Any]:
    """The block in OpenVINO's own operations behind the FakeQuantize `x` of its input,
    if it has one.

    Returns what it ends in, rounded, and before.
    """
    values = values_of(block)
    expand_step, expand_bias, low, high, depth_step, depth_bias = values.hidden
    pads, ones = block.pads, [1, 1]
    y = x
    if block.expand:
        kernel, stride = (3, [2, 2]) if block.expand == 3 else (1, ones)
        weights = _weights(
            block, values.expand.reshape(block.hidden, -1, kernel, kernel), expand_step
        )
        y = opset.convolution(y, weights, stride, [pads[0]] * 2, [pads[1]] * 2, ones)
        y = rounding(block, opset.swish(_biased(y, expand_bias)), low, high)
    weights = _weights(block, values.depthwise[:, None, None], depth_step)
    y = opset.group_convolution(y, weights, [block.stride] * 2, [pads[2]] * 2, [pads[3]] * 2, ones)
    y = rounding(block, opset.swish(_biased(y, depth_bias)), *block.ranges["depthwise"])
    mean = y
    if block.row_means:
        width = int(y.get_output_shape(0)[3])
        mean = opset.avg_pool(y, [1, width], [0, 0], [0, 0], [1, width], True)
        mean = rounding(block, mean, *block.ranges["row_mean"])
    mean = opset.reduce_mean(mean, np.array([2, 3]), True)

    def dense(x: Any, weights: np.ndarray, biases: np.ndarray) -> Any:
        cell = opset.constant(weights[:, :, None, None])
        return _biased(opset.convolution(x, cell, ones, [0, 0], [0, 0], ones), biases)

    squeezed = opset.swish(dense(mean, values.reduce, values.reduce_bias))
    gate = opset.sigmoid(dense(squeezed, values.excite, values.excite_bias))
    y = opset.multiply(y, rounding(block, gate, *block.ranges["gate"]))
    y = rounding(block, y, *block.ranges["gated"])
    weights = _weights(block, values.project[:, :, None, None], values.output[0])
    y = _biased(opset.convolution(y, weights, ones, [0, 0], [0, 0], ones), values.output[1])
    if block.shortcut:
        y = opset.add(rounding(block, y, *block.ranges["inner"]), x)
    return rounding(block, y, *block.ranges["output"]), y


def encoder(blocks: list[Block], size: tuple[int, int], outputs: list[int]) -> Any:
    """Blocks in a row behind a float picture; `outputs` are the blocks whose floats come out."""
    picture = opset.parameter([1, blocks[0].channels, *size], np.float32)
    x = rounding(blocks[0], picture, *blocks[0].ranges["x"])
    results = []
    for index, block in enumerate(blocks):
        x, raw = stock(block, x)
        if index in outputs:
            raw.output(0).get_tensor().set_names({f"block{index}"})
            results.append(raw.output(0))
    end = opset.swish(x)
    end.output(0).get_tensor().set_names({"end"})
    return ov.Model([*results, end.output(0)], [picture], "encoder")


def answer(block: Block, picture: np.ndarray, threads: int) -> list[np.ndarray]:
    """Outputs [1, H, W, C] and [1, C, H, W] for [1, H, W, C], or for floats [1, C, H, W] in 8 bits
    and of a picture."""
    x = opset.parameter(list(picture.shape), picture.dtype.type)
    node = operation(block, x)
    model = ov.Model([node.output(0), node.output(1)], [x])
    compiled = make_core().compile_model(model, "CPU", cpu_properties(threads))
    first = [np.array(value) for value in compiled([picture]).values()]
    again = compiled([picture])
    for one, other in zip(first, again.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    return first


def main() -> None:
    while True:
        try:
            block, picture, threads = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            result: Any = answer(Block(**block), picture, threads)
        except Exception as error:
            result = str(error)
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

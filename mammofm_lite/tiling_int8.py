"""Inverted bottlenecks of a quantized graph, as `mammofm.TiledMBConv` takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from ._openvino import ov
from .graph_match import (
    Array,
    Dense,
    OtherFormError,
    after,
    before,
    blocks_of,
    constant,
    consumers,
    dense,
    f32_output,
    name_of,
    need,
    padding,
    per_channel,
    pooled_axes,
    row_means,
    same_node,
    stride,
    sum_after,
    swish,
)

__all__ = ["Int8Block", "int8_blocks"]

Range = tuple[float, float]

_NOT_ROUNDED: Final[Range] = (0.0, 0.0)
_LEVELS: Final = 256


def _range(quantizer: Any) -> tuple[Array, Array]:
    """Lows and highs of a FakeQuantize that rounds to bytes and back."""
    low, high, low_again, high_again = (
        constant(quantizer, port).astype(np.float32).ravel() for port in range(1, 5)
    )
    need(quantizer.get_attributes()["levels"] == _LEVELS)
    need(np.array_equal(low, low_again) and np.array_equal(high, high_again))
    need(bool(np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()))
    return low, high


def _one_range(quantizer: Any) -> Range:
    low, high = _range(quantizer)
    need(low.size == high.size == 1)
    return float(low[0]), float(high[0])


@dataclass(frozen=True)
class _Convolution:
    """A convolution with 8-bit weights, and the sum that follows it."""

    node: Any
    weights: Any  # the constant of bytes
    steps: Array  # [out]
    biases: Array  # [out]
    result: Any  # the sum

    @property
    def channels(self) -> int:
        return int(self.steps.size)


def _convolution(node: Any) -> _Convolution:
    product = before(node, "Multiply", 1)
    weights = before(before(product, "Convert"), "Constant")
    need(weights.get_element_type() == ov.Type.i8)
    channels = int(weights.get_output_shape(0)[0])
    total = sum_after(node)
    stride(node)
    padding(node)
    steps = per_channel(constant(product, 1), channels)
    return _Convolution(node, weights, steps, per_channel(constant(total, 1), channels), total)


# -------------------- a block


@dataclass(frozen=True)
class _Expansion:
    """What comes before the depthwise convolution; `kind` as the operation's attribute."""

    kind: int
    convolution: _Convolution | None
    padding: tuple[int, int]
    entry: Any  # the FakeQuantize of the block's input


@dataclass(frozen=True)
class _Squeeze:
    """The squeeze-excite path."""

    row_mean: Range
    gate: Range
    reduce: Dense
    excite: Dense
    product: Any


@dataclass(frozen=True)
class Int8Block:
    """One block; it begins and ends with bytes."""

    operation: ClassVar = "TiledMBConv"
    expansion: _Expansion
    depthwise: _Convolution
    middle: Any  # FakeQuantize before the depthwise convolution
    hidden: Any  # and after it
    squeeze: _Squeeze
    gated: Any
    project: _Convolution
    inner: Any | None  # FakeQuantize of the projection, where there is a shortcut
    raw: Any  # the values that are rounded last
    exit: Any  # the FakeQuantize that rounds them

    @property
    def entry(self) -> Any:
        """The FakeQuantize that the block begins with, which may be the exit of another."""
        return self.expansion.entry

    @property
    def readers(self) -> set[str]:
        """Names of the operations of this block that read its entry."""
        convolution = self.expansion.convolution or self.depthwise
        shortcut = set() if self.inner is None else {name_of(self.raw)}
        return {name_of(convolution.node)} | shortcut

    def first_input(self) -> Any:
        """What the operation reads where no other block comes before it."""
        return self.entry.input_value(0)

    def inputs(self) -> list[Any]:
        """Inputs of the operation behind the first."""
        return _weights(self)

    def attributes(self, emit: bool) -> dict[str, Any]:
        """Those of the operation, which gives its values in float too if `emit`."""
        return _attributes(self, emit)


def _expansion(middle: Any) -> _Expansion:
    """Before `middle`: swish of a quantized convolution of the entry, or the entry itself."""
    source = middle.input_value(0).get_node()
    try:
        total = before(swish(source), "Add")
        convolution = _convolution(before(total, "Convolution"))
        need(same_node(after(total, "Swish"), source))
        need(same_node(after(source, "FakeQuantize"), middle))
    except OtherFormError:
        return _Expansion(0, None, (0, 0), middle)
    entry = before(convolution.node, "FakeQuantize")
    shape = [int(size) for size in convolution.weights.get_output_shape(0)]
    steps = stride(convolution.node)
    if shape[2:] == [1, 1] and steps == 1 and padding(convolution.node) == (0, 0):
        need(shape[1] % 4 == 0)
        return _Expansion(1, convolution, (0, 0), entry)
    if shape[1:] == [1, 3, 3] and steps == 2:
        return _Expansion(3, convolution, padding(convolution.node), entry)
    return _Expansion(0, None, (0, 0), middle)


def _means(hidden: Any) -> tuple[Range, Any, Any]:
    """Range of the rounded means of rows, if they are rounded; the mean; the gating product."""
    found = {node.get_type_name(): node for node in consumers(hidden)}
    need(len(consumers(hidden)) == len(found) == 2 and "Multiply" in found)
    product = found.pop("Multiply")
    mean, row_mean = next(iter(found.values())), _NOT_ROUNDED
    if mean.get_type_name() != "ReduceMean":
        rounding = after(row_means(mean, int(hidden.get_output_shape(0)[3])), "FakeQuantize")
        mean, row_mean = after(rounding, "ReduceMean"), _one_range(rounding)
        need(row_mean[0] < row_mean[1])
    return row_mean, pooled_axes(mean), product


def _squeeze(hidden: Any) -> _Squeeze:
    row_mean, mean, product = _means(hidden)
    reduce = dense(after(mean, "Convolution"))
    excite = dense(after(swish(after(reduce.result, "Swish")), "Convolution"))
    gate = after(after(excite.result, "Sigmoid"), "FakeQuantize")
    need(same_node(after(gate, "Multiply"), product))
    return _Squeeze(row_mean, _one_range(gate), reduce, excite, product)


def _rounding(node: Any) -> Any:
    """The only FakeQuantize that reads it, whatever else does."""
    quantizers = [one for one in consumers(node) if one.get_type_name() == "FakeQuantize"]
    need(len(quantizers) == 1)
    return quantizers[0]


def _ending(project: _Convolution, entry: Any) -> tuple[Any | None, Any, Any]:
    """`inner`, `raw` and `exit` of a block."""
    first = _rounding(project.result)
    readers = consumers(first)
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        total = readers[0]
        sources = {name_of(total.input_value(port).get_node()) for port in (0, 1)}
        if sources == {name_of(entry), name_of(first)}:
            need(len(consumers(project.result)) == 1)
            return first, total, _rounding(total)
    return None, project.result, first


def _block(depthwise_node: Any) -> Int8Block:
    middle = before(depthwise_node, "FakeQuantize")
    depthwise = _convolution(depthwise_node)
    shape = [int(size) for size in depthwise.weights.get_output_shape(0)]
    need(shape[1:3] == [1, 1] and shape[3] == shape[4] and shape[3] in (3, 5))
    for edges in _range(middle):
        per_channel(edges, depthwise.channels)
    expansion = _expansion(middle)
    if expansion.kind == 0:
        need(depthwise.channels % 8 == 0)
    else:
        need(len(consumers(middle)) == 1)
    hidden = after(swish(after(depthwise.result, "Swish")), "FakeQuantize")
    squeeze = _squeeze(hidden)
    gated = after(squeeze.product, "FakeQuantize")
    project = _convolution(after(gated, "Convolution"))
    weights = [int(size) for size in project.weights.get_output_shape(0)]
    need(weights[0] % 8 == 0 and weights[1:] == [depthwise.channels, 1, 1])
    need(stride(project.node) == 1 and padding(project.node) == (0, 0))
    for quantizer in (expansion.entry, hidden, gated):
        _one_range(quantizer)
    inner, raw, exit_ = _ending(project, expansion.entry)
    for quantizer in (exit_, *([inner] if inner is not None else [])):
        _one_range(quantizer)
    return Int8Block(
        expansion, depthwise, middle, hidden, squeeze, gated, project, inner, raw, exit_
    )


def int8_blocks(model: Any) -> Iterator[Int8Block]:
    """All blocks of the known form, first to last."""
    return blocks_of(model, _block)


# -------------------- as an operation


def _weights(block: Int8Block) -> list[Any]:
    channels, expansion = block.depthwise.channels, block.expansion.convolution
    low, high = (per_channel(values, channels) for values in _range(block.middle))
    none = np.zeros(channels, np.float32)
    expand = (none, none) if expansion is None else (expansion.steps, expansion.biases)
    hidden = np.stack([*expand, low, high, block.depthwise.steps, block.depthwise.biases])
    output = np.stack([block.project.steps, block.project.biases])
    inputs = [block.depthwise.weights.output(0), block.project.weights.output(0)]
    inputs += [f32_output(hidden), f32_output(output)]
    for one in (block.squeeze.reduce, block.squeeze.excite):
        inputs += [one.float_weights(), f32_output(one.biases)]
    return inputs if expansion is None else [*inputs, expansion.weights.output(0)]


def _attributes(block: Int8Block, emit_float: bool) -> dict[str, Any]:
    exit_range = _one_range(block.exit)
    ranges = (
        _one_range(block.entry),
        _one_range(block.hidden),
        block.squeeze.row_mean,
        block.squeeze.gate,
        _one_range(block.gated),
        exit_range if block.inner is None else _one_range(block.inner),
        exit_range,
    )
    return {
        "expand": block.expansion.kind,
        "kernel": int(block.depthwise.weights.get_output_shape(0)[3]),
        "stride": stride(block.depthwise.node),
        "pads": [*block.expansion.padding, *padding(block.depthwise.node)],
        "shortcut": block.inner is not None,
        "emit_float": emit_float,
        "ranges": [value for pair in ranges for value in pair],
    }

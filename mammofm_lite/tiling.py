"""An encoder's inverted bottlenecks, found in its quantized graph and given to our kernels.

`tile` rewrites a graph in memory; the file keeps OpenVINO's own operations, which are what the
rewritten graph is tested against, and what runs where our kernels would not be faster. A block that
is not exactly of the known form stays as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ._openvino import ov  # isort: skip  # before any other part of openvino
from openvino import opset15
from openvino.utils.node_factory import NodeFactory

from .native import extension_path

__all__ = ["tile"]

Array = npt.NDArray[Any]
Range = tuple[float, float]

_NOT_ROUNDED: Final[Range] = (0.0, 0.0)
_LEVELS: Final = 256


class _OtherFormError(Exception):
    """This part of a graph is not what we look for."""


def _need(condition: bool) -> None:
    if not condition:
        raise _OtherFormError


# -------------------- single operations


def _name(node: Any) -> str:
    """Unique in a graph; nodes themselves cannot be compared, for == makes another node."""
    return str(node.get_friendly_name())


def _same(first: Any, second: Any) -> bool:
    return _name(first) == _name(second)


def _kind(node: Any, kind: str) -> Any:
    _need(node.get_type_name() == kind)
    return node


def _before(node: Any, kind: str, port: int = 0) -> Any:
    return _kind(node.input_value(port).get_node(), kind)


def _consumers(node: Any) -> list[Any]:
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def _after(node: Any, kind: str) -> Any:
    """The only consumer."""
    consumers = _consumers(node)
    _need(len(consumers) == 1)
    return _kind(consumers[0], kind)


def _constant(node: Any, port: int) -> Array:
    """Of a constant, or of one that is stored in half precision."""
    source = node.input_value(port).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    data: Array = _kind(source, "Constant").get_data()
    return data


def _swish(node: Any) -> Any:
    """x * sigmoid(x): without a factor within, or with one of 1."""
    _kind(node, "Swish")
    _need(node.get_input_size() == 1 or bool((_constant(node, 1) == 1).all()))
    return node


def _range(quantizer: Any) -> tuple[Array, Array]:
    """Lows and highs of a FakeQuantize that rounds to bytes and back."""
    low, high, low_again, high_again = (
        _constant(quantizer, port).astype(np.float32).ravel() for port in range(1, 5)
    )
    _need(quantizer.get_attributes()["levels"] == _LEVELS)
    _need(np.array_equal(low, low_again) and np.array_equal(high, high_again))
    _need(bool(np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()))
    return low, high


def _one_range(quantizer: Any) -> Range:
    low, high = _range(quantizer)
    _need(low.size == high.size == 1)
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

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.node.get_attributes())


def _per_channel(values: Array, channels: int) -> Array:
    _need(values.size in (1, channels))
    flat = values.astype(np.float32).ravel()
    return np.ascontiguousarray(np.broadcast_to(flat, (channels,)))


def _convolution(node: Any) -> _Convolution:
    product = _before(node, "Multiply", 1)
    weights = _before(_before(product, "Convert"), "Constant")
    _need(weights.get_element_type() == ov.Type.i8)
    channels = int(weights.get_output_shape(0)[0])
    total = _after(node, "Add")
    _need(_same(total.input_value(0).get_node(), node))
    attributes = node.get_attributes()
    _need(list(attributes["dilations"]) == [1, 1])
    _need(attributes["auto_pad"] in ("explicit", "valid", "notset"))
    steps = _per_channel(_constant(product, 1), channels)
    return _Convolution(node, weights, steps, _per_channel(_constant(total, 1), channels), total)


def _dense(node: Any) -> tuple[Array, Array, Any]:
    """Weights [out, in] and biases of a float convolution over one cell, and the sum after it."""
    weights = _constant(node, 1).astype(np.float32)
    _need(list(weights.shape[2:]) == [1, 1])
    total = _after(node, "Add")
    biases = _per_channel(_constant(total, 1), len(weights))
    return weights.reshape(weights.shape[:2]), biases, total


def _padding(convolution: _Convolution) -> tuple[int, int]:
    """Zeros before and after, alike in both directions."""
    before, after = (
        [int(value) for value in convolution.attributes[name]]
        for name in ("pads_begin", "pads_end")
    )
    _need(before[0] == before[1] and after[0] == after[1])
    return before[0], after[0]


def _stride(convolution: _Convolution) -> int:
    strides = [int(value) for value in convolution.attributes["strides"]]
    _need(strides in ([1, 1], [2, 2]))
    return strides[0]


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
    reduce: tuple[Array, Array]
    excite: tuple[Array, Array]
    product: Any


@dataclass(frozen=True)
class _Block:
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
        return self.expansion.entry

    @property
    def name(self) -> str:
        return _name(self.exit)

    @property
    def readers(self) -> set[str]:
        """Names of the operations of this block that read its entry."""
        convolution = self.expansion.convolution or self.depthwise
        shortcut = set() if self.inner is None else {_name(self.raw)}
        return {_name(convolution.node)} | shortcut


def _expansion(middle: Any) -> _Expansion:
    """Before `middle`: swish of a quantized convolution of the entry, or the entry itself."""
    source = middle.input_value(0).get_node()
    try:
        total = _before(_swish(source), "Add")
        convolution = _convolution(_before(total, "Convolution"))
        _need(_same(_after(total, "Swish"), source))
        _need(_same(_after(source, "FakeQuantize"), middle))
    except _OtherFormError:
        return _Expansion(0, None, (0, 0), middle)
    entry = _before(convolution.node, "FakeQuantize")
    shape = [int(size) for size in convolution.weights.get_output_shape(0)]
    stride = _stride(convolution)
    if shape[2:] == [1, 1] and stride == 1 and _padding(convolution) == (0, 0):
        _need(shape[1] % 4 == 0)
        return _Expansion(1, convolution, (0, 0), entry)
    if shape[1:] == [1, 3, 3] and stride == 2:
        return _Expansion(3, convolution, _padding(convolution), entry)
    return _Expansion(0, None, (0, 0), middle)


def _means(hidden: Any) -> tuple[Range, Any, Any]:
    """Range of the rounded means of rows, if they are rounded; the mean; the gating product."""
    consumers = {node.get_type_name(): node for node in _consumers(hidden)}
    _need(len(_consumers(hidden)) == len(consumers) == 2 and "Multiply" in consumers)
    product = consumers.pop("Multiply")
    pooled = next(iter(consumers.values()))
    if pooled.get_type_name() == "ReduceMean":
        mean, row_mean = pooled, _NOT_ROUNDED
    else:
        attributes = _kind(pooled, "AvgPool").get_attributes()
        width = int(hidden.get_output_shape(0)[3])
        _need(list(attributes["kernel"]) == [1, width])
        _need([*attributes["pads_begin"], *attributes["pads_end"]] == [0, 0, 0, 0])
        rounding = _after(pooled, "FakeQuantize")
        mean, row_mean = _after(rounding, "ReduceMean"), _one_range(rounding)
        _need(row_mean[0] < row_mean[1])
    _need(sorted(int(axis) % 4 for axis in _constant(mean, 1).ravel()) == [2, 3])
    _need(bool(mean.get_attributes()["keep_dims"]))
    return row_mean, mean, product


def _squeeze(hidden: Any) -> _Squeeze:
    row_mean, mean, product = _means(hidden)
    reduce, reduce_bias, total = _dense(_after(mean, "Convolution"))
    excite, excite_bias, scores = _dense(_after(_swish(_after(total, "Swish")), "Convolution"))
    gate = _after(_after(scores, "Sigmoid"), "FakeQuantize")
    _need(_same(_after(gate, "Multiply"), product))
    return _Squeeze(
        row_mean, _one_range(gate), (reduce, reduce_bias), (excite, excite_bias), product
    )


def _rounding(node: Any) -> Any:
    """The only FakeQuantize that reads it, whatever else does."""
    quantizers = [one for one in _consumers(node) if one.get_type_name() == "FakeQuantize"]
    _need(len(quantizers) == 1)
    return quantizers[0]


def _ending(project: _Convolution, entry: Any) -> tuple[Any | None, Any, Any]:
    """`inner`, `raw` and `exit` of a block."""
    first = _rounding(project.result)
    consumers = _consumers(first)
    if len(consumers) == 1 and consumers[0].get_type_name() == "Add":
        total = consumers[0]
        sources = {_name(total.input_value(port).get_node()) for port in (0, 1)}
        if sources == {_name(entry), _name(first)}:
            _need(len(_consumers(project.result)) == 1)
            return first, total, _rounding(total)
    return None, project.result, first


def _block(depthwise_node: Any) -> _Block:
    middle = _before(depthwise_node, "FakeQuantize")
    depthwise = _convolution(depthwise_node)
    shape = [int(size) for size in depthwise.weights.get_output_shape(0)]
    _need(shape[1:3] == [1, 1] and shape[3] == shape[4] and shape[3] in (3, 5))
    _stride(depthwise)
    _padding(depthwise)
    for edges in _range(middle):
        _per_channel(edges, depthwise.channels)
    expansion = _expansion(middle)
    if expansion.kind == 0:
        _need(depthwise.channels % 8 == 0)
    else:
        _need(len(_consumers(middle)) == 1)
    hidden = _after(_swish(_after(depthwise.result, "Swish")), "FakeQuantize")
    squeeze = _squeeze(hidden)
    gated = _after(squeeze.product, "FakeQuantize")
    project = _convolution(_after(gated, "Convolution"))
    weights = [int(size) for size in project.weights.get_output_shape(0)]
    _need(weights[0] % 8 == 0 and weights[1:] == [depthwise.channels, 1, 1])
    _need(_stride(project) == 1 and _padding(project) == (0, 0))
    for quantizer in (expansion.entry, hidden, gated):
        _one_range(quantizer)
    inner, raw, exit_ = _ending(project, expansion.entry)
    for quantizer in (exit_, *([inner] if inner is not None else [])):
        _one_range(quantizer)
    return _Block(expansion, depthwise, middle, hidden, squeeze, gated, project, inner, raw, exit_)


def _blocks(model: Any) -> Iterator[_Block]:
    """All blocks of the known form, first to last."""
    for op in model.get_ordered_ops():
        if op.get_type_name() == "GroupConvolution":
            try:
                yield _block(op)
            except _OtherFormError:
                continue


# -------------------- rewriting


def _f32(values: Array) -> Any:
    return opset15.constant(np.ascontiguousarray(values, np.float32)).output(0)


def _weights(block: _Block) -> list[Any]:
    """Inputs of the operation behind the first."""
    channels, expansion = block.depthwise.channels, block.expansion.convolution
    low, high = (_per_channel(values, channels) for values in _range(block.middle))
    none = np.zeros(channels, np.float32)
    expand = (none, none) if expansion is None else (expansion.steps, expansion.biases)
    hidden = np.stack([*expand, low, high, block.depthwise.steps, block.depthwise.biases])
    output = np.stack([block.project.steps, block.project.biases])
    inputs = [block.depthwise.weights.output(0), block.project.weights.output(0)]
    inputs += [_f32(hidden), _f32(output)]
    for weights, biases in (block.squeeze.reduce, block.squeeze.excite):
        inputs += [_f32(weights.T), _f32(biases)]
    return inputs if expansion is None else [*inputs, expansion.weights.output(0)]


def _attributes(block: _Block, emit_float: bool) -> dict[str, Any]:
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
        "stride": _stride(block.depthwise),
        "pads": [*block.expansion.padding, *_padding(block.depthwise)],
        "shortcut": block.inner is not None,
        "emit_float": emit_float,
        "ranges": [value for pair in ranges for value in pair],
    }


def _read_elsewhere(block: _Block, readers: set[str]) -> bool:
    """Whether anything but the operations `readers` needs what the block ends in."""
    others = {_name(node) for node in _consumers(block.raw)} - {_name(block.exit)}
    return bool(others or {_name(node) for node in _consumers(block.exit)} - readers)


def _emit_float(node: Any, block: _Block) -> None:
    """Let what read the block's last values in float read those of the operation."""
    replaced = block.raw.output(0)
    node.output(1).get_tensor().set_names(replaced.get_tensor().get_names())
    for target in replaced.get_target_inputs():
        target.replace_source_output(node.output(1))


def tile(model: Any) -> list[str]:
    """Replace the inverted bottlenecks of a quantized graph by `mammofm.TiledMBConv`, in place.

    Consecutive blocks hand each other bytes, channels last; what else reads a block's values reads
    them in float, as before.

    Parameters
    ----------
    model : openvino.Model
        With fixed shapes, and batches of one.

    Returns
    -------
    list of str
        Names of the replaced blocks: of the operation that each of them ended in.
    """
    blocks = list(_blocks(model))
    readers: dict[str, set[str]] = {}
    for block in blocks:
        readers.setdefault(_name(block.entry), set()).update(block.readers)
    floats = [_read_elsewhere(block, readers.get(block.name, set())) for block in blocks]
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))
    made: dict[str, Any] = {}
    for block, emit_float in zip(blocks, floats, strict=True):
        before = made.get(_name(block.entry))
        x = block.entry.input_value(0) if before is None else before.output(0)
        node = factory.create("TiledMBConv", [x, *_weights(block)], _attributes(block, emit_float))
        node.set_friendly_name(f"{block.name}/tiled")
        if emit_float:
            _emit_float(node, block)
        made[block.name] = node
    model.validate_nodes_and_infer_types()
    return list(made)

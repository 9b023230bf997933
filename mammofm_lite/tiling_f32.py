"""Inverted bottlenecks of a float graph, as `mammofm.TiledMBConvF32` takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ._openvino import opset
from .graph_match import (
    Array,
    Dense,
    OtherFormError,
    after,
    before,
    blocks_of,
    constant,
    constant_node,
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

__all__ = ["F32Block", "f32_blocks"]


@dataclass(frozen=True)
class _Convolution:
    """A convolution with constant weights, and the sum that follows it."""

    node: Any
    weights: Any  # the constant, of float32 or half precision
    biases: Array  # [out]
    result: Any  # the sum

    @property
    def shape(self) -> list[int]:
        """Of the weights."""
        return [int(size) for size in self.weights.get_output_shape(0)]


def _convolution(node: Any) -> _Convolution:
    weights = constant_node(node, 1)
    need(weights.get_element_type().get_type_name() in ("f32", "f16"))
    total = sum_after(node)
    stride(node)
    padding(node)
    channels = int(node.get_output_shape(0)[1])
    return _Convolution(node, weights, per_channel(constant(total, 1), channels), total)


# -------------------- a block


@dataclass(frozen=True)
class _Expansion:
    """What comes before the depthwise convolution; `kind` as the operation's attribute."""

    kind: int
    convolution: _Convolution | None
    padding: tuple[int, int]
    entry: Any  # the operation whose first output the block reads


@dataclass(frozen=True)
class F32Block:
    """One block; it begins and ends with floats."""

    operation: ClassVar = "TiledMBConvF32"
    expansion: _Expansion
    depthwise: _Convolution
    reduce: Dense
    excite: Dense
    project: _Convolution
    exit: Any  # the sum that the block ends with

    @property
    def entry(self) -> Any:
        """What the block reads, which may be the exit of another."""
        return self.expansion.entry

    @property
    def raw(self) -> Any:
        """What others read: the exit itself."""
        return self.exit

    @property
    def shortcut(self) -> bool:
        """Whether the entry is added at the end."""
        return not same_node(self.exit, self.project.result)

    @property
    def readers(self) -> set[str]:
        """Names of the operations of this block that read its entry."""
        convolution = self.expansion.convolution or self.depthwise
        return {name_of(convolution.node)} | ({name_of(self.exit)} if self.shortcut else set())

    def first_input(self) -> Any:
        """What the operation reads where no other block comes before it."""
        x = self.entry.output(0)
        if self.expansion.kind == 3:  # one plane, with its channel first or last
            return x
        return opset.transpose(x, np.array([0, 2, 3, 1])).output(0)

    def inputs(self) -> list[Any]:
        """Inputs of the operation behind the first."""
        inputs = []
        for one in (self.depthwise, self.project):
            inputs += [one.weights.output(0), f32_output(one.biases)]
        for gate in (self.reduce, self.excite):
            inputs += [gate.float_weights(), f32_output(gate.biases)]
        if (expansion := self.expansion.convolution) is not None:
            inputs += [expansion.weights.output(0), f32_output(expansion.biases)]
        return inputs

    def attributes(self, emit: bool) -> dict[str, Any]:
        """Those of the operation, which gives planes too if `emit`."""
        return {
            "expand": self.expansion.kind,
            "kernel": self.depthwise.shape[3],
            "stride": stride(self.depthwise.node),
            "pads": [*self.expansion.padding, *padding(self.depthwise.node)],
            "shortcut": self.shortcut,
            "emit_planes": emit,
        }


def _expansion(depthwise: Any) -> _Expansion:
    """Before `depthwise`: swish of a convolution of the entry, or the entry itself."""
    source = depthwise.input_value(0).get_node()
    plain = _Expansion(0, None, (0, 0), source)
    try:
        total = before(swish(source), "Add")
        convolution = _convolution(before(total, "Convolution"))
        need(same_node(after(total, "Swish"), source))
        need(same_node(after(source, "GroupConvolution"), depthwise))
    except OtherFormError:
        return plain
    node, shape = convolution.node, convolution.shape
    entry = node.input_value(0).get_node()
    if shape[2:] == [1, 1] and stride(node) == 1 and padding(node) == (0, 0):
        return _Expansion(1, convolution, (0, 0), entry) if shape[1] % 4 == 0 else plain
    if shape[1:] == [1, 3, 3] and stride(node) == 2:
        return _Expansion(3, convolution, padding(node), entry)
    return plain


def _squeeze(hidden: Any) -> tuple[Dense, Dense, Any]:
    """The two products of the squeeze-excite path, and the gating product."""
    found = {node.get_type_name(): node for node in consumers(hidden)}
    need(len(consumers(hidden)) == len(found) == 2 and "Multiply" in found)
    product = found.pop("Multiply")
    mean = next(iter(found.values()))
    if mean.get_type_name() != "ReduceMean":
        mean = after(row_means(mean, int(hidden.get_output_shape(0)[3])), "ReduceMean")
    reduce = dense(after(pooled_axes(mean), "Convolution"))
    excite = dense(after(swish(after(reduce.result, "Swish")), "Convolution"))
    need(same_node(after(after(excite.result, "Sigmoid"), "Multiply"), product))
    return reduce, excite, product


def _exit(project: _Convolution, entry: Any) -> Any:
    """The sum with the entry, if nothing else reads the projection; or the projection itself."""
    readers = consumers(project.result)
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        sources = {name_of(readers[0].input_value(port).get_node()) for port in (0, 1)}
        shapes = [list(node.get_output_shape(0)) for node in (entry, project.result)]
        if sources == {name_of(entry), name_of(project.result)} and shapes[0] == shapes[1]:
            return readers[0]
    return project.result


def _block(node: Any) -> F32Block:
    depthwise = _convolution(node)
    channels, *group, height, width = depthwise.shape
    need(group == [1, 1] and height == width and width in (3, 5))
    expansion = _expansion(node)
    need(expansion.kind != 0 or channels % 8 == 0)
    need(expansion.entry.get_output_size() == 1)
    need(int(expansion.entry.get_output_shape(0)[0]) == 1)
    hidden = swish(after(depthwise.result, "Swish"))
    reduce, excite, product = _squeeze(hidden)
    project = _convolution(after(product, "Convolution"))
    need(project.shape[0] % 8 == 0 and project.shape[1:] == [channels, 1, 1])
    need(stride(project.node) == 1 and padding(project.node) == (0, 0))
    exit_ = _exit(project, expansion.entry)
    return F32Block(expansion, depthwise, reduce, excite, project, exit_)


def f32_blocks(model: Any) -> Iterator[F32Block]:
    """All blocks of the known form, first to last."""
    return blocks_of(model, _block)

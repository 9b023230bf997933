"""Parts of a graph, where they have a known form: for passes that replace them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ._openvino import opset

__all__ = [
    "Array",
    "Dense",
    "OtherFormError",
    "after",
    "before",
    "blocks_of",
    "constant",
    "constant_node",
    "consumers",
    "dense",
    "f32_output",
    "name_of",
    "need",
    "of_kind",
    "padding",
    "per_channel",
    "pooled_axes",
    "row_means",
    "same_node",
    "stride",
    "sum_after",
    "swish",
]

Array = npt.NDArray[Any]
_Block = TypeVar("_Block")


class OtherFormError(Exception):
    """This part of a graph is not what we look for."""


def need(condition: bool) -> None:
    """Raise `OtherFormError` where the condition does not hold."""
    if not condition:
        raise OtherFormError


def name_of(node: Any) -> str:
    """Unique in a graph; nodes themselves cannot be compared, for == makes another node."""
    return str(node.get_friendly_name())


def same_node(first: Any, second: Any) -> bool:
    """Whether two references mean one operation."""
    return name_of(first) == name_of(second)


def of_kind(node: Any, kind: str) -> Any:
    """The node, which must be of a kind."""
    need(node.get_type_name() == kind)
    return node


def before(node: Any, kind: str, port: int = 0) -> Any:
    """What an input comes from, which must be of a kind."""
    return of_kind(node.input_value(port).get_node(), kind)


def consumers(node: Any) -> list[Any]:
    """All that read the first output."""
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def after(node: Any, kind: str) -> Any:
    """The only consumer, which must be of a kind."""
    found = consumers(node)
    need(len(found) == 1)
    return of_kind(found[0], kind)


def constant_node(node: Any, port: int) -> Any:
    """The constant that an input is, or is the conversion of."""
    source = node.input_value(port).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return of_kind(source, "Constant")


def constant(node: Any, port: int) -> Array:
    """Numbers of a constant, or of one that is stored in half precision."""
    data: Array = constant_node(node, port).get_data()
    return data


def swish(node: Any) -> Any:
    """x * sigmoid(x): without a factor within, or with one of 1."""
    of_kind(node, "Swish")
    need(node.get_input_size() == 1 or bool((constant(node, 1) == 1).all()))
    return node


def per_channel(values: Array, channels: int) -> Array:
    """float32 ``[channels]``, of as many numbers or of one."""
    need(values.size in (1, channels))
    flat = values.astype(np.float32).ravel()
    return np.ascontiguousarray(np.broadcast_to(flat, (channels,)))


def sum_after(node: Any) -> Any:
    """The sum of a convolution and its biases, in this order."""
    total = after(node, "Add")
    need(same_node(total.input_value(0).get_node(), node))
    return total


@dataclass(frozen=True)
class Dense:
    """A float convolution over one cell: the constant of its weights, biases, and the sum."""

    weights: Any
    biases: Array
    result: Any

    def float_weights(self) -> Any:
        """The weights' output in the graph itself, if they are float32, or that of a copy."""
        if self.weights.get_element_type().get_type_name() == "f32":
            return self.weights.output(0)
        return f32_output(self.weights.get_data())


def dense(node: Any) -> Dense:
    """The convolution `node` over one cell and the sum after it."""
    weights = constant_node(node, 1)
    channels, _, *cell = (int(size) for size in weights.get_output_shape(0))
    need(cell == [1, 1])
    total = after(node, "Add")
    return Dense(weights, per_channel(constant(total, 1), channels), total)


def padding(convolution: Any) -> tuple[int, int]:
    """Zeros before and after, alike in both directions."""
    attributes = convolution.get_attributes()
    need(attributes["auto_pad"] in ("explicit", "valid", "notset"))
    first, last = (
        [int(value) for value in attributes[name]] for name in ("pads_begin", "pads_end")
    )
    need(first[0] == first[1] and last[0] == last[1])
    return first[0], last[0]


def stride(convolution: Any) -> int:
    """1 or 2, alike in both directions, with nothing between the kernel's cells."""
    attributes = convolution.get_attributes()
    need(list(attributes["dilations"]) == [1, 1])
    strides = [int(value) for value in attributes["strides"]]
    need(strides in ([1, 1], [2, 2]))
    return strides[0]


def row_means(pooled: Any, width: int) -> Any:
    """An average over rows of a width, which is what `pooled` must be."""
    attributes = of_kind(pooled, "AvgPool").get_attributes()
    need(list(attributes["kernel"]) == [1, width])
    need([*attributes["pads_begin"], *attributes["pads_end"]] == [0, 0, 0, 0])
    return pooled


def pooled_axes(mean: Any) -> Any:
    """A mean over rows and columns that keeps them as axes, which is what `mean` must be."""
    of_kind(mean, "ReduceMean")
    need(sorted(int(axis) % 4 for axis in constant(mean, 1).ravel()) == [2, 3])
    need(bool(mean.get_attributes()["keep_dims"]))
    return mean


def f32_output(values: Array) -> Any:
    """The output of a new constant."""
    return opset.constant(np.ascontiguousarray(values, np.float32)).output(0)


def blocks_of(model: Any, match: Callable[[Any], _Block]) -> Iterator[_Block]:
    """What `match` finds at each depthwise convolution that it knows the surroundings of."""
    for op in model.get_ordered_ops():
        if op.get_type_name() == "GroupConvolution":
            try:
                yield match(op)
            except OtherFormError:
                continue

"""The layers of a graph: what is quantized, what never is, and the way back to float."""

from collections.abc import Collection
from typing import Any, Final

__all__ = [
    "bypass",
    "layer_names",
    "never_quantized",
    "operation_runs",
    "single_cell_layers",
    "treatment",
]

_LAYERS: Final = ("Convolution", "GroupConvolution")
_ENDS: Final = ("Constant", "Parameter", "Result", "Convert")  # not calculations


def treatment(model: Any) -> str:
    """What a graph gains by: ``quantize``, ``compress`` (weights alone) or ``keep``.

    Encoders (they read a picture) and detectors (they give boxes) spend their time in convolutions.
    Graphs with our attention spend theirs in reading weights. The others are small.
    """
    names = {name for port in (*model.inputs, *model.outputs) for name in port.get_names()}
    if names & {"image", "boxes"}:
        return "quantize"
    return "compress" if _of_type(model, ("TiledAttention",)) else "keep"


def _of_type(model: Any, types: Collection[str]) -> list[Any]:
    return [op for op in model.get_ordered_ops() if op.get_type_name() in types]


def layer_names(model: Any) -> list[str]:
    """All convolutions, in the order they run."""
    return [op.get_friendly_name() for op in _of_type(model, _LAYERS)]


def single_cell_layers(model: Any) -> list[str]:
    """Convolutions over one cell: the squeeze-excite paths.

    They cost next to no time, and their sigmoid scales whole channels: quantized they lose
    accuracy (measured) and gain nothing.
    """
    names = []
    for op in _of_type(model, _LAYERS):
        shape = op.output(0).get_partial_shape()
        if shape.is_static and all(size == 1 for size in shape.to_shape()[2:]):
            names.append(op.get_friendly_name())
    return names


def never_quantized(model: Any) -> list[str]:
    """Operations that stay float whatever they gain.

    Everything that prepares the picture before the first convolution, for its resize must round as
    the reference does; and in a graph that ends in boxes everything but the convolutions: the
    decoding of boxes, the scores and their suppression.
    """
    first = next(iter(_of_type(model, _LAYERS)), None)
    kept = [] if first is None else _before(first)
    boxes = any("boxes" in port.get_names() for port in model.outputs)
    for op in model.get_ordered_ops():
        if op.get_type_name() in (*_LAYERS, *_ENDS):
            continue
        if boxes or op.get_type_name() == "MatMul":
            kept.append(op.get_friendly_name())
    return sorted(set(kept))


def _before(layer: Any) -> list[str]:
    """Names of the operations whose values a layer's data input depends on."""
    found: set[str] = set()
    pending = [layer.input_value(0).get_node()]
    while pending:
        op = pending.pop()
        if op.get_friendly_name() in found:
            continue
        if op.get_type_name() not in ("Constant", "Parameter"):
            found.add(op.get_friendly_name())
        pending += [op.input_value(i).get_node() for i in range(op.get_input_size())]
    return sorted(found)


def operation_runs(model: Any, most: int, spared: Collection[str]) -> list[tuple[str, ...]]:
    """Consecutive operations, in at most `most` runs with nearly equally many convolutions.

    A run begins at a convolution and holds the sums and products that follow it, too, for those are
    quantized as well. Names in `spared` are left out, and runs that then hold no convolution.
    """
    names = [
        op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() not in _ENDS
    ]
    layers = [name for name in layer_names(model) if name not in spared]
    count = min(most, len(layers))
    starts = [names.index(layers[i * len(layers) // count]) for i in range(count)]
    ends = [*starts[1:], len(names)]
    return [
        tuple(name for name in names[a:b] if name not in spared)
        for a, b in zip(starts, ends, strict=False)
    ]


def bypass(model: Any, original: Any, operations: Collection[str]) -> Any:
    """A copy of a quantized graph in which some operations compute in float again.

    Parameters
    ----------
    model
        The quantized ``openvino.Model``.
    original
        The float graph it was made from: the weights come from there, found by the layers' names,
        and are shared.
    """
    copy = model.clone()
    weights = {op.get_friendly_name(): op.input_value(1) for op in _of_type(original, _LAYERS)}
    for op in copy.get_ordered_ops():
        if op.get_friendly_name() not in operations:
            continue
        for port in op.inputs():
            source = port.get_source_output().get_node()
            if source.get_type_name() == "FakeQuantize":
                port.replace_source_output(source.input_value(0))
        if op.get_type_name() in _LAYERS:
            op.input(1).replace_source_output(weights[op.get_friendly_name()])
    copy.validate_nodes_and_infer_types()
    return copy

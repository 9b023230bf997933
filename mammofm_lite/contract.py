"""What every graph of a bundle must take and give, by name, type and shape.

A graph whose hash is right may still be the wrong one: exported for other labels, or for another
head. OpenVINO would find some of that in the middle of a study, and numpy would find none of it
where a row of five probabilities is cut into three labels. So every graph is held against the
description before anything is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from .bundle import (
    DESCRIPTION,
    Bundle,
    DiagnosisMember,
    EncoderSpec,
    LocalizationMember,
    Member,
    PrognosisMember,
    ReportSpec,
    TextSpec,
)
from .errors import BundleError
from .views import STANDARD_VIEWS, ViewName

__all__ = [
    "Contract",
    "Port",
    "check_any_size",
    "check_decoder",
    "check_graph",
    "graph_contracts",
    "map_input",
]

Shape: TypeAlias = tuple[int | None, ...]

_PROJECTIONS: Final = ("cc", "mlo")
_SIDES: Final = ("left", "right")


@dataclass(frozen=True)
class Port:
    """An input or output: element type as OpenVINO names it; ``None`` stands for any size."""

    type: str
    shape: Shape

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.type} [{sizes}]"


@dataclass(frozen=True)
class Contract:
    """Inputs: exactly these. Outputs: at least these."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


def map_input(view: ViewName) -> str:
    """Name of a view's input of the fusion graph: ``L-CC`` gives ``map_l_cc``."""
    return f"map_{view.lower().replace('-', '_')}"


def _f32(*shape: int | None) -> Port:
    return Port("f32", shape)


def _i64(*shape: int | None) -> Port:
    return Port("i64", shape)


# -------------------- from the description


def graph_contracts(bundle: Bundle) -> Mapping[str, Contract]:
    """The contract of every graph of a bundle, by file name.

    The decoder of the report is missing: what it takes is what the fusion graph gives; see
    `check_decoder`.

    Raises
    ------
    BundleError
        Head and encoder do not fit, or one graph has two tasks: it would answer one of them
        with the other's answer, for two detectors have one and the same contract.
    """
    found: dict[str, Contract] = {}
    for name, contract in _all_contracts(bundle):
        if name in found:
            raise BundleError(f"{DESCRIPTION}: the graph {name!r} is named for two tasks")
        found[name] = contract
    return found


def _all_contracts(bundle: Bundle) -> Iterator[tuple[str, Contract]]:
    for spec in bundle.encoders.values():
        yield spec.model, _encoder(bundle, spec)
    for head in bundle.heads:
        for member in bundle.members(head):
            yield _of_member(bundle, member)
    if bundle.text:
        yield from _text(bundle, bundle.text)


def _of_member(bundle: Bundle, member: Member) -> tuple[str, Contract]:
    if isinstance(member, DiagnosisMember):
        return member.model, _diagnosis(bundle, member)
    if isinstance(member, LocalizationMember):
        return member.model, _localization(bundle, member)
    if isinstance(member, PrognosisMember):
        return member.model, _prognosis(bundle, member)
    return member.fusion, _fusion(bundle, member)


def _feature(bundle: Bundle, head: str, member: Member, output: str, rank: int) -> tuple[int, ...]:
    """Shape of an encoder's output that a member takes; the first axis is the one view."""
    shape = bundle.encoders[member.encoder].outputs.get(output)
    if shape is None or len(shape) != rank or shape[0] != 1:
        raise BundleError(
            f"{DESCRIPTION}: head {head!r} needs the output {output!r} of encoder "
            f"{member.encoder!r} with {rank} axes, the first of size 1; export the bundle anew"
        )
    return shape


def _encoder(bundle: Bundle, spec: EncoderSpec) -> Contract:
    size = bundle.preprocessing
    return Contract(
        {"image": Port("u8", (1, 1, size.height, size.width))},
        {name: _f32(*shape) for name, shape in spec.outputs.items()},
    )


def _diagnosis(bundle: Bundle, member: DiagnosisMember) -> Contract:
    columns = sum(label.columns for label in member.labels)
    pooled = _feature(bundle, "diagnosis", member, "pooled", 2)
    return Contract({"pooled": _f32(*pooled)}, {"probabilities": _f32(1, columns)})


def _localization(bundle: Bundle, member: LocalizationMember) -> Contract:
    levels = {
        name: _f32(*_feature(bundle, "localization", member, name, 4))
        for name in ("c3", "c4", "c5")
    }
    return Contract(levels, {"boxes": _f32(None, 4), "scores": _f32(None), "labels": _i64(None)})


def _prognosis(bundle: Bundle, spec: PrognosisMember) -> Contract:
    shape = _feature(bundle, "prognosis", spec, "map", 4)
    if shape[2:] != spec.map:
        raise BundleError(
            f"{DESCRIPTION}: head 'prognosis' has a map of {spec.map[0]} x {spec.map[1]} cells, "
            f"encoder {spec.encoder!r} gives {shape[2]} x {shape[3]}; export the bundle anew"
        )
    if any(window > cells for window, cells in zip(spec.window, spec.map, strict=True)):
        raise BundleError(f"{DESCRIPTION}: head 'prognosis': 'window' is larger than 'map'")
    rows, columns = (
        (cells - window) // stride + 1
        for cells, window, stride in zip(spec.map, spec.window, spec.stride, strict=True)
    )
    years = len(spec.years)
    maps = {f"{p}_{side}": _f32(*shape) for p in _PROJECTIONS for side in _SIDES}
    return Contract(
        {**maps, "usable": _f32(2)},
        {
            "score": _f32(years),
            "risk": _f32(years),
            "heatmap": _f32(years, 2, rows, columns),
            "peak": _i64(years, 2, 2),
        },
    )


def _fusion(bundle: Bundle, spec: ReportSpec) -> Contract:
    shape = _feature(bundle, "report", spec, "map", 4)
    maps = {map_input(view): _f32(*shape) for view in STANDARD_VIEWS}
    return Contract({**maps, "present": _f32(1, len(STANDARD_VIEWS))}, {})


def _text(bundle: Bundle, spec: TextSpec) -> list[tuple[str, Contract]]:
    """Of the text encoder, and of the graph that compares texts with one view."""
    outputs = bundle.encoders[spec.encoder].outputs
    pooled, cells = outputs.get("pooled", ()), outputs.get("map", ())
    if len(pooled) != 2 or len(cells) != 4 or pooled[0] != 1 or cells[0] != 1:
        raise BundleError(
            f"{DESCRIPTION}: 'text' needs the outputs 'pooled' and 'map' of encoder "
            f"{spec.encoder!r}, of one view; export the bundle anew"
        )
    embedding, tokens = _f32(None, spec.size), _i64(None, None)
    encoder = Contract({"input_ids": tokens, "attention_mask": tokens}, {"embedding": embedding})
    match = Contract(
        {"pooled": _f32(*pooled), "map": _f32(*cells), "embedding": embedding},
        {"similarity": _f32(None), "agreement": _f32(None, *cells[2:])},
    )
    return [(spec.model, encoder), (spec.match, match)]


# -------------------- held against a graph


def check_graph(file: str, graph: Any, contract: Contract) -> None:
    """Hold an ``openvino.Model`` or ``CompiledModel`` against its contract.

    Raises
    ------
    BundleError
        Naming the file, the input or output, what it should be and what it is.
    """
    inputs, outputs = _ports(graph.inputs), _ports(graph.outputs)
    for name, port in contract.inputs.items():
        _check_port(file, "input", name, port, inputs)
    for name, port in contract.outputs.items():
        _check_port(file, "output", name, port, outputs)
    used = [p for p in graph.inputs if contract.inputs.keys().isdisjoint(p.get_names())]
    if used:
        raise BundleError(
            f"{file}: has an input {_name(used[0])!a} that nothing feeds; export the bundle anew"
        )


def check_any_size(file: str, graph: Any, contract: Contract) -> None:
    """Refuse a graph that fixes a size which the contract leaves open, at an input.

    Raises
    ------
    BundleError
        Naming the file and the input.
    """
    found = _ports(graph.inputs)
    for name, port in contract.inputs.items():
        fixed = zip(port.shape, found[name].shape, strict=True)
        if any(wanted is None and have is not None for wanted, have in fixed):
            raise BundleError(
                f"{file}: input {name!r} is {found[name]}, the bundle needs {port} for any size; "
                "export the bundle anew"
            )


def check_decoder(file: str, graph: Any, fusion: Any, vocabulary: int) -> None:
    """Hold the report's decoder against the fusion graph that feeds it and the tokenizer.

    Raises
    ------
    BundleError
        As `check_graph`.
    """
    memory = _ports(fusion.outputs)
    token = {"token": _i64(1, 1), "position": _i64(1, 1)}
    check_graph(file, graph, Contract({**memory, **token}, {"logits": _f32(1, vocabulary)}))


def _ports(found: Any) -> dict[str, Port]:
    """All names of all ports of a graph; one port may have several."""
    return {
        name: Port(_type(port), _shape(port)) for port in found for name in sorted(port.get_names())
    }


def _name(port: Any) -> str:
    return next(iter(sorted(port.get_names())), "without name")


def _type(port: Any) -> str:
    return str(port.get_element_type().get_type_name())


def _shape(port: Any) -> Shape:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(None if size.is_dynamic else size.get_length() for size in shape)


def _check_port(file: str, kind: str, name: str, wanted: Port, found: Mapping[str, Port]) -> None:
    if name not in found:
        raise BundleError(
            f"{file}: has no {kind} {name!r}, which must be {wanted}; export the bundle anew"
        )
    have = found[name]
    same = len(have.shape) == len(wanted.shape) and all(
        size is None or size == given for size, given in zip(wanted.shape, have.shape, strict=True)
    )
    if have.type != wanted.type or not same:
        raise BundleError(
            f"{file}: {kind} {name!r} is {have}, the bundle needs {wanted}; export the bundle anew"
        )

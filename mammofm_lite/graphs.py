"""Compiled graphs of one bundle: each compiled once, when first needed, and reused."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ._openvino import OPENVINO_VERSION, cpu_properties, make_core, ov
from .bundle import Bundle
from .contract import check_graph, graph_contracts
from .errors import BundleError
from .native import attention_precision, instruction_set, mbconv_kernel
from .progress import StageReporter
from .tiling import tile

__all__ = ["Graph", "GraphStore"]

Tensors = dict[str, npt.NDArray[Any]]

_FAST_INT8: Final = ("avx512vnni",)
_FAST_FLOAT32: Final = ("avx512", "avx512_vnni")
"""The kernels of TiledMBConv that are faster than OpenVINO's own, see benchmarks/notes.md."""


class Graph:
    """One compiled graph and its one inference request; not for two threads at once."""

    def __init__(self, name: str, compiled: Any) -> None:
        self._name = name
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        # One tensor may carry two names: an encoder's map is also its C5.
        self._outputs = [(sorted(port.get_names()), port) for port in compiled.outputs]

    @property
    def output_names(self) -> tuple[str, ...]:
        """All names of all outputs."""
        return tuple(name for names, _ in self._outputs for name in names)

    def release_memory(self) -> None:
        """Give back the memory between a run's layers, of B5 at 1520x912 some 240 MB; the weights
        stay. The next run takes it again, which costs a few per cent of one run."""
        self._compiled.release_memory()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Tensors:
        """Infer; inputs are shared, not copied, and outputs are fresh arrays.

        Raises
        ------
        BundleError
            An output is not finite: such a number must not become an answer.
        """
        tensors = {
            name: ov.Tensor(np.ascontiguousarray(array), shared_memory=True)
            for name, array in inputs.items()
        }
        self._request.infer(tensors, share_outputs=True)  # else every output is copied first
        results: Tensors = {}
        for names, port in self._outputs:
            array = np.array(self._request.get_tensor(port).data)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                name = names[0] if names else "without name"
                raise BundleError(f"{self._name}: output {name!r} is not finite")
            results.update(dict.fromkeys(names, array))
        return results


class GraphStore:
    """Compiles the graphs of a verified bundle on demand.

    Parameters
    ----------
    bundle
        Verified.
    threads
        CPU threads of a run.
    tiled
        Give the inverted bottlenecks of encoders to our kernels where those are faster than
        OpenVINO's: on CPUs with AVX-512, and with its VNNI for INT8. The bundle itself is not
        changed.

    Raises
    ------
    BundleError
        The bundle was made with a newer OpenVINO than the one at hand, or its description asks
        for graphs that cannot fit each other.
    """

    def __init__(self, bundle: Bundle, threads: int, tiled: bool = True) -> None:
        _check_openvino(bundle)
        self._bundle = bundle
        self._threads = threads
        self._tiled = _fast_precisions() if tiled else frozenset()
        self._core = make_core()
        self._contracts = graph_contracts(bundle)
        self._models: dict[str, Any] = {}
        self._checked: set[str] = set()
        self._attention: dict[str, set[str]] = {}
        self._graphs: dict[str, Graph] = {}
        self._kernels: dict[str, str] = {}

    def kernels(self, names: Iterable[str]) -> Mapping[str, str]:
        """Operations of ours in those of the graphs `names` that are compiled, by file: with which
        kernels, how often."""
        found = {name: self._kernels[name] for name in sorted(names) if name in self._kernels}
        return MappingProxyType(found)

    @property
    def cpu_name(self) -> str:
        return str(self._core.get_property("CPU", "FULL_DEVICE_NAME")).strip()

    def attention(self, names: Iterable[str]) -> Literal["float32", "int8", "none"]:
        """What our attention computes in, in those of the graphs `names` that are compiled:
        ``int8`` if any does, else ``float32``; ``none`` if they have none."""
        found = {kind for name in names for kind in self._attention.get(name, ())}
        if not found:
            return "none"
        return "int8" if "int8" in found else "float32"

    def graph(self, name: str, reporter: StageReporter) -> Graph:
        """The graph of file `name`, compiled if this is its first use."""
        if name not in self._graphs:
            self._graphs[name] = Graph(name, self.compile(name, reporter))
        return self._graphs[name]

    def check(self, name: str) -> None:
        """Hold the graph of file `name` against its contract, once; raises as `model` does."""
        if name not in self._checked:
            self.model(name)

    def model(self, name: str) -> Any:
        """The ``openvino.Model`` of file `name`, held against its contract; not yet compiled.

        Cheap, for the weights stay in the file: a graph that does not fit is told before any
        other is run.

        Raises
        ------
        BundleError
            OpenVINO cannot read the graph, or its inputs or outputs are not those that the
            description asks for.
        """
        if name not in self._models:
            path = self._bundle.file(name)
            weights = self._bundle.file(str(Path(name).with_suffix(".bin")))
            with _loading(name):
                model = self._core.read_model(str(path), str(weights))
            if name in self._contracts:
                check_graph(name, model, self._contracts[name])
            self._models[name] = model
            self._checked.add(name)
        return self._models[name]

    def compile(self, name: str, reporter: StageReporter) -> Any:
        """An ``openvino.CompiledModel`` of file `name`; raises as `model` does."""
        with reporter.stage("compile", name):
            model = self.model(name)
            self._attention[name] = _attention_precisions(model)
            with _loading(name):
                if self._tiled:
                    tile(model, self._tiled)
                self._note_kernels(name, model)
                compiled = self._core.compile_model(model, "CPU", cpu_properties(self._threads))
        del self._models[name]  # the compiled one lives on without it
        return compiled

    def _note_kernels(self, name: str, model: Any) -> None:
        used = {
            "TiledAttention": instruction_set(),
            "TiledMBConv": mbconv_kernel(),
            "TiledMBConvF32": instruction_set(),
        }
        counts = Counter(op.get_type_name() for op in model.get_ops())
        noted = [f"{op} ({kind}) x {counts[op]}" for op, kind in used.items() if counts[op]]
        if noted:
            self._kernels[name] = ", ".join(noted)


def _fast_precisions() -> frozenset[str]:
    """Of the blocks that our kernels are faster at on this CPU."""
    fast = {"int8": mbconv_kernel() in _FAST_INT8, "float32": instruction_set() in _FAST_FLOAT32}
    return frozenset(name for name, is_faster in fast.items() if is_faster)


def _attention_precisions(model: Any) -> set[str]:
    """What the attention operations of a model will compute in."""
    nodes = (op for op in model.get_ops() if op.get_type_name() == "TiledAttention")
    return {attention_precision(node.get_attributes()["precision"]) for node in nodes}


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """OpenVINO's errors are pages long and name places in its sources."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # RuntimeError; but also what its binding raises on odd bytes
        raise BundleError(
            f"{name}: OpenVINO {OPENVINO_VERSION} cannot load this graph; "
            "export the bundle anew with this version"
        ) from error


def _check_openvino(bundle: Bundle) -> None:
    """Graphs of older versions are read by newer ones, not the other way round."""
    made = bundle.made_with["openvino"]
    if _parts(made) > _parts(OPENVINO_VERSION):
        raise BundleError(
            f"the bundle was made with OpenVINO {made}, newer than the {OPENVINO_VERSION} at hand; "
            "update mammofm-lite or export the bundle anew"
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

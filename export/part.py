"""What every part of a bundle goes through, and how a graph is compared with torch.

Every part goes through the same three steps, called in order by `build`: `load` (weights into the
torch module), `convert` (IR, written to the folder), `check` (the graph against torch on a
real-sized input, and its operations against what the part should contain).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mammofm_lite._openvino import cpu_properties, make_core, ov
from mammofm_lite.errors import ExportError

from .graphs import compare, operation_census
from .recipe import WeightSource
from .weights import load_into

__all__ = [
    "HALF",
    "ROUNDING",
    "Arrays",
    "GraphPart",
    "Part",
    "as_numpy",
    "check_census",
    "compile_graph",
    "gate",
    "run_compiled",
    "run_graph",
    "stored_differences",
]

HALF: Final = ", half-precision weights against float32"
ROUNDING: Final = ", torch in float32 against float64"
# Where rounding alone exceeds a gate, a graph may be off by so many times what torch is.
_ROUNDINGS: Final = 4.0

Arrays = dict[str, npt.NDArray[Any]]


class Part(ABC):
    """One encoder or head of a bundle, or its text encoder, while it is being made."""

    kind: ClassVar[Literal["encoder", "head", "text"]] = "head"

    def __init__(self, name: str) -> None:
        self.name = name
        self.member_of: str | None = None
        """The head of which this part is one member; ``None`` where it is the whole of it."""
        self.differences: dict[str, float | None] = {}
        self.census: dict[str, dict[str, int]] = {}
        self.notes: list[str] = []
        """What a person who exports should know of the weights, a line each."""
        self._origins: dict[WeightSource, dict[str, Any]] = {}

    def fill(
        self, module: torch.nn.Module, source: WeightSource, ignore: tuple[str, ...] = ()
    ) -> None:
        """`load_into`, and remember where the weights came from."""
        self._origins[source] = load_into(module, source, ignore)

    def origin(self, source: WeightSource) -> dict[str, Any]:
        """What the provenance says of a source, in full once `fill` has read it."""
        return self._origins.get(source) or source.describe()

    def ignored(self) -> dict[str, list[str]]:
        """What files held that nothing takes, by file."""
        return {
            origin["file"]: origin["ignored"]
            for origin in self._origins.values()
            if origin.get("ignored")
        }

    @property
    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """What ``bundle.json`` says of this part."""

    @property
    @abstractmethod
    def provenance(self) -> Any:
        """Where its weights came from."""

    @abstractmethod
    def load(self) -> None:
        """Build the torch module and fill it."""

    @abstractmethod
    def convert(self, folder: Path, *, half_weights: bool) -> None:
        """Write the graphs of this part into `folder`."""

    @abstractmethod
    def check(self, folder: Path, tolerance: float) -> None:
        """Compare torch with the graphs; raise `ExportError` above `tolerance`."""


class GraphPart(Part):
    """A part that is one graph."""

    probabilities: ClassVar[frozenset[str]] = frozenset()
    """Outputs whose difference is measured in absolute terms."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._model: Any = None

    @property
    def file(self) -> str:
        return f"{self.kind}_{self.name}.xml"

    @abstractmethod
    def graph(self) -> Any:
        """The float32 ``openvino.Model``."""

    @abstractmethod
    def example(self) -> tuple[Arrays, Arrays]:
        """A real-sized input, and torch's outputs for it."""

    def rounding(self, inputs: Arrays, expected: Arrays) -> dict[str, float]:
        """By how much torch's own float32 outputs differ from float64; none where not known.

        With trained weights that alone can exceed a gate. Measured only where one is.
        """
        return {}

    def compared(self, expected: Arrays, actual: Arrays) -> dict[str, float]:
        """How far outputs are apart, by name, as `compare` measures it."""
        return compare(expected, actual, self.probabilities)

    @abstractmethod
    def expected_operations(self) -> dict[str, int]:
        """Operations that the graph must have, by type, exactly this often."""

    def convert(self, folder: Path, *, half_weights: bool) -> None:
        self._model = self.graph()
        ov.save_model(self._model, str(folder / self.file), compress_to_fp16=half_weights)
        self._half_weights = half_weights

    def check(self, folder: Path, tolerance: float) -> None:
        """Gate the float32 graph; record what half-precision storage then costs."""
        inputs, expected = self.example()
        converted = run_graph(self._model, inputs)
        self.differences = dict(self.compared(expected, converted))
        if any(not value <= tolerance for value in self.differences.values() if value is not None):
            rounding = self.rounding(inputs, expected)
            self.differences |= {f"{name}{ROUNDING}": value for name, value in rounding.items()}
        gate(self.name, self.differences, tolerance)
        if self._half_weights:
            stored = run_graph(str(folder / self.file), inputs)
            self.differences |= stored_differences(self.compared(converted, stored))
        self.census = {self.file: check_census(self.name, self._model, self.expected_operations())}
        self._model = None


def compile_graph(model: Any) -> Any:
    """Compile an ``openvino.Model`` or its file as the runtime does."""
    return make_core().compile_model(model, "CPU", cpu_properties(torch.get_num_threads()))


def run_graph(model: Any, inputs: Arrays) -> Arrays:
    """Outputs of a graph (an ``openvino.Model`` or its file) on the CPU in float32, by name."""
    return run_compiled(compile_graph(model), inputs)


def run_compiled(compiled: Any, inputs: Arrays) -> Arrays:
    """Outputs of a compiled graph by name."""
    results = compiled(inputs)
    return {name: np.array(results[port]) for port in compiled.outputs for name in port.get_names()}


def stored_differences(differences: Mapping[str, float]) -> dict[str, float | None]:
    """What half-precision storage of the weights costs, as it is recorded; ``None`` for another
    number of boxes."""
    return {
        f"{name}{HALF}": value if np.isfinite(value) else None
        for name, value in differences.items()
    }


def gate(part: str, differences: Mapping[str, float | None], tolerance: float) -> None:
    """Refuse a part of which an output differs by more than `tolerance`.

    Where torch's own rounding was measured, by more than some times that.
    """
    for name, value in differences.items():
        if name.endswith(ROUNDING):
            continue
        allowed = max(tolerance, _ROUNDINGS * (differences.get(f"{name}{ROUNDING}") or 0.0))
        if value is None or not value <= allowed:
            raise ExportError(
                f"{part}: output {name!r} of the IR differs from torch by {value}, "
                f"more than {allowed:g}; nothing was written"
            )


def check_census(part: str, model: Any, expected: Mapping[str, int]) -> dict[str, int]:
    """Count a graph's operations; refuse another number of the expected ones."""
    found = operation_census(model)
    for operation, count in expected.items():
        if found.get(operation, 0) != count:
            raise ExportError(
                f"{part}: the IR has {found.get(operation, 0)} {operation} operations, "
                f"expected {count}; nothing was written"
            )
    return found


def as_numpy(tensors: Mapping[str, Tensor]) -> Arrays:
    """Tensors as arrays of the same memory."""
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

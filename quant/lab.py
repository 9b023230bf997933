"""The engine with ears: what its graphs are fed and give, for calibration and comparison."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mammofm_lite.bundle import Bundle
from mammofm_lite.engine import Model
from mammofm_lite.graphs import Graph, GraphStore, Tensors
from mammofm_lite.progress import StageReporter
from mammofm_lite.results import StudyResult

from .studies import Case

__all__ = ["Lab", "Run"]


@dataclass(frozen=True)
class Run:
    """One run of a graph: inputs and outputs by name."""

    inputs: Tensors
    outputs: Tensors


class Lab(Model):
    """A bundle that answers prepared cases and remembers the runs of some of its graphs.

    So a graph is calibrated on what the engine itself feeds it, whatever heads a bundle has.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle, threads)
        self._store = _Listening(bundle, threads)
        self._graphs = self._store

    @contextmanager
    def prepare(
        self, study: Any, reporter: StageReporter, take_pixels: Any = None
    ) -> Iterator[Any]:
        """Cases come prepared; see `studies`."""
        if isinstance(study, Case):
            yield study.prepared
            return
        with super().prepare(study, reporter, take_pixels) as prepared:
            yield prepared

    def answers(self, cases: Iterable[Case]) -> list[StudyResult]:
        """The answers of all heads."""
        return [self.infer(case) for case in cases]  # type: ignore[arg-type]

    def listen(
        self, cases: Iterable[Case], files: Iterable[str]
    ) -> tuple[list[StudyResult], Mapping[str, Sequence[Run]]]:
        """As `answers`, and every run of the graphs of `files` in order."""
        self._store.runs = {file: [] for file in files}
        try:
            return self.answers(cases), self._store.runs
        finally:
            self._store.runs = {}


class _Listening(GraphStore):
    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle, threads)
        self.runs: dict[str, list[Run]] = {}
        self._ears: dict[str, _Ear] = {}

    def graph(self, name: str, reporter: StageReporter) -> Graph:
        if name not in self._ears:
            self._ears[name] = _Ear(name, self.compile(name, reporter), self)
        return self._ears[name]


class _Ear(Graph):
    """A graph that tells its store what it was fed, while that listens."""

    def __init__(self, name: str, compiled: Any, store: _Listening) -> None:
        super().__init__(name, compiled)
        self._file = name
        self._store = store

    def run(self, inputs: Any) -> Tensors:
        outputs = super().run(inputs)
        if self._file in self._store.runs:
            self._store.runs[self._file].append(Run(dict(inputs), outputs))
        return outputs

"""What a quantized bundle costs beside the float one: size, speed and memory, in one run.

Both bundles take turns, so that whatever else the machine does meets both.
"""

import platform
import subprocess  # nosec: runs this interpreter on this package, nothing else
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mammofm_lite import __version__
from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, make_core
from mammofm_lite.bundle import Bundle
from mammofm_lite.errors import ExportError
from mammofm_lite.graphs import Graph
from mammofm_lite.native import instruction_set
from mammofm_lite.phantom import write_phantom

from .lab import Lab, Run
from .ptq import NNCF_VERSION
from .studies import Case

__all__ = ["executed_types", "graph_speed", "machine", "memory", "sizes", "study_speed", "versions"]

_REPEATS: Final = 7
_STUDY_REPEATS: Final = 3
_SEED: Final = 7_000_000
_ANSWER: Final = """
import sys
from mammofm_lite import Model
from mammofm_lite.bench import peak_memory_mib
Model.load(sys.argv[1], threads=int(sys.argv[3])).infer(sys.argv[2])
print(peak_memory_mib())
"""


def sizes(before: Bundle, after: Bundle) -> dict[str, int]:
    """Bytes of all graphs of both bundles (both halves), which is what quantization changes."""
    return {
        name: sum(r.bytes for file, r in bundle.files.items() if file.endswith((".xml", ".bin")))
        for name, bundle in (("float_bytes", before), ("int8_bytes", after))
    }


def graph_speed(before: Path, after: Path, run: Run, threads: int) -> dict[str, Any]:
    """Seconds of one run of both files of a graph, in turn, and what the CPU plugin executes."""
    compiled = [_compile(path, threads) for path in (before, after)]
    graphs = [Graph(path.name, one) for path, one in zip((before, after), compiled, strict=True)]
    seconds = _in_turn([lambda graph=graph: graph.run(run.inputs) for graph in graphs], _REPEATS)
    return {**seconds, "convolutions_by_type": executed_types(compiled[1])}


def _compile(path: Path, threads: int) -> Any:
    return make_core().compile_model(str(path), "CPU", cpu_properties(threads))


def executed_types(compiled: Any) -> dict[str, int]:
    """How many convolutions of a compiled graph really run in which element type.

    The CPU plugin says ``f16`` of a float layer whose weights are stored in half precision; it
    computes in float32 all the same: the results are those of float32 weights bit for bit.
    """
    found: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        if "onvolution" in info["layerType"].astype(str):
            found[info["runtimePrecision"].astype(str)] += 1
    return dict(sorted(found.items()))


def study_speed(before: Lab, after: Lab, case: Case) -> dict[str, float]:
    """Seconds of encoding and answering one prepared study, in turn."""
    return _in_turn(
        [lambda lab=lab: lab.answers([case]) for lab in (before, after)], _STUDY_REPEATS
    )


def _in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Medians and least times of two calls; the first round warms up and does not count."""
    seconds: list[list[float]] = [[], []]
    for _ in range(1 + repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    before, after = (times[1:] for times in seconds)
    return {
        "float_s": float(np.median(before)),
        "int8_s": float(np.median(after)),
        "float_least_s": min(before),
        "int8_least_s": min(after),
        "times_as_fast": float(np.median(np.divide(before, after))),
    }


def memory(before: Path, after: Path, threads: int) -> dict[str, float]:
    """Peak MiB of a fresh process that answers one phantom, for both bundles."""
    with tempfile.TemporaryDirectory() as scratch:
        write_phantom(Path(scratch), seed=_SEED)
        return {
            name: _peak(bundle, scratch, threads)
            for name, bundle in (("float_mib", before), ("int8_mib", after))
        }


def _peak(bundle: Path, study: str, threads: int) -> float:
    command = [sys.executable, "-c", _ANSWER, str(bundle), study, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ExportError("a bundle does not answer a phantom in a process of its own")
    return float(done.stdout)


def machine(threads: int) -> dict[str, Any]:
    """On what it was measured."""
    cpu = str(make_core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return {"cpu": cpu, "instruction_set": instruction_set(), "threads": threads}


def versions() -> Mapping[str, str]:
    """Of everything that has a say in the numbers."""
    return {
        "mammofm_lite": __version__,
        "openvino": OPENVINO_VERSION,
        "nncf": NNCF_VERSION,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }

"""Latency per stage, cold start and peak memory of this package on this machine.

Every repeat reads, decodes, prepares and infers the whole study; the first runs are warm-up and do
not count. Cold start is a fresh process that loads the bundle and answers one study.
"""

import os
import platform
import subprocess  # nosec: runs this interpreter on this package, nothing else
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from .engine import Model
from .phantom import write_phantom
from .progress import StageEvent, StageReporter
from .writers.folder import ResultFolder

__all__ = ["BenchOptions", "peak_memory_mib", "run_bench", "table"]

WARM_UP: Final = 1
PERCENTILES: Final = (50, 90, 99)
COLD: Final = """
import sys, time
start = time.perf_counter()
from mammofm_lite import Model
model = Model.load(sys.argv[1] or None, threads=int(sys.argv[3]))
loaded = time.perf_counter()
model.infer(sys.argv[2])
done = time.perf_counter()
from mammofm_lite.bench import peak_memory_mib
print(loaded - start, done - start, peak_memory_mib())
"""


@dataclass(frozen=True)
class BenchOptions:
    """`study` is a phantom and `bundle` the demonstration bundle when not given."""

    bundle: Path | None = None
    study: Path | None = None
    repeats: int = 5
    threads: int | None = None


def run_bench(options: BenchOptions) -> dict[str, Any]:
    """Measure; the result is JSON types, times in seconds, memory in MiB."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        study = options.study
        if study is None:
            study = scratch / "phantom"
            study.mkdir()
            write_phantom(study, seed=1)
        model = Model.load(options.bundle, threads=options.threads)
        runs = [
            _one_run(model, study, scratch / f"out{i}") for i in range(WARM_UP + options.repeats)
        ]
        cold = _cold_start(options.bundle, study, model.threads)
        software = model.infer(study).software
    return {
        "bundle": {"name": model.bundle.name, "sha256": model.bundle.sha256},
        "study": "phantom, seed 1" if options.study is None else "given",
        "repeats": options.repeats,
        "machine": _machine(),
        "software": {
            "mammofm_lite": software.mammofm_lite,
            "openvino": software.openvino,
            "instruction_set": software.instruction_set,
            "attention": software.attention,
            "cpu": software.cpu,
            "threads": software.threads,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "stages": _percentiles(runs[WARM_UP:]),
        "cold_start": cold,
        "peak_memory_mib": peak_memory_mib(),
    }


def _one_run(model: Model, study: Path, output: Path) -> dict[str, float]:
    """Seconds per stage of one whole study, files written included."""
    seconds: dict[str, float] = {}

    def observe(event: StageEvent) -> None:
        if event.seconds is not None and event.stage != "compile":
            seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds

    start = time.perf_counter()
    reporter = StageReporter(observe)
    from .dicom import read_study

    with reporter.stage("read"):
        instances = read_study(study)
    folder = ResultFolder(output, ("json", "text", "png"), force=True)
    result = model.infer(instances, observer=observe, take_pixels=folder.take_pixels)
    folder.write(result, instances, reporter)
    seconds["total"] = time.perf_counter() - start
    return seconds


def _percentiles(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    stages: dict[str, dict[str, float]] = {}
    for stage in runs[0]:
        values = np.array([run[stage] for run in runs])
        stages[stage] = {f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}
    return stages


def _cold_start(bundle: Path | None, study: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, "-c", COLD, str(bundle or ""), str(study), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    loaded, answered, memory = (float(word) for word in done.stdout.split())
    return {"load_s": loaded, "first_answer_s": answered, "peak_memory_mib": memory}


def peak_memory_mib() -> float:
    """Most memory this process ever held resident, in MiB.

    From the kernel's high-water mark and not from getrusage, whose figure a new process inherits
    from the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": platform.platform(),
        "cores_available": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
    }


def table(measured: dict[str, Any]) -> str:
    """`run_bench`'s result for a person."""
    software, cold = measured["software"], measured["cold_start"]
    lines = [
        f"bundle {measured['bundle']['name']}, study {measured['study']}, "
        f"{measured['repeats']} repeats after {WARM_UP} warm-up",
        f"{software['cpu']}, {software['threads']} threads, {software['instruction_set']}, "
        f"OpenVINO {software['openvino']}, Python {software['python']}",
        "",
        f"{'seconds per study':<20}" + "".join(f"{f'p{p}':>9}" for p in PERCENTILES),
    ]
    for stage, values in measured["stages"].items():
        cells = "".join(f"{values[f'p{p}']:>9.3f}" for p in PERCENTILES)
        lines.append(f"{stage:<20}{cells}")
    lines += [
        "",
        f"cold start: bundle verified after {cold['load_s']:.2f} s, "
        f"first study answered after {cold['first_answer_s']:.2f} s",
        f"peak memory: {cold['peak_memory_mib']:.0f} MiB (one study in a fresh process)",
    ]
    return "\n".join(lines) + "\n"

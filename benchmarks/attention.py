"""TiledAttention beside OpenVINO's and torch's scaled dot product attention, float32, on this CPU.

Run ``python benchmarks/attention.py [--threads N] [--repeats N]`` where the package is installed
with its ``export`` extra. All three run in one process on the same arrays and take turns, so that
another load of the machine hits them alike. Times are medians of one call in milliseconds, inputs
in place, compilation excluded. Outputs are compared after the timing.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino.opset15 as opset
import torch
from openvino.utils.node_factory import NodeFactory
from torch.nn import functional

from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, make_core, ov
from mammofm_lite.native import extension_path, instruction_set

HEADS: Final = 8
DEPTH: Final = 64
LENGTHS: Final = ((1392, 1392), (5568, 5568), (1, 5568), (1, 256))  # queries, keys
TOLERANCE: Final = 1e-5

Arrays = list[np.ndarray]
Call = Callable[[], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{_cpu()}; {options.threads} threads; {platform.system()} {platform.machine()}")
    print(
        f"kernels {instruction_set()}; OpenVINO {OPENVINO_VERSION}; torch {torch.__version__}; "
        f"numpy {np.__version__}"
    )
    print(f"{HEADS} heads x {DEPTH}; ms, median of {options.repeats}\n")
    print(f"{'queries x keys':<16}{'TiledAttention':>15}{'OpenVINO SDPA':>15}{'torch SDPA':>15}")
    for queries, keys in LENGTHS:
        calls = _calls(_inputs(queries, keys), options.threads)
        times = _interleaved(calls, options.repeats)
        _compare(calls)
        print(f"{queries} x {keys:<12}".ljust(16) + "".join(f"{t:>15.3f}" for t in times))


def _inputs(queries: int, keys: int) -> Arrays:
    rng = np.random.default_rng(1)
    lengths = (queries, keys, keys)
    return [rng.standard_normal((1, HEADS, n, DEPTH), dtype=np.float32) for n in lengths]


def _calls(arrays: Arrays, threads: int) -> list[Call]:
    tensors = [torch.from_numpy(array) for array in arrays]

    def with_torch() -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = functional.scaled_dot_product_attention(*tensors).numpy()
        return result

    return [
        _compiled(_tiled, arrays, threads),
        _compiled(_stock, arrays, threads),
        with_torch,
    ]


def _tiled(inputs: list[Any]) -> Any:
    factory = NodeFactory()
    factory.add_extension(str(extension_path()))
    attributes = {"causal": False, "window": -1, "scale": 0.0}
    return factory.create("TiledAttention", [i.output(0) for i in inputs], attributes)


def _stock(inputs: list[Any]) -> Any:
    return opset.scaled_dot_product_attention(*inputs, causal=False)


def _compiled(node: Callable[[list[Any]], Any], arrays: Arrays, threads: int) -> Call:
    inputs = [opset.parameter(array.shape, np.float32) for array in arrays]
    model = ov.Model([node(inputs).output(0)], inputs)
    request = (
        make_core().compile_model(model, "CPU", cpu_properties(threads)).create_infer_request()
    )
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))

    def call() -> np.ndarray:
        request.infer()
        result: np.ndarray = request.get_output_tensor(0).data
        return result

    return call


def _interleaved(calls: list[Call], repeats: int) -> list[float]:
    """Median milliseconds of every call; the first round is warm-up."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, measured in zip(calls, times, strict=True):
            measured.append(_once(call))
    return [statistics.median(measured[1:]) for measured in times]


def _once(call: Call) -> float:
    """Milliseconds of a call; a short one is repeated for 2 ms, which the clock measures well."""
    start = time.perf_counter()
    count = 0
    while count == 0 or time.perf_counter() - start < 0.002:
        call()
        count += 1
    return (time.perf_counter() - start) / count * 1e3


def _compare(calls: list[Call]) -> None:
    ours, *others = (call().copy() for call in calls)
    for other in others:
        difference = float(np.abs(ours - other).max())
        if not difference < TOLERANCE:
            raise SystemExit(f"outputs differ by {difference:.1e}")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


if __name__ == "__main__":
    main()

"""TiledAttention beside OpenVINO's and torch's scaled dot product attention on this CPU.

Run ``python benchmarks/attention.py [--threads N ...] [--repeats N]`` where the package is
installed with its ``export`` extra. All run in one process on the same arrays and take turns,
forwards and backwards, so that another load of the machine hits them alike. Times are medians of
one call in milliseconds, inputs in place, compilation excluded. The peers get a window as the mask
that says the same.

``gain`` is the better peer's time over ours. ``error`` is that of the INT8 kernel against float64,
as lengths of vectors, on normal random numbers: the hardest case, for nothing in them is alike.
Few queries run in float32 whatever is asked for.

The second table shows whether time follows what is not masked: pairs of query and key that are
seen, and time, both as shares of those without a mask.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino.opset15 as opset
import torch
from openvino.utils.node_factory import NodeFactory
from torch.nn import functional

from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, make_core, ov
from mammofm_lite.native import attention_precision, extension_path, instruction_set

HEADS: Final = 8
DEPTH: Final = 64
TOLERANCE: Final = 1e-5
FEW: Final = 32  # fewer queries run in float32

Arrays = list[np.ndarray]
Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """One line: queries, keys, how far a query sees (-1: all), share of keys that are shown."""

    queries: int
    keys: int
    window: int = -1
    shown: float = 1.0

    def __str__(self) -> str:
        window = f", window {self.window}" if self.window >= 0 else ""
        shown = f", {self.shown:.0%} of keys" if self.shown < 1 else ""
        return f"{self.queries} x {self.keys}{window}{shown}"

    def seen(self) -> np.ndarray:
        """bool ``[queries, keys]``; shown keys come first."""
        at = np.arange(self.queries)[:, None] + self.keys - self.queries
        distance = np.abs(at - np.arange(self.keys))
        near = distance <= (self.window if self.window >= 0 else self.keys + self.queries)
        seen: np.ndarray = near & (np.arange(self.keys) < self.shown * self.keys)
        return seen


SHAPES: Final = (
    Shape(1392, 1392),  # one view
    Shape(5568, 5568),  # four views
    Shape(256, 36480),  # four views at their native resolution
    Shape(1, 5568),  # decoding
    Shape(1, 256),
    Shape(2048, 2048, window=128),
)
MASKED: Final = (
    Shape(2048, 2048, window=128),
    Shape(2048, 2048, window=512),
    Shape(2048, 2048, shown=0.75),
    Shape(2048, 2048, shown=0.25),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads(), 1])
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    print(f"{_cpu()}; {platform.system()} {platform.machine()}; kernels {instruction_set()}")
    print(f"OpenVINO {OPENVINO_VERSION}; torch {torch.__version__}; numpy {np.__version__}")
    print(f"{HEADS} heads x {DEPTH}; ms, medians of {options.repeats}")
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        _peers(threads, options.repeats)
        _shares(threads, options.repeats)


def _peers(threads: int, repeats: int) -> None:
    names = ("float32", "INT8", "OpenVINO", "torch", "gain", "INT8", "error")
    print(f"\n{f'queries x keys, {threads} threads':<28}" + "".join(f"{n:>10}" for n in names))
    for shape in SHAPES:
        arrays = _inputs(shape)
        calls = {
            "float32": _ours(shape, arrays, threads, "float32"),
            "int8": _ours(shape, arrays, threads, "int8"),
            "openvino": _compiled(partial(_stock, shape), arrays, threads),
            "torch": _torch(shape, arrays),
        }
        if shape.queries < FEW or attention_precision("int8") != "int8":
            del calls["int8"]
        times = _interleaved(calls, repeats)
        best = min(times["openvino"], times["torch"])
        cells = [f"{times[name]:.3f}" if name in times else "" for name in _ORDER]
        cells += [f"{best / times[name]:.2f}" if name in times else "" for name in _ORDER[:2]]
        print(f"{shape!s:<28}" + "".join(f"{c:>10}" for c in [*cells, _compare(shape, calls)]))


_ORDER: Final = ("float32", "int8", "openvino", "torch")


def _shares(threads: int, repeats: int) -> None:
    print(f"\n{f'share of time, {threads} threads':<28}{'pairs':>10}{'float32':>10}{'INT8':>10}")
    whole = Shape(2048, 2048)
    for shape in MASKED:
        cells = [f"{shape.seen().mean():.3f}"]
        for precision in ("float32", "int8"):
            calls = {
                str(one): _ours(one, _inputs(one), threads, precision) for one in (whole, shape)
            }
            times = _interleaved(calls, repeats)
            cells.append(f"{times[str(shape)] / times[str(whole)]:.3f}")
        print(f"{shape!s:<28}" + "".join(f"{cell:>10}" for cell in cells))


# -------------------- what is called


def _inputs(shape: Shape) -> Arrays:
    rng = np.random.default_rng(1)
    lengths = (shape.queries, shape.keys, shape.keys)
    arrays: Arrays = [rng.standard_normal((1, HEADS, n, DEPTH), dtype=np.float32) for n in lengths]
    if shape.shown < 1:
        arrays.append(np.arange(shape.keys)[None] < shape.shown * shape.keys)
    return arrays


def _ours(shape: Shape, arrays: Arrays, threads: int, precision: str) -> Call:
    attributes = {
        "causal": False,
        "window": shape.window,
        "scale": 0.0,
        "precision": precision,
    }

    def node(inputs: list[Any]) -> Any:
        factory = NodeFactory()
        factory.add_extension(str(extension_path()))
        return factory.create("TiledAttention", [i.output(0) for i in inputs], attributes)

    return _compiled(node, arrays, threads)


def _stock(shape: Shape, inputs: list[Any]) -> Any:
    mask = [opset.constant(shape.seen())] if shape.window >= 0 else []
    return opset.scaled_dot_product_attention(*inputs, *mask, causal=False)


def _torch(shape: Shape, arrays: Arrays) -> Call:
    tensors = [torch.from_numpy(array) for array in arrays]
    mask = torch.from_numpy(shape.seen()) if shape.window >= 0 else None

    def call() -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = functional.scaled_dot_product_attention(
                *tensors, attn_mask=mask
            ).numpy()
        return result

    return call


def _compiled(node: Callable[[list[Any]], Any], arrays: Arrays, threads: int) -> Call:
    inputs = [opset.parameter(array.shape, array.dtype) for array in arrays]
    model = ov.Model([node(inputs).output(0)], inputs)
    request = (
        make_core().compile_model(model, "CPU", cpu_properties(threads)).create_infer_request()
    )
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
    return _Shared(request, arrays)


@dataclass(frozen=True, eq=False)
class _Shared:
    """A request, and the arrays that it reads where they lie: they have to live as long."""

    request: Any
    arrays: Arrays

    def __call__(self) -> np.ndarray:
        self.request.infer(share_outputs=True)
        result: np.ndarray = self.request.get_output_tensor(0).data
        return result


# -------------------- measuring


def _interleaved(calls: dict[str, Call], repeats: int) -> dict[str, float]:
    """Median milliseconds of every call; rounds alternate in order, the first is warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        order = list(calls) if turn % 2 else list(reversed(calls))
        for name in order:
            times[name].append(_once(calls[name]))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def _once(call: Call) -> float:
    """Milliseconds of a call; a short one is repeated for 2 ms, which the clock measures well."""
    start = time.perf_counter()
    count = 0
    while count == 0 or time.perf_counter() - start < 0.002:
        call()
        count += 1
    return (time.perf_counter() - start) / count * 1e3


def _compare(shape: Shape, calls: dict[str, Call]) -> str:
    """The INT8 kernel's error, or nothing; float32 must agree."""
    results = {name: call().copy() for name, call in calls.items()}
    for name in ("openvino", "torch"):
        difference = float(np.abs(results["float32"] - results[name]).max())
        if not difference < TOLERANCE:
            raise SystemExit(f"{shape}: {name} differs by {difference:.1e}")
    if "int8" not in results:
        return ""
    rows = slice(0, shape.queries, max(1, shape.queries // 128))
    query, key, value = (array[0, 0].astype(np.float64) for array in _inputs(shape)[:3])
    scores = query[rows] @ key.T / np.sqrt(DEPTH)
    weights = np.where(shape.seen()[rows], np.exp(scores), 0)
    expected = weights @ value / weights.sum(axis=1, keepdims=True)
    error = np.linalg.norm(results["int8"][0, 0, rows] - expected) / np.linalg.norm(expected)
    return f"{error:.1e}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown CPU"


if __name__ == "__main__":
    main()

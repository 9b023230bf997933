"""An encoder by our kernels beside OpenVINO's own: time, processor time, memory, and how far apart.

Float and INT8 graphs of two bundles, in one process, in turn and in both orders, at every number
of threads asked for, the ratio of ours to OpenVINO's of the same precision; memory in a process of
its own per row. `--blocks` times the INT8 encoder block by block: what OpenVINO's operations take
that one TiledMBConv stands for.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, make_core, ov
from mammofm_lite.bench import peak_memory_mib
from mammofm_lite.bundle import Bundle
from mammofm_lite.native import mbconv_kernel
from mammofm_lite.tiling import tile

ROWS: Final = ("OpenVINO float32", "ours float32", "OpenVINO INT8", "ours INT8")
BASE: Final = "OpenVINO INT8"
"""Whose blocks are timed one by one. Every row is compared with OpenVINO's of its precision."""
TILED: Final = "/tiled"


def compiled(path: Path, threads: int, tiled: bool, **properties: Any) -> Any:
    core = make_core()
    model = core.read_model(str(path))
    if tiled and not tile(model):
        raise SystemExit(f"{path}: no block is of the form that our kernels know")
    return core.compile_model(model, "CPU", {**cpu_properties(threads), **properties})


def picture(shape: Sequence[int]) -> np.ndarray:
    """Uint8 [1, 1, H, W]: a bright half circle with texture on a black background."""
    height, width = shape[2:]
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    inside = (y - 0.5) ** 2 + (0.6 * x) ** 2 < 0.2
    noise = np.random.default_rng(0).normal(0, 25, (height, width))
    image = np.where(inside, 120 + 60 * np.sin(40 * x) * np.cos(30 * y) + noise, 0)
    return image.clip(0, 255).astype(np.uint8)[None, None]


def peer_of(row: str) -> str:
    return row.replace("ours", "OpenVINO")


def graph_of(row: str, options: argparse.Namespace) -> Path:
    bundle = Bundle.open(options.float_bundle if "float" in row else options.int8_bundle)
    return bundle.file(bundle.encoders[options.encoder].model)


def request_of(row: str, threads: int, options: argparse.Namespace) -> Any:
    model = compiled(graph_of(row, options), threads, row.startswith("ours"))
    request = model.create_infer_request()
    request.set_input_tensor(ov.Tensor(picture(model.inputs[0].shape)))
    return request


def answers(request: Any) -> dict[str, np.ndarray]:
    ports = request.get_compiled_model().outputs
    return {min(port.get_names()): np.array(request.get_tensor(port).data) for port in ports}


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def interleaved(requests: Mapping[str, Any], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, by the clock and of the processor, after one run of each."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for request in requests.values():
        request.infer(share_outputs=True)
    for repeat in range(repeats):
        for row in list(requests) if repeat % 2 == 0 else list(reversed(requests)):
            start, processor = time.perf_counter(), time.process_time()
            requests[row].infer(share_outputs=True)
            seconds[row].append((time.perf_counter() - start, time.process_time() - processor))
    return {
        row: {
            "median_s": statistics.median(wall for wall, _ in values),
            "least_s": min(wall for wall, _ in values),
            "processor_s": statistics.median(used for _, used in values),
        }
        for row, values in seconds.items()
    }


def peak_of_process(row: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, str(options.float_bundle), str(options.int8_bundle)]
    command += ["--encoder", options.encoder, "--only", row]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measured(options: argparse.Namespace) -> dict[str, Any]:
    # First: pages of a file that this process has mapped too would count as held.
    peaks = {row: peak_of_process(row, options) for row in ROWS}
    tables: dict[str, Any] = {}
    for threads in options.threads:
        requests = {row: request_of(row, threads, options) for row in ROWS}
        tables[str(threads)] = interleaved(requests, options.repeats)
        found = {row: answers(request) for row, request in requests.items()}
        for row in ROWS:
            tables[str(threads)][row] |= {
                f"cosine_{name}": cosine(found[peer_of(row)][name], array)
                for name, array in found[row].items()
            }
    return {
        "openvino": OPENVINO_VERSION,
        "kernel": mbconv_kernel(),
        "threads": tables,
        "peak_memory_mib": peaks,
    }


# -------------------- block by block


def least_times(path: Path, threads: int, tiled: bool, repeats: int) -> dict[str, float]:
    """Milliseconds per operation that ran, the least of all repeats."""
    model = compiled(path, threads, tiled, PERF_COUNT=True)
    request = model.create_infer_request()
    request.set_input_tensor(ov.Tensor(picture(model.inputs[0].shape)))
    least: dict[str, float] = {}
    for _ in range(repeats):
        request.infer(share_outputs=True)
        for info in request.profiling_info:
            spent = info.real_time.total_seconds() * 1e3
            least[info.node_name] = min(spent, least.get(info.node_name, spent))
    return {name: spent for name, spent in least.items() if spent > 0}


def block_times(options: argparse.Namespace) -> list[tuple[str, float, float]]:
    """Name, milliseconds of OpenVINO and of ours; the profile is in the order of the graph."""
    path = graph_of(BASE, options)
    threads = options.threads[0]
    ours = least_times(path, threads, True, options.repeats)
    stock = least_times(path, threads, False, options.repeats)
    order = [op.get_friendly_name() for op in make_core().read_model(str(path)).get_ordered_ops()]
    place = {name: index for index, name in enumerate(order)}
    ends = sorted((place[name.removesuffix(TILED)], name) for name in ours if name.endswith(TILED))
    rows, begin = [], -1
    for end, name in ends:
        spent = sum(ms for op, ms in stock.items() if begin < place.get(op, -1) <= end)
        rows.append((name.removesuffix(TILED), spent, ours[name]))
        begin = end
    return rows


# -------------------- printing


def text(report: dict[str, Any]) -> str:
    lines = [f"TiledMBConv {report['kernel']}, OpenVINO {report['openvino']}"]
    for threads, table in report["threads"].items():
        names = [key for key in table[BASE] if key.startswith("cosine")]
        lines += [
            "",
            f"{threads} threads" + " " * 13 + "median s  least s  processor s   ratio  MiB",
        ]
        for row, values in table.items():
            ratio = values["median_s"] / table[peer_of(row)]["median_s"]
            lines.append(
                f"  {row:<18}{values['median_s']:>10.3f}{values['least_s']:>9.3f}"
                f"{values['processor_s']:>13.3f}{ratio:>8.2f}"
                f"{report['peak_memory_mib'][row]:>5.0f}  "
                + ", ".join(f"{name} {values[name]:.5f}" for name in names)
            )
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("float_bundle", type=Path)
    parser.add_argument("int8_bundle", type=Path, help="made of it by mammofm-lite quantize")
    parser.add_argument("--encoder", default="clip", help="name in the bundles (default: clip)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--blocks", action="store_true", help="the INT8 encoder block by block")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.only:
        request = request_of(options.only, options.threads[0], options)
        for _ in range(2):
            request.infer(share_outputs=True)
        print(peak_memory_mib())
        return
    if options.blocks:
        for name, stock, ours in block_times(options):
            print(f"{name:<70}{stock:>9.2f}{ours:>9.2f}{ours / stock:>7.2f}")
        return
    report = measured(options)
    print(json.dumps(report, indent=2) if options.json else text(report))


if __name__ == "__main__":
    main()

"""Time and memory of an encoder against the size of its picture, by OpenVINO's kernels and ours.

``python benchmarks/scaling.py build/full.mfm build/full-int8.mfm [--plot docs/scaling.png]``

Every row of every size runs in a process of its own, whose peak memory it is. The graphs are those
of the bundles, whose shapes are changed in memory; what they answer at other sizes is not asked.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from encoder import ROWS, graph_of, picture

from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, make_core, opset, ov
from mammofm_lite.bench import peak_memory_mib
from mammofm_lite.graph_match import consumers
from mammofm_lite.native import mbconv_kernel
from mammofm_lite.tiling import tile

SIZES: Final = ((912, 544), (1520, 912), (2272, 1376), (3072, 2048), (4096, 3328))
"""Rows and columns; the last are a whole detector's."""


def resized(path: Path, size: tuple[int, int]) -> Any:
    """The graph for pictures of another size; means of rows, which know their width, follow."""
    model = make_core().read_model(str(path))
    for pool in [op for op in model.get_ordered_ops() if op.get_type_name() == "AvgPool"]:
        mean = opset.reduce_mean(pool.input_value(0), np.array([3]), True)
        mean.set_friendly_name(pool.get_friendly_name())
        _replace(pool, mean)
    model.reshape([1, 1, *size])
    for mean in [op for op in model.get_ordered_ops() if op.get_type_name() == "ReduceMean"]:
        if mean.input_value(1).get_node().get_data().tolist() == [3]:
            width = int(mean.input_value(0).get_shape()[3])
            pool = opset.avg_pool(mean.input_value(0), [1, width], [0, 0], [0, 0], [1, width], True)
            _replace(mean, pool)
    model.validate_nodes_and_infer_types()
    return model


def _replace(old: Any, new: Any) -> None:
    assert consumers(old)
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))


def enlarged(size: tuple[int, int]) -> np.ndarray:
    """The picture of a small size, its pixels repeated: making it must not take the most memory."""
    small = picture((1, 1, 912, 544))[0, 0]
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, small.shape, strict=True))
    return np.ascontiguousarray(small[rows][:, columns][None, None])


def measured(row: str, size: tuple[int, int], options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one run, the median of some, and the peak memory of this process."""
    model = resized(graph_of(row, options), size)
    if row.startswith("ours") and not tile(model):
        raise SystemExit("no block is of the form that our kernels know")
    compiled = make_core().compile_model(model, "CPU", cpu_properties(options.threads))
    del model
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(enlarged(size)))
    seconds = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        request.infer(share_outputs=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "peak_memory_mib": peak_memory_mib()}


def in_a_process(row: str, size: tuple[int, int], options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, str(options.float_bundle), str(options.int8_bundle)]
    command += ["--encoder", options.encoder, "--threads", str(options.threads)]
    command += ["--repeats", str(options.repeats), "--only", row, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row} at {size}: {done.stderr[-500:]}")
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def everything(options: argparse.Namespace) -> dict[str, Any]:
    table = {
        f"{rows}x{columns}": {row: in_a_process(row, (rows, columns), options) for row in ROWS}
        for rows, columns in SIZES
    }
    return {
        "openvino": OPENVINO_VERSION,
        "kernel": mbconv_kernel(),
        "threads": options.threads,
        "sizes": table,
    }


def text(report: dict[str, Any]) -> str:
    lines = [
        f"TiledMBConv {report['kernel']}, OpenVINO {report['openvino']}, "
        f"{report['threads']} threads; seconds / peak MiB of the process",
        f"{'rows x columns':<16}" + "".join(f"{row:>22}" for row in ROWS),
    ]
    for size, table in report["sizes"].items():
        cells = (f"{one['seconds']:.2f} / {one['peak_memory_mib']:.0f}" for one in table.values())
        lines.append(f"{size:<16}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """Both against megapixels, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    megapixels = [np.prod([int(n) for n in size.split("x")]) / 1e6 for size in report["sizes"]]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, label in zip(
        axes, ("seconds", "peak_memory_mib"), ("seconds", "peak memory, MiB"), strict=True
    ):
        for row in ROWS:
            values = [table[row][key] for table in report["sizes"].values()]
            colour = "tab:blue" if row.startswith("ours") else "tab:gray"
            style = "-" if row.endswith("INT8") else "--"
            axis.plot(megapixels, values, style, color=colour, marker="o", markersize=3, label=row)
        axis.set_xlabel("megapixels")
        axis.set_ylabel(label)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("float_bundle", type=Path)
    parser.add_argument("int8_bundle", type=Path, help="made of it by mammofm-lite quantize")
    parser.add_argument("--encoder", default="clip", help="name in the bundles (default: clip)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="write a picture too (needs matplotlib)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.only:
        row, rows, columns = options.only
        print(json.dumps(measured(row, (int(rows), int(columns)), options)))
        return
    report = everything(options)
    print(json.dumps(report, indent=2) if options.json else text(report))
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()

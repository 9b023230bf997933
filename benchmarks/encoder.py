"""The image encoder of a bundle against the same network in PyTorch, in one process.

    python benchmarks/encoder.py full.mfm [--architecture b5] [--repeats 5] [--threads N] [--json]

Peers run one after the other, in turn and in both orders, on one prepared phantom view; reported
are medians, and ratios against PyTorch's default (eager, float32). Needs the export extra.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mammofm_lite import Model
from mammofm_lite._openvino import OPENVINO_VERSION
from mammofm_lite.export.graphs import PreparedInput
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.synthetic import fill_module, synthetic_image
from mammofm_lite.native import instruction_set
from mammofm_lite.progress import StageReporter


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    model = Model.load(options.bundle, threads=options.threads)
    spec = model.bundle.preprocessing
    image = synthetic_image(spec.height, spec.width, 1)[None, None]
    peers = {
        **torch_peers(options.architecture, image),
        **graph_peer(model, options.encoder, image),
    }
    seconds = interleaved(peers, options.repeats)
    report = {
        "input": [spec.height, spec.width],
        "threads": options.threads,
        "cpu": model._graphs.cpu_name,
        "instruction_set": instruction_set(),
        "torch": torch.__version__,
        "openvino": OPENVINO_VERSION,
        "precision": model.bundle.precision,
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
    }
    print(json.dumps(report, indent=2) if options.json else table(report))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--encoder", default="clip", help="name of the encoder in the bundle")
    parser.add_argument("--architecture", default="b5", choices=("b0", "b2", "b5"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def torch_peers(architecture: str, image: Any) -> dict[str, Callable[[], Any]]:
    size = image.shape[2:]
    encoder = fill_module(EfficientNet(named_config(architecture)), 1)
    x = PreparedInput(size, size)(torch.from_numpy(image)).expand(-1, 3, -1, -1).contiguous()
    last = fill_module(EfficientNet(named_config(architecture)), 1)
    last = last.to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)

    def run(module: torch.nn.Module, given: torch.Tensor) -> Callable[[], Any]:
        def once() -> Any:
            with torch.inference_mode():
                return module(given)

        return once

    return {"PyTorch eager": run(encoder, x), "PyTorch channels-last": run(last, x_last)}


def graph_peer(model: Model, encoder: str, image: Any) -> dict[str, Callable[[], Any]]:
    name = model.bundle.encoders[encoder].model
    graph = model._graphs.graph(name, StageReporter(None))
    return {"mammofm-lite": lambda: graph.run({"image": np.ascontiguousarray(image)})}


def interleaved(peers: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for run in peers.values():  # warm-up
        run()
    for repeat in range(repeats):
        order = list(peers) if repeat % 2 == 0 else list(reversed(peers))
        for name in order:
            start = time.perf_counter()
            peers[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(report: dict[str, Any]) -> str:
    base = report["median_s"]["PyTorch eager"]
    lines = [
        f"{report['cpu']}, {report['threads']} threads, kernels {report['instruction_set']}, "
        f"torch {report['torch']}, OpenVINO {report['openvino']}",
        f"one view of {report['input'][0]} x {report['input'][1]}, bundle {report['precision']}",
        f"{'':<24}{'median s':>10}{'speed-up':>10}",
    ]
    for name, value in report["median_s"].items():
        lines.append(f"{name:<24}{value:>10.3f}{base / value:>10.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

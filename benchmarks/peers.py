"""The full-size model against its peers, in one run on this machine.

    python benchmarks/peers.py full.mfm [full-int8.mfm] [--study STUDY] [--repeats 5] [--json]

Three tables. The B5 encoder on one view at 1520x912: PyTorch eager and compiled, ONNX Runtime,
OpenVINO as it converts the network by itself, and this package; with an INT8 bundle also the INT8
network of ONNX Runtime's own quantizer, and the bundle's by OpenVINO's kernels and ours. Peers take
turns, in both orders, medians. A whole four-view study from DICOM to four answers: the reference's
steps in PyTorch and OpenCV, and this package. Cold starts: the command's help and the bare import.
Peak memory is that of a process of its own per peer, which loads the peer and runs it twice.

Ratios are against PyTorch eager. Outputs are compared after the timing: in float32 they must agree,
of INT8 the cosine to PyTorch's features is told. Needs the extras export and bench.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peers_torch import TorchStudy

from mammofm_lite import InferOptions, Model
from mammofm_lite._openvino import OPENVINO_VERSION, cpu_properties, ov
from mammofm_lite.bench import peak_memory_mib
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.synthetic import fill_module, normalise, synthetic_image
from mammofm_lite.graphs import GraphStore
from mammofm_lite.native import instruction_set
from mammofm_lite.phantom import write_phantom
from mammofm_lite.progress import StageReporter

SIZE: Final = (1520, 912)
SEED: Final = 1
TOLERANCE: Final = 1e-3  # of pooled features, over their spread; compiled code may reorder sums
COLD: Final = {
    "mammofm-lite --help": ("-c", "import sys; sys.argv[1:] = ['--help'];"
                            "from mammofm_lite.cli import main; main()"),
    "import mammofm_lite": ("-c", "import mammofm_lite"),
    "(python alone)": ("-c", "pass"),
}  # fmt: skip

Run = Callable[[], Any]


# -------------------- the encoder's peers: each loads itself and returns its run


def picture() -> np.ndarray:
    return synthetic_image(*SIZE, SEED)


def torch_encoder() -> tuple[EfficientNet, torch.Tensor]:
    module = fill_module(EfficientNet(named_config("b5")), SEED)
    assert isinstance(module, EfficientNet)
    return module, torch.from_numpy(normalise(picture()))


def eager(_: argparse.Namespace) -> Run:
    module, x = torch_encoder()
    return lambda: inferred(module, x)


def compiled(_: argparse.Namespace) -> Run:
    module, x = torch_encoder()
    fast = torch.compile(module)
    return lambda: inferred(fast, x)


def inferred(module: Any, x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(module(x)[0])


def write_files(folder: Path) -> None:
    """The network as ONNX and as OpenVINO converts it by itself, so that peers load files alone."""
    module, x = torch_encoder()
    names = {"input_names": ["image"], "output_names": ["pooled", "map"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), str(folder / "b5.onnx"), dynamo=False, opset_version=17, **names
        )
        model = ov.convert_model(module, example_input=x, input=[list(x.shape)])
    ov.save_model(model, str(folder / "b5.xml"), compress_to_fp16=False)


def onnx_runtime(options: argparse.Namespace) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    file = str(options.files / "b5.onnx")
    session = onnxruntime.InferenceSession(file, settings, ["CPUExecutionProvider"])
    x = normalise(picture())
    return lambda: session.run(["pooled"], {"image": x})[0]


def stock_openvino(options: argparse.Namespace) -> Run:
    file = str(options.files / "b5.xml")
    compiled_model = ov.Core().compile_model(file, "CPU", cpu_properties(options.threads))
    request = compiled_model.create_infer_request()
    x = normalise(picture())
    return lambda: np.array(request.infer([x])[0])


def ours(options: argparse.Namespace) -> Run:
    return bundled(options.bundle, options.threads, tiled=True)


def bundled(path: Path, threads: int, *, tiled: bool) -> Run:
    from mammofm_lite import Bundle

    bundle = Bundle.open(path)
    graphs = GraphStore(bundle, threads, tiled)
    graph = graphs.graph(bundle.encoders["clip"].model, StageReporter(None))
    image = picture()[None, None]
    return lambda: graph.run({"image": image})["pooled"]


def onnx_runtime_int8(options: argparse.Namespace) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    file = str(options.files / INT8_FILE)
    session = onnxruntime.InferenceSession(file, settings, ["CPUExecutionProvider"])
    x = normalise(picture())
    return lambda: session.run(["pooled"], {"image": x})[0]


def write_int8_file(folder: Path) -> None:
    """By ONNX Runtime's own quantizer, as its guide has it for CPUs: QDQ, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self._seeds = iter((SEED, SEED + 1))

        def get_next(self) -> Any:
            seed = next(self._seeds, None)
            return None if seed is None else {"image": normalise(synthetic_image(*SIZE, seed))}

    prepared = folder / "b5-prepared.onnx"
    quant_pre_process(str(folder / "b5.onnx"), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(folder / INT8_FILE),
        Pictures(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def openvino_int8(options: argparse.Namespace) -> Run:
    return bundled(options.int8_bundle, options.threads, tiled=False)


def ours_int8(options: argparse.Namespace) -> Run:
    return bundled(options.int8_bundle, options.threads, tiled=True)


INT8_FILE: Final = "b5-int8.onnx"
ENCODERS: Final[Mapping[str, Callable[[argparse.Namespace], Run]]] = {
    "PyTorch eager": eager,
    "PyTorch compiled": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO, stock": stock_openvino,
    "mammofm-lite": ours,
    "ONNX Runtime, INT8": onnx_runtime_int8,
    "OpenVINO, INT8": openvino_int8,
    "mammofm-lite, INT8": ours_int8,
}


def encoders_of(options: argparse.Namespace) -> dict[str, Callable[[argparse.Namespace], Run]]:
    """Those that can be loaded: the last three need an INT8 bundle."""
    return {n: load for n, load in ENCODERS.items() if options.int8_bundle or "INT8" not in n}


# -------------------- the whole study


def torch_study(options: argparse.Namespace) -> Run:
    study = TorchStudy(SEED)
    return lambda: study.infer(options.study)


def our_study(options: argparse.Namespace) -> Run:
    model = Model.load(options.bundle, threads=options.threads)
    return lambda: model.infer(options.study, InferOptions())


STUDIES: Final[Mapping[str, Callable[[argparse.Namespace], Run]]] = {
    "PyTorch and OpenCV": torch_study,
    "mammofm-lite": our_study,
}


# -------------------- measuring


def interleaved(peers: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds per peer; one round of warm-up, then turns in both orders."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for run in peers.values():
        run()
    for repeat in range(repeats):
        order = list(peers) if repeat % 2 == 0 else list(reversed(peers))
        for name in order:
            start = time.perf_counter()
            peers[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def agreement(peers: Mapping[str, Run]) -> dict[str, float]:
    """Cosine of each peer's features to PyTorch's; float32 must be the same."""
    answers = {name: run().ravel().astype(np.float64) for name, run in peers.items()}
    truth = next(iter(answers.values()))
    for name, answer in answers.items():
        error = np.abs(answer - truth).max() / truth.std()
        if "INT8" not in name and not error <= TOLERANCE:
            raise SystemExit(f"{name} differs from PyTorch by {error:.1e}: nothing is measured")
    norms = {name: np.linalg.norm(answer) for name, answer in answers.items()}
    length = np.linalg.norm(truth)
    return {name: float(a @ truth / (norms[name] * length)) for name, a in answers.items()}


def peak_of_process(kind: str, name: str, options: argparse.Namespace) -> float:
    """Of a new process that loads one peer and runs it twice."""
    bundles = [str(path) for path in (options.bundle, options.int8_bundle) if path]
    command = [sys.executable, __file__, *bundles, "--study", str(options.study)]
    command += ["--threads", str(options.threads), "--files", str(options.files)]
    command += ["--only", kind, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def only(options: argparse.Namespace) -> None:
    kind, name = options.only
    run = {"encoder": ENCODERS, "study": STUDIES}[kind][name](options)
    run()
    run()
    print(peak_memory_mib())


def cold_start_s(arguments: tuple[str, ...], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    encoders = {name: load(options) for name, load in encoders_of(options).items()}
    encoder_s = interleaved(encoders, options.repeats)
    cosines = agreement(encoders)
    encoders.clear()
    studies = {name: load(options) for name, load in STUDIES.items()}
    study_s = interleaved(studies, max(options.repeats // 2, 1))
    return {
        "cpu": str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip(),
        "threads": options.threads,
        "instruction_set": instruction_set(),
        "versions": versions(),
        "encoder": table_of("encoder", encoder_s, options),
        "cosine_to_pytorch": cosines,
        "study": table_of("study", study_s, options),
        "cold_start_s": {name: cold_start_s(a, options.repeats) for name, a in COLD.items()},
    }


def versions() -> dict[str, str]:
    import cv2
    import onnxruntime

    return {
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "openvino": OPENVINO_VERSION,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def table_of(
    kind: str, seconds: Mapping[str, float], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    base = next(iter(seconds.values()))
    return {
        name: {
            "median_s": value,
            "speed_up": base / value,
            "peak_memory_mib": peak_of_process(kind, name, options),
        }
        for name, value in seconds.items()
    }


def text(report: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"{report['cpu']}, {report['threads']} threads, kernels {report['instruction_set']}",
        named,
    ]
    for kind, title in (
        ("encoder", f"B5 encoder, one view of {SIZE[0]} x {SIZE[1]}"),
        ("study", "four-view study, DICOM to four answers"),
    ):
        lines += ["", f"{title:<46}{'median s':>9}{'speed-up':>10}{'peak MiB':>10}"]
        for name, row in report[kind].items():
            lines.append(
                f"  {name:<44}{row['median_s']:>9.3f}{row['speed_up']:>10.2f}"
                f"{row['peak_memory_mib']:>10.0f}"
                + (f"  cosine {report['cosine_to_pytorch'][name]:.4f}" if "INT8" in name else "")
            )
    lines += ["", "cold start"]
    lines += [f"  {name:<44}{value:>9.3f}" for name, value in report["cold_start_s"].items()]
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="made by export/recipes/full-synthetic.toml")
    parser.add_argument("int8_bundle", type=Path, nargs="?", help="quantized from it")
    parser.add_argument("--study", type=Path, help="default: a phantom")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs=2, metavar=("KIND", "PEER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.study is None:
            options.study = Path(folder) / "phantom"
            write_phantom(options.study, seed=1)
        if options.only:
            only(options)
            return
        options.files = Path(folder)
        write_files(options.files)
        if options.int8_bundle:
            write_int8_file(options.files)
        report = measured(options)
    print(json.dumps(report, indent=2) if options.json else text(report))


if __name__ == "__main__":
    main()

"""Both runtimes give the blocks of an encoder to TiledMBConv, or none, and answer alike."""

import json
import os
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import openvino.opset15 as opset
import pytest

from mammofm_lite import ArrayView, Model, array_study
from mammofm_lite._openvino import ov
from mammofm_lite.bundle import demo_bundle_path, file_record
from mammofm_lite.native import instruction_set, mbconv_kernel

BLOCKS = runpy.run_path(str(Path(__file__).parents[1] / "c_ext" / "mbconv_blocks.py"))
Block, stock, rounding = (BLOCKS[name] for name in ("Block", "stock", "rounding"))

RANGES = Block().ranges
STRIDED = Block(stride=2, pads=(0, 0, 0, 1), ranges={**RANGES, "x": RANGES["output"]})
CHAIN = [
    Block(channels=1, expand=3, pads=(0, 1, 1, 1), row_means=True),
    *(replace(STRIDED, seed=seed) for seed in range(1, 4)),
    replace(STRIDED, stride=1, pads=(0, 0, 1, 1), shortcut=True, seed=4),
    replace(STRIDED, kernel=5, pads=(0, 0, 1, 2), hidden=72, seed=5),
]
ENCODER = "encoder_view"


def projected(x: Any, channels: int) -> Any:
    weights = np.random.default_rng(channels).standard_normal((channels, 24, 1, 1)) / 24
    return opset.convolution(x, weights.astype(np.float32), [1, 1], [0, 0], [0, 0], [1, 1])


def encoder(precision: str, size: tuple[int, int], outputs: dict[str, list[int]]) -> Any:
    """A graph of the encoder's inputs and outputs, c3 read in float before the last block."""
    image = opset.parameter([1, 1, *size], np.uint8, name="image")
    image.output(0).get_tensor().set_names({"image"})
    x = opset.multiply(opset.convert(image, np.float32), np.float32(8 / 255))
    chain = [replace(block, precision=precision) for block in CHAIN]
    x = rounding(chain[0], opset.subtract(x, np.float32(4)), *RANGES["x"])
    for block in chain[:-1]:
        x, fine = stock(block, x)
    coarse, _ = stock(chain[-1], x)
    maps = {
        "c3": projected(fine, outputs["c3"][1]),
        "c4": projected(coarse, outputs["c4"][1]),
        "map c5": projected(coarse, outputs["map"][1]),
    }
    mean = opset.reduce_mean(maps["map c5"], np.array([2, 3]), False)
    results = []
    for names, node in {**maps, "pooled": mean}.items():
        node.output(0).get_tensor().set_names(set(names.split()))
        results.append(node.output(0))
    return ov.Model(results, [image], "encoder")


@pytest.fixture(scope="module", params=["int8", "float32"])
def precision(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def bundle(precision: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration bundle with another encoder."""
    folder: Path = tmp_path_factory.mktemp(precision) / "other.mfm"
    shutil.copytree(demo_bundle_path(), folder, copy_function=os.link)
    description = json.loads((folder / "bundle.json").read_text())
    size = description["preprocessing"]
    outputs = description["encoders"]["view"]["outputs"]
    for name in (f"{ENCODER}.xml", f"{ENCODER}.bin", "bundle.json"):
        (folder / name).unlink()
    model = encoder(precision, (size["height"], size["width"]), outputs)
    ov.save_model(model, str(folder / f"{ENCODER}.xml"), compress_to_fp16=False)
    for name in (f"{ENCODER}.xml", f"{ENCODER}.bin"):
        record = file_record(folder / name)
        description["files"][name] = {"bytes": record.bytes, "sha256": record.sha256}
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("tiled", [True, False])
def test_parity(
    bundle: Path, precision: str, phantom: list[ArrayView], capi: ModuleType, tiled: bool
) -> None:
    ours = capi.CModel(bundle, threads=1, no_tiled=int(not tiled)).run(phantom).json()
    model = Model.load(bundle, threads=1, tiled=tiled)
    assert ours == model.infer(array_study(phantom)).to_json_text()
    kernels = json.loads(ours)["software"]["kernels"]
    if precision == "int8":
        operation, kernel, fast = "TiledMBConv", mbconv_kernel(), ("avx512vnni",)
    else:
        operation, kernel, fast = "TiledMBConvF32", instruction_set(), ("avx512", "avx512_vnni")
    blocks = f"{operation} ({kernel}) x {len(CHAIN)}" if tiled and kernel in fast else None
    assert kernels.get(f"{ENCODER}.xml") == blocks


def test_the_answers_of_heads_alone_name_their_graphs_alone(
    c_model: Any, phantom: list[ArrayView]
) -> None:
    """Whatever was asked before."""
    c_model.run(phantom)
    software = json.loads(c_model.run(phantom, heads=("diagnosis",)).json())["software"]
    assert software["attention"] == "none"
    assert set(software["kernels"]) <= {"encoder_view.xml"}  # where the CPU runs TiledMBConv
    software = json.loads(c_model.run(phantom, heads=("report",)).json())["software"]
    assert software["attention"] == "float32"
    heads = set(software["kernels"]) - {"encoder_view.xml"}
    assert heads == {"head_report_fusion.xml", "head_report_decoder.xml"}

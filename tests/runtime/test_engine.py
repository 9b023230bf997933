"""The engine: what runs, how often, and what happens when something cannot."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest

from mammofm_lite import BundleError, InferOptions, Model, StudyError, UsageError
from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.dicom import read_study
from mammofm_lite.graphs import Graph
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.progress import StageEvent
from mammofm_lite.results import result_schema

SMALL = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(folder, seed=5, options=SMALL)
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load()


def stages(model: Model, study: Path, heads: tuple[str, ...] | None = None) -> Counter[str]:
    """How often each stage ended."""
    events: list[StageEvent] = []
    model.infer(study, InferOptions(heads), observer=events.append)
    return Counter(event.stage for event in events if event.seconds is not None)


def test_every_view_is_encoded_once(model: Model, study: Path) -> None:
    counted = stages(model, study)
    assert counted["decode"] == counted["prepare"] == counted["encode"] == 4
    assert counted["read"] == counted["report"] == counted["prognosis"] == 1


def test_graphs_are_compiled_once(study: Path) -> None:
    fresh = Model.load(threads=1)
    assert stages(fresh, study, ("diagnosis",))["compile"] == 2
    assert stages(fresh, study, ("diagnosis",))["compile"] == 0
    assert stages(fresh, study, ("diagnosis", "prognosis"))["compile"] == 1


def test_the_same_study_gives_the_same_result(model: Model, study: Path) -> None:
    assert model.infer(study).to_json() == model.infer(study).to_json()


def test_a_study_already_read_gives_the_same(model: Model, study: Path) -> None:
    assert model.infer(read_study(study)).to_json() == model.infer(study).to_json()


def test_only_the_heads_asked_for(model: Model, study: Path) -> None:
    result = model.infer(study, InferOptions(("report", "diagnosis")))
    assert list(result.heads) == ["diagnosis", "report"]
    assert result.localization is None
    jsonschema.validate(result.to_json(), result_schema())


def without(study: Path, target: Path, *views: str) -> Path:
    target.mkdir()
    for path in study.glob("*.dcm"):
        if path.stem not in views:
            shutil.copy(path, target)
    return target


def test_one_breast(model: Model, study: Path, tmp_path: Path) -> None:
    result = model.infer(without(study, tmp_path / "s", "R-CC", "R-MLO"))
    assert result.missing_views == ("R-CC", "R-MLO")
    assert result.heads["prognosis"].reason == "missing_views"
    assert "the study has L-CC, L-MLO" in (result.heads["prognosis"].detail or "")
    assert result.report is not None
    assert result.report.report.breasts["R"].status == "not_imaged"
    assert result.diagnosis is not None
    assert set(result.diagnosis.breasts) == {"L"}
    jsonschema.validate(result.to_json(), result_schema())


def test_a_view_that_cannot_be_prepared_is_told(model: Model, study: Path, tmp_path: Path) -> None:
    """A blank image is found and decoded, and then of no use: the others still answer."""
    folder = without(study, tmp_path / "s")
    ds = pydicom.dcmread(folder / "L-CC.dcm")
    ds.PixelData = b"\1\0" * (ds.Rows * ds.Columns)
    ds.save_as(folder / "L-CC.dcm")
    result = model.infer(folder)
    assert result.missing_views == ("L-CC",)
    (decision,) = [d for d in result.files if d.reason == "pixels_unusable"]
    assert not decision.used
    assert decision.view == "L-CC"
    assert "the image is constant" in decision.detail
    assert any("L-CC was found but not used" in notice for notice in result.notices)
    jsonschema.validate(result.to_json(), result_schema())


def test_no_view_can_be_prepared(model: Model, study: Path, tmp_path: Path) -> None:
    folder = without(study, tmp_path / "s", "L-MLO", "R-CC", "R-MLO")
    ds = pydicom.dcmread(folder / "L-CC.dcm")
    ds.PixelData = b"\0\0" * (ds.Rows * ds.Columns)
    ds.save_as(folder / "L-CC.dcm")
    with pytest.raises(StudyError, match="the image is constant"):
        model.infer(folder)


def copied_bundle(target: Path, **changes: object) -> Path:
    """The demonstration bundle with top-level fields of its description replaced."""
    shutil.copytree(demo_bundle_path(), target)
    description = json.loads((target / "bundle.json").read_text())
    description.update(changes)
    (target / "bundle.json").write_text(json.dumps(description))
    return target


def test_a_head_that_the_bundle_lacks(study: Path, tmp_path: Path) -> None:
    heads = json.loads((demo_bundle_path() / "bundle.json").read_text())["heads"]
    del heads["prognosis"]
    model = Model.load(copied_bundle(tmp_path / "b.mfm", heads=heads))
    assert "prognosis" not in model.infer(study).heads
    outcome = model.infer(study, InferOptions(("prognosis", "diagnosis"))).heads["prognosis"]
    assert outcome.reason == "not_in_bundle"
    assert outcome.detail == "the bundle 'mammofm-demo' has no prognosis head"


def test_a_graph_that_is_none(study: Path, tmp_path: Path) -> None:
    """The hash is right and the content is not a graph: still one clear line."""
    import hashlib

    bundle = copied_bundle(tmp_path / "b.mfm")
    data = b"<net/>"
    (bundle / "head_diagnosis.xml").write_bytes(data)
    description = json.loads((bundle / "bundle.json").read_text())
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    description["files"]["head_diagnosis.xml"] = record
    (bundle / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match=r"head_diagnosis\.xml: OpenVINO .* cannot load this"):
        Model.load(bundle).infer(study)


def test_numbers_that_are_not_finite_are_refused() -> None:
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([2], ov.Type.f32, name="x")
    y = ops.log(x)
    y.output(0).get_tensor().set_names({"y"})
    graph = Graph("head.xml", ov.Core().compile_model(ov.Model([y], [x]), "CPU"))
    assert graph.run({"x": np.ones(2, np.float32)})["y"].tolist() == [0.0, 0.0]
    with pytest.raises(BundleError, match=r"head\.xml: output 'y' is not finite"):
        graph.run({"x": np.array([1, -1], np.float32)})


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_out_of_range(threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads must be from 1 to 1024, not {threads}"):
        Model.load(threads=threads)


def test_what_a_result_names(model: Model, study: Path) -> None:
    result = model.infer(study)
    assert result.model.sha256 == model.bundle.sha256
    assert set(result.model.file_sha256) == set(model.bundle.files)
    assert result.software.instruction_set in ("portable", "avx2", "avx512", "avx512_vnni")
    assert result.software.attention == "float32"
    assert result.software.threads == len(os.sched_getaffinity(0))
    for info in result.views:
        assert (info.rows, info.columns) == (SMALL.rows, SMALL.columns)
        assert dataclasses.astuple(info.geometry)[:2] == (SMALL.rows, SMALL.columns)


def test_no_connection_is_opened(study: Path) -> None:
    """Not while OpenVINO is loaded, a bundle compiled, or a study answered."""
    code = """
import os, sys
def watch(event, given):
    if event.startswith("socket."):
        os.write(2, event.encode())
        os._exit(9)
sys.addaudithook(watch)
from mammofm_lite import Model
Model.load().infer(sys.argv[1])
print("answered")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, study], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "answered", done.stderr
    # The watch works: a lookup is seen.
    probe = code.replace("from mammofm_lite import Model", "import socket; socket.gethostname()")
    done = subprocess.run([sys.executable, "-c", probe, study], capture_output=True, check=False)
    assert done.returncode == 9

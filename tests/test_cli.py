"""The command line as a user meets it: a process, its two streams and its exit status."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from mammofm_lite.phantom import write_phantom
from mammofm_lite.results import result_schema

VIEWS = {"L-CC", "L-MLO", "R-CC", "R-MLO"}


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mammofm_lite.cli import main; main()"]
    return subprocess.run(
        command + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def fails(done: subprocess.CompletedProcess[str], status: int, words: str) -> None:
    """One clear line on stderr, nothing on stdout, the right status."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if " s" not in line[-8:]]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def answered(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results") / "out"
    done = run("infer", study, "-o", output)
    assert done.returncode == 0, done.stderr
    (output / "stdout").write_text(done.stdout)
    return output


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("infer", "export", "info", "bench", "phantom", "selftest"):
        assert command in done.stdout


def test_version() -> None:
    assert run("--version").stdout.startswith("mammofm-lite, version ")


def test_four_heads_answer_in_words(answered: Path) -> None:
    summary = (answered / "stdout").read_text()
    for words in ("malignancy ", "density ", "mass ", "risk ", "BI-RADS ", "Suggestion "):
        assert f"\n{words}" in summary
    report = (answered / "result.txt").read_text()
    for words in (
        "EXAM",
        "BREAST COMPOSITION",
        "FINDINGS: RIGHT BREAST",
        "IMPRESSION, BY THE MODEL",
        "LIMITS",
    ):
        assert f"\n{words}\n" in report
    for text in (summary, report):
        assert "Not a medical device" in text
        assert "Trained on synthetic phantoms alone" in " ".join(text.split())


def test_the_json_is_valid_and_complete(answered: Path) -> None:
    result = json.loads((answered / "result.json").read_text())
    jsonschema.Draft202012Validator.check_schema(result_schema())
    jsonschema.validate(result, result_schema())
    assert {name: head["status"] for name, head in result["heads"].items()} == dict.fromkeys(
        ("diagnosis", "localization", "prognosis", "report"), "answered"
    )
    assert {view["view"] for view in result["views"]} == VIEWS
    risks = [year["risk"] for year in result["heads"]["prognosis"]["result"]["years"]]
    assert risks == sorted(risks)
    assert len(risks) == 5


def test_overlays_show_the_picture(answered: Path) -> None:
    for view in VIEWS:
        picture = np.asarray(Image.open(answered / f"{view}.png"))
        assert picture.ndim == 3
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 10


def test_json_alone_on_stdout(study: Path) -> None:
    done = run("infer", study, "--json", "--heads", "diagnosis")
    result = json.loads(done.stdout)
    jsonschema.validate(result, result_schema())
    assert list(result["heads"]) == ["diagnosis"]


def test_two_runs_are_identical(study: Path, answered: Path) -> None:
    again = json.loads(run("infer", study, "--json", "-q").stdout)
    assert again == json.loads((answered / "result.json").read_text())


def test_results_are_not_overwritten_unasked(study: Path, answered: Path) -> None:
    fails(run("infer", study, "-o", answered), 2, "already has result.json; give --force")


@pytest.mark.parametrize(
    ("views", "answering"),
    [({"L-CC"}, set()), ({"L-CC", "R-CC"}, {"prognosis"}), ({"L-CC", "R-MLO"}, set())],
)
def test_fewer_views(study: Path, tmp_path: Path, views: set[str], answering: set[str]) -> None:
    import pydicom

    for path in study.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        if f"{ds.ImageLaterality}-{ds.ViewCodeSequence[0].CodeMeaning}" and view_of(ds) in views:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    result = json.loads(run("infer", tmp_path, "--json").stdout)
    jsonschema.validate(result, result_schema())
    assert set(result["missing_views"]) == VIEWS - views
    answered_heads = {n for n, h in result["heads"].items() if h["status"] == "answered"}
    assert answered_heads == {"diagnosis", "localization", "report"} | answering
    if not answering:
        assert result["heads"]["prognosis"]["reason"] == "missing_views"
        assert "both CC or both MLO" in result["heads"]["prognosis"]["detail"]


def view_of(ds: object) -> str:
    return f"{ds.ImageLaterality}-{ds.ViewPosition}"


def test_unknown_head(study: Path) -> None:
    fails(run("infer", study, "--heads", "oracle"), 2, "unknown head 'oracle'")


def test_unknown_writer(study: Path) -> None:
    fails(run("infer", study, "--write", "pdf"), 2, "unknown kind of file 'pdf'")


@pytest.mark.parametrize("option", [("--write", "json"), ("--force",)])
def test_options_that_would_do_nothing(study: Path, option: tuple[str, ...]) -> None:
    fails(run("infer", study, *option), 2, "give -o")


def test_missing_study(tmp_path: Path) -> None:
    done = run("infer", tmp_path / "Doe^Jane")
    assert done.returncode == 3
    assert "Doe" not in done.stderr


def test_empty_folder(tmp_path: Path) -> None:
    fails(run("infer", tmp_path), 3, "empty")


def test_no_mammogram(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    fails(run("infer", tmp_path), 3, "no usable mammogram")


def test_missing_bundle(study: Path, tmp_path: Path) -> None:
    fails(run("infer", study, "--bundle", tmp_path / "none.mfm"), 4, "no bundle directory")


def test_corrupted_bundle(study: Path, tmp_path: Path) -> None:
    import shutil

    from mammofm_lite.bundle import demo_bundle_path

    bundle = tmp_path / "bad.mfm"
    shutil.copytree(demo_bundle_path(), bundle)
    weights = next(bundle.glob("encoder_*.bin"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    output = tmp_path / "out"
    fails(run("infer", study, "--bundle", bundle, "-o", output), 4, f"{weights.name} was altered")
    assert not output.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output(study: Path, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    done = run("infer", study, "-o", tmp_path / "out", "-q")
    tmp_path.chmod(0o700)
    fails(done, 1, "cannot read or write")


def test_info(tmp_path: Path) -> None:
    done = run("info")
    assert done.returncode == 0
    assert "mammofm-demo" in done.stdout
    described = json.loads(run("info", "--json").stdout)
    assert set(described["heads"]) == {"diagnosis", "localization", "prognosis", "report"}


def test_phantom_options(tmp_path: Path) -> None:
    import pydicom

    done = run("phantom", tmp_path / "p", "--lesions", 2, "--photometric", "MONOCHROME1")
    assert "2 lesions planted" in done.stdout
    assert len(json.loads((tmp_path / "p" / "truth.json").read_text())["lesions"]) == 2
    ds = pydicom.dcmread(tmp_path / "p" / "L-CC.dcm", stop_before_pixels=True)
    assert ds.PhotometricInterpretation == "MONOCHROME1"
    fails(run("phantom", tmp_path / "p"), 2, "the output folder is not empty; give --force")


def test_phantom_looks(tmp_path: Path) -> None:
    import pydicom

    from mammofm_lite.phantom import TRANSFER_SYNTAXES

    given = "--spacing 0.4 --bits 14 --shift vendor --difficulty 0.2 --prevalence 1 --seed 2"
    done = run("phantom", tmp_path / "p", *given.split(), "--transfer-syntax", "jpeg-ls")
    assert done.returncode == 0, done.stderr
    assert "planted, a cancer among them" in done.stdout
    ds = pydicom.dcmread(tmp_path / "p" / "L-CC.dcm", stop_before_pixels=True)
    assert (ds.Rows, ds.Columns, ds.BitsStored) == (574, 478, 14)
    assert ds.ManufacturerModelName == "phantom V"
    assert ds.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES["jpeg-ls"]
    told = run("phantom", tmp_path / "q", "--transfer-syntax", "?").stderr
    assert all(name in told for name in TRANSFER_SYNTAXES)


def test_bench_reports_every_stage(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = run("bench", "--repeats", "1", "-o", output)
    assert done.returncode == 0, done.stderr
    measured = json.loads(output.read_text())
    stages = {"read", "decode", "prepare", "encode", "diagnosis", "localization", "prognosis"}
    assert stages | {"report", "write", "total"} <= set(measured["stages"])
    assert measured["cold_start"]["peak_memory_mib"] > 50
    assert "cold start" in done.stdout

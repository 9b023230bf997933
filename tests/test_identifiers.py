"""Nothing that identifies a patient is printed or written, and no connection is opened.

Names are planted wherever a study can hold them: folders, files, attributes of every text kind,
private ones too, the comment of a zip; then everything that comes out is searched.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest

from mammofm_lite.phantom import PhantomOptions, write_phantom

PLANTED = ("Musterfrau", "Erika", "PID-4711", "19600229", "Seeblick", "ACC-0815", "Dr-Sommer")
MAIN = "from mammofm_lite.cli import main; main()"


def plant(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Musterfrau^Erika", "PID-4711", "19600229"
    ds.OtherPatientIDs, ds.PatientAddress = "PID-4711", "Erika Musterfrau, Seeblick"
    ds.InstitutionName, ds.AccessionNumber = "Klinik Seeblick", "ACC-0815"
    ds.ReferringPhysicianName = ds.OperatorsName = "Dr-Sommer"
    ds.StudyDescription = ds.SeriesDescription = "Mammography of Erika Musterfrau"
    ds.ImageComments = ds.PatientComments = "PID-4711"
    ds.DeviceSerialNumber = ds.StationName = "Seeblick"
    block = ds.private_block(0x0009, "Seeblick", create=True)
    block.add_new(1, "LO", "Musterfrau PID-4711")
    ds.save_as(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which every name can be found, among files that cannot be used."""
    folder = tmp_path_factory.mktemp("x") / "Musterfrau Erika PID-4711" / "Klinik Seeblick"
    write_phantom(
        folder, seed=5, options=PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    )
    (folder / "truth.json").rename(folder / "Musterfrau.json")
    for path in sorted(folder.glob("*.dcm")):
        plant(path)
        path.rename(folder / f"Erika {path.stem} ACC-0815.dcm")
    first = next(folder.glob("*.dcm")).read_bytes()
    (folder / "Musterfrau cut.dcm").write_bytes(first[: len(first) // 2])
    (folder / "Musterfrau damaged.dcm").write_bytes(first[:400] + b"Erika" * 100 + first[900:])
    (folder / "Erika link").symlink_to("/home/Musterfrau")
    os.mkfifo(folder / "Erika pipe")
    return folder


def run(*arguments: object, code: str = MAIN) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "MAMMOFM_TRACEBACK"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        check=False,
        env=environment,
    )


def clean(data: bytes, planted: Sequence[str] = PLANTED) -> None:
    for name in planted:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            found = data.lower().find(name.lower().encode(encoding))
            assert found < 0, data[max(found - 80, 0) : found + 80]


def printed_nothing(done: subprocess.CompletedProcess[bytes], status: int) -> None:
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    clean(done.stdout)
    clean(done.stderr)


def test_the_names_are_in_the_study(study: Path) -> None:
    """Otherwise the other tests would prove nothing."""
    data = b"".join(path.read_bytes() for path in study.glob("*.dcm")) + str(study).encode()
    for name in PLANTED:
        assert name.encode() in data


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["plain", "json"])
def test_what_infer_prints(study: Path, options: tuple[str, ...]) -> None:
    done = run("infer", study, *options)
    printed_nothing(done, 0)
    assert len(done.stdout) > 500
    if options:
        reasons = {file["reason"] for file in json.loads(done.stdout)["files"]}
        assert reasons >= {"truncated", "not_dicom", "link", "special_file"}


def test_what_infer_writes(study: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    kinds = "json,text,png,heat,html"
    printed_nothing(run("infer", study, "-q", "-o", output, "--write", kinds), 0)
    written = sorted(output.iterdir())
    assert len(written) == 3 + 4 + 4
    for path in written:
        clean(path.name.encode())
        clean(path.read_bytes())
        if path.suffix == ".png":  # no chunk that could hold text, time or a place
            assert chunks(path.read_bytes()) == [b"IHDR", b"IDAT", b"IEND"]


def chunks(png: bytes) -> list[bytes]:
    at, names = 8, []
    while at < len(png):
        names.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return names


def test_errors_of_studies(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Musterfrau Erika"
    folder.mkdir()
    printed_nothing(run("infer", folder), 3)
    printed_nothing(run("infer", folder / "PID-4711"), 3)
    damaged = folder / "Erika.dcm"
    damaged.write_bytes((study / "Musterfrau damaged.dcm").read_bytes())
    printed_nothing(run("infer", damaged), 3)
    printed_nothing(run("infer", study / "Erika pipe"), 3)
    (folder / "Erika.zip").write_bytes(b"PK\3\4" + b"Musterfrau" * 50)
    printed_nothing(run("infer", folder / "Erika.zip"), 3)


def test_a_study_of_several_patients(study: Path, tmp_path: Path) -> None:
    for number, path in enumerate(study.glob("Erika *.dcm")):
        ds = pydicom.dcmread(path)
        ds.PatientID = f"PID-4711-{number}"
        ds.save_as(tmp_path / path.name)
    done = run("infer", tmp_path, "-q")
    printed_nothing(done, 3)
    assert b"4 patients" in done.stderr


def test_errors_of_outputs(study: Path, tmp_path: Path) -> None:
    taken = tmp_path / "Musterfrau out"
    taken.mkdir()
    (taken / "result.json").write_text("{}")
    printed_nothing(run("infer", study, "-q", "-o", taken), 2)
    (tmp_path / "Erika").write_text("a file")
    printed_nothing(run("infer", study, "-q", "-o", tmp_path / "Erika"), 2)
    printed_nothing(run("infer", study, "-q", "-o", tmp_path / "Erika" / "PID-4711"), 1)


def test_a_zip_with_a_comment(study: Path, tmp_path: Path) -> None:
    packed = tmp_path / "Musterfrau Erika.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.comment = b"Erika Musterfrau, PID-4711"
        for path in study.glob("Erika*.dcm"):
            archive.write(path, f"Klinik Seeblick/{path.name}")
    printed_nothing(run("infer", packed, "--json", "--heads", "diagnosis"), 0)


DEFECT = (
    """
import mammofm_lite.{module} as module
def fails(*given, **named):
    raise {error}("Musterfrau^Erika PID-4711 in /data/Seeblick")
module.{name} = fails
"""
    + MAIN
)


@pytest.mark.parametrize("error", ["ValueError", "RecursionError"])
@pytest.mark.parametrize(
    ("module", "name"), [("ahead", "prepare_view"), ("dicom._study", "describe")]
)
def test_a_defect_of_ours(study: Path, module: str, name: str, error: str) -> None:
    """Its text may quote the study, so only its kind and place are told."""
    done = run("infer", study, "-q", code=DEFECT.format(module=module, name=name, error=error))
    printed_nothing(done, 1)
    text = done.stderr.decode()
    assert re.fullmatch(
        rf"mammofm-lite: a defect of this program: {error} in \w+\.py, line \d+; please report it "
        r"\(MAMMOFM_TRACEBACK=1 shows the whole\)\n",
        text,
    )


# -------------------- no connection


WATCHED = """
import os, sys
def watch(event, given):
    if event.startswith("socket.") and event != "socket.__new__":
        os.write(2, event.encode())
        os._exit(9)
    if event == "socket.__new__" and given[1] != 1:  # AF_UNIX stays on this machine
        os.write(2, event.encode())
        os._exit(9)
sys.addaudithook(watch)
"""


def test_importing_opens_no_connection() -> None:
    done = run(
        code=WATCHED + "import mammofm_lite, mammofm_lite.cli\nfrom mammofm_lite import Model"
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_signing_opens_no_connection(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    code = WATCHED + "from mammofm_lite.signature import new_key\nimport pathlib\n"
    done = run(tmp_path / "k.pem", code=code + "new_key(pathlib.Path(sys.argv[1]))")
    assert (done.returncode, done.stderr) == (0, b"")


def test_export_opens_no_connection(tmp_path: Path) -> None:
    """While torch and OpenVINO are loaded and the first graph is converted."""
    pytest.importorskip("torch")
    recipe = Path(__file__).resolve().parents[1] / "export" / "recipes" / "demo-synthetic.toml"
    code = (
        WATCHED
        + """
from pathlib import Path
from mammofm_lite.export.build import export_bundle
def tell(line):
    if "view: torch against IR" in line:
        print("converted", flush=True)
        os._exit(0)
export_bundle(Path(sys.argv[1]), Path(sys.argv[2]), tell=tell)
"""
    )
    done = run(recipe, tmp_path / "x.mfm", code=code)
    assert (done.returncode, done.stdout) == (0, b"converted\n"), done.stderr


def test_the_watch_works() -> None:
    done = run(code=WATCHED + "import socket; socket.create_connection(('127.0.0.1', 9))")
    assert done.returncode == 9

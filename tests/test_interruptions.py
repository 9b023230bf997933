"""Ctrl-C, kill -9, full disks and closed folders: no half-written file passes for a result."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from mammofm_lite import UsageError
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.results import result_schema
from mammofm_lite.writers.files import unfinished_files, write_atomically
from mammofm_lite.writers.folder import ResultFolder

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-c", "from mammofm_lite.cli import main; main()")
WHOLE = {"result.json", "result.txt", "L-CC.png", "L-MLO.png", "R-CC.png", "R-MLO.png"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    small = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    write_phantom(folder, seed=5, options=small)
    return folder


def interrupted(
    number: signal.Signals, lines: int, pause_s: float, *arguments: object
) -> tuple[int, list[str]]:
    """Send a signal after so many lines of progress and a pause; status and stderr."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    with process, process.stderr as stream:
        said = []
        while len(said) < lines and (line := stream.readline()):
            said.append(line.rstrip("\n"))
        time.sleep(pause_s)
        process.send_signal(number)
        said += stream.read().splitlines()
    return process.returncode, said


def moments(count: int, lines: int, seed: int) -> list[tuple[int, float]]:
    rng = random.Random(seed)
    return [(rng.randint(1, lines), rng.uniform(0, 0.1)) for _ in range(count)]


def check_folder(folder: Path) -> None:
    """Whatever is there is whole, and result.json is there last."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()}
    visible = {name for name in names if not name.startswith(".part-")}
    assert visible <= WHOLE
    for name in visible:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().endswith(b"IEND\xaeB`\x82"), name
    if "result.json" in visible:
        assert visible == WHOLE
        jsonschema.validate(json.loads((folder / "result.json").read_text()), result_schema())


@pytest.mark.parametrize(("lines", "pause_s"), [*moments(2, 20, 1), (24, 0.02)])
def test_control_c_of_infer(study: Path, tmp_path: Path, lines: int, pause_s: float) -> None:
    folder = tmp_path / "out"
    status, said = interrupted(signal.SIGINT, lines, pause_s, "infer", study, "-o", folder)
    check_folder(folder)
    assert unfinished_files(folder) == []
    assert "Traceback" not in "".join(said)
    if status != 0:  # it was just done
        assert status == 130
        assert said[-1] == "interrupted"


def test_kill_of_infer(study: Path, tmp_path: Path) -> None:
    """And after each kill the next run, with --force, leaves a whole result and nothing else."""
    folder = tmp_path / "out"
    for lines, pause_s in [*moments(2, 27, 2), (24, 0.05)]:
        interrupted(signal.SIGKILL, lines, pause_s, "infer", study, "-o", folder, "--force")
        check_folder(folder)
    (folder / ".part-abcd1234").write_bytes(b"half")
    command = [*COMMAND, "infer", study, "-q", "-o", folder, "--force"]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name for path in folder.iterdir()} == WHOLE


def test_what_a_killed_run_left_is_named_and_only_that_removed(tmp_path: Path) -> None:
    left, other = tmp_path / ".part-abcd1234", tmp_path / ".part-of-something-else"
    left.write_bytes(b"half")
    other.write_bytes(b"the user's own")
    assert unfinished_files(tmp_path) == [left]
    with pytest.raises(UsageError, match=r"unfinished file .* \(\.part-abcd1234\); give --force"):
        ResultFolder(tmp_path, ("json",), force=False)
    ResultFolder(tmp_path, ("json",), force=True)
    assert left.exists()  # until there is something to put in its place


def test_a_result_that_is_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "result.json").symlink_to(outside)
    write_atomically(folder / "result.json", b"{}")
    assert outside.read_text() == "precious"
    (folder / "result.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="already has result"):
        ResultFolder(folder, ("json",), force=False)


EXPORT = ROOT / "export" / "recipes" / "demo-synthetic.toml"


@pytest.mark.parametrize(
    ("number", "lines", "pause_s"),
    [(signal.SIGINT, 2, 0.3), (signal.SIGKILL, 3, 0.4)],
)
def test_an_interrupted_export_leaves_no_bundle(
    tmp_path: Path, number: signal.Signals, lines: int, pause_s: float
) -> None:
    pytest.importorskip("torch")
    from mammofm_lite.export.writing import remove_unfinished

    target = tmp_path / "x.mfm"
    status, said = interrupted(number, lines, pause_s, "export", EXPORT, "-o", target)
    assert not target.exists()
    if number == signal.SIGINT:
        assert status == 130
        assert said[-1] == "interrupted"
    else:
        assert status == -signal.SIGKILL
        assert [path.name[:7] for path in tmp_path.iterdir()] == [".x.mfm-"]
        (tmp_path / ".x.mfm-of-mine").mkdir()
        remove_unfinished(target)  # what --force does first
        (tmp_path / ".x.mfm-of-mine").rmdir()
    assert list(tmp_path.iterdir()) == []


def largest_file(size: int) -> Callable[[], None]:
    """In the child: no file may grow beyond `size`, as on a disk that is nearly full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fails(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1
    assert done.stderr == f"mammofm-lite: cannot read or write: {words}\n"


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_full_disk(study: Path, tmp_path: Path, size: int) -> None:
    folder = tmp_path / "out"
    done = subprocess.run(
        [*COMMAND, "infer", study, "-q", "-o", folder],
        capture_output=True, text=True, check=False, preexec_fn=largest_file(size),
    )  # fmt: skip
    fails(done, "File too large")
    assert done.stdout == ""
    check_folder(folder)
    assert unfinished_files(folder) == []
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output(study: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "infer", study, "-q", "--heads", "diagnosis"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    fails(done, "No space left on device")


def test_a_reader_that_has_gone(study: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as pipe:
        done = subprocess.run(
            [*COMMAND, "infer", study, "-q", "--heads", "diagnosis"],
            stdout=pipe, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")  # as click has it: `| head` is no failure


@pytest.mark.parametrize(
    ("parent", "words"),
    [("/proc", "No such file or directory"), ("/dev/null", "Not a directory")],
)
def test_an_output_that_cannot_be_made(study: Path, parent: str, words: str) -> None:
    """Also for root, who may write nearly anywhere."""
    command = [*COMMAND, "infer", study, "-q", "--heads", "diagnosis", "-o", f"{parent}/Doe^Jane"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fails(done, words)
    assert done.stdout == ""

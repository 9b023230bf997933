"""`mammofm-lite selftest` as a user meets it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mammofm_lite.bundle import demo_bundle_path


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mammofm_lite.cli import main; main()", "selftest"]
    return subprocess.run(
        command + [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_a_line_per_check_and_status_0() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1].startswith("passed in ")


def test_json_and_status_4_for_a_bundle_that_is_broken(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(demo_bundle_path(), tmp_path / "demo.mfm"))
    (bundle / "grammar.json").write_text("{}")
    done = run("--bundle", bundle, "--json")
    assert done.returncode == 4
    outcome = json.loads(done.stdout)
    assert outcome["passed"] is False
    (check,) = [check for check in outcome["checks"] if check["status"] == "failed"]
    assert (check["name"], "grammar.json has 2 bytes" in check["detail"]) == ("bundle", True)
    assert done.stderr == ""


def test_status_1_for_kernels_that_do_not_exist() -> None:
    done = run(MAMMOFM_ISA="mmx")
    assert done.returncode == 1
    assert "FAILED   extension" in done.stdout
    assert "unknown instruction set 'mmx'" in done.stdout
    assert "FAILED: " in done.stdout.splitlines()[-1]

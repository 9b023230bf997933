"""Promises of the repository itself."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_openvino_pin_is_one() -> None:
    build = [r for r in PROJECT["build-system"]["requires"] if r.startswith("openvino")]
    run = [r for r in PROJECT["project"]["dependencies"] if r.startswith("openvino")]
    pinned = re.findall(r"^openvino==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert build == run == pinned


def test_versions_agree() -> None:
    from mammofm_lite import __version__

    assert PROJECT["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_gpl_decoder_is_pinned() -> None:
    assert "pylibjpeg-libjpeg" not in (ROOT / "constraints.txt").read_text()


def test_nothing_large_or_foreign_is_tracked() -> None:
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and "demo.mfm" not in name:
            assert path.stat().st_size < 1_000_000, name

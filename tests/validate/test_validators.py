"""DICOM results of every kind, asked of programs that others wrote; see `tools.py` for which.

A program that is not installed skips its test and says what to install (``make validate-tools``).
``make validate`` prints a line for every file.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import dicom_cases
import tools
from run import own_checks, written

from mammofm_lite.phantom import write_phantom

Complaints = dict[str, list[str]]


@dataclass(frozen=True)
class Written:
    """All objects of all cases, and the image of every presentation state."""

    objects: list[Path]
    reports: list[Path]
    images: Mapping[Path, Path]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Studies with no, one and many findings, with missing and unusable views, and the others."""
    folder = tmp_path_factory.mktemp("validate")
    objects: list[Path] = []
    images: dict[Path, Path] = {}
    for case, make in dicom_cases.KINDS.items():
        study = folder / f"study-{case}"
        study.mkdir()
        answered = make(study)
        paths = written(case, answered, folder / case)
        for path in paths:
            assert own_checks(path, answered) == [], path.name
            if path.name.endswith("-gsps.dcm"):
                images[path] = study / path.name.replace("-gsps", "")
        objects += paths
    reports = [path for path in objects if path not in images]
    return Written(objects, reports, images)


def need(name: str) -> None:
    """Skip where the program is missing."""
    (tool,) = [tool for tool in tools.TOOLS if tool.name == name]
    if tool.missing:
        pytest.skip(
            f"not checked with {name}: {tool.missing} is missing; make validate-tools installs it "
            f"(Debian: {tool.packages})"
        )


def complaints(check: Callable[[Path], list[str]], paths: list[Path]) -> Complaints:
    found = tools.in_parallel(check, paths)
    return {f"{path.parent.name}/{path.name}": said for path, said in found if said}


def test_every_kind_is_there(everything: Written) -> None:
    """Two reports a study and a state per view, so that no check below passes for want of files."""
    names = {path.name for path in everything.objects}
    assert {"cad-sr.dcm", "sr.dcm", "L-CC-gsps.dcm", "R-MLO-gsps.dcm"} <= names
    assert len(everything.reports) == 2 * len(dicom_cases.KINDS)
    assert len(everything.images) == 27


def test_dciodvfy(everything: Written) -> None:
    need("dciodvfy")
    assert complaints(tools.dciodvfy, everything.objects) == {}


def test_dsrdump(everything: Written) -> None:
    need("dsrdump")
    assert complaints(tools.dsrdump, everything.reports) == {}


def test_images_look_the_same_with_their_presentation_states(
    everything: Written, tmp_path: Path
) -> None:
    need("dcmp2pgm")
    for state, image in everything.images.items():
        assert tools.dcmp2pgm(state, image, tmp_path) == [], f"{state.parent.name}/{state.name}"


@pytest.mark.parametrize("name", ["storescp", "Orthanc"])
def test_sent_and_fetched(name: str, everything: Written, tmp_path: Path) -> None:
    need(name)
    send = {"storescp": tools.storescp, "Orthanc": tools.orthanc}[name]
    assert send(everything.objects, tmp_path) == []


def test_what_the_command_line_writes(run: Any, tmp_path: Path) -> None:
    """Of the demonstration bundle's own answers, on a phantom with a cancer that it marks."""
    need("dciodvfy")
    need("dsrdump")
    write_phantom(tmp_path / "study", seed=23)
    done = run("infer", tmp_path / "study", "-o", tmp_path / "out", "--write", "cad-sr,sr,gsps")
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(paths) == 6
    assert complaints(tools.dciodvfy, paths) == {}
    reports = [path for path in paths if path.name.endswith("sr.dcm")]
    assert complaints(tools.dsrdump, reports) == {}


# -------------------- the programs complain where they should


@pytest.fixture
def spoilt(everything: Written, tmp_path: Path) -> Callable[[str, str], Path]:
    """A copy of a report of which a code or an attribute is another."""

    def _spoilt(old: str, new: str) -> Path:
        report = next(path for path in everything.reports if path.name == "cad-sr.dcm")
        data = report.read_bytes()
        assert old.encode() in data
        assert len(old) == len(new)
        path = tmp_path / "cad-sr.dcm"
        path.write_bytes(data.replace(old.encode(), new.encode()))
        return path

    return _spoilt


def test_dciodvfy_complains(spoilt: Callable[[str, str], Path]) -> None:
    need("dciodvfy")
    assert tools.dciodvfy(spoilt("UNVERIFIED", "UNVERIFIEX"))


def test_dsrdump_complains(spoilt: Callable[[str, str], Path]) -> None:
    need("dsrdump")
    assert tools.dsrdump(spoilt("HAS CONCEPT MOD", "HAS CONCEPT MOX"))


def test_pixelmed(everything: Written, spoilt: Callable[[str, str], Path]) -> None:
    """One run for all, as its start takes seconds: of all reports it refuses the spoilt one."""
    need("pixelmed")
    wrong = spoilt("111017", "111018")  # the code of CAD Processing and Findings Summary
    found = tools.pixelmed([*everything.reports, wrong])
    assert set(found) == {*everything.reports, wrong}
    assert found.pop(wrong)
    assert {f"{path.parent.name}/{path.name}": said for path, said in found.items() if said} == {}

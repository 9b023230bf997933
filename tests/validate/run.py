"""``make validate``: DICOM results of every kind, held by the public validators and by our checks.

``python tests/validate/run.py [--allow-missing] [--only CASE] [--tool PROGRAM]...``. What is
missing is named with the Debian packages that have it; the exit status is 1 then too, unless it is
allowed. Known complaints of the validators that are no defects stand in ``tools.py``, each with its
reason.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import dicom_cases
import dicom_checks
import pydicom
import tools

from mammofm_lite.writers.dicom import DICOM_KINDS, dicom_bytes, dicom_objects

Complaints = list[str]


class Verdicts:
    """Prints every verdict as it comes, and counts the bad ones."""

    def __init__(self) -> None:
        self.failed = 0
        self.passed = 0

    def add(self, who: str, what: str, complaints: Complaints) -> None:
        """One line where all is well, else one for every complaint."""
        if complaints:
            self.failed += 1
        else:
            self.passed += 1
        for line in complaints or ["ok"]:
            print(f"{who:<11} {what:<32} {line}", flush=True)


def written(case: str, answered: dicom_cases.Answered, folder: Path) -> list[Path]:
    """All DICOM results of one case as files."""
    folder.mkdir()
    paths = []
    for name, dataset in dicom_objects(DICOM_KINDS, answered.case()):
        paths.append(folder / name)
        paths[-1].write_bytes(dicom_bytes(dataset))
    return paths


def own_checks(path: Path, answered: dicom_cases.Answered) -> Complaints:
    try:
        dicom_checks.check(path.name, pydicom.dcmread(path), answered)
    except (AssertionError, KeyError, ValueError) as error:
        return [f"{type(error).__name__}: {' '.join(str(error).split())}"]
    return []


def each_file(
    who: str, check: Callable[[Path], Complaints], paths: Iterable[Path], verdicts: Verdicts
) -> None:
    """A verdict per file."""
    for path, complaints in tools.in_parallel(check, list(paths)):
        verdicts.add(who, f"{path.parent.name}/{path.name}", complaints)


def validate(cases: list[str], present: set[str], scratch: Path, verdicts: Verdicts) -> None:
    """Everything that can be checked here."""
    reports: list[Path] = []
    objects: list[Path] = []
    for case in cases:
        study = scratch / f"study-{case}"
        study.mkdir()
        answered = dicom_cases.KINDS[case](study)
        paths = written(case, answered, scratch / case)
        each_file("own checks", functools.partial(own_checks, answered=answered), paths, verdicts)
        objects += paths
        reports += [path for path in paths if not path.name.endswith("-gsps.dcm")]
        for state in paths if "dcmp2pgm" in present else ():
            if state.name.endswith("-gsps.dcm"):
                image = study / state.name.replace("-gsps", "")
                complaints = tools.dcmp2pgm(state, image, scratch)
                verdicts.add("dcmp2pgm", f"{case}/{state.name}", complaints)
    if "dciodvfy" in present:
        each_file("dciodvfy", tools.dciodvfy, objects, verdicts)
    if "dsrdump" in present:
        each_file("dsrdump", tools.dsrdump, reports, verdicts)
    for name, send in (("storescp", tools.storescp), ("Orthanc", tools.orthanc)):
        if name in present:
            verdicts.add(name, f"{len(objects)} objects", send(objects, scratch))
    if "pixelmed" in present:
        for path, complaints in tools.pixelmed(reports).items():
            verdicts.add("pixelmed", f"{path.parent.name}/{path.name}", complaints)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allow-missing", action="store_true", help="skip what is not installed")
    parser.add_argument("--only", choices=sorted(dicom_cases.KINDS), help="one case")
    names = [tool.name for tool in tools.TOOLS]
    parser.add_argument("--tool", action="append", choices=names, help="only these programs")
    chosen = parser.parse_args()
    asked = [tool for tool in tools.TOOLS if tool.name in (chosen.tool or names)]
    missing = {tool: tool.missing for tool in asked if tool.missing}
    present = {tool.name for tool in asked} - {tool.name for tool in missing}
    verdicts = Verdicts()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mammofm-validate-") as scratch:
        cases = [chosen.only] if chosen.only else list(dicom_cases.KINDS)
        validate(cases, present, Path(scratch), verdicts)
    print(
        f"{verdicts.passed} checks passed, {verdicts.failed} failed, "
        f"{time.monotonic() - begin:.0f} s"
    )
    for tool, need in missing.items():
        print(f"NOT CHECKED with {tool.name}: {need} is missing (apt-get install {tool.packages})")
    return int(bool(verdicts.failed or (missing and not chosen.allow_missing)))


if __name__ == "__main__":
    sys.exit(main())

"""The public programs that `make validate` asks, each as a check of one file or folder."""

import functools
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom

# Debian has it among the programs of the administrator, which are not in everybody's PATH.
ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Without these limits Java 17 gives up on the templates' size.
JAVA_OPTIONS = (
    "-XX:+UseSerialGC",  # a collector of many threads would only get in the way of the other half
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-Xss512m",
)
ORTHANC_STARTS_S = 60
PROGRAM_S = 3600  # the machine may be busy with other things


@dataclass(frozen=True)
class Tool:
    """A program, and the Debian packages that have it."""

    name: str
    packages: str
    needs: tuple[str, ...]

    @property
    def missing(self) -> str | None:
        """The first file or program that is not here."""
        for need in self.needs:
            if not (Path(need).exists() if "/" in need else shutil.which(need)):
                return need
        return None


TOOLS = (
    Tool("dciodvfy", "dicom3tools", ("dciodvfy",)),
    Tool("dsrdump", "dcmtk", ("dsrdump",)),
    Tool("dcmp2pgm", "dcmtk", ("dcmp2pgm",)),
    Tool("pixelmed", "pixelmed-apps default-jdk-headless", ("javac", str(PIXELMED))),
    Tool("storescp", "dcmtk", ("storescu", "storescp")),
    Tool("Orthanc", "orthanc", ("storescu", ORTHANC)),
)


def run(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status, and both streams together."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PROGRAM_S,
        check=False,
        env=env,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


# -------------------- one file

# What dicom3tools of 2022 does not know yet, or knows by no list: DeviceUID in Contributing
# Equipment Sequence (PS3.3 C.12.1), and the name of our coding scheme, which the file identifies.
DCIODVFY_KNOWN = (
    "Attribute is not present in standard DICOM IOD - (0x0018,0x1002) UI Device UID",
    "Dicom dataset contains attributes not present in standard DICOM IOD",
    "Unrecognized defined term <99MAMMOFMLITE>",
)
# TID 1500's rows for evaluations of any name are parameters, which the validator does not fill in;
# the template may be extended. It counts outlines in all groups together where the standard looks
# at one group, so it holds groups without one (TID 1501) against TID 1410, or the other way round;
# our own checks look at every group. And its own template has two blanks in the last name.
PIXELMED_KNOWN = (
    '/CONTAINER (125007,DCM,"Measurement Group")/CODE (',
    '/CONTAINER (125007,DCM,"Measurement Group")/TEXT (',
    "template ID encoded in first row container 1410 does not match expected template ID 1501",
    "template ID encoded in first row container 1501 does not match expected template ID 1410",
    '"Measurement Group")/[Row 5] SCOORD (111030,DCM,"Image Region"): within',
    '"Measurement Group")/[Row 7] IMAGE (121214,DCM,"Referenced Segmentation Frame"): within',
    '("Failed Detections") than code meaning in template concept name ("Failed  Detections")',
)
DSRDUMP_KNOWN = (
    "The VR checker does not support this Specific Character Set: ISO_IR 192",
    "Check for template constraints not yet supported",
)


def _complaints(text: str, marks: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(marks)]
    return [line for line in lines if not any(words in line for words in known)]


def dciodvfy(path: Path) -> list[str]:
    """Modules and attributes (dicom3tools)."""
    status, text = run("dciodvfy", path)
    found = _complaints(text, ("Error", "Warning"), DCIODVFY_KNOWN)
    if status and not found:
        found = [line for line in text.splitlines() if "expected" in line] or ["exit status 1"]
    return found


def dsrdump(path: Path) -> list[str]:
    """Relationships and value types of reports (dcmtk)."""
    status, text = run("dsrdump", path)
    found = _complaints(text, ("E:", "W:", "F:"), DSRDUMP_KNOWN)
    return found or ([f"exit status {status}"] if status else [])


def pixelmed(paths: list[Path]) -> dict[Path, list[str]]:
    """Every row of the template, and codes by context group (DicomSRValidator)."""
    # Two at once; the largest files take longest, so each program gets every other one of them.
    ordered = sorted(paths, key=lambda path: path.stat().st_size)
    halves = [half for half in (ordered[::2], ordered[1::2]) if half]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(_sr_validator, halves))
    said = dict(part.split("\n", 1) for text in texts for part in text.split("FILE ")[1:])
    return {path: _pixelmed_complaints(said.get(str(path), "".join(texts))) for path in paths}


def _sr_validator(paths: list[Path]) -> str:
    driver = Path(__file__).parent / "SrValidator.java"
    return run("java", *JAVA_OPTIONS, "-cp", PIXELMED, driver, *paths)[1]


def _pixelmed_complaints(said: str) -> list[str]:
    found = _complaints(said, ("Error", "Warning"), PIXELMED_KNOWN)
    if "Root Template Validation Complete" not in said or "IOD validation complete" not in said:
        found.append(f"the validator did not end well: {' '.join(said.split())[-300:]}")
    return found


def dcmp2pgm(state: Path, image: Path, scratch: Path) -> list[str]:
    """The image looks the same with its presentation state as without (dcmtk)."""
    plain, shown = scratch / "plain.pgm", scratch / "shown.pgm"
    for target, options in ((plain, ()), (shown, ("-p", state))):
        target.unlink(missing_ok=True)
        status, text = run("dcmp2pgm", *options, image, target)
        errors = _complaints(text, ("E:", "F:"), ())
        if status or errors or not target.exists():
            return errors or [f"exit status {status}"]
    return [] if plain.read_bytes() == shown.read_bytes() else ["the image looks different"]


def in_parallel(
    check: Callable[[Path], list[str]], paths: list[Path]
) -> Iterator[tuple[Path, list[str]]]:
    """Every path with what `check` complains of, two programs at once."""
    with ThreadPoolExecutor(2) as pool:
        yield from zip(paths, pool.map(check, paths), strict=True)


# -------------------- sent and fetched


def free_port() -> int:
    """A port that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unchanged(sent: list[Path], fetched: dict[str, bytes]) -> list[str]:
    """What came back other than it was sent; bytes of the data set are compared by element."""
    import io

    complaints = []
    for path in sent:
        before = pydicom.dcmread(path)
        data = fetched.get(str(before.SOPInstanceUID))
        if data is None:
            complaints.append(f"{path.name} did not come back")
        elif pydicom.dcmread(io.BytesIO(data)) != before:
            complaints.append(f"{path.name} came back changed")
    if len(fetched) != len(sent):
        complaints.append(f"{len(sent)} objects were sent, {len(fetched)} came back")
    return complaints


@contextmanager
def _running(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + ORTHANC_STARTS_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server does not listen")


def storescp(sent: list[Path], scratch: Path) -> list[str]:
    """To dcmtk's storescp and back from its folder."""
    port, folder = free_port(), scratch / "storescp"
    folder.mkdir()
    with _running("storescp", "-od", folder, str(port), log=scratch / "storescp.log") as process:
        _wait_for(port, process)
        status, text = run("storescu", "-R", "127.0.0.1", str(port), *sent)
    if status:
        return [f"storescu: {line}" for line in text.splitlines()] or [f"exit status {status}"]
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    return unchanged(sent, {_uid_of(data): data for data in files})


def _uid_of(data: bytes) -> str:
    import io

    return str(pydicom.dcmread(io.BytesIO(data), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def orthanc(sent: list[Path], scratch: Path) -> list[str]:
    """To Orthanc, twice as a repeated run would, and back through its web interface."""
    dicom_port, http_port = free_port(), free_port()
    settings = scratch / "orthanc.json"
    settings.write_text(json.dumps(_orthanc_settings(scratch, dicom_port, http_port)))
    with _running(ORTHANC, settings, log=scratch / "orthanc.log") as process:
        _wait_for(http_port, process)
        for _ in range(2):
            status, text = run(
                "storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", str(dicom_port), *sent
            )
            if status:
                return [f"storescu: {line}" for line in text.splitlines()]
        get = functools.partial(_get, http_port)
        files = [get(f"/instances/{each}/file") for each in json.loads(get("/instances"))]
    return unchanged(sent, {_uid_of(data): data for data in files})


def _orthanc_settings(scratch: Path, dicom_port: int, http_port: int) -> dict[str, object]:
    return {
        "Name": "validate",
        "StorageDirectory": str(scratch / "orthanc"),
        "IndexDirectory": str(scratch / "orthanc"),
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "OverwriteInstances": True,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }


def _get(port: int, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        data: bytes = answer.read()
        return data

"""The acceptance test of a new machine: does everything work, and does it answer as it should?

A phantom is drawn, written as DICOM, read and answered, and the answers are compared with those
that the bundle stores (`mammofm_lite.expected`). A bundle that stores none gets the checks of the
machine only, and the outcome says so.
"""

import math
import os
import platform
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np

from . import __version__
from .bench import peak_memory_mib
from .bundle import Bundle, demo_bundle_path
from .dicom import Study, read_pixels, read_study
from .errors import BundleError, KernelError, MammoFMError, UsageError
from .expected import (
    LEVELS,
    SELFTEST_FILE,
    Comparison,
    Expected,
    answers_of,
    close_pixels,
    compare,
    read_expected,
    same_pixels,
)
from .native import extension_path, instruction_set, supported_instruction_sets
from .phantom import PhantomOptions, write_phantom
from .progress import StageReporter
from .results import StudyResult

__all__ = ["Check", "SelfTest", "cpu_level", "run_selftest"]

T = TypeVar("T")
Status = Literal["ok", "failed", "not run"]
Told = tuple[str, T]

# Of a bundle that does not say what it takes; the demonstration bundle takes less.
_MEMORY_MIB: Final = 512.0
# A phantom that is quickly drawn, for bundles that store no answers.
_SEED: Final = 0
_QUICK: Final = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)


@dataclass(frozen=True)
class Check:
    """One check; `exit_status` is that of the command where it failed."""

    name: str
    status: Status
    detail: str
    exit_status: int = 0


@dataclass
class SelfTest:
    """All checks, in the order they were made.

    `answers_compared` is ``False`` where the bundle stores no answers, or where it never came to
    comparing them.
    """

    checks: list[Check] = field(default_factory=list)
    answers_compared: bool = False
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(check.status == "ok" for check in self.checks)

    @property
    def exit_status(self) -> int:
        """0 passed; what the failed checks agree on: 2 usage, 4 the bundle; else 1."""
        failed = {check.exit_status for check in self.checks if check.status == "failed"}
        return failed.pop() if len(failed) == 1 else 1 if failed else 0

    def attempt(self, name: str, work: Callable[[], Told[T]]) -> T | None:
        """Do one check, and note how it went: its value, or ``None`` where it failed."""
        try:
            detail, value = work()
        except MammoFMError as error:
            self._failed(name, str(error), error.exit_status)
        except Exception as error:  # anything at all is an answer to "does it work here?"
            self._failed(name, f"{type(error).__name__}: {str(error)[:200]}", 1)
        else:
            self.checks.append(Check(name, "ok", detail))
            return value
        return None

    def judge(self, name: str, ok: bool, detail: str) -> None:
        """Note a check that has an outcome already; where it is not `ok` it is a defect."""
        if ok:
            self.checks.append(Check(name, "ok", detail))
        else:
            self._failed(name, detail, 1)

    def not_run(self, name: str, why: str) -> None:
        self.checks.append(Check(name, "not run", why))

    def _failed(self, name: str, detail: str, status: int) -> None:
        self.checks.append(Check(name, "failed", " ".join(detail.split()), status))

    def to_json(self) -> dict[str, Any]:
        """Outcome, checks and machine as JSON types."""
        return {
            "passed": self.passed,
            "answers_compared": self.answers_compared,
            "seconds": round(self.seconds, 2),
            "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0))},
            "software": {
                "mammofm_lite": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            },
            "checks": [
                {"name": check.name, "status": check.status, "detail": check.detail}
                for check in self.checks
            ],
        }

    def text(self) -> str:
        """One line per check, and one that says what it comes to."""
        words = {"ok": "ok", "failed": "FAILED", "not run": "not run"}
        lines = [f"{words[c.status]:<9}{c.name:<14}{c.detail}" for c in self.checks]
        return "\n".join([*lines, self._outcome()]) + "\n"

    def _outcome(self) -> str:
        took = f"in {self.seconds:.1f} s"
        if not self.passed:
            count = sum(check.status == "failed" for check in self.checks)
            return f"FAILED: {count} of {len(self.checks)} checks, {took}"
        if not self.answers_compared:
            return f"passed {took}: the machine only; the bundle's answers were not compared"
        return f"passed {took}"


def run_selftest(bundle: Path | None = None, threads: int | None = None) -> SelfTest:
    """Make all checks; a check that fails never hides the others.

    Parameters
    ----------
    bundle
        The demonstration bundle if not given.
    threads
        All that this process may use if not given.
    """
    start = time.perf_counter()
    test = SelfTest()
    extension = test.attempt("extension", _extension)
    openvino = extension and test.attempt("openvino", _openvino)
    opened = test.attempt("bundle", lambda: _bundle(bundle))
    count = test.attempt("threads", lambda: _threads(threads))
    stored = test.attempt("stored", lambda: _stored(opened)) if opened else None
    expected = stored[0] if stored else None
    test.attempt("memory", lambda: _memory(expected))
    if openvino and opened and stored and count:
        with tempfile.TemporaryDirectory() as scratch:
            _with_study(test, opened, expected, count, Path(scratch))
    else:
        test.not_run("answers", "something above failed")
    test.seconds = time.perf_counter() - start
    return test


def cpu_level() -> str:
    """What this process computes with: one of `expected.LEVELS`.

    Raises
    ------
    KernelError
        The extension is missing or cannot be loaded.
    """
    name = instruction_set()
    if name == "avx512" and "avx512_vnni" in _cpu_flags():
        return "avx512_vnni"
    return name if name in LEVELS else "portable"


def _cpu_flags() -> frozenset[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    flags = (line.partition(":")[2] for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(flags, "").split())


# -------------------- the machine


def _extension() -> Told[bool]:
    able = ", ".join(supported_instruction_sets())
    return f"{extension_path().name}: {cpu_level()}, this CPU can {able}", True


def _openvino() -> Told[bool]:
    from ._openvino import OPENVINO_VERSION, make_core

    pins = [word for word in metadata.requires("mammofm-lite") or () if word[:10] == "openvino=="]
    pinned = pins[0].partition("==")[2] if pins else None
    if pinned != OPENVINO_VERSION:
        raise KernelError(
            f"OpenVINO {OPENVINO_VERSION} is installed, {pinned} is needed; install it anew"
        )
    cpu = str(make_core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return f"{OPENVINO_VERSION}, as pinned, on {cpu}", True


def _threads(threads: int | None) -> Told[int]:
    available = len(os.sched_getaffinity(0))
    count = available if threads is None else threads
    if count > available:
        raise UsageError(
            f"{count} threads are asked for, this process may use {available} cores; give fewer"
        )
    return f"{count} of {available} cores that this process may use", count


def _memory(expected: Expected | None) -> Told[bool]:
    needed = expected.memory_mib if expected else _MEMORY_MIB
    free = _free_memory_mib()
    if free < needed:
        raise KernelError(f"{free:.0f} MiB are free, {needed:.0f} MiB are needed")
    return f"{free:.0f} MiB free, {needed:.0f} MiB needed", True


def _free_memory_mib() -> float:
    """What the machine has left, or the control group of this process if that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024
    return min(free, _free_in_group_mib(Path("/sys/fs/cgroup")))


def _free_in_group_mib(group: Path) -> float:
    """What a control group (version 2) has left; infinite where there is none, or no limit."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    # Cached files are counted as used, but give way.
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return math.inf if limit == "max" else (int(limit) - used + cached) / 2**20


# -------------------- the bundle and its answers


def _bundle(path: Path | None) -> Told[Bundle]:
    bundle = Bundle.open(path or demo_bundle_path())
    about = f"{bundle.name} {bundle.version}, {bundle.precision}"
    return f"{about}: {len(bundle.files)} files whole", bundle


def _stored(bundle: Bundle) -> Told[tuple[Expected | None]]:
    expected = read_expected(bundle)
    if expected is None:
        return f"no {SELFTEST_FILE} in the bundle: its answers cannot be compared", (None,)
    for name, digest in expected.graphs.items():
        if name not in bundle.files or bundle.files[name].sha256 != digest:
            raise BundleError(
                f"{SELFTEST_FILE} was made with another {name}; make it anew for this bundle"
            )
    made_on = expected.made_on.get("cpu", "an unknown CPU")
    return f"answers to the phantom of seed {expected.seed}, made on {made_on}", (expected,)


def _with_study(
    test: SelfTest, bundle: Bundle, expected: Expected | None, threads: int, scratch: Path
) -> None:
    study = test.attempt("phantom", lambda: _phantom(expected, scratch / "study"))
    if study is None:
        test.not_run("answers", "there is no study to answer")
        return
    result = test.attempt("answers", lambda: _answer(bundle, study, threads))
    if result is None:
        return
    if expected is not None:
        compared = test.attempt("comparison", lambda: _compared(expected, result))
        test.answers_compared = compared is not None
        for item in compared or ():
            test.judge(item.head, item.same, item.detail)
    test.attempt("pictures", lambda: _pictures(result, study, scratch / "results"))
    test.judge("peak", True, f"{peak_memory_mib():.0f} MiB of memory at most")


def _phantom(expected: Expected | None, folder: Path) -> Told[Study]:
    """Draw it, write it, read it; its pixels must be those that the stored answers are for."""
    seed, options = (expected.seed, expected.options) if expected else (_SEED, _QUICK)
    write_phantom(folder, seed=seed, options=options)
    study = read_study(folder)
    if expected is None:
        return f"seed {seed}: {len(study.views)} views drawn, written and read", study
    seen = {
        view: same_pixels(expected.pixels[view], read_pixels(study.views[view]))
        for view in study.views
        if view in expected.pixels
    }
    if not set(seen) == set(expected.pixels) == set(study.views):
        raise BundleError(f"{SELFTEST_FILE} holds other views than the phantom has")
    worst = max(gap for _, gap in seen.values())
    if not close_pixels(worst):
        raise BundleError(
            f"seed {seed} draws another phantom here (blocks differ by {worst:.2g} grey levels); "
            f"if mammofm-lite changed since, make {SELFTEST_FILE} anew"
        )
    exact = all(same for same, _ in seen.values())
    how = "bit for bit" if exact else f"blocks within {worst:.1e} grey levels of"
    return f"seed {seed}: {len(seen)} views, {how} those stored", study


def _answer(bundle: Bundle, study: Study, threads: int) -> Told[StudyResult]:
    from .engine import Model

    start = time.perf_counter()
    result = Model.load(bundle.path, threads=threads).infer(study)
    silent = [head for head in bundle.heads if result.heads[head].status != "answered"]
    if silent:
        raise BundleError(f"the {silent[0]} head does not answer a study of four views")
    took = time.perf_counter() - start
    return f"{', '.join(result.heads)} in {took:.1f} s, loading included", result


def _compared(expected: Expected, result: StudyResult) -> Told[tuple[Comparison, ...]]:
    level = cpu_level()
    try:
        compared = compare(expected, answers_of(result), expected.tolerances[level])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{SELFTEST_FILE}: its answers cannot be read; make it anew") from error
    return f"{len(compared)} heads with their stored answers, as {level} may differ", compared


def _pictures(result: StudyResult, study: Study, folder: Path) -> Told[bool]:
    """Write everything that `infer` writes, then read the pictures."""
    from .writers.folder import ResultFolder

    writer = ResultFolder(folder, ("json", "text", "png"), force=False)
    writer.write(result, study, StageReporter(None))
    pictures = sorted(folder.glob("*.png"))
    if len(pictures) != len(result.views):
        raise OSError(f"{len(pictures)} pictures were written, not {len(result.views)}")
    for path in pictures:
        _check_png(path.read_bytes())
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{len(pictures)} pictures, JSON and text written and read, {size / 1e6:.1f} MB", True


def _check_png(data: bytes) -> None:
    """Signature, checksum of every chunk, and as many bytes of pixels as the header says.

    Raises
    ------
    ValueError
        One of them is wrong.
    """
    chunks: dict[bytes, bytes] = {}
    place = 8
    while data[:8] == b"\x89PNG\r\n\x1a\n" and place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        named = data[place + 4 : place + 8 + length]
        if data[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(named)):
            raise ValueError("a picture that was written has a wrong checksum")
        chunks[named[:4]] = chunks.get(named[:4], b"") + named[4:]
        place += 12 + length
    width, height = struct.unpack(">II", chunks.get(b"IHDR", bytes(8))[:8])
    pixels = zlib.decompress(chunks[b"IDAT"]) if b"IDAT" in chunks else b""
    if not height or len(pixels) != height * (1 + 3 * width) or b"IEND" not in chunks:
        raise ValueError("a picture that was written cannot be read")

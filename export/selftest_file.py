"""Give a bundle its ``selftest.json``: ``python -m mammofm_lite.export.selftest_file BUNDLE``.

A phantom is answered here, the answers and how far others may differ are stored beside the graphs,
and `mammofm-lite selftest` is run with every instruction set of this CPU to prove that they hold.
A signature of the bundle is void afterwards and is removed: sign it anew.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mammofm_lite import Model, __version__
from mammofm_lite.bench import peak_memory_mib
from mammofm_lite.bundle import DESCRIPTION, SIGNATURE, Bundle
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.errors import ExportError, MammoFMError
from mammofm_lite.expected import FORMAT, LEVELS, SELFTEST_FILE, answers_of, fingerprint
from mammofm_lite.native import supported_instruction_sets
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.selftest import cpu_level
from mammofm_lite.writers.files import write_atomically

from .bundle_files import put_file
from .seeds import HELD_OUT

__all__ = ["add_selftest", "selftest_content"]

SEED: Final = HELD_OUT.stop  # beyond every seed that trains or measures
# OpenVINO's own kernels are held to the same instructions while the answers are verified.
_ONEDNN: Final = {"avx2": "AVX2"}
# Float32 graphs differ between CPUs by the order of their sums: by 2e-5 and 0.001 px as measured.
_FLOAT: Final = {"logit": 0.0005, "box_px": 0.1}
# INT8: values at the edge of a step are rounded one way or the other. Held to AVX2, a quantized
# demonstration bundle differed by up to 0.06 and some pixels; to AVX-512 without VNNI, by nothing.
_INT8_SAME: Final = {"logit": 0.02, "box_px": 2.0}
_INT8_OTHER: Final = {"logit": 0.25, "box_px": 10.0}


def add_selftest(
    bundle: Path,
    *,
    seed: int = SEED,
    options: PhantomOptions | None = None,
    verify: bool = True,
    limit_openvino: bool = True,
    tries: int = 20,
) -> Bundle:
    """Write ``selftest.json`` into a bundle and list it, in place of one that is there.

    Parameters
    ----------
    seed, tries
        The first of so many phantoms in which the localization head marks something is used: with
        no mark, nothing of that head would be compared.
    verify
        Run the test with every instruction set of this CPU, on all threads and on one.
    limit_openvino
        Hold OpenVINO's kernels to that instruction set as well, as on an older CPU. OpenVINO
        2026.4.1 cannot compile 8-bit weights under that limit, though it can on such a CPU (seen
        on an emulated one): leave it out for INT8 bundles.

    Raises
    ------
    BundleError
        The bundle cannot be used.
    ExportError
        No phantom has a mark, or the answers differ between the instruction sets by more than is
        allowed; the bundle is as it was.
    """
    opened = Bundle.open(bundle)
    content = _first_with_marks(opened, range(seed, seed + tries), options or PhantomOptions())
    before = {
        name: (bundle / name).read_bytes() if (bundle / name).exists() else None
        for name in (SELFTEST_FILE, SIGNATURE, DESCRIPTION)
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    try:
        written = put_file(bundle, SELFTEST_FILE, text.encode())
        if verify:
            _verify(bundle, limit_openvino)
    except BaseException:
        _restore(bundle, before)
        raise
    return written


def _first_with_marks(bundle: Bundle, seeds: range, options: PhantomOptions) -> dict[str, Any]:
    for seed in seeds:
        content = selftest_content(bundle, seed, options)
        if bundle.localization is None or content["answers"]["localization"]:
            return content
    raise ExportError(
        f"no mark in any of {len(seeds)} phantoms from seed {seeds.start}: nothing of the "
        "localization head could be compared; give another --seed"
    )


def selftest_content(bundle: Bundle, seed: int, options: PhantomOptions) -> dict[str, Any]:
    """``selftest.json`` as JSON types, from the answers of this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_phantom(folder, seed=seed, options=options)
        study = read_study(folder)
        result = Model.load(bundle.path).infer(study)
        pixels = {view: fingerprint(read_pixels(item)) for view, item in study.views.items()}
    software = result.software
    return {
        "format": FORMAT,
        "version": 1,
        "seed": seed,
        "options": dataclasses.asdict(options),
        "pixels": pixels,
        "answers": answers_of(result),
        "thresholds": _thresholds(bundle),
        "tolerances": _tolerances(bundle.precision),
        "graphs": {
            name: record.sha256
            for name, record in sorted(bundle.files.items())
            if name.endswith((".xml", ".bin"))
        },
        "made_on": {
            "cpu": software.cpu,
            "level": cpu_level(),
            "mammofm_lite": __version__,
            "openvino": software.openvino,
        },
        "memory_mib": float(round(peak_memory_mib())),
    }


def _thresholds(bundle: Bundle) -> dict[str, float]:
    spec = bundle.localization
    return dict(spec.thresholds) if spec else {}


def _tolerances(precision: str) -> dict[str, dict[str, float]]:
    if precision != "int8":
        return dict.fromkeys(LEVELS, _FLOAT)
    width = cpu_level().partition("_")[0]
    return {
        level: _INT8_SAME if level.partition("_")[0] == width else _INT8_OTHER for level in LEVELS
    }


def _restore(bundle: Path, before: Mapping[str, bytes | None]) -> None:
    for name, data in before.items():
        if data is None:
            (bundle / name).unlink(missing_ok=True)
        else:
            write_atomically(bundle / name, data)


def _verify(bundle: Path, limit_openvino: bool) -> None:
    for level in supported_instruction_sets():
        environment = {"MAMMOFM_ISA": level}
        if limit_openvino and level in _ONEDNN:
            environment["ONEDNN_MAX_CPU_ISA"] = _ONEDNN[level]
        for threads in ([], ["--threads", "1"]):
            _verify_once(bundle, environment, threads)


def _verify_once(bundle: Path, environment: Mapping[str, str], threads: list[str]) -> None:
    code = "from mammofm_lite.cli import main; main()"
    words = [sys.executable, "-c", code, "selftest", "--json", "--bundle", str(bundle), *threads]
    done = subprocess.run(  # noqa: S603
        words, capture_output=True, text=True, env=os.environ | environment, check=False
    )
    if done.returncode:
        checks = json.loads(done.stdout)["checks"] if done.stdout else []
        failed = [check for check in checks if check["status"] == "failed"]
        why = f"{failed[0]['name']}: {failed[0]['detail']}" if failed else done.stderr.strip()
        raise ExportError(
            f"the answers do not hold with {environment['MAMMOFM_ISA']} kernels: {why}; try "
            "another --seed, or verify this CPU alone with --no-limit-openvino"
        )


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description="Give a bundle its selftest.json.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--limit-openvino",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="verify as on older CPUs too, by holding OpenVINO to their instructions; "
        "not for INT8 bundles, whose 8-bit weights it then cannot compile",
    )
    asked = parser.parse_args()
    try:
        bundle = add_selftest(asked.bundle, seed=asked.seed, limit_openvino=asked.limit_openvino)
    except MammoFMError as error:
        print(f"selftest_file: {error}", file=sys.stderr)
        return error.exit_status
    print(f"wrote {SELFTEST_FILE} into {bundle.name} {bundle.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

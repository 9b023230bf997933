"""From nothing to the answer of one four-view study: a C program, and the Python command beside it.

``python benchmarks/cold_start.py [--repeats 5]``: every run is a process of its own; files are in
the page cache after the first run, which is left out. The C program reads pixels from files that
were decoded beforehand, the Python command decodes them from DICOM.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.native import embedding_folder
from mammofm_lite.phantom import write_phantom

EXAMPLE = Path(__file__).resolve().parents[1] / "c_ext" / "examples" / "analyse.c"


def compiled(folder: Path) -> Path:
    """The C example, linked as `mammofm-lite config` says."""
    command = Path(sys.executable).with_name("mammofm-lite")
    told = subprocess.run([command, "config", "--cflags", "--libs"], capture_output=True, text=True)
    flags = told.stdout.split()
    subprocess.run(["gcc", "-O2", "-std=c99", EXAMPLE, *flags, "-o", folder / "c"], check=True)
    return folder / "c"


def views(study: Path, folder: Path) -> list[str]:
    """Every view's pixels in a file, as the C example wants to be told."""
    told = []
    for view, instance in read_study(study).views.items():
        pixels, spacing = read_pixels(instance), instance.pixel_spacing_mm
        (folder / view).write_bytes(pixels.tobytes())
        row, column = spacing or (0.0, 0.0)
        rows, columns = pixels.shape
        told.append(f"{view}:{rows}:{columns}:MONOCHROME2:{row!r}:{column!r}:{folder / view}")
    return told


def measured(command: list[object], repeats: int) -> dict[str, float]:
    """Wall seconds and peak memory of whole processes."""
    seconds, peaks = [], []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        peaks.append(usage.ru_maxrss / 1024)
        if status:
            raise SystemExit(f"{command[0]} failed")
    return {
        "median_s": round(statistics.median(seconds[1:]), 3),
        "fastest_s": round(min(seconds[1:]), 3),
        "peak_mib": round(max(peaks[1:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bundle", type=Path, default=demo_bundle_path())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder / "study", seed=23)
        told = views(folder / "study", folder)
        mammofm = Path(sys.executable).with_name("mammofm-lite")
        report = {
            "c": measured([compiled(folder), options.bundle, *told], options.repeats),
            "python": measured(
                [mammofm, "infer", folder / "study", "--json", "-q", "--bundle", options.bundle],
                options.repeats,
            ),
            "libmammofm_bytes": (embedding_folder() / "lib" / "libmammofm.so").stat().st_size,
            "cpus": len(os.sched_getaffinity(0)),
            "load_average_before": os.getloadavg()[0],
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

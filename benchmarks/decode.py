"""Decoders of compressed mammograms side by side, and a JPEG 2000 study answered end to end.

``python benchmarks/decode.py [--rows 4096] [--columns 3328] [--repeats 5]``: a phantom's view with
noise, 12 bits, in every coding that is read; JPEG 2000 in several layouts. Seconds, per decoder:

- ``cpu``: of processor time for a frame, the least of all repeats
- ``wall``: for a frame, the median
- ``two``: for two frames on two threads, the median
- ``lock``: the longest that another Python thread had to wait meanwhile; a decoder that holds
  Python's lock shows its whole time here
- ``equal``: whether the pixels are those that were encoded; of lossy JPEG 2000,
  and of tiles (Pillow writes other pixels into them), those that the first decoder gives

``python benchmarks/decode.py --study [--against TREE]`` answers a JPEG 2000 study of that size in
fresh processes, without and with pictures, in turn with another source tree of this project.
Where other programs run, trust ``cpu`` and ``lock``.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import openjpeg
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import RLELossless

from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom

PACKAGES = ("imagecodecs", "pylibjpeg-openjpeg", "pyjpegls", "dicomsdl", "pillow", "numpy")
SYNTAXES = {
    "jpeg lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
}
# How JPEG 2000 may be laid out.
LAYOUTS: dict[str, dict[str, Any]] = {
    "jpeg 2000": {},
    "jpeg 2000, tiles of 832": {"tile_size": (832, 1024)},
    "jpeg 2000, precincts of 256": {"precinct_size": (256, 256), "progression": "RPCL"},
    "jpeg 2000, 3 levels": {"num_resolutions": 3, "codeblock_size": (32, 32)},
    "jpeg 2000, lossy 10:1": {
        "irreversible": True,
        "quality_mode": "rates",
        "quality_layers": [10],
    },
}
ONE_RUN = """
import os, sys, time
root, *arguments = sys.argv[1:]
if root:  # past the editable installation
    sys.meta_path = [one for one in sys.meta_path if "editable" not in type(one).__module__]
    sys.path.insert(0, root)
import mammofm_lite
assert not root or mammofm_lite.__file__.startswith(root), mammofm_lite.__file__
from mammofm_lite.cli import cli
start = time.perf_counter()
sys.argv = ["mammofm-lite", *arguments]
cli(standalone_mode=False)
wall, times = time.perf_counter() - start, os.times()
from mammofm_lite.bench import peak_memory_mib
print(wall, times.user + times.system, peak_memory_mib(), file=sys.stderr)
"""


# -------------------- files


@dataclass(frozen=True)
class Coded:
    """One file: its coding, and the frame in it; `exact` pixels where they are known."""

    name: str
    path: Path
    frame: bytes
    exact: Any | None


def phantom(folder: Path, rows: int, columns: int) -> list[Path]:
    options = PhantomOptions(rows=rows, columns=columns, pixel_spacing_mm=266 / rows)
    write_phantom(folder, seed=3, options=options)
    return sorted(folder.glob("*.dcm"))


def noisy(stored: Any) -> Any:
    """With a detector's noise on the breast, which is what costs a coder its time."""
    noise = np.random.default_rng(1).normal(0, 12, stored.shape)
    return np.where(stored > 0, np.clip(stored + noise, 1, 4095), 0).astype(np.uint16)


def jpeg_2000(pixels: Any, layout: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG2000", no_jp2=True, **layout)
    return out.getvalue()


def coded_files(template: Path, folder: Path) -> Iterator[Coded]:
    """The same view in every coding."""
    ds = pydicom.dcmread(template)
    pixels = noisy(ds.pixel_array)
    ds.PixelData = pixels.tobytes()
    ds.save_as(folder / "native.dcm")
    yield Coded("native", folder / "native.dcm", ds.PixelData, pixels)
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    ds.save_as(folder / "rle.dcm")
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    yield Coded("rle", folder / "rle.dcm", frame, pixels)
    made: dict[str, bytes] = {
        "jpeg lossless": imagecodecs.ljpeg_encode(pixels, bitspersample=12),
        "jpeg-ls": bytes(jpeg_ls.encode_array(pixels)),
        **{name: jpeg_2000(pixels, layout) for name, layout in LAYOUTS.items()},
    }
    for name, frame in made.items():
        path = folder / f"{name}.dcm"
        put(ds, frame, SYNTAXES[name.split(",")[0]], path)
        yield Coded(name, path, frame, None if "lossy" in name or "tiles" in name else pixels)


def put(ds: pydicom.Dataset, frame: bytes, syntax: str, path: Path) -> None:
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)


# -------------------- decoders


def decoders(coded: Coded) -> dict[str, Callable[[], Any]]:
    """Name and call; the first is what the package uses, from the file on."""
    (instance,) = read_study(coded.path).views.values()
    frame, shape = coded.frame, (instance.rows, instance.columns)
    ours: dict[str, Callable[[], Any]] = {"mammofm-lite": lambda: read_pixels(instance)}
    match coded.name.split(",")[0]:
        case "jpeg 2000":
            return {
                **ours,
                "mammofm-lite, 2 threads": lambda: read_pixels(instance, 2),
                "imagecodecs": lambda: imagecodecs.jpeg2k_decode(frame, numthreads=1),
                "pylibjpeg-openjpeg": lambda: np.frombuffer(
                    openjpeg.decode_pixel_data(frame, version=2), "<u2"
                ).reshape(shape),
                "pillow": lambda: np.asarray(Image.open(io.BytesIO(frame))),
            }
        case "jpeg-ls":
            return {
                **ours,
                "imagecodecs": lambda: imagecodecs.jpegls_decode(frame),
                "pyjpegls": lambda: np.frombuffer(
                    jpeg_ls.decode_pixel_data(frame)[0], "<u2"
                ).reshape(shape),
            }
        case "jpeg lossless":
            return {
                **ours,
                "imagecodecs ljpeg": lambda: imagecodecs.ljpeg_decode(frame),
                "imagecodecs jpegsof3": lambda: imagecodecs.jpegsof3_decode(frame),
            }
    return ours


def two_at_once(decode: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def longest_wait(decode: Callable[[], Any]) -> float:
    """How long another thread did not get to run."""
    thread = threading.Thread(target=decode)
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(coded: Coded, repeats: int) -> None:
    calls = decoders(coded)
    truth = coded.exact if coded.exact is not None else next(iter(calls.values()))()
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in calls}
    for _ in range(repeats):  # in turn, so that a busy moment falls on all alike
        for name, decode in calls.items():
            row = (*timed(decode), timed(lambda: two_at_once(decode))[0], longest_wait(decode))  # noqa: B023
            found[name].append(row)
    for name, rows in found.items():
        wall, cpu, two, lock = zip(*rows, strict=True)
        cells = (min(cpu), statistics.median(wall), statistics.median(two), min(lock))
        equal = "yes" if np.array_equal(calls[name](), truth) else "NO"
        numbers = "".join(f"{cell:8.3f}" for cell in cells)
        print(f"{coded.name:<28} {name:<24}{numbers}   {equal}", flush=True)


# -------------------- a whole study


def jpeg_2000_study(folder: Path, rows: int, columns: int) -> None:
    for path in phantom(folder, rows, columns):
        ds = pydicom.dcmread(path)
        put(ds, jpeg_2000(noisy(ds.pixel_array), {}), SYNTAXES["jpeg 2000"], path)


def answer(study: Path, against: Path | None, repeats: int) -> None:
    """Fresh processes, in turn: medians of the clock, processor time and peak memory."""
    trees = {"this tree": ""} | ({"the other": str(against.resolve())} if against else {})
    output = study.parent / "out"
    kinds = {"no files": (), "pictures": ("-o", str(output), "--force")}
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(repeats):
        for kind, more in kinds.items():
            for name, tree in trees.items():
                command = [sys.executable, "-c", ONE_RUN, tree, "infer", str(study), "-q", *more]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.setdefault((kind, name), []).append([float(x) for x in done.stderr.split()])
    print(f"{'infer, seconds and MiB':<28}{'wall':>8}{'least':>8}{'cpu':>8}{'peak':>8}")
    for (kind, name), rows in found.items():
        wall, cpu, peak = (statistics.median(column) for column in zip(*rows, strict=True))
        least = min(row[0] for row in rows)
        print(f"{kind + ', ' + name:<28}{wall:8.2f}{least:8.2f}{cpu:8.2f}{peak:8.0f}")


# -------------------- what is said beside


def installed_mb(package: str) -> float:
    files = metadata.distribution(package).files or []
    return sum(path.stat().st_size for f in files if (path := Path(str(f.locate()))).exists()) / 1e6


def describe() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    print(f"{cpu}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    for package in PACKAGES:
        print(f"  {package} {metadata.version(package)}: {installed_mb(package):.1f} MB installed")
    print(
        "  OpenJPEG:", ".".join(map(str, openjpeg.utils.get_openjpeg_version())), "there,", end=" "
    )
    print(imagecodecs.jpeg2k_version().split()[-1], "in imagecodecs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=3328)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--study", action="store_true", help="answer a JPEG 2000 study instead")
    parser.add_argument("--against", type=Path, help="another source tree, with --study")
    options = parser.parse_args()
    describe()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "study")
        folder.mkdir()
        if options.study:
            jpeg_2000_study(folder, options.rows, options.columns)
            answer(folder, options.against, options.repeats)
            return
        template = phantom(folder, options.rows, options.columns)[0]
        print(f"{'coding':<28} {'decoder':<24}{'cpu':>8}{'wall':>8}{'two':>8}{'lock':>8}   equal")
        for coded in coded_files(template, Path(scratch)):
            compare(coded, options.repeats)


if __name__ == "__main__":
    main()

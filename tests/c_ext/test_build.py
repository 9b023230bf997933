"""Promises of the built library that no result shows."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mammofm_lite.native import extension_path

ROOT = Path(__file__).resolve().parents[2]
CMAKE = (ROOT / "c_ext" / "CMakeLists.txt").read_text()


def symbols(file: Path, *options: str) -> set[tuple[str, str]]:
    """(name, type letter) of every symbol that the file defines."""
    command = ["nm", "--defined-only", "--format=posix", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {(line.split()[0], line.split()[1]) for line in done.stdout.splitlines()}


def test_the_openvino_pins_agree() -> None:
    (built,) = re.findall(r"set\(MAMMOFM_OPENVINO_VERSION (\S+)\)", CMAKE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = project["build-system"]["requires"] + project["project"]["dependencies"]
    pins = [r for r in requirements if r.startswith("openvino")]
    assert pins == [f"openvino=={built}"] * 2


def test_only_the_interface_is_exported() -> None:
    assert {name for name, _ in symbols(extension_path(), "--dynamic")} == {
        "create_extensions",
        "mammofm_attention_precision",
        "mammofm_attention_precision_error",
        "mammofm_instruction_set",
        "mammofm_instruction_set_error",
        "mammofm_mbconv_kernel",
        "mammofm_supported_instruction_sets",
        # What the Python runtime calls of the pixel steps.
        "mammofm_along_axis",
        "mammofm_crop_runs",
        "mammofm_prepare",
        "mammofm_resize_area",
    }


KERNELS = {
    "kernels": {
        "tiled_attention_kernel.cpp.o": "22tiled_attention_kernel",
        "tiled_attention_int8_kernel.cpp.o": "27tiled_attention_int8_kernel",
        "tiled_mbconv_f32_kernel.cpp.o": "17mbconv_f32_kernel",
    },
    "mbconv": {"tiled_mbconv_kernel.cpp.o": "13mbconv_kernel"},
}


@pytest.mark.parametrize("target", KERNELS)
def test_kernels_share_no_symbol(target: str) -> None:
    """A weak symbol in two of these objects would be compiled with two sets of flags, and the
    linker would give either to both: AVX-512 code on a machine that has none."""
    objects = sorted((ROOT / "build").glob(f"*/CMakeFiles/mammofm_{target}_*.dir/**/*.o"))
    if not objects:
        pytest.skip("built elsewhere; the objects are not in this checkout")
    for file in objects:
        isa = re.findall(rf"mammofm_{target}_(\w+)\.dir", str(file))[0]
        shared = {(n, t) for n, t in symbols(file) if not t.islower() or t in "wvu"}
        assert {t for _, t in shared} == {"D"}, f"{isa}: {shared}"
        kernel = KERNELS[target][file.name]
        assert [n for n, _ in shared] == [f"_ZN7mammofm{len(isa)}{isa}{kernel}E"]


def test_it_finds_openvino_beside_it() -> None:
    """As in a plain C program: nobody has loaded libopenvino before."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).mammofm_instruction_set"
    subprocess.run([sys.executable, "-I", "-c", code, str(extension_path())], check=True)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="pip used a cmake of its own")
def test_another_openvino_is_refused(tmp_path: Path) -> None:
    """The check of CMakeLists.txt, with another pin than what is installed."""
    source = tmp_path / "c_ext"
    source.mkdir()
    pinned = re.sub(r"(MAMMOFM_OPENVINO_VERSION) \S+\)", r"\1 2020.1.0)", CMAKE)
    (source / "CMakeLists.txt").write_text(pinned)
    command = ["cmake", "-S", source, "-B", tmp_path / "b", f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs exactly 2020.1.0" in " ".join(done.stderr.split())

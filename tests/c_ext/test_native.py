"""Finding the library, choosing kernels, and the three ways in which that is refused."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mammofm_lite import native
from mammofm_lite.errors import KernelError

SOURCES = Path(__file__).resolve().parents[2] / "c_ext" / "src"
UNKNOWN = "unknown instruction set 'sse9'; this build knows portable, avx2, avx512, avx512_vnni"


@pytest.fixture
def no_cached_path() -> Iterator[None]:
    native.extension_path.cache_clear()
    yield
    native.extension_path.cache_clear()


def selected(isa: str) -> str:
    """What a fresh process selects, or the text of its KernelError."""
    code = (
        "from mammofm_lite import native, errors\n"
        "try: print(native.instruction_set())\n"
        "except errors.KernelError as error: print(error)"
    )
    environment = {**os.environ, "MAMMOFM_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_library_is_there() -> None:
    assert native.extension_path().is_file()
    assert native.extension_path().is_absolute()


def test_supported_instruction_sets() -> None:
    known = ("portable", "avx2", "avx512", "avx512_vnni")
    supported = native.supported_instruction_sets()
    assert supported == tuple(name for name in known if name in supported)
    assert supported[0] == "portable"


def test_the_highest_is_selected_unless_told() -> None:
    supported = native.supported_instruction_sets()
    assert selected("") == supported[-1]
    for name in supported:
        assert selected(name) == name


def test_an_unknown_name_is_refused() -> None:
    assert UNKNOWN in selected("sse9")


def test_the_operation_refuses_too(start_attention: Callable[[str], Any]) -> None:
    import numpy as np

    arrays = [np.zeros((1, 1, 2, 32), np.float32)] * 3
    assert UNKNOWN in start_attention("sse9").ask(*arrays)


CPU_WITHOUT_AVX512 = """
#include "instruction_set.hpp"
#include "tiled_attention_kernel.hpp"
#include "tiled_mbconv_f32_kernel.hpp"
#include <cstdio>
namespace mammofm {
const TiledAttentionKernel portable::tiled_attention_kernel{};
const TiledAttentionInt8Kernel portable::tiled_attention_int8_kernel{};
const MbConvF32Kernel portable::mbconv_f32_kernel{};
const TiledAttentionKernel avx2::tiled_attention_kernel{};
const TiledAttentionInt8Kernel avx2::tiled_attention_int8_kernel{};
const MbConvF32Kernel avx2::mbconv_f32_kernel{};
const TiledAttentionKernel avx512::tiled_attention_kernel{};
const TiledAttentionInt8Kernel avx512::tiled_attention_int8_kernel{};
const MbConvF32Kernel avx512::mbconv_f32_kernel{};
const TiledAttentionKernel avx512_vnni::tiled_attention_kernel{};
const TiledAttentionInt8Kernel avx512_vnni::tiled_attention_int8_kernel{};
const MbConvF32Kernel avx512_vnni::mbconv_f32_kernel{};
}
int main() {
    const auto& selected = mammofm::selected_instruction_set();
    std::printf("%s|%s|%s", selected.name.c_str(), selected.error.c_str(),
                mammofm::supported_instruction_sets().c_str());
}
"""


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        ("", "avx2||portable,avx2"),
        ("avx512", "|MAMMOFM_ISA=avx512: this CPU lacks it; it supports portable, avx2|"),
    ],
)
def test_a_cpu_that_lacks_the_instruction_set(tmp_path: Path, isa: str, expected: str) -> None:
    """The selection compiled with the answers that an AVX2 machine would give."""
    gates = {"portable": "true", "avx2": "true", "avx512": "false", "avx512_vnni": "false"}
    lines = [f"MAMMOFM_INSTRUCTION_SET({name}, {gate})\n" for name, gate in gates.items()]
    (tmp_path / "instruction_sets.inc").write_text("".join(lines))
    (tmp_path / "main.cpp").write_text(CPU_WITHOUT_AVX512)
    program = tmp_path / "main"
    command = ["g++", "-std=c++17", "-O0", f"-I{tmp_path}", f"-I{SOURCES}", "-o", str(program)]
    sources = [str(tmp_path / "main.cpp"), str(SOURCES / "instruction_set.cpp")]
    subprocess.run([*command, *sources], check=True)
    environment = {**os.environ, "MAMMOFM_ISA": isa}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(expected)


@pytest.mark.usefixtures("no_cached_path")
def test_a_missing_library_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sources on the path of an interpreter that has no installed package."""

    def not_installed(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", not_installed)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "mammofm_lite" / "native.py"))
    with pytest.raises(KernelError, match=r"libmammofm_openvino\.so is missing; install"):
        native.extension_path()


def test_a_damaged_library_is_said_to_be_unloadable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = tmp_path / "libmammofm_openvino.so"
    damaged.write_bytes(b"not a library")
    native.compiled_library.cache_clear()
    monkeypatch.setattr(native, "extension_path", lambda: damaged)
    with pytest.raises(KernelError, match=r"cannot be loaded: .*(invalid ELF|file too short)"):
        native.instruction_set()
    native.compiled_library.cache_clear()

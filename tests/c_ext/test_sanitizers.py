"""Kernels and dispatcher under AddressSanitizer and UBSan, on every instruction set of the machine.

OpenVINO is not built with them, so its one header that the dispatcher needs is replaced, and the
flags of each instruction set are read from CMakeLists.txt.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mammofm_lite.native import supported_instruction_sets

C_EXT = Path(__file__).resolve().parents[2] / "c_ext"
HERE = Path(__file__).with_name("sanitized")
# At -O0 the many unrolled variants of a kernel take a third of the time to compile.
FLAGS = ("-std=c++17", "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def features(isa: str) -> list[str]:
    """The compiler's flags for an instruction set."""
    cmake = (C_EXT / "CMakeLists.txt").read_text()
    (words,) = re.findall(rf"set\(features_{isa} ([^)]*)\)", cmake)
    flags = []
    for word in words.replace('"', "").split():
        inherited = re.fullmatch(r"\$\{features_(\w+)\}", word)
        flags += features(inherited[1]) if inherited else [f"-m{word}"]
    return flags


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_vnni"])
def test_sanitized(tmp_path: Path, isa: str) -> None:
    if isa not in supported_instruction_sets():
        pytest.skip(f"this CPU lacks {isa}")
    source = C_EXT / "src"
    vectors = isa.replace("_vnni", "")
    objects = []
    for name in ("tiled_attention_kernel", "tiled_attention_int8_kernel"):
        objects.append(tmp_path / f"{name}.o")
        macros = [f"-DMAMMOFM_ISA={isa}", f'-DMAMMOFM_VEC_HEADER="vec_{vectors}.hpp"']
        compiled = [*FLAGS, *features(isa), *macros, "-c", source / f"{name}.cpp"]
        subprocess.run(["g++", *compiled, "-o", objects[-1]], check=True)
    program = tmp_path / "sanitized"
    sources = [HERE / "main.cpp", source / "tiled_attention.cpp"]
    linked = [*FLAGS, f"-DISA={isa}", f"-I{HERE}", f"-I{source}", *sources, *objects]
    subprocess.run(["g++", *linked, "-o", program], check=True)
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"0 of \d+ failed\n", done.stdout)

"""TiledMBConv under AddressSanitizer, UBSan and ThreadSanitizer, without OpenVINO.

Every set of kernels that the build has; threads of the standard library stand in for OpenVINO's,
whose synchronisation ThreadSanitizer would not see.
"""

import re
import subprocess
from pathlib import Path

import pytest

from mammofm_lite.native import mbconv_kernel, supported_instruction_sets

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "c_ext" / "src"
FLAGS = ["-std=c++17", "-O0", "-g1", "-Wno-psabi", "-pthread"]
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
AVX2 = ("-mavx2", "-mfma")
VNNI = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
SETS = {
    "portable": ("generic", ()),
    "avx2": ("generic", AVX2),
    "avx512vnni": ("avx512vnni", (*AVX2, *VNNI)),
}
FLOAT_SETS = {"portable": (), "avx2": AVX2, "avx512": (*AVX2, *VNNI[:-1])}
PARALLEL = """
#pragma once
#include <thread>
#include <vector>
inline int parallel_get_max_threads() { return 3; }
namespace ov {
template <typename Body>
void parallel_nt(int count, const Body& body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < count; ++i)
        threads.emplace_back([&body, i, count] { body(i, count); });
    for (std::thread& thread : threads)
        thread.join();
}
}
"""


@pytest.fixture(scope="module", params=SANITIZERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    header = folder / "openvino" / "core" / "parallel.hpp"
    header.parent.mkdir(parents=True)
    header.write_text(PARALLEL)
    common = ["g++", *FLAGS, *SANITIZERS[request.param]]
    objects = []
    for isa, (lanes, flags) in SETS.items():
        objects.append(str(folder / f"{isa}.o"))
        command = [*common, *flags, f"-DMAMMOFM_ISA={isa}"]
        command += [f'-DMAMMOFM_LANES_HEADER="mbconv_lanes_{lanes}.hpp"', "-c"]
        command += [str(SOURCES / "tiled_mbconv_kernel.cpp"), "-o", objects[-1]]
        subprocess.run(command, check=True)
    for isa, flags in FLOAT_SETS.items():
        objects.append(str(folder / f"f32_{isa}.o"))
        command = [*common, *flags, f"-DMAMMOFM_ISA={isa}"]
        command += [f'-DMAMMOFM_VEC_HEADER="vec_{isa}.hpp"', "-c"]
        command += [str(SOURCES / "tiled_mbconv_f32_kernel.cpp"), "-o", objects[-1]]
        subprocess.run(command, check=True)
    made = folder / "program"
    names = ("tiled_mbconv.cpp", "tiled_mbconv_f32.cpp", "mbconv_work.cpp")
    sources = [str(HERE / "mbconv_sanitized.cpp"), *(str(SOURCES / name) for name in names)]
    command = [*common, f"-I{folder}", f"-I{SOURCES}", *sources, *objects, "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def test_every_set_of_the_build_is_here() -> None:
    cmake = (SOURCES.parent / "CMakeLists.txt").read_text()
    (built,) = re.findall(r"set\(mbconv_instruction_sets ([^)]*)\)", cmake)
    assert built.split() == list(SETS)


@pytest.mark.parametrize("isa", SETS)
def test_no_buffer_is_overrun_and_no_thread_races(program: Path, isa: str) -> None:
    if isa == "avx512vnni" and mbconv_kernel() != isa:
        pytest.skip(f"this CPU lacks {isa}")
    if isa == "avx2" and isa not in supported_instruction_sets():
        pytest.skip(f"this CPU lacks {isa}")
    name = "avx512" if isa == "avx512vnni" else isa
    done = subprocess.run([program, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    again = subprocess.run([program, name], capture_output=True, text=True)
    assert done.stdout == again.stdout
    assert len(done.stdout.split()) == 35

"""TiledMBConv under AddressSanitizer and UndefinedBehaviorSanitizer, without OpenVINO."""

import subprocess
from pathlib import Path

import pytest

from mammofm_lite.native import mbconv_kernel

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "c_ext" / "src"
FLAGS = [
    *("-std=c++17", "-O0", "-g1", "-Wno-psabi", "-pthread"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]
VNNI = ("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni")
SETS = {
    "portable": ("generic", ()),
    "avx512vnni": ("avx512vnni", tuple(f"-m{feature}" for feature in VNNI)),
}
FLOAT_SETS = {"portable": (), "avx512": tuple(f"-m{feature}" for feature in VNNI[:-1])}
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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    header = folder / "openvino" / "core" / "parallel.hpp"
    header.parent.mkdir(parents=True)
    header.write_text(PARALLEL)
    objects = []
    for isa, (lanes, flags) in SETS.items():
        objects.append(str(folder / f"{isa}.o"))
        command = ["g++", *FLAGS, *flags, f"-DMAMMOFM_ISA={isa}"]
        command += [f'-DMAMMOFM_LANES_HEADER="mbconv_lanes_{lanes}.hpp"', "-c"]
        command += [str(SOURCES / "tiled_mbconv_kernel.cpp"), "-o", objects[-1]]
        subprocess.run(command, check=True)
    for isa, flags in FLOAT_SETS.items():
        objects.append(str(folder / f"f32_{isa}.o"))
        command = ["g++", *FLAGS, *flags, f"-DMAMMOFM_ISA={isa}"]
        command += [f'-DMAMMOFM_VEC_HEADER="vec_{isa}.hpp"', "-c"]
        command += [str(SOURCES / "tiled_mbconv_f32_kernel.cpp"), "-o", objects[-1]]
        subprocess.run(command, check=True)
    made = folder / "program"
    names = ("tiled_mbconv.cpp", "tiled_mbconv_f32.cpp", "mbconv_work.cpp")
    sources = [str(HERE / "mbconv_sanitized.cpp"), *(str(SOURCES / name) for name in names)]
    command = ["g++", *FLAGS, f"-I{folder}", f"-I{SOURCES}", *sources, *objects, "-o", str(made)]
    subprocess.run(command, check=True)
    return made


@pytest.mark.parametrize("isa", SETS)
def test_nothing_is_read_or_written_beside_the_buffers(program: Path, isa: str) -> None:
    if isa == "avx512vnni" and mbconv_kernel() != isa:
        pytest.skip(f"this CPU lacks {isa}")
    name = "avx512" if isa == "avx512vnni" else isa
    done = subprocess.run([program, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    again = subprocess.run([program, name], capture_output=True, text=True)
    assert done.stdout == again.stdout
    assert len(done.stdout.split()) == 35

"""The examples, compiled with plain compilers against what is installed, give Python's answer."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mammofm_lite import ArrayView, Model, __version__, array_study
from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.native import embedding_folder

EXAMPLES = Path(__file__).resolve().parents[2] / "c_ext" / "examples"
COMMAND = Path(sys.executable).with_name("mammofm-lite")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")


def run(*command: object, cwd: Path) -> str:
    """In an environment without Python's and the loader's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags(folder: Path) -> list[str]:
    done = run(COMMAND, "config", "--cflags", "--libs", cwd=folder)
    return done.split()


def raw(views: list[ArrayView], folder: Path) -> list[Path]:
    """Every view's pixels in a file of its own."""
    paths = [folder / f"{view.view}.raw" for view in views]
    for view, path in zip(views, paths, strict=True):
        assert view.pixels.dtype == np.uint16
        path.write_bytes(view.pixels.tobytes())
    return paths


def bare(view: ArrayView) -> ArrayView:
    """The view as the examples know it: without UID, padding and, where they have none, spacing."""
    return ArrayView(view.pixels, view.view, pixel_spacing_mm=view.pixel_spacing_mm)


def test_c(tmp_path: Path, phantom: list[ArrayView]) -> None:
    source = EXAMPLES / "analyse.c"
    run("gcc", "-std=c99", *STRICT, source, *flags(tmp_path), "-o", "analyse", cwd=tmp_path)
    told = []
    for view, path in zip(phantom, raw(phantom, tmp_path), strict=True):
        assert view.pixel_spacing_mm is not None
        row, column = view.pixel_spacing_mm
        rows, columns = view.pixels.shape
        told.append(f"{view.view}:{rows}:{columns}:MONOCHROME2:{row!r}:{column!r}:{path}")
    found = run(tmp_path / "analyse", demo_bundle_path(), *told, cwd=tmp_path)
    study = array_study([bare(view) for view in phantom])
    assert found == Model.load().infer(study).to_json_text()


SHIPPED = (
    "libopenvino.so.2641",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_ir_frontend.so.2641",
    "libtbb.so.12",
)


def test_what_an_integrator_must_ship(tmp_path: Path, phantom: list[ArrayView]) -> None:
    """Five libraries in the program's own folder, and nothing of a Python installation."""
    ours = embedding_folder() / "lib" / "libmammofm.so"
    theirs = [embedding_folder().parent / "openvino" / "libs" / name for name in SHIPPED]
    for file in (ours, *theirs):
        shutil.copy(file, tmp_path)
    include = f"-I{embedding_folder() / 'include'}"
    run("gcc", "-std=c99", include, EXAMPLES / "analyse.c", f"-L{tmp_path}",
        "-Wl,-rpath,$ORIGIN", "-lmammofm", "-o", tmp_path / "analyse", cwd=tmp_path)  # fmt: skip
    (path, *_) = raw(phantom, tmp_path)
    rows, columns = phantom[0].pixels.shape
    view = f"L-CC:{rows}:{columns}:MONOCHROME2:0:0:{path}"
    assert run(tmp_path / "analyse", demo_bundle_path(), view, cwd=tmp_path) == one_view(phantom)
    table = (EXAMPLES.parents[1] / "CAPI.md").read_text()
    for file in (ours, *theirs):
        size = f"{file.stat().st_size / 1e6:.1f}"
        assert f"| `{file.name}` | {size} |" in table, size


def one_view(phantom: list[ArrayView]) -> str:
    view = ArrayView(phantom[0].pixels, "L-CC")
    return Model.load().infer(array_study([view])).to_json_text()


def test_cpp(tmp_path: Path, phantom: list[ArrayView]) -> None:
    source = EXAMPLES / "two_threads.cpp"
    run("g++", "-std=c++17", "-pthread", *STRICT, source, *flags(tmp_path), "-o", "two",
        cwd=tmp_path)  # fmt: skip
    (path, *_) = raw(phantom, tmp_path)
    rows, columns = phantom[0].pixels.shape
    found = run(tmp_path / "two", demo_bundle_path(), rows, columns, path, cwd=tmp_path)
    assert found == one_view(phantom)


def test_locales_of_the_host_change_nothing(
    tmp_path: Path, phantom: list[ArrayView], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs and JSON are read, and numbers written, as if the program had set none."""
    if shutil.which("localedef"):  # needs the package locales; without it C++ alone has a comma
        compiled = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
        subprocess.run(compiled, capture_output=True, check=False)
        monkeypatch.setenv("LOCPATH", str(tmp_path))
    source = Path(__file__).with_name("locale.cpp")
    run("g++", "-std=c++17", *STRICT, source, *flags(tmp_path), "-o", "locale", cwd=tmp_path)
    (path, *_) = raw(phantom, tmp_path)
    found = run(tmp_path / "locale", demo_bundle_path(), path, cwd=tmp_path)
    before, after = found.split("\n", 1)[1].split("\0")
    view = ArrayView(phantom[0].pixels, "L-CC", pixel_spacing_mm=(0.2, 0.2))
    assert before == Model.load().infer(array_study([view])).to_json_text()
    assert after == before


def _java() -> bool:
    if not (shutil.which("javac") and shutil.which("java")):
        return False
    done = subprocess.run(["java", "--list-modules"], capture_output=True, text=True)
    return "jdk.incubator.foreign@17" in done.stdout


@pytest.mark.skipif(not _java(), reason="no JDK 17, for whose foreign linker the example is")
def test_java(tmp_path: Path, phantom: list[ArrayView], capi: ModuleType) -> None:
    module = ("--add-modules", "jdk.incubator.foreign")
    run("javac", *module, "-d", tmp_path, EXAMPLES / "Analyse.java", cwd=tmp_path)
    (path, *_) = raw(phantom, tmp_path)
    rows, columns = phantom[0].pixels.shape
    library = embedding_folder() / "lib" / "libmammofm.so"
    found = run(
        "java", *module, "--enable-native-access=ALL-UNNAMED", "-cp", tmp_path, "Analyse", library,
        demo_bundle_path(), rows, columns, path, cwd=tmp_path,
    )  # fmt: skip
    assert found == one_view(phantom)


def test_java_knows_the_structs(capi: ModuleType) -> None:
    """The offsets that the Java example has by heart."""
    text = (EXAMPLES / "Analyse.java").read_text()
    known = dict(re.findall(r"\b([A-Z_]+) = (\d+)", text))
    view, study = capi.View, capi.Study
    wanted = {
        "VIEW_SIZE": capi.c.sizeof(view), "PIXELS": view.pixels.offset, "ROWS": view.rows.offset,
        "COLUMNS": view.columns.offset, "BITS_ALLOCATED": view.bits_allocated.offset,
        "LATERALITY": view.laterality.offset, "PROJECTION": view.projection.offset,
        "PHOTOMETRIC": view.photometric.offset, "STUDY_SIZE": capi.c.sizeof(study),
        "VIEWS": study.views.offset, "VIEW_COUNT": study.view_count.offset,
    }  # fmt: skip
    assert {name: int(known[name]) for name in wanted} == wanted


@pytest.mark.skipif(shutil.which("cmake") is None, reason="pip used a cmake of its own")
def test_the_cmake_package(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        "#include <mammofm.h>\n#include <stdio.h>\nint main(void) {puts(mfm_version());}\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(console C)\n"
        "find_package(mammofm 0.1 CONFIG REQUIRED)\nadd_executable(console main.c)\n"
        "target_link_libraries(console PRIVATE mammofm::mammofm)\n"
    )
    where = run(COMMAND, "config", "--cmake", cwd=tmp_path).strip()
    run("cmake", "-S", tmp_path, "-B", "b", f"-Dmammofm_DIR={where}", cwd=tmp_path)
    run("cmake", "--build", "b", cwd=tmp_path)
    assert run(tmp_path / "b" / "console", cwd=tmp_path).strip() == __version__

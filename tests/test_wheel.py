"""The wheel, installed where only the runtime's dependencies exist, answers a study."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST_WHEEL_MB = 16


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    # The build requirements are pinned in the test environment: the same build, without a download.
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and what it asks for; returns its bin folder."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    tools = folder / "venv" / "bin"
    pip = (tools / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
    return tools


def test_what_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in (
        "mammofm_lite/py.typed",
        "mammofm_lite/schema/ask-1.schema.json",
        "mammofm_lite/schema/result-1.schema.json",
        "mammofm_lite/bundles/demo.mfm/bundle.json",
        "mammofm_lite/cmake/mammofmConfig.cmake",
        "mammofm_lite/include/mammofm.h",
        "mammofm_lite/lib/libmammofm.so",
        "mammofm_lite/lib/libmammofm_openvino.so",
        "mammofm_lite/export/recipes/full-synthetic.toml",
        "mammofm_lite/quant/__init__.py",
        "mammofm_lite/lib/libmammofm_openvino.so",
        "mammofm_lite/lib/libmammofm.so",
        "mammofm_lite/include/mammofm.h",
        "mammofm_lite/cmake/mammofmConfig.cmake",
        "mammofm_lite/writers/assets/page.css",
    ):
        assert name in names
    assert any(name.endswith("licences/nlohmann-json.txt") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert all(top.startswith("mammofm_lite") for top in tops), tops
    assert wheel.name.startswith("mammofm_lite-")
    assert "-py3-none-" in wheel.name
    assert wheel.stat().st_size < LARGEST_WHEEL_MB * 1e6


def test_only_the_runtime_is_there(clean: Path) -> None:
    code = (
        "import importlib.util as u;"
        "print([n for n in ('torch', 'nncf', 'transformers', 'scipy', 'cv2', 'PIL', 'libjpeg')"
        " if u.find_spec(n)])"
    )
    assert run(clean / "python", "-c", code, cwd=clean).strip() == "[]"


def test_it_answers_a_study(clean: Path, tmp_path: Path) -> None:
    command = clean / "mammofm-lite"
    run(command, "phantom", tmp_path / "study", "--seed", "4", cwd=tmp_path)
    written = ("-o", tmp_path / "out", "--write", "json,html")
    printed = run(command, "infer", tmp_path / "study", *written, cwd=tmp_path)
    assert "\nSuggestion " in printed
    assert (tmp_path / "out" / "result.json").is_file()
    assert (tmp_path / "out" / "result.html").is_file()  # its style and script were installed too


PREPARE = """
import sys
from pathlib import Path
from mammofm_lite import ArrayView, Model, array_study
from mammofm_lite.dicom import read_pixels, read_study
folder = Path(sys.argv[1])
views = []
for view, instance in read_study(folder / "study").views.items():
    pixels, spacing = read_pixels(instance), instance.pixel_spacing_mm
    views.append(ArrayView(pixels, view, pixel_spacing_mm=spacing))
    (folder / view).write_bytes(pixels.tobytes())
    rows, columns = pixels.shape
    print(f"{view}:{rows}:{columns}:MONOCHROME2:{spacing[0]!r}:{spacing[1]!r}:{folder / view}")
(folder / "python.json").write_text(Model.load().infer(array_study(views)).to_json_text())
"""


def test_a_c_program_answers_as_python_does(clean: Path, tmp_path: Path) -> None:
    """Plain gcc against the installed wheel; then no Python is there."""
    command = clean / "mammofm-lite"
    run(command, "phantom", tmp_path / "study", "--seed", "6", cwd=tmp_path)
    views = run(clean / "python", "-c", PREPARE, tmp_path, cwd=tmp_path).split()
    source = ROOT / "c_ext" / "examples" / "analyse.c"
    flags = run(command, "config", "--cflags", "--libs", cwd=tmp_path).split()
    run("gcc", "-std=c99", source, *flags, "-o", tmp_path / "analyse", cwd=tmp_path)
    bundle = run(command, "config", "--bundle", cwd=tmp_path).strip()
    found = run(tmp_path / "analyse", bundle, *views, cwd=tmp_path)
    assert found == (tmp_path / "python.json").read_text()


def test_export_says_what_it_needs(clean: Path, tmp_path: Path) -> None:
    recipe = ROOT / "export" / "recipes" / "demo-synthetic.toml"
    done = subprocess.run(
        [clean / "mammofm-lite", "export", recipe, "-o", tmp_path / "x.mfm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "pip install 'mammofm-lite[export]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_sizes_are_printed(clean: Path, wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = next((clean.parent / "lib").glob("python3*/site-packages"))
    pip = {path for name in ("pip", "setuptools") for path in site.glob(f"{name}*")}
    total = sum(
        path.stat().st_size
        for path in site.rglob("*")
        if path.is_file() and not path.is_symlink() and not pip & set(path.parents)
    )
    with capsys.disabled():
        print(
            f"\n  wheel {wheel.stat().st_size / 1e6:.1f} MB, "
            f"with everything it needs {total / 1e6:.0f} MB installed"
        )
    assert total < 430e6

"""Importing is cheap and pulls in nothing that only the export path may use."""

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_package_alone_is_light() -> None:
    loaded = modules_after("import mammofm_lite, mammofm_lite.cli")
    assert not loaded & {"openvino", "pydicom", "tokenizers", "torch", "numpy"}


def test_the_engine_never_imports_the_export_path() -> None:
    loaded = modules_after("from mammofm_lite import Model")
    assert "openvino" in loaded
    assert not loaded & {"torch", "nncf", "transformers", "openvino_telemetry.main"}

"""Fixtures shared by all tests: where the reference vectors and the real exam are, if present."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure is ours and not the dice's. To look further:
# HYPOTHESIS_PROFILE=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{what} not present beside this checkout")
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors of the reference model; skips where they are absent."""
    return _folder(SHARED / "reference", "reference vectors")


@pytest.fixture(scope="session")
def real_exam() -> Path:
    """One real four-view exam; skips where it is absent."""
    return _folder(SHARED / "data" / "real-exam", "the real exam")


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process of its own, whatever its exit status."""

    def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from mammofm_lite.cli import main; main()"]
        return subprocess.run(
            command + [str(argument) for argument in arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    return _run


@pytest.fixture(scope="session")
def float_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model in float32 with synthetic weights; not to be changed."""
    pytest.importorskip("torch")
    from mammofm_lite.export.build import export_bundle

    recipe = Path(__file__).parents[1] / "export" / "recipes" / "demo-synthetic.toml"
    target = tmp_path_factory.mktemp("float") / "demo.mfm"
    export_bundle(recipe, target)
    return target


@pytest.fixture(scope="session")
def ask_bundles() -> ModuleType:
    """``tests/ask_bundles.py``: makes small bundles that carry a text encoder."""
    return _module("ask_bundles")


@pytest.fixture(scope="session")
def browser_driver() -> ModuleType:
    """``tests/browser.py``: drives a headless browser."""
    return _module("browser")


def _module(name: str) -> ModuleType:
    """A file beside this one, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ask_bundle(ask_bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ModernBERT and a linear projection; not to be changed."""
    return ask_bundles.make(tmp_path_factory.mktemp("ask") / "ask.mfm")

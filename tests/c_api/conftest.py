"""The binding, the demonstration bundle in both runtimes, and phantoms as arrays."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mammofm_lite import ArrayView, Model
from mammofm_lite.background import Background
from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom

SMALL = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)


def _load() -> ModuleType:
    name = "c_api_binding"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("binding.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def capi() -> ModuleType:
    return _load()


@pytest.fixture(scope="session")
def c_model(capi: ModuleType) -> Any:
    return capi.CModel(demo_bundle_path(), threads=1)


@pytest.fixture(scope="session")
def py_model() -> Model:
    return Model.load(threads=1)


@pytest.fixture(scope="session")
def as_arrays() -> Callable[[Path], tuple[list[ArrayView], str]]:
    return _as_arrays


def _as_arrays(folder: Path) -> tuple[list[ArrayView], str]:
    """The views of a DICOM study as a program that reads DICOM itself would hand them over."""
    study = read_study(folder)
    views = [
        ArrayView(
            read_pixels(instance),
            view,
            photometric_interpretation=instance.photometric_interpretation,
            rescale_slope=instance.rescale_slope,
            rescale_intercept=instance.rescale_intercept,
            pixel_spacing_mm=instance.pixel_spacing_mm,
            sop_instance_uid=instance.sop_instance_uid,
            background=Background(instance.background.padding),
        )
        for view, instance in study.views.items()
    ]
    return views, study.study_instance_uid


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, seed=5, options=SMALL)
    return folder


@pytest.fixture(scope="session")
def phantom(phantom_folder: Path) -> list[ArrayView]:
    return _as_arrays(phantom_folder)[0]

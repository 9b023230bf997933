"""A bundle small enough to quantize in a test, and studies to do it with."""

import json
import shutil
from pathlib import Path

import pytest

from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.models.efficientnet import CONFIGS, EfficientNetConfig
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.quant import cost

ROOT = Path(__file__).resolve().parents[2]
SMALL = PhantomOptions(rows=574, columns=479, pixel_spacing_mm=0.4)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration bundle's four heads on pictures of 192 x 128, on an encoder of ten blocks:
    half as wide as B0, half as deep."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = (ROOT / "export" / "recipes" / "demo-synthetic.toml").read_text()
    for old, new in (
        ("height = 640", "height = 192"),
        ("width = 384", "width = 128"),
        ("latent = [5, 5]", "latent = [3, 2]"),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "tiny.toml").write_text(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "b0", EfficientNetConfig("b0", 0.5, 0.5, 224))
        export_bundle(folder / "tiny.toml", folder / "tiny.mfm")
    return folder / "tiny.mfm"


@pytest.fixture(scope="session")
def boxless(tiny: Path) -> Path:
    """The tiny bundle without its detector, which takes the longest to quantize."""
    folder = tiny.with_name("boxless.mfm")
    shutil.copytree(tiny, folder)
    description = json.loads((folder / "bundle.json").read_text())
    del description["heads"]["localization"]
    for name in ("head_localization.xml", "head_localization.bin"):
        del description["files"][name]
        (folder / name).unlink()
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def small() -> PhantomOptions:
    """Phantoms that are quickly rendered."""
    return SMALL


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies, one of them a level deeper than the others."""
    folder = tmp_path_factory.mktemp("studies")
    for seed, name in enumerate(("a", "b", "c/deeper")):
        write_phantom(folder / name, seed=seed, options=SMALL)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip what only costs time: repeats, and the processes that measure memory."""
    monkeypatch.setattr(cost, "_REPEATS", 1)
    monkeypatch.setattr(cost, "_STUDY_REPEATS", 1)
    monkeypatch.setattr(cost, "memory", lambda *given: {"float_mib": 2.0, "int8_mib": 1.0})

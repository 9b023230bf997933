"""The whole way once: phantoms drawn, a bundle asked, figures, tables and card written."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from mammofm_lite import Model
from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.export.quality.evaluation import with_low_threshold
from mammofm_lite.export.seeds import HELD_OUT

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "demo_quality.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_quality", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_studies_of_one_shift(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(demo_bundle_path(), tmp_path / "demo.mfm"))
    out = tmp_path / "quality.json"
    words = ["--bundle", bundle, "--studies", 2, "--shift", "noise", "--spacing", 0.4]
    words += ["--replicates", 100, "--json", out, "--into-bundle"]
    assert script.main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert "## Shift: more noise" in printed.out
    assert "shift noise: 2 of 2 studies, 0.0 min left" in printed.err
    evaluation = json.loads(out.read_text())
    assert evaluation["settings"]["seeds"] == [HELD_OUT.start, HELD_OUT.start + 1]
    (measured,) = evaluation["bundles"]
    names = {figure["name"] for figure in measured["conditions"]["noise"]["figures"]}
    assert {"auc", "density", "sensitivity", "f1", "recall", "way year 5"} <= names
    # The card is the measured one, and the bundle is whole.
    assert Model.load(bundle).bundle.name == measured["name"]
    assert "On 2 phantoms per column" in (bundle / "MODEL_CARD.md").read_text()


def test_a_wrong_option_is_one_line(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--studies", "1"]) == 2
    assert capsys.readouterr().err.startswith("demo_quality: studies must be from 2 to ")


def test_the_wide_bundle_differs_in_its_threshold_alone(tmp_path: Path) -> None:
    bundle = Model.load().bundle
    wide = Model.load(with_low_threshold(bundle, tmp_path / "wide")).bundle
    assert dict(wide.files) == dict(bundle.files)
    assert wide.diagnosis == bundle.diagnosis
    assert bundle.localization is not None
    assert wide.localization is not None
    assert wide.localization.labels == bundle.localization.labels
    assert wide.localization != bundle.localization

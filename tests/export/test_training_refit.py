"""A bundle's report head is taught anew on its own encoder, and nothing else changes."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mammofm_lite import Model
from mammofm_lite.bundle import DESCRIPTION, Bundle, demo_bundle_path
from mammofm_lite.dicom import read_study
from mammofm_lite.errors import ExportError
from mammofm_lite.expected import SELFTEST_FILE
from mammofm_lite.export.seeds import training_seeds
from mammofm_lite.export.training.data import DataPlan, make_studies
from mammofm_lite.export.training.encoders import encoder_of
from mammofm_lite.export.training.points import calibration
from mammofm_lite.export.training.refit import Refit, check_twins
from mammofm_lite.export.training.thresholds import own_answers
from mammofm_lite.phantom import PhantomOptions, write_phantom

REPORT = {f"head_report_{name}.{kind}" for name in ("fusion", "decoder") for kind in ("xml", "bin")}
SMALL: Any = {"hours": 1e-4, "studies": 2, "cores": 1}


@pytest.fixture(scope="module")
def refitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder: Path = tmp_path_factory.mktemp("refit")
    told: list[str] = []
    bundle = Bundle.open(demo_bundle_path())
    refit = Refit(bundle, folder / "work", hours=1e-4, studies=2, cores=1, tell=told.append)
    (folder / "work").mkdir()
    made = refit.run(folder / "new.mfm", force=False)
    return made.path, told


def test_only_the_report_is_another(refitted: tuple[Path, list[str]]) -> None:
    path, told = refitted
    before, after = Bundle.open(demo_bundle_path()), Bundle.open(path)
    changed = {name for name in before.files if before.files[name] != after.files.get(name)}
    assert changed >= {name for name in REPORT if name.endswith(".bin")}
    assert changed <= REPORT | {"grammar.json", "tokenizer.json", SELFTEST_FILE}
    assert SELFTEST_FILE in before.files
    assert SELFTEST_FILE not in after.files
    description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    taught = description["provenance"]["head report"]["taught_on"]
    assert taught == {"bundle": before.sha256, "studies": 2}
    differences = description["self_check"]["head report"]["largest_relative_difference"]
    assert differences["logits"] < 1e-4
    assert any(line.startswith("features: 2 of 2") for line in told)


def test_malignancy_is_fitted_where_float32_is_at_hand(tmp_path: Path) -> None:
    """To four studies of known truth; the other label and all other files stay."""
    bundle = Bundle.open(demo_bundle_path())
    given = {**SMALL, "studies": 4}
    refit = Refit(bundle, tmp_path, tell=lambda line: None, exact=bundle, **given)
    with torch.enable_grad():  # which export has turned off
        made = refit.run(tmp_path / "new.mfm", force=False)
    changed = {name for name in bundle.files if bundle.files[name] != made.files.get(name)}
    diagnosis = {"head_diagnosis.xml", "head_diagnosis.bin"}
    assert "head_diagnosis.bin" in changed
    assert changed <= REPORT | diagnosis | {"grammar.json", "tokenizer.json", SELFTEST_FILE}
    plan = DataPlan(training_seeds(0)[:4], 0.2, bundle.preprocessing, 0.5)
    studies = make_studies(tmp_path / "train", plan, workers=0, tell=lambda done, count: None)
    cancers = torch.tensor([study.truth.malignant for study in studies]).float()
    assert 0 < cancers.sum() < 4
    before, after = (
        torch.nn.functional.binary_cross_entropy_with_logits(
            own_answers(one, studies, 1).malignancy.amax(dim=1), cancers
        )
        for one in (bundle, made)
    )
    assert float(after) < float(before)
    small = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    write_phantom(tmp_path / "study", seed=3, options=small)
    study = read_study(tmp_path / "study")
    new, old = (Model.load(path, threads=1).infer(study).diagnosis for path in (made.path, None))
    assert new is not None
    assert old is not None
    density = [{s.label: s for s in one.study}["density"].probabilities for one in (new, old)]
    for name, value in density[0].items():
        assert value == pytest.approx(density[1][name], abs=1e-4)


def test_another_model_is_no_twin() -> None:
    pooled = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0))
    check_twins(pooled, pooled + 0.05)
    with pytest.raises(ExportError, match=r"of another model: .* a cosine of 0.\d\d, 0.95"):
        check_twins(pooled, pooled.flip(2))


def test_it_answers(refitted: tuple[Path, list[str]], tmp_path: Path) -> None:
    """In sentences of the language, however little it has learned."""
    small = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    write_phantom(tmp_path / "study", seed=3, options=small)
    study = read_study(tmp_path / "study")
    new, old = (Model.load(path, threads=1).infer(study) for path in (refitted[0], None))
    assert new.report is not None
    assert set(new.report.report.breasts) == {"L", "R"}
    assert new.localization == old.localization
    assert new.diagnosis == old.diagnosis


def test_the_encoder_is_that_of_the_runtime(tmp_path: Path) -> None:
    """Maps and what is pooled of a phantom, view by view."""
    bundle = Bundle.open(demo_bundle_path())
    encoder = encoder_of(bundle, "view", 1)
    plan = DataPlan((3,), 0.2, bundle.preprocessing)
    (exam,) = make_studies(tmp_path, plan, workers=1, tell=lambda done, count: None)
    maps, pooled = encoder([exam])
    assert maps.shape == (1, 4, *bundle.encoders["view"].outputs["map"][1:])
    assert torch.isfinite(maps).all()
    assert pooled.shape == maps.shape[:3]
    means = maps.mean((3, 4))
    error, other = ((one - means).square().mean() for one in (pooled, pooled.roll(2, dims=1)))
    assert float(error) < 0.002 * float(means.square().mean())
    assert float(error) < 0.25 * float(other)  # of the same projection of the other breast
    assert not torch.equal(pooled, means)  # of rounded cells
    assert not torch.equal(maps[0, 0], maps[0, 1])
    assert len(encoder.fingerprint().split("-")) == 2


def test_other_bundles_are_refused(tmp_path: Path) -> None:
    bundle = Bundle.open(demo_bundle_path())
    without = dataclasses.replace(bundle, report=None)
    spec = dataclasses.replace(bundle.preprocessing, height=672)
    other = dataclasses.replace(bundle, preprocessing=spec)
    grammar = json.loads((bundle.path / "grammar.json").read_text())
    grammar["lexicon"]["edition"] = "6th"
    (tmp_path / "grammar.json").write_text(json.dumps(grammar))
    assert bundle.report is not None
    spoken = dataclasses.replace(bundle.report, grammar=str(tmp_path / "grammar.json"))
    foreign = dataclasses.replace(bundle, report=spoken)
    cases = (
        (without, "has no report head"),
        (other, "prepares pictures otherwise"),
        (foreign, "by another grammar than the demonstration"),
    )
    for odd, message in cases:
        refit = Refit(odd, tmp_path, hours=1e-4, studies=2, cores=1, tell=lambda line: None)
        with pytest.raises(ExportError, match=message):
            refit.run(tmp_path / "new.mfm", force=False)
    assert not (tmp_path / "new.mfm").exists()


def test_calibration() -> None:
    """Answers that are twice too sure are halved, and the threshold parts what is to be parted."""
    rng = np.random.default_rng(1)
    true = rng.standard_normal((40_000, 1)) * 2 + np.zeros((1, 4))
    malignant = rng.random(40_000) < 1 / (1 + np.exp(-true[:, 0]))
    truths: Any = [SimpleNamespace(malignant=bool(m), recall=bool(m)) for m in malignant]
    found = calibration(torch.tensor(2 * true + 1, dtype=torch.float32), truths)
    assert found.scale == pytest.approx(0.5, abs=0.03)
    assert found.shift == pytest.approx(-0.5, abs=0.06)
    assert found.threshold == pytest.approx(0.5, abs=0.1)

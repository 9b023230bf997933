"""Operating points by a bundle's own answers."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mammofm_lite import Model
from mammofm_lite.bundle import DESCRIPTION, Bundle, demo_bundle_path
from mammofm_lite.dicom import read_study
from mammofm_lite.errors import ExportError
from mammofm_lite.export.training.data import DataPlan, make_studies
from mammofm_lite.export.training.points import Calibration, Mark, mark_threshold
from mammofm_lite.export.training.thresholds import (
    OwnAnswers,
    OwnPoints,
    main,
    own_answers,
    own_points,
    with_points,
)
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.views import STANDARD_VIEWS

SEED = 23  # of `make demo`: has marks


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.open(demo_bundle_path())


def test_half_as_many_false_marks_as_pictures_are_let_through() -> None:
    pictures = [[Mark(0.9, -1), Mark(0.8, 0), Mark(0.3, -1)], [Mark(0.6, -1)], [], [Mark(0.5, 0)]]
    threshold = mark_threshold(pictures)
    assert sum(m.score >= threshold and m.lesion < 0 for p in pictures for m in p) == 2
    assert 0.3 < threshold < 0.6
    assert mark_threshold([[Mark(0.9, 0)]] * 4) == pytest.approx(0.05)


def test_the_answers_are_those_of_the_runtime(demo: Bundle, tmp_path: Path) -> None:
    plan = DataPlan((SEED,), 0.2, demo.preprocessing)
    studies = make_studies(tmp_path / "drawn", plan, workers=0, tell=lambda done, count: None)
    given = own_answers(demo, studies, 1)
    found = dict(zip(STANDARD_VIEWS, given.marks, strict=True))
    small = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    assert small == plan.options
    write_phantom(tmp_path / "study", seed=SEED, options=small)
    result = Model.load(None, threads=1).infer(read_study(tmp_path / "study"))
    assert result.localization is not None
    assert result.diagnosis is not None
    for view, asked in zip(STANDARD_VIEWS, torch.sigmoid(given.malignancy[0]), strict=True):
        told = result.diagnosis.views[view][0].probabilities["yes"]
        assert float(asked) == pytest.approx(told, abs=1e-5)
    threshold = demo.localization.members[0].threshold if demo.localization else 1.0
    told = {view: [] for view in STANDARD_VIEWS} | _scores(result)
    assert any(told.values())
    for view, marks in found.items():
        scores = [mark.score for mark in marks]
        assert scores == sorted(scores, reverse=True)
        shown = [score for score in scores if score >= threshold]
        assert shown == pytest.approx(sorted(told[view], reverse=True), abs=1e-5)


def _scores(result: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for mark in result.localization.marks:
        found.setdefault(mark.view, []).append(mark.score)
    return found


# Less than 1: a float32 probability of nearly 1 has lost the digits of a larger logit.
POINTS = OwnPoints(Calibration(0.5, -0.75, 0.41234567), 0.61234567)


def test_the_points_go_into_the_bundle_and_nothing_else_changes(
    demo: Bundle, tmp_path: Path
) -> None:
    plan = DataPlan((SEED,), 0.2, demo.preprocessing)
    studies = make_studies(tmp_path / "drawn", plan, workers=0, tell=lambda done, count: None)
    made = with_points(demo, POINTS, tmp_path / "new.mfm", force=False)
    given, changed = (own_answers(bundle, studies, 1) for bundle in (demo, made))
    torch.testing.assert_close(
        changed.malignancy, 0.5 * given.malignancy - 0.75, rtol=2e-3, atol=2e-2
    )
    assert changed.marks == given.marks
    before, after = (
        json.loads((bundle.path / DESCRIPTION).read_text(encoding="utf-8"))
        for bundle in (demo, made)
    )
    assert after["heads"]["diagnosis"]["members"][0]["labels"][0].pop("threshold") == 0.412346
    assert after["heads"]["localization"]["members"][0].pop("threshold") == 0.612346
    del before["heads"]["diagnosis"]["members"][0]["labels"][0]["threshold"]
    del before["heads"]["localization"]["members"][0]["threshold"]
    assert set(before["files"]) - set(after["files"]) == {"selftest.json"}
    others = set(after["files"]) - {"head_diagnosis.xml", "head_diagnosis.bin"}
    assert all(before["files"][name] == after["files"][name] for name in others)
    del before["files"], after["files"]
    assert before == after
    with pytest.raises(ExportError, match=r"exists; give --force to replace it"):
        with_points(demo, POINTS, tmp_path / "new.mfm", force=False)


def test_points_are_chosen_by_the_answers() -> None:
    """Logits that tell the truth half as loudly as it is, and one too much, are mended."""
    dice = np.random.default_rng(0)
    true = dice.normal(0, 3, 4000)
    cancers = dice.random(4000) < 1 / (1 + np.exp(-true))
    logits = torch.full((4000, 4), -30.0)
    logits[:, :2] = torch.from_numpy(true / 2 + 1).float()[:, None]
    truths: Any = [
        SimpleNamespace(truth=SimpleNamespace(malignant=bool(one), recall=bool(one)))
        for one in cancers
    ]
    marks = [[Mark(0.9, -1)], [Mark(0.4, 0)]]
    points = own_points(OwnAnswers(logits, marks), truths)
    assert points.calibration.scale == pytest.approx(2, rel=0.1)
    assert points.calibration.shift == pytest.approx(-2, abs=0.2)
    assert points.calibration.threshold == pytest.approx(0.5, abs=0.1)
    assert points.marks == mark_threshold(marks)


def test_members_that_are_asked_are_wanted(tmp_path: Path, demo: Bundle) -> None:
    assert demo.diagnosis is not None
    none: Any = SimpleNamespace(diagnosis=demo.diagnosis, localization=None)
    with pytest.raises(
        ExportError, match="has 1 members of diagnosis and 0 detectors; one each is wanted"
    ):
        with_points(none, POINTS, tmp_path / "new.mfm", force=False)
    two: Any = SimpleNamespace(
        diagnosis=demo.diagnosis, localization=SimpleNamespace(members=(1, 2))
    )
    with pytest.raises(ExportError, match="and 2 detectors; one each is wanted"):
        own_answers(two, [], 1)
    (member,) = demo.diagnosis.members
    turned = replace(member, labels=tuple(reversed(member.labels)))
    other: Any = SimpleNamespace(
        diagnosis=SimpleNamespace(members=(turned,)), localization=demo.localization
    )
    with pytest.raises(ExportError, match="one encoder does not tell malignancy first"):
        own_answers(other, [], 1)


def test_the_command(tmp_path: Path) -> None:
    new = tmp_path / "new.mfm"
    words = [str(demo_bundle_path()), str(new), "--folder", str(tmp_path), "--studies", "6"]
    done = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert Bundle.open(new).localization is not None
    again = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert again.exit_code == 1
    assert "exists; give --force" in again.output

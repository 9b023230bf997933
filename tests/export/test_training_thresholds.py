"""The threshold of marks by a bundle's own answers."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mammofm_lite import Model
from mammofm_lite.bundle import DESCRIPTION, Bundle, demo_bundle_path
from mammofm_lite.dicom import read_study
from mammofm_lite.errors import ExportError
from mammofm_lite.export.training.data import DataPlan, make_studies
from mammofm_lite.export.training.points import Mark, mark_threshold
from mammofm_lite.export.training.thresholds import found_marks, main, with_threshold
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


def test_the_marks_are_those_of_the_runtime(demo: Bundle, tmp_path: Path) -> None:
    plan = DataPlan((SEED,), 0.2, demo.preprocessing)
    studies = make_studies(tmp_path / "drawn", plan, workers=0, tell=lambda done, count: None)
    found = dict(zip(STANDARD_VIEWS, found_marks(demo, studies, 1), strict=True))
    small = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    assert small == plan.options
    write_phantom(tmp_path / "study", seed=SEED, options=small)
    result = Model.load(None, threads=1).infer(read_study(tmp_path / "study"))
    assert result.localization is not None
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


def test_nothing_but_the_threshold_changes(demo: Bundle, tmp_path: Path) -> None:
    made = with_threshold(demo, 0.61234567, tmp_path / "new.mfm", force=False)
    assert made.localization is not None
    assert made.localization.members[0].threshold == 0.612346
    before, after = (
        json.loads((bundle.path / DESCRIPTION).read_text(encoding="utf-8"))
        for bundle in (demo, made)
    )
    assert set(before["files"]) - set(after["files"]) == {"selftest.json"}
    for description in (before, after):
        del description["files"]
        del description["heads"]["localization"]["members"][0]["threshold"]
    assert before == after
    for name, record in made.files.items():
        assert record == demo.files[name]
    with pytest.raises(ExportError, match=r"exists; give --force to replace it"):
        with_threshold(demo, 0.5, tmp_path / "new.mfm", force=False)


def test_one_detector_is_wanted(tmp_path: Path) -> None:
    none: Any = SimpleNamespace(localization=None)
    with pytest.raises(ExportError, match="the bundle has 0 detectors; one is wanted"):
        with_threshold(none, 0.5, tmp_path / "new.mfm", force=False)
    two: Any = SimpleNamespace(localization=SimpleNamespace(members=(1, 2)))
    with pytest.raises(ExportError, match="the bundle has 2 detectors; one is wanted"):
        next(found_marks(two, [], 1))


def test_the_command(tmp_path: Path) -> None:
    new = tmp_path / "new.mfm"
    words = [str(demo_bundle_path()), str(new), "--folder", str(tmp_path), "--studies", "1"]
    done = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert Bundle.open(new).localization is not None
    again = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert again.exit_code == 1
    assert "exists; give --force" in again.output

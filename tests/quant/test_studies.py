"""Which studies calibrate and which judge."""

import shutil
from pathlib import Path

import pytest

from mammofm_lite import Model
from mammofm_lite.errors import ExportError, StudyError
from mammofm_lite.phantom import PhantomOptions
from mammofm_lite.quant import studies as module
from mammofm_lite.quant.studies import StudyChoice, find_studies, study_sets


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model.load(tiny, threads=1)


def test_every_study_of_a_folder_is_found_once(studies: Path) -> None:
    places = [found.place for found in find_studies(studies)]
    assert places == [studies / "a", studies / "b", studies / "c"]
    assert [found.place for found in find_studies(studies / "a")] == [studies / "a"]


def test_a_place_that_cannot_be_used_gives_the_reason(tmp_path: Path, studies: Path) -> None:
    shutil.copytree(studies, tmp_path / "all")
    (tmp_path / "all" / "bad").mkdir()
    (tmp_path / "all" / "bad" / "note.txt").write_text("nothing")
    last = list(find_studies(tmp_path / "all"))
    bad = [found for found in last if isinstance(found.study, StudyError)]
    assert [found.place.name for found in bad] == ["bad"]


def test_one_in_four_and_the_last_are_held_out(model: Model, studies: Path) -> None:
    sets = study_sets(StudyChoice(studies), model, print)
    assert (len(sets.calibration), len(sets.held_out)) == (2, 1)
    assert "every 4th study" in sets.split
    assert {case.views for case in sets.calibration} == {4}
    uids = {case.uid for case in (*sets.calibration, *sets.held_out)}
    assert len(uids) == 3
    text = str(sets.to_json())
    assert not any(uid in text for uid in uids)


def test_a_folder_of_its_own_is_held_out(model: Model, studies: Path) -> None:
    sets = study_sets(StudyChoice(studies / "a", studies / "b"), model, print)
    assert (len(sets.calibration), len(sets.held_out)) == (1, 1)
    assert sets.held_out[0].truth is not None
    assert sets.held_out[0].truth.seed == 1


def test_phantoms_are_written_nowhere_and_know_their_truth(
    model: Model, small: PhantomOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    real = module.write_phantom

    def write_small(folder: Path, *, seed: int) -> object:
        written.append((folder, seed))
        return real(folder, seed=seed, options=small)

    monkeypatch.setattr(module, "write_phantom", write_small)
    sets = study_sets(StudyChoice(phantoms=1), model, print)
    assert [seed for _, seed in written] == [5_000_000, 6_000_000, 6_000_001]
    assert not any(folder.exists() for folder, _ in written)
    assert [case.truth.seed for case in sets.held_out if case.truth] == [6_000_000, 6_000_001]


def test_studies_that_cannot_be_used_are_told_and_counted(
    model: Model, studies: Path, tmp_path: Path
) -> None:
    shutil.copytree(studies, tmp_path / "all")
    (tmp_path / "all" / "aa").mkdir()
    (tmp_path / "all" / "aa" / "note.txt").write_text("nothing")
    lines: list[str] = []
    sets = study_sets(StudyChoice(tmp_path / "all"), model, lines.append)
    assert sets.skipped == 1
    assert lines[0].strip().startswith("calibration study 2 skipped: ")


def test_wrong_choices_are_told(model: Model, studies: Path, tmp_path: Path) -> None:
    def refused(choice: StudyChoice, message: str) -> None:
        with pytest.raises(ExportError, match=message):
            study_sets(choice, model, lambda line: None)

    with pytest.raises(ExportError, match="give --calibration DIR or --phantoms N"):
        StudyChoice()
    refused(StudyChoice(tmp_path / "none"), "the calibration folder does not exist")
    (tmp_path / "empty").mkdir()
    refused(StudyChoice(tmp_path / "empty"), "the calibration folder holds no study that can be")
    refused(StudyChoice(studies / "a"), "holds one usable study, and one more must be held out")
    refused(StudyChoice(studies / "a", studies / "a"), "a study is given twice")
    shutil.copytree(studies / "a", tmp_path / "bad")
    (tmp_path / "bad" / "truth.json").write_text("{")
    refused(StudyChoice(tmp_path / "bad", studies / "b"), r"truth\.json of a phantom is not JSON")

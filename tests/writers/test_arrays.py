"""Arrays without UIDs: every view keeps its own picture, and DICOM results are refused."""

from pathlib import Path
from typing import Any

import pytest

from mammofm_lite import ArrayView, Model, StudyError, array_study
from mammofm_lite.dicom import Study, read_pixels
from mammofm_lite.progress import StageReporter
from mammofm_lite.writers.dicom import DICOM_KINDS
from mammofm_lite.writers.folder import ResultFolder


@pytest.fixture(scope="module")
def arrays(answered: Any) -> Study:
    instances = answered.study.views.values()
    return array_study([ArrayView(read_pixels(one), one.view) for one in instances])


@pytest.fixture(scope="module")
def written(arrays: Study, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """With pictures that were kept, and drawn anew."""
    parent = tmp_path_factory.mktemp("out")
    kinds = ("json", "text", "png", "heat", "html")
    kept, anew = (ResultFolder(parent / name, kinds, False) for name in ("kept", "anew"))
    model = Model.load(threads=2)
    result = model.infer(arrays, take_pixels=kept.take_pixels)
    for folder in (kept, anew):
        folder.take_study(arrays)
        folder.write(result, arrays, StageReporter(None), bundle=model.bundle)
    return [parent / "kept", parent / "anew"]


def test_every_view_has_its_own_picture(written: list[Path]) -> None:
    kept, anew = ({path.name: path.read_bytes() for path in one.iterdir()} for one in written)
    assert kept == anew
    pictures = [data for name, data in kept.items() if name.endswith(".png")]
    assert len(pictures) == len(set(pictures)) == 8


def test_the_texts_say_that_there_is_no_uid(written: list[Path]) -> None:
    assert "Study without a UID</p>" in (written[0] / "result.html").read_text()
    assert "without a UID\n" in (written[0] / "result.txt").read_text()


@pytest.mark.parametrize("kind", DICOM_KINDS)
def test_dicom_results_are_refused_before_the_model_runs(
    kind: str, arrays: Study, tmp_path: Path
) -> None:
    folder = ResultFolder(tmp_path / "out", ("json", kind), False)
    with pytest.raises(StudyError, match=r"^no DICOM result can be written of a study of arrays: "):
        folder.take_study(arrays)
    assert not (tmp_path / "out").exists()

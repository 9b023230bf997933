"""A study that was answered, once, for all tests of writers."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mammofm_lite import Model
from mammofm_lite.bundle import Bundle
from mammofm_lite.dicom import Study, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.results import StudyResult


@dataclass(frozen=True)
class Answered:
    """A phantom, the demonstration bundle's answer, and the bundle."""

    study: Study
    result: StudyResult
    bundle: Bundle


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    folder: Path = tmp_path_factory.mktemp("answered")
    write_phantom(folder, seed=21, options=PhantomOptions(574, 478, 0.4))
    model = Model.load(threads=1)
    study = read_study(folder)
    return Answered(study, model.infer(study), model.bundle)

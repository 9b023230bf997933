"""What a result says of files that were not taken as they are, and of windows not applied."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from mammofm_lite import Model, StudyResult
from mammofm_lite.deviations import DEVIATIONS
from mammofm_lite.dicom import ReadOptions, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.results import result_schema
from mammofm_lite.writers.text import summary

# pydicom's, of a file whose SOP class and file meta information are made to disagree
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

CR = "1.2.840.10008.5.1.4.1.1.1"
JPEG_LS = UID("1.2.840.10008.1.2.4.80")
JPEG_2000 = UID("1.2.840.10008.1.2.4.90")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load()


def phantom(folder: Path, photometric: Any = "MONOCHROME2") -> Path:
    options = PhantomOptions(
        rows=1147, columns=957, pixel_spacing_mm=0.2, photometric_interpretation=photometric
    )
    write_phantom(folder, seed=5, options=options)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom(tmp_path_factory.mktemp("study"))


def change(study: Path, target: Path, view: str, edit: Any) -> Path:
    shutil.copytree(study, target)
    path = target / f"{view}.dcm"
    ds = pydicom.dcmread(path)
    edit(ds)
    ds.save_as(path)
    return target


def deviations(result: StudyResult) -> dict[str, tuple[str, ...]]:
    jsonschema.validate(result.to_json(), result_schema())
    return {info.view: info.deviations for info in result.views if info.deviations}


def framed(ds: Any, value: int, width: int = 40) -> Any:
    pixels = ds.pixel_array.copy()
    pixels[:width] = pixels[-width:] = value
    pixels[:, :width] = pixels[:, -width:] = value
    ds.PixelData = pixels.tobytes()
    return ds


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_ordinary_files_have_none(model: Model, tmp_path: Path, photometric: str) -> None:
    """Phantoms name their air as padding, as the mammography profile wants it."""
    result = model.infer(phantom(tmp_path, photometric))
    assert deviations(result) == {}
    assert "Deviation" not in summary(result)
    ds = pydicom.dcmread(tmp_path / "L-CC.dcm")
    assert (ds.pixel_array == ds.PixelPaddingValue).any()


def test_padding_that_misleads(model: Model, study: Path, tmp_path: Path) -> None:
    """The frame of a value far off is named, and the answer is that of a dark frame."""

    def bright(ds: Any) -> None:
        ds.PixelPaddingValue = framed(ds, 65535) and 65535
        ds.BitsStored, ds.HighBit = 16, 15

    def dark(ds: Any) -> None:
        framed(ds, int(ds.pixel_array[40:-40, 40:-40].min()))

    result = model.infer(change(study, tmp_path / "a", "R-MLO", bright))
    assert deviations(result) == {"R-MLO": ("pixel_padding_masked",)}
    assert f"Deviation    R-MLO: {DEVIATIONS['pixel_padding_masked']}" in summary(result)
    expected = model.infer(change(study, tmp_path / "b", "R-MLO", dark))
    assert result.to_json()["heads"] == expected.to_json()["heads"]


def test_a_shutter_that_covers_something_bright(model: Model, study: Path, tmp_path: Path) -> None:
    def covered(ds: Any) -> None:
        framed(ds, 4000)
        ds.ShutterShape = "RECTANGULAR"
        ds.ShutterLeftVerticalEdge = ds.ShutterUpperHorizontalEdge = 41
        ds.ShutterRightVerticalEdge = ds.Columns - 40
        ds.ShutterLowerHorizontalEdge = ds.Rows - 40

    result = model.infer(change(study, tmp_path / "a", "L-CC", covered))
    assert deviations(result) == {"L-CC": ("display_shutter_masked",)}


def test_a_lying_transfer_syntax(model: Model, study: Path, tmp_path: Path) -> None:
    def lying(ds: Any) -> None:
        import jpeg_ls

        frame = bytes(jpeg_ls.encode_array(np.ascontiguousarray(ds.pixel_array)))
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = JPEG_2000

    result = model.infer(change(study, tmp_path / "a", "L-CC", lying))
    assert deviations(result) == {"L-CC": ("transfer_syntax_corrected",)}
    assert result.to_json()["heads"] == model.infer(study).to_json()["heads"]


def as_cr(ds: Any) -> None:
    ds.SOPClassUID, ds.Modality, ds.BodyPartExamined = CR, "CR", "BREAST"


def test_computed_radiography(model: Model, study: Path, tmp_path: Path) -> None:
    folder = change(study, tmp_path / "a", "L-CC", as_cr)
    assert model.infer(folder).missing_views == ("L-CC",)
    result = model.infer(read_study(folder, ReadOptions(allow_cr=True)))
    assert deviations(result) == {"L-CC": ("computed_radiography",)}


@pytest.mark.parametrize("allowed", [False, True])
def test_computed_radiography_on_the_command_line(
    study: Path, tmp_path: Path, allowed: bool
) -> None:
    folder = change(study, tmp_path / "a", "L-CC", as_cr)
    code = "from mammofm_lite.cli import main; main()"
    flags = ["--allow-cr"] if allowed else []
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", folder, "--heads", "diagnosis", *flags],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("! Missing    L-CC  (nothing is said" in done.stdout) is not allowed
    assert (DEVIATIONS["computed_radiography"] in done.stdout) is allowed


def test_what_became_of_the_windows(model: Model, study: Path, tmp_path: Path) -> None:
    """Never applied, always told; another window changes no answer."""

    def windowed(ds: Any) -> None:
        ds.WindowCenter, ds.WindowWidth = [100, 2000], [50, 4000]
        ds.WindowCenterWidthExplanation = ["A", "B"]
        ds.VOILUTFunction = "SIGMOID"

    result = model.infer(change(study, tmp_path / "a", "L-CC", windowed)).to_json()
    voi = {info["view"]: info["voi"] for info in result["views"]}
    assert voi["L-CC"] == {
        "file": {"windows": [[100.0, 50.0], [2000.0, 4000.0]], "function": "SIGMOID", "tables": 0},
        "applied": "none",
        "why": "the reference applies no VOI LUT",
    }
    assert voi["R-CC"]["applied"] == "none"
    assert len(voi["R-CC"]["file"]["windows"]) == 1
    assert result["heads"] == model.infer(study).to_json()["heads"]


def test_results_of_older_schemas_stay_valid(model: Model, study: Path) -> None:
    result = model.infer(study).to_json()
    assert result["schema_version"] == "1.3"
    older = copy.deepcopy(result)
    older["schema_version"] = "1.2"
    del older["software"]["attention"], older["software"]["kernels"]
    jsonschema.validate(older, result_schema())
    older["schema_version"] = "1.1"
    del older["heads"]["localization"]["result"]["thresholds"]
    jsonschema.validate(older, result_schema())
    older["schema_version"] = "1.0"
    for info in older["views"]:
        del info["deviations"], info["voi"]
    jsonschema.validate(older, result_schema())

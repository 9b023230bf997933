"""The files: their attributes, their bytes, and what a strict validator says of them."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mammofm_lite import __version__
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.phantom import (
    TRANSFER_SYNTAXES,
    PhantomOptions,
    PhantomTruth,
    render_phantom,
    write_phantom,
)
from mammofm_lite.views import STANDARD_VIEWS, laterality, projection

DCIODVFY = shutil.which("dciodvfy")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, small: PhantomOptions) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "new" / "study"
    write_phantom(folder, seed=11, options=small)
    return folder


def test_folder_holds_four_views_and_the_truth(study: Path, small: PhantomOptions) -> None:
    names = {path.name for path in study.iterdir()}
    assert names == {f"{view}.dcm" for view in STANDARD_VIEWS} | {"truth.json"}
    written = PhantomTruth.from_json(json.loads((study / "truth.json").read_text()))
    assert written == render_phantom(11, small)[0]


def test_same_seed_same_bytes(study: Path, small: PhantomOptions, tmp_path: Path) -> None:
    write_phantom(tmp_path, seed=11, options=small)
    for path in study.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_other_pixels_are_another_image(study: Path, small: PhantomOptions, tmp_path: Path) -> None:
    write_phantom(tmp_path, seed=11, options=dataclasses.replace(small, lesions=3))
    write_phantom(tmp_path / "other", seed=12, options=small)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        uids = {
            pydicom.dcmread(folder / "L-CC.dcm")[keyword].value
            for folder in (study, tmp_path, tmp_path / "other")
        }
        assert len(uids) == 3


@pytest.mark.parametrize("view", STANDARD_VIEWS)
def test_pixels_come_back(study: Path, small: PhantomOptions, view: str) -> None:
    dataset = pydicom.dcmread(study / f"{view}.dcm")
    _, images = render_phantom(11, small)
    np.testing.assert_array_equal(dataset.pixel_array, images[view])  # type: ignore[index]


def test_attributes_of_the_view(study: Path) -> None:
    # Directions of rows and columns: mammograms as read, lateral or cranial side up.
    orientations = {
        "L-CC": ["A", "R"],
        "L-MLO": ["A", "FR"],
        "R-CC": ["P", "L"],
        "R-MLO": ["P", "FL"],
    }
    codes = {"CC": "399162004", "MLO": "399368009"}
    for view in STANDARD_VIEWS:
        dataset = pydicom.dcmread(study / f"{view}.dcm")
        assert list(dataset.PatientOrientation) == orientations[view]
        assert dataset.ImageLaterality == laterality(view)
        assert dataset.ViewPosition == projection(view)
        (code,) = dataset.ViewCodeSequence
        assert code.CodeValue == codes[projection(view)]
        assert code.CodingSchemeDesignator == "SCT"
        assert len(code.ViewModifierCodeSequence) == 0
        assert dataset.BreastImplantPresent == dataset.PartialView == "NO"
        # Where rows run anterior the chest wall is on the left of the image, else on the right.
        breast = dataset.pixel_array > 0
        chest_left = bool(breast[:, 0].mean() > breast[:, -1].mean())
        assert chest_left == (dataset.PatientOrientation[0] == "A")


def test_views_belong_together(study: Path) -> None:
    datasets = [pydicom.dcmread(path) for path in study.glob("*.dcm")]
    assert len({dataset.StudyInstanceUID for dataset in datasets}) == 1
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 4
    for dataset in datasets:
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        for uid in (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID):
            assert uid.startswith("2.25.")
            assert uid.is_valid


def test_every_file_says_that_it_is_synthetic(study: Path) -> None:
    for path in study.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.2"
        assert dataset.PatientName == "PHANTOM^SYNTHETIC"
        assert dataset.PatientID == "PHANTOM-11"
        assert dataset.SeriesDescription == "Synthetic phantom, not a patient"
        assert dataset.ImageComments == "Synthetic phantom, not a patient"
        assert dataset.Manufacturer == "mammofm-lite"
        assert dataset.ManufacturerModelName == "phantom"
        assert dataset.SoftwareVersions == __version__
        # Readers skip quality-control images.
        assert "QualityControlImage" not in dataset


@pytest.mark.parametrize(
    ("interpretation", "shape", "sign", "padding"),
    [("MONOCHROME2", "IDENTITY", -1, 0), ("MONOCHROME1", "INVERSE", 1, 4095)],
)
def test_photometry_is_consistent(
    small: PhantomOptions,
    tmp_path: Path,
    interpretation: str,
    shape: str,
    sign: int,
    padding: int,
) -> None:
    chosen = dataclasses.replace(small, photometric_interpretation=interpretation)  # type: ignore[arg-type]
    write_phantom(tmp_path, seed=0, options=chosen)
    dataset = pydicom.dcmread(tmp_path / "R-MLO.dcm")
    assert dataset.PhotometricInterpretation == interpretation
    assert dataset.PresentationLUTShape == shape
    assert dataset.PixelIntensityRelationshipSign == sign
    assert dataset.PixelPaddingValue == padding
    low = dataset.WindowCenter - dataset.WindowWidth / 2
    high = dataset.WindowCenter + dataset.WindowWidth / 2
    tissue = dataset.pixel_array[dataset.pixel_array != padding]
    assert np.mean((tissue >= low) & (tissue <= high)) > 0.97


def test_a_long_seed_fits_the_patient_id(small: PhantomOptions, tmp_path: Path) -> None:
    write_phantom(tmp_path, seed=10**80 + 7, options=small)
    assert pydicom.dcmread(tmp_path / "L-CC.dcm").PatientID == "PHANTOM-7"


def test_a_long_spacing_fits_its_attribute(tmp_path: Path) -> None:
    """A decimal string has at most 16 characters."""
    write_phantom(tmp_path, seed=1, options=PhantomOptions(300, 250, 0.7 + 1e-13))
    spacing = pydicom.dcmread(tmp_path / "L-CC.dcm").ImagerPixelSpacing
    assert spacing == [pytest.approx(0.7)] * 2


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
@pytest.mark.parametrize("bits", [12, 14])
def test_every_transfer_syntax_is_read_back(
    small: PhantomOptions, tmp_path: Path, syntax: str, bits: int
) -> None:
    chosen = dataclasses.replace(small, transfer_syntax=syntax, bits_stored=bits)
    write_phantom(tmp_path, seed=11, options=chosen)
    _, images = render_phantom(11, dataclasses.replace(small, bits_stored=bits))
    views = read_study(tmp_path).views
    assert set(views) == set(STANDARD_VIEWS)
    for view, instance in views.items():
        np.testing.assert_array_equal(read_pixels(instance), images[view])
    dataset = pydicom.dcmread(tmp_path / "L-CC.dcm")
    assert dataset.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID


def test_technique_follows_thickness(small: PhantomOptions, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_phantom(tmp_path / str(seed), seed=seed, options=small)
    thin, thick = sorted(
        (pydicom.dcmread(tmp_path / str(seed) / "L-CC.dcm") for seed in (1, 2)),
        key=lambda dataset: dataset.BodyPartThickness,
    )
    assert 25 <= thin.BodyPartThickness < thick.BodyPartThickness <= 90
    assert thin.KVP <= thick.KVP
    assert thin.Exposure < thick.Exposure
    assert thin.ExposureInuAs == thin.ExposureTime * thin.XRayTubeCurrent


@pytest.mark.skipif(
    DCIODVFY is None, reason="dciodvfy is missing: make validate-tools (Debian: dicom3tools)"
)
@pytest.mark.parametrize(
    "changes",
    [
        {"photometric_interpretation": "MONOCHROME1"},
        {"shift": "vendor", "bits_stored": 14},
        # dciodvfy does not inflate; a deflated file holds the same elements (see above).
        *({"transfer_syntax": syntax} for syntax in TRANSFER_SYNTAXES if syntax != "deflated"),
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_dciodvfy_finds_no_error(
    small: PhantomOptions, tmp_path: Path, changes: dict[str, Any]
) -> None:
    chosen = dataclasses.replace(small, **changes)
    write_phantom(tmp_path, seed=11, options=chosen)
    for view in STANDARD_VIEWS:
        told = subprocess.run(
            [str(DCIODVFY), "-new", str(tmp_path / f"{view}.dcm")],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in (told.stdout + told.stderr).splitlines() if line.strip()]
        # CC and MLO are no defined terms of ViewPosition, and yet what every reader expects there.
        remarks = [line for line in lines if ("Error" in line or "Warning" in line)]
        assert [line for line in remarks if "ViewPosition" not in line] == []
        assert any("MammographyImageForPresentation" in line for line in lines)
        assert told.returncode == 0

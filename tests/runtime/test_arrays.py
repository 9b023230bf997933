"""numpy arrays in place of DICOM: the same answers, and refusals of what makes no sense."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammofm_lite import ArrayView, InferOptions, Model, UsageError, array_study
from mammofm_lite.background import Background, HiddenPixels
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.results import result_schema

jsonschema = pytest.importorskip("jsonschema")
DIAGNOSIS = InferOptions(("diagnosis",))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(threads=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(folder, seed=5, options=PhantomOptions(rows=1147, columns=957,
                  pixel_spacing_mm=0.2))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def view(study: Path) -> ArrayView:
    instance = read_study(study).views["R-MLO"]
    return ArrayView(read_pixels(instance), "R-MLO", pixel_spacing_mm=instance.pixel_spacing_mm)


def test_a_study_of_arrays_is_answered_as_its_files_are(model: Model, study: Path) -> None:
    read = read_study(study)
    views = [
        ArrayView(
            read_pixels(instance),
            name,
            pixel_spacing_mm=instance.pixel_spacing_mm,
            sop_instance_uid=instance.sop_instance_uid,
            background=instance.background,
        )
        for name, instance in read.views.items()
    ]
    ours = model.infer(array_study(views[::-1], read.study_instance_uid))
    theirs = model.infer(read)
    assert ours.heads == theirs.heads
    assert [v.geometry for v in ours.views] == [v.geometry for v in theirs.views]
    assert [(f.index, f.view, f.detail) for f in ours.files] == [
        (i, v.view, f"used for {v.view}") for i, v in enumerate(views[::-1], start=1)
    ]
    jsonschema.validate(ours.to_json(), result_schema())


def test_without_identifiers(model: Model, view: ArrayView) -> None:
    result = model.infer(array_study([view]), DIAGNOSIS).to_json()
    jsonschema.validate(result, result_schema())
    assert result["study_instance_uid"] == result["views"][0]["sop_instance_uid"] == ""
    assert result["files"][0]["sop_instance_uid"] is None


@pytest.mark.parametrize("how", ["transposed", "reversed", "every second"])
def test_any_strides(how: str, model: Model, view: ArrayView) -> None:
    pixels = view.pixels
    array = {
        "transposed": np.ascontiguousarray(pixels.T).T,
        "reversed": np.ascontiguousarray(pixels[::-1, ::-1])[::-1, ::-1],
        "every second": np.repeat(pixels, 2, axis=1)[:, ::2],
    }[how]
    assert not array.flags.c_contiguous
    plain = model.infer(array_study([ArrayView(pixels, "L-CC")]), DIAGNOSIS)
    strided = model.infer(array_study([ArrayView(array, "L-CC")]), DIAGNOSIS)
    assert strided.to_json() == plain.to_json()


PLAIN = np.zeros((50, 40), np.uint16)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"view": "CC"}, "view 'CC': allowed are L-CC, L-MLO, R-CC, R-MLO"),
    ({"pixels": PLAIN.tolist()}, "pixels must be a numpy array of uint8, int8, uint16, int16"),
    ({"pixels": PLAIN.astype(np.int32)}, "pixels must be a numpy array of uint8, int8"),
    ({"pixels": PLAIN.astype(">u2")}, "pixels must be in this machine's byte order"),
    ({"pixels": PLAIN[0]}, r"pixels are \[40\], not an image"),
    ({"pixels": PLAIN[:0]}, r"pixels are \[0, 40\], not an image"),
    ({"pixels": np.broadcast_to(PLAIN[:1, :1], (40000, 2))}, "not an image of rows x columns"),
    ({"photometric_interpretation": "RGB"}, "is 'RGB'; allowed: MONOCHROME1, MONOCHROME2"),
    ({"pixel_spacing_mm": (0.1, 0.0)}, "pixel_spacing_mm must be two numbers above 0, at most"),
    ({"pixel_spacing_mm": (1e308, 0.1)}, "pixel_spacing_mm must be two numbers above 0, at most"),
    ({"sop_instance_uid": "DOE^JANE"}, "sop_instance_uid is not a UID: 1 to 64 digits and points"),
    ({"bits_stored": 17}, "bits_stored is 17, allowed 8 to 16"),
    ({"pixels": PLAIN + 256, "bits_stored": 8}, "256 to 256 do not fit into bits_stored 8; mask"),
    (
        {"pixels": PLAIN.astype(np.int16) - 129, "bits_stored": 8},
        "-129 to -129 do not fit into bits_stored 8; mask",
    ),
]


@pytest.mark.parametrize(("fields", "line"), WRONG)
def test_views_that_make_no_sense(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line) as error:
        ArrayView(**{"pixels": PLAIN, "view": "L-CC", **fields})
    assert "DOE" not in str(error.value)


def test_studies_that_make_no_sense() -> None:
    view = ArrayView(PLAIN, "L-CC")
    with pytest.raises(UsageError, match="no view given; a study has one to four"):
        array_study([])
    with pytest.raises(UsageError, match="two views are L-CC; choose one of them"):
        array_study([view, view])
    with pytest.raises(UsageError, match="study_instance_uid is not a UID"):
        array_study([view], "x")


def test_hidden_pixels_of_another_size(model: Model, view: ArrayView) -> None:
    hidden = Background(None, (HiddenPixels(np.zeros((3, 4), np.bool_)),))
    study = array_study([ArrayView(view.pixels, "L-CC", background=hidden)])
    with pytest.raises(UsageError, match=r"hidden pixels are \[3, 4\], the image \[1147, 957\]"):
        model.infer(study, DIAGNOSIS)


def test_an_array_is_not_changed(model: Model, view: ArrayView) -> None:
    before = view.pixels.copy()
    model.infer(array_study([view]), DIAGNOSIS)
    np.testing.assert_array_equal(view.pixels, before)

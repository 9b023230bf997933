"""Pictures in the file's own window, and what is said where that cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from mammofm_lite.background import Background, PixelPadding
from mammofm_lite.dicom import Instance, VoiLut, read_pixels, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.writers._picture import file_window, view_picture


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Instance:
    folder = tmp_path_factory.mktemp("study")
    options = PhantomOptions(rows=574, columns=479, pixel_spacing_mm=0.4)
    write_phantom(folder, seed=5, options=options)
    return read_study(Path(folder)).views["L-CC"]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
@pytest.mark.parametrize("window", [(2000.0, 3000.0), (1500.5, 10.0), (300.0, 1.0)])
def test_the_first_window_as_pydicom_applies_it(
    instance: Instance, function: str, window: tuple[float, float]
) -> None:
    stored = read_pixels(instance)
    voi = VoiLut((window, (1.0, 2.0)), function)
    shown, said = view_picture(stored, replace(instance, voi=voi), ())
    ds = Dataset()
    ds.WindowCenter, ds.WindowWidth = window
    ds.VOILUTFunction, ds.PhotometricInterpretation = function, "MONOCHROME2"
    ds.BitsStored, ds.PixelRepresentation = 16, 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    expected = apply_windowing(stored.astype(np.float64), ds) / 65535 * 255
    assert np.abs(shown - expected).max() <= 0.51
    assert f"{window[0]:g} / {window[1]:g}" in said


@pytest.mark.parametrize(
    ("voi", "words"),
    [
        (VoiLut(), "the file has none"),
        (VoiLut(((1.0, 2.0),), "SIGMOID"), "cannot be applied here"),
        (VoiLut(((1.0, 2.0),), None), "cannot be applied here"),
        (VoiLut(((1.0, 0.0),), "LINEAR"), "cannot be applied here"),
        (VoiLut(((1.0, 2.0),), "LINEAR", 1), "table"),
    ],
)
def test_what_cannot_be_applied_is_said(voi: VoiLut, words: str) -> None:
    window, said = file_window(voi)
    assert window is None
    assert "a window of our own" in said
    assert words in said


def test_what_was_masked_is_masked_in_the_picture(instance: Instance) -> None:
    stored: Any = read_pixels(instance)
    plain = replace(instance, voi=VoiLut())
    expected, _ = view_picture(stored, plain, ())
    framed = stored.copy()
    framed[:9] = 60000
    dark = stored.copy()
    dark[:9] = stored[9:].min()
    expected, _ = view_picture(dark, plain, ())
    padded = replace(plain, background=Background(PixelPadding(60000, 60000)))
    shown, _ = view_picture(framed, padded, ("pixel_padding_masked",))
    np.testing.assert_array_equal(shown, expected)
    unmasked, _ = view_picture(framed, padded, ())
    assert not np.array_equal(unmasked, expected)

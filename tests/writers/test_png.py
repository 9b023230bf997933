"""Overlay pictures: what a reader needs is there, and nothing of the image is falsified."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.writers._font import text_mask
from mammofm_lite.writers.png import (
    OverlayHeatmap,
    OverlayMark,
    display_image,
    encode_png,
    render_overlay,
    write_png,
)

YELLOW, BLUE = (240, 228, 66), (86, 180, 233)


def geometry(**given: Any) -> ViewGeometry:
    """400 x 800 pixels, all of them kept, shown at twice the size."""
    arguments: dict[str, Any] = {
        "rows": 800,
        "columns": 400,
        "border_px": 0,
        "row_runs": ((0, 800),),
        "column_runs": ((0, 400),),
        "model_height": 200,
        "model_width": 100,
        "pixel_spacing_mm": (0.1, 0.1),
    }
    return ViewGeometry(**(arguments | given))


def tissue() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(60, 200, (800, 400), dtype=np.uint8)


def is_colour(rgb: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (rgb == np.array(colour)).all(axis=-1)
    return found


# -------------------- the file


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 20), st.just(3))))
@settings(max_examples=60, deadline=None)
def test_a_png_is_read_back_exactly(rgb: npt.NDArray[np.uint8]) -> None:
    with Image.open(BytesIO(encode_png(rgb))) as picture:
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), rgb)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 20))))
@settings(max_examples=60, deadline=None)
def test_a_grey_png_is_read_back_exactly(grey: npt.NDArray[np.uint8]) -> None:
    with Image.open(BytesIO(encode_png(grey))) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), grey)


def test_the_same_picture_gives_the_same_bytes() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert encode_png(rgb) == encode_png(np.asfortranarray(rgb))


def test_a_photograph_is_compressed() -> None:
    ramp = np.add.outer(np.arange(300), np.arange(200)).astype(np.uint8)
    assert len(encode_png(np.repeat(ramp[..., None], 3, axis=-1))) < 300 * 200 * 3 / 50


def test_write_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    rgb = np.zeros((4, 5, 3), np.uint8)
    write_png(tmp_path / "view.png", rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["view.png"]
    assert (tmp_path / "view.png").read_bytes() == encode_png(rgb)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "view.png").mkdir()
    with pytest.raises(OSError, match=r"view\.png"):
        write_png(tmp_path / "view.png", np.zeros((4, 5, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["view.png"]


# -------------------- stored pixels for the eye


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -100.0), (-2.0, 9000.0)])
def test_a_window_is_applied_as_pydicom_applies_it(
    photometric: str, slope: float, intercept: float
) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    rescaled = stored * slope + intercept
    centre, width = float(rescaled.mean()), float(np.ptp(rescaled) / 3)
    ds = Dataset()
    ds.PhotometricInterpretation = photometric
    ds.WindowCenter, ds.WindowWidth = centre, width
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0  # applied above
    ds.BitsStored, ds.PixelRepresentation = 8, 0  # the output range: 0 to 255
    expected = apply_windowing(rescaled, ds)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    shown = display_image(stored, photometric, slope, intercept, window=(centre, width))
    # float32 against float64, then rounded: half a grey level and the float32 error
    np.testing.assert_allclose(shown, expected, rtol=0, atol=0.51)


@pytest.mark.parametrize(("photometric", "slope", "light_is_high"), [
    ("MONOCHROME2", 1.0, True),
    ("MONOCHROME1", 1.0, False),
    ("MONOCHROME2", -1.0, False),
    ("MONOCHROME1", -1.0, True),
])  # fmt: skip
def test_tissue_is_light_without_a_window(
    photometric: str, slope: float, light_is_high: bool
) -> None:
    stored = np.linspace(0, 4000, 10_000).astype(np.uint16).reshape(100, 100)
    shown = display_image(stored, photometric, slope, 0.0)
    assert (shown[0, 0], shown[-1, -1]) == ((0, 255) if light_is_high else (255, 0))


def test_a_small_marker_does_not_darken_the_breast() -> None:
    stored = np.linspace(0, 2000, 40_000).astype(np.uint16).reshape(200, 200)
    stored[:4, :8] = 4095
    shown = display_image(stored, "MONOCHROME2", 1.0, 0.0)
    assert shown[-1, -1] == 255


def test_a_constant_image_is_black() -> None:
    assert not display_image(np.full((20, 20), 7, np.uint16), "MONOCHROME2", 1.0, 0.0).any()


# -------------------- the overlay


def test_without_marks_the_view_is_only_scaled() -> None:
    image = np.full((800, 400), 77, np.uint8)
    rgb = render_overlay(image, geometry(), [], caption=["R-CC"])
    assert (rgb[:1600, :800] == 77).all()
    assert rgb.shape[0] > 1600


def test_a_finding_is_outlined_and_not_covered() -> None:
    view, image = geometry(), tissue()
    plain = render_overlay(image, view, [])
    marked = render_overlay(image, view, [OverlayMark((100, 300, 150, 400), "mass", 0.87)])
    np.testing.assert_array_equal(marked[600:800, 200:300], plain[600:800, 200:300])
    ring = is_colour(marked[:1600, :800], YELLOW)
    assert ring[700, 196:199].all()  # left of the box, behind one black pixel
    assert ring[700, 301:304].all()
    assert ring[596:599, 250].all()
    assert ring[801:804, 250].all()
    assert (marked[700, 199] == 0).all()
    assert (marked[700, 195] == 0).all()
    assert not ring[600:800, 200:300].any()


def test_the_outline_of_a_finding_at_the_chest_wall_is_seen() -> None:
    marks = [OverlayMark((-20, 300, 80, 400), "mass", 0.87)]
    ring = is_colour(render_overlay(tissue(), geometry(), marks)[:1600], YELLOW)
    assert ring[700, 1:4].all()


def test_the_text_keeps_off_the_findings() -> None:
    view, image = geometry(), tissue()
    boxes = [(100, 300, 180, 380), (130, 230, 210, 300), (110, 384, 190, 460)]
    marks = [OverlayMark(box, "mass", 0.9 - i / 10) for i, box in enumerate(boxes)]
    plain, marked = render_overlay(image, view, []), render_overlay(image, view, marks)
    for x1, y1, x2, y2 in boxes:
        inside = (slice(2 * y1, 2 * y2), slice(2 * x1, 2 * x2))
        others = is_colour(marked[inside], YELLOW) | (marked[inside] == 0).all(axis=-1)
        changed = (marked[inside] != plain[inside]).any(axis=-1)
        assert not (changed & ~others).any()  # outlines may cross, plates may not


def test_the_text_stays_by_a_small_finding_in_a_large_one() -> None:
    """And crosses no line: of places that are all on the large box, one between the lines."""
    large, small = (20, 100, 380, 700), (150, 350, 190, 390)
    marks = [OverlayMark(small, "cyst", 0.9), OverlayMark(large, "mass", 0.5)]
    marked = render_overlay(tissue(), geometry(), marks, labels=("cyst", "mass"))
    rows, columns = np.nonzero(is_colour(marked, YELLOW))
    assert 2 * small[1] - 35 < rows.min()
    assert rows.max() < 2 * small[3] + 35
    assert columns.max() < 2 * small[0] + 12 * len("cyst 0.90") + 10
    lines = is_colour(marked, BLUE)[2 * small[1] - 35 : 2 * small[3] + 35]
    assert lines[:, 2 * large[0] - 3].all()
    assert lines[:, 2 * large[2] + 2].all()


def test_a_label_has_one_colour_in_all_views() -> None:
    mark = OverlayMark((100, 300, 150, 400), "mass", 0.87)
    alone = render_overlay(tissue(), geometry(), [mark])
    known = render_overlay(tissue(), geometry(), [mark], labels=("calcification", "mass"))
    assert is_colour(alone, YELLOW).any()
    assert is_colour(known, BLUE).any()
    assert not is_colour(known, YELLOW).any()


def test_score_and_label_are_written() -> None:
    marks = [OverlayMark((100, 300, 150, 400), "suspicious_mass", 0.876)]
    ink = is_colour(render_overlay(tissue(), geometry(), marks), YELLOW)
    mask = text_mask("suspicious mass 0.88", 2) > 0.999
    top, left = 600 - 5 - 22 + 3, 200 - 5 + 5  # above the outline, inside the plate
    found = ink[top : top + mask.shape[0], left : left + mask.shape[1]]
    assert found[mask].all()


def test_a_long_caption_is_wrapped_and_kept_whole() -> None:
    short = render_overlay(tissue(), geometry(), [], caption=["R-CC", "word"])
    long = render_overlay(tissue(), geometry(), [], caption=["R-CC", "word " * 40])
    lines = -(-40 * 5 // ((800 - 32) // 12))
    assert long.shape[0] - short.shape[0] == (lines - 1) * 22
    assert (long[-20:-16] != long[-1, 0]).any() or (long[-40:-16] != long[-1, 0]).any()


def test_the_scale_bar_has_the_length_it_says() -> None:
    """0.1 mm per pixel, shown twice as large: 20 mm are 400 px, too long for a third of 800."""
    rgb = render_overlay(tissue(), geometry(), [])
    bar = is_colour(rgb[1600:, : 16 + 200 + 9], (235, 235, 235))  # 10 mm, before its text
    assert bar.sum(axis=1).max() == 200


def test_no_scale_bar_without_spacing() -> None:
    rgb = render_overlay(tissue(), geometry(pixel_spacing_mm=None), [])
    assert rgb.shape == (1600, 800, 3)


def test_a_narrow_view_is_padded_for_its_caption() -> None:
    view = geometry(columns=100, column_runs=((0, 100),), pixel_spacing_mm=None)
    rgb = render_overlay(np.full((800, 100), 90, np.uint8), view, [])
    assert rgb.shape == (1600, 720, 3)
    assert (rgb[:, 260:460] == 90).all()
    assert (rgb[:, :260] == rgb[0, 0]).all()


def test_refuses_another_image() -> None:
    with pytest.raises(ValueError, match=r"image is \[4, 4\], the geometry tells \[800, 400\]"):
        render_overlay(np.zeros((4, 4), np.uint8), geometry(), [])


# -------------------- heat


def tinted(view: ViewGeometry, heatmap: OverlayHeatmap) -> npt.NDArray[np.bool_]:
    image = np.full((800, 400), 100, np.uint8)
    rgb = render_overlay(image, view, [], heatmap=heatmap)[:1600, :800]
    changed: npt.NDArray[np.bool_] = (rgb != 100).any(axis=-1)
    return changed


@pytest.mark.parametrize("mirrored", [False, True])
def test_heat_lies_where_its_cell_lies(mirrored: bool) -> None:
    values = np.zeros((20, 10), np.float32)
    values[4, 2] = 1  # prepared x 20..30, y 40..50 of 100 x 200
    view = geometry(mirrored=mirrored, column_runs=((40, 240),), row_runs=((100, 300), (500, 700)))
    changed = tinted(view, OverlayHeatmap(values))
    y, x = np.nonzero(changed)
    centre_px = view.to_original([25, 45]) * 2  # shown twice as large
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], centre_px, rtol=0, atol=1)
    assert not changed[:200].any()  # not kept
    assert not changed[:, 480:].any()


def test_an_extent_shifts_the_heat() -> None:
    values = np.zeros((2, 2), np.float32)
    values[1, 1] = 1
    y, x = np.nonzero(tinted(geometry(), OverlayHeatmap(values, extent_px=(40, 100, 60, 140))))
    assert x.min() >= 40 * 8
    assert x.max() < 60 * 8
    assert y.min() >= 100 * 8
    assert y.max() < 140 * 8


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan), np.full((4, 4), 3.0)])
def test_heat_without_information_tints_nothing(values: npt.NDArray[Any]) -> None:
    assert not tinted(geometry(), OverlayHeatmap(values.astype(np.float32))).any()


# -------------------- the font


def test_every_character_is_drawn_and_differs() -> None:
    drawn = {text_mask(chr(code), 1).tobytes() for code in range(32, 127)}
    assert len(drawn) == 95
    assert not text_mask(" ", 2).any()


def test_unknown_characters_become_question_marks() -> None:
    np.testing.assert_array_equal(text_mask("a\n\u00e9\u00d7", 2), text_mask("a??x", 2))

"""What a phantom looks like, measured independently of how it is made."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from mammofm_lite import UsageError
from mammofm_lite.phantom import PhantomOptions, PhantomTruth, render_phantom
from mammofm_lite.views import STANDARD_VIEWS, ViewName, laterality

Pixels = npt.NDArray[np.uint16]
Study = tuple[PhantomTruth, dict[ViewName, Pixels]]


def largest_part(image: Pixels) -> npt.NDArray[np.bool_]:
    """The largest connected part above air: the breast without the marker."""
    labels, _ = ndimage.label(image > 0)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    part: npt.NDArray[np.bool_] = labels == sizes.argmax()
    return part


@st.composite
def options(draw: st.DrawFn) -> PhantomOptions:
    """Fields from the smallest to beyond the largest detector, with large pixels."""
    spacing = draw(st.floats(0.7, 1.0))
    return PhantomOptions(
        rows=draw(st.integers(int(100 / spacing) + 1, int(310 / spacing))),
        columns=draw(st.integers(int(80 / spacing) + 1, int(250 / spacing))),
        pixel_spacing_mm=spacing,
        lesions=draw(st.none() | st.integers(0, 3)),
        photometric_interpretation="MONOCHROME2",
        bits_stored=draw(st.integers(12, 14)),
    )


# -------------------- determinism


def test_same_seed_same_study(small: PhantomOptions) -> None:
    (truth, images), (truth_again, images_again) = (
        render_phantom(5, small),
        render_phantom(5, small),
    )
    assert truth == truth_again
    for view in STANDARD_VIEWS:
        np.testing.assert_array_equal(images[view], images_again[view])


def test_other_seed_other_study(small: PhantomOptions) -> None:
    _, first = render_phantom(5, small)
    _, second = render_phantom(6, small)
    for view in STANDARD_VIEWS:
        assert np.mean(first[view] != second[view]) > 0.2


# -------------------- the breast


@given(seed=st.integers(0, 2**64), chosen=options())
@settings(max_examples=20, deadline=None)
def test_breasts_touch_their_edge_and_leave_air(seed: int, chosen: PhantomOptions) -> None:
    truth, images = render_phantom(seed, chosen)
    assert list(images) == list(STANDARD_VIEWS)
    for view, image in images.items():
        assert image.shape == (chosen.rows, chosen.columns)
        assert image.dtype == np.uint16
        assert image.max() < 2**chosen.bits_stored
        chest, air = (0, -1) if laterality(view) == "L" else (-1, 0)
        breast = largest_part(image)
        # A field of odd proportions holds a small breast.
        assert breast[:, chest].mean() > 0.1
        assert not breast[:, air].any()
        assert 0.05 < breast.mean() < 0.7
    assert chosen.lesions is None or len(truth.lesions) == chosen.lesions
    for lesion in truth.lesions:
        for view, (x1, y1, x2, y2) in lesion.boxes_px.items():
            assert laterality(view) == lesion.laterality
            assert 0 <= x1 < x2 <= chosen.columns
            assert 0 <= y1 < y2 <= chosen.rows


@pytest.mark.parametrize("seed", range(6))
def test_breast_fills_a_fair_share_of_a_detector(seed: int, small: PhantomOptions) -> None:
    for image in render_phantom(seed, small)[1].values():
        breast = largest_part(image)
        assert 0.15 < breast.mean() < 0.55
        assert np.mean(image == 0) > 0.4
        # Nothing but air outside of breast and marker, and no holes inside the breast.
        np.testing.assert_array_equal(ndimage.binary_fill_holes(breast), breast)


def test_marker_stands_in_the_air_on_the_far_side(small: PhantomOptions) -> None:
    _, images = render_phantom(1, small)
    for view, image in images.items():
        marker = (image > 0) & ~largest_part(image)
        columns = np.flatnonzero(marker.any(axis=0))
        far = columns > 0.6 * small.columns if laterality(view) == "L" else columns < 96
        assert columns.size
        assert far.all()


def test_left_and_right_are_alike_but_not_the_same(small: PhantomOptions) -> None:
    _, images = render_phantom(2, dataclasses.replace(small, lesions=0))
    _, others = render_phantom(3, dataclasses.replace(small, lesions=0))
    for kind in ("CC", "MLO"):
        left, right = images[f"L-{kind}"], images[f"R-{kind}"][:, ::-1]  # type: ignore[index]
        alike = correlation(left, right)
        strangers = correlation(left, others[f"R-{kind}"][:, ::-1])  # type: ignore[index]
        assert not np.array_equal(left, right)
        assert alike > 0.5
        assert alike > strangers + 0.2


def correlation(first: Pixels, second: Pixels) -> float:
    """Of structures between 5 and 30 mm, inside both breasts."""
    both = ndimage.binary_erosion(largest_part(first) & largest_part(second), iterations=15)
    bands = [
        ndimage.gaussian_filter(image.astype(float), 4)
        - ndimage.gaussian_filter(image.astype(float), 20)
        for image in (first, second)
    ]
    return float(np.corrcoef(bands[0][both], bands[1][both])[0, 1])


@pytest.mark.parametrize("seed", [3, 4, 12])
def test_power_spectrum_of_the_parenchyma_falls_with_the_third_power(seed: int) -> None:
    """Radial fit between 0.1 and 1 cycles per mm, as in Burgess's measurements of mammograms."""
    spacing, size = 0.2, 256
    chosen = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=spacing, lesions=0)
    _, images = render_phantom(seed, chosen)
    slopes = []
    for kind in ("L-CC", "L-MLO"):
        image = images[kind].astype(float)  # type: ignore[index]
        depth = ndimage.distance_transform_edt(image > 0)
        row = int(depth[:, 40 + size // 2].argmax())
        region = image[row - size // 2 : row + size // 2, 40 : 40 + size]
        window = np.outer(*[signal.windows.hann(size)] * 2)
        power = np.abs(np.fft.fft2((region - region.mean()) * window)) ** 2
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, spacing)] * 2))
        edges = np.geomspace(0.1, 1.0, 13)
        ring = np.digitize(frequency.ravel(), edges)
        radial = np.array([power.ravel()[ring == i].mean() for i in range(1, len(edges))])
        centre = np.sqrt(edges[1:] * edges[:-1])
        slopes.append(-np.polyfit(np.log(centre), np.log(radial), 1)[0])
    assert 2.5 < np.mean(slopes) < 3.5, slopes


# -------------------- storing


@pytest.mark.parametrize("bits", [12, 13, 14])
def test_monochrome1_is_the_inversion_in_the_stored_range(small: PhantomOptions, bits: int) -> None:
    plain = dataclasses.replace(small, bits_stored=bits)
    inverse = dataclasses.replace(plain, photometric_interpretation="MONOCHROME1")
    (truth, images), (same, inverted) = render_phantom(8, plain), render_phantom(8, inverse)
    assert truth == same
    for view in STANDARD_VIEWS:
        np.testing.assert_array_equal(images[view] + inverted[view], 2**bits - 1)
        assert inverted[view].max() == 2**bits - 1


def test_tissue_uses_the_range_without_saturating(small: PhantomOptions) -> None:
    _, images = render_phantom(4, small)
    for image in images.values():
        inside = image[largest_part(image)]
        assert 0.1 < np.median(inside) / 4095 < 0.7
        assert np.mean(inside > 0.97 * 4095) < 1e-3


# -------------------- options


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"rows": 32}, "rows is 32, allowed whole numbers 64 to 8192"),
        ({"columns": 9000}, "columns is 9000, allowed whole numbers 64 to 8192"),
        ({"rows": 1000.0}, r"rows is 1000\.0, allowed whole numbers"),
        ({"lesions": 4}, "lesions is 4, allowed whole numbers 0 to 3"),
        ({"lesions": True}, "lesions is True, allowed whole numbers 0 to 3"),
        ({"bits_stored": 16}, "bits_stored is 16, allowed whole numbers 12 to 14"),
        ({"pixel_spacing_mm": 2.0}, r"pixel_spacing_mm is 2\.0, allowed 0\.04 to 1"),
        ({"pixel_spacing_mm": float("nan")}, "pixel_spacing_mm is nan, allowed"),
        ({"photometric_interpretation": "RGB"}, "is 'RGB', allowed: MONOCHROME1, MONOCHROME2"),
        ({"prevalence": 1.5}, r"prevalence is 1\.5, allowed 0 to 1"),
        ({"difficulty": True}, "difficulty is True, allowed 0 to 1"),
        ({"shift": "blur"}, "shift is 'blur', allowed: none, vendor, noise, texture"),
        ({"transfer_syntax": "jpeg"}, "transfer_syntax is 'jpeg', allowed: explicit-little, "),
        ({"rows": 500}, "the field is 50 mm by 191 mm, at least 100 mm by 80 mm are needed"),
    ],
)
def test_options_say_what_is_allowed(given_options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PhantomOptions(**given_options)


@pytest.mark.parametrize("seed", [-1, True, 1.5])
def test_seed_must_be_a_whole_number(seed: Any, small: PhantomOptions) -> None:
    with pytest.raises(UsageError, match=r"seed is .*, allowed whole numbers from 0"):
        render_phantom(seed, small)

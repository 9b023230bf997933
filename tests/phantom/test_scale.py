"""Coarse pixels show what fine ones do on average; options change what they say."""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage, stats

from mammofm_lite.phantom import PhantomOptions, PhantomTruth
from mammofm_lite.phantom import render_phantom as render
from mammofm_lite.phantom._anatomy import draw_body, draw_view
from mammofm_lite.phantom._exposure import Exposure
from mammofm_lite.phantom._look import LOOKS
from mammofm_lite.phantom._render import _Detector, _healthy
from mammofm_lite.views import STANDARD_VIEWS, ViewName, laterality

render_phantom = functools.cache(render)
COARSE = PhantomOptions(rows=764, columns=638, pixel_spacing_mm=0.3)
FINE = PhantomOptions(rows=2292, columns=1914, pixel_spacing_mm=0.1)
SMALL = PhantomOptions(rows=383, columns=319, pixel_spacing_mm=0.6)

Doubles = npt.NDArray[np.float64]


def averaged(image: npt.NDArray[np.uint16], factor: int) -> Doubles:
    rows, columns = (size // factor for size in image.shape)
    return image.reshape(rows, factor, columns, factor).mean(axis=(1, 3))


def fine_part(image: npt.ArrayLike) -> Doubles:
    """Without what is larger than a few pixels."""
    whole = np.asarray(image, np.float64)
    return whole - ndimage.gaussian_filter(whole, 1.5)


@pytest.mark.parametrize("seed", [0, 23])
def test_coarse_is_the_average_of_fine(seed: int) -> None:
    (truth, coarse), (fine_truth, fine) = render_phantom(seed, COARSE), render_phantom(seed, FINE)
    for view in STANDARD_VIEWS:
        mean = averaged(fine[view], 3)
        inside = ndimage.binary_erosion((coarse[view] > 0) & (mean > 0), iterations=3)
        inside[:230, :] &= coarse[view][:230] < 3700  # the marker
        pair = coarse[view][inside], mean[inside]
        assert np.corrcoef(*pair)[0, 1] > 0.995
        assert np.mean(pair[0]) == pytest.approx(np.mean(pair[1]), rel=0.005)
        spreads = [fine_part(image)[inside].std() for image in (coarse[view], mean)]
        assert spreads[0] == pytest.approx(spreads[1], rel=0.15)
    assert dataclasses.replace(truth, lesions=(), precursor=None) == dataclasses.replace(
        fine_truth, lesions=(), precursor=None
    )
    same_boxes(truth, fine_truth)


def same_boxes(truth: PhantomTruth, fine_truth: PhantomTruth) -> None:
    for one, other in zip(truth.lesions, fine_truth.lesions, strict=True):
        bare = [
            dataclasses.replace(each, boxes_px={}, contrast_to_noise={}) for each in (one, other)
        ]
        assert bare[0] == bare[1]
        for view, box in one.boxes_px.items():
            # A speck may fall under the visible where it is spread over a large pixel.
            room = 6 if one.kind != "calcifications" else 0.12 * one.diameter_mm / 0.3 + 6
            assert np.array(other.boxes_px[view]) / 3 == pytest.approx(np.array(box), abs=room)


@pytest.mark.parametrize("shift", ["none", "noise"])
def test_quantum_noise_of_coarse_pixels_is_that_of_the_average(shift: str) -> None:
    body = draw_body(1, FINE)
    look = LOOKS[shift]  # type: ignore[index]
    random = np.random.default_rng(3)
    fine, coarse = (
        Exposure.of(look, body, step).draw((600, 600), random).astype(np.float64)
        for step in (0.1, 0.3)
    )
    mean = fine.reshape(200, 3, 200, 3).mean(axis=(1, 3))
    assert coarse.std() == pytest.approx(mean.std(), rel=0.1)
    assert fine.std() > 1.1 * mean.std()


# -------------------- shifts


def inner(truth_and_images: tuple[PhantomTruth, dict[ViewName, npt.NDArray[np.uint16]]]) -> Doubles:
    return truth_and_images[1]["L-CC"][:, :100].astype(np.float64)


@pytest.mark.parametrize("shift", ["vendor", "noise", "texture"])
def test_a_shift_leaves_the_woman_as_she_is(shift: str) -> None:
    plain, _ = render_phantom(23, SMALL)
    shifted, _ = render_phantom(23, dataclasses.replace(SMALL, shift=shift))  # type: ignore[arg-type]
    assert shifted.lesions
    for one, other in zip(plain.lesions, shifted.lesions, strict=True):
        bare = [
            dataclasses.replace(each, boxes_px={}, contrast_to_noise={}) for each in (one, other)
        ]
        assert bare[0] == bare[1]
    assert shifted.risk_by_year == plain.risk_by_year


def test_vendor_shift_is_another_grey_scale() -> None:
    healthy = dataclasses.replace(SMALL, lesions=0)
    plain = inner(render_phantom(4, healthy))
    vendor = inner(render_phantom(4, dataclasses.replace(healthy, shift="vendor")))
    inside = ndimage.binary_erosion((plain > 0), iterations=20)
    assert stats.spearmanr(plain[inside], vendor[inside]).statistic > 0.995
    assert abs(plain[inside].mean() - vendor[inside].mean()) > 0.03 * 4095


def test_noise_shift_is_noisier_and_less_sharp() -> None:
    healthy = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2, lesions=0)
    body = draw_body(4, healthy)
    noises = [Exposure.of(LOOKS[shift], body, 0.2).noise for shift in ("none", "noise")]
    assert noises[1] > 1.4 * noises[0]
    spreads = []
    for shift in ("none", "noise"):
        image = render_phantom(4, dataclasses.replace(healthy, shift=shift))[1]["L-CC"]  # type: ignore[arg-type]
        inside = ndimage.binary_erosion(image > 0, iterations=60)
        pixels = image.astype(np.float64)
        difference = pixels[:, 2:] - 2 * pixels[:, 1:-1] + pixels[:, :-2]
        spreads.append(difference[inside[:, 1:-1]].std())
    assert spreads[1] < 0.8 * spreads[0]


def test_texture_shift_has_a_shallower_spectrum() -> None:
    healthy = dataclasses.replace(COARSE, lesions=0)
    ratios = []
    for shift in ("none", "texture"):
        image = render_phantom(4, dataclasses.replace(healthy, shift=shift))[1]["L-CC"]  # type: ignore[arg-type]
        pixels = image.astype(np.float64)
        inside = ndimage.binary_erosion(image > 0, iterations=60)
        blurs = {width: ndimage.gaussian_filter(pixels, width) for width in (4, 8, 16, 32)}
        bands = [(blurs[low] - blurs[2 * low])[inside] for low in (4, 16)]
        ratios.append(bands[0].std() / bands[1].std())
    assert ratios[1] > 1.1 * ratios[0]


# -------------------- left and right


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_asymmetry_adds_gland_to_one_breast(seed: int) -> None:
    body = draw_body(seed, SMALL)
    gains = {}
    for view in STANDARD_VIEWS:
        means = []
        for asymmetry in (0.0, 0.9):
            anatomy = draw_view(seed, dataclasses.replace(body, asymmetry=asymmetry), view, SMALL)
            detector = _Detector.for_views({view: anatomy}, SMALL)
            means.append(_healthy(seed, anatomy, detector, LOOKS["none"]).mean())
        gains[view] = float(means[1] / means[0])
    side = body.extra[0].side
    other_side = "R" if side == "L" else "L"
    for kind in ("CC", "MLO"):
        fuller, other = (gains[f"{each}-{kind}"] for each in (side, other_side))  # type: ignore[index]
        assert fuller > other + 0.015


def test_precursor_is_a_faint_change_within_its_boxes() -> None:
    seed = next(seed for seed in range(40) if render_phantom(seed, SMALL)[0].precursor)
    healthy = dataclasses.replace(SMALL, lesions=0)
    truth, images = render_phantom(seed, healthy)
    without_truth, without = render_phantom(seed, dataclasses.replace(healthy, prevalence=0.0))
    precursor = truth.precursor
    assert precursor is not None
    assert without_truth.precursor is None
    assert not truth.recall
    assert truth.risk_by_year[4] > 2 * without_truth.risk_by_year[4]
    assert {laterality(view) for view in precursor.boxes_px} == {precursor.laterality}
    for view in STANDARD_VIEWS:
        change = images[view].astype(int) - without[view]
        if view in precursor.boxes_px:
            x1, y1, x2, y2 = precursor.boxes_px[view]
            assert 0 < change[y1:y2, x1:x2].max() < 0.4 * SMALL.white
            change[y1:y2, x1:x2] = 0
        assert not change.any()

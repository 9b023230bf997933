"""Planted lesions: the truth tells where they are, and nothing else differs."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite import UsageError
from mammofm_lite.phantom import PhantomLesion, PhantomOptions, PhantomTruth
from mammofm_lite.phantom import render_phantom as render
from mammofm_lite.phantom._anatomy import draw_body, draw_view
from mammofm_lite.phantom._plan import plan
from mammofm_lite.views import STANDARD_VIEWS, ViewName, laterality

FINE = PhantomOptions(rows=574, columns=479, pixel_spacing_mm=0.4, lesions=3)
SEEDS = range(4)

render_phantom = functools.cache(render)  # several tests look at one study


def nipple_side_distance_mm(seed: int, lesion: PhantomLesion, view: ViewName) -> float:
    """From the nipple back to the middle of the box, along the rows."""
    x1, _, x2, _ = lesion.boxes_px[view]
    middle = (x1 + x2) / 2
    if laterality(view) == "R":
        middle = FINE.columns - middle
    nipple = draw_view(seed, draw_body(seed, FINE), view, FINE).nipple_mm[0]
    return nipple - middle * FINE.pixel_spacing_mm


@pytest.mark.parametrize("seed", SEEDS)
def test_what_differs_without_lesions_lies_in_the_boxes_and_fills_them(seed: int) -> None:
    truth, planted = render_phantom(seed, FINE)
    _, healthy = render_phantom(seed, dataclasses.replace(FINE, lesions=0))
    for view in STANDARD_VIEWS:
        changed = planted[view] != healthy[view]
        boxes = [lesion.boxes_px[view] for lesion in truth.lesions if view in lesion.boxes_px]
        for x1, y1, x2, y2 in boxes:
            inside = changed[y1:y2, x1:x2]
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            # Signals fall to nothing at the sides of their box, and rounding hides their feet.
            assert rows[0] <= 2
            assert rows[-1] >= y2 - y1 - 3
            assert columns[0] <= 2
            assert columns[-1] >= x2 - x1 - 3
            changed[y1:y2, x1:x2] = False
        assert not changed.any()


@pytest.mark.parametrize("seed", range(8))
def test_contrast_to_noise_is_what_the_stored_images_show(seed: int) -> None:
    alone = dataclasses.replace(FINE, lesions=1)
    truth, planted = render_phantom(seed, alone)
    _, healthy = render_phantom(seed, dataclasses.replace(FINE, lesions=0))
    (lesion,) = truth.lesions
    assert set(lesion.contrast_to_noise) == set(lesion.boxes_px)
    for view, (x1, y1, x2, y2) in lesion.boxes_px.items():
        before = healthy[view].astype(float)
        change = np.abs(planted[view] - before)[y1:y2, x1:x2]
        frame = np.zeros(before.shape, bool)
        reach = 13  # 5 mm, rounded up to whole pixels
        frame[max(y1 - reach, 0) : y2 + reach, max(x1 - reach, 0) : x2 + reach] = True
        frame[y1:y2, x1:x2] = False
        ratio = change[change > change.max() / 2].mean() / before[frame & (before > 0)].std()
        assert lesion.contrast_to_noise[view] == pytest.approx(ratio, abs=0.01)
        assert change.max() > 0.01 * FINE.white


def test_places_project_into_both_boxes() -> None:
    """The CC view shows what is inward, the oblique one (down + inward) / sqrt(2)."""
    for seed in range(8):
        body = draw_body(seed, FINE)
        anatomies = {view: draw_view(seed, body, view, FINE) for view in STANDARD_VIEWS}
        truth, _ = render_phantom(seed, FINE)
        places = [one.place for one in plan(seed, body, anatomies, FINE).lesions]
        for lesion, place in zip(truth.lesions, places, strict=True):
            for view, (x1, y1, x2, y2) in lesion.boxes_px.items():
                nipple_x, nipple_y = anatomies[view].nipple_mm
                oblique = (place.down + place.inward) / np.sqrt(2)
                across = oblique if view.endswith("MLO") else place.inward
                x = nipple_x - lesion.nipple_depth_mm
                y = nipple_y + across * body.half_width_mm
                columns = (x1, x2) if view[0] == "L" else (FINE.columns - x2, FINE.columns - x1)
                assert columns[0] - 3 <= x / FINE.pixel_spacing_mm <= columns[1] + 3
                assert y1 - 3 <= y / FINE.pixel_spacing_mm <= y2 + 3


def test_masses_are_as_wide_as_the_truth_says() -> None:
    masses = [
        (lesion, box)
        for seed in range(8)
        for lesion in render_phantom(seed, FINE)[0].lesions
        if lesion.kind == "mass" and lesion.descriptors["margin"] == "circumscribed"
        for box in lesion.boxes_px.values()
    ]
    assert masses
    for lesion, (x1, y1, x2, y2) in masses:
        mean = (x2 - x1 + y2 - y1) / 2 * FINE.pixel_spacing_mm
        assert mean == pytest.approx(lesion.diameter_mm, rel=0.2)


@given(seed=st.integers(0, 10**9))
@settings(max_examples=12, deadline=None)
def test_both_views_show_a_lesion_as_far_behind_the_nipple(seed: int) -> None:
    truth, _ = render_phantom(seed, FINE)
    for lesion in truth.lesions:
        cc, mlo = (
            nipple_side_distance_mm(seed, lesion, f"{lesion.laterality}-{kind}")  # type: ignore[arg-type]
            for kind in ("CC", "MLO")
        )
        # Outlines are uneven, so the middle of a box is off the lesion's by some of its size.
        tolerance = 0.5 * lesion.diameter_mm
        assert cc == pytest.approx(mlo, abs=tolerance)
        assert cc == pytest.approx(lesion.nipple_depth_mm, abs=tolerance)


def test_quadrants_agree_with_views_and_clock() -> None:
    """CC shows outer above inner; the clock's right half is the left breast's outer half."""
    for seed in range(8):
        truth, _ = render_phantom(seed, FINE)
        for lesion in truth.lesions:
            view: ViewName = f"{lesion.laterality}-CC"  # type: ignore[assignment]
            nipple = draw_view(seed, draw_body(seed, FINE), view, FINE).nipple_mm[1]
            _, y1, _, y2 = lesion.boxes_px[view]
            inward_mm = (y1 + y2) / 2 * FINE.pixel_spacing_mm - nipple
            if abs(inward_mm) > lesion.diameter_mm / 2:
                assert ("outer" in lesion.quadrant) == (inward_mm < 0)
            if lesion.clock not in (12, 6):
                right_half = 1 <= lesion.clock <= 5
                outer = right_half if lesion.laterality == "L" else not right_half
                assert outer == ("outer" in lesion.quadrant)
            if lesion.clock not in (3, 9):
                assert (lesion.clock in (10, 11, 12, 1, 2)) == ("upper" in lesion.quadrant)


def test_recall_is_asked_for_what_is_suspicious_and_only_then(small: PhantomOptions) -> None:
    seen = set()
    for seed in range(12):
        truth, _ = render_phantom(seed, dataclasses.replace(small, lesions=seed % 3))
        assert truth.malignant == any(lesion.malignant for lesion in truth.lesions)
        assert truth.recall == any(lesion.suspicious for lesion in truth.lesions)
        for lesion in truth.lesions:
            assert lesion.malignant == (lesion.benign_type is None)
            assert lesion.suspicious or not lesion.malignant
        seen.add(truth.recall)
    assert seen == {True, False}


def test_fewer_lesions_are_the_first_of_more(small: PhantomOptions) -> None:
    truths = [render_phantom(7, dataclasses.replace(small, lesions=n))[0] for n in range(4)]
    for count, truth in enumerate(truths):
        assert truth.lesions == truths[3].lesions[:count]


# -------------------- JSON


def test_truth_survives_json(small: PhantomOptions) -> None:
    seen = set()
    for seed in range(12):
        truth, _ = render_phantom(seed, dataclasses.replace(small, lesions=3))
        assert PhantomTruth.from_json(json.loads(json.dumps(truth.to_json()))) == truth
        seen.add((truth.precursor is None, truth.years_to_cancer is None))
    assert len(seen) > 2


def test_truth_of_another_kind_is_refused(small: PhantomOptions) -> None:
    plain = render_phantom(3, dataclasses.replace(small, lesions=1))[0].to_json()
    with pytest.raises(UsageError, match="phantom truth: 'density' is 'e', allowed: a, b, c, d"):
        PhantomTruth.from_json(plain | {"density": "e"})
    with pytest.raises(UsageError, match="phantom truth: unknown field 'age'"):
        PhantomTruth.from_json(plain | {"age": 50})
    for wrong in ([0.1] * 4, [0.1, 0.2, 0.3, 0.4, 1.5], [1, 1, 1, 1, 1], "none"):
        with pytest.raises(UsageError, match="'risk_by_year' must be a list of 5 probabilities"):
            PhantomTruth.from_json(plain | {"risk_by_year": wrong})
    with pytest.raises(UsageError, match="'risk_by_year' must never decrease"):
        PhantomTruth.from_json(plain | {"risk_by_year": [0.1, 0.3, 0.2, 0.4, 0.5]})
    with pytest.raises(UsageError, match="phantom precursor: unknown field 'kind'"):
        PhantomTruth.from_json(plain | {"precursor": {"kind": "mass"}})
    with pytest.raises(UsageError, match="phantom lesion: 'kind' is 'cyst', allowed"):
        PhantomTruth.from_json(plain | {"lesions": [plain["lesions"][0] | {"kind": "cyst"}]})

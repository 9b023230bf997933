"""What is planted, over many women, without rendering them."""

import dataclasses
from collections import Counter
from functools import cache

import numpy as np
import pytest

from mammofm_lite.export import report_text
from mammofm_lite.phantom import PhantomOptions
from mammofm_lite.phantom._anatomy import Body, draw_body, draw_view
from mammofm_lite.phantom._catalogue import _BENIGN, _CANCERS
from mammofm_lite.phantom._plan import Plan, plan
from mammofm_lite.views import STANDARD_VIEWS

WOMEN = 240
PLAIN = PhantomOptions()


@cache
def planned(seed: int, options: PhantomOptions) -> tuple[Body, Plan]:
    body = draw_body(seed, options)
    anatomies = {view: draw_view(seed, body, view, options) for view in STANDARD_VIEWS}
    return body, plan(seed, body, anatomies, options)


def share(options: PhantomOptions, women: int = WOMEN) -> float:
    plans = [planned(seed, options)[1] for seed in range(women)]
    return float(np.mean([any(one.malignant for one in each.lesions) for each in plans]))


def test_every_term_is_one_of_the_reports() -> None:
    terms = {
        "shape": report_text._SHAPE,
        "margin": report_text._MARGIN,
        "density": report_text._DENSITY,
        "morphology": report_text._MORPHOLOGY,
        "distribution": report_text._DISTRIBUTION,
    }
    needed = {
        "mass": {"shape", "margin", "density"},
        "calcifications": {"morphology", "distribution"},
    }
    for pattern in (*_CANCERS, *_BENIGN):
        assert set(pattern.words) == needed.get(pattern.kind, set())
        for name, words in pattern.words.items():
            assert set(words) <= set(terms[name])
    grammar = str(report_text.report_grammar())
    for kind in {pattern.kind for pattern in (*_CANCERS, *_BENIGN)}:
        assert f"'finding': '{kind}'" in grammar


def test_only_cancers_have_no_benign_type() -> None:
    assert all(pattern.benign_type is None and pattern.suspicious for pattern in _CANCERS)
    assert all(pattern.benign_type for pattern in _BENIGN)
    assert 2 <= sum(pattern.suspicious for pattern in _BENIGN) < len(_BENIGN) / 3


@pytest.mark.parametrize("prevalence", [0.0, 0.2, 0.35, 1.0])
def test_prevalence_is_the_share_of_cancers(prevalence: float) -> None:
    options = dataclasses.replace(PLAIN, prevalence=prevalence)
    deviation = (prevalence * (1 - prevalence) / WOMEN) ** 0.5
    assert share(options) == pytest.approx(prevalence, abs=4 * deviation)


def test_precursors_are_as_frequent_among_the_others() -> None:
    plans = [planned(seed, PLAIN)[1] for seed in range(WOMEN)]
    free = [each for each in plans if not any(one.malignant for one in each.lesions)]
    rate = np.mean([each.precursor is not None for each in free])
    assert rate == pytest.approx(0.35, abs=4 * (0.35 * 0.65 / len(free)) ** 0.5)
    assert len(free) < WOMEN
    assert all(each.precursor is None for each in plans if each not in free)
    assert all((each.strength > 0) == (each.precursor is not None) for each in plans)


def test_sizes_are_those_of_screening() -> None:
    lesions = [one for seed in range(WOMEN) for one in planned(seed, PLAIN)[1].lesions]
    masses = [one.diameter_mm for one in lesions if one.kind == "mass"]
    groups = [
        one.diameter_mm for one in lesions if one.descriptors.get("distribution") == "grouped"
    ]
    regions = [
        one.diameter_mm for one in lesions if one.descriptors.get("distribution") == "regional"
    ]
    assert min(regions) >= 20
    # A lesion that finds no room in a small breast is made smaller.
    assert min(masses) > 2.9
    assert max(masses) <= 35
    assert 9 < np.median(masses) < 18
    assert min(groups) > 2.7
    assert max(groups) <= 25


def test_most_lie_in_the_upper_outer_quadrant_and_every_kind_occurs() -> None:
    lesions = [one for seed in range(WOMEN) for one in planned(seed, PLAIN)[1].lesions]
    quadrants = Counter((one.place.down < 0, one.place.inward < 0) for one in lesions)
    assert quadrants.most_common(1)[0][0] == (True, True)
    assert len(quadrants) == 4
    assert len({one.kind for one in lesions}) == 5
    assert len({one.benign_type for one in lesions}) > 12


def test_difficulty_takes_contrast_size_and_typical_looks() -> None:
    easy, hard = (dataclasses.replace(PLAIN, difficulty=value) for value in (0.0, 1.0))
    women = 120
    told = []
    for options in (easy, hard):
        lesions = [one for seed in range(women) for one in planned(seed, options)[1].lesions]
        masses = [one for one in lesions if one.kind == "mass" and one.malignant]
        spiculated = [one.descriptors["margin"] == "spiculated" for one in masses]
        told.append(
            (
                np.mean([one.contrast for one in lesions]),
                np.mean([one.diameter_mm for one in masses]),
                np.mean(spiculated),
            )
        )
    for easier, harder in zip(*told, strict=True):
        assert easier > 1.15 * harder
    assert share(easy, women) == share(hard, women)

"""Time to cancer: closed forms, and drawn times against the told risk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite.phantom._hazard import HORIZON_YEARS, Hazard
from mammofm_lite.phantom._truth import Density

PEOPLE = 20_000
densities = st.sampled_from(["a", "b", "c", "d"])


@given(density=densities, asymmetry=st.floats(0, 1), strength=st.floats(0, 1))
def test_risk_is_the_closed_form_of_a_constant_hazard(
    density: Density, asymmetry: float, strength: float
) -> None:
    coefficient = {"a": -0.5, "b": 0.0, "c": 0.4, "d": 0.75}[density]
    per_year = 0.012 * np.exp(coefficient + 2.6 * asymmetry + 2.8 * strength)
    expected = 1 - np.exp(-per_year * np.arange(1, 6))
    told = Hazard.of(density, asymmetry, strength, malignant=False).risk_by_year()
    assert told == pytest.approx(tuple(expected), rel=1e-9)


@given(density=densities, asymmetry=st.floats(0, 1))
def test_a_visible_cancer_is_diagnosed_within_the_year(density: Density, asymmetry: float) -> None:
    told = Hazard.of(density, asymmetry, 0.0, malignant=True).risk_by_year()
    other = Hazard.of(density, asymmetry, 0.0, malignant=False)
    assert told[0] == pytest.approx(0.95)
    # After it she has the hazard of others.
    assert told[4] == pytest.approx(1 - 0.05 * (1 - other.risk(4)))


def test_density_is_a_moderate_part() -> None:
    """Extremely dense against scattered: a hazard ratio of about 2."""
    dense, scattered = (Hazard.of(density, 0.3, 0, False).later for density in ("d", "b"))
    assert dense / scattered == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize(
    ("density", "asymmetry", "strength", "malignant"),
    [("a", 0.0, 0.0, False), ("b", 0.6, 0.0, False), ("d", 0.3, 0.9, False), ("c", 0.2, 0, True)],
)
def test_drawn_times_have_the_told_risk(
    density: Density, asymmetry: float, strength: float, malignant: bool
) -> None:
    hazard = Hazard.of(density, asymmetry, strength, malignant)
    random = np.random.default_rng(7)
    drawn = [hazard.draw(random) for _ in range(PEOPLE)]
    times = np.array([np.inf if years is None else years for years in drawn])
    assert np.all(times[np.isfinite(times)] <= HORIZON_YEARS)
    assert np.all(times > 0)
    for year, risk in enumerate(hazard.risk_by_year(), start=1):
        deviation = (risk * (1 - risk) / PEOPLE) ** 0.5
        assert np.mean(times <= year) == pytest.approx(risk, abs=4 * deviation)
    beyond = 1 - hazard.risk(HORIZON_YEARS)
    assert np.mean(np.isinf(times)) == pytest.approx(beyond, abs=4 * 0.5 / PEOPLE**0.5)

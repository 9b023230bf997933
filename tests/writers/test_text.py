"""What the summary says of several detectors with operating points of their own."""

import pytest

from mammofm_lite.results import LocalizationResult
from mammofm_lite.writers.text import operating_points


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ({"mass": 0.2}, "0.2"),
        ({"mass": 0.2, "calcifications": 0.2}, "0.2"),
        ({"mass": 0.3, "calcifications": 0.25}, "0.3 (mass), 0.25 (calcifications)"),
    ],
)
def test_operating_points(thresholds: dict[str, float], text: str) -> None:
    answer = LocalizationResult(min(thresholds.values()), ("L-CC",), (), thresholds)
    assert operating_points(answer) == text

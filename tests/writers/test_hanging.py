"""Views as they are hung: right on the left, chest walls together, one scale."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.views import STANDARD_VIEWS
from mammofm_lite.writers._hanging import HANGING, hang, orientation


@pytest.mark.parametrize(
    ("view", "stored", "expected"),
    [
        ("R-CC", ("P", "L"), (False, False, True)),
        ("R-CC", ("A", "R"), (True, True, True)),  # turned by 180 degrees
        ("R-CC", ("A", "L"), (True, False, True)),
        ("L-CC", ("A", "R"), (False, False, True)),
        ("L-CC", ("P", "R"), (True, False, True)),
        ("L-CC", ("A", "L"), (False, True, True)),
        ("R-MLO", ("P", "FL"), (False, False, True)),
        ("R-MLO", ("A", "FL"), (True, False, True)),
        ("L-MLO", ("A", "FR"), (False, False, True)),
        ("L-MLO", ("A", "HL"), (False, True, True)),
        ("L-MLO", ("P", "F"), (True, False, True)),
        ("R-MLO", ("PL", "FL"), (False, False, True)),  # the first letter is the main direction
        ("L-CC", ("F", "A"), (False, False, False)),  # turned by a quarter
        ("L-CC", None, (False, False, False)),
    ],
)
def test_orientation(view: Any, stored: Any, expected: tuple[bool, bool, bool]) -> None:
    assert orientation(view, stored) == expected


def geometry(rows: int, columns: int, **given: Any) -> ViewGeometry:
    plain: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "border_px": 0,
        "row_runs": ((0, rows),),
        "column_runs": ((0, columns),),
        "model_height": 20,
        "model_width": 10,
        "pixel_spacing_mm": (0.1, 0.1),
    }
    return ViewGeometry(**(plain | given))


geometries = st.builds(
    lambda rows, columns, low, high, spacing: geometry(
        rows,
        columns,
        row_runs=((int(low * rows), max(int(high * rows), int(low * rows) + 1)),),
        column_runs=((int(low * columns), max(int(high * columns), int(low * columns) + 1)),),
        pixel_spacing_mm=(spacing, spacing),
    ),
    st.integers(50, 4000),
    st.integers(50, 4000),
    st.floats(0, 0.4),
    st.floats(0.6, 1),
    st.sampled_from([0.05, 0.07, 0.1]),
)


@given(
    st.dictionaries(st.sampled_from(STANDARD_VIEWS), geometries, min_size=1),
    st.sampled_from([("A", "R"), ("P", "R"), None]),
)
def test_one_scale_and_chest_walls_at_the_edge(
    given_views: dict[Any, ViewGeometry], stored: tuple[str, str] | None
) -> None:
    hung = hang(given_views, dict.fromkeys(given_views, stored))
    for kind in ("breast", "whole"):
        windows = {view: getattr(one, kind) for view, one in hung.items()}
        widths = {view: w.width / hung[view].px_per_mm for view, w in windows.items()}
        np.testing.assert_allclose(list(widths.values()), next(iter(widths.values())))
        # Height over part is the same everywhere: rows that are as high as their parts say have
        # one scale.
        heights = [w.height / hung[v].px_per_mm / hung[v].part for v, w in windows.items()]
        np.testing.assert_allclose(heights, heights[0])
        for view, window in windows.items():
            if view.startswith("R"):
                assert window.x + window.width == pytest.approx(given_views[view].columns)
            else:
                assert window.x == 0
    for view, one in hung.items():
        # What the model saw is inside of what is shown at first, and all of the image in the other.
        x1, x2 = given_views[view].column_runs[0]
        y1, y2 = given_views[view].row_runs[0]
        if one.flip_x:
            x1, x2 = given_views[view].columns - x2, given_views[view].columns - x1
        if one.flip_y:
            y1, y2 = given_views[view].rows - y2, given_views[view].rows - y1
        for window, box in (
            (one.breast, (x1, y1, x2, y2)),
            (one.whole, (0, 0, given_views[view].columns, given_views[view].rows)),
        ):
            assert window.x <= box[0] + 1e-6
            assert window.y <= box[1] + 1e-6
            assert window.x + window.width >= box[2] - 1e-6
            assert window.y + window.height >= box[3] - 1e-6


def test_without_spacing_pixels_stand_for_mm() -> None:
    known = geometry(400, 200)
    unknown = dataclasses.replace(known, pixel_spacing_mm=None)
    hung = hang({"L-CC": known, "R-CC": unknown}, {})
    assert {one.px_per_mm for one in hung.values()} == {None}
    assert hung["L-CC"].whole.width == hung["R-CC"].whole.width == 200


def test_rows_as_they_hang() -> None:
    assert HANGING == ("R-CC", "L-CC", "R-MLO", "L-MLO")

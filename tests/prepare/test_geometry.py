"""The way back: prepared pixels, original pixels, millimetres."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite import StudyError, UsageError
from mammofm_lite.geometry import Runs, ViewGeometry
from mammofm_lite.prepare import PreprocessingSpec, prepare_view

# float64 rounding of coordinates below 10^4
CLOSE = {"rtol": 0, "atol": 1e-9}


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, Runs]:
    """An axis's size and one to three kept runs of it."""
    steps = [draw(st.integers(0, 9))]
    for _ in range(draw(st.integers(1, 3))):
        steps += [draw(st.integers(1, 60)), draw(st.integers(1, 30))]
    edges = np.cumsum(steps[:-1])
    runs = tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
    return int(edges[-1]) + draw(st.integers(0, 9)), runs


@st.composite
def geometries(draw: st.DrawFn) -> ViewGeometry:
    rows, row_runs = draw(axes())
    columns, column_runs = draw(axes())
    return ViewGeometry(
        rows=rows,
        columns=columns,
        border_px=0,
        row_runs=row_runs,
        column_runs=column_runs,
        model_height=draw(st.integers(1, 300)),
        model_width=draw(st.integers(1, 300)),
        mirrored=draw(st.booleans()),
        pixel_spacing_mm=draw(st.none() | st.just((0.07, 0.1))),
    )


def geometry(**given: Any) -> ViewGeometry:
    """100 x 200 pixels; columns 20..50 and 80..120 kept, so the seam is at prepared x = 60."""
    arguments: dict[str, Any] = {
        "rows": 100,
        "columns": 200,
        "border_px": 5,
        "row_runs": ((10, 60),),
        "column_runs": ((20, 50), (80, 120)),
        "model_height": 100,
        "model_width": 140,
        "mirrored": False,
        "pixel_spacing_mm": (0.1, 0.05),
    }
    return ViewGeometry(**(arguments | given))


# -------------------- points


@given(view=geometries(), share=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=300, deadline=None)
def test_prepared_to_original_and_back(view: ViewGeometry, share: tuple[float, float]) -> None:
    point = np.array([share[0] * view.model_width, share[1] * view.model_height])
    np.testing.assert_allclose(view.to_model(view.to_original(point)), point, **CLOSE)


@given(view=geometries(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_original_to_prepared_and_back_inside_the_kept_runs(
    view: ViewGeometry, data: st.DataObject
) -> None:
    x_run = data.draw(st.sampled_from(view.column_runs))
    y_run = data.draw(st.sampled_from(view.row_runs))
    inside = st.floats(0, 1 - 1e-6)
    point = [run[0] + data.draw(inside) * (run[1] - run[0]) for run in (x_run, y_run)]
    np.testing.assert_allclose(view.to_original(view.to_model(point)), point, **CLOSE)


def test_points_by_hand() -> None:
    view = geometry()
    original = [[20, 10], [49.5, 10.5], [80, 60], [119, 35], [10, 5], [125, 70]]
    model = [[0, 0], [59, 1], [60, 100], [138, 50], [-20, -10], [150, 120]]
    np.testing.assert_allclose(view.to_model(original), model, **CLOSE)
    np.testing.assert_allclose(view.to_original(model), original, **CLOSE)


def test_a_gap_falls_on_its_seam() -> None:
    np.testing.assert_allclose(geometry().to_model([[50, 10], [66, 10]])[:, 0], 60, **CLOSE)


def test_mirrored_points_count_from_the_other_side() -> None:
    plain, mirrored = geometry(), geometry(mirrored=True)
    points = np.array([[25.0, 20.0], [110.0, 50.0]])
    flipped = plain.to_model(points) * (-1, 1) + (140, 0)
    np.testing.assert_allclose(mirrored.to_model(points), flipped, **CLOSE)


# -------------------- boxes


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((0, 60), (20, 50)),  # ends on the seam: stays below the gap
        ((60, 140), (80, 120)),  # begins on the seam: stays above it
        ((59, 62), (49.5, 81)),  # across: the hull
        ((0, 140), (20, 120)),
        ((-10, 150), (15, 125)),  # outside: prolonged
    ],
)
def test_boxes_at_a_seam(
    columns: tuple[float, float], expected: tuple[float, float], mirrored: bool
) -> None:
    low, high = (140 - columns[1], 140 - columns[0]) if mirrored else columns
    box = geometry(mirrored=mirrored).box_to_original([[low, 10, high, 30]])
    np.testing.assert_allclose(box, [[expected[0], 15, expected[1], 25]], **CLOSE)


def test_an_empty_or_inverted_box_stays_so() -> None:
    boxes = geometry().box_to_original([[60, 10, 60, 20], [70, 10, 30, 20]])
    assert (boxes[:, 2] <= boxes[:, 0]).all()


@given(view=geometries(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_whole_pixel_boxes_come_back_exactly(view: ViewGeometry, data: st.DataObject) -> None:
    """A box of whole original pixels inside the kept runs, through float32 as from a graph."""
    edges = [
        sorted(data.draw(st.tuples(*[st.integers(*run)] * 2).filter(lambda e: e[0] != e[1])))
        for run in (data.draw(st.sampled_from(view.column_runs)),
                    data.draw(st.sampled_from(view.row_runs)))
    ]  # fmt: skip
    box = np.array([edges[0][0], edges[1][0], edges[0][1], edges[1][1]])
    model = view.box_to_model(box).astype(np.float32)
    assert (model[2:] > model[:2]).all()
    np.testing.assert_array_equal(view.box_to_original_pixels(model), box)


def test_pixel_boxes_are_clipped_to_the_image() -> None:
    pixels = geometry().box_to_original_pixels([[-500, -500, 500, 500]])
    np.testing.assert_array_equal(pixels, [[0, 0, 200, 100]])
    assert pixels.dtype == np.int64


def test_no_box_at_all() -> None:
    view = geometry()
    assert view.box_to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert view.box_to_mm(np.zeros((0, 4))).shape == (0, 4)


# -------------------- with real pixels


def breast(rows: int, columns: int, edges: list[int]) -> npt.NDArray[np.uint16]:
    """Tissue of varied grey in the given column runs, background 0, nothing at the frame."""
    stored = np.zeros((rows, columns), np.uint16)
    texture = np.random.default_rng(0).integers(800, 1200, (rows - 40, columns))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        stored[20:-20, start:stop] = texture[:, start:stop]
    return stored


@pytest.mark.parametrize("mirror", ["none", "right"])
@pytest.mark.parametrize("edges", [[30, 150], [20, 80, 110, 170]])
def test_a_painted_rectangle_is_found_where_it_was_painted(mirror: Any, edges: list[int]) -> None:
    """Scaled unevenly by whole numbers, so that the bright pixels are known without rounding."""
    stored = breast(240, 200, edges)
    box = (edges[-2] + 12, 60, edges[-2] + 32, 100)  # original x1, y1, x2, y2
    stored[box[1] : box[3], box[0] : box[2]] = 4000
    kept = sum(stop - start for start, stop in zip(edges[::2], edges[1::2], strict=True))
    spec = PreprocessingSpec(height=100, width=kept, mirror=mirror)
    view = prepare_view(
        stored,
        photometric_interpretation="MONOCHROME2",
        rescale_slope=1.0,
        rescale_intercept=0.0,
        laterality="R",
        spec=spec,
    )
    assert len(view.geometry.column_runs) == len(edges) // 2
    y, x = np.nonzero(view.image == 255)
    found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    np.testing.assert_array_equal(view.geometry.box_to_original_pixels(found), box)
    np.testing.assert_allclose(view.geometry.box_to_model(box), found, **CLOSE)


# -------------------- millimetres


def test_millimetres() -> None:
    view = geometry()  # rows 0.1 mm apart, columns 0.05 mm
    np.testing.assert_allclose(view.to_mm([[200, 100]]), [[10, 10]], **CLOSE)
    box = [[20, 10, 60, 40]]
    np.testing.assert_allclose(view.box_to_mm(box), [[1, 1, 3, 4]], **CLOSE)
    np.testing.assert_allclose(view.box_size_mm(box), [[2, 3]], **CLOSE)


def test_no_millimetres_without_spacing() -> None:
    with pytest.raises(StudyError, match=r"no pixel spacing.*use pixel coordinates"):
        geometry(pixel_spacing_mm=None).box_to_mm([[0, 0, 1, 1]])


# -------------------- JSON and refusals


@given(view=geometries())
@settings(max_examples=50, deadline=None)
def test_json_round_trip(view: ViewGeometry) -> None:
    assert ViewGeometry.from_json(json.loads(json.dumps(view.to_json()))) == view


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "many"}, "'rows' must be an integer"),
        ({"row_runs": [[1, 2, 3]]}, r"'row_runs' must be a list of \[start, stop\]"),
        ({"column_runs": [[0.5, 3]]}, r"'column_runs' must be a list of \[start, stop\]"),
        ({"pixel_spacing_mm": [0.1]}, "'pixel_spacing_mm' must be two numbers or null"),
        ({"flipped": True}, "unknown field 'flipped'"),
    ],
)
def test_json_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ViewGeometry.from_json(geometry().to_json() | change)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"row_runs": ()}, "row_runs must be rising"),
        ({"row_runs": ((5, 5),)}, "row_runs must be rising"),
        ({"row_runs": ((50, 101),)}, "inside 0 to 100"),
        ({"column_runs": ((0, 50), (40, 60))}, "column_runs must be rising.*do not overlap"),
        ({"model_width": 0}, "100 x 0 pixels is not possible"),
        ({"pixel_spacing_mm": (0.0, 0.1)}, "must be positive and finite"),
    ],
)
def test_refuses_impossible_geometries(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        geometry(**given)


def test_refuses_points_that_are_boxes() -> None:
    with pytest.raises(ValueError, match=r"expected \[..., 2\] coordinates, not \[1, 4\]"):
        geometry().to_original([[1, 2, 3, 4]])

"""The rules by which a head's tensors become answers, each against a value worked out by hand."""

import numpy as np
import pytest

from mammofm_lite.bundle import DiagnosisSpec, LabelSpec, LocalizationSpec, PrognosisSpec
from mammofm_lite.errors import BundleError, UsageError
from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.heads.diagnosis import interpret_diagnosis, recall_basis
from mammofm_lite.heads.localization import marks_of_view
from mammofm_lite.heads.prognosis import interpret_prognosis, usable_projections

DENSITY = LabelSpec(
    "density", "categorical", ("a", "b", "c", "d"), None, "mean", "highest_class", False
)


def malignancy(breast: str) -> LabelSpec:
    return LabelSpec("malignancy", "binary", (), 0.5, breast, "max", True)


def rows(**views: list[float]) -> dict[str, np.ndarray]:
    return {name.replace("_", "-"): np.array([row], np.float32) for name, row in views.items()}


def test_diagnosis_combines_views_then_breasts() -> None:
    spec = DiagnosisSpec("d.xml", "view", (malignancy("mean"), DENSITY))
    result = interpret_diagnosis(
        spec,
        rows(
            L_CC=[0.2, 0.7, 0.1, 0.1, 0.1],
            L_MLO=[0.4, 0.5, 0.3, 0.1, 0.1],
            R_CC=[0.9, 0.0, 0.1, 0.8, 0.1],
        ),
    )
    left, density_left = result.breasts["L"]
    assert left.probabilities["yes"] == pytest.approx(0.3, abs=1e-6)
    assert density_left.value == "a"
    assert result.study[0].probabilities["yes"] == pytest.approx(0.9, abs=1e-6)
    assert result.study[0].value == "yes"
    assert result.study[1].value == "c"  # the denser breast decides, not the average
    assert recall_basis(spec, result) == ("malignancy",)


def test_recall_is_undecided_without_a_deciding_label() -> None:
    spec = DiagnosisSpec("d.xml", "view", (DENSITY,))
    result = interpret_diagnosis(spec, rows(L_CC=[1, 0, 0, 0]))
    assert recall_basis(spec, result) is None


def test_a_label_at_its_threshold_counts() -> None:
    spec = DiagnosisSpec("d.xml", "view", (malignancy("max"),))
    result = interpret_diagnosis(spec, rows(L_CC=[0.5]))
    assert result.study[0].value == "yes"


def geometry(spacing: tuple[float, float] | None = (0.1, 0.2)) -> ViewGeometry:
    """Original 220x120 with border 10 px cropped to rows 10..210, columns 10..110; model 100x25."""
    return ViewGeometry(
        rows=220,
        columns=120,
        border_px=10,
        row_runs=((10, 210),),
        column_runs=((10, 110),),
        model_height=100,
        model_width=25,
        mirrored=False,
        pixel_spacing_mm=spacing,
    )


LOCALIZATION = LocalizationSpec("l.xml", "view", ("mass", "calcifications"), 0.2)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]):
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
    )


def test_marks_are_in_original_pixels_and_mm() -> None:
    marks = marks_of_view(
        LOCALIZATION,
        "L-CC",
        geometry(),
        found([[0, 0, 25, 100], [1, 2, 3, 4], [5, 5, 6, 6]], [0.3, 0.9, 0.19], [0, 1, 0]),
    )
    assert [mark.label for mark in marks] == ["calcifications", "mass"]  # falling score
    assert marks[0].box_px == (14.0, 14.0, 22.0, 18.0)
    assert marks[0].box_mm == pytest.approx((2.8, 1.4, 4.4, 1.8))  # columns 0.2 mm, rows 0.1 mm
    assert marks[1].box_px == (10.0, 10.0, 110.0, 210.0)


def test_boxes_beyond_the_image_are_clipped_or_dropped() -> None:
    marks = marks_of_view(
        LOCALIZATION,
        "L-CC",
        geometry(None),
        found([[20, 90, 40, 130], [60, 0, 90, 10]], [0.8, 0.7], [0, 0]),
    )
    assert len(marks) == 1
    assert marks[0].box_px == (90.0, 190.0, 120.0, 220.0)
    assert marks[0].box_mm is None


def test_a_label_that_the_bundle_does_not_name() -> None:
    with pytest.raises(BundleError, match="labels beyond the bundle's 2"):
        marks_of_view(LOCALIZATION, "L-CC", geometry(), found([[0, 0, 1, 1]], [0.9], [2]))


def test_prognosis_needs_pairs() -> None:
    assert usable_projections({"L-CC": 0, "R-CC": 0, "L-MLO": 0}) == ("CC",)
    assert usable_projections({"L-CC": 0, "R-MLO": 0}) == ()


@pytest.mark.parametrize("alignment", ["none", "latent"])
def test_peak_windows_are_in_original_pixels(alignment: str) -> None:
    spec = PrognosisSpec("p.xml", "view", (1, 2), (10, 5), (2, 1), (1, 1), alignment)
    outputs = {
        "score": np.array([0.4, 0.3], np.float32),
        "risk": np.array([0.4, 0.4], np.float32),
        "heatmap": np.zeros((2, 2, 9, 5), np.float32),
        "peak": np.array([[[3, 1], [0, 0]], [[0, 0], [0, 0]]]),
    }
    geometries = {"L-CC": geometry(), "R-CC": geometry()}
    result = interpret_prognosis(spec, outputs, geometries)
    assert [item.risk for item in result.years] == pytest.approx([0.4, 0.4])
    peak = result.peaks[0]
    # Cells are 20 rows x 20 columns of the original; the window is 2 x 1 cells at row 3, column 1.
    assert peak.left_box_px == (30.0, 70.0, 50.0, 110.0)
    mirrored = (70.0, 70.0, 90.0, 110.0)  # column 5 - 1 - 1 = 3 of the unmirrored right map
    assert peak.right_box_px == (mirrored if alignment == "latent" else peak.left_box_px)


def test_unknown_heads_are_refused() -> None:
    from mammofm_lite import InferOptions

    with pytest.raises(
        UsageError, match="unknown head 'oracle'; heads are diagnosis, localization"
    ):
        InferOptions(("diagnosis", "oracle"))

"""The rules by which a head's tensors become answers, each against a value worked out by hand."""

import numpy as np
import pytest

from mammofm_lite.bundle import (
    DiagnosisMember,
    DiagnosisSpec,
    LabelSpec,
    LocalizationMember,
    LocalizationSpec,
    PrognosisMember,
    PrognosisSpec,
)
from mammofm_lite.errors import BundleError, UsageError
from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.heads.diagnosis import interpret_diagnosis, recall_basis
from mammofm_lite.heads.localization import by_view, marks_of_view
from mammofm_lite.heads.prognosis import interpret_prognosis, usable_projections

DENSITY = LabelSpec(
    "density", "categorical", ("a", "b", "c", "d"), None, "mean", "highest_class", False
)


def malignancy(breast: str) -> LabelSpec:
    return LabelSpec("malignancy", "binary", (), 0.5, breast, "max", True)


def diagnosis(*labels: tuple[LabelSpec, ...]) -> DiagnosisSpec:
    """A head of one member for every group of labels."""
    return DiagnosisSpec(
        tuple(DiagnosisMember(f"d{i}.xml", f"e{i}", own) for i, own in enumerate(labels))
    )


def rows(**views: list[float]) -> dict[str, np.ndarray]:
    return {name.replace("_", "-"): np.array([row], np.float32) for name, row in views.items()}


def test_diagnosis_combines_views_then_breasts() -> None:
    spec = diagnosis((malignancy("mean"), DENSITY))
    result = interpret_diagnosis(
        spec,
        [
            rows(
                L_CC=[0.2, 0.7, 0.1, 0.1, 0.1],
                L_MLO=[0.4, 0.5, 0.3, 0.1, 0.1],
                R_CC=[0.9, 0.0, 0.1, 0.8, 0.1],
            )
        ],
    )
    left, density_left = result.breasts["L"]
    assert left.probabilities["yes"] == pytest.approx(0.3, abs=1e-6)
    assert density_left.value == "a"
    assert result.study[0].probabilities["yes"] == pytest.approx(0.9, abs=1e-6)
    assert result.study[0].value == "yes"
    assert result.study[1].value == "c"  # the denser breast decides, not the average
    assert recall_basis(spec, result) == ("malignancy",)


def test_diagnosis_of_several_members_is_that_of_one() -> None:
    both = rows(L_CC=[0.2, 0.7, 0.1, 0.1, 0.1], R_CC=[0.9, 0.0, 0.1, 0.8, 0.1])
    first = {view: row[:, :1] for view, row in both.items()}
    second = {view: row[:, 1:] for view, row in both.items()}
    one = interpret_diagnosis(diagnosis((malignancy("mean"), DENSITY)), [both])
    several = interpret_diagnosis(diagnosis((malignancy("mean"),), (DENSITY,)), [first, second])
    assert several == one
    turned = interpret_diagnosis(diagnosis((DENSITY,), (malignancy("mean"),)), [second, first])
    assert [score.label for score in turned.study] == ["density", "malignancy"]
    assert turned.study == one.study[::-1]


def test_a_member_with_another_number_of_columns_is_named() -> None:
    spec = diagnosis((malignancy("mean"),), (DENSITY,))
    with pytest.raises(BundleError, match=r"d1\.xml: answers 3 probabilities, .* need 4"):
        interpret_diagnosis(spec, [rows(L_CC=[0.5]), rows(L_CC=[0.5, 0.2, 0.3])])


def test_recall_is_undecided_without_a_deciding_label() -> None:
    spec = diagnosis((DENSITY,))
    result = interpret_diagnosis(spec, [rows(L_CC=[1, 0, 0, 0])])
    assert recall_basis(spec, result) is None


def test_a_label_at_its_threshold_counts() -> None:
    spec = diagnosis((malignancy("max"),))
    result = interpret_diagnosis(spec, [rows(L_CC=[0.5])])
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


LOCALIZATION = LocalizationMember("l.xml", "view", ("mass", "calcifications"), 0.2)


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


def test_every_detector_has_its_own_threshold_and_labels() -> None:
    other = LocalizationMember("m.xml", "own", ("scar",), 0.8)
    spec = LocalizationSpec((LOCALIZATION, other))
    assert spec.thresholds == {"mass": 0.2, "calcifications": 0.2, "scar": 0.8}
    boxes = found([[0, 0, 25, 100], [1, 2, 3, 4]], [0.5, 0.9], [0, 0])
    marks = [
        mark
        for view in ("R-CC", "L-CC")
        for member in spec.members
        for mark in marks_of_view(member, view, geometry(), boxes)
    ]
    assert [(m.view, m.label, round(m.score, 3)) for m in by_view(marks)] == [
        (view, label, score)
        for view in ("L-CC", "R-CC")
        for label, score in (("mass", 0.9), ("scar", 0.9), ("mass", 0.5))
    ]
    with pytest.raises(BundleError, match="labels beyond the bundle's 1"):
        marks_of_view(other, "L-CC", geometry(), found([[0, 0, 1, 1]], [0.9], [1]))


def test_prognosis_needs_pairs() -> None:
    assert usable_projections({"L-CC": 0, "R-CC": 0, "L-MLO": 0}) == ("CC",)
    assert usable_projections({"L-CC": 0, "R-MLO": 0}) == ()


@pytest.mark.parametrize("alignment", ["none", "latent"])
def test_peak_windows_are_in_original_pixels(alignment: str) -> None:
    member = PrognosisMember("p.xml", "view", (1, 2), (10, 5), (2, 1), (1, 1), alignment)
    outputs = {
        "score": np.array([0.4, 0.3], np.float32),
        "risk": np.array([0.4, 0.4], np.float32),
        "heatmap": np.zeros((2, 2, 9, 5), np.float32),
        "peak": np.array([[[3, 1], [0, 0]], [[0, 0], [0, 0]]]),
    }
    geometries = {"L-CC": geometry(), "R-CC": geometry()}
    result = interpret_prognosis(PrognosisSpec((member,)), [outputs], geometries)
    assert [item.risk for item in result.years] == pytest.approx([0.4, 0.4])
    peak = result.peaks[0]
    # Cells are 20 rows x 20 columns of the original; the window is 2 x 1 cells at row 3, column 1.
    assert peak.left_box_px == (30.0, 70.0, 50.0, 110.0)
    mirrored = (70.0, 70.0, 90.0, 110.0)  # column 5 - 1 - 1 = 3 of the unmirrored right map
    assert peak.right_box_px == (mirrored if alignment == "latent" else peak.left_box_px)


def prognosis(scores: list[float], heat: float, peak: tuple[int, int]) -> dict[str, np.ndarray]:
    """What a graph answers on maps of 9 x 5 cells."""
    n = len(scores)
    return {
        "score": np.array(scores, np.float32),
        "risk": np.maximum.accumulate(np.array(scores, np.float32)),
        "heatmap": np.full((n, 2, 9, 5), heat, np.float32),
        "peak": np.tile(np.array(peak), (n, 2, 1)),
    }


def test_years_of_several_members_stand_in_order_and_never_decrease() -> None:
    coarse = PrognosisMember("a.xml", "a", (1, 5), (10, 5), (2, 1), (1, 1), "none")
    fine = PrognosisMember("b.xml", "b", (2, 3), (20, 10), (2, 1), (2, 2), "none")
    spec = PrognosisSpec((coarse, fine))
    assert spec.years == (1, 2, 3, 5)
    answers = [prognosis([0.2, 0.1], 1.0, (3, 1)), prognosis([0.7, 0.4], 2.0, (3, 1))]
    geometries = {"L-CC": geometry(), "R-CC": geometry()}
    result = interpret_prognosis(spec, answers, geometries)
    assert [item.year for item in result.years] == [1, 2, 3, 5]
    assert [item.score for item in result.years] == pytest.approx([0.2, 0.7, 0.4, 0.1])
    assert [item.risk for item in result.years] == pytest.approx([0.2, 0.7, 0.7, 0.7])
    # Each year's window is drawn on the map of its own member: row 3 of 10 by strides of one cell
    # of 20 rows, or of two cells of 10 rows.
    boxes = {peak.year: peak.left_box_px for peak in result.peaks}
    assert boxes[1] == boxes[5] == (30.0, 70.0, 50.0, 110.0)
    assert boxes[2] == boxes[3] == (30.0, 70.0, 40.0, 90.0)
    assert result.heatmaps["L-CC"].values.max() == 1.0  # of year 5, the last, of the first member


def test_a_member_of_prognosis_that_answers_wrongly_is_named() -> None:
    members = tuple(
        PrognosisMember(f"{y}.xml", "e", (y,), (10, 5), (2, 1), (1, 1), "none") for y in (1, 2)
    )
    geometries = {"L-CC": geometry(), "R-CC": geometry()}
    answers = [prognosis([0.2], 1.0, (0, 0)), prognosis([0.2], 1.0, (9, 0))]
    with pytest.raises(BundleError, match=r"2\.xml: answers a peak outside its map"):
        interpret_prognosis(PrognosisSpec(members), answers, geometries)


def test_unknown_heads_are_refused() -> None:
    from mammofm_lite import InferOptions

    with pytest.raises(
        UsageError, match="unknown head 'oracle'; heads are diagnosis, localization"
    ):
        InferOptions(("diagnosis", "oracle"))

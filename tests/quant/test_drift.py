"""Figures of drift against closed forms, and the gates they are held against."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammofm_lite.errors import ExportError
from mammofm_lite.quant.drift import OutputDrift, matched_marks, output_drifts, overlap
from mammofm_lite.quant.gates import Failure, Gates
from mammofm_lite.quant.truth import area_under_roc
from mammofm_lite.results import Mark


def test_sqnr_and_cosine_by_hand() -> None:
    signal = np.array([3.0, 4.0], np.float32)
    noisy = np.array([3.0, 4.5], np.float32)
    (drift,) = output_drifts([{"map": signal}, {"map": signal}], [{"map": noisy}, {"map": signal}])
    assert drift.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert drift.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    assert drift.mean_cosine == pytest.approx((drift.cosine + 1) / 2)


@pytest.mark.parametrize(
    ("one", "other", "cosine", "sqnr"),
    [([1, 0], [1, 0], 1, 200), ([0, 0], [0, 0], 1, 200), ([1, 0], [0, 0], 0, 0)],
)
def test_the_edges_of_both(one: list[int], other: list[int], cosine: float, sqnr: float) -> None:
    runs = [{"x": np.array(values, np.float32)} for values in (one, other)]
    (drift,) = output_drifts(runs[:1], runs[1:])
    assert (drift.cosine, drift.sqnr_db) == pytest.approx((cosine, sqnr))


boxes = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(51, 100)] * 2)


@given(boxes, boxes)
def test_overlap_is_symmetric_and_one_with_itself(a: Any, b: Any) -> None:
    assert overlap(a, b) == pytest.approx(overlap(b, a))
    assert 0 <= overlap(a, b) <= 1 + 1e-12
    assert overlap(a, a) == pytest.approx(1)


def test_overlap_by_hand() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def mark(view: Any, label: str, *box: float, score: float = 0.5) -> Mark:
    return Mark(view, label, score, (box[0], box[1], box[2], box[3]), None)


def test_marks_are_partners_of_one_view_label_and_place() -> None:
    ours = [mark("L-CC", "mass", 0, 0, 10, 10), mark("R-CC", "mass", 0, 0, 10, 10)]
    theirs = [
        mark("L-CC", "mass", 4, 0, 14, 10),  # IoU 6/14, too far
        mark("L-CC", "mass", 1, 0, 11, 10),
        mark("L-CC", "mass", 0, 0, 10, 9),  # better, and one mark has one partner
        mark("R-CC", "calcifications", 0, 0, 10, 10),
        mark("R-MLO", "mass", 0, 0, 10, 10),
    ]
    assert matched_marks(ours, theirs) == [(ours[0], theirs[2])]


def test_area_under_roc_counts_pairs() -> None:
    assert area_under_roc([0.9, 0.4], [0.4, 0.1]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert area_under_roc([], [0.1]) is None


# ---- gates


def test_gates_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("pooled_cosine = 0.999\nreport_text = 1\n")
    gates = Gates.read(tmp_path / "gates.toml")
    assert gates == Gates(pooled_cosine=0.999, report_text=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed = 1", r"g\.toml: unknown gate 'speed'; gates are pooled_cosine, map_cosine"),
        ("risk = 2", "gate 'risk' is 2, allowed: a number from 0 to 1"),
        ("risk = nan", "gate 'risk' is nan, allowed"),
        ("risk = true", "gate 'risk' is True, allowed"),
        ("risk =", r"g\.toml is not TOML"),
    ],
)
def test_wrong_gates_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(ExportError, match=message):
        Gates.read(tmp_path / "g.toml")


def test_a_missing_file_of_gates_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.toml: cannot be read"):
        Gates.read(tmp_path / "none.toml")


def test_each_gate_holds_its_figure() -> None:
    gates = Gates()
    good = {
        "diagnosis": {"largest_probability_change": gates.probability},
        "localization": {"marks_matched": gates.marks_matched},
        "prognosis": {"largest_risk_change": gates.risk},
        "report": {"recall_equal": 1.0, "text_equal": 0.0},
    }
    assert gates.of_heads(good) == []
    bad = {
        "diagnosis": {"largest_probability_change": 0.021},
        "localization": {"marks_matched": 0.89},
        "prognosis": {"largest_risk_change": float("nan")},
        "report": {"recall_equal": 0.5, "text_equal": 0.0},
    }
    assert [failure.where for failure in gates.of_heads(bad)] == list(bad)
    assert str(gates.of_heads(bad)[1]) == "localization: marks matched 0.89 is below 0.9"
    drifts = [OutputDrift("pooled", 0.9899, 1, 20), OutputDrift("map", 0.951, 1, 20)]
    assert gates.of_outputs("e.xml", drifts) == [
        Failure("e.xml", "pooled cosine", 0.9899, 0.99, upper=False)
    ]


def test_a_head_that_answers_with_one_bundle_only_is_told() -> None:
    from mammofm_lite.quant.drift import head_drifts

    def study(**heads: Any) -> Any:
        none = dict.fromkeys(("diagnosis", "localization", "prognosis", "report"))
        return SimpleNamespace(**{**none, **heads})

    with pytest.raises(ExportError, match="head 'prognosis' answers with one of the two bundles"):
        head_drifts([study(prognosis=object())], [study()])
    assert head_drifts([study()], [study()]) == {}

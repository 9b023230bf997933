"""From truth and answers to figures, tables and the model card, on studies made by hand."""

from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mammofm_lite.errors import UsageError
from mammofm_lite.export.quality import EvaluationOptions, model_card, table
from mammofm_lite.export.quality.evaluation import _difference, _lower
from mammofm_lite.export.quality.figures import Measure, confusion, measures
from mammofm_lite.export.quality.records import (
    Known,
    Record,
    Target,
    findings_of_truth,
    kind_of_label,
    record_of,
)
from mammofm_lite.export.seeds import HELD_OUT, TRAINING, VALIDATION
from mammofm_lite.results import Mark

HEADS = ("diagnosis", "localization", "prognosis", "report")


def known(seed: int, malignant: bool, density: str = "b") -> Known:
    risk = (0.9 if malignant else 0.3 if seed % 4 == 0 else 0.01 * (seed + 1),) * 5
    years = 0.5 if malignant else 3.5 if seed % 4 == 0 else None
    findings = (("mass", "L", "upper_outer_quadrant"),) if malignant else ()
    return Known(seed, density, malignant, malignant, years, risk, findings)


def record(seed: int, malignant: bool, **changes: Any) -> Record:
    """A study that is answered perfectly, but for the changes."""
    truth = known(seed, malignant, "abcd"[seed % 4])
    target = Target(0, "mass", True, 8.0 + seed, 0.9, True, True)
    return Record(
        **{
            "known": truth,
            "breast_cm2": 100.0 + seed,
            "malignancy": 0.98 if malignant else 0.02,
            "density": truth.density,
            "suggested": malignant,
            "images": 4,
            "targets": (target,) if malignant else (),
            "false_scores": (0.1,),
            "false_marks": 0,
            "report_recall": malignant,
            "findings": truth.findings,
            "contradictions": 0,
            "unflagged": 0,
            "risks": dict(enumerate(truth.risk_by_year, start=1)),
        }
        | changes
    )


def figures(records: list[Record]) -> dict[str, dict[str, Any]]:
    found = measures(records, HEADS, shifted=False)
    return {m.name: m.figure(len(records), replicates=100)[0] for m in found}


def value_of(name: str, records: list[Record]) -> float:
    """One figure without its interval."""
    (found,) = [m for m in measures(records, HEADS, shifted=False) if m.name == name]
    return found.statistic(np.arange(len(records)))


PERFECT = [record(i, malignant=i % 3 == 0) for i in range(24)]


def test_perfect_answers_meet_every_target() -> None:
    found = figures(PERFECT)
    aimed = {name: figure for name, figure in found.items() if figure["target"] is not None}
    assert len(aimed) == 8 + 2 * 5
    # Of the women without a cancer some get one in year 4; in years 1 to 3 there is none to find.
    unknown = {name for name, figure in aimed.items() if figure["met"] is None}
    assert unknown == {f"way year {year}, no visible cancer" for year in (1, 2, 3)}
    assert all(figure["met"] for name, figure in aimed.items() if name not in unknown)
    assert found["auc"]["value"] == 1.0
    assert (found["auc"]["low"], found["auc"]["high"]) == (1.0, 1.0)
    assert found["way year 5"]["value"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"malignancy": 0.5}, "auc", 0.5),
        ({"density": "a"}, "density", 0.25),
        ({"report_recall": True}, "recall", 1 / 3),
        ({"findings": ()}, "recall of findings", 0.0),
        ({"findings": (("mass", "R", "upper_outer_quadrant"),)}, "f1", 0.0),
        ({"findings": None}, "parsed", 0.0),
        ({"false_marks": 2}, "false marks", 0.5),
        ({"unflagged": 1, "contradictions": 2}, "unflagged", 1.0),
        ({"false_scores": (0.95, 0.95, 0.95)}, "sensitivity", 0.0),
        ({"false_scores": (0.95, 0.95)}, "sensitivity", 1.0),
        ({"risks": dict.fromkeys(range(1, 6), 0.5)}, "way year 5", 0.0),
    ],
)
def test_wrong_answers_show_in_their_figure(
    changes: dict[str, Any], name: str, value: float
) -> None:
    records = [record(r.known.seed, r.known.malignant, **changes) for r in PERFECT]
    assert value_of(name, records) == pytest.approx(value)


def test_reports_that_never_parse_count_against_the_bundle() -> None:
    records = [record(r.known.seed, r.known.malignant, findings=None) for r in PERFECT]
    assert value_of("f1", records) == 0.0
    assert "f1" not in {m.name for m in measures(records, ("diagnosis",), shifted=False)}


def test_the_confusion_has_true_rows() -> None:
    records = [record(0, False, density="c"), record(1, False), record(5, True)]
    assert confusion(records) == [[0, 0, 1, 0], [0, 2, 0, 0], [0] * 4, [0] * 4]


# -------------------- one study


def lesion(**changes: Any) -> SimpleNamespace:
    box = {"L-CC": (10, 10, 30, 30), "L-MLO": (50, 50, 70, 70)}
    basic = {"kind": "mass", "laterality": "L", "quadrant": "upper outer", "malignant": True}
    return SimpleNamespace(**basic | {"diameter_mm": 9.0, "boxes_px": box} | changes)


def localized(*marks: tuple[str, str, float, tuple[int, ...]]) -> SimpleNamespace:
    made = tuple(Mark(view, label, score, box, None) for view, label, score, box in marks)
    return SimpleNamespace(views_searched=("L-CC", "L-MLO"), marks=made, thresholds={})


def study(lesions: tuple[Any, ...], shown: Any, wide: Any, kinds: tuple[str, ...] = ()) -> Record:
    truth = SimpleNamespace(
        seed=1, density="b", malignant=True, recall=True, years_to_cancer=0.5,
        risk_by_year=(0.9,) * 5, lesions=lesions,
    )  # fmt: skip
    said = [SimpleNamespace(kind=kind, descriptors={"location": "central"}) for kind in kinds]
    breasts = MappingProxyType({"L": SimpleNamespace(findings=said)})
    report = SimpleNamespace(recall=True, composition="b", breasts=breasts)
    geometry = SimpleNamespace(
        row_runs=((0, 100),), column_runs=((0, 40), (60, 70)), pixel_spacing_mm=(1.0, 2.0)
    )
    result = SimpleNamespace(
        diagnosis=None, localization=shown, prognosis=None, recall=None,
        report=SimpleNamespace(report=report, flags=()), views=[SimpleNamespace(geometry=geometry)],
    )  # fmt: skip
    spec = SimpleNamespace(labels=("mass", "Suspicious Calcification"))
    return record_of(truth, result, wide, SimpleNamespace(diagnosis=None, localization=spec))


def test_marks_become_targets_and_false_marks() -> None:
    hit = ("L-CC", "mass", 0.8, (12, 12, 28, 28))
    weak = ("L-MLO", "mass", 0.2, (52, 52, 68, 68))
    false = ("L-CC", "mass", 0.5, (80, 80, 90, 90))
    got = study((lesion(),), localized(hit, false), localized(false, weak, hit), ("mass",))
    assert [(t.score, t.found, t.named) for t in got.targets] == [
        (0.8, True, True),
        (0.2, False, False),
    ]
    assert (got.false_scores, got.false_marks) == ((0.5,), 1)
    assert got.breast_cm2 == pytest.approx(100 * 50 * 2 / 100)
    assert (got.contradictions, got.unflagged) == (0, 0)


def test_a_lesion_that_no_label_covers_is_neither_sought_nor_false() -> None:
    node = lesion(kind="intramammary_lymph_node")
    on_it = localized(("L-CC", "mass", 0.8, (12, 12, 28, 28)))
    got = study((node,), on_it, on_it, ("mass",))
    assert (got.targets, got.false_scores, got.false_marks) == ((), (), 0)


def test_a_hit_with_the_wrong_label_is_found_but_not_named() -> None:
    mark = localized(("L-CC", "Suspicious Calcification", 0.8, (12, 12, 28, 28)))
    got = study((lesion(),), mark, mark, ("calcifications",))
    assert (got.targets[0].found, got.targets[0].named) == (True, False)


def test_contradictions_without_a_flag_are_counted() -> None:
    mark = localized(("L-CC", "mass", 0.8, (12, 12, 28, 28)))
    got = study((lesion(),), mark, mark, ("calcifications",))
    assert (got.contradictions, got.unflagged) == (2, 2)  # calcifications unmarked, mass untold
    assert study((lesion(),), mark, mark, ("focal_asymmetry",)).contradictions == 0


def test_words_of_truth_and_labels() -> None:
    truth = SimpleNamespace(lesions=(lesion(), lesion(quadrant="central", laterality="R")))
    assert findings_of_truth(truth) == (
        ("mass", "L", "upper_outer_quadrant"),
        ("mass", "R", "central"),
    )
    assert kind_of_label("Suspicious Calcification") == "calcifications"
    assert kind_of_label("scar") is None


# -------------------- comparing bundles, tables, card


def test_a_fall_of_more_than_a_hundredth_is_told_whichever_way_is_better() -> None:
    def against(higher: bool, value: float) -> bool | None:
        measure = Measure("x", "g", "t", lambda _: value, 9, higher=higher, quality=True)
        first = measure.figure(5, 100)
        figure = {"value": value}
        return (_difference(measure, figure, first[1], ({"value": 0.9}, first[1])) or {})[
            "within_0.01"
        ]

    assert [against(True, value) for value in (0.95, 0.891, 0.889)] == [True, True, False]
    assert [against(False, value) for value in (0.85, 0.909, 0.911)] == [True, True, False]


def evaluation(records: list[Record]) -> dict[str, Any]:
    condition = {"figures": list(figures(records).values()), "density_confusion": [[1] * 4] * 4}
    bundle = {
        "name": "demo", "version": "1.0.0", "sha256": "0" * 64, "precision": "int8",
        "megabytes": 8.0, "intended_use": "Demonstration only.", "licence": "Apache-2.0",
        "notice": "", "synthetic": False, "heads": list(HEADS), "input": [640, 384],
        "conditions": {"none": condition, "vendor": condition},
    }  # fmt: skip
    return {
        "machine": {}, "bundles": [bundle],
        "software": {"cpu": "C", "threads": 2, "instruction_set": "avx2", "mammofm_lite": "1",
                     "openvino": "2", "numpy": "3", "python": "4"},
        "settings": {"studies": 24, "shifts": ["none", "vendor"], "seeds": [2_000_000, 2_000_023],
                     "training_seeds_below": 1_000_000, "validation_seeds_below": 2_000_000,
                     "pixel_spacing_mm": 0.1, "prevalence": 0.35, "difficulty": 0.5,
                     "bootstrap_replicates": 200, "calibration_bins": 10,
                     "false_marks_per_image": 0.5, "hit": "centre in the box"},
    }  # fmt: skip


def test_the_table_lines_up_and_says_what_is_met() -> None:
    records = [record(r.known.seed, r.known.malignant, density="a") for r in PERFECT]
    text = table(evaluation(records))
    block = [line for line in text.splitlines() if line.startswith("|")]
    assert "| density accuracy " in text
    assert "NOT MET" in next(line for line in block if line.startswith("| density accuracy  "))
    assert "| met " in next(line for line in block if line.startswith("| malignancy AUC of"))
    first = block[: next(i for i, line in enumerate(block) if line.startswith("|   |"))]
    assert len({len(line) for line in first}) == 1


def test_the_card_says_where_it_falls_short() -> None:
    records = [record(r.known.seed, r.known.malignant, density="a") for r in PERFECT]
    text = model_card(evaluation(records))
    for title in ("Intended use", "Training data", "Figures", "Failure modes", "Limits"):
        assert f"## {title}" in text
    assert "0.600 short of its target (≥ 0.85)" in text
    assert "Not a medical device" in text
    assert "Seeds below 1000000" in text
    assert "INT8" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "-"))) < 400
    assert "No target was missed" in model_card(evaluation(PERFECT))


def test_random_weights_are_told_in_the_card() -> None:
    made = evaluation(PERFECT)
    made["bundles"][0]["synthetic"] = True
    assert "every answer is meaningless" in model_card(made)


def test_seeds_never_serve_twice() -> None:
    assert TRAINING.stop == VALIDATION.start
    assert VALIDATION.stop == HELD_OUT.start


def test_thresholds_are_lowered_however_members_are_nested() -> None:
    head = {"threshold": 0.4, "members": [{"threshold": 0.3, "labels": ["mass"]}]}
    _lower(head)
    assert head == {"threshold": 0.01, "members": [{"threshold": 0.01, "labels": ["mass"]}]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"studies": 1}, "studies must be from 2"),
        ({"replicates": 5}, "replicates must be 100"),
        ({"shifts": ("fog",)}, "unknown shift 'fog'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EvaluationOptions(**options)

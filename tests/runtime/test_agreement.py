"""Disagreement between heads is told: one case for every rule, and silence where none applies."""

from types import MappingProxyType, SimpleNamespace

import pytest

from mammofm_lite.bundle import (
    DiagnosisMember,
    DiagnosisSpec,
    LabelSpec,
    LocalizationMember,
    LocalizationSpec,
)
from mammofm_lite.heads.agreement import report_flags
from mammofm_lite.report import BreastReport, Lexicon, Report, ReportFinding
from mammofm_lite.results import (
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    LocalizationResult,
    Mark,
    ReportResult,
)

VIEWS = ("L-CC", "L-MLO", "R-CC", "R-MLO")
LABELS = (
    LabelSpec("malignancy", "binary", (), 0.5, "mean", "max", True),
    LabelSpec("density", "categorical", tuple("abcd"), None, "mean", "highest_class", False),
)
OTHERS = ("architectural distortion", "Focal_Asymmetry", "intramammary_lymph_node")
BUNDLE = SimpleNamespace(
    diagnosis=DiagnosisSpec(
        tuple(DiagnosisMember(f"{label.name}.xml", "e", (label,)) for label in LABELS)
    ),
    localization=LocalizationSpec(
        (
            LocalizationMember("l1.xml", "e", ("mass",), 0.2),
            LocalizationMember("l2.xml", "f", ("Suspicious Calcification", "scar"), 0.3),
            LocalizationMember("l3.xml", "f", OTHERS, 0.3),
        )
    ),
)


def breast(*kinds: str) -> BreastReport:
    findings = tuple(ReportFinding(kind, {}) for kind in kinds)
    return BreastReport("findings" if findings else "no_findings", findings)


def report(right=(), left=(), recall=False, composition="b") -> ReportResult:
    breasts = MappingProxyType({"R": breast(*right), "L": breast(*left)})
    lexicon = Lexicon("x", "1")
    made = Report("text", lexicon, (), composition, breasts, recall, "1", "routine_screening")
    return ReportResult(made, VIEWS, ())


def outcomes(malignant="no", density="b", marks=(), views=VIEWS) -> dict[str, HeadOutcome]:
    scores = (
        LabelScore("malignancy", {"yes": 0.5}, malignant, 0.5),
        LabelScore("density", {}, density, None),
    )
    found = tuple(Mark(view, label, 0.9, (0, 0, 1, 1), None) for view, label in marks)
    results = {
        "diagnosis": DiagnosisResult({}, {}, scores),
        "localization": LocalizationResult(0.2, views, found, BUNDLE.localization.thresholds),
    }
    return {name: HeadOutcome("answered", None, None, result) for name, result in results.items()}


def codes(written: ReportResult, answered: dict[str, HeadOutcome]) -> list[str]:
    return [flag.code for flag in report_flags(BUNDLE, written, answered)]


def test_agreement_is_silent() -> None:
    answered = outcomes("yes", "c", [("R-CC", "mass"), ("L-CC", "Suspicious Calcification")])
    written = report(("mass",), ("calcifications",), recall=True, composition="c")
    assert codes(written, answered) == []


@pytest.mark.parametrize(
    ("written", "answered", "code", "words"),
    [
        (
            report(("mass",), recall=True),
            outcomes(marks=[("R-CC", "mass")]),
            "recall_differs",
            "the report suggests recall; the diagnosis head has no label that asks for recall",
        ),
        (
            report(),
            outcomes("yes"),
            "recall_differs",
            "the report suggests no recall; the diagnosis head has malignancy above threshold",
        ),
        (report(composition="a"), outcomes(density="d"), "composition_differs", "composition a"),
        (report(("mass",)), outcomes(), "finding_without_mark", "mass in the right breast"),
        (
            report(),
            outcomes(marks=[("L-MLO", "Suspicious Calcification")]),
            "mark_without_finding",
            "marks Suspicious Calcification in the left breast",
        ),
        (
            report(("architectural_distortion",)),
            outcomes(),
            "finding_without_mark",
            "describes architectural distortion in the right breast; the localization head marks "
            "no architectural distortion there",
        ),
        (
            report(),
            outcomes(marks=[("L-CC", "intramammary_lymph_node")]),
            "mark_without_finding",
            "marks intramammary_lymph_node in the left breast",
        ),
        (
            report(),
            outcomes(marks=[("R-CC", "Focal_Asymmetry")]),
            "mark_without_finding",
            "marks Focal_Asymmetry in the right breast",
        ),
    ],
)
def test_each_disagreement(written, answered, code: str, words: str) -> None:
    (flag,) = report_flags(BUNDLE, written, answered)
    assert flag.code == code
    assert words in flag.detail


def test_a_mark_may_be_called_an_asymmetry() -> None:
    for label in ("mass", "Focal_Asymmetry"):
        assert codes(report(("asymmetry",)), outcomes(marks=[("R-CC", label)])) == []


def test_a_breast_that_was_not_searched_cannot_disagree() -> None:
    assert codes(report(("mass",)), outcomes(views=("L-CC",))) == []


def test_an_unknown_label_cannot_disagree() -> None:
    assert codes(report(), outcomes(marks=[("R-CC", "scar")])) == []


def test_heads_that_did_not_answer() -> None:
    assert codes(report(("mass",), recall=True), {}) == []

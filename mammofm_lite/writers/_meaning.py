"""What the numbers of a result mean, in sentences made of what the bundle says of its heads."""

from collections.abc import Mapping
from typing import Final

from ..bundle import LabelSpec
from ..results import LocalizationResult, PrognosisResult

__all__ = [
    "MARK_MEANING",
    "label_meaning",
    "label_title",
    "marks_meaning",
    "plain_label",
    "risk_meaning",
    "threshold_text",
]

MARK_MEANING: Final = (
    "A score ranks marks; it is not a probability, and scores of different detectors are on "
    "different scales."
)
_OF_A_BREAST: Final[Mapping[str, str]] = {
    "mean": "A breast has the mean of its views",
    "max": "A breast has the greatest of its views",
}
_OF_A_STUDY: Final[Mapping[str, str]] = {
    "mean": "the study the mean of its breasts",
    "max": "the study the greatest of its breasts",
    "highest_class": "the study that of the breast whose most probable class comes later",
}


def plain_label(label: str) -> str:
    """A label as words: the underscores of names become spaces."""
    return label.replace("_", " ")


def label_title(label: str) -> str:
    """The same with a capital, for headings."""
    words = plain_label(label)
    return words[:1].upper() + words[1:]


def threshold_text(value: float) -> str:
    """A threshold to the digits that scores are shown with; `result.json` has all of them."""
    return f"{value:.3g}"


def label_meaning(spec: LabelSpec) -> str:
    """What a label of the diagnosis head answers, how views are combined, and what follows."""
    combined = f"{_OF_A_BREAST[spec.breast]}, {_OF_A_STUDY[spec.study]}."
    return f"{_answer(spec)} {combined}{_consequence(spec)}"


def _answer(spec: LabelSpec) -> str:
    if spec.kind == "binary":
        return "The model's probability, 0 to 1."
    classes = ", ".join(spec.classes)
    if spec.kind == "categorical":
        return f"The most probable class of {classes}, and its probability; all add up to 1."
    return (
        f"Which of these texts fits best: {classes}. Softmax of cosine similarities, which lie "
        "close together: good for ranking, no probability of disease."
    )


def _consequence(spec: LabelSpec) -> str:
    if spec.kind != "binary":
        return ""
    if spec.threshold is None:
        return " The bundle sets no threshold, so it is neither yes nor no."
    asks = ", and a study that reaches it is suggested for recall" if spec.recall else ""
    return f" It counts as yes from {threshold_text(spec.threshold)} on{asks}."


def marks_meaning(answer: LocalizationResult) -> str:
    """From which score on a mark is shown, and what the score is."""
    points = dict.fromkeys(answer.thresholds.values())
    if len(points) == 1:
        shown = f"Marks of {threshold_text(answer.threshold)} and above are shown."
    else:
        each = ", ".join(
            f"{plain_label(name)} {threshold_text(value)}"
            for name, value in answer.thresholds.items()
        )
        shown = f"Marks are shown from these scores on: {each}."
    return f"{shown} {MARK_MEANING}"


def risk_meaning(answer: PrognosisResult) -> str:
    """What a risk is and what it was computed from."""
    pairs = " and ".join(answer.projections_used)
    return (
        "The model's risk of a cancer within so many years, 0 to 1, from how far the left and the "
        f"right {pairs} view differ. A longer time never has a smaller risk: each year shows the "
        "greatest score of the years up to it."
    )

"""What the heads answered, as sections of the page: suggestion, report, risk, scores, marks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..bundle import Bundle
from ..results import (
    DiagnosisResult,
    HeadOutcome,
    LabelScore,
    PrognosisResult,
    ReportResult,
    StudyResult,
)
from ..views import STANDARD_VIEWS, Laterality, ViewName
from ._hanging import HANGING
from ._html_views import NumberedMark, colours, numbered_marks
from ._markup import Markup, Shown, Value, data_table, element, joined
from ._meaning import label_meaning, label_title, marks_meaning, plain_label, risk_meaning
from ._risk_curve import risk_curve

__all__ = [
    "card",
    "marks_section",
    "outcome_text",
    "report_section",
    "risk_section",
    "scores_section",
    "suggestion",
    "swatch",
]

_SIDES: Final[tuple[tuple[Laterality, str], ...]] = (("R", "Right breast"), ("L", "Left breast"))
_BREAST_SECTIONS: Final = ("right_breast", "left_breast")


def card(name: str, title: str, *content: Shown) -> Markup:
    """A titled section; `name` is its anchor."""
    heading = element("h2", {"id": f"{name}-title"}, title)
    given: dict[str, Value] = {"id": name, "class": "card", "aria-labelledby": f"{name}-title"}
    return element("section", given, heading, *content)


def _unanswered(result: StudyResult, head: str) -> Markup:
    outcome = result.heads.get(head)
    if outcome is None:
        text = f"The {head} head was not asked for."
    else:
        text = f"No answer: {outcome.detail}."
    return element("p", {"class": "unanswered"}, text)


# -------------------- suggestion


def suggestion(result: StudyResult) -> Markup:
    """What to do next by the model's lights, what that rests on, and what is missing."""
    recall = result.recall
    if recall is None:
        kind, words = "none", "No suggestion"
        basis: Sequence[str] = ("No head that decides on recall answered.",)
    else:
        kind = "recall" if recall.suggested else "no-recall"
        words = "Recall suggested" if recall.suggested else "No recall suggested"
        basis = recall.basis
    return card(
        "suggestion",
        "Suggestion of the model",
        element("p", {"class": f"verdict {kind}"}, words),
        element("ul", {"class": "basis"}, (element("li", {}, line) for line in basis)),
        element("dl", {"class": "facts"}, (_fact(*fact) for fact in _facts(result))),
    )


def _fact(name: str, value: str, kind: str = "") -> Markup:
    shown = element("dd", {"class": kind or None}, value)
    return element("div", {}, element("dt", {}, name), shown)


def _facts(result: StudyResult) -> Iterator[tuple[str, str] | tuple[str, str, str]]:
    views = [view for view in HANGING if any(info.view == view for info in result.views)]
    yield "Views read", ", ".join(views)
    if result.missing_views:
        missing = [view for view in HANGING if view in result.missing_views]
        yield "Views missing", ", ".join(missing), "warn"
    if result.report:
        report = result.report.report
        yield "BI-RADS, model’s estimate", report.birads_estimate or "left open: views are missing"
    if result.diagnosis:
        for score in result.diagnosis.study:
            yield label_title(score.label), score_text(score)
    if result.prognosis:
        last = result.prognosis.years[-1]
        yield f"Risk within {_years(last.year)}", f"{last.risk:.3f}"
    if result.localization:
        yield "Marks", str(len(result.localization.marks))
    for head, outcome in result.heads.items():
        if outcome.result is None:
            yield f"{label_title(head)} head", f"no answer: {outcome.detail}", "warn"


def _years(count: int) -> str:
    return "1 year" if count == 1 else f"{count} years"


def score_text(score: LabelScore) -> str:
    """A score in a few words: a probability, or the most probable class and its probability."""
    if "yes" in score.probabilities:
        against = {"yes": " (yes)", "no": " (no)", None: ""}[score.value]
        return f"{score.probabilities['yes']:.3f}{against}"
    return f"{score.value} ({score.probabilities[score.value or '']:.2f})"


# -------------------- report


def report_section(result: StudyResult) -> Markup:
    """The report's sections, right and left side by side, and where other heads disagree."""
    answer = result.report
    if answer is None:
        return card("report", "Report", _unanswered(result, "report"))
    sections = {section.name: section for section in answer.report.sections}
    before: list[Markup] = []
    sides: list[Markup] = []
    after: list[Markup] = []
    for name, section in sections.items():
        title, text = element("h3", {}, section.title), element("p", {}, section.text)
        block = element("div", {"class": "part"}, title, text)
        if name in _BREAST_SECTIONS:
            sides.append(block)
        else:
            (after if sides else before).append(block)
    lexicon = answer.report.lexicon
    return card(
        "report",
        "Report, drafted by the model",
        before,
        element("div", {"class": "sides"}, sides),
        after,
        _flags(answer),
        element(
            "p",
            {"class": "note"},
            f"Terms: {lexicon.name}, {lexicon.edition}. Read from {', '.join(_hung(answer))}; "
            "no earlier images, no history. A category is the model’s estimate, not an assessment.",
        ),
    )


def _hung(answer: ReportResult) -> list[ViewName]:
    return [view for view in HANGING if view in answer.views_used]


def _flags(answer: ReportResult) -> Markup | None:
    if not answer.flags:
        return None
    return element(
        "div",
        {"class": "flags"},
        element("h3", {}, f"The heads disagree ({len(answer.flags)})"),
        element("ul", {}, (element("li", {}, flag.detail) for flag in answer.flags)),
    )


# -------------------- risk


def risk_section(result: StudyResult) -> Markup:
    """The curve, the same numbers as a table, and what they mean."""
    answer = result.prognosis
    if answer is None:
        return card("risk", "Risk", _unanswered(result, "prognosis"))
    return card(
        "risk",
        "Risk of cancer, by years",
        risk_curve(answer.years),
        _risk_table(answer),
        element("p", {"class": "note"}, risk_meaning(answer)),
    )


def _risk_table(answer: PrognosisResult) -> Markup:
    risks = [item.risk for item in answer.years]
    scores = [item.score for item in answer.years]
    rows = (
        element(
            "tr",
            {},
            element("th", {"scope": "row"}, name),
            (element("td", {}, f"{value:.3f}") for value in values),
        )
        for name, values in (("Risk", risks), ("That year’s score", scores))
    )
    titles = ["Within years", *(str(item.year) for item in answer.years)]
    return data_table("numbers", "Risk and score by year", titles, rows)


# -------------------- scores


def scores_section(result: StudyResult, bundle: Bundle) -> Markup:
    """Every label for the study, each breast and each view, and what it means by the bundle."""
    answer = result.diagnosis
    if answer is None or bundle.diagnosis is None:
        return card("scores", "Scores", _unanswered(result, "diagnosis"))
    meanings = {spec.name: label_meaning(spec) for spec in bundle.diagnosis.labels}
    columns = _columns(answer)
    rows = (
        _score_row(index, score, columns, meanings[score.label])
        for index, score in enumerate(answer.study)
    )
    table = data_table("scores", "Scores of the diagnosis head", ["Label", *columns], rows)
    return card("scores", "Scores, and what they mean", table)


def _columns(answer: DiagnosisResult) -> Mapping[str, Sequence[LabelScore]]:
    columns: dict[str, Sequence[LabelScore]] = {"Study": answer.study}
    columns |= {title: answer.breasts[side] for side, title in _SIDES if side in answer.breasts}
    return columns | {view: answer.views[view] for view in HANGING if view in answer.views}


def _score_row(
    index: int, score: LabelScore, columns: Mapping[str, Sequence[LabelScore]], meaning: str
) -> Markup:
    name = element(
        "th",
        {"scope": "row"},
        label_title(score.label),
        element("span", {"class": "meaning"}, meaning),
    )
    cells = (
        element("td", {}, score_text(scores[index]), _bar(scores[index]))
        for scores in columns.values()
    )
    return element("tr", {}, name, cells)


def _bar(score: LabelScore) -> Markup:
    """Probabilities as lengths: of yes, with the threshold, or of all classes in a row."""
    parts: list[Markup] = []
    at = 0.0
    chosen = score.value if "yes" not in score.probabilities else "yes"
    for name, probability in score.probabilities.items():
        width = round(probability * 100, 2)
        kind = "chosen" if name == chosen else "other"
        place: dict[str, Value] = {"x": round(at, 2), "width": width, "height": 6}
        parts.append(element("rect", {"class": kind, **place}))
        at += width
    if score.threshold is not None:
        parts.append(element("path", {"d": f"M{score.threshold * 100:.2f} -2v10"}))
    given = {"class": "bar", "viewBox": "0 -2 100 10", "preserveAspectRatio": "none"}
    return element("svg", {**given, "aria-hidden": "true"}, parts)


# -------------------- marks


def marks_section(result: StudyResult) -> Markup:
    """Every mark as a row; its button shows it."""
    answer = result.localization
    if answer is None:
        return card("marks", "Marks", _unanswered(result, "localization"))
    items, found = numbered_marks(result), colours(result)
    searched = ", ".join(view for view in HANGING if view in answer.views_searched)
    unsearched = [view for view in STANDARD_VIEWS if view not in answer.views_searched]
    without = f"Not searched: {', '.join(unsearched)}. " if unsearched else ""
    table: Shown = element("p", {}, f"No mark in {searched}. That is not the same as no finding.")
    if items:
        titles = ("Mark", "View", "Label", "Score", "Columns", "Rows", "Size", "Picture")
        rows = (_mark_row(item, found[item.mark.label]) for item in items)
        table = data_table("marks", "Marks, in pixels of the original image", titles, rows)
    return card(
        "marks",
        f"Marks ({len(items)})",
        table,
        element("p", {"class": "note"}, f"{without}Searched: {searched}. {marks_meaning(answer)}"),
    )


def _mark_row(item: NumberedMark, colour: str) -> Markup:
    mark = item.mark
    x1, y1, x2, y2 = mark.box_px
    size = "unknown"
    if mark.box_mm:
        width, height = mark.box_mm[2] - mark.box_mm[0], mark.box_mm[3] - mark.box_mm[1]
        size = f"{width:.0f} × {height:.0f} mm"
    label = joined((swatch(colour), plain_label(mark.label)))
    show = element(
        "button",
        {"type": "button", "class": "show", "data-mark": item.number, "hidden": True},
        "Show",
        element("span", {"class": "unseen"}, f" mark {item.number}"),
    )
    columns, rows = f"{x1:.0f} to {x2:.0f}", f"{y1:.0f} to {y2:.0f}"
    cells = (mark.view, label, f"{mark.score:.3f}", columns, rows, size, show)
    return element(
        "tr",
        {"data-mark": item.number},
        element("th", {"scope": "row"}, str(item.number)),
        (element("td", {}, cell) for cell in cells),
    )


def swatch(colour: str) -> Markup:
    """A square in the colour of a label."""
    box = element("rect", {"width": 10, "height": 10, "fill": colour})
    return element("svg", {"class": "swatch", "viewBox": "0 0 10 10", "aria-hidden": "true"}, box)


def outcome_text(outcome: HeadOutcome) -> str:
    """Whether a head answered, in words."""
    return "answered" if outcome.result is not None else f"no answer: {outcome.detail}"

"""``result.html``: one file that a person opens in a browser, and nothing else is needed.

The page holds its style, its script and its pictures. Its Content-Security-Policy allows these, by
their hashes, and forbids every connection, so that opening it tells nobody anything. Without
scripts it still shows all answers, pictures and boxes. Names of patients are not in it, for they
are not in a `StudyResult`.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from .._jsonread import read_regular_file
from ..bundle import Bundle
from ..deviations import DEVIATIONS
from ..dicom import FileDecision
from ..errors import BundleError
from ..results import StudyResult
from ..views import ViewName, projection
from ._hanging import HANGING, Hung, hang
from ._html_answers import (
    card,
    marks_section,
    outcome_text,
    report_section,
    risk_section,
    scores_section,
    suggestion,
    swatch,
)
from ._html_views import Picture, colours, view_grid
from ._markdown import markdown
from ._markup import Markup, Shown, Value, data_table, element, joined
from ._meaning import label_title, plain_label
from .text import machine, study_uid

__all__ = ["MODEL_CARD", "Picture", "html_page"]

MODEL_CARD: Final = "MODEL_CARD.md"
_MOST_CARD_BYTES: Final = 256 << 10
_LISTED_FILES: Final = 300  # result.json has all
_DOCTYPE: Final = Markup("<!doctype html>\n")
_KEYS: Final = (
    ("+ −", "zoom"),
    ("arrows", "move"),
    ("0", "fit again"),
    ("W", "whole image"),
    ("[ ]", "window"),
    ("; '", "level"),
    ("I", "invert"),
    ("M", "marks"),
    ("E", "one view"),
)


def html_page(
    result: StudyResult,
    bundle: Bundle,
    pictures: Mapping[ViewName, Picture],
    orientations: Mapping[ViewName, tuple[str, str] | None],
) -> bytes:
    """The whole page, UTF-8; the same bytes for the same result.

    Parameters
    ----------
    bundle
        That gave the result: meanings of labels and the model card are its words.
    pictures
        Of every view of the result.
    orientations
        Patient Orientation of the views, as `Instance` has it.

    Raises
    ------
    BundleError
        The bundle's model card is missing or no text.
    """
    hung = hang({info.view: info.geometry for info in result.views}, orientations)
    style = joined((_asset("page.css"), _rows(hung)))
    script = _asset("page.js")
    policy = _policy(style, script)
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "referrer", "content": "no-referrer"}),
        element("title", {}, f"Mammography study read by {result.model.name}"),
        element("style", {}, style),
    )
    body = element(
        "body",
        {},
        element("a", {"class": "skip", "href": "#suggestion"}, "Skip to the suggestion"),
        _header(result),
        element("main", {}, _views(result, hung, pictures), _beside(result), marks_section(result)),
        element("div", {"class": "below"}, _below(result, bundle)),
        element("script", {}, script),
    )
    return joined((_DOCTYPE, element("html", {"lang": "en"}, head, body))).encode()


@cache
def _asset(name: str) -> Markup:
    return Markup((Path(__file__).parent / "assets" / name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    """Pictures inside the file, this style, this script; nothing else, from nowhere else."""
    return (
        "default-src 'none'; img-src data:; "
        f"style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# -------------------- head and views


def _header(result: StudyResult) -> Markup:
    model, software = result.model, result.software
    links = (
        ("views", "Views"),
        ("suggestion", "Suggestion"),
        ("report", "Report"),
        ("risk", "Risk"),
        ("marks", "Marks"),
        ("scores", "Scores"),
        ("files", "Files"),
        ("model", "Model"),
    )
    navigation = (element("a", {"href": f"#{name}"}, title) for name, title in links)
    return element(
        "header",
        {},
        element(
            "div",
            {"class": "title"},
            element("h1", {}, "Mammography study"),
            element(
                "p",
                {},
                f"Read by {model.name} {model.version} with mammofm-lite {software.mammofm_lite}. "
                f"Study {study_uid(result)}",
            ),
        ),
        element("nav", {"aria-label": "Sections"}, navigation),
        element(
            "div",
            {"class": "notices", "role": "note", "aria-label": "Notices"},
            (element("p", {}, notice) for notice in result.notices),
        ),
    )


def _rows(hung: Mapping[ViewName, Hung]) -> Markup:
    """Heights of the two rows: an own rule, for attributes named style are not allowed."""
    parts = {projection(view): one.part for view, one in hung.items()}
    return Markup("".join(f".row-{row} {{ --part: {part:.4f}; }}\n" for row, part in parts.items()))


def _views(
    result: StudyResult,
    hung: Mapping[ViewName, Hung],
    pictures: Mapping[ViewName, Picture],
) -> Markup:
    same_scale = all(one.px_per_mm is not None for one in hung.values())
    scale = "All views have one scale." if same_scale else "Pixel spacing is unknown: no scale."
    return element(
        "section",
        {"id": "views", "aria-labelledby": "views-title"},
        element("h2", {"id": "views-title", "class": "unseen"}, "Views"),
        _tools(result),
        view_grid(result, hung, pictures),
        element(
            "p",
            {"class": "legend"},
            f"The patient’s right is on the left. {scale} Background around the breasts is trimmed "
            f"at first. {_windows(pictures)} Pictures have 8 bits and are for orientation, not for "
            "diagnosis.",
        ),
        element("p", {"id": "keys", "class": "keys"}, "In a view: ", _keys()),
        _filter(),
    )  # fmt: skip


def _windows(pictures: Mapping[ViewName, Picture]) -> str:
    """What is said of windows, once for the views of which it is the same."""
    said: dict[str, list[str]] = {}
    for view in HANGING:
        if view in pictures:
            said.setdefault(pictures[view].window, []).append(view)
    if len(said) == 1:
        return next(iter(said))
    return " ".join(f"{', '.join(views)}: {text}" for text, views in said.items())


def _filter() -> Markup:
    """Window and level, for all pictures: grey times slope, plus intercept."""
    functions = (
        element(f"feFunc{channel}", {"type": "linear", "slope": 1, "intercept": 0})
        for channel in "RGB"
    )
    transfer = element("feComponentTransfer", {}, functions)
    given: dict[str, Value] = {"id": "grey", "x": 0, "y": 0, "width": 1, "height": 1}
    grey = element("filter", {**given, "color-interpolation-filters": "sRGB"}, transfer)
    return element("svg", {"class": "defs", "aria-hidden": "true"}, element("defs", {}, grey))


def _tools(result: StudyResult) -> Markup:
    """Shown by the script that they need."""
    without = "Scripts are off: views cannot be zoomed or windowed; all else is here."
    return joined(
        (
            element("noscript", {}, element("p", {}, without)),
            element(
                "div",
                {"class": "tools", "role": "group", "aria-label": "Views", "hidden": True},
                _group("Show", _toggles(result)),
                _group("Grey", _grey_controls()),
                _group("Zoom", _zoom_controls()),
                element("output", {"id": "status", "aria-live": "polite"}),
            ),
        )
    )


def _keys() -> Iterator[Shown]:
    for keys, what in _KEYS:
        yield element("span", {}, element("kbd", {}, keys), f" {what}")
    yield element("span", {}, "drag moves, Shift and drag windows, Ctrl and wheel zooms")


def _group(name: str, *content: Shown) -> Markup:
    return element("fieldset", {}, element("legend", {}, name), *content)


def _toggles(result: StudyResult) -> Iterator[Markup]:
    for name, colour in colours(result).items():
        given: dict[str, str | bool] = {"data-toggle-label": name, "checked": True}
        yield _check(given, swatch(colour), plain_label(name))
    if result.prognosis and result.prognosis.peaks:
        yield _check({"data-toggle": "peak"}, "where left and right differ most")
    yield _check({"data-toggle": "field"}, "what the model saw")


def _check(attributes: Mapping[str, str | bool], *content: Shown) -> Markup:
    return element("label", {}, element("input", {"type": "checkbox", **attributes}), *content)


def _grey_controls() -> Iterator[Markup]:
    """The window is a part of the one that the picture was made in; beyond it nothing is left."""
    for name, title, low, high, value in (
        ("width", "Window", 5, 100, 100),
        ("level", "Level", 0, 100, 50),
    ):
        limits: dict[str, Value] = {"min": low, "max": high, "value": value, "step": 1}
        slider = element("input", {"type": "range", "id": name, **limits})
        yield element("label", {}, title, slider, element("span", {"id": f"{name}-value"}))
    yield _check({"id": "invert"}, "invert")
    yield element("button", {"type": "button", "id": "grey-reset"}, "Reset")


def _zoom_controls() -> Iterator[Markup]:
    for name, title, sign in (("out", "Zoom out", "−"), ("in", "Zoom in", "+")):
        given = {"type": "button", "data-zoom": name, "aria-label": title}
        yield element("button", given, sign)
    yield element("button", {"type": "button", "data-zoom": "fit"}, "Fit")
    yield _check({"id": "whole"}, "whole images")
    yield _check({"id": "together", "checked": True}, "views together")


def _beside(result: StudyResult) -> Markup:
    parts = (suggestion(result), report_section(result), risk_section(result))
    return element("div", {"class": "beside"}, parts)


# -------------------- below


def _below(result: StudyResult, bundle: Bundle) -> Iterator[Markup]:
    yield scores_section(result, bundle)
    yield _files(result)
    yield _model(result)
    yield _model_card(bundle)
    yield element("footer", {}, (element("p", {}, notice) for notice in result.notices))


def _files(result: StudyResult) -> Markup:
    used = sum(item.used for item in result.files)
    listed = sorted(result.files, key=lambda item: not item.used)[:_LISTED_FILES]
    titles = ("File", "View", "Used", "Why", "SOP Instance UID")
    rows = (_file_row(item) for item in listed)
    table = data_table("files", "Files of the study and what was decided", titles, rows)
    more = len(result.files) - len(listed)
    rest = f"And {more} more that were not used; result.json lists them."
    return card(
        "files",
        f"Files: {len(result.files)} seen, {used} used",
        table,
        element("p", {}, rest) if more else None,
        _deviations(result),
    )


def _file_row(item: FileDecision) -> Markup:
    used = "yes" if item.used else "no"
    cells = (item.view or "–", used, item.detail, item.sop_instance_uid or "–")
    return element(
        "tr",
        {"class": None if item.used else "refused"},
        element("th", {"scope": "row"}, str(item.index)),
        (element("td", {}, cell) for cell in cells),
    )


def _deviations(result: StudyResult) -> Markup | None:
    told = [
        f"{info.view}: {DEVIATIONS[code]}."
        for view in HANGING
        for info in result.views
        if info.view == view
        for code in info.deviations
    ]
    if not told:
        return None
    return joined(
        (
            element("h3", {}, "Not taken as the file is"),
            element("ul", {}, (element("li", {}, line) for line in told)),
        )
    )


def _model(result: StudyResult) -> Markup:
    model, software = result.model, result.software
    weights = "synthetic (no training)" if model.weights_synthetic else "trained"
    facts = [
        ("Model", f"{model.name} {model.version}"),
        ("SHA-256", model.sha256),
        ("Intended use", model.intended_use),
        ("Weights", f"{weights}; licence {model.weights_licence}"),
        ("Precision", model.precision),
        ("Software", f"mammofm-lite {software.mammofm_lite}, OpenVINO {software.openvino}"),
        ("Machine", machine(software)),
    ]
    facts += [(f"{label_title(name)} head", outcome_text(x)) for name, x in result.heads.items()]
    shown = (element("div", {}, element("dt", {}, k), element("dd", {}, v)) for k, v in facts)
    return card("model", "Model and machine", element("dl", {"class": "facts"}, shown))


def _model_card(bundle: Bundle) -> Markup:
    if MODEL_CARD not in bundle.files:
        text = "The bundle carries no model card: its limits are not known."
        return card("card", "Model card", element("p", {"class": "unanswered"}, text))
    data = read_regular_file(bundle.file(MODEL_CARD), _MOST_CARD_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{MODEL_CARD} is not UTF-8; export the bundle anew") from error
    words = element("div", {"class": "prose"}, markdown(text))
    return card("card", "Model card, and its limits", words)

"""``selftest.json`` of a bundle: its answers to a phantom, and how far others may differ.

The phantom is stored by its seed and options, not by its pixels. Probabilities and scores are
compared as logits, so that a small change of a graph shows wherever between 0 and 1 they lie.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ._jsonread import Fields, read_json_object
from .bundle import Bundle
from .errors import BundleError, MammoFMError
from .phantom import PhantomOptions
from .results import StudyResult

__all__ = [
    "FORMAT",
    "LEVELS",
    "SELFTEST_FILE",
    "Comparison",
    "Expected",
    "Tolerance",
    "answers_of",
    "compare",
    "fingerprint",
    "read_expected",
    "same_pixels",
]

SELFTEST_FILE: Final = "selftest.json"
FORMAT: Final = "mammofm-selftest"
VERSION: Final = 1
LEVELS: Final = ("portable", "avx2", "avx512", "avx512_vnni")
"""What a CPU computes with, lowest first: the instruction sets of our kernels, and VNNI."""

_BLOCKS: Final = 8
# Float32 functions of numpy round differently on different CPUs: a few pixels in 100,000 differ by
# a grey level or so. A block has tens of thousands of pixels in a phantom of the usual size.
_BLOCK_TOLERANCE: Final = 0.05
# Nearer to 0 or 1 a float32 probability has too few digits for a logit.
_EDGE: Final = 1e-4

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed: of logits, and of edges of boxes in original pixels."""

    logit: float
    box_px: float


@dataclass(frozen=True)
class Expected:
    """The content of ``selftest.json``.

    Attributes
    ----------
    pixels
        Per view, what `fingerprint` returned.
    answers
        What `answers_of` returned.
    thresholds
        Operating point of every label of the localization head.
    tolerances
        Per entry of `LEVELS`.
    graphs
        SHA-256 of the graphs that answered.
    made_on
        Machine and versions, for a person.
    memory_mib
        Most memory that the making of the answers took.
    """

    seed: int
    options: PhantomOptions
    pixels: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Any]
    thresholds: Mapping[str, float]
    tolerances: Mapping[str, Tolerance]
    graphs: Mapping[str, str]
    made_on: Mapping[str, str]
    memory_mib: float


def read_expected(bundle: Bundle) -> Expected | None:
    """The bundle's ``selftest.json``; ``None`` where it lists none.

    Raises
    ------
    BundleError
        A field is missing, unknown or of the wrong kind.
    """
    if SELFTEST_FILE not in bundle.files:
        return None
    fields = read_json_object(bundle.file(SELFTEST_FILE))
    fields.only("format", "version", *Expected.__dataclass_fields__)
    fields.choice("format", (FORMAT,))
    fields.integer("version", VERSION, VERSION)
    tolerances = fields.object("tolerances").only(*LEVELS)
    thresholds = fields.object("thresholds")
    made_on, graphs = fields.object("made_on"), fields.object("graphs")
    return Expected(
        seed=fields.integer("seed", 0, 1 << 63),
        options=_options(fields.object("options")),
        pixels={view: _fingerprint(entry) for view, entry in fields.object("pixels").items()},
        answers=fields.object("answers").mapping(),
        thresholds={name: thresholds.number(name, 0, 1) for name in thresholds.mapping()},
        tolerances={level: _tolerance(tolerances.object(level)) for level in LEVELS},
        graphs={name: graphs.text(name) for name in graphs.mapping()},
        made_on={name: made_on.text(name) for name in made_on.mapping()},
        memory_mib=fields.number("memory_mib", 0),
    )


def _options(fields: Fields) -> PhantomOptions:
    fields.only(*PhantomOptions.__dataclass_fields__)
    try:
        return PhantomOptions(**fields.mapping())
    except (MammoFMError, TypeError) as error:
        raise BundleError(f"{fields.where}: no phantom can be made of these: {error}") from error


def _fingerprint(fields: Fields) -> Mapping[str, Any]:
    means = fields.value.get("means")
    if not isinstance(means, list) or not all(isinstance(mean, int | float) for mean in means):
        raise BundleError(f"{fields.where}: 'means' must be a list of numbers")
    return {"sha256": fields.text("sha256"), "means": means}


def _tolerance(fields: Fields) -> Tolerance:
    return Tolerance(fields.number("logit", 0, 5), fields.number("box_px", 0, 100))


# -------------------- pixels


def fingerprint(pixels: Pixels) -> dict[str, Any]:
    """What is stored of a view: SHA-256 of its pixels, and means of 8 x 8 blocks, row by row."""
    rows = np.array_split(np.asarray(pixels, np.float64), _BLOCKS, axis=0)
    blocks = [block for row in rows for block in np.array_split(row, _BLOCKS, axis=1)]
    return {
        "sha256": hashlib.sha256(np.ascontiguousarray(pixels, "<u2").tobytes()).hexdigest(),
        "means": [round(float(block.mean()), 4) for block in blocks],
    }


def same_pixels(expected: Mapping[str, Any], pixels: Pixels) -> tuple[bool, float]:
    """Whether a view has the stored pixels bit for bit, and the largest difference of a block.

    The difference is infinite where the blocks are not the same number.
    """
    found = fingerprint(pixels)
    if len(expected["means"]) != len(found["means"]):
        return False, math.inf
    gap = float(np.max(np.abs(np.subtract(expected["means"], found["means"]))))
    return expected["sha256"] == found["sha256"], gap


def close_pixels(gap: float) -> bool:
    """Whether a difference of blocks is no more than what kinds of CPU differ by."""
    return gap <= _BLOCK_TOLERANCE


# -------------------- answers


@dataclass(frozen=True)
class Comparison:
    """One head: `worst` is the largest difference as a share of what is allowed, where it has any.

    `detail` is one line for a person.
    """

    head: str
    same: bool
    detail: str
    worst: float | None = None


def answers_of(result: StudyResult) -> dict[str, Any]:
    """What is compared of a result, as JSON types, by head; only heads that answered."""
    answers: dict[str, Any] = {}
    if result.diagnosis:
        parts = [*result.diagnosis.views.items(), ("study", result.diagnosis.study)]
        answers["diagnosis"] = {
            part: {score.label: dict(score.probabilities) for score in scores}
            for part, scores in parts
        }
    if result.localization:
        answers["localization"] = [
            {"view": m.view, "label": m.label, "score": m.score, "box_px": list(m.box_px)}
            for m in result.localization.marks
        ]
    if result.prognosis:
        answers["prognosis"] = {f"year {y.year}": y.score for y in result.prognosis.years}
    if result.report:
        answers["report"] = _report(result.report.report)
    return answers


def _report(report: Any) -> dict[str, Any]:
    findings = {
        f"{side} breast": [{"kind": f.kind, **f.descriptors} for f in breast.findings]
        for side, breast in report.breasts.items()
    }
    status = {f"{side} status": breast.status for side, breast in report.breasts.items()}
    return {
        "composition": report.composition,
        **status,
        **findings,
        "recall": report.recall,
        "birads_estimate": report.birads_estimate,
        "management": report.management,
        "text": report.text,
    }


def compare(
    expected: Expected, answers: Mapping[str, Any], tolerance: Tolerance
) -> tuple[Comparison, ...]:
    """Compare head by head what `answers_of` returned.

    Probabilities and scores within `tolerance`; marks one to one, those within it of the threshold
    may come or go; a report field by field, equal.
    """
    return tuple(
        _compare_head(head, expected, answers, tolerance)
        for head in dict.fromkeys((*expected.answers, *answers))
    )


def _compare_head(
    head: str, expected: Expected, answers: Mapping[str, Any], tolerance: Tolerance
) -> Comparison:
    if head not in answers or head not in expected.answers:
        who = "this machine" if head not in answers else SELFTEST_FILE
        return Comparison(head, False, f"{who} has no answer of this head")
    stored, found = expected.answers[head], answers[head]
    if head == "localization":
        return _compare_marks(stored, found, expected.thresholds, tolerance)
    if head == "report":
        return _compare_report(stored, found)
    return _compare_numbers(head, stored, found, tolerance)


def _compare_numbers(head: str, stored: Any, found: Any, tolerance: Tolerance) -> Comparison:
    before, now = dict(_leaves(stored)), dict(_leaves(found))
    if before.keys() != now.keys():
        odd = sorted(before.keys() ^ now.keys())[0]
        return Comparison(head, False, f"answered or stored alone: {odd}")
    gaps = {name: abs(logit(now[name]) - logit(value)) for name, value in before.items()}
    name = max(gaps, key=lambda key: gaps[key])
    same = gaps[name] <= tolerance.logit
    detail = f"{len(gaps)} probabilities, largest difference {gaps[name]:.1e} in logits"
    if not same:
        detail = f"{name} is {now[name]:.6f}, stored is {before[name]:.6f}"
        detail += f": {gaps[name]:.1e} in logits"
    return Comparison(head, same, f"{detail}, allowed {tolerance.logit:g}", gaps[name])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a tree with the names that lead to them."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{name} {key}".strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
    else:
        raise BundleError(f"{SELFTEST_FILE}: {name!r} is not a number")


def logit(probability: float) -> float:
    """log(p / (1 - p)), of what is nearer than 0.0001 to 0 or 1 that of 0.0001."""
    inner = min(max(probability, _EDGE), 1 - _EDGE)
    return math.log(inner / (1 - inner))


def _compare_report(stored: Any, found: Any) -> Comparison:
    differing = [key for key in {**stored, **found} if stored.get(key) != found.get(key)]
    if not differing:
        return Comparison("report", True, f"{len(found)} fields and the text are the same")
    key = differing[0]
    detail = f"{key} is {found.get(key)!r}, stored is {stored.get(key)!r}"
    return Comparison("report", False, detail)


@dataclass
class _Marks:
    """Marks as they are matched: the largest differences so far, and what has no partner."""

    score: float = 0.0
    box: float = 0.0
    alone: str = ""


def _compare_marks(
    stored: Any, found: Any, thresholds: Mapping[str, float], tolerance: Tolerance
) -> Comparison:
    left = list(found)
    worst = _Marks()
    for mark in stored:
        partner = _nearest(mark, left)
        if partner is None or _distance(mark, partner) > tolerance.box_px:
            _alone(worst, mark, thresholds, tolerance, "missing")
            continue
        left.remove(partner)
        worst.box = max(worst.box, _distance(mark, partner))
        worst.score = max(worst.score, abs(logit(partner["score"]) - logit(mark["score"])))
    for mark in left:
        _alone(worst, mark, thresholds, tolerance, "not among the stored")
    allowed = f"allowed {tolerance.box_px:g} px and {tolerance.logit:g}"
    if worst.alone:
        return Comparison("localization", False, f"{worst.alone}; {allowed}")
    detail = f"{len(stored)} marks, largest difference {worst.box:.2g} px and {worst.score:.1e}"
    same = worst.score <= tolerance.logit
    return Comparison("localization", same, f"{detail} in logits, {allowed}", worst.score)


def _alone(
    worst: _Marks,
    mark: Mapping[str, Any],
    thresholds: Mapping[str, float],
    tolerance: Tolerance,
    how: str,
) -> None:
    """Note a mark without a partner, unless its score is that of its threshold."""
    threshold = thresholds.get(mark["label"])
    if threshold is not None and logit(mark["score"]) - logit(threshold) <= tolerance.logit:
        return
    worst.alone = worst.alone or f"a mark of {mark['label']} in {mark['view']} is {how}"


def _nearest(mark: Mapping[str, Any], marks: list[Any]) -> Any:
    alike = [m for m in marks if (m["view"], m["label"]) == (mark["view"], mark["label"])]
    return min(alike, key=lambda other: _distance(mark, other), default=None)


def _distance(mark: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Largest difference of an edge, in pixels."""
    pairs = zip(mark["box_px"], other["box_px"], strict=True)
    return float(max(abs(one - two) for one, two in pairs))

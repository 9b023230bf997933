"""The reports this package writes: their grammar in our own words, samples of it, a tokenizer.

Terms and the order of sections follow the mammography lexicon of BI-RADS, 5th edition (2013); the
wording is ours. The grammar keeps a report coherent, whatever the network prefers: no recall
without a finding, category 0 exactly with a recall, no quadrant from a single view, no mass unless
two views could show it, nothing about a breast that was not imaged.

A report head is taught in varied words and writes the first of them: which it would take is nothing
that a picture tells, and two machines would word one study differently. Words come after the fact
that they tell, or beside it, and never decide it: a fact of two wordings would be thought half as
likely as one that has a single one.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mammofm_lite._jsonread import Fields
from mammofm_lite.grammar import (
    Choice,
    Either,
    Finding,
    Grammar,
    Language,
    Literal,
    Node,
    Repeat,
    Section,
    Series,
)
from mammofm_lite.views import STANDARD_VIEWS, ViewName

__all__ = [
    "BOS",
    "DESCRIPTORS",
    "report_grammar",
    "report_tokenizer",
    "sample_report",
    "varied_report_grammar",
]

BOS: Final = "<report>"
MOST_FINDINGS: Final = 3
_VOCABULARY: Final = 1024
_TRAINING_REPORTS: Final = 2000

_COMPOSITION: Final = {
    "a": ("The breasts are almost entirely fatty", (" (a).", ", composition a.")),
    "b": ("There are scattered areas of fibroglandular", (" tissue (b).", " density (b).")),
    "c": (
        "The breasts are heterogeneously dense",
        (", which may hide small masses (c).", " (c); small masses may be hidden."),
    ),
    "d": (
        "The breasts are extremely dense",
        (
            ", which lowers the sensitivity of mammography (d).",
            " (d); the sensitivity of mammography is lower.",
        ),
    ),
}
_SHAPE: Final = ("oval", "round", "irregular")
_MARGIN: Final = ("circumscribed", "obscured", "microlobulated", "indistinct", "spiculated")
_DENSITY: Final = {
    "high": "high density",
    "equal": "equal density",
    "low": "low density",
    "fat_containing": "fat-containing",
}
_MORPHOLOGY: Final = {
    "skin": "skin",
    "vascular": "vascular",
    "coarse": "coarse",
    "large_rod_like": "large rod-like",
    "round": "round",
    "rim": "rim",
    "dystrophic": "dystrophic",
    "milk_of_calcium": "milk of calcium",
    "amorphous": "amorphous",
    "coarse_heterogeneous": "coarse heterogeneous",
    "fine_pleomorphic": "fine pleomorphic",
    "fine_linear": "fine linear or fine-linear branching",
}
_DISTRIBUTION: Final = ("diffuse", "regional", "grouped", "linear", "segmental")
DESCRIPTORS: Final = {
    "shape": _SHAPE,
    "margin": _MARGIN,
    "density": tuple(_DENSITY),
    "morphology": tuple(_MORPHOLOGY),
    "distribution": _DISTRIBUTION,
}
"""Values of what describes a mass or calcifications, by field."""
_DEPTH: Final = ("anterior", "middle", "posterior")
_CENTRAL: Final = {"central": "central region", "retroareolar": "retroareolar region"}
_AXILLARY_TAIL: Final = {"axillary_tail": "axillary tail"}
_LOCATION: Final = {
    "both": {
        "upper_outer_quadrant": "upper outer quadrant",
        "upper_inner_quadrant": "upper inner quadrant",
        "lower_outer_quadrant": "lower outer quadrant",
        "lower_inner_quadrant": "lower inner quadrant",
        **_CENTRAL,
        **_AXILLARY_TAIL,
    },
    "CC": {"outer_half": "outer half", "inner_half": "inner half", **_CENTRAL},
    "MLO": {
        "upper_half": "upper half",
        "lower_half": "lower half",
        **_CENTRAL,
        **_AXILLARY_TAIL,
    },
}
_MANAGEMENT: Final = {
    "additional_views": "additional mammographic views.",
    "additional_views_and_ultrasound": "additional mammographic views and ultrasound.",
}


_ROUTINE: Final = ("Routine screening", ".", " at the usual interval.")
_SUGGESTED: Final = (" suggested.", " is suggested.")


def _choice(name: str, options: dict[str, str] | Sequence[str]) -> dict[str, Any]:
    texts = options if isinstance(options, dict) else {option: option for option in options}
    return {"choice": name, "of": texts}


def _wording(*texts: str) -> dict[str, Any]:
    """One of several texts that say the same."""
    return {"either": list(texts)}


def _told(name: str, value: str, start: str, *endings: str) -> list[Any]:
    """A value by how its text starts; what follows only words it."""
    return [_choice(name, {value: start}), _wording(*endings)]


def _finding(kind: str, *parts: Any) -> dict[str, Any]:
    return {"finding": kind, "text": list(parts)}


def _where(views: str) -> list[Any]:
    return [
        _wording("; ", ", in the "),
        _choice("location", _LOCATION[views]),
        ", ",
        _choice("depth", _DEPTH),
        _wording(" third.", " depth."),
    ]


def _findings(views: str) -> dict[str, Any]:
    """One finding. A mass needs two views; of one view it is called an asymmetry."""
    anywhere = [
        _finding(
            "calcifications",
            "Calcifications",
            _wording(": ", ", "),
            _choice("morphology", _MORPHOLOGY),
            _wording(", ", " in morphology, "),
            _choice("distribution", _DISTRIBUTION),
            *_where(views),
        ),
        _finding("architectural_distortion", "Architectural distortion", *_where(views)),
    ]
    if views != "both":
        return {"either": [*anywhere, _finding("asymmetry", "Asymmetry", *_where(views))]}
    mass = _finding(
        "mass",
        "Mass",
        _wording(": ", ", "),
        _choice("shape", _SHAPE),
        _wording(", ", " in shape, "),
        _choice("margin", _MARGIN),
        _wording(", ", " in margin, "),
        _choice("density", _DENSITY),
        *_where(views),
    )
    return {
        "either": [
            mass,
            *anywhere,
            _finding("focal_asymmetry", "Focal asymmetry", *_where(views)),
            _finding("intramammary_lymph_node", "Intramammary lymph node", *_where(views)),
        ]
    }


def _some(side: str) -> dict[str, Any]:
    """A breast with findings, as far as its views can show them.

    A global asymmetry is the breast as a whole: it stands alone, and needs both views.
    """
    cases: dict[str, Any] = {
        views: {"repeat": {"rule": f"finding_{views}"}, "separator": " ", "most": MOST_FINDINGS}
        for views in ("both", "CC", "MLO")
    }
    everywhere = _finding("global_asymmetry", "Global asymmetry.")
    cases["both"] = {"either": [cases["both"], everywhere]}
    return {"by_views": side, "cases": {**cases, "none": {"either": []}}}


def _none(side: str) -> dict[str, Any]:
    """A breast without findings, or without views."""
    nothing = {"rule": f"no_findings_{side}"}
    cases = dict.fromkeys(("both", "CC", "MLO"), nothing)
    return {"by_views": side, "cases": {**cases, "none": {"rule": f"not_imaged_{side}"}}}


_TITLES: Final = {"R": ("right_breast", "Right breast"), "L": ("left_breast", "Left breast")}


def _breast(side: str, part: dict[str, Any]) -> dict[str, Any]:
    name, title = _TITLES[side]
    return {"section": name, "title": title, "text": part}


def _by_study(complete: Any, incomplete: Any) -> dict[str, Any]:
    return {"by_views": "study", "cases": {"complete": complete, "incomplete": incomplete}}


def _category(category: str) -> list[Any]:
    return [
        _wording(
            " The model's estimate of the BI-RADS category: ",
            " BI-RADS category as the model estimates it: ",
        ),
        _choice("birads_estimate", {category: f"{category}."}),
    ]


def _ending(assessment: list[Any], management: Any) -> list[Any]:
    comparison = _wording("No earlier examination was read.", "Earlier examinations were not read.")
    return [
        {"section": "comparison", "title": "Comparison", "text": comparison},
        "\n",
        {"section": "assessment", "title": "Assessment", "text": assessment},
        "\n",
        {"section": "management", "title": "Management", "text": management},
    ]


def _no_recall(category: str) -> list[Any]:
    """No recall. Of an incomplete study it promises nothing: take the missing views first."""
    assessment = _by_study(
        [*_told("recall", "no", "No recall", *_SUGGESTED), *_category(category)],
        _choice("recall", {"no": "No recall suggested by the views at hand; others are missing."}),
    )
    management = _by_study(
        _told("management", "routine_screening", *_ROUTINE),
        _choice("management", {"complete_views": "Take the missing views, then read again."}),
    )
    return _ending([assessment], management)


def _recall() -> list[Any]:
    assessment = [*_told("recall", "yes", "Recall", *_SUGGESTED), *_category("0")]
    management = [
        _wording("Recall for ", "To be recalled for "),
        _choice("management", _MANAGEMENT),
    ]
    return _ending(assessment, management)


def _body(right: dict[str, Any], left: dict[str, Any], ending: dict[str, Any]) -> list[Any]:
    return [_breast("R", right), "\n", _breast("L", left), "\n", ending]


def report_grammar() -> dict[str, Any]:
    """All reports that are written, as JSON types for ``grammar.json``; see `mammofm_lite.grammar`.

    Their pieces are those of `varied_report_grammar`, so they are cut into the same tokens.
    """
    grammar: dict[str, Any] = _first_words(varied_report_grammar())
    return grammar


def _first_words(part: Any) -> Any:
    if isinstance(part, list):
        return [_first_words(one) for one in part]
    if not isinstance(part, dict):
        return part
    texts = part.get("either") or [None]
    if all(isinstance(text, str) for text in texts):
        return texts[0]
    return {name: _first_words(value) for name, value in part.items()}


def varied_report_grammar() -> dict[str, Any]:
    """All reports that a head is taught, in the same form."""
    decided = {"either": [{"rule": "benign"}, {"rule": "recall"}]}
    bodies = [
        _body(_none("R"), _none("L"), {"rule": "negative"}),
        _body(_some("R"), _none("L"), decided),
        _body(_none("R"), _some("L"), decided),
        _body(_some("R"), _some("L"), decided),
    ]
    return {
        "lexicon": {"name": "BI-RADS mammography", "edition": "5th (2013), own wording"},
        "rules": {
            **{f"finding_{views}": _findings(views) for views in _LOCATION},
            **{
                f"no_findings_{side}": _told(
                    f"status_{side}", "no_findings", "No", " finding.", " abnormality is seen."
                )
                for side in "RL"
            },
            **{
                f"not_imaged_{side}": _choice(
                    f"status_{side}", {"not_imaged": "Not imaged; nothing can be said of it."}
                )
                for side in "RL"
            },
            "negative": _no_recall("1"),
            "benign": _no_recall("2"),
            "recall": _recall(),
        },
        "report": [
            {
                "section": "composition",
                "title": "Composition",
                "text": {
                    "either": [
                        _told("composition", value, start, *endings)
                        for value, (start, endings) in _COMPOSITION.items()
                    ]
                },
            },
            "\n",
            {"either": bodies},
        ],
    }


# -------------------- samples and tokenizer


def sample_report(language: Language, rng: random.Random) -> str:
    """A random text of a language; every option of a choice is equally likely."""
    return "".join(_words(language.root, rng))


def _words(node: Node, rng: random.Random) -> Iterator[str]:
    """The fixed texts and options of one walk, each as the tokenizer will be given it."""
    match node:
        case Literal(text):
            yield text
        case Choice(_, options):
            yield rng.choice(options)[1]
        case Series(parts):
            for part in parts:
                yield from _words(part, rng)
        case Either(parts):
            yield from _words(rng.choice([part for part in parts if _possible(part)]), rng)
        case Repeat(part, separator, most):
            yield from _words(part, rng)
            for _ in range(rng.randrange(most)):
                yield separator
                yield from _words(part, rng)
        case Section(_, _, part) | Finding(_, part):
            yield from _words(part, rng)


def _possible(node: Node) -> bool:
    match node:
        case Either(parts):
            return any(_possible(part) for part in parts)
        case Series(parts):
            return all(_possible(part) for part in parts)
        case Section(_, _, part) | Finding(_, part) | Repeat(part):
            return _possible(part)
        case _:
            return True


def _view_sets() -> list[tuple[ViewName, ...]]:
    """Every set of views that a study can have."""
    return [
        tuple(view for i, view in enumerate(STANDARD_VIEWS) if mask >> i & 1)
        for mask in range(1, 1 << len(STANDARD_VIEWS))
    ]


def report_tokenizer(seed: int = 0) -> Tokenizer:
    """A byte-level BPE tokenizer trained on samples of what is taught; the same for the same seed.

    Token 0 is `BOS`, which begins every report; none ends it, because the grammar does.
    """
    rng = random.Random(seed)  # noqa: S311
    grammar = Grammar.parse(Fields(varied_report_grammar(), "grammar.json"))
    languages = [grammar.language(views) for views in _view_sets()]
    languages += [grammar.language(STANDARD_VIEWS)] * len(languages)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = (
        text for _ in range(_TRAINING_REPORTS) for text in _words(rng.choice(languages).root, rng)
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer

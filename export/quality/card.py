"""The model card of a bundle, written by its evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .tables import aligned, figure_cell

__all__ = ["model_card"]

Figure = Mapping[str, Any]

_CARD_FIGURES: Final = (
    "auc",
    "calibration_error",
    "density",
    "sensitivity",
    "sensitivity at threshold",
    "false marks",
    "parsed",
    "f1",
    "recall",
    "unflagged",
    *(f"{kind}year {year}" for year in range(1, 6) for kind in ("", "best ", "way ")),
)
_FALLS: Final = ("auc, ", "density, ", "sensitivity, ")
_SHIFTS: Final = {
    "none": "as in training",
    "vendor": "another vendor",
    "noise": "more noise",
    "texture": "another texture",
}
# A part is told as a weakness when it is this much worse than the whole, and has as many cases.
_WORSE_BY: Final = 0.05
_FEW: Final = 20


def model_card(evaluation: Mapping[str, Any], which: int = 0) -> str:
    """The text of ``MODEL_CARD.md``.

    Parameters
    ----------
    evaluation
        What `evaluate` returned.
    which
        Place of the bundle among those that were measured.

    Raises
    ------
    IndexError
        There is no such bundle in it.
    """
    bundle = evaluation["bundles"][which]
    parts = [
        f"# {bundle['name']} {bundle['version']}",
        _use(bundle),
        _made_of(bundle, evaluation["settings"]),
        _figures(bundle, evaluation),
        _failures(bundle),
        _limits(bundle),
    ]
    return "\n\n".join(parts) + "\n"


def _use(bundle: Mapping[str, Any]) -> str:
    notice = f" {bundle['notice']}" if bundle["notice"] else ""
    rows, columns = bundle["input"]
    return f"""## Intended use

{bundle["intended_use"]}

Not a medical device: cleared nowhere, tested on no patient.

- Heads: {", ".join(bundle["heads"])}
- Input: {rows} rows x {columns} columns, 8 bit, one view
- Precision: {bundle["precision"]}, {bundle["megabytes"]} MB
- Licence of the weights: {bundle["licence"]}.{notice}"""


def _made_of(bundle: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if bundle["synthetic"]:
        text = (
            "None: the weights are deterministic random numbers, and every answer is meaningless."
        )
    else:
        text = (
            "Synthetic phantoms of `mammofm-lite phantom`, no woman's images. Seeds below "
            f"{settings['training_seeds_below']} trained the weights, those from there to "
            f"{settings['validation_seeds_below']} served to choose among them and to set "
            f"thresholds, those from {settings['seeds'][0]} to {settings['seeds'][1]} measured "
            "them and served nothing else."
        )
    return f"## Training data\n\n{text}"


def _figures(bundle: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    settings = evaluation["settings"]
    conditions = bundle["conditions"]
    head = ["figure", "target", *(_SHIFTS[shift] for shift in conditions)]
    by_shift = [_by_name(condition["figures"]) for condition in conditions.values()]
    rows = [
        _row(name, by_shift)
        for name in _CARD_FIGURES
        if any(name in figures for figures in by_shift)
    ]
    software = evaluation["software"]
    return f"""## Figures

On {settings["studies"]} phantoms per column, rendered at {settings["pixel_spacing_mm"]} mm;
{settings["prevalence"]:.0%} have a cancer, far more than in screening. In brackets 95 % intervals
(bootstrap over studies). A star marks a figure that misses its target.
A mark hits a lesion: {settings["hit"]}.

{aligned([head, *rows])}

Measured on {software["cpu"]} with mammofm-lite {software["mammofm_lite"]} and OpenVINO
{software["openvino"]}."""


def _by_name(figures: Sequence[Figure]) -> dict[str, Figure]:
    return {figure["name"]: figure for figure in figures}


def _row(name: str, by_shift: Sequence[Mapping[str, Figure]]) -> list[str]:
    text = next(figures[name]["text"] for figures in by_shift if name in figures)
    # Of the calibration error each column has a floor of its own.
    text = text.split(" (")[0]
    cells = [_starred(figures.get(name)) for figures in by_shift]
    targets = [_target(figures[name]) for figures in by_shift if name in figures]
    return [text, " / ".join(dict.fromkeys(filter(None, targets))), *cells]


def _starred(figure: Figure | None) -> str:
    star = " *" if figure and figure["met"] is False else ""
    return figure_cell(figure) + star


def _target(figure: Figure) -> str:
    if figure["target"] is None:
        return ""
    return f"{'≥' if figure['higher_is_better'] else '≤'} {figure['target']:.2f}"


def _failures(bundle: Mapping[str, Any]) -> str:
    lines = []
    for shift, condition in bundle["conditions"].items():
        figures = _by_name(condition["figures"])
        lines += [f"- {_SHIFTS[shift]}: {line}" for line in _missed(figures)]
        lines += [f"- {_SHIFTS[shift]}: {line}" for line in _weak(figures)]
    if not lines:
        lines = [
            f"- No target was missed, and no part of the studies is more than {_WORSE_BY} worse "
            "than the whole."
        ]
    return "## Failure modes\n\n" + "\n".join(lines)


def _missed(figures: Mapping[str, Figure]) -> list[str]:
    """Targets that were not reached, and by how much."""
    missed = [figure for figure in figures.values() if figure["met"] is False]
    return [
        f"{figure['text']} is {figure['value']:.3f}, "
        f"{abs(figure['value'] - figure['target']):.3f} "
        f"{'short of' if figure['higher_is_better'] else 'above'} its target ({_target(figure)})"
        for figure in missed
    ]


def _weak(figures: Mapping[str, Figure]) -> list[str]:
    """Parts of the studies on which it is clearly worse than on all."""
    lines = []
    for name, figure in figures.items():
        whole = next((figures.get(p[:-2]) for p in _FALLS if name.startswith(p)), None)
        if not whole or figure["value"] is None or whole["value"] is None or figure["n"] < _FEW:
            continue
        if whole["value"] - figure["value"] > _WORSE_BY:
            lines.append(
                f"{figure['text']} is {figure['value']:.3f} (n = {figure['n']}), "
                f"{whole['value']:.3f} on all"
            )
    return lines


def _limits(bundle: Mapping[str, Any]) -> str:
    lines = [
        "Phantoms are a plain likeness. What it scores on them says nothing of how it would do on "
        "women: never use its answers for one.",
        "On real mammograms its answers are unpredictable, and may look plausible.",
        "Probabilities are calibrated for the share of cancers among the phantoms, not for "
        "screening.",
        "Risks follow the hazard that the phantoms were drawn with, which is ours.",
    ]
    if bundle["precision"] == "int8":
        lines.append("INT8 arithmetic: another kind of CPU may answer slightly differently.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)

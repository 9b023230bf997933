"""An evaluation as Markdown tables whose columns line up in plain text too."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["aligned", "figure_cell", "table"]

Figure = Mapping[str, Any]

_TITLES: Final = {
    "none": "Held-out phantoms as in training",
    "vendor": "Shift: another vendor's grey scale",
    "noise": "Shift: more noise",
    "texture": "Shift: another texture",
}
_MISSING: Final = "–"


def table(evaluation: Mapping[str, Any]) -> str:
    """The whole evaluation for a person: machine, settings, one table per condition."""
    parts = [_heading(evaluation)]
    for shift in evaluation["settings"]["shifts"]:
        conditions = [bundle["conditions"][shift] for bundle in evaluation["bundles"]]
        names = [_name(bundle) for bundle in evaluation["bundles"]]
        parts.append(f"## {_TITLES[shift]}\n\n" + _condition(conditions, names))
        parts += [
            f"Density by {name}, rows true, columns answered:\n\n" + _confusion(condition)
            for name, condition in zip(names, conditions, strict=True)
            if "density_confusion" in condition
        ]
    return "\n\n".join(parts) + "\n"


def _heading(evaluation: Mapping[str, Any]) -> str:
    software, settings = evaluation["software"], evaluation["settings"]
    lines = [
        "# Quality on phantoms",
        "",
        f"{settings['studies']} studies per condition, seeds {settings['seeds'][0]} to "
        f"{settings['seeds'][1]} (training uses those below {settings['training_seeds_below']}, "
        f"validation those below {settings['validation_seeds_below']}); rendered at "
        f"{settings['pixel_spacing_mm']} mm; {settings['prevalence']:.0%} with a cancer, far more "
        "than in screening.",
        f"Intervals: 95 %, bootstrap over studies, {settings['bootstrap_replicates']} replicates. "
        f"A mark hits a lesion: {settings['hit']}; one mark per lesion. "
        "Met: by the figure itself, not by its interval.",
        f"{software['cpu']}, {software['threads']} threads, {software['instruction_set']}; "
        f"mammofm-lite {software['mammofm_lite']}, OpenVINO {software['openvino']}, "
        f"numpy {software['numpy']}, Python {software['python']}.",
    ]
    for bundle in evaluation["bundles"]:
        weights = ", SYNTHETIC WEIGHTS: every figure is chance" if bundle["synthetic"] else ""
        lines.append(
            f"- {_name(bundle)}: {bundle['megabytes']} MB, SHA-256 {bundle['sha256'][:16]}{weights}"
        )
    return "\n".join(lines)


def _name(bundle: Mapping[str, Any]) -> str:
    return f"{bundle['name']} {bundle['version']} {bundle['precision']}"


def _condition(conditions: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    columns = [{figure["name"]: figure for figure in item["figures"]} for item in conditions]
    every = {name: figure for column in reversed(columns) for name, figure in column.items()}
    head = ["figure", "n", "target"]
    for i, name in enumerate(names):
        head += [name, "met"] + (["change", "fall ≤ 0.01"] if i else [])
    # In the order of the first bundle that has them.
    order = list(dict.fromkeys(name for column in columns for name in column))
    rows = [_row(every[name], [column.get(name) for column in columns]) for name in order]
    return aligned([head, *rows])


def _row(any_of: Figure, figures: Sequence[Figure | None]) -> list[str]:
    row = [any_of["text"], str(any_of["n"]), _target(any_of)]
    for i, figure in enumerate(figures):
        row += [figure_cell(figure), _yes(figure and figure["met"], "met", "NOT MET")]
        if i:
            row += _change(figure and figure.get("against_first"))
    return row


def _target(figure: Figure) -> str:
    if figure["target"] is None:
        return ""
    return f"{'≥' if figure['higher_is_better'] else '≤'} {figure['target']:.2f}"


def figure_cell(figure: Figure | None) -> str:
    """Value and interval of a figure, or a dash where the studies do not define it."""
    if figure is None or figure["value"] is None:
        return _MISSING
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _change(change: Mapping[str, Any] | None) -> list[str]:
    if not change:
        return [_MISSING, ""]
    text = f"{change['change']:+.3f}"
    if change["low"] is not None:
        text += f" ({change['low']:+.3f} to {change['high']:+.3f})"
    return [text, _yes(change["within_0.01"], "yes", "NO")]


def _yes(value: object, yes: str, no: str) -> str:
    return "" if value is None else yes if value else no


def _confusion(condition: Mapping[str, Any]) -> str:
    names = ("a", "b", "c", "d")
    rows = [
        [name, *map(str, counts)]
        for name, counts in zip(names, condition["density_confusion"], strict=True)
    ]
    return aligned([["", *names], *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head, columns are padded to one width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])

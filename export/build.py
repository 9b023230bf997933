"""`mammofm-lite export`: a recipe in, a verified bundle out, in five fixed phases.

The phases are: read the recipe, load the weights, convert to OpenVINO IR, check every graph
against torch on a real-sized input, write. Everything is written to a temporary folder beside the
output, which is renamed at the end: a bundle is there whole or not at all.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mammofm_lite import __version__
from mammofm_lite._openvino import OPENVINO_VERSION
from mammofm_lite.bundle import FORMAT, SCHEMA_VERSION, Bundle
from mammofm_lite.errors import ExportError
from mammofm_lite.views import HEADS

from .part import HALF, ROUNDING, Part
from .parts import EncoderPart, head_parts
from .recipe import Recipe, load_recipe
from .text_prompts import with_prompts
from .text_recipe import Prompts
from .writing import file_records, whole_bundle, write_description

__all__ = ["export_bundle"]

Tell = Callable[[str], None]
PHASES: Final = 5
# Largest relative difference between torch and the float32 IR that an export may have.
TOLERANCE: Final = 1e-4


def export_bundle(
    recipe_path: Path,
    output: Path,
    *,
    force: bool = False,
    acknowledge_licence: bool = False,
    prompts: Prompts | None = None,
    tell: Tell | None = None,
) -> Bundle:
    """Write the bundle that a recipe describes, and open it again to prove that it is whole.

    Weights under a restricted licence are exported only with `acknowledge_licence`: whoever
    exports has read the licence and is allowed this use. `prompts` add zero-shot labels to the
    recipe's or replace them, see `with_prompts`.

    Raises
    ------
    ExportError
        The recipe or a checkpoint is unusable, the licence was not acknowledged, the output
        exists and `force` is not set, or a graph differs from torch by more than its tolerance.
    """
    say = tell or (lambda line: None)
    say(f"[1/{PHASES}] recipe {recipe_path.name}")
    recipe = with_prompts(load_recipe(recipe_path), prompts or {})
    if recipe.restricted and not acknowledge_licence:
        raise ExportError(
            f"the licence of these weights ({recipe.licence}) restricts their use: "
            f"{recipe.notice} Read it in full; if it allows what you do, export again with "
            "--acknowledge-licence"
        )
    with whole_bundle(output, force=force) as scratch:
        _write(recipe, scratch, say)
    return Bundle.open(output)


def _write(recipe: Recipe, folder: Path, say: Tell) -> None:
    text = _text_source(recipe)
    parts: list[Part] = []
    encoders: dict[str, EncoderPart] = {}
    for spec in recipe.encoders:
        encoders[spec.name] = EncoderPart(recipe, spec)
        parts.append(_phases(encoders[spec.name], recipe, folder, say))
    for part in head_parts(recipe, encoders, text):
        parts.append(_phases(part, recipe, folder, say))
    say(f"[5/{PHASES}] description and model card")
    (folder / "MODEL_CARD.md").write_text(_model_card(recipe), encoding="utf-8")
    description = _description(recipe, parts, folder)
    write_description(folder, description)


def _text_source(recipe: Recipe) -> Any:
    """The recipe's text encoder, if any; transformers takes seconds to import, so only then."""
    if recipe.text is None or recipe.diagnosis is None:
        return None
    try:
        from .text import TextSource
    except ModuleNotFoundError as error:
        raise ExportError(
            f"text encoders need {error.name}; install it with: pip install 'mammofm-lite[export]'"
        ) from error
    return TextSource(recipe.text, recipe.diagnosis)


def _phases(part: Part, recipe: Recipe, folder: Path, say: Tell) -> Part:
    say(f"[2/{PHASES}] {part.name}: weights")
    part.load()
    for file, names in part.ignored().items():
        say(f"        {file}: ignored {', '.join(names)}")
    for note in part.notes:
        say(f"        NOTE {note}")
    say(f"[3/{PHASES}] {part.name}: conversion")
    part.convert(folder, half_weights=recipe.half_weights)
    say(f"[4/{PHASES}] {part.name}: torch against IR")
    part.check(folder, TOLERANCE)
    say(f"        {_worst(part)}; operations as expected")
    return part


def _worst(part: Part) -> str:
    """The largest difference between torch and the graph, and what half-precision weights cost."""
    half = [value for name, value in part.differences.items() if name.endswith(HALF)]
    full = [
        value for name, value in part.differences.items() if not name.endswith((HALF, ROUNDING))
    ]
    text = f"largest relative difference {max(value or 0.0 for value in full):.1e}"
    if half:
        cost = "another number of boxes" if None in half else f"{max(v or 0.0 for v in half):.1e}"
        text += f" (half-precision weights: {cost})"
    return text


def _description(recipe: Recipe, parts: list[Part], folder: Path) -> dict[str, Any]:
    encoders = {part.name: part.entry for part in parts if part.kind == "encoder"}
    carried = {part.name: part.entry for part in parts if part.kind == "text"}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "name": recipe.name,
        "version": recipe.version,
        "intended_use": recipe.intended_use,
        "weights": _weights(recipe),
        "precision": "f32_f16_weights" if recipe.half_weights else "f32",
        "made_with": {"mammofm_lite": __version__, "openvino": OPENVINO_VERSION},
        "preprocessing": asdict(recipe.preprocessing),
        "encoders": encoders,
        "heads": _heads(parts),
        **carried,
        "provenance": {f"{part.kind} {part.name}": part.provenance for part in parts},
        "self_check": {
            f"{part.kind} {part.name}": {
                "largest_relative_difference": part.differences,
                "operations": part.census,
            }
            for part in parts
        },
        "files": file_records(folder),
    }


def _heads(parts: list[Part]) -> dict[str, Any]:
    """What ``bundle.json`` says of every head: its members, or all of it where it has none."""
    heads: dict[str, Any] = {}
    for part in parts:
        if part.kind == "head" and part.member_of is None:
            heads[part.name] = part.entry
        elif part.kind == "head":
            heads.setdefault(part.member_of, {"members": []})["members"].append(part.entry)
    return heads


def _weights(recipe: Recipe) -> dict[str, Any]:
    weights = {
        "synthetic": recipe.synthetic,
        "licence": recipe.licence,
        "notice": recipe.notice,
    }
    return weights | ({"restricted": True} if recipe.restricted else {})


def _model_card(recipe: Recipe) -> str:
    origin = (
        "Synthetic: deterministic random numbers. Every answer is meaningless."
        if recipe.synthetic
        else "See `provenance` in bundle.json."
    )
    heads = ", ".join(name for name in HEADS if getattr(recipe, name))
    restricted = " (restricted)" if recipe.restricted else ""
    return f"""# {recipe.name} {recipe.version}

{recipe.intended_use}

Not a medical device.

- Weights: {origin}
- Licence of the weights: {recipe.licence}{restricted}. {recipe.notice}
- Input: {recipe.preprocessing.height} rows x {recipe.preprocessing.width} columns, 8 bit, one view
- Heads: {heads}
- Torch against IR, and the operations of every graph: `self_check` in bundle.json
"""

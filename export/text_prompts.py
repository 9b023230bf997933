"""Zero-shot labels from prompts that are given beside a recipe."""

from __future__ import annotations

from dataclasses import replace

from mammofm_lite.errors import ExportError

from .recipe import DiagnosisRecipe, LabelRecipe, Recipe, WeightSource
from .text_recipe import Prompts

__all__ = ["with_prompts"]


def with_prompts(recipe: Recipe, prompts: Prompts) -> Recipe:
    """The recipe with one zero-shot label for every entry of `prompts`, in its order.

    The prompts become the label's classes. A zero-shot label of that name gives way in place and
    leaves its rules of combination; its threshold goes, which was chosen for other prompts. A new
    label is the mean over views and breasts, and does not call for recall.

    Raises
    ------
    ExportError
        There is no text encoder to embed the prompts with, a label of that name is a classifier,
        or the recipe has a text encoder that nothing needs.
    """
    if recipe.text is None or recipe.diagnosis is None:
        if prompts:
            raise ExportError(
                "prompts need a text encoder; add a [text] table to the recipe, as "
                "export/recipes/mammo-fm.toml shows"
            )
        return recipe
    diagnosis = recipe.diagnosis
    for name, texts in prompts.items():
        diagnosis = _with_label(diagnosis, name, texts)
    asked = any(label.weights.source == "text" for label in diagnosis.labels)
    if not asked and not recipe.text.carry:
        raise ExportError(
            "the recipe's [text] is used by nothing: give --prompt or a label with "
            '{ source = "text" }, set carry = true, or delete the table'
        )
    return replace(recipe, diagnosis=diagnosis)


def _with_label(head: DiagnosisRecipe, name: str, texts: tuple[str, ...]) -> DiagnosisRecipe:
    assert head.projection_encoder is not None  # a recipe with [text] has a projection
    label = LabelRecipe(
        name=name,
        encoder=head.projection_encoder,
        kind="zero_shot",
        classes=texts,
        threshold=None,
        breast="mean",
        study="mean",
        recall=False,
        weights=WeightSource("text"),
    )
    place = next((i for i, old in enumerate(head.labels) if old.name == name), len(head.labels))
    for old in head.labels[place : place + 1]:
        if old.kind != "zero_shot":
            raise ExportError(f"label {name!r} is {old.kind}; give the prompts another name")
        label = replace(old, classes=texts, threshold=None, weights=WeightSource("text"))
    return replace(head, labels=(*head.labels[:place], label, *head.labels[place + 1 :]))

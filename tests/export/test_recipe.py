"""Recipes are read strictly: nothing is guessed, nothing is ignored."""

import dataclasses
import re
from pathlib import Path

import pytest

from mammofm_lite.errors import ExportError
from mammofm_lite.export.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "export" / "recipes"
DEMO = (RECIPES / "demo-synthetic.toml").read_text()


@pytest.mark.parametrize("name", ["demo.toml", "demo-synthetic.toml", "full-synthetic.toml"])
def test_shipped_recipes_have_four_heads(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    heads = (recipe.diagnosis, recipe.localization, recipe.prognosis, recipe.report)
    assert all(heads)
    assert [item.year for item in recipe.prognosis.years] == [1, 2, 3, 4, 5]


def test_the_full_recipe_has_the_reference_geometry() -> None:
    recipe = load_recipe(RECIPES / "full-synthetic.toml")
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (1520, 912)
    detector = next(e for e in recipe.encoders if e.name == "detector")
    assert detector.input_size == (512, 512)
    assert detector.padding == "nominal"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("half_weights = true", "half_weight = true", "unknown field 'half_weight'"),
        ('architecture = "b0"', 'architecture = "b9"', "'architecture' is 'b9', allowed: b0"),
        ("height = 640", "height = 6", "'height' is 6, allowed 32 to 8192"),
        ("seed = 5", 'seed = "5"', "'seed' must be an integer"),
        ("year = 5", "year = 4", "'years' must rise, each year once"),
        ('"c5"]', '"c6"]', "unknown output 'c6'; allowed: pooled, map"),
        (', "c5"]', "]", "head 'localization' needs output 'c5' of encoder 'view'"),
        ("heads = 2", "heads = 3", "dim/heads must be a whole number from 32 to 128"),
        ('kind = "binary"', 'kind = "categorical"', "'classes' must be a list of strings"),
        ('kind = "binary"', 'kind = "zero_shot"', "zero-shot labels need a 'projection'"),
        ("[heads.report]\nencoder", "[heads.report]\nx = 1\nencoder", "unknown field 'x'"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DEMO
    (tmp_path / "r.toml").write_text(DEMO.replace(old, new, 1))
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(tmp_path / "r.toml")


# An encoder like another, with weights of its own.
OWN = '[encoders.own]\nlike = "view"\nweights = { source = "synthetic", seed = 9 }\n'


def with_own(text: str = DEMO) -> str:
    """The demonstration's recipe with a label, a detector and a year on an encoder of their own."""
    text = text.replace("[heads.diagnosis]", OWN + "\n[heads.diagnosis]", 1)
    detector = "[[heads.localization.detectors]]\n"
    scar = 'encoder = "own"\nlabels = ["scar"]\nthreshold = 0.3\n'
    weights = 'weights = { source = "synthetic", seed = 9 }\n\n'
    text = text.replace("[heads.prognosis]", f"{detector}{scar}{weights}[heads.prognosis]", 1)
    text = text.replace('name = "density"', 'name = "density"\nencoder = "own"', 1)
    return text.replace("year = 3", 'year = 3\nencoder = "own"', 1)


def test_entries_run_on_their_own_encoder_or_on_that_of_the_head(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(with_own())
    recipe = load_recipe(tmp_path / "r.toml")
    assert [label.encoder for label in recipe.diagnosis.labels] == ["view", "own"]
    assert [d.encoder for d in recipe.localization.detectors] == ["view", "own"]
    assert [d.threshold for d in recipe.localization.detectors] == [0.4, 0.3]
    assert [y.encoder for y in recipe.prognosis.years] == ["view", "view", "own", "view", "view"]
    view, own = recipe.encoder("view"), recipe.encoder("own")
    assert dataclasses.replace(own, name="view", weights=view.weights) == view
    assert (view.weights.seed, own.weights.seed) == (1, 9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('like = "view"', 'like = "own"', "own: 'like' must name an encoder that is described in"),
        ('like = "view"', 'like = "none"', "own: 'like' must name an encoder that is described"),
        ('like = "view"\nweights', 'like = "view"\nw', "own: unknown field 'w'; allowed"),
        (OWN, '[encoders.own]\nlike = "view"\n', "encoders: own: 'weights' must be an object"),
        ("[encoders.own]", '[encoders."a/b"]', "'a/b' is no name for an encoder; use letters"),
        ("[encoders.own]", "[encoders.other]", "head 'diagnosis' names unknown encoder 'own'"),
        (OWN, OWN + OWN.replace("own", "idle"), "no head runs on encoder 'idle'; delete it"),
        ('labels = ["scar"]', "labels = []", "detectors[1]: 'labels' is empty"),
        ('labels = ["scar"]', 'labels = ["mass"]', "head 'localization' has label 'mass' twice"),
        ("threshold = 0.3", "", "detectors[1]: 'threshold' must be a number"),
        ('name = "density"', 'name = "malignancy"', "head 'diagnosis' has label 'malignancy' twi"),
        ('[heads.diagnosis]\nencoder = "view"', "[heads.diagnosis]", "labels[0]: 'encoder' is mis"),
        (
            '[heads.diagnosis]\nencoder = "view"',
            '[heads.diagnosis]\nencoder = "x"',
            "head 'diagnosis' names unknown encoder 'x'",
        ),
        ('outputs = ["pooled", ', "outputs = [", "head 'diagnosis' needs output 'pooled' of enc"),
    ],
)
def test_every_mistake_of_a_member_is_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = with_own()
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(tmp_path / "r.toml")


def test_a_head_s_encoder_that_nothing_of_it_runs_on(tmp_path: Path) -> None:
    text = with_own().replace('name = "malignancy"', 'name = "malignancy"\nencoder = "own"', 1)
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ExportError, match=r"heads: diagnosis: nothing here runs on encoder 'view'"):
        load_recipe(tmp_path / "r.toml")


ZERO_SHOT = """
[[heads.diagnosis.labels]]
name = "prompted"
kind = "zero_shot"
classes = ["no", "yes"]
breast = "mean"
study = "mean"
recall = false
weights = { source = "synthetic", seed = 1 }

[heads.localization]
"""
PROJECTION = 'size = 8, weights = { source = "synthetic", seed = 1 } }'


def projected(encoder: str, label: str) -> str:
    """A recipe with a projection on an encoder, and a zero-shot label with more said of it."""
    head = '[heads.diagnosis]\nencoder = "view"\n'
    projection = f'projection = {{ kind = "linear", {encoder}{PROJECTION}\n'
    text = with_own().replace(head, head + projection, 1)
    return text.replace("[heads.localization]\n", label, 1)


def test_zero_shot_labels_go_with_the_encoder_of_the_projection(tmp_path: Path) -> None:
    for encoder, expected in (("", "view"), ('encoder = "own", ', "own")):
        (tmp_path / "r.toml").write_text(projected(encoder, ZERO_SHOT))
        diagnosis = load_recipe(tmp_path / "r.toml").diagnosis
        assert diagnosis.projection_encoder == expected
        assert diagnosis.labels[-1].encoder == expected
    own = ZERO_SHOT.replace('name = "prompted"', 'name = "prompted"\nencoder = "own"')
    (tmp_path / "r.toml").write_text(projected("", own))
    message = "a zero-shot label runs on the encoder of the projection; delete 'encoder'"
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text(projected('encoder = "idle", ', "[heads.localization]\n"))
    with pytest.raises(ExportError, match="projection: no label runs on its encoder 'idle'"):
        load_recipe(tmp_path / "r.toml")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text("= 3")
    with pytest.raises(ExportError, match=r"r\.toml is not a readable TOML file"):
        load_recipe(tmp_path / "r.toml")

"""Recipes are read strictly: nothing is guessed, nothing is ignored."""

import re
from pathlib import Path

import pytest

from mammofm_lite.errors import ExportError
from mammofm_lite.export.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "export" / "recipes"
DEMO = (RECIPES / "demo.toml").read_text()


@pytest.mark.parametrize("name", ["demo.toml", "full-synthetic.toml"])
def test_shipped_recipes_have_four_heads(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    heads = (recipe.diagnosis, recipe.localization, recipe.prognosis, recipe.report)
    assert all(heads)
    assert [year for year, _ in recipe.prognosis.years] == [1, 2, 3, 4, 5]


def test_the_full_recipe_has_the_reference_geometry() -> None:
    recipe = load_recipe(RECIPES / "full-synthetic.toml")
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (1520, 912)
    detector = next(e for e in recipe.encoders if e.name == recipe.localization.encoder)
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
        ('kind = "binary"', 'kind = "zero_shot"', "'classes' must be a list of strings"),
        ("[heads.report]\nencoder", "[heads.report]\nx = 1\nencoder", "unknown field 'x'"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DEMO
    (tmp_path / "r.toml").write_text(DEMO.replace(old, new, 1))
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(tmp_path / "r.toml")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text("= 3")
    with pytest.raises(ExportError, match=r"r\.toml is not a readable TOML file"):
        load_recipe(tmp_path / "r.toml")

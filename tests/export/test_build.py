"""A recipe becomes a bundle: whole or not at all, checked, and the same every time."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.errors import ExportError
from mammofm_lite.export import part as part_module
from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.part import ROUNDING, gate
from mammofm_lite.export.parts import EncoderPart, PrognosisPart
from mammofm_lite.export.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "export" / "recipes" / "demo-synthetic.toml"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The demonstration bundle made anew, and what the exporter said."""
    lines: list[str] = []
    target = tmp_path_factory.mktemp("export") / "demo.mfm"
    export_bundle(DEMO, target, tell=lines.append)
    return target, lines


def description(bundle: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((bundle / "bundle.json").read_text())
    return value


def test_the_shipped_bundle_is_the_trained_model_in_int8(
    exported: tuple[Path, list[str]],
) -> None:
    """Its recipe's model but for what training, quantization and measuring put in."""
    ours, theirs = description(exported[0]), description(demo_bundle_path())
    trained = load_recipe(DEMO.with_name("demo.toml"))
    assert (theirs["name"], theirs["version"]) == (trained.name, trained.version)
    assert theirs["intended_use"] == trained.intended_use
    assert theirs["precision"] == "int8"
    assert theirs["weights"] == {
        "synthetic": False,
        "licence": "Apache-2.0",
        "notice": trained.notice,
    }
    for alike in ("schema_version", "encoders"):
        assert ours[alike] == theirs[alike]
    for name in ("grammar.json", "tokenizer.json"):
        assert (exported[0] / name).read_bytes() == (demo_bundle_path() / name).read_bytes()


def test_the_shipped_bundle_says_how_good_it_is() -> None:
    shipped = demo_bundle_path()
    files = {path.name: path.stat().st_size for path in shipped.iterdir()}
    assert sum(files.values()) < 12e6
    assert {"quantization.json", "QUANTIZATION.md", "selftest.json"} <= set(files)
    card = (shipped / "MODEL_CARD.md").read_text()
    assert "measured them and served nothing else" in card
    assert "| malignancy AUC of the study" in card


def test_progress_tells_five_phases(exported: tuple[Path, list[str]]) -> None:
    phases = {line[:5] for line in exported[1] if line.startswith("[")}
    assert phases == {f"[{n}/5]" for n in range(1, 6)}
    assert any("largest relative difference" in line for line in exported[1])


def test_the_self_check_is_in_the_bundle(exported: tuple[Path, list[str]]) -> None:
    bundle = Bundle.open(exported[0])
    assert set(bundle.self_check) == {
        "encoder view",
        "head diagnosis",
        "head localization",
        "head prognosis",
        "head report",
    }
    for check in bundle.self_check.values():
        exact = [v for k, v in check["largest_relative_difference"].items() if "half" not in k]
        assert exact
        assert max(exact) <= 1e-4
    fusion = bundle.self_check["head report"]["operations"]["head_report_fusion.xml"]
    decoder = bundle.self_check["head report"]["operations"]["head_report_decoder.xml"]
    assert fusion["TiledAttention"] == 1
    assert decoder["TiledAttention"] == 2 * 2


def test_an_existing_bundle_stays(exported: tuple[Path, list[str]]) -> None:
    before = (exported[0] / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="exists; give --force to replace it"):
        export_bundle(DEMO, exported[0])
    assert (exported[0] / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("broken", ["difference", "census"])
def test_a_graph_that_fails_its_check_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    if broken == "difference":
        monkeypatch.setattr(part_module, "compare", lambda *given: {"pooled": 2e-4})
        message = "view: output 'pooled' of the IR differs from torch by 0.0002, more than 0.0001"
    else:
        monkeypatch.setattr(part_module, "operation_census", lambda model: {"Convolution": 1})
        message = "view: the IR has 1 Convolution operations, expected"
    with pytest.raises(ExportError, match=message):
        export_bundle(DEMO, tmp_path / "x.mfm")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_whole(exported: tuple[Path, list[str]], tmp_path: Path) -> None:
    target = tmp_path / "x.mfm"
    target.mkdir()
    (target / "stale").write_text("old")
    export_bundle(DEMO, target, force=True)
    assert {p.name for p in target.iterdir()} == {p.name for p in exported[0].iterdir()}
    assert [p.name for p in tmp_path.iterdir()] == ["x.mfm"]


def test_a_peak_may_stand_where_it_is_as_hot() -> None:
    """Of windows that are alike to the last digits either may be found, and no other."""
    recipe = load_recipe(DEMO)
    assert recipe.prognosis is not None
    part = PrognosisPart(recipe.prognosis, EncoderPart(recipe, recipe.encoders[0]))
    heatmap = np.zeros((1, 2, 4, 3), np.float32)
    heatmap[0, 0, 2, 1], heatmap[0, 0, 3, 2] = 1, 1 - 1e-6
    heatmap[0, 1, 0, 2] = 1

    def compared(*cells: tuple[int, int]) -> float:
        given = {"heatmap": heatmap, "peak": np.array([[(2, 1), (0, 2)]])}
        return part.compared(given, {**given, "peak": np.array([cells])})["peak"]

    assert compared((2, 1), (0, 2)) == 0
    assert 0 < compared((3, 2), (0, 2)) < 1e-5
    assert compared((2, 1), (0, 1)) == 1
    assert compared((1, 2), (0, 2)) == 1


def test_a_graph_may_round_as_torch_does() -> None:
    """Trained weights lose more digits in float32 than the gate allows, in torch itself."""
    rounding = {f"map{ROUNDING}": 1e-4}
    gate("view", {"map": 3.9e-4, **rounding}, 1e-4)
    with pytest.raises(ExportError, match=r"'map' .* differs from torch by .* more than 0\.0004"):
        gate("view", {"map": 4.1e-4, **rounding}, 1e-4)
    with pytest.raises(ExportError, match=r"'pooled' .* more than 0\.0001"):
        gate("view", {"pooled": 1.1e-4, **rounding}, 1e-4)


def test_rounding_is_measured_where_the_gate_is_not_passed(tmp_path: Path) -> None:
    """Against float64, which the float32 outputs of an untouched encoder stay close to."""
    recipe = load_recipe(DEMO)
    size = replace(recipe.preprocessing, height=96, width=64)
    recipe = replace(recipe, preprocessing=size)
    encoder = EncoderPart(recipe, recipe.encoders[0])
    encoder.load()
    encoder.convert(tmp_path, half_weights=False)
    inputs, expected = encoder.example()
    own = encoder.rounding(inputs, expected)
    assert set(own) == set(recipe.encoders[0].outputs)
    assert all(0 < value < 1e-4 for value in own.values())
    moved = {name: values + 1e-2 * values.std() for name, values in expected.items()}
    assert all(value > 9e-3 for value in encoder.rounding(inputs, moved).values())
    encoder.check(tmp_path, 1e-12)
    assert any(name.endswith(ROUNDING) for name in encoder.differences)

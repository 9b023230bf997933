"""Prompts become labels of a bundle: from a CLIP checkpoint with its text encoder to answers."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mammofm_lite.bundle import Bundle, file_record
from mammofm_lite.cli import cli
from mammofm_lite.engine import Model
from mammofm_lite.errors import ExportError
from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.models.clip import ImageProjection, normalised, pool_text
from mammofm_lite.export.models.efficientnet import EfficientNet, named_config
from mammofm_lite.export.recipe import WeightSource, load_recipe
from mammofm_lite.export.synthetic import fill_module, normalise, synthetic_tensor, weight_key
from mammofm_lite.export.text import TextSource
from mammofm_lite.export.text_prompts import with_prompts
from mammofm_lite.export.text_recipe import parse_prompts
from mammofm_lite.export.weights import read_weights
from mammofm_lite.phantom import write_phantom
from mammofm_lite.progress import StageReporter
from mammofm_lite.writers.info import describe, describe_text

SEED = 1
SIZE = 16
TOLERANCE = 1e-5  # absolute, on probabilities
PROMPTS = ("no mass", "mass")
ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
[bundle]
name = "text"
version = "0.1.0"
intended_use = "Tests only."
synthetic = true
half_weights = false

[licence]
id = "Apache-2.0"
notice = ""
restricted = false

[preprocessing]
height = 128
width = 96
border_px = 5
background_threshold = 40
mirror = "none"

[encoders.clip]
architecture = "b0"
padding = "progressive"
outputs = ["pooled"]
weights = { source = "file", path = "clip.tar", key = "model", prefix = "image_encoder." }

[text]
folder = "FOLDER"
pooling = "eos"
max_length = 64
weights = { source = "file", path = "clip.tar", key = "model" }

[heads.diagnosis]
encoder = "clip"

[heads.diagnosis.projection]
kind = "linear"
size = 16
weights = { source = "file", path = "clip.tar", key = "model" }

[[heads.diagnosis.labels]]
name = "mass"
kind = "zero_shot"
classes = ["no mass", "mass"]
breast = "mean"
study = "mean"
recall = false
weights = { source = "text" }

[[heads.diagnosis.labels]]
name = "malignancy"
kind = "binary"
breast = "mean"
study = "mean"
recall = false
weights = { source = "synthetic", seed = 1 }
"""
BINARY = RECIPE[RECIPE.rindex("[[heads") :]


# ---- files --------------------------------------------------------------------------------------


def image_side() -> dict[str, Tensor]:
    """The synthetic picture half of a checkpoint on the smallest encoder."""
    encoder = EfficientNet(named_config("b0"))
    shapes = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    projection = ImageProjection(encoder.config.head_channels, SIZE, "linear")
    shapes |= {f"image_projection.{k}": v for k, v in projection.state_dict().items()}
    shapes["logit_scale"] = torch.zeros(())
    return {
        key: torch.from_numpy(synthetic_tensor(weight_key(key), tuple(value.shape), SEED))
        for key, value in shapes.items()
    }


def text_model(folder: Path) -> Any:
    """transformers' own model of a folder, random, pooler and all."""
    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return AutoModel.from_config(config, attn_implementation="eager").eval()


def text_side(folder: Path) -> dict[str, Tensor]:
    """The text half as the reference saves it, under the names of its manifests."""
    model = text_model(folder)
    prefix = "text_encoder.text_encoder." if model.config.model_type == "bert" else "text_encoder."
    projection = {
        f"text_projection.projection.{leaf}": torch.from_numpy(
            synthetic_tensor(f"text_projection.projection.{leaf}", shape, SEED)
        )
        for leaf, shape in (("weight", (SIZE, model.config.hidden_size)), ("bias", (SIZE,)))
    }
    return {**{f"{prefix}{key}": value for key, value in model.state_dict().items()}, **projection}


def save_clip(path: Path, model: Mapping[str, Tensor]) -> None:
    """A CLIP ``.tar``, in whose configuration OmegaConf's lists stayed."""
    name = "omegaconf.listconfig"
    modules = {"omegaconf": types.ModuleType("omegaconf"), name: types.ModuleType(name)}
    lists = type("ListConfig", (), {"__module__": name})
    modules[name].ListConfig = lists
    sys.modules.update(modules)
    try:
        config = {"model": {"text_encoder": {"pooling": "eos"}}, "scale": lists()}
        optimizer = {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 5e-5}]}
        content = {"model": dict(model), "optimizer": optimizer, "config": config, "epoch": 7}
        torch.save(content, path)
    finally:
        for module in modules:
            del sys.modules[module]


def recipe_of(name: str, folder: Path) -> str:
    """ModernBERT's is also put into the bundle."""
    text = RECIPE.replace("FOLDER", str(folder))
    if name == "bert":
        return text
    text = text.replace('["pooled"]', '["pooled", "map"]')
    return text.replace("[text]\n", "[text]\ncarry = true\nfinal_norm = false\n")


Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, text_folders: dict[str, Path]) -> Made:
    """A recipe beside its checkpoint, by architecture."""
    paths: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in paths:
            folder = tmp_path_factory.mktemp(name)
            save_clip(folder / "clip.tar", image_side() | text_side(text_folders[name]))
            paths[name] = folder / "r.toml"
            paths[name].write_text(recipe_of(name, text_folders[name]))
        return paths[name]

    return make


def expected_embeddings(folder: Path, prompts: tuple[str, ...]) -> Tensor:
    """As the reference makes them, with transformers' own tokenizer and model."""
    model, side = text_model(folder), text_side(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(list(prompts), padding="longest", truncation=True, return_tensors="pt")
    states = model(**inputs).last_hidden_state
    if model.config.model_type == "modernbert":  # the recipe takes them before the last norm
        caught: list[Tensor] = []
        model.final_norm.register_forward_pre_hook(lambda _module, given: caught.append(given[0]))
        model(**inputs)
        states = caught[0]
    pooled = pool_text(states, inputs["attention_mask"], "eos")
    weight = side["text_projection.projection.weight"]
    return normalised(pooled @ weight.T + side["text_projection.projection.bias"])


# ---- end to end ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(folder, seed=3)
    return folder


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_prompts_give_scores(
    made: Made, text_folders: dict[str, Path], tmp_path: Path, study: Path, name: str
) -> None:
    added = {"side": ("in the left breast", "suspicious mass", "calcification")}
    target = tmp_path / "t.mfm"
    command = ["export", str(made(name)), "-o", str(target), "-q"]
    command += ["--prompt", f"side={'|'.join(added['side'])}", "--prompt", "pair=mass|no mass"]
    done = CliRunner().invoke(cli, command)
    assert (done.exit_code, done.stdout) == (0, f"wrote {target}\n"), done.output
    bundle = Bundle.open(target)
    found = [(label.name, label.kind, label.classes) for label in bundle.diagnosis.labels]
    assert found == [
        ("mass", "zero_shot", PROMPTS),
        ("malignancy", "binary", ()),
        ("side", "zero_shot", added["side"]),
        ("pair", "zero_shot", PROMPTS[::-1]),
    ]

    model = Model.load(bundle.path, threads=1)
    with model.prepare(study, StageReporter(None)) as prepared:
        image = image_embedding(prepared.views["L-CC"].image)
    scores = {s.label: s for s in model.infer(study).diagnosis.views["L-CC"]}
    for label, _, prompts in (found[0], *found[2:]):
        text = expected_embeddings(text_folders[name], prompts)
        expected = torch.softmax(image @ text.T, dim=1)[0]
        answered = [scores[label].probabilities[prompt] for prompt in prompts]
        np.testing.assert_allclose(answered, expected, rtol=0, atol=TOLERANCE)
        assert expected.max() - expected.min() > 100 * TOLERANCE

    if bundle.text is not None:
        embedding = expected_embeddings(text_folders[name], PROMPTS)
        for answer, text in zip(model.ask(study, PROMPTS).texts, embedding, strict=True):
            cosine = float(image[0] @ text)
            assert answer.views["L-CC"].similarity == pytest.approx(cosine, abs=TOLERANCE)
    assert (bundle.text is None) == (name == "bert")

    provenance = description(bundle)["provenance"]["head diagnosis"]
    assert provenance["mass"] == {"source": "text", "prompts": list(PROMPTS)}
    assert provenance["side"]["prompts"] == list(added["side"])
    encoder = provenance["text encoder"]
    assert encoder["file"] == "clip.tar"
    assert encoder["sha256"] == file_record(made(name).parent / "clip.tar").sha256
    assert (encoder["architecture"], encoder["pooling"]) == (name, "eos")
    assert encoder.get("final_norm") is (False if name == "modernbert" else None)
    assert encoder["folder"]["config.json"]
    assert str(tmp_path.parent) not in json.dumps(description(bundle))
    shown = describe_text(describe(bundle))
    assert all(f'"{prompt}"' in shown for prompt in (*PROMPTS, *added["side"]))


def image_embedding(picture: np.ndarray) -> Tensor:
    side = image_side()
    encoder = EfficientNet(named_config("b0"))
    fill_module(encoder, SEED)
    pooled = encoder.features(torch.from_numpy(normalise(picture))).pooled
    weight, bias = (side[f"image_projection.projection.{leaf}"] for leaf in ("weight", "bias"))
    return normalised(pooled @ weight.T + bias)


def description(bundle: Bundle) -> Any:
    return json.loads((bundle.path / "bundle.json").read_text())


def test_embedding_opens_no_connection_and_needs_no_cache(made: Made, tmp_path: Path) -> None:
    """The whole side of a text: folder, tokenizer, weights, embeddings."""
    code = """
import os, sys
def watch(event, given):
    if event.startswith("socket.") and (event != "socket.__new__" or given[1] != 1):
        os.write(2, event.encode())
        os._exit(9)
sys.addaudithook(watch)
from pathlib import Path
from mammofm_lite.export.recipe import load_recipe
from mammofm_lite.export.text import TextSource
recipe = load_recipe(Path(sys.argv[1]))
print(tuple(TextSource(recipe.text, recipe.diagnosis).embed(["no mass", "mass"]).shape))
"""
    run = [sys.executable, "-c", code, str(made("modernbert"))]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "none")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(run, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "(2, 16)\n"), done.stderr
    assert not (tmp_path / "none").exists()


def test_without_text_transformers_is_not_imported() -> None:
    code = """
import sys
from pathlib import Path
from mammofm_lite.export.build import export_bundle
def stop(line):
    if line.startswith("[2/5]"):
        print("transformers" in sys.modules, flush=True)
        import os
        os._exit(0)
export_bundle(Path(sys.argv[1]), Path(sys.argv[2]), tell=stop)
"""
    demo = ROOT / "export" / "recipes" / "demo.toml"
    run = [sys.executable, "-c", code, str(demo), "unused.mfm"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


# ---- checkpoints that do not fit ----------------------------------------------------------------


def embed(recipe: Path) -> Tensor:
    read = with_prompts(load_recipe(recipe), {})
    assert read.text is not None
    assert read.diagnosis is not None
    return TextSource(read.text, read.diagnosis).embed(PROMPTS)


def changed_checkpoint(made: Made, name: str, folder: Path, change: Callable[[Any], None]) -> Path:
    """A recipe beside a checkpoint in which `change` was made."""
    recipe = folder / "r.toml"
    shutil.copy(made(name), recipe)
    model = read_weights(WeightSource("file", path=made(name).parent / "clip.tar", key="model"))
    tensors = dict(model.tensors)
    change(tensors)
    save_clip(folder / "clip.tar", tensors)
    return recipe


def test_keys_that_do_not_fit_stand_in_one_error(made: Made, tmp_path: Path) -> None:
    prefix = "text_encoder.text_encoder."

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{prefix}encoder.layer.0.output.dense.bias"]
        tensors[f"{prefix}encoder.layer.2.output.dense.bias"] = torch.zeros(32)
        tensors["text_projection.projection.weight"] = torch.zeros(8, 32)

    message = (
        r"checkpoint clip\.tar does not fit: "
        r"1 missing \(text_encoder\.text_encoder\.encoder\.layer\.0\.output\.dense\.bias\); "
        r"1 unexpected \(text_encoder\.text_encoder\.encoder\.layer\.2\.output\.dense\.bias\); "
        r"1 misshapen \(text_projection\.projection\.weight \[8, 32\] for \[16, 32\]\)"
    )
    with pytest.raises(ExportError, match=message):
        embed(changed_checkpoint(made, "bert", tmp_path, change))


def test_what_no_text_needs_may_be_absent_or_old(made: Made, tmp_path: Path) -> None:
    """BERT's pooler, and the buffer that very old checkpoints hold."""
    prefix = "text_encoder.text_encoder."

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{prefix}pooler.dense.weight"], tensors[f"{prefix}pooler.dense.bias"]
        tensors[f"{prefix}embeddings.position_ids"] = torch.arange(64)[None]

    changed = changed_checkpoint(made, "bert", tmp_path, change)
    assert torch.equal(embed(changed), embed(made("bert")))


def test_an_encoder_of_another_architecture_is_refused(
    made: Made, text_folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = made("bert").parent / "other.toml"
    recipe.write_text(recipe_of("modernbert", text_folders["modernbert"]))
    with pytest.raises(ExportError, match=r"clip\.tar does not fit: \d+ missing .* unexpected"):
        embed(recipe)


# ---- recipes and prompts ------------------------------------------------------------------------

SAME = "must be the same: a text encoder fits the projection of its own checkpoint only"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('pooling = "eos"', 'pooling = "last"', "'pooling' is 'last', allowed: eos, bos, mean"),
        ('pooling = "eos"', "", "'pooling' must be a string"),
        ("max_length = 64", "max_length = 2", "'max_length' is 2, allowed 3 to 8192"),
        ("max_length = 64", "temperature = 1", "unknown field 'temperature'"),
        ('{ source = "text" }', '{ source = "text", seed = 1 }', "unknown field 'seed'"),
        ('{ source = "text" }', '{ source = "file" }', "'source' is 'file', allowed: synthetic"),
        ('["no mass", "mass"]', '["mass", "mass"]', "label 'mass': two prompts are the same"),
        ('["no mass", "mass"]', '["", "mass"]', "prompt '' is empty or has spaces around it"),
        ('kind = "binary"', 'kind = "zero_shot"', "'classes' must be a list of strings"),
        ('{ source = "synthetic", seed = 1 }', '{ source = "text" }', "'source' is 'text'"),
        ('"clip.tar", key = "model" }\n\n[heads', '"b.tar", key = "model" }\n\n[heads', SAME),
        (RECIPE[RECIPE.index("[text]") : RECIPE.index("[heads")], "", "add a [text] table"),
        (
            RECIPE[RECIPE.index("[heads.diagnosis.p") : RECIPE.index("[[heads")],
            "",
            "zero-shot labels need a 'projection'",
        ),
    ],
)
def test_every_mistake_in_a_recipe_is_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in RECIPE
    (tmp_path / "r.toml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(tmp_path / "r.toml")


def test_text_without_a_projection_is_refused(tmp_path: Path) -> None:
    start, end = RECIPE.index("[heads.diagnosis.p"), RECIPE.index(BINARY)
    (tmp_path / "r.toml").write_text(RECIPE[:start] + BINARY)
    assert end > start
    with pytest.raises(ExportError, match=r"\[text\] needs a \[heads\.diagnosis\.projection\]"):
        load_recipe(tmp_path / "r.toml")


def test_a_text_encoder_that_nothing_needs_is_refused(tmp_path: Path) -> None:
    start, end = RECIPE.index("[[heads"), RECIPE.index(BINARY)
    (tmp_path / "r.toml").write_text(RECIPE[:start] + RECIPE[end:])
    recipe = load_recipe(tmp_path / "r.toml")
    with pytest.raises(ExportError, match=r"\[text\] is used by nothing: give --prompt or a label"):
        with_prompts(recipe, {})
    assert with_prompts(recipe, {"mass": PROMPTS}).diagnosis.labels[-1].classes == PROMPTS
    carrying = (RECIPE[:start] + RECIPE[end:]).replace("max_length", "carry = true\nmax_length")
    (tmp_path / "r.toml").write_text(carrying)
    with pytest.raises(ExportError, match="is carried needs output 'map' of encoder 'clip'"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text(carrying.replace('["pooled"]', '["pooled", "map"]'))
    assert with_prompts(load_recipe(tmp_path / "r.toml"), {}).text.carry


def test_prompts_without_a_text_encoder_are_refused(tmp_path: Path) -> None:
    demo = ROOT / "export" / "recipes" / "demo.toml"
    with pytest.raises(ExportError, match=r"prompts need a text encoder; add a \[text\] table"):
        export_bundle(demo, tmp_path / "t.mfm", prompts={"mass": PROMPTS})
    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_rules_and_drops_the_threshold(tmp_path: Path) -> None:
    changed = RECIPE.replace(
        'study = "mean"\nrecall = false\nweights = { source = "text" }',
        'study = "highest_class"\nthreshold = 0.6\nrecall = true\nweights = { source = "text" }',
    )
    (tmp_path / "r.toml").write_text(changed)
    recipe = load_recipe(tmp_path / "r.toml")
    assert recipe.diagnosis.labels[0].threshold == 0.6
    label = with_prompts(recipe, {"mass": ("a", "b", "c")}).diagnosis.labels[0]
    assert (label.classes, label.study, label.recall) == (("a", "b", "c"), "highest_class", True)
    assert label.threshold is None
    with pytest.raises(ExportError, match="label 'malignancy' is binary; give the prompts another"):
        with_prompts(recipe, {"malignancy": PROMPTS})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["mass"], "prompt 'mass': write it as 'NAME=negative text|positive text'"),
        (["=no mass|mass"], "write it as 'NAME="),
        (["mass=mass"], "write it as 'NAME="),
        (["mass=no mass|"], "label 'mass': prompt '' is empty or has spaces around it"),
        (["mass=no mass | mass"], "prompt 'no mass ' is empty or has spaces around it"),
        (["mass=mass|mass"], "label 'mass': two prompts are the same"),
        (["mass=a|b", "mass=c|d"], "prompt 'mass' is given twice"),
    ],
)
def test_prompts_of_another_form_are_refused(values: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        parse_prompts(values)


def test_a_prompt_may_hold_an_equals_sign() -> None:
    assert parse_prompts(["size=mass = 1 cm|mass = 2 cm"]) == {
        "size": ("mass = 1 cm", "mass = 2 cm")
    }


@pytest.mark.parametrize("name", ["mammo-fm.toml", "mammo-clip-b2.toml"])
def test_the_official_recipes_have_a_text_encoder(name: str) -> None:
    recipe = load_recipe(ROOT / "export" / "recipes" / name)
    assert recipe.text.pooling == "eos"
    assert recipe.text.max_length == 256
    prompted = {label.name: label.classes for label in recipe.diagnosis.labels if label.classes}
    published = ("mass", "suspicious calcification", "malignancy")
    found = {prompted[f"{prompt} (zero-shot)"] for prompt in published}
    assert found == {(f"no {prompt}", prompt) for prompt in published}
    assert with_prompts(recipe, {}) == recipe

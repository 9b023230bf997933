"""Free text against a study: the numbers are torch's, the box is where the map peaks, and a text
that cannot be read is refused without being repeated."""

import copy
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from mammofm_lite import BundleError, Model, StudyError, UsageError
from mammofm_lite.ask import Query, ask_schema, interpret_ask
from mammofm_lite.bundle import Bundle, TextSpec, file_record
from mammofm_lite.geometry import ViewGeometry
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.progress import StageEvent, StageReporter
from mammofm_lite.results import result_schema
from mammofm_lite.views import STANDARD_VIEWS
from mammofm_lite.writers.info import describe, describe_text

TOLERANCE = 1e-4  # of a cosine, torch against the program, decoding and preparation the same
TEXTS = ("spiculated mass", "no suspicious calcification, round mass", "dense breast")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    options = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    write_phantom(folder, seed=5, options=options)
    return folder


@pytest.fixture(scope="module")
def model(ask_bundle: Any) -> Model:
    return Model.load(ask_bundle.path)


@pytest.fixture(scope="module")
def mlp(ask_bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ask_bundles.make(tmp_path_factory.mktemp("ask-mlp") / "mlp.mfm", "bert", "mlp")


# -------------------- the numbers


@pytest.mark.parametrize("kind", ["exact", "cells"])
def test_similarity_and_map_are_torchs(ask_bundle: Any, mlp: Any, study: Path, kind: str) -> None:
    """From the phantom's files: prepared picture, torch's encoders, projections and cosine."""
    bundle = ask_bundle if kind == "exact" else mlp
    model = Model.load(bundle.path)
    result = model.ask(study, TEXTS)
    assert result.agreement_kind == kind
    with model.prepare(study, StageReporter(None)) as prepared:
        pictures = dict(prepared.views)
    for answer in result.texts:
        assert list(answer.views) == list(STANDARD_VIEWS)
        for view, found in answer.views.items():
            similarity, agreement = bundle.answer(pictures[view].image, answer.text)
            assert found.similarity == pytest.approx(similarity, abs=TOLERANCE)
            np.testing.assert_allclose(found.agreement, agreement, rtol=0, atol=TOLERANCE)
            assert found.peak.agreement == found.agreement.max()
            if kind == "exact":
                assert found.agreement.mean() == pytest.approx(found.similarity, abs=1e-5)


def test_texts_and_views_differ(model: Model, study: Path) -> None:
    """Else the comparison with torch would hold for a constant."""
    values = [v.similarity for a in model.ask(study, TEXTS).texts for v in a.views.values()]
    assert len(values) == 12
    assert np.ptp(np.array(values).reshape(3, 4), axis=0).min() > 0.01
    assert np.ptp(np.array(values).reshape(3, 4), axis=1).min() > 0.001


def test_breast_and_study_are_the_best_view(model: Model, study: Path) -> None:
    for answer in model.ask(study, TEXTS).texts:
        by_view = {view: found.similarity for view, found in answer.views.items()}
        for side in ("L", "R"):
            assert answer.breasts[side] == max(by_view[f"{side}-CC"], by_view[f"{side}-MLO"])
        assert answer.study == max(by_view.values())


def test_a_text_is_scored_alike_alone_and_among_others(model: Model, study: Path) -> None:
    together = model.ask(study, TEXTS).texts[1]
    (alone,) = model.ask(study, [TEXTS[1]]).texts
    for view, found in alone.views.items():  # but for the last bits of a sum
        np.testing.assert_allclose(
            found.agreement, together.views[view].agreement, rtol=0, atol=1e-6
        )
        assert found.similarity == pytest.approx(together.views[view].similarity, abs=1e-6)
        assert found.peak.box_px == together.views[view].peak.box_px
    assert alone.tokens == 8  # seven of the text are words and a comma; begin and end


# -------------------- the place


def spec(**changes: Any) -> TextSpec:
    fields: dict[str, Any] = {
        "encoder": "view",
        "model": "text_encoder.xml",
        "match": "text_match.xml",
        "tokenizer": "text_tokenizer.json",
        "max_length": 10,
        "vocabulary": 13,
        "size": 8,
        "architecture": "bert",
        "agreement": "exact",
    }
    return TextSpec(**(fields | changes))


def planted(row: int, column: int, geometry: ViewGeometry) -> tuple[float, ...]:
    """The box of a map of 4 x 2 cells in which one stands out."""
    agreement = np.full((1, 4, 2), -0.5, np.float32)
    agreement[0, row, column] = -0.25  # a peak is a peak, however little it agrees
    outputs = {"similarity": np.array([0.5], np.float32), "agreement": agreement}
    (answer,) = interpret_ask(
        spec(), [Query("x", (2, 5, 3))], {"R-CC": outputs}, {"R-CC": geometry}
    )
    assert answer.views["R-CC"].peak.agreement == -0.25
    return answer.views["R-CC"].peak.box_px


def test_the_peak_is_one_cell_to_the_pixel() -> None:
    """800 x 300 original pixels, of which rows 100 to 500 and columns 40 to 240 are seen."""
    geometry = ViewGeometry(
        rows=800,
        columns=300,
        border_px=5,
        row_runs=((100, 500),),
        column_runs=((40, 240),),
        model_height=96,  # cells of 24 x 16 prepared pixels
        model_width=32,
    )
    assert planted(0, 0, geometry) == (40.0, 100.0, 140.0, 200.0)
    assert planted(3, 1, geometry) == (140.0, 400.0, 240.0, 500.0)


def test_the_peak_of_a_mirrored_view_with_a_seam() -> None:
    """The right half of the picture shows the left of the image; rows were cut out at 200."""
    geometry = ViewGeometry(
        rows=800,
        columns=300,
        border_px=5,
        row_runs=((100, 200), (300, 600)),
        column_runs=((40, 240),),
        model_height=96,  # cells of 24 x 16 prepared pixels
        model_width=32,
        mirrored=True,
    )
    assert planted(0, 1, geometry) == (40.0, 100.0, 140.0, 200.0)
    assert planted(1, 0, geometry) == (140.0, 300.0, 240.0, 400.0)


# -------------------- the result


def test_the_json_is_valid_and_holds_no_map(model: Model, study: Path) -> None:
    result = model.ask(study, TEXTS)
    jsonschema.Draft202012Validator.check_schema(ask_schema())
    value = json.loads(result.to_json_text())
    jsonschema.validate(value, ask_schema())
    assert [answer["text"] for answer in value["texts"]] == list(TEXTS)
    assert set(value["texts"][0]["views"]["L-CC"]) == {"similarity", "peak"}
    for key in ("texts", "agreement_kind", "notices"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in value.items() if k != key}, ask_schema())


def test_both_schemas_say_the_same_of_what_both_have() -> None:
    ours, other = ask_schema(), result_schema()
    shared = ours["properties"].keys() & other["properties"].keys()
    assert len(shared) == 8
    assert {k: ours["properties"][k] for k in shared} == {k: other["properties"][k] for k in shared}
    for name in ("view", "box", "file", "view_info"):
        assert ours["$defs"][name] == other["$defs"][name]


def test_the_notices_say_what_a_similarity_is(model: Model, study: Path) -> None:
    notices = " ".join(model.ask(study, TEXTS).notices)
    assert "a ranking, not probabilities" in notices
    assert "no value is a finding by itself" in notices
    assert "Not a medical device" in notices
    assert "SYNTHETIC WEIGHTS" in notices


def test_one_view(model: Model, study: Path, tmp_path: Path) -> None:
    shutil.copy(study / "R-MLO.dcm", tmp_path)
    result = model.ask(tmp_path, ["mass"])
    assert result.missing_views == ("L-CC", "L-MLO", "R-CC")
    (answer,) = result.texts
    assert dict(answer.breasts) == {"R": answer.study}
    assert list(answer.views) == ["R-MLO"]
    jsonschema.validate(result.to_json(), ask_schema())


def test_no_view(model: Model, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="empty"):
        model.ask(tmp_path, ["mass"])


# -------------------- texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text 2 is empty; give words to look for"),
        ("  ", "text 2 is empty"),
        ("mass\n", "text 2 holds a control character"),
        ("mass \x1b[2J", "text 2 holds a control character"),
        ("mass \u202e", "or one that is not shown"),
        ("mass \udcff", "or one that is not shown"),
        ("mass " * 99, "text 2 has 101 tokens, the text encoder reads 100 .*; give a shorter"),
        ("mass " * 4000, "text 2 has more than 16384 characters"),
        ("Musterfrau", "text 2 holds a word or sign that the text encoder does not know"),
    ],
)
def test_texts_that_cannot_be_asked(model: Model, study: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        model.ask(study, ["mass", text])
    assert str(caught.value).isprintable()
    assert "Musterfrau" not in str(caught.value)


@pytest.mark.parametrize("texts", [[], ["mass"] * 33, "mass", ["mass", None]])
def test_how_many_texts(model: Model, study: Path, texts: Any) -> None:
    with pytest.raises(UsageError, match="ask takes a list of 1 to 32 texts"):
        model.ask(study, texts)


def test_the_longest_text(model: Model, study: Path) -> None:
    (answer,) = model.ask(study, ["mass " * 97 + "no"]).texts
    assert answer.tokens == 100


def test_a_text_appears_in_the_result_alone(
    model: Model, study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[StageEvent] = []
    with caplog.at_level(logging.DEBUG):
        result = model.ask(study, ["spiculated"], observer=events.append)
    assert "text" in {event.stage for event in events}
    assert "spiculated" not in repr(events) + caplog.text + repr(result)
    assert result.texts[0].text == "spiculated"


# -------------------- bundles


def test_a_bundle_without_a_text_encoder(study: Path) -> None:
    with pytest.raises(
        BundleError, match=r"carries no text encoder; export it anew .*carry = true"
    ):
        Model.load().ask(study, ["mass"])


@pytest.fixture
def bundle(ask_bundle: Any, tmp_path: Path) -> Path:
    """A copy to spoil: large files are links, so change them by replacing them."""
    folder = tmp_path / "b.mfm"
    folder.mkdir()
    for path in ask_bundle.path.iterdir():
        (shutil.copy if path.name == "bundle.json" else os.link)(path, folder / path.name)
    return folder


def change(bundle: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    description = json.loads((bundle / "bundle.json").read_text())
    edit(description)
    (bundle / "bundle.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder", "other", "'text' names unknown encoder 'other'"),
        ("model", "x.xml", "refers to 'x.xml', which 'files' does not list"),
        ("match", "text_tokenizer.json", r"the graph 'text_tokenizer.json' is not named \*.xml"),
        ("tokenizer", "../t.json", "which 'files' does not list"),
        ("max_length", 2, "'max_length' is 2, allowed 3 to 8192"),
        ("vocabulary", "13", "'vocabulary' must be an integer"),
        ("size", 0, "'size' is 0"),
        ("architecture", None, "'architecture' must be a string"),
        ("agreement", "some", "'agreement' is 'some', allowed: exact, cells"),
    ],
)
def test_every_field_is_checked(bundle: Path, key: str, value: Any, message: str) -> None:
    change(bundle, lambda description: description["text"].update({key: value}))
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_another_size_than_the_graphs(bundle: Path, study: Path) -> None:
    change(bundle, lambda description: description["text"].update(size=25))
    with pytest.raises(BundleError, match=r"text_encoder.xml: output 'embedding' is .*24.*25"):
        Model.load(bundle).ask(study, ["mass"])


def test_an_encoder_without_a_map(bundle: Path) -> None:
    change(bundle, lambda description: description["encoders"]["view"]["outputs"].pop("map"))
    with pytest.raises(BundleError, match="'text' needs the outputs 'pooled' and 'map'"):
        Model.load(bundle)


def test_a_tokenizer_of_a_larger_text_encoder(bundle: Path, study: Path) -> None:
    change(bundle, lambda description: description["text"].update(vocabulary=9))
    model = Model.load(bundle)
    assert model.ask(study, ["no mass"]).texts[0].tokens == 4
    with pytest.raises(BundleError, match=r"text_tokenizer.json: its tokens do not fit"):
        model.ask(study, ["dense mass"])


def put_graph(bundle: Path, name: str, graph: ov.Model) -> None:
    """Replace a graph and list its size and hash."""
    for path in (bundle / name, (bundle / name).with_suffix(".bin")):
        path.unlink()
    ov.save_model(graph, str(bundle / name), compress_to_fp16=False)

    def record(description: dict[str, Any]) -> None:
        for path in (bundle / name, (bundle / name).with_suffix(".bin")):
            made = file_record(path)
            description["files"][path.name] = {"bytes": made.bytes, "sha256": made.sha256}

    change(bundle, record)


def fake_encoder(shape: list[int], value: float) -> ov.Model:
    """Embeddings of one equal number, whatever the text."""
    inputs = [ops.parameter(shape, ov.Type.i64, name=n) for n in ("input_ids", "attention_mask")]
    for node in inputs:
        node.output(0).get_tensor().set_names({node.get_friendly_name()})
    total = ops.reduce_sum(ops.add(*inputs), np.array([1]), keep_dims=True)
    nothing = ops.multiply(ops.convert(total, "f32"), np.float32(0))
    embedding = ops.add(nothing, np.full((1, 24), value, np.float32))
    embedding.output(0).get_tensor().set_names({"embedding"})
    return ov.Model([embedding], inputs)


def test_a_text_encoder_of_one_length(bundle: Path, study: Path) -> None:
    put_graph(bundle, "text_encoder.xml", fake_encoder([1, 8], 24**-0.5))
    with pytest.raises(
        BundleError, match=r"input 'input_ids' is .*for any size; export the bundle"
    ):
        Model.load(bundle).ask(study, ["mass"])


def test_a_text_encoder_that_fails_on_a_text(bundle: Path, study: Path) -> None:
    """Its sizes are free, as they must be, but only texts of eight tokens pass."""
    graph = fake_encoder([-1, -1], 24**-0.5)
    (ids, mask), answer = graph.get_parameters(), graph.get_results()[0].input_value(0)
    total = ops.reduce_sum(ops.add(ids, np.zeros((1, 8), np.int64)), np.array([1]), keep_dims=True)
    failing = ops.add(answer, ops.multiply(ops.convert(total, "f32"), np.float32(0)))
    failing.output(0).get_tensor().set_names({"embedding"})
    put_graph(bundle, "text_encoder.xml", ov.Model([failing], [ids, mask]))
    model = Model.load(bundle)
    with pytest.raises(BundleError, match=r"text_encoder.xml: cannot be run on this text; export"):
        model.ask(study, ["dense mass"])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_embeddings_that_are_not_of_length_one(bundle: Path, study: Path, value: float) -> None:
    put_graph(bundle, "text_encoder.xml", fake_encoder([-1, -1], value))
    with pytest.raises(BundleError, match="its embeddings are not of length 1"):
        Model.load(bundle).ask(study, ["mass"])


def test_what_is_no_cosine() -> None:
    geometry = ViewGeometry(64, 32, 0, ((0, 64),), ((0, 32),), 64, 32)
    queries = [Query("x", (2, 5, 3))]

    def asked(similarity: list[float], agreement: float, kind: str = "exact") -> Any:
        cells = np.full((len(similarity), 4, 2), agreement, np.float32)
        outputs = {"similarity": np.array(similarity, np.float32), "agreement": cells}
        return interpret_ask(spec(agreement=kind), queries, {"L-CC": outputs}, {"L-CC": geometry})

    assert asked([1.0], 3.0)[0].study == 1.0  # a share of a similarity may be larger than 1
    for given in (([1.1], 0.0), ([-1.1], 0.0), ([0.0], 1.1, "cells")):
        with pytest.raises(BundleError, match="answers a similarity beyond 1"):
            asked(*given)
    with pytest.raises(BundleError, match="its answers are not for 1 texts"):
        asked([0.1, 0.2], 0.1)


def test_info_tells_of_the_text_encoder(ask_bundle: Any) -> None:
    described = describe(Bundle.open(ask_bundle.path))
    assert described["text"]["architecture"] == "modernbert"
    assert "text       modernbert, at most 100 tokens; encoder view" in describe_text(described)
    without = copy.deepcopy(described) | {"text": None}
    assert "modernbert" not in describe_text(without)

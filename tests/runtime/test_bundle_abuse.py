"""Bundles made to deceive: every one ends in one line that names the file or field and the remedy.

Each test says what a careless reader would do with such a bundle: hang, crash, or answer.
"""

import copy
import hashlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops

from mammofm_lite import BundleError, InferOptions, Model
from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.contract import graph_contracts
from mammofm_lite.dicom import read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom

DEMO = json.loads((demo_bundle_path() / "bundle.json").read_text())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the demonstration bundle, unchanged at the end."""
    folder = tmp_path_factory.mktemp("pristine") / "demo.mfm"
    shutil.copytree(demo_bundle_path(), folder)
    yield folder
    Bundle.open(folder)


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A bundle to spoil: large files are links to `pristine`, so change them by `replace`."""
    folder = tmp_path / "b.mfm"
    folder.mkdir()
    for path in pristine.iterdir():
        (shutil.copy if path.name == "bundle.json" else os.link)(path, folder / path.name)
    return folder


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(
        folder, seed=5, options=PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
    )
    return folder


def describe(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description of a bundle."""
    description = copy.deepcopy(DEMO)
    change(description)
    (bundle / "bundle.json").write_text(json.dumps(description))


def put(bundle: Path, **files: bytes) -> None:
    """Replace files and list their right sizes and hashes; ``__`` stands for the dot."""
    description = json.loads((bundle / "bundle.json").read_text())
    for key, data in files.items():
        name = key.replace("__", ".")
        replace(bundle / name, data)
        description["files"][name] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    (bundle / "bundle.json").write_text(json.dumps(description))


def refused(bundle: Path, *words: str) -> None:
    """`Bundle.open` ends in one line that holds all `words`."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    one_line(caught.value, *words)


def one_line(error: BundleError, *words: str) -> None:
    text = str(error)
    assert text.isprintable(), text
    assert len(text) < 400
    for word in words:
        assert word in text


# -------------------- the bytes


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("name", sorted(DEMO["files"]))
def test_truncated(bundle: Path, name: str, share: float) -> None:
    data = (bundle / name).read_bytes()
    replace(bundle / name, data[: int(len(data) * share)])
    refused(bundle, name, "bytes", "copy the bundle anew")


def test_two_graphs_exchanged(bundle: Path) -> None:
    a, b = bundle / "head_diagnosis.xml", bundle / "head_prognosis.xml"
    first, second = a.read_bytes(), b.read_bytes()
    replace(a, second)
    replace(b, first)
    refused(bundle, "head_", "copy the bundle anew")


FLIPPABLE = sorted([*DEMO["files"], "bundle.json"])


@given(st.sampled_from(FLIPPABLE), st.integers(0, 2**32), st.integers(0, 7))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_bit_flipped_anywhere(tmp_path: Path, name: str, place: int, bit: int) -> None:
    """Of the description too, where a flip may leave valid JSON: then the bundle says another
    thing than before, which only a signature can tell; but it never crashes."""
    bundle = tmp_path / "flipped.mfm"
    if not bundle.exists():
        shutil.copytree(demo_bundle_path(), bundle)
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        if name != "bundle.json":
            refused(bundle, name, "copy the bundle anew")
            return
        try:
            assert Bundle.open(bundle).sha256 == hashlib.sha256(data).hexdigest()
        except BundleError as error:
            one_line(error)
    finally:
        data[place % len(data)] ^= 1 << bit
        path.write_bytes(bytes(data))


# -------------------- the description


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "it is not UTF-8"),
        (b"{" + b'"a":{' * 150 + b"}" * 151, "nested more than 100 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "cannot be read as JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "cannot be read as JSON"),
        (b'{"name": "x", "name": "y"}', "the key 'name' is given twice"),
        (b'{"files": {"a": {"bytes": 1, "bytes": 2}}}', "the key 'bytes' is given twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "a number is too large"),
        (b'{"a": ' + b"9" * 4000 + b"}", "a number is too large"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "a number is too large"),
        (b'{"a": "\\u001b[2J"}', "a text holds the character '\\x1b'"),
        (b'{"a": "\\ud800"}', "a text holds the character '\\ud800'"),
        (b'{"a": "\\u202e"}', "a text holds the character '\\u202e'"),
        (b'{"a\\nb": 1}', "the key 'a\\nb' is not printable"),
        (b'{"a": 1} {}', "cannot be read as JSON"),
        (b"\0" * 100, "cannot be read as JSON"),
        (b" " * ((4 << 20) + 1), "larger than 4194304 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_description_that_is_no_plain_json(bundle: Path, content: bytes, words: str) -> None:
    (bundle / "bundle.json").write_bytes(content)
    refused(bundle, "bundle.json", words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema_version", 0, "'schema_version' is 0"),
        ("schema_version", -1, "'schema_version' is -1"),
        ("schema_version", 3, "schema version 3 is newer than 2"),
        ("schema_version", 1, "schema version 1 is older than 2"),
        ("schema_version", 10**30, "'schema_version' is 1000"),
        ("schema_version", 1.0, "'schema_version' must be an integer"),
        ("made_with.openvino", "9" * 30, "not a version number"),
        ("preprocessing.width", 10**30, "'width' is 1000"),
        ("encoders.view.outputs.map", [1, 1280, 20, 10**18], "'map' holds 1000000000000000000"),
        ("encoders.view.outputs.map", [1, 1280, 20, -12], "'map' holds -12"),
        ("encoders.view.model", "encoder_view.bin", "is not named *.xml"),
        ("heads.prognosis.members.0.window", [0, 2], "'window' holds 0, allowed 1"),
        ("heads.prognosis.members.0.stride", [1, 0], "'stride' holds 0, allowed 1"),
        ("heads.prognosis.members.0.years", [], "'years' must be rising and not empty"),
        ("heads.prognosis.members.0.years", [1, 1, 2], "'years' must be rising"),
        ("heads.localization.members.0.labels", [], "'labels' is empty"),
        ("heads.localization.members.0.labels", ["mass", "mass"], "names 'mass' twice"),
        ("heads.diagnosis.members.0.labels.1.classes", ["a", "b", "b"], "names 'b' twice"),
        ("heads.diagnosis.members.0.labels.1.name", "malignancy", "names 'malignancy' twice"),
        ("heads.report.max_tokens", 10**9, "'max_tokens' is 1000000000"),
        ("files.tokenizer__json.sha256", "A" * 64, "'sha256' must be 64 hexadecimal digits"),
        ("files.tokenizer__json.bytes", 1 << 50, "'bytes' is"),
        ("files.tokenizer__json.bytes", True, "'bytes' must be an integer"),
    ],
)
def test_fields_out_of_range(bundle: Path, path: str, value: Any, words: str) -> None:
    def change(target: Any) -> None:
        *parents, last = (key.replace("__", ".") for key in path.split("."))
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        target[last] = value

    describe(bundle, change)
    refused(bundle, "bundle.json", words)


@pytest.mark.parametrize("name", ["bundle.sig", "bundle.json", ".hidden", "a\u2215b", "x" * 300])
def test_file_names_that_are_not_plain(bundle: Path, name: str) -> None:
    describe(bundle, lambda d: d["files"].update({name: d["files"]["tokenizer.json"]}))
    refused(bundle, "is not a plain file name")


# -------------------- things that are no files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize("name", ["bundle.json", "encoder_view.bin", "tokenizer.json"])
@pytest.mark.parametrize("make", [fifo, directory, link, unix_socket])
def test_special_files_are_never_waited_for(
    bundle: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Opening a pipe that nobody writes into waits for ever; /dev/zero never ends."""
    (bundle / name).unlink()
    make(bundle / name)
    refused(bundle, name, "regular file")


def test_files_that_are_not_listed_are_ignored(bundle: Path) -> None:
    """Nothing opens them, so a pipe or a link among them cannot do harm."""
    os.mkfifo(bundle / "pipe")
    (bundle / "extra.xml").symlink_to("/dev/zero")
    (bundle / "openvino.py").write_text("raise SystemExit('imported')")
    assert Bundle.open(bundle).sha256 == Bundle.open(demo_bundle_path()).sha256


def test_a_bundle_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "b.mfm").write_bytes(b"x")
    refused(tmp_path / "b.mfm", "no bundle directory")


# -------------------- graphs whose hash is right and whose content is wrong


Ports = Mapping[str, tuple[str, tuple[int, ...]]]


def graph(folder: Path, inputs: Ports, outputs: Ports, **values: Any) -> tuple[bytes, bytes]:
    """XML and weights of a graph that answers `values`, zeros else, whatever it is given."""
    parameters = []
    for name, (kind, shape) in inputs.items():
        parameter = ops.parameter(list(shape), getattr(ov.Type, kind), name=name)
        parameter.output(0).get_tensor().set_names({name})
        parameters.append(parameter)
    results = []
    for name, (kind, shape) in outputs.items():
        dtype = {"f32": np.float32, "i64": np.int64, "u8": np.uint8, "f64": np.float64}[kind]
        value = np.asarray(values.get(name, np.zeros(shape)), dtype)
        # Not a constant alone: OpenVINO would merge the outputs that are equal.
        result = ops.add(ops.constant(value), ops.constant(np.zeros((), dtype)))
        result.output(0).get_tensor().set_names({name})
        results.append(result)
    ov.save_model(ov.Model(results, parameters), folder / "g.xml", compress_to_fp16=False)
    return (folder / "g.xml").read_bytes(), (folder / "g.bin").read_bytes()


def contract(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the demonstration bundle asks of a graph, with 3 where any number is right."""
    found = graph_contracts(Bundle.open(demo_bundle_path()))[name]
    return tuple(
        {name: (port.type, tuple(size or 3 for size in port.shape)) for name, port in ports.items()}
        for ports in (found.inputs, found.outputs)
    )


def fails_before_anything_runs(bundle: Path, study: Path, *words: str) -> None:
    stages: list[str] = []
    with pytest.raises(BundleError) as caught:
        Model.load(bundle).infer(study, observer=lambda event: stages.append(event.stage))
    one_line(caught.value, *words)
    assert "encode" not in stages
    assert "decode" not in stages


# Graph, then "in" or "out", the port, and what it becomes: None takes it away.
WRONG: list[tuple[str, str, str, tuple[str, tuple[int, ...]] | None]] = [
    ("encoder_view.xml", "in", "image", None),
    ("encoder_view.xml", "in", "image", ("f32", (1, 1, 640, 384))),
    ("encoder_view.xml", "in", "image", ("u8", (1, 3, 640, 384))),
    ("encoder_view.xml", "in", "image", ("u8", (1, 1, 384, 640))),
    ("encoder_view.xml", "in", "image", ("u8", (640, 384))),
    ("encoder_view.xml", "out", "map", None),
    ("encoder_view.xml", "out", "map", ("f32", (1, 1280, 12, 20))),
    ("encoder_view.xml", "out", "pooled", ("f32", (1, 1281))),
    ("head_diagnosis.xml", "in", "pooled", ("f32", (1, 2048))),
    ("head_diagnosis.xml", "out", "probabilities", ("f32", (1, 4))),
    ("head_diagnosis.xml", "out", "probabilities", ("f32", (5,))),
    ("head_diagnosis.xml", "out", "probabilities", ("f64", (1, 5))),
    ("head_localization.xml", "in", "c4", None),
    ("head_localization.xml", "in", "c3", ("f32", (1, 112, 40, 25))),
    ("head_localization.xml", "out", "boxes", ("f32", (3, 5))),
    ("head_localization.xml", "out", "labels", ("f32", (3,))),
    ("head_localization.xml", "out", "scores", None),
    ("head_prognosis.xml", "in", "usable", ("f32", (4,))),
    ("head_prognosis.xml", "in", "mlo_right", None),
    ("head_prognosis.xml", "out", "risk", ("f32", (4,))),
    ("head_prognosis.xml", "out", "heatmap", ("f32", (5, 2, 18, 11))),
    ("head_prognosis.xml", "out", "peak", ("i64", (5, 2))),
    ("head_report_fusion.xml", "in", "map_l_cc", None),
    ("head_report_fusion.xml", "in", "present", ("f32", (4, 1))),
]


@pytest.mark.parametrize(("name", "side", "port", "becomes"), WRONG)
def test_a_graph_that_does_not_fit(
    bundle: Path, study: Path, tmp_path: Path, name: str, side: str, port: str, becomes: Any
) -> None:
    inputs, outputs = contract(name)
    changed = inputs if side == "in" else outputs
    if becomes is None:
        del changed[port]
    else:
        changed[port] = becomes
    if not inputs:  # every graph needs one
        inputs["other"] = ("f32", (1,))
    xml, weights = graph(tmp_path, inputs, outputs)
    put(bundle, **{name.replace(".", "__"): xml, name.replace(".xml", "__bin"): weights})
    fails_before_anything_runs(bundle, study, name, repr(port), "export the bundle anew")


def test_an_input_that_nothing_feeds(bundle: Path, study: Path, tmp_path: Path) -> None:
    """OpenVINO would run it on whatever lies in memory there."""
    inputs, outputs = contract("head_diagnosis.xml")
    xml, weights = graph(tmp_path, {**inputs, "dose": ("f32", (1,))}, outputs)
    put(bundle, head_diagnosis__xml=xml, head_diagnosis__bin=weights)
    fails_before_anything_runs(bundle, study, "head_diagnosis.xml", "input 'dose'", "nothing feeds")


def test_two_graphs_exchanged_with_their_hashes(bundle: Path, study: Path) -> None:
    read = {name: (bundle / name).read_bytes() for name in DEMO["files"]}
    put(
        bundle,
        head_diagnosis__xml=read["head_prognosis.xml"],
        head_diagnosis__bin=read["head_prognosis.bin"],
        head_prognosis__xml=read["head_diagnosis.xml"],
        head_prognosis__bin=read["head_diagnosis.bin"],
    )
    fails_before_anything_runs(bundle, study, "head_diagnosis.xml: has no input 'pooled'")


def test_a_decoder_that_the_fusion_graph_does_not_feed(bundle: Path, study: Path) -> None:
    read = {name: (bundle / name).read_bytes() for name in DEMO["files"]}
    put(
        bundle,
        head_report_decoder__xml=read["head_diagnosis.xml"],
        head_report_decoder__bin=read["head_diagnosis.bin"],
    )
    fails_before_anything_runs(bundle, study, "head_report_decoder.xml: has no input")


def swap_labels(description: dict[str, Any]) -> None:
    description["heads"]["diagnosis"]["members"][0]["labels"][1]["classes"] = ["a", "b", "c"]


def fewer_years(description: dict[str, Any]) -> None:
    description["heads"]["prognosis"]["members"][0]["years"] = [1, 2, 3]


def other_map(description: dict[str, Any]) -> None:
    description["heads"]["prognosis"]["members"][0]["map"] = [48, 29]


def larger_window(description: dict[str, Any]) -> None:
    description["heads"]["prognosis"]["members"][0]["window"] = [21, 2]


def no_pyramid(description: dict[str, Any]) -> None:
    del description["encoders"]["view"]["outputs"]["c4"]


def flat_map(description: dict[str, Any]) -> None:
    description["encoders"]["view"]["outputs"]["map"] = [1, 1280]


def other_size(description: dict[str, Any]) -> None:
    description["preprocessing"]["height"] = 1520


def one_graph_twice(description: dict[str, Any]) -> None:
    description["heads"]["prognosis"]["members"][0]["model"] = "head_diagnosis.xml"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_labels, "head_diagnosis.xml: output 'probabilities' is f32 [1, 5], the bundle needs"),
        (fewer_years, "head_prognosis.xml: output 'score' is f32 [5], the bundle needs f32 [3]"),
        (other_map, "has a map of 48 x 29 cells, encoder 'view' gives 20 x 12"),
        (larger_window, "'window' is larger than 'map'"),
        (no_pyramid, "head 'localization' needs the output 'c4' of encoder 'view'"),
        (flat_map, "needs the output 'map' of encoder 'view' with 4 axes"),
        (other_size, "encoder_view.xml: input 'image' is u8 [1, 1, 640, 384]"),
        (one_graph_twice, "the graph 'head_diagnosis.xml' is named for two tasks"),
    ],
)
def test_a_description_that_its_graphs_do_not_fit(
    bundle: Path, study: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    describe(bundle, change)
    fails_before_anything_runs(bundle, study, words)


# -------------------- members


def first_member(description: dict[str, Any], head: str) -> dict[str, Any]:
    member: dict[str, Any] = description["heads"][head]["members"][0]
    return member


def doubled(head: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A second member like the first, but for some fields."""

    def change(description: dict[str, Any]) -> None:
        other = {**first_member(description, head), **changes}
        description["heads"][head]["members"].append(other)

    return change


def old_form(description: dict[str, Any]) -> None:
    description["heads"]["diagnosis"] = first_member(description, "diagnosis")


SCAR = {"name": "scar", "kind": "binary", "breast": "mean", "study": "max", "recall": False}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (old_form, "diagnosis: 'members' must be a list of objects"),
        (lambda d: d["heads"]["prognosis"].update(members=[]), "'members' is empty"),
        (lambda d: d["heads"]["prognosis"].update(members=[3]), "members[0]: expected an object"),
        (doubled("diagnosis"), "'labels' names 'malignancy' twice"),
        (doubled("localization", labels=["scar", "mass"]), "'labels' names 'mass' twice"),
        (doubled("prognosis", years=[6, 5]), "members[1]: 'years' must be rising"),
        (doubled("prognosis", years=[5, 6]), "'years' names 5 twice"),
        (doubled("prognosis", years=[6], encoder="none"), "names unknown encoder 'none'"),
        (doubled("localization", labels=["scar"], threshold=2), "members[1]: 'threshold' must"),
        (doubled("diagnosis", labels=[SCAR], model="x.xml"), "refers to 'x.xml'"),
    ],
)
def test_members_that_contradict_each_other(
    bundle: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    describe(bundle, change)
    refused(bundle, "bundle.json", words)


@pytest.mark.parametrize(
    "change",
    [
        doubled("localization", labels=["scar", "clip"]),
        doubled("prognosis", years=[6, 7, 8, 9, 10]),
        doubled("diagnosis", labels=[{**SCAR, "name": str(i)} for i in range(5)]),
    ],
)
def test_one_graph_for_two_members(
    bundle: Path, study: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Both would fit it: the second would repeat the first one's answer under another name."""
    describe(bundle, change)
    fails_before_anything_runs(bundle, study, "head_", "is named for two tasks")


def with_second(bundle: Path, head: str, tmp_path: Path, **values: Any) -> str:
    """A second member whose graph answers `values`, as the first one's contract asks."""
    asked: dict[str, Any] = {"labels": ["scar", "clip"], "years": [6, 7, 8, 9, 10]}
    key = "years" if head == "prognosis" else "labels"
    name = f"second_{head}.xml"
    xml, weights = graph(tmp_path, *contract(f"head_{head}.xml"), **values)
    describe(bundle, doubled(head, **{key: asked[key], "model": name}))
    for file in (name, f"second_{head}.bin"):
        (bundle / file).touch()
    put(bundle, **{f"second_{head}__xml": xml, f"second_{head}__bin": weights})
    return name


@pytest.mark.parametrize(
    ("head", "values", "words"),
    [
        ("localization", {"scores": np.ones(3), "labels": [0, 1, 2]}, "labels beyond"),
        ("prognosis", {"risk": [0.5, 0.4, 0.5, 0.6, 0.7]}, "a risk that decreases"),
        ("prognosis", {"peak": np.full((5, 2, 2), 17)}, "a peak outside its map"),
        ("prognosis", {"score": np.full(5, np.nan)}, "second_prognosis.xml: output 'score' is not"),
    ],
)
def test_a_second_member_that_answers_what_cannot_be(
    bundle: Path, study: Path, tmp_path: Path, head: str, values: Any, words: str
) -> None:
    with_second(bundle, head, tmp_path, **values)
    with pytest.raises(BundleError) as caught:
        Model.load(bundle).infer(study, InferOptions((head,)))
    one_line(caught.value, words)


def test_a_second_member_whose_graph_does_not_fit(
    bundle: Path, study: Path, tmp_path: Path
) -> None:
    name = with_second(bundle, "prognosis", tmp_path)
    description = json.loads((bundle / "bundle.json").read_text())
    description["heads"]["prognosis"]["members"][1]["years"] = [6, 7]
    (bundle / "bundle.json").write_text(json.dumps(description))
    fails_before_anything_runs(bundle, study, name, "'score' is f32 [5], the bundle needs f32 [2]")


def test_a_second_member_answers_beside_the_first(
    bundle: Path, study: Path, tmp_path: Path
) -> None:
    """Its constant answer stands in the result, and the first one's is what it was."""
    before = Model.load(demo_bundle_path()).infer(study, InferOptions(("prognosis",)))
    scores = [0.1, 0.2, 0.3, 0.95, 0.5]
    risks = np.maximum.accumulate(scores)
    with_second(bundle, "prognosis", tmp_path, score=scores, risk=risks)
    years = Model.load(bundle).infer(study, InferOptions(("prognosis",))).prognosis.years
    assert years[:5] == before.prognosis.years
    assert [year.year for year in years] == list(range(1, 11))
    assert [year.score for year in years[5:]] == pytest.approx(scores)
    highest = before.prognosis.years[-1].risk
    assert [year.risk for year in years[5:]] == pytest.approx(np.maximum(risks, highest))


def test_a_graph_of_random_bytes_in_a_right_frame(bundle: Path, study: Path) -> None:
    """Weights shorter than the graph says, and a graph cut in half: both hashes are right."""
    xml = (bundle / "head_diagnosis.xml").read_bytes()
    put(bundle, head_diagnosis__bin=b"\0" * 64)
    fails_before_anything_runs(bundle, study, "head_diagnosis.xml: OpenVINO", "cannot load")
    put(bundle, head_diagnosis__xml=xml[: len(xml) // 2])
    fails_before_anything_runs(bundle, study, "head_diagnosis.xml: OpenVINO", "cannot load")


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\xff\xfe\x00", b"[" * 50_000, b'{"model": 3}', b"\0" * 1000],
    ids=["empty", "object", "not UTF-8", "deep", "model", "zeros"],
)
def test_a_tokenizer_that_is_none(bundle: Path, study: Path, data: bytes) -> None:
    put(bundle, tokenizer__json=data)
    fails_before_anything_runs(bundle, study, "tokenizer.json", "export the bundle anew")


def test_a_tokenizer_with_one_token_more(bundle: Path, study: Path) -> None:
    value = json.loads((bundle / "tokenizer.json").read_text())
    size = len(value["model"]["vocab"])
    value["model"]["vocab"]["surplus"] = size
    put(bundle, tokenizer__json=json.dumps(value).encode())
    told, wanted = f"output 'logits' is f32 [1, {size}]", f"[1, {size + 1}]"
    fails_before_anything_runs(bundle, study, "head_report_decoder.xml", told, wanted)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"rules": {}}', b'{"a": 1, "a": 2}', b"\xff"])
def test_a_grammar_that_is_none(bundle: Path, study: Path, data: bytes) -> None:
    put(bundle, grammar__json=data)
    fails_before_anything_runs(bundle, study, "grammar.json")


def test_a_grammar_that_is_too_ambiguous_to_read(bundle: Path) -> None:
    """Thirty times "a" or "aa" has a billion readings, and the text fits none of them."""
    from mammofm_lite._jsonread import Fields
    from mammofm_lite.grammar import Grammar

    either = [{"either": ["a", "aa"]}] * 30
    value = {"lexicon": {"name": "x", "edition": "1"}, "rules": {}, "report": [*either, "c"]}
    language = Grammar.parse(Fields(value, "grammar.json")).language(())
    with pytest.raises(BundleError, match="too ambiguous"):
        language.read("a" * 45 + "b")
    value["report"] = ["a"] * 20_000
    language = Grammar.parse(Fields(value, "grammar.json")).language(())
    with pytest.raises(BundleError, match="too long a series of parts"):
        language.read("a" * 20_000)


def test_a_choice_with_absurdly_many_options(bundle: Path, study: Path) -> None:
    grammar = json.loads((bundle / "grammar.json").read_text())
    grammar["report"] = {"choice": "x", "of": {str(i): str(i) for i in range(2000)}}
    put(bundle, grammar__json=json.dumps(grammar).encode())
    fails_before_anything_runs(bundle, study, "grammar.json", "'of' holds more than 1000 texts")


# -------------------- answers that cannot be


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("head_diagnosis.xml", {"probabilities": [[1.5, 0, 0, 0, 1]]}, "is no probability"),
        ("head_diagnosis.xml", {"probabilities": [[-0.1, 0, 0, 0, 1]]}, "is no probability"),
        ("head_diagnosis.xml", {"probabilities": [[np.nan, 0, 0, 0, 1]]}, "is not finite"),
        ("head_prognosis.xml", {"risk": [0.5, 0.4, 0.5, 0.6, 0.7]}, "a risk that decreases"),
        ("head_prognosis.xml", {"peak": np.full((5, 2, 2), 17)}, "a peak outside its map"),
        ("head_prognosis.xml", {"peak": np.full((5, 2, 2), -1)}, "a peak outside its map"),
        ("head_localization.xml", {"scores": np.ones(3), "labels": [0, 1, 5]}, "labels beyond"),
        ("head_localization.xml", {"scores": np.ones(2)}, "3 boxes, 2 scores and 3 labels"),
    ],
)
def test_an_answer_that_cannot_be(
    bundle: Path, study: Path, tmp_path: Path, name: str, values: Any, words: str
) -> None:
    xml, weights = graph(tmp_path, *contract(name), **values)
    put(bundle, **{name.replace(".", "__"): xml, name.replace(".xml", "__bin"): weights})
    head = name.removeprefix("head_").removesuffix(".xml")
    with pytest.raises(BundleError) as caught:
        Model.load(bundle).infer(study, InferOptions((head,)))
    one_line(caught.value, words)


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON tree with every key in it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def test_random_values_in_random_places(bundle: Path, study: Path) -> None:
    """Refused in one line, or a bundle that answers."""
    rng = random.Random(3)
    odd = [None, True, -1, 0, 10**12, 0.5, "", "x", "../x", [], [0], [1] * 4, {}, {"a": 1}, "\n"]
    read = read_study(study)
    opened = 0
    for _ in range(300):
        description = {k: v for k, v in copy.deepcopy(DEMO).items() if k != "provenance"}
        description["self_check"] = {}
        node, key = rng.choice(list(places(description)))
        node[key] = rng.choice(odd)
        (bundle / "bundle.json").write_text(json.dumps(description))
        try:
            model = Model.load(bundle, threads=1)
            opened += 1
            if opened % 8 == 0:
                model.infer(read)
        except BundleError as error:
            one_line(error)
    assert 0 < opened < 200

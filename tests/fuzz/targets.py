"""What is fuzzed: seeds, mutations, and the code that must survive them.

A target takes a mutant and either works or raises one of our own errors; everything else that
comes out, a crash, a hang or too much memory, is a defect.
"""

import atexit
import ctypes
import importlib.util
import io
import json
import os
import random
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mammofm_lite._jsonread import parse_json_object
from mammofm_lite.bundle import Bundle, demo_bundle_path, file_record
from mammofm_lite.contract import graph_contracts
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.errors import BundleError, StudyError
from mammofm_lite.grammar import Grammar
from mammofm_lite.native import embedding_folder
from mammofm_lite.views import STANDARD_VIEWS

__all__ = ["SCRATCH", "TARGETS", "Mutation", "mutate", "random_mutations"]

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = "MAMMOFM_FUZZ_SCRATCH"  # where the workers of run.py, which may be killed, keep files


# -------------------- mutations


@dataclass(frozen=True)
class Mutation:
    """One change: what to do, where (a share of the length), and with which number."""

    kind: str
    place: float
    number: int


_NUMBERS = (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE)
_TOKENS = (
    b"", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b'""', b'"x"',
    b"[]", b"{}", b"[[[[", b'"\\ud800"', b'"\\u0000"', b'"../x"', b",", b":", b'{"rule": "a"}',
)  # fmt: skip
KINDS = (
    "json",
    "json",
    "bit",
    "byte",
    "word",
    "long",
    "cut",
    "delete",
    "repeat",
    "noise",
    "token",
    "swap",
)


def random_mutations(rng: random.Random) -> list[Mutation]:
    return [
        Mutation(rng.choice(KINDS), rng.random(), rng.randrange(1 << 32))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6)))
    ]


def mutate(data: bytes, mutations: Sequence[Mutation]) -> bytes:
    for mutation in mutations:
        data = _mutated(bytearray(data), mutation)
    return data


def _mutated(data: bytearray, mutation: Mutation) -> bytes:
    at, number = int(mutation.place * len(data)), mutation.number
    length = 1 + number % min(64, len(data) + 1)
    chosen = _NUMBERS[number % len(_NUMBERS)]
    match mutation.kind:
        case "bit":
            data[at : at + 1] = bytes(byte ^ 1 << number % 8 for byte in data[at : at + 1])
        case "byte":
            data[at : at + 1] = bytes([chosen & 0xFF])
        case "word":
            data[at : at + 2] = (chosen & 0xFFFF).to_bytes(2, "little")
        case "long":
            data[at : at + 4] = chosen.to_bytes(4, "little")
        case "cut":
            del data[at:]
        case "delete":
            del data[at : at + length]
        case "repeat":
            data[at:at] = data[at : at + length] * (1 + number % 9)
        case "noise":
            data[at : at + length] = random.Random(number).randbytes(length)
        case "token":
            data[at : at + number % 8] = _TOKENS[number % len(_TOKENS)]
        case "json":
            return _with_another_value(bytes(data), random.Random(number))
        case "swap":
            other = number % (len(data) + 1)
            part = bytes(data[other : other + length])
            data[at : at + len(part)] = part
    return bytes(data)


_VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 5, 10**12, 0.5, 1e30, "", "a", "L-CC", "../x",
    [], [0], [1] * 4, {}, {"a": 1},
)  # fmt: skip


def _with_another_value(data: bytes, rng: random.Random) -> bytes:
    """Of a JSON file: another value in any place, or one that stands elsewhere in the file."""
    try:
        tree = json.loads(data)
    except ValueError:
        return data
    places = list(_places(tree))
    if not places:
        return data
    (node, key), (other, other_key) = rng.choice(places), rng.choice(places)
    match rng.randrange(3):
        case 0:
            node[key] = json.loads(json.dumps(other[other_key]))
        case 1:
            node[key] = rng.choice(_VALUES)
        case 2:
            del node[key]
    return json.dumps(tree).encode()


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key in it."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


# -------------------- studies


@cache
def _conftest() -> Any:
    """The maker of small mammograms, which pytest would not let us import by name."""
    path = ROOT / "tests" / "dicom" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fuzz_mammograms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@cache
def study_seeds() -> tuple[bytes, ...]:
    """A mammogram per transfer syntax, and a zip of four views."""
    make = _conftest()
    pixels = np.random.default_rng(7).integers(0, 4096, (48, 36))
    files = [
        make.file_bytes(make.encoded(pixels, name, bits=12), make.SYNTAXES[name])
        for name in make.SYNTAXES
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for view in make.ORIENTATIONS:
            archive.writestr(f"{view}.dcm", make.file_bytes(make.mammogram(view)))
    return (*files, packed.getvalue())


def read_a_study(data: bytes) -> str:
    """Read a study and decode all its views."""
    with tempfile.NamedTemporaryFile(dir=_scratch()) as file:
        file.write(data)
        file.flush()
        try:
            study = read_study(Path(file.name))
            for instance in study.views.values():
                pixels = read_pixels(instance, threads=1 + len(data) % 2)
                assert pixels.shape == (instance.rows, instance.columns)
        except StudyError as error:
            _check_line(str(error))
            return "refused"
    return "accepted"


@cache
def code_stream_seeds() -> tuple[bytes, ...]:
    """Frames alone: JPEG 2000 of several layouts, JPEG-LS, JPEG lossless."""
    make = _conftest()
    pixels = np.random.default_rng(8).integers(0, 4096, (48, 36)).astype("u2")
    coded = ("jpeg 2000", "jpeg 2000 lossy", "jpeg-ls", "jpeg-ls near", "jpeg lossless 70")
    return (
        *(make.frame(make.encoded(pixels, name, bits=12), pixels, name) for name in coded),
        _jpeg_2000(pixels, tile_size=(18, 24), progression="RPCL"),
        _jpeg_2000(pixels, num_resolutions=3, precinct_size=(32, 32), codeblock_size=(16, 16)),
    )


def _jpeg_2000(pixels: Any, **layout: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG2000", no_jp2=True, **layout)
    return out.getvalue()


def read_a_code_stream(data: bytes) -> str:
    """The same as a study's only pixel data; what it is, is found by its markers."""
    make = _conftest()
    ds = make.mammogram()
    make.set_pixels(ds, np.zeros((48, 36), np.int64), bits=12)
    ds["PixelData"].value = make.encapsulate([data or bytes(2)])
    return read_a_study(make.file_bytes(ds, make.SYNTAXES["jpeg 2000"]))


@cache
def _scratch() -> str:
    """Memory, where there is such a folder: the disk is not what is tested."""
    memory = Path("/dev/shm")
    parent = os.environ.get(SCRATCH) or (str(memory) if memory.is_dir() else None)
    folder = tempfile.mkdtemp(dir=parent, prefix="mammofm-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _check_line(text: str) -> None:
    assert text.isprintable(), ascii(text)
    assert len(text) < 600, text
    assert "/" not in text.replace("and/or", "") or _scratch() not in text


# -------------------- bundles


def _demo(name: str) -> bytes:
    return (demo_bundle_path() / name).read_bytes()


@cache
def _small_bundle() -> Path:
    """The demonstration bundle's description over tiny files: hashing is not what is tested."""
    folder = Path(_scratch(), "small.mfm")
    folder.mkdir()
    description = json.loads(_demo("bundle.json"))
    for name in description["files"]:
        (folder / name).write_bytes(name.encode())
        record = file_record(folder / name)
        description["files"][name] = {"bytes": record.bytes, "sha256": record.sha256}
    for key in ("self_check", "provenance"):
        description[key] = {}
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


@cache
def bundle_seeds() -> tuple[bytes, ...]:
    """The demonstration's description, and one whose heads have several members."""
    one = (_small_bundle() / "bundle.json").read_bytes()
    return (one, json.dumps(_with_members(json.loads(one))).encode())


def _with_members(description: dict[str, Any]) -> dict[str, Any]:
    """Every head that may have several members has two, the second on graphs of their own."""
    files, encoders = description["files"], description["encoders"]

    def twin(graph: str) -> str:
        for suffix in (".xml", ".bin"):
            name = graph.removesuffix(".xml") + suffix
            (_small_bundle() / f"twin_{name}").write_bytes(name.encode())
            files[f"twin_{name}"] = files[name]
        return f"twin_{graph}"

    encoders["twin"] = {**encoders["view"], "model": twin(encoders["view"]["model"])}
    for head in ("diagnosis", "localization", "prognosis"):
        (first,) = description["heads"][head]["members"]
        second = {**first, "encoder": "twin", "model": twin(first["model"])}
        asked = "years" if head == "prognosis" else "labels"
        second[asked], first[asked] = first[asked][1:], first[asked][:1]
        description["heads"][head]["members"] = [first, second]
    return description


def open_a_bundle(data: bytes) -> str:
    """Open a bundle of this description and ask what its graphs must be."""
    folder = _small_bundle()
    bundle_seeds()  # before the description is overwritten
    (folder / "bundle.json").write_bytes(data)
    return _expecting_bundle_error(lambda: graph_contracts(Bundle.open(folder)))


def open_a_bundle_in_c(data: bytes) -> str:
    """The C library says one line or opens, and opens nothing that Python refuses."""
    python = open_a_bundle(data)
    library, handle = _c_library(), ctypes.c_void_p()
    path = str(_small_bundle()).encode()
    status = library.mfm_model_open(path, None, ctypes.byref(handle))
    library.mfm_model_destroy(handle)
    if status == 0:
        assert python == "accepted"
        return "accepted"
    assert status == 4, status
    line = library.mfm_last_error().decode()
    assert len(line) < 600, line
    assert line.isprintable(), line
    return "refused"


@cache
def _c_library() -> Any:
    library = ctypes.CDLL(str(embedding_folder() / "lib" / "libmammofm.so"))
    library.mfm_last_error.restype = ctypes.c_char_p
    return library


def _expecting_bundle_error(work: Callable[[], Any]) -> str:
    try:
        work()
    except BundleError as error:
        _check_line(str(error))
        return "refused"
    return "accepted"


@cache
def grammar_seeds() -> tuple[bytes, ...]:
    small = {
        "lexicon": {"name": "x", "edition": "1"},
        "rules": {"a": ["b", {"either": ["c", {"choice": "k", "of": {"v": "w", "x": "yz"}}]}]},
        "report": [
            {"repeat": {"rule": "a"}, "separator": ", ", "most": 3},
            {"section": "s", "title": "S", "text": {"finding": "f", "text": {"rule": "a"}}},
            {"by_views": "study", "cases": {"complete": "p", "incomplete": "q"}},
        ],
    }
    return (_demo("grammar.json"), json.dumps(small).encode())


def speak_a_grammar(data: bytes) -> str:
    """Read a grammar, and read a random text of its language by it."""

    def work() -> None:
        grammar = Grammar.parse(parse_json_object(data, "grammar.json"))
        language = grammar.language(STANDARD_VIEWS)
        automaton = language.automaton(lambda text: [ord(letter) for letter in text])
        states, text, rng = automaton.start, "", random.Random(len(data))
        while allowed := automaton.allowed(states):
            token = rng.choice(allowed)
            text += chr(token)
            states = automaton.after(states, token)
        assert len(text) <= automaton.longest
        language.read(text)

    return _expecting_bundle_error(work)


@cache
def tokenizer_seeds() -> tuple[bytes, ...]:
    return (_demo("tokenizer.json"),)


def read_a_tokenizer(data: bytes) -> str:
    """Read a tokenizer and cut the words of the report language with it."""
    from mammofm_lite.tokenizer import Tokenizer

    path = Path(_scratch(), "tokenizer.json")
    path.write_bytes(data)

    def work() -> None:
        tokenizer = Tokenizer.open(path)
        language = _demo_language()
        automaton = language.automaton(tokenizer.encode)
        states, tokens, rng = automaton.start, [], random.Random(len(data))
        while allowed := automaton.allowed(states):
            tokens.append(rng.choice(allowed))
            states = automaton.after(states, tokens[-1])
        language.read(tokenizer.decode(tokens))

    return _expecting_bundle_error(work)


@cache
def _demo_language() -> Any:
    return Grammar.open(demo_bundle_path() / "grammar.json").language(STANDARD_VIEWS)


# -------------------- graphs


@cache
def graph_seeds() -> tuple[bytes, ...]:
    return (_demo("head_diagnosis.xml"),)


def run_a_graph(data: bytes) -> str:
    """Load a graph and run it: most of this is OpenVINO's parser, not ours."""
    from mammofm_lite.graphs import GraphStore
    from mammofm_lite.progress import StageReporter

    folder = Path(_scratch())
    (folder / "g.xml").write_bytes(data)
    (folder / "g.bin").write_bytes(_demo("head_diagnosis.bin"))

    def work() -> None:
        demo = _demo_bundle()
        stand_in: Any = SimpleNamespace(**vars(demo))
        stand_in.members = demo.members
        stand_in.file = lambda name: folder / ("g" + Path(name).suffix)
        store = GraphStore(stand_in, 1)
        graph = store.graph("head_diagnosis.xml", StageReporter(None))
        graph.run({"pooled": np.ones((1, 1280), np.float32)})

    return _expecting_bundle_error(work)


@cache
def _demo_bundle() -> Bundle:
    return Bundle.open(demo_bundle_path())


Target = tuple[Callable[[], tuple[bytes, ...]], Callable[[bytes], str]]

TARGETS: dict[str, Target] = {
    "study": (study_seeds, read_a_study),
    "codestream": (code_stream_seeds, read_a_code_stream),
    "bundle": (bundle_seeds, open_a_bundle),
    "c bundle": (bundle_seeds, open_a_bundle_in_c),
    "grammar": (grammar_seeds, speak_a_grammar),
    "tokenizer": (tokenizer_seeds, read_a_tokenizer),
    "graph": (graph_seeds, run_a_graph),
}

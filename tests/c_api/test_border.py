"""The border of the C library: refusals by status and line, structs, callbacks, threads."""

import ctypes as c
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mammofm_lite
from mammofm_lite import ArrayView, BundleError, CancelledError, InferOptions, Model, array_study
from mammofm_lite._openvino import OPENVINO_VERSION
from mammofm_lite.bundle import demo_bundle_path, file_record
from mammofm_lite.native import embedding_folder, extension_path, instruction_set

HEADER = (embedding_folder() / "include" / "mammofm.h").read_text()
LIBRARY = embedding_folder() / "lib" / "libmammofm.so"


def refused(capi: ModuleType, call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(capi.RefusedError) as info:
        call()
    return info.value.status, str(info.value)


# -------------------- the library


def _symbols(*options: str) -> list[str]:
    command = ["nm", "--dynamic", "--format=posix", *options, str(LIBRARY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split()[0].split("@")[0] for line in done.stdout.splitlines()]


def test_it_exports_what_the_header_declares() -> None:
    declared = re.findall(r"MFM_API[^;(]*?(mfm_\w+)\(", HEADER)
    assert len(declared) > 30
    assert sorted(_symbols("--defined-only")) == sorted(declared)


def test_it_calls_nothing_that_ends_or_redirects_the_process() -> None:
    imported = set(_symbols("--undefined-only"))
    forbidden = {"exit", "_exit", "abort", "signal", "sigaction", "fopen", "fopen64", "fork",
                 "system", "socket", "connect", "setlocale", "dlopen"}  # fmt: skip
    assert imported.isdisjoint(forbidden)


def test_it_needs_no_python() -> None:
    done = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.*?)\]", done.stdout)
    assert {name.split(".")[0] for name in needed} <= {
        "libopenvino", "libtbb", "libstdc++", "libm", "libgcc_s", "libc", "ld-linux-x86-64",
    }  # fmt: skip


def test_the_binding_has_the_sizes_of_the_header(capi: ModuleType, tmp_path: Path) -> None:
    """Otherwise the tests would read other fields than they name."""
    prints = "\n".join(
        f'printf("{name} %zu", sizeof({name}));'
        + "".join(f'printf(" %zu", offsetof({name}, {field}));' for field, _ in struct._fields_)
        + 'printf("\\n");'
        for name, struct in capi.STRUCTS.items()
    )
    source = tmp_path / "sizes.c"
    source.write_text(f"#include <mammofm.h>\n#include <stdio.h>\nint main(void) {{{prints}}}\n")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    include = f"-I{embedding_folder() / 'include'}"
    subprocess.run(["gcc", *flags, include, source, "-o", tmp_path / "sizes"], check=True)
    done = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, *numbers = line.split()
        struct = capi.STRUCTS[name]
        offsets = [getattr(struct, field).offset for field, _ in struct._fields_]
        assert [int(number) for number in numbers] == [c.sizeof(struct), *offsets], name
    assert len(done.stdout.splitlines()) == len(re.findall(r"^typedef struct \w+ \{", HEADER, re.M))


def test_versions(capi: ModuleType) -> None:
    library = capi.LIBRARY
    assert library.mfm_version().decode() == mammofm_lite.__version__
    assert library.mfm_openvino_version().decode() == OPENVINO_VERSION
    assert library.mfm_abi_version() == int(re.findall(r"MFM_ABI_VERSION (\d+)", HEADER)[0])
    name = c.c_char_p()
    assert library.mfm_instruction_set(c.byref(name)) == capi.OK
    assert name.value == instruction_set().encode()


def test_every_status_has_its_name(capi: ModuleType) -> None:
    named = re.findall(r"(MFM_OK|MFM_ERROR_\w+) =\s+(\d+)", HEADER)
    assert [int(number) for _, number in named] == list(range(10))
    for name, number in named:
        assert capi.LIBRARY.mfm_status_name(int(number)).decode() == name
    assert capi.LIBRARY.mfm_status_name(-1) == capi.LIBRARY.mfm_status_name(10)


# -------------------- structs


def test_older_programs_are_served(capi: ModuleType, c_model: Any, phantom: list[Any]) -> None:
    """A struct that ends before its newer fields: they count as zero, and are not written."""
    struct = capi.c_view(phantom[0])
    struct.struct_size = capi.View.has_padding.offset
    struct.has_padding, struct.padding_low, struct.padding_high = 1, 0, 65535
    result = c_model.run_struct(capi.c_study([struct]), heads=1)
    assert json.loads(result.json())["views"][0]["deviations"] == []
    mark = capi.made(capi.Summary)
    mark.struct_size, mark.recall_basis_count = capi.Summary.views_used.offset, 77
    capi.check(capi.LIBRARY.mfm_result_summary(result.handle, c.byref(mark)))
    assert mark.recall in (0, 1)
    assert (mark.views_used, mark.recall_basis_count) == (0, 77)


def test_newer_programs_are_told(capi: ModuleType, c_model: Any, phantom: list[Any]) -> None:
    class Newer(c.Structure):
        _fields_ = [("known", capi.RunOptions), ("more", c.c_int64)]

    for more, status in ((0, capi.OK), (5, capi.USAGE)):
        options = Newer(capi.RunOptions(struct_size=c.sizeof(Newer), heads=1), more)
        study, handle = capi.c_study([capi.c_view(phantom[0])]), c.c_void_p()
        found = capi.LIBRARY.mfm_model_run(
            c_model.handle, c.byref(study), c.byref(options), c.byref(handle)
        )
        assert found == status
        capi.LIBRARY.mfm_result_destroy(handle)
    assert capi.last_error() == (
        "mfm_run_options sets a field that this library does not know; update libmammofm"
    )


@pytest.mark.parametrize("size", [0, 3, 1 << 20])
def test_a_size_that_was_not_set(size: int, capi: ModuleType, c_model: Any) -> None:
    study = capi.c_study([])
    study.struct_size = size
    status, line = refused(capi, lambda: c_model.run_struct(study))
    assert (status, line) == (
        capi.USAGE, f"mfm_study: struct_size is {size}; set it to sizeof of the struct (MFM_INIT)",
    )  # fmt: skip


# -------------------- wrong calls

VIEW_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "pixels": ({"pixels": None}, "view 0: pixels is NULL"),
    "rows": ({"rows": -1}, "view 0: -1 rows x 957 columns is not an image"),
    "many": ({"rows": 32768, "columns": 32768}, "view 0: 32768 rows x 32768 columns is not an"),
    "bits": ({"bits_allocated": 12}, "view 0: bits_allocated is 12, allowed: 8, 16"),
    "stored": ({"bits_stored": 7}, "view 0: bits_stored is 7, allowed 8 to 16"),
    "range": ({"bits_stored": 9}, "do not fit into bits_stored 9; mask the other bits"),
    "sign": ({"is_signed": 2}, "view 0: is_signed is 2, allowed: 0, 1"),
    "stride": ({"stride_bytes": 10}, "view 0: stride_bytes is 10, a row has 1914"),
    "side": ({"laterality": 0}, "view 0: laterality is 0, allowed: 1, 2"),
    "projection": ({"projection": 3}, "view 0: projection is 3, allowed: 1, 2"),
    "photometric": ({"photometric": 0}, "view 0: photometric is 0, allowed: 1, 2"),
    "spacing": ({"row_spacing_mm": -0.1}, "must be positive and at most 100, or both 0"),
    "half": ({"row_spacing_mm": 0.0}, "must be positive and at most 100, or both 0"),
    "absurd": ({"row_spacing_mm": 1e308}, "must be positive and at most 100, or both 0"),
    "no number": ({"row_spacing_mm": float("nan")}, "must be positive and at most 100, or both 0"),
    "uid": ({"sop_instance_uid": b"NAME^PATIENT"}, "view 0: sop_instance_uid is not a UID: 1 to"),
    "padding": ({"has_padding": 1, "padding_low": 5}, "view 0: padding_low is above padding_high"),
}


@pytest.mark.parametrize("name", VIEW_FAULTS)
def test_a_view_that_makes_no_sense(
    name: str, capi: ModuleType, c_model: Any, phantom: list[ArrayView]
) -> None:
    changes, wanted = VIEW_FAULTS[name]
    struct = capi.c_view(phantom[0])
    for field, value in changes.items():
        setattr(struct, field, value)
    status, line = refused(capi, lambda: c_model.run_struct(capi.c_study([struct])))
    assert status == capi.USAGE
    assert wanted in line
    assert "PATIENT" not in line


def test_a_study_that_makes_no_sense(
    capi: ModuleType, c_model: Any, phantom: list[ArrayView]
) -> None:
    one = capi.c_view(phantom[0])
    study = capi.c_study([one, one])
    assert refused(capi, lambda: c_model.run_struct(study)) == (
        capi.USAGE, "two views are L-CC; choose one of them",
    )  # fmt: skip
    study.views = (c.POINTER(capi.View) * 1)()
    study.view_count = 1
    assert refused(capi, lambda: c_model.run_struct(study)) == (capi.USAGE, "view 0 is NULL")
    study.view_count = 5
    assert refused(capi, lambda: c_model.run_struct(study)) == (
        capi.USAGE, "view_count is 5, allowed 1 to 4",
    )  # fmt: skip
    assert refused(capi, lambda: c_model.run(phantom, "x")) == (
        capi.USAGE, "study_instance_uid is not a UID: 1 to 64 digits and points, or NULL",
    )  # fmt: skip
    assert refused(capi, lambda: c_model.run_struct(capi.c_study([one]), heads=16)) == (
        capi.USAGE, "heads has a bit that is no head; combine MFM_HEAD_BIT of heads",
    )  # fmt: skip


def test_null_is_refused(capi: ModuleType, c_model: Any, phantom: list[ArrayView]) -> None:
    """Every function that takes a handle, with nothing but null pointers."""
    library = capi.LIBRARY
    library.mfm_model_destroy(None)
    library.mfm_result_destroy(None)
    names = re.findall(r"MFM_API mfm_status (mfm_\w+)", HEADER)
    for name in names:
        assert getattr(library, name)(*[None] * 7) == capi.USAGE, name
        assert capi.last_error().endswith("is NULL") or "allowed" in capi.last_error(), name
    result = c_model.run(phantom[:1], heads=("diagnosis",))
    assert library.mfm_result_json(result.handle, None, None) == capi.USAGE
    assert library.mfm_result_summary(result.handle, None) == capi.USAGE


def test_what_is_not_there(capi: ModuleType, c_model: Any, phantom: list[ArrayView]) -> None:
    result = c_model.run(phantom[:1], heads=("diagnosis", "prognosis"))
    for call, wanted in (
        (lambda: result.get(capi.Score, 0, 9), "score 9 of 2; numbers begin with 0"),
        (lambda: result.get(capi.Score, 2, 0), "no view of this scope was used"),
        (
            lambda: result.count("mark"),
            "the localization head did not answer; mfm_result_head says",
        ),
        (lambda: result.count("year"), "the prognosis head did not answer; mfm_result_head says"),
        (lambda: result.get(capi.HeadOutcome, 3), "this head was not asked for"),
        (lambda: result.get(capi.ViewResult, 3), "this view was not given or not used"),
    ):
        status, line = refused(capi, call)
        assert status == capi.NOT_FOUND
        assert line.startswith(wanted)
    outcome = result.get(capi.HeadOutcome, 2)
    assert (outcome.answered, outcome.reason) == (0, b"missing_views")


# -------------------- bundles


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle_path(), tmp_path / "copy.mfm"))


def described(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "bundle.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def _set(*keys: str, to: Any) -> Callable[[Path], None]:
    def change(description: dict[str, Any]) -> None:
        *path, last = keys
        node: Any = description
        for key in path:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[last] = to

    return lambda bundle: described(bundle, change)


def _append(bundle: Path) -> None:
    with (bundle / "head_diagnosis.bin").open("ab") as stream:
        stream.write(b"x")


def _flip(bundle: Path) -> None:
    path = bundle / "grammar.json"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def _link(bundle: Path) -> None:
    (bundle / "tokenizer.json").rename(bundle / "elsewhere")
    (bundle / "tokenizer.json").symlink_to("elsewhere")


def _raw(text: bytes) -> Callable[[Path], None]:
    return lambda bundle: bool((bundle / "bundle.json").write_bytes(text)) and None


FAULTS: dict[str, Callable[[Path], Any]] = {
    "empty": _raw(b""),
    "not json": _raw(b"{"),
    "not an object": _raw(b"[1]"),
    "not utf-8": _raw(b'{"a": "\xff"}'),
    "twice": _raw(b'{"format": 1, "format": 2}'),
    "deep": _raw(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"),
    "constant": _raw(b'{"a": NaN}'),
    "format": _set("format", to="zip"),
    "older": _set("schema_version", to=1),
    "newer": _set("schema_version", to=3),
    "precision": _set("precision", to="bf16"),
    "version": _set("made_with", "openvino", to="2026.x"),
    "newer openvino": _set("made_with", "openvino", to="2099.1.0"),
    "height": _set("preprocessing", "height", to=31),
    "head": _set("heads", "prophecy", to={}),
    "no members": _set("heads", "diagnosis", "members", to=[]),
    "years": _set("heads", "prognosis", "members", "0", "years", to=[2, 1]),
    "encoder": _set("heads", "report", "encoder", to="other"),
    "unlisted": _set("heads", "report", "grammar", to="other.json"),
    "graph name": _set("encoders", "view", "model", to="tokenizer.json"),
    "shape": _set("encoders", "view", "outputs", "pooled", to=[1, 7]),
    "two tasks": _set("heads", "diagnosis", "members", "0", "model", to="head_localization.xml"),
    "file name": _set("files", "../x", to={"bytes": 0, "sha256": "0" * 64}),
    "longer": _append,
    "altered": _flip,
    "gone": lambda bundle: (bundle / "encoder_view.bin").unlink(),
    "link": _link,
    "no description": lambda bundle: (bundle / "bundle.json").unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bundles_are_refused_as_in_python(
    fault: str, bundle: Path, capi: ModuleType, phantom: list[ArrayView]
) -> None:
    """With the status for bundles and, quotes and details of JSON apart, the same line."""
    FAULTS[fault](bundle)
    options = InferOptions(("diagnosis",))
    with pytest.raises(BundleError) as theirs:
        Model.load(bundle).infer(array_study(phantom[:1]), options)
    status, line = refused(capi, lambda: capi.CModel(bundle).run(phantom[:1], heads=("diagnosis",)))
    assert status == capi.BUNDLE
    assert "\n" not in line
    same = {"not utf-8", "deep", "constant"}.isdisjoint({fault})
    assert not same or line.replace('"', "'") == str(theirs.value).replace('"', "'")


def test_no_bundle(capi: ModuleType, tmp_path: Path) -> None:
    status, line = refused(capi, lambda: capi.CModel(tmp_path / "none"))
    assert status == capi.BUNDLE
    assert line.startswith("no bundle directory at '")


def test_a_bundle_can_be_pinned(capi: ModuleType) -> None:
    model = capi.CModel(demo_bundle_path())
    sha256 = model.info().sha256
    assert sha256.decode() == file_record(demo_bundle_path() / "bundle.json").sha256
    capi.CModel(demo_bundle_path(), bundle_sha256=sha256)
    assert refused(capi, lambda: capi.CModel(demo_bundle_path(), bundle_sha256=b"0" * 64)) == (
        capi.BUNDLE,
        "the bundle is not the one asked for: the SHA-256 of its bundle.json differs",
    )
    capi.CModel(demo_bundle_path(), bundle_sha256=sha256.upper())
    for pin in (b"", b"0" * 63, b"0" * 65, b"0" * 63 + b"g"):
        assert refused(capi, lambda p=pin: capi.CModel(demo_bundle_path(), bundle_sha256=p)) == (
            capi.USAGE, "bundle_sha256 must be 64 hexadecimal digits, or NULL",
        )  # fmt: skip


def test_an_output_without_name(bundle: Path, capi: ModuleType, phantom: list[ArrayView]) -> None:
    """Nothing asks for it, so none need be given; what it holds is checked as any other."""
    import openvino as ov
    from openvino import opset13 as ops

    made = bundle / "made.xml"
    graph = ov.Core().read_model(bundle / "head_diagnosis.xml")
    graph.add_results([ops.result(ops.constant(np.float32([np.nan])))])
    ov.save_model(graph, made, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        path = made.with_suffix(suffix).rename(bundle / f"head_diagnosis{suffix}")
        record = file_record(path)
        _set("files", path.name, to={"bytes": record.bytes, "sha256": record.sha256})(bundle)
    wanted = "head_diagnosis.xml: output 'without name' is not finite"
    model = capi.CModel(bundle)
    found = refused(capi, lambda: model.run(phantom[:1], heads=("diagnosis",)))
    assert found == (capi.BUNDLE, wanted)
    with pytest.raises(BundleError, match=wanted):
        Model.load(bundle).infer(array_study(phantom[:1]), InferOptions(("diagnosis",)))


def test_a_tokenizer_of_another_kind(
    bundle: Path, capi: ModuleType, phantom: list[ArrayView]
) -> None:
    """Refused for the report alone, and by name: another cut would be another language."""
    path = bundle / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"]["use_regex"] = True
    path.write_text(json.dumps(tokenizer))
    record = file_record(path)
    _set("files", "tokenizer.json", to={"bytes": record.bytes, "sha256": record.sha256})(bundle)
    model = capi.CModel(bundle)
    status, line = refused(capi, lambda: model.run(phantom))
    assert status == capi.UNSUPPORTED
    assert line == (
        "tokenizer.json: is of another kind; this library reads byte-level BPE without "
        "pre-tokenization, ask without the report head"
    )
    model.run(phantom, heads=("diagnosis",))


def test_threads_out_of_range(capi: ModuleType) -> None:
    for threads in (-1, 1025):
        assert refused(capi, lambda n=threads: capi.CModel(demo_bundle_path(), threads=n)) == (
            capi.USAGE, f"threads must be from 1 to 1024, or 0 for all, not {threads}",
        )  # fmt: skip


def test_model_info(capi: ModuleType, py_model: Model) -> None:
    model, bundle = capi.CModel(demo_bundle_path(), threads=3), py_model.bundle
    info = model.info()
    for name in ("name", "version", "sha256", "precision", "intended_use"):
        assert getattr(info, name).decode() == getattr(bundle, name)
    size = bundle.preprocessing
    assert (info.heads, info.threads, info.height, info.width) == (15, 3, size.height, size.width)
    assert info.weights_synthetic == bundle.weights.synthetic
    assert info.notice_count == len(bundle.notices)


def test_kernels_that_the_cpu_lacks(phantom_folder: Path) -> None:
    code = (
        "import ctypes,sys; l=ctypes.CDLL(sys.argv[1]); l.mfm_last_error.restype=ctypes.c_char_p;"
        "m=ctypes.c_void_p(); print(l.mfm_model_open(sys.argv[2].encode(),None,ctypes.byref(m)),"
        "l.mfm_last_error().decode())"
    )
    done = subprocess.run(
        ["python3", "-I", "-c", code, LIBRARY, demo_bundle_path()],
        env={"MAMMOFM_ISA": "mmx", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith("7 MAMMOFM_ISA: unknown instruction set 'mmx'; this build knows")


# -------------------- callbacks and threads


def test_progress_and_log(capi: ModuleType, phantom: list[ArrayView]) -> None:
    events: list[tuple[str, str, bool]] = []
    lines: list[tuple[int, str]] = []

    def on_progress(_: Any, found: Any) -> None:
        progress = found.contents
        events.append((progress.stage.decode(), progress.detail.decode(), progress.seconds >= 0))

    log = capi.ON_LOG(lambda _, level, line: lines.append((level, line.decode())))
    model = capi.CModel(demo_bundle_path(), log=log)
    callback = capi.ON_PROGRESS(on_progress)
    blank = replace(phantom[1], pixels=np.ones((100, 100), np.uint8))
    model.run([phantom[0], blank], heads=("diagnosis",), progress=callback)
    assert [e for e in events if e[0] == "encode"] == [
        ("encode", "view L-CC", False), ("encode", "view L-CC", True),
    ]  # fmt: skip
    assert ("prepare", "L-MLO", True) not in events
    assert lines[0][1].startswith("opened bundle mammofm-demo")
    assert [line for level, line in lines if level == 2] == [
        "L-MLO cannot be used: the image is constant (stored value 1 in every pixel inside the "
        "border); there is nothing to analyse"
    ]


@pytest.mark.parametrize("after", [1, 6, 14])
def test_cancellation(
    after: int, capi: ModuleType, c_model: Any, py_model: Model, phantom: list[ArrayView]
) -> None:
    """Both runtimes end when told, wherever they are, and answer the next study as ever."""
    asked = [0, 0]

    def cancelled(which: int) -> bool:
        asked[which] += 1
        return asked[which] == after

    callback = capi.ON_CANCELLED(lambda _: int(cancelled(0)))
    before = c_model.run(phantom).json()
    assert refused(capi, lambda: c_model.run(phantom, cancelled=callback)) == (
        capi.CANCELLED, "cancelled by the caller",
    )  # fmt: skip
    assert c_model.run(phantom).json() == before
    with pytest.raises(CancelledError, match="cancelled by the caller"):
        py_model.infer(array_study(phantom), cancelled=lambda: cancelled(1))
    assert py_model.infer(array_study(phantom)).to_json_text() == before
    assert asked == [after, after]


def test_threads_share_a_model(capi: ModuleType, phantom: list[ArrayView]) -> None:
    """Each has its own answer and its own last error."""
    model = capi.CModel(demo_bundle_path(), threads=1)
    alone = [model.run([view]).json() for view in phantom]
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = [model.run([phantom[number]]).json() for _ in range(2)]
        assert refused(capi, lambda: model.run([phantom[number]], f"x{number}"))[0] == capi.USAGE

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {number: [alone[number]] * 2 for number in range(4)}


def test_errors_belong_to_their_thread(capi: ModuleType, tmp_path: Path) -> None:
    refused(capi, lambda: capi.CModel(tmp_path / "none"))
    mine, theirs = capi.last_error(), []
    other = threading.Thread(target=lambda: theirs.append(capi.last_error()))
    other.start()
    other.join()
    assert (mine.startswith("no bundle directory"), theirs) == (True, [""])


def test_results_outlive_their_model(capi: ModuleType, phantom: list[ArrayView]) -> None:
    model = capi.CModel(demo_bundle_path())
    result = model.run(phantom[:1], heads=("diagnosis",))
    before = result.json()
    model.close()
    assert result.json() == before
    assert result.get(capi.Score, 0, 0).label == b"malignancy"


def test_both_libraries_lie_together() -> None:
    assert LIBRARY.parent == extension_path().parent

"""The acceptance test passes on a sound machine and bundle, and fails on each thing it is for."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from mammofm_lite import ExportError, native, selftest
from mammofm_lite.bundle import Bundle, demo_bundle_path, file_record
from mammofm_lite.errors import BundleError
from mammofm_lite.expected import (
    LEVELS,
    Expected,
    Tolerance,
    compare,
    fingerprint,
    read_expected,
    same_pixels,
)
from mammofm_lite.export import selftest_file
from mammofm_lite.export.selftest_file import add_selftest
from mammofm_lite.phantom import PhantomOptions
from mammofm_lite.selftest import SelfTest, run_selftest

SMALL = PhantomOptions(rows=574, columns=479, pixel_spacing_mm=0.4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, float_bundle: Path) -> Path:
    """A float32 bundle, whose answers may differ least, with those of this machine; not to be
    changed."""
    path = tmp_path_factory.mktemp("bundle") / "demo.mfm"
    shutil.copytree(float_bundle, path)
    add_selftest(path, seed=3, options=SMALL, verify=False)
    return path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "demo.mfm"))


@pytest.fixture(scope="module")
def expected(bundle: Path) -> Expected:
    found = read_expected(Bundle.open(bundle))
    assert found is not None
    return found


def failures(test: SelfTest) -> dict[str, str]:
    return {check.name: check.detail for check in test.checks if check.status == "failed"}


def listed_anew(bundle: Path, *names: str) -> None:
    """Correct the hashes of changed files, as a forger would."""
    path = bundle / "bundle.json"
    description = json.loads(path.read_text())
    for name in names:
        description["files"][name] = dataclasses.asdict(file_record(bundle / name))
    path.write_text(json.dumps(description))


def changed(bundle: Path, change: Any) -> None:
    """Change selftest.json in place, its hash with it."""
    path = bundle / "selftest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    listed_anew(bundle, "selftest.json")


# -------------------- it passes


def test_a_sound_bundle_passes_on_one_thread_and_says_what_it_did(bundle: Path) -> None:
    test = run_selftest(bundle, threads=1)
    assert failures(test) == {}
    assert test.passed
    assert test.answers_compared
    assert test.exit_status == 0
    names = [check.name for check in test.checks]
    for name in ("extension", "openvino", "bundle", "threads", "memory", "phantom", "pictures"):
        assert name in names
    assert names[names.index("comparison") + 1 :][:4] == [
        "diagnosis",
        "localization",
        "prognosis",
        "report",
    ]
    assert test.text().splitlines()[-1].startswith("passed in ")
    assert json.loads(json.dumps(test.to_json()))["passed"] is True


def test_without_stored_answers_it_says_that_none_were_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(demo_bundle_path(), tmp_path / "demo.mfm"))
    description = json.loads((path / "bundle.json").read_text())
    description["files"].pop("selftest.json", None)
    (path / "bundle.json").write_text(json.dumps(description))
    monkeypatch.setattr(selftest, "_QUICK", SMALL)
    test = run_selftest(path)
    assert test.passed
    assert not test.answers_compared
    assert "the bundle's answers were not compared" in test.text().splitlines()[-1]


# -------------------- it fails


def scaled(bundle: Path, graph: str, weight: str, factor: float) -> None:
    """Multiply the largest weight so named, and correct every hash that tells."""
    model = ov.Core().read_model(bundle / graph)
    weights = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
        and node.get_element_type().is_real()
        and weight in node.get_friendly_name()
    ]
    largest = max(weights, key=lambda node: node.data.size)
    data = largest.data.astype(np.float32) * factor
    replacement = ov.opset13.constant(data.astype(largest.data.dtype))
    for target in largest.output(0).get_target_inputs():
        target.replace_source_output(replacement.output(0))
    binary = graph.replace(".xml", ".bin")
    ov.serialize(model, bundle / f"new_{graph}", bundle / f"new_{binary}")
    del model, weights, largest
    for name in (graph, binary):
        (bundle / f"new_{name}").replace(bundle / name)
    listed_anew(bundle, graph, binary)

    def own(content: Any) -> None:
        for name in (graph, binary):
            content["graphs"][name] = file_record(bundle / name).sha256

    changed(bundle, own)


def test_an_encoder_weight_that_is_one_per_cent_off_fails(copy: Path) -> None:
    scaled(copy, "encoder_view.xml", "", 1.01)
    test = run_selftest(copy)
    assert {"diagnosis", "localization", "prognosis"} <= failures(test).keys()
    assert "allowed" in failures(test)["diagnosis"]
    assert test.exit_status == 1
    assert test.text().splitlines()[-1].startswith("FAILED: ")


def test_each_head_fails_for_itself_and_pictures_too(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight of each head is one per cent off, and no picture is written."""
    scaled(copy, "head_diagnosis.xml", "", 1.01)
    scaled(copy, "head_localization.xml", "classificationModel.output.weight", 1.01)
    scaled(copy, "head_prognosis.xml", "", 1.01)
    monkeypatch.setattr("mammofm_lite.writers.folder.write_png", lambda *_: None)
    found = failures(run_selftest(copy))
    assert found.keys() == {"diagnosis", "localization", "prognosis", "pictures"}
    assert all("allowed" in found[head] for head in ("diagnosis", "localization", "prognosis"))
    assert found["pictures"] == "OSError: 0 pictures were written, not 4"


def test_answers_made_with_another_graph_fail_before_they_are_compared(copy: Path) -> None:
    changed(copy, lambda content: content["graphs"].update({"head_report_decoder.bin": "0" * 64}))
    test = run_selftest(copy)
    assert "made with another head_report_decoder.bin" in failures(test)["stored"]
    assert test.exit_status == 4
    assert not test.answers_compared


def test_an_altered_file_fails(copy: Path) -> None:
    path = copy / "head_prognosis.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    test = run_selftest(copy)
    assert "head_prognosis.bin was altered" in failures(test)["bundle"]
    assert test.exit_status == 4
    assert test.checks[-1].status == "not run"
    assert not test.passed


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cached = (native.extension_path, native.compiled_library)
    for function in cached:
        function.cache_clear()
    monkeypatch.setattr(native, "_candidates", list)
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("no_extension")
def test_a_missing_extension_fails(bundle: Path) -> None:
    test = run_selftest(bundle)
    assert "libmammofm_openvino.so is missing" in failures(test)["extension"]
    assert test.exit_status == 1
    assert not test.passed


def test_another_openvino_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.metadata, "requires", lambda _: ["openvino==1.2.3"])
    test = run_selftest(bundle)
    assert "1.2.3 is needed" in failures(test)["openvino"]
    assert test.exit_status == 1


def test_more_threads_than_cores_fail(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.os, "sched_getaffinity", lambda _: {0})
    test = run_selftest(bundle, threads=2)
    assert "this process may use 1 cores" in failures(test)["threads"]
    assert test.exit_status == 2


def test_too_little_memory_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_free_memory_mib", lambda: 10.0)
    monkeypatch.setattr(selftest, "_with_study", lambda *_: None)
    assert "10 MiB are free" in failures(run_selftest(bundle))["memory"]


@pytest.mark.parametrize(("limit", "free"), [("104857600\n", 80.0), ("max\n", float("inf"))])
def test_the_limit_of_a_control_group_counts(tmp_path: Path, limit: str, free: float) -> None:
    assert selftest._free_in_group_mib(tmp_path) == float("inf")  # none
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("31457280\n")
    (tmp_path / "memory.stat").write_text("anon 20971520\nfile 10485760\ninactive_file 10485760\n")
    assert selftest._free_in_group_mib(tmp_path) == free


def test_another_phantom_fails_and_nothing_is_compared(copy: Path) -> None:
    changed(copy, lambda content: content.update(seed=4))
    test = run_selftest(copy)
    assert "seed 4 draws another phantom here" in failures(test)["phantom"]
    assert not test.answers_compared
    assert test.exit_status == 4


def test_a_damaged_picture_is_seen() -> None:
    from mammofm_lite.writers.png import encode_png

    good = encode_png(np.zeros((5, 4, 3), np.uint8))
    selftest._check_png(good)
    for damaged in (good[:-4], good[:40] + b"\xff" + good[41:], b"GIF" + good[3:], b""):
        with pytest.raises(ValueError, match="a picture that was written"):
            selftest._check_png(damaged)


# -------------------- the comparison alone

TIGHT = Tolerance(logit=0.002, box_px=0.5)


def verdicts(expected: Expected, answers: Any, tolerance: Tolerance = TIGHT) -> dict[str, bool]:
    return {item.head: item.same for item in compare(expected, answers, tolerance)}


def answers_of(expected: Expected) -> Any:
    return json.loads(json.dumps(expected.answers))


def test_a_probability_that_differs_fails(expected: Expected) -> None:
    answers = answers_of(expected)
    answers["diagnosis"]["L-CC"]["malignancy"]["yes"] += 0.002
    found = verdicts(expected, answers)
    assert [head for head, same in found.items() if not same] == ["diagnosis"]
    assert all(verdicts(expected, answers, Tolerance(0.1, 0.5)).values())


def test_an_answer_that_is_missing_or_new_fails(expected: Expected) -> None:
    answers = answers_of(expected)
    del answers["prognosis"], answers["diagnosis"]["study"]["density"]
    found = verdicts(expected, answers)
    assert (found["prognosis"], found["diagnosis"], found["report"]) == (False, False, True)
    fewer = dataclasses.replace(expected, answers={"report": expected.answers["report"]})
    assert verdicts(fewer, expected.answers)["diagnosis"] is False


MARKS = [
    {"view": "L-CC", "label": "mass", "score": 0.9, "box_px": [10, 10, 30, 30]},
    {"view": "L-CC", "label": "mass", "score": 0.4005, "box_px": [100, 10, 130, 30]},
]


def marks(expected: Expected, found: list[dict[str, Any]]) -> bool:
    stored = dataclasses.replace(
        expected, answers={"localization": MARKS}, thresholds={"mass": 0.4}
    )
    return verdicts(stored, {"localization": found}, Tolerance(0.01, 0.5))["localization"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"box_px": [10.4, 10, 30, 30]}, True),
        ({"box_px": [10.6, 10, 30, 30]}, False),
        ({"score": 0.9005}, True),
        ({"score": 0.902}, False),
        ({"label": "calcifications"}, False),
        ({"view": "L-MLO"}, False),
    ],
)
def test_marks_are_compared_one_to_one(
    expected: Expected, change: dict[str, Any], same: bool
) -> None:
    assert marks(expected, [MARKS[1], MARKS[0] | change]) is same


def test_only_a_mark_at_the_threshold_may_come_or_go(expected: Expected) -> None:
    assert marks(expected, MARKS[:1])
    assert not marks(expected, MARKS[1:])
    new = {"view": "R-CC", "label": "mass", "score": 0.401, "box_px": [0, 0, 9, 9]}
    assert marks(expected, [*MARKS, new])
    assert not marks(expected, [*MARKS, new | {"score": 0.5}])
    assert not marks(expected, [*MARKS, MARKS[0]])  # each has one partner


def test_a_report_that_differs_in_one_field_fails(expected: Expected) -> None:
    for field in expected.answers["report"]:
        answers = answers_of(expected)
        answers["report"][field] = "something else"
        found = {item.head: item for item in compare(expected, answers, TIGHT)}
        assert not found["report"].same
        assert found["report"].detail.startswith(f"{field} is 'something else'")


def test_a_few_other_pixels_are_the_same_phantom() -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (800, 600)).astype(np.uint16)
    stored = json.loads(json.dumps(fingerprint(pixels)))
    assert same_pixels(stored, pixels) == (True, pytest.approx(0, abs=1e-4))
    few = pixels.copy()
    few[::100, 50] ^= 1
    exact, gap = same_pixels(stored, few)
    assert not exact
    assert 0 < gap < 0.05
    assert same_pixels(stored, pixels[::-1])[1] > 1


# -------------------- the file


def test_every_level_has_a_tolerance_and_int8_may_differ_between_them() -> None:
    float_ = selftest_file._tolerances("f32")
    assert set(float_) == set(LEVELS)
    int8 = selftest_file._tolerances("int8")
    here = selftest.cpu_level()
    others = [level for level in LEVELS if level.split("_")[0] != here.split("_")[0]]
    assert others
    assert all(int8[here]["logit"] < int8[level]["logit"] for level in others)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "'version' is 2, allowed 1 to 1"),
        ({"format": "x"}, "'format' is 'x'"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"options": {"rows": 5}}, "no phantom can be made of these"),
        ({"options": {"colour": 5}}, "unknown field 'colour'"),
        ({"tolerances": {"avx2": {"logit": 1, "box_px": 1}}}, "'portable' must be an object"),
        ({"pixels": {"L-CC": {"sha256": "0", "means": ["x"]}}}, "'means' must be a list"),
    ],
)
def test_a_malformed_file_is_told(copy: Path, change: dict[str, Any], words: str) -> None:
    changed(copy, lambda content: content.update(change))
    with pytest.raises(BundleError, match=r"selftest\.json") as caught:
        read_expected(Bundle.open(copy))
    assert words in str(caught.value)


def test_a_phantom_without_a_mark_is_passed_over(copy: Path) -> None:
    """Else nothing of the localization head would be compared."""
    path = copy / "bundle.json"
    description = json.loads(path.read_text())
    description["heads"]["localization"]["members"][0]["threshold"] = 1.0
    path.write_text(json.dumps(description))
    with pytest.raises(ExportError, match="no mark in any of 1 phantoms from seed 3"):
        add_selftest(copy, seed=3, options=SMALL, verify=False, tries=1)


def test_answers_that_do_not_hold_leave_the_bundle_as_it_was(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(bundle: Path, limit_openvino: bool) -> None:
        raise ExportError("the answers do not hold with avx2")

    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(selftest_file, "_verify", refuse)
    with pytest.raises(ExportError, match="do not hold"):
        add_selftest(copy, seed=5, options=SMALL)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before

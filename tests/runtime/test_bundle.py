"""Bundles are believed only after every field and every byte was checked."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.errors import BundleError


def description(files: dict[str, bytes]) -> dict[str, Any]:
    """The smallest bundle that opens: one encoder, one label."""
    return {
        "format": "mammofm-bundle",
        "schema_version": 2,
        "name": "tiny",
        "version": "0",
        "intended_use": "tests",
        "weights": {"synthetic": True, "licence": "Apache-2.0", "notice": ""},
        "precision": "f32",
        "made_with": {"mammofm_lite": "0.1.0", "openvino": "2026.4.1"},
        "preprocessing": {
            "height": 64,
            "width": 32,
            "border_px": 5,
            "background_threshold": 40,
            "mirror": "none",
        },
        "encoders": {"view": {"model": "e.xml", "outputs": {"pooled": [1, 8]}}},
        "heads": {
            "diagnosis": {
                "members": [
                    {
                        "model": "d.xml",
                        "encoder": "view",
                        "labels": [
                            {
                                "name": "malignancy",
                                "kind": "binary",
                                "threshold": 0.5,
                                "breast": "mean",
                                "study": "max",
                                "recall": True,
                            }
                        ],
                    }
                ]
            }
        },
        "self_check": {},
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }


FILES = {name: name.encode() * 3 for name in ("e.xml", "e.bin", "d.xml", "d.bin")}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    write(tmp_path, description(FILES))
    return tmp_path


def write(folder: Path, value: Any) -> None:
    (folder / "bundle.json").write_text(json.dumps(value))


def test_opens_and_lists_its_heads(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    assert bundle.heads == ("diagnosis",)
    assert bundle.report is None
    assert any("SYNTHETIC WEIGHTS" in notice for notice in bundle.notices)


def test_missing_folder() -> None:
    with pytest.raises(BundleError, match="no bundle directory at nowhere"):
        Bundle.open("nowhere")


@pytest.mark.parametrize("name", ["e.xml", "e.bin", "d.xml", "d.bin"])
def test_a_flipped_bit_names_the_file(tiny: Path, name: str) -> None:
    data = bytearray((tiny / name).read_bytes())
    data[1] ^= 4
    (tiny / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=f"{re.escape(name)} was altered"):
        Bundle.open(tiny)


def test_a_truncated_file_names_both_sizes(tiny: Path) -> None:
    (tiny / "e.bin").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"e\.bin has 5 bytes, the bundle lists 15"):
        Bundle.open(tiny)


def test_a_missing_file(tiny: Path) -> None:
    (tiny / "d.bin").unlink()
    with pytest.raises(BundleError, match=r"d\.bin is missing"):
        Bundle.open(tiny)


def test_a_link_out_of_the_bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "e.bin"
    outside.write_bytes(FILES["e.bin"])
    (tiny / "e.bin").unlink()
    (tiny / "e.bin").symlink_to(outside)
    with pytest.raises(BundleError, match=r"e\.bin is missing from the bundle, or not a regular"):
        Bundle.open(tiny)


def edited(path: str, value: Any) -> dict[str, Any]:
    whole = description(FILES)
    *parents, last = path.split(".")
    target: Any = whole
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    target[last] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "zip", "not a mammofm-bundle"),
        ("schema_version", 3, "schema version 3 is newer than 2.*update mammofm-lite"),
        ("schema_version", 1, "schema version 1 is older than 2.*export the bundle anew"),
        ("schema_version", True, "'schema_version' must be an integer"),
        ("name", 3, "'name' must be a string"),
        ("preprocessing.height", 10**9, "'height' is 1000000000, allowed 32 to 8192"),
        ("preprocessing.mirror", "up", "'mirror' is 'up', allowed: none, right"),
        ("made_with.openvino", "new", "'openvino' is 'new', not a version number"),
        ("precision", "f8", "'precision' is 'f8'"),
        ("heads.diagnosis.members.0.encoder", "other", "names unknown encoder 'other'"),
        (
            "heads.diagnosis.members.0.model",
            "x.xml",
            "refers to 'x.xml', which 'files' does not list",
        ),
        ("heads.diagnosis.members", [], "'members' is empty"),
        ("heads.diagnosis.members.0.labels", [], "'labels' is empty"),
        (
            "heads.diagnosis.members.0.labels.0.threshold",
            2.0,
            "'threshold' must be a number from 0.0 to 1.0",
        ),
        ("heads.diagnosis.members.0.labels.0.study", "median", "'study' is 'median'"),
        ("heads.oracle", {}, "unknown head 'oracle'"),
        ("encoders.view.outputs.pooled", ["1"], "must be a list of integers"),
    ],
)
def test_every_field_is_checked(tiny: Path, path: str, value: Any, message: str) -> None:
    write(tiny, edited(path, value))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tiny)


@pytest.mark.parametrize("name", ["../e.xml", "/etc/passwd", "a/b.xml", "..", "bundle.json"])
def test_file_names_cannot_leave_the_folder(tiny: Path, name: str) -> None:
    whole = description(FILES)
    whole["files"][name] = {"bytes": 1, "sha256": "0"}
    write(tiny, whole)
    with pytest.raises(BundleError, match="is not a plain file name"):
        Bundle.open(tiny)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00"])
def test_a_description_that_is_no_object(tiny: Path, text: str) -> None:
    (tiny / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.open(tiny)


def test_a_bundle_of_a_newer_openvino(tiny: Path) -> None:
    from mammofm_lite import Model

    write(tiny, edited("made_with.openvino", "2099.1.0"))
    message = "made with OpenVINO 2099.1.0, newer than the .* at hand; update mammofm-lite"
    with pytest.raises(BundleError, match=message):
        Model.load(tiny)


def test_the_demonstration_bundle_is_whole_and_small() -> None:
    bundle = Bundle.open(demo_bundle_path())
    assert bundle.heads == ("diagnosis", "localization", "prognosis", "report")
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) < 12_000_000

"""Signed bundles: each way in which a signature can be wrong is told in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mammofm_lite import Model
from mammofm_lite.bundle import Bundle, demo_bundle_path
from mammofm_lite.errors import BundleError, UsageError
from mammofm_lite.signature import new_key, sign_bundle, verify_bundle

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs, ``ours`` and ``other``."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        new_key(folder / f"{name}.pem")
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    bundle = tmp_path / "b.mfm"
    shutil.copytree(demo_bundle_path(), bundle)
    sign_bundle(Bundle.open(bundle), keys / "ours.pem")
    return bundle


def verify(bundle: Path, key: Path) -> None:
    verify_bundle(Bundle.open(bundle), key)


def test_a_signed_bundle_opens_and_verifies(signed: Path, keys: Path) -> None:
    assert (signed / "bundle.sig").stat().st_size == 64
    verify(signed, keys / "ours.pub.pem")
    model = Model.load(signed, signed_by=keys / "ours.pub.pem")
    assert model.bundle.sha256 == Bundle.open(demo_bundle_path()).sha256


def test_the_private_key_is_for_its_owner_alone(keys: Path) -> None:
    assert (keys / "ours.pem").stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (keys / "ours.pub.pem").read_bytes()


def test_a_key_is_never_overwritten(keys: Path) -> None:
    before = (keys / "ours.pem").read_bytes()
    with pytest.raises(UsageError, match=r"'ours\.pem' exists; a key is never overwritten"):
        new_key(keys / "ours.pem")
    assert (keys / "ours.pem").read_bytes() == before


def test_unsigned(keys: Path) -> None:
    with pytest.raises(BundleError, match=r"is not signed: it has no bundle\.sig"):
        verify(demo_bundle_path(), keys / "ours.pub.pem")
    with pytest.raises(BundleError, match="is not signed"):
        Model.load(signed_by=keys / "ours.pub.pem")


def test_another_key(signed: Path, keys: Path) -> None:
    with pytest.raises(BundleError, match=r"does not fit bundle\.json and the key 'other"):
        verify(signed, keys / "other.pub.pem")


def test_a_description_altered_after_signing(signed: Path, keys: Path) -> None:
    description = json.loads((signed / "bundle.json").read_text())
    description["heads"]["diagnosis"]["members"][0]["labels"][0]["threshold"] = 0.9
    (signed / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match="was altered after it was signed"):
        verify(signed, keys / "ours.pub.pem")


def test_one_byte_more_at_the_end_of_the_description(signed: Path, keys: Path) -> None:
    with (signed / "bundle.json").open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(BundleError, match="was altered after it was signed"):
        verify(signed, keys / "ours.pub.pem")


def test_a_description_changed_between_opening_and_verifying(signed: Path, keys: Path) -> None:
    """What was verified is what was signed, whoever writes into the folder meanwhile."""
    opened = Bundle.open(signed)
    (signed / "bundle.json").write_bytes((signed / "bundle.json").read_bytes() + b"\n")
    with pytest.raises(BundleError, match="was changed while it was read"):
        verify_bundle(opened, keys / "ours.pub.pem")


def test_an_altered_graph_is_found_by_its_hash(signed: Path, keys: Path) -> None:
    graph = signed / "head_diagnosis.xml"
    graph.write_bytes(graph.read_bytes().replace(b"Sigmoid", b"Softmax"))
    with pytest.raises(BundleError, match=r"head_diagnosis\.xml was altered"):
        verify(signed, keys / "ours.pub.pem")


@pytest.mark.parametrize("data", [b"", b"x" * 63, b"x" * 65, b"x" * 10_000])
def test_a_malformed_signature(signed: Path, keys: Path, data: bytes) -> None:
    (signed / "bundle.sig").write_bytes(data)
    with pytest.raises(BundleError, match=r"bundle\.sig is malformed: a file of 64 bytes"):
        verify(signed, keys / "ours.pub.pem")


def test_a_signature_that_is_a_link(signed: Path, keys: Path) -> None:
    (signed / "bundle.sig").rename(signed.parent / "elsewhere.sig")
    (signed / "bundle.sig").symlink_to(signed.parent / "elsewhere.sig")
    with pytest.raises(BundleError, match=r"bundle\.sig is malformed"):
        verify(signed, keys / "ours.pub.pem")


def other_kind_of_key(path: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    return path


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", b"\xff"])
def test_a_malformed_key(signed: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.pem").write_bytes(content)
    with pytest.raises(UsageError, match=r"'k\.pem' is not an Ed25519 public key"):
        verify(signed, tmp_path / "k.pem")
    with pytest.raises(UsageError, match=r"'k\.pem' is not an Ed25519 private key"):
        sign_bundle(Bundle.open(signed), tmp_path / "k.pem")


def test_keys_of_other_kinds(signed: Path, keys: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an Ed25519 public key"):
        verify(signed, other_kind_of_key(tmp_path / "ec.pem"))
    with pytest.raises(UsageError, match="is not an Ed25519 public key"):
        verify(signed, keys / "ours.pem")
    with pytest.raises(UsageError, match="is not an Ed25519 private key"):
        sign_bundle(Bundle.open(signed), keys / "ours.pub.pem")


def test_a_key_with_a_password(signed: Path, keys: Path, tmp_path: Path) -> None:
    key = serialization.load_pem_private_key((keys / "ours.pem").read_bytes(), None)
    (tmp_path / "k.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match="is protected by a password"):
        sign_bundle(Bundle.open(signed), tmp_path / "k.pem")


def test_a_missing_key(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'none\.pem' is missing or cannot be read"):
        verify(signed, tmp_path / "none.pem")


def test_without_the_extra(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UsageError, match=r"pip install 'mammofm-lite\[sign\]'"):
        verify(signed, keys / "ours.pub.pem")


def test_the_command_line(run: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "b.mfm"
    shutil.copytree(demo_bundle_path(), bundle)
    done = run("bundle", "sign", bundle, "--key", tmp_path / "k.pem", "--new-key")
    assert done.returncode == 0, done.stderr
    assert "wrote k.pem (keep it secret) and k.pub.pem" in done.stdout
    done = run("bundle", "verify", bundle, "--key", tmp_path / "k.pub.pem")
    assert done.returncode == 0, done.stderr
    assert "signature good" in done.stdout
    (bundle / "bundle.sig").write_bytes(b"x" * 64)
    for command in (
        ("bundle", "verify", bundle, "--key", tmp_path / "k.pub.pem"),
        ("infer", tmp_path, "--bundle", bundle, "--require-signature", tmp_path / "k.pub.pem"),
    ):
        done = run(*command)
        assert done.returncode == 4
        assert done.stdout == ""
        assert "bundle.sig does not fit bundle.json" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_it_too(signed: Path, keys: Path) -> None:
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub.pem", "-rawin",
         "-in", signed / "bundle.json", "-sigfile", signed / "bundle.sig"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

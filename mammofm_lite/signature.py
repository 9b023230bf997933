"""Signed bundles: who made it, not only whether it arrived whole.

``bundle.sig`` holds the 64 bytes of an Ed25519 signature (RFC 8032) of the exact bytes of
``bundle.json``, which in turn holds the SHA-256 of every other file. Nothing else is covered and
nothing else is needed. Keys are PEM files, PKCS #8 and SubjectPublicKeyInfo, so that OpenSSL can
make them and check a signature without this package::

    openssl pkeyutl -verify -pubin -inkey pub.pem -rawin -in bundle.json -sigfile bundle.sig

Needs the extra ``sign`` (cryptography), which is imported only here and only when asked for.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ._jsonread import MAX_JSON_BYTES, read_regular_file
from .bundle import DESCRIPTION, SIGNATURE, Bundle
from .errors import BundleError, UsageError
from .writers.files import write_atomically

__all__ = ["new_key", "sign_bundle", "verify_bundle"]

_SIGNATURE_BYTES: Final = 64
_MAX_KEY_BYTES: Final = 64 << 10


def sign_bundle(bundle: Bundle, key: Path) -> Path:
    """Write the signature into the folder of a verified bundle; an older one is replaced.

    Parameters
    ----------
    key
        PEM file of an Ed25519 private key (PKCS #8, without password).

    Returns
    -------
    The signature file.

    Raises
    ------
    UsageError
        The key cannot be read or is another kind of key, or the extra ``sign`` is not installed.
    BundleError
        The description changed since the bundle was opened.
    OSError
        The folder cannot be written.
    """
    private = _private_key(key)
    target = bundle.path / SIGNATURE
    write_atomically(target, private.sign(_description(bundle)))
    return target


def verify_bundle(bundle: Bundle, key: Path) -> None:
    """Check that a verified bundle carries the signature of the owner of `key`.

    Parameters
    ----------
    key
        PEM file of an Ed25519 public key (SubjectPublicKeyInfo).

    Raises
    ------
    BundleError
        Unsigned, a malformed signature, or one of another key or another description.
    UsageError
        The key cannot be read or is another kind of key, or the extra ``sign`` is not installed.
    """
    from_key = _public_key(key)  # first: a key that cannot be read is no verdict on the bundle
    try:
        from cryptography.exceptions import InvalidSignature
    except ImportError as error:
        raise _missing_extra() from error
    try:
        from_key.verify(_signature(bundle), _description(bundle))
    except InvalidSignature as error:
        raise BundleError(
            f"{SIGNATURE} does not fit {DESCRIPTION} and the key {key.name!a}: the bundle was "
            "altered after it was signed, or another key signed it; do not use it"
        ) from error


def new_key(path: Path) -> Path:
    """Make a key pair: the private key at `path`, readable by its owner only, the public beside.

    Returns
    -------
    The public key's file: ``release.pem`` gives ``release.pub.pem``.

    Raises
    ------
    UsageError
        One of the files exists already, or the extra ``sign`` is not installed.
    OSError
        The folder cannot be written.
    """
    serialization, ed25519 = _library()
    public_path = path.with_name(f"{path.stem}.pub.pem")
    for taken in (path, public_path):
        if os.path.lexists(taken):
            raise UsageError(f"{taken.name!a} exists; a key is never overwritten, name another")
    private = ed25519.Ed25519PrivateKey.generate()
    _write_secret(
        path,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomically(public_path, public)
    return public_path


def _write_secret(path: Path, data: bytes) -> None:
    """Never readable by others, not even for a moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


# -------------------- what is signed


def _description(bundle: Bundle) -> bytes:
    """The bytes that were verified when the bundle was opened, and no others."""
    data = read_regular_file(bundle.path / DESCRIPTION, MAX_JSON_BYTES)
    if hashlib.sha256(data).hexdigest() != bundle.sha256:
        raise BundleError(f"{DESCRIPTION} was changed while it was read; start again")
    return data


def _signature(bundle: Bundle) -> bytes:
    path = bundle.path / SIGNATURE
    if not os.path.lexists(path):
        raise BundleError(f"the bundle is not signed: it has no {SIGNATURE}; do not use it")
    try:
        data = read_regular_file(path, _SIGNATURE_BYTES)
    except BundleError:
        data = b""
    if len(data) != _SIGNATURE_BYTES:
        raise BundleError(
            f"{SIGNATURE} is malformed: a file of {_SIGNATURE_BYTES} bytes is needed; "
            "copy the bundle anew"
        )
    return data


# -------------------- keys


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise _missing_extra() from error
    return serialization, ed25519


def _missing_extra() -> UsageError:
    return UsageError("signatures need cryptography; install it: pip install 'mammofm-lite[sign]'")


def _private_key(path: Path) -> Any:
    serialization, ed25519 = _library()
    data = _key_bytes(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:  # what the library raises for an encrypted key
        raise UsageError(
            f"the key {path.name!a} is protected by a password; give it without (openssl pkey)"
        ) from error
    except (
        Exception
    ) as error:  # ValueError, UnsupportedAlgorithm and whatever else hostile PEM gives
        raise _wrong_key(path, "private key (PKCS #8 PEM)") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _wrong_key(path, "private key (PKCS #8 PEM)")
    return key


def _public_key(path: Path) -> Any:
    serialization, ed25519 = _library()
    data = _key_bytes(path)
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # as above
        raise _wrong_key(path, "public key (SubjectPublicKeyInfo PEM)") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _wrong_key(path, "public key (SubjectPublicKeyInfo PEM)")
    return key


def _key_bytes(path: Path) -> bytes:
    """A link to a key is fine, unlike one inside a bundle: the user names it."""
    try:
        return read_regular_file(path.resolve(), _MAX_KEY_BYTES)
    except (BundleError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"the key {path.name!a} is missing or cannot be read") from error


def _wrong_key(path: Path, wanted: str) -> UsageError:
    return UsageError(f"{path.name!a} is not an Ed25519 {wanted}")

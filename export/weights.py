"""Weights from where a recipe says: deterministic synthetic numbers, or a checkpoint file."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from mammofm_lite.bundle import file_record
from mammofm_lite.errors import ExportError

from .checkpoint import Contents, check_intact, open_checkpoint, shown
from .recipe import WeightSource
from .synthetic import fill_module

__all__ = ["Digests", "different_tensors", "digests", "load_into", "read_weights"]

LISTED = 5
# Counts training steps; no output depends on it.
_UNUSED: Final = "num_batches_tracked"

Digests = Mapping[str, bytes]


def load_into(
    module: nn.Module, source: WeightSource, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Fill every tensor of `module` from `source`, in place; say where they came from.

    Names in the file that begin with one of `ignore` belong to another module of the same file.

    Returns
    -------
    dict
        For the bundle's provenance: the recipe's words and, of a file, its SHA-256 and what else
        it held that no module takes (``ignored``).

    Raises
    ------
    ExportError
        The file is unreadable or names what no official file does, or its keys or shapes differ
        from the module's: missing, unexpected and misshapen keys stand together in one message.
    """
    if source.source == "synthetic":
        fill_module(module, source.seed)
        return source.describe()
    contents = read_weights(source, ignore)
    own = module.state_dict()
    _check_keys(source, own, contents.tensors)
    module.load_state_dict({key: contents.tensors[key] for key in own}, strict=True)
    assert source.path is not None
    sha256 = _intact_sha256(source.path, source.path.stat().st_mtime_ns)
    return {**source.describe(), "sha256": sha256, "ignored": list(contents.ignored)}


def read_weights(source: WeightSource, ignore: tuple[str, ...] = ()) -> Contents:
    """The tensors of a file that a recipe's source means, without those named by `ignore`."""
    assert source.path is not None
    checkpoint = open_checkpoint(source.path)
    if source.object:
        return checkpoint.module_tensors(source.prefix, ignore)
    return checkpoint.state_dict(source.key, source.prefix, ignore)


@lru_cache(maxsize=64)
def _intact_sha256(path: Path, _modified_ns: int) -> str:
    check_intact(path)
    return file_record(path).sha256


def _check_keys(
    source: WeightSource, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> None:
    missing = [key for key in own if key not in given]
    unexpected = [shown(key) for key in given if key not in own]
    misshapen = [
        f"{key} {list(given[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {word} ({', '.join(keys[:LISTED])}{', ...' if len(keys) > LISTED else ''})"
        for word, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if keys
    ]
    if problems:
        name = source.path.name if source.path else ""
        raise ExportError(f"checkpoint {name} does not fit: {'; '.join(problems)}")


def digests(tensors: Mapping[str, torch.Tensor]) -> Digests:
    """A short stand-in for every tensor that an output depends on, to compare networks by."""
    return {
        key: hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).digest()
        for key, tensor in tensors.items()
        if not key.endswith(_UNUSED)
    }


def different_tensors(encoder: Digests, other: Digests) -> list[str]:
    """Names of the encoder's tensors that another copy lacks or holds with other numbers."""
    return [key for key, digest in encoder.items() if other.get(key) != digest]

"""Weights from where a recipe says: deterministic synthetic numbers, or a checkpoint file."""

import pickle
from collections.abc import Mapping

import torch
from torch import nn

from mammofm_lite.errors import ExportError

from .recipe import WeightSource
from .synthetic import fill_module

__all__ = ["load_into"]

LISTED = 5


def load_into(module: nn.Module, source: WeightSource, ignore: tuple[str, ...] = ()) -> None:
    """Fill every tensor of `module` from `source`, in place.

    Keys of the file that begin with one of `ignore` belong to another module of the same file.

    Raises
    ------
    ExportError
        The file is unreadable, holds more than tensors, or its keys or shapes differ from the
        module's: missing, unexpected and misshapen keys stand together in one message.
    """
    if source.source == "synthetic":
        fill_module(module, source.seed)
        return
    given = _read_state_dict(source)
    tensors = {key: given[key] for key in given if not (ignore and key.startswith(ignore))}
    own = module.state_dict()
    _check_keys(source, own, tensors)
    module.load_state_dict({key: tensors[key] for key in own}, strict=True)


def _read_state_dict(source: WeightSource) -> Mapping[str, torch.Tensor]:
    assert source.path is not None
    name = source.path.name
    try:
        value = torch.load(source.path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ExportError(f"checkpoint {name} does not exist") from error
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"checkpoint {name} holds more than tensors and was not opened"
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise ExportError(f"checkpoint {name} is not a readable torch file") from error
    if source.key:
        value = value.get(source.key) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise ExportError(f"checkpoint {name} has no state dict under {source.key!r}")
    prefix = source.prefix
    return {
        key[len(prefix) :]: tensor
        for key, tensor in value.items()
        if key.startswith(prefix) and isinstance(tensor, torch.Tensor)
    }


def _check_keys(
    source: WeightSource, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> None:
    missing = [key for key in own if key not in given]
    # With a prefix the rest of the file belongs to other modules; without one it should be ours.
    unexpected = [] if source.prefix else [key for key in given if key not in own]
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

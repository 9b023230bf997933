"""Checkpoint files, read without running anything that they hold.

A torch file is a zip of raw numbers and one pickle, and a pickle may name any function and have it
called. Files of tensors alone are opened by torch's own restricted reader. The official files hold
more (configurations, metrics, whole modules); they go through a reader of ours that builds only
dicts, sets, plain values and descriptions of tensors. What else the official files are known to
name becomes an `Inert` object, which keeps what it was given and does nothing; any other name is
refused. No function of the file's choosing is ever called.

Source: facts 2, 2.3.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

import torch
from torch import Tensor

from mammofm_lite.errors import ExportError

__all__ = ["Checkpoint", "Contents", "Inert", "check_intact", "open_checkpoint", "shown"]

MAX_PICKLE_BYTES: Final = 64 << 20
MAX_TENSORS: Final = 100_000
MAX_DEPTH: Final = 64
MAX_NAME: Final = 1000
MAX_NUMBER: Final = 1 << 40
_SHOWN: Final = 80

# ---- what a file may name -----------------------------------------------------------------------

_STORAGES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Whose objects the official files hold: the reference's own modules, and OmegaConf's lists.
_INERT_ROOTS: Final = (
    "omegaconf",
    "breastclip",
    "mammo_clip_localized_diff_head",
    "asymmetry_metrics",
    "torch.nn.modules",
    "torch.optim",
)
# fmt: off
_BUILTIN_TYPES: Final = (
    "bool", "bytearray", "bytes", "complex", "dict", "float",
    "frozenset", "int", "list", "object", "str", "tuple",
)
# fmt: on
_NUMPY_NAMES: Final = ("_frombuffer", "_reconstruct", "dtype", "ndarray", "scalar")
_INERT: Final = frozenset(
    {
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTIN_TYPES),
        *(
            f"{module}.{name}"
            for package in ("numpy.core", "numpy._core")
            for module in (f"{package}.multiarray", f"{package}.numeric", "numpy")
            for name in _NUMPY_NAMES
        ),
        "_codecs.encode",  # how old pickles write the bytes of numpy arrays
        "collections.defaultdict",
        "typing.Any",
        "torch.Size",
        "torch.device",
        "torch.dtype",
        "torch.nn.parameter.Parameter",
        "torch.torch_version.TorchVersion",
        *(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in _STORAGES.values()),
    }
)


class _Sealed:
    """An object that a pickle can pass around but not change: its BUILD opcode is refused."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError(f"state for a {type(self).__name__}")


class Inert:
    """What stands for an object of a class that is not loaded: its arguments and its state."""

    __slots__ = ("args", "state")
    origin: ClassVar[str] = ""
    """Full name of the class or function that the file names."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_options: Any) -> "Inert":
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop what a dict-like object holds."""

    def append(self, item: Any) -> None:
        """Drop what a list-like object holds."""

    def extend(self, items: Any) -> None:
        """Drop what a list-like object holds."""


class _Dict(dict[Any, Any]):
    """An ordered dict whose attributes (torch keeps version numbers there) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _StorageKind(_Sealed):
    """One of torch's typed storage classes."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Storage(_Sealed):
    """Numbers of the archive, by the name of their record; not read yet."""

    __slots__ = ("count", "dtype", "record")

    def __init__(self, kind: object, record: object, count: object) -> None:
        if not isinstance(kind, _StorageKind) or type(record) is not str or not _natural(count):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        self.dtype, self.record, self.count = kind.dtype, record, count


class _StoredTensor(_Sealed):
    """A view of a storage that lies inside it."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: object, offset: object, size: Any, stride: Any) -> None:
        shape, steps = tuple(size), tuple(stride)
        whole = all(_natural(number) for number in (offset, *shape, *steps))
        if not isinstance(storage, _Storage) or not whole or len(shape) != len(steps):
            raise pickle.UnpicklingError("a tensor of an unknown kind")
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        # Steps of zero would let a few numbers stand for a tensor of any size.
        if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
            raise pickle.UnpicklingError("a tensor that is larger than its storage")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, steps


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER


class _Function(_Sealed):
    """A function of ours under the name of the torch function that it stands for."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _StoredTensor:
    return _StoredTensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, *_: Any) -> _StoredTensor:
    if not isinstance(data, _StoredTensor):
        raise pickle.UnpicklingError("a parameter that is not a tensor")
    return data


_KNOWN: Final[Mapping[str, object]] = {
    "builtins.set": set,
    "__builtin__.set": set,
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_rebuild_parameter),
    **{f"torch.{name}": _StorageKind(dtype) for name, dtype in _STORAGES.items()},
}


@cache
def _inert_class(name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"__slots__": (), "origin": name})


def _is_inert(module: str, name: str) -> bool:
    inside = any(module == root or module.startswith(f"{root}.") for root in _INERT_ROOTS)
    return inside or f"{module}.{name}" in _INERT


def shown(text: str) -> str:
    """Text of a file, fit for a message: short, on one line, without control characters."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: _SHOWN + 1])
    return clean if len(clean) <= _SHOWN else clean[:_SHOWN] + "..."


class _Unpickler(pickle.Unpickler):
    """Builds the objects above and nothing else."""

    def __init__(self, data: bytes, file: str) -> None:
        super().__init__(io.BytesIO(data))
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if _is_inert(module, name):
            return _inert_class(full)
        raise ExportError(
            f"checkpoint {self._file} holds more than tensors and was not opened: it names "
            f"{shown(full)!r}, which no official file does"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage. Its device is not believed: everything is read into main memory."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference that is not a storage")
        _, kind, record, _device, count = pid
        return _Storage(kind, record, count)


def _scan(data: bytes) -> None:
    """Refuse two opcodes that act outside the reader: registered extensions and far memo slots."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.startswith("EXT"):
            raise pickle.UnpicklingError("a registered extension")
        # The memo is an array that grows to the slot that is asked for.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise pickle.UnpicklingError("a memo slot out of range")


# ---- files --------------------------------------------------------------------------------------


class _Archive:
    """The zip of a torch file: one pickle, and records of raw numbers stored as they are."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._records = {record.filename: record for record in self._zip.infolist()}
        pickles = [name for name in self._records if name.count("/") == 1 and _is_pickle(name)]
        # Stored records cannot swell: all together they are no larger than the file.
        stored = all(r.compress_type == zipfile.ZIP_STORED for r in self._records.values())
        total = sum(record.file_size for record in self._records.values())
        if len(pickles) != 1 or not stored or total > path.stat().st_size:
            raise zipfile.BadZipFile("not the layout of a torch file")
        self._root = pickles[0].partition("/")[0]
        self._storages: dict[str, Tensor] = {}
        order = f"{self._root}/byteorder"
        if order in self._records and self._zip.read(order) != b"little":
            raise zipfile.BadZipFile("not little-endian")

    def pickle(self) -> bytes:
        record = self._records[f"{self._root}/data.pkl"]
        if record.file_size > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile(f"its description has {record.file_size} bytes")
        return self._zip.read(record)

    def tensor(self, stored: _StoredTensor) -> Tensor:
        """Read a tensor; the record's checksum is verified."""
        flat = self._flat(stored.storage)
        return flat.as_strided(stored.shape, stored.stride, stored.offset)

    def _flat(self, storage: _Storage) -> Tensor:
        if storage.record not in self._storages:
            data = self._zip.read(f"{self._root}/data/{storage.record}")
            if len(data) != storage.count * storage.dtype.itemsize:
                raise zipfile.BadZipFile("a record of another size than its storage")
            empty = torch.empty(0, dtype=storage.dtype)
            flat = torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else empty
            self._storages[storage.record] = flat
        return self._storages[storage.record]


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl")


@dataclass(frozen=True)
class Contents:
    """The tensors of a file that were asked for, and what else stood beside them."""

    tensors: Mapping[str, Tensor]
    ignored: tuple[str, ...]


class Checkpoint:
    """An opened file; see `open_checkpoint`."""

    def __init__(self, path: Path, root: Any, archive: _Archive | None = None) -> None:
        self.path = path
        self._root = root
        self._archive = archive

    def state_dict(self, key: str = "", prefix: str = "", skip: tuple[str, ...] = ()) -> Contents:
        """The tensors under `key` that begin with `prefix`, which is cut off.

        Names that begin with one of `skip`, after the prefix is cut off, are not read.

        Raises
        ------
        ExportError
            There is no dict under `key`, or a record is damaged.
        """
        found = self._root
        if key:
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise ExportError(f"checkpoint {self.path.name} has no state dict under {key!r}")
        beside = [name for name in self._root if name != key] if key else []
        foreign = [name for name, value in found.items() if not _is_tensor(value)]
        tensors = {name: value for name, value in found.items() if _is_tensor(value)}
        return Contents(self._read(tensors, prefix, skip), _listed([*beside, *foreign]))

    def module_tensors(self, prefix: str = "", skip: tuple[str, ...] = ()) -> Contents:
        """The same of a pickled module: its state dict, and tensors that are plain attributes.

        Raises
        ------
        ExportError
            The file does not hold one pickled module, or a record is damaged.
        """
        attributes = self.attributes()
        plain = {name: value for name, value in attributes.items() if _is_tensor(value)}
        own = dict(_module_tensors(self._root, self.path.name))
        tensors = self._read({**own, **plain}, prefix, skip)
        # With a prefix, one submodule is meant: the rest of the object is not its business.
        others = [] if prefix else [name for name in attributes if name not in tensors]
        return Contents(tensors, _listed(others))

    def attributes(self) -> Mapping[str, Any]:
        """A pickled module's own attributes, without torch's bookkeeping.

        Raises
        ------
        ExportError
            The file does not hold one pickled module.
        """
        state = self._module_state()
        names = (name for name in state if isinstance(name, str))
        return {n: state[n] for n in names if not n.startswith("_") and n != "training"}

    def number(self, value: Any) -> float | None:
        """A number of the file: a natural, a float or a tensor of one element; otherwise None."""
        if _is_tensor(value) and math.prod(value.shape) == 1:
            return float(self._tensor(value).reshape(()))
        if isinstance(value, float) or _natural(value):
            return float(value)
        return None

    def paddings(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Zeros (left, right, top, bottom) of every padded convolution of a pickled module."""
        self._module_state()
        found = {}
        for name, module in _modules(self._root, self.path.name):
            padding = _state(module).get("padding")
            leaf = f".{_PADDING}"
            if name.startswith(prefix) and name.endswith(leaf) and isinstance(padding, tuple):
                found[name[len(prefix) : -len(leaf)]] = padding
        return found

    def _module_state(self) -> Mapping[Any, Any]:
        state = _state(self._root)
        if not isinstance(state.get("_modules"), dict):
            raise ExportError(f"checkpoint {self.path.name} does not hold a pickled module")
        return state

    def _read(
        self, values: Mapping[Any, Any], prefix: str, skip: tuple[str, ...]
    ) -> dict[str, Tensor]:
        own = {
            name[len(prefix) :]: value
            for name, value in values.items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        return {
            name: self._tensor(value) for name, value in own.items() if not name.startswith(skip)
        }

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            if not _is_plain(value):
                raise ExportError(f"checkpoint {self.path.name} holds a tensor of another kind")
            return value
        assert self._archive is not None
        try:
            return self._archive.tensor(value)
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, RuntimeError) as error:
            raise _damaged(self.path) from error


_PADDING: Final = "static_padding"
_LISTED: Final = 40


def _listed(names: list[Any]) -> tuple[str, ...]:
    """Names for a person, of which a file may hold any number."""
    few = [shown(str(name)) for name in names[:_LISTED]]
    return (*few, f"and {len(names) - _LISTED} more") if len(names) > _LISTED else tuple(few)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor | _StoredTensor)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's numbers all lie in memory, once each."""
    usual = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not usual or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _state(module: object) -> Mapping[Any, Any]:
    """Attributes of a pickled object."""
    state = module.state if isinstance(module, Inert) else None
    return state if isinstance(state, dict) else {}


def _modules(root: Any, file: str) -> Iterator[tuple[str, Any]]:
    """A pickled module and all its submodules, with their names.

    A file may let one module stand in many places; the number of steps is bounded.
    """
    waiting = [("", root, 0)]
    for step in range(MAX_TENSORS):
        if not waiting:
            return
        name, module, depth = waiting.pop()
        yield name, module
        inner = _state(module).get("_modules")
        if not isinstance(inner, dict) or depth >= MAX_DEPTH:
            continue
        if step + len(waiting) + len(inner) > MAX_TENSORS:
            break
        waiting.extend((_joined(name, key), inner[key], depth + 1) for key in reversed(inner))
    raise _too_large(file)


def _joined(name: str, key: object) -> str:
    return (f"{name}.{key}" if name else str(key))[:MAX_NAME]


def _too_large(file: str) -> ExportError:
    return ExportError(f"checkpoint {file} holds a module of more than {MAX_TENSORS} parts")


def _module_tensors(root: Any, file: str) -> Iterator[tuple[str, Any]]:
    """What the pickled module's own ``state_dict()`` would hold."""
    found = 0
    for name, module in _modules(root, file):
        state = _state(module)
        passing = state.get("_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            tensors = state.get(group)
            for key, value in tensors.items() if isinstance(tensors, dict) else ():
                kept = group == "_parameters" or not isinstance(passing, set) or key not in passing
                found += 1
                if found > MAX_TENSORS:
                    raise _too_large(file)
                if _is_tensor(value) and kept:
                    yield _joined(name, key), value


def _damaged(path: Path) -> ExportError:
    return ExportError(f"checkpoint {path.name} is damaged; copy it anew")


def check_intact(path: Path) -> None:
    """Compare every record of a torch file with its checksum, which torch itself does not.

    Raises
    ------
    ExportError
        A record is damaged.
    """
    if not zipfile.is_zipfile(path):  # the old format has no checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise _damaged(path) from error
    if bad is not None:
        raise _damaged(path)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a torch file without running anything that it holds.

    Raises
    ------
    ExportError
        Missing or damaged, or it names a class or function that no official file does; the
        message says which.
    """
    try:
        value = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except FileNotFoundError as error:
        raise ExportError(f"checkpoint {path.name} does not exist") from error
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            return _open_inert(path)
        raise ExportError(
            f"checkpoint {path.name} holds more than tensors and was not opened: it is no torch "
            "file, or one of torch before 1.6; save it anew with a newer torch"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ExportError(f"checkpoint {path.name} is not a readable torch file") from error
    return Checkpoint(path, value)


def _open_inert(path: Path) -> Checkpoint:
    try:
        archive = _Archive(path)
        data = archive.pickle()
        _scan(data)
        return Checkpoint(path, _Unpickler(data, path.name).load(), archive)
    except ExportError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = shown(str(error))
        raise ExportError(f"checkpoint {path.name} cannot be read: {reason}") from error

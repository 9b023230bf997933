"""Reading JSON that nobody has vouched for: every field is checked before it is believed."""

import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

from .errors import BundleError, MammoFMError

__all__ = ["MAX_JSON_BYTES", "Fields", "parse_json_object", "read_json_object", "read_regular_file"]

T = TypeVar("T")
MAX_JSON_BYTES: Final = 4 << 20
_DEEPEST: Final = 100  # of nested objects and lists; what reads the tree may recurse
_LONGEST_NUMBER: Final = 40  # in characters; longer ones only serve to overflow something
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# Text is shown on terminals and put into results: no escape sequences, no reversed reading
# direction, and nothing that cannot be encoded.
_UNFIT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def read_regular_file(path: Path, most_bytes: int) -> bytes:
    """All bytes of a file of a bundle; never waits for a pipe and never follows a link.

    Raises
    ------
    BundleError
        The file is missing, not a regular file, larger than `most_bytes`, or unreadable.
    """
    try:
        # NONBLOCK: a pipe in the file's place must not hang us.
        with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BundleError(f"{path.name} is not a regular file; copy the bundle anew")
            data = stream.read(most_bytes + 1)
    except FileNotFoundError as error:
        raise BundleError(f"{path.name} is missing from the bundle") from error
    except OSError as error:  # a link, a socket, no permission
        raise BundleError(f"{path.name} cannot be read as a regular file") from error
    if len(data) > most_bytes:
        raise BundleError(f"{path.name} is larger than {most_bytes} bytes")
    return data


def read_json_object(path: Path) -> "Fields":
    """Parse a JSON file that must hold one object of at most 4 MiB; see `parse_json_object`."""
    return parse_json_object(read_regular_file(path, MAX_JSON_BYTES), path.name)


def parse_json_object(data: bytes, name: str) -> "Fields":
    """Parse the content of the JSON file `name`.

    Stricter than the standard library: a key given twice, a number that JSON does not have, one
    that is absurdly long, deep nesting and control characters are refused.

    Raises
    ------
    BundleError
        Not UTF-8, not JSON, not an object, or one of the above; the message says which.
    """

    def refuse(what: str) -> NoReturn:
        raise BundleError(f"{name}: {what}; copy or export the bundle anew")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            refuse(f"the key {key[:60]!a} is given twice")
        return value

    def short(convert: Callable[[str], Any]) -> Callable[[str], Any]:
        def number(text: str) -> Any:
            if len(text) > _LONGEST_NUMBER or not math.isfinite(float(text)):
                refuse(f"a number is too large or too long: {text[:20]}...")
            return convert(text)

        return number

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=short(int),
            parse_float=short(float),
            parse_constant=lambda text: refuse(f"{text} is not a JSON number"),
        )
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} cannot be read as JSON: it is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} cannot be read as JSON") from error
    _check_tree(value, refuse)
    return Fields(value, name)


def _check_tree(value: Any, refuse: Callable[[str], NoReturn]) -> None:
    """Depth and texts of a parsed tree, without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if unfit := [key for key in node if not key.isprintable()]:
                    refuse(f"the key {unfit[0][:60]!a} is not printable")
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif isinstance(node, str) and (found := _UNFIT.search(node)):
                refuse(f"a text holds the character {found[0]!a}")
        level = below
        if not level:
            return
    refuse(f"nested more than {_DEEPEST} deep")


@dataclass(frozen=True)
class Fields:
    """One object of a JSON or TOML file, and where it stands, for messages that point at a field.

    Every reader raises `error` (`BundleError` unless told otherwise) when the field is missing or
    not of its kind.
    """

    value: Any
    where: str
    error: type[MammoFMError] = BundleError

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise self.error(f"{self.where}: expected an object")

    def _get(self, key: str, kind: type[T], what: str) -> T:
        value = self.value.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"{self.where}: {key!r} must be {what}")
        return value

    def only(self, *allowed: str) -> "Fields":
        """Refuse fields that nothing would read: a misspelt option must not be ignored."""
        if unknown := sorted(set(self.value) - set(allowed)):
            names = ", ".join(allowed)
            raise self.error(f"{self.where}: unknown field {unknown[0]!r}; allowed: {names}")
        return self

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def text(self, key: str) -> str:
        return self._get(key, str, "a string")

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "true or false")

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._get(key, int, "an integer")
        if not low <= value <= high:
            raise self.error(f"{self.where}: {key!r} is {value}, allowed {low} to {high}")
        return value

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        value = self.value.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise self.error(f"{self.where}: {key!r} must be a number from {low} to {high}")
        return float(value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise self.error(f"{self.where}: {key!r} is {value!r}, allowed: {', '.join(allowed)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key, list, "a list of strings")
        if not all(isinstance(item, str) for item in value):
            raise self.error(f"{self.where}: {key!r} must be a list of strings")
        return tuple(cast(list[str], value))

    def integers(
        self, key: str, count: int | None = None, *, low: int | None = None, high: int | None = None
    ) -> tuple[int, ...]:
        value = self._get(key, list, "a list of integers")
        whole = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        if not whole or (count is not None and len(value) != count):
            number = "" if count is None else f"{count} "
            raise self.error(f"{self.where}: {key!r} must be a list of {number}integers")
        numbers = tuple(cast(list[int], value))
        for item in numbers:
            if (low is not None and item < low) or (high is not None and item > high):
                raise self.error(f"{self.where}: {key!r} holds {item}, allowed {low} to {high}")
        return numbers

    def object(self, key: str) -> "Fields":
        return Fields(self._get(key, dict, "an object"), f"{self.where}: {key}", self.error)

    def objects(self, key: str) -> tuple["Fields", ...]:
        value = self._get(key, list, "a list of objects")
        return tuple(
            Fields(item, f"{self.where}: {key}[{i}]", self.error) for i, item in enumerate(value)
        )

    def items(self) -> Iterator[tuple[str, "Fields"]]:
        for key, value in self.value.items():
            yield key, Fields(value, f"{self.where}: {key}", self.error)

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        return read(key) if key in self.value and self.value[key] is not None else None

    def mapping(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], self.value)

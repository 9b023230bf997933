"""Reading JSON that nobody has vouched for: every field is checked before it is believed."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from .errors import BundleError, MammoFMError

__all__ = ["Fields", "read_json_object"]

T = TypeVar("T")
MAX_JSON_BYTES = 4 << 20


def read_json_object(path: Path) -> "Fields":
    """Parse a JSON file that must hold one object of at most 4 MiB.

    Raises
    ------
    BundleError
        The file is missing, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BundleError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{path.name} is missing from the bundle") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} cannot be read as JSON") from error
    return Fields(value, path.name)


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

    def integers(self, key: str, count: int | None = None) -> tuple[int, ...]:
        value = self._get(key, list, "a list of integers")
        whole = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        if not whole or (count is not None and len(value) != count):
            number = "" if count is None else f"{count} "
            raise self.error(f"{self.where}: {key!r} must be a list of {number}integers")
        return tuple(cast(list[int], value))

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

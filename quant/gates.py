"""How much a quantized bundle may differ from the float one, and what it is held against."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from mammofm_lite.errors import ExportError

from .drift import HeadDrift, OutputDrift

__all__ = ["Failure", "Gates"]


@dataclass(frozen=True)
class Failure:
    """One gate that is not passed; `where` names an encoder's graph file or a head."""

    where: str
    what: str
    value: float
    limit: float
    upper: bool

    def __str__(self) -> str:
        side = "above" if self.upper else "below"
        return f"{self.where}: {self.what} {self.value:.4g} is {side} {self.limit:g}"

    def to_json(self) -> dict[str, Any]:
        """The failure as JSON types."""
        return {"where": self.where, "what": self.what, "value": self.value, "limit": self.limit}


@dataclass(frozen=True)
class Gates:
    """Limits, each from 0 to 1, on held-out studies.

    Parameters
    ----------
    pooled_cosine
        Least cosine of an encoder's ``pooled`` with the float one, over all views.
    map_cosine
        The same for every other output of an encoder.
    probability
        Largest change of a probability of the diagnosis head.
    marks_matched
        Least part of the marks of both bundles that have a partner in the other: the same view
        and label, boxes that overlap by half (IoU).
    risk
        Largest change of a risk of the prognosis head.
    report_recall, report_text
        Least part of the reports with the same recall decision, and with the same words. The
        default asks nothing of the words: they are told, not gated.

    Raises
    ------
    ExportError
        A limit is no number from 0 to 1.
    """

    pooled_cosine: float = 0.99
    map_cosine: float = 0.95
    probability: float = 0.02
    marks_matched: float = 0.9
    risk: float = 0.02
    report_recall: float = 1.0
    report_text: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1:
                raise ExportError(f"gate {name!r} is {value!r}, allowed: a number from 0 to 1")

    @classmethod
    def read(cls, path: Path) -> "Gates":
        """Gates of a TOML file of ``name = limit`` lines; what it leaves out keeps its default.

        Raises
        ------
        ExportError
            The file is unreadable, no TOML, or names an unknown gate.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExportError(f"{path.name}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ExportError(f"{path.name} is not TOML: {error}") from error
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ExportError(
                f"{path.name}: unknown gate {unknown[0]!r}; gates are {', '.join(known)}"
            )
        return cls(**values)

    def of_outputs(self, file: str, drifts: Iterable[OutputDrift]) -> list[Failure]:
        """What an encoder's outputs fail."""
        found = []
        for drift in drifts:
            limit = self.pooled_cosine if drift.output == "pooled" else self.map_cosine
            found += _least(file, f"{drift.output} cosine", drift.cosine, limit)
        return found

    def of_heads(self, drifts: Mapping[str, HeadDrift]) -> list[Failure]:
        """What the heads' answers fail."""
        found: list[Failure] = []
        for head, drift in drifts.items():
            for name, check, gate in _OF_HEADS.get(head, ()):
                found += check(head, name.replace("_", " "), drift[name], getattr(self, gate))
        return found


def _least(where: str, what: str, value: float, limit: float) -> list[Failure]:
    return [] if value >= limit else [Failure(where, what, value, limit, upper=False)]


def _most(where: str, what: str, value: float, limit: float) -> list[Failure]:
    return [] if value <= limit else [Failure(where, what, value, limit, upper=True)]


# Per head: the figure of `drift.head_drifts`, how it is held, and the gate.
_OF_HEADS: Final = {
    "diagnosis": (("largest_probability_change", _most, "probability"),),
    "localization": (("marks_matched", _least, "marks_matched"),),
    "prognosis": (("largest_risk_change", _most, "risk"),),
    "report": (
        ("recall_equal", _least, "report_recall"),
        ("text_equal", _least, "report_text"),
    ),
}

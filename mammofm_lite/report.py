"""A structured mammography report: the text, and the same content as fields.

The terms are those of the lexicon that the bundle names, in the bundle's own wording. A report
suggests recall or no recall; a category stands in it only as the model's estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast

from .errors import BundleError
from .grammar import Grammar, Language, Walk
from .views import Laterality

__all__ = ["BreastReport", "Lexicon", "Report", "ReportFinding", "ReportSection", "read_report"]

BreastStatus = Literal["findings", "no_findings", "not_imaged"]

_BREAST_SECTIONS: Final[Mapping[str, Laterality]] = {"right_breast": "R", "left_breast": "L"}


@dataclass(frozen=True)
class Lexicon:
    """Whose terms the report uses, and in which edition."""

    name: str
    edition: str


@dataclass(frozen=True)
class ReportSection:
    """One titled part of the text."""

    name: str
    title: str
    text: str


@dataclass(frozen=True)
class ReportFinding:
    """One finding: its kind, and its descriptors (shape, margin, location, ...) by name."""

    kind: str
    descriptors: Mapping[str, str]


@dataclass(frozen=True)
class BreastReport:
    """What the report says of one breast; ``not_imaged`` is not the same as ``no_findings``."""

    status: BreastStatus
    findings: tuple[ReportFinding, ...]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes
    ----------
    text
        Title and text of every section, one per line.
    composition
        Breast composition, ``a`` to ``d``.
    birads_estimate
        The category that the model would put, an estimate and not an assessment; ``None`` where
        missing views leave it open.
    management
        What the report suggests to do next.
    """

    text: str
    lexicon: Lexicon
    sections: tuple[ReportSection, ...]
    composition: str
    breasts: Mapping[Laterality, BreastReport]
    recall: bool
    birads_estimate: str | None
    management: str


def read_report(grammar: Grammar, language: Language, text: str) -> Report:
    """Read a decoded text.

    Parameters
    ----------
    text
        A whole sentence of `language`, as decoded: without titles.

    Raises
    ------
    BundleError
        The text is not of the language, or the language leaves out a field that every report has.
    """
    walk = language.read(text)
    sections = tuple(ReportSection(name, title, words) for name, title, words in walk.sections)
    return Report(
        text="\n".join(f"{section.title}: {section.text}" for section in sections),
        lexicon=Lexicon(grammar.lexicon_name, grammar.lexicon_edition),
        sections=sections,
        composition=_field(walk, "composition"),
        breasts=MappingProxyType(
            {side: _breast(walk, name, side) for name, side in _BREAST_SECTIONS.items()}
        ),
        recall=_one_of(walk, "recall", ("yes", "no")) == "yes",
        birads_estimate=walk.fields.get("birads_estimate"),
        management=_field(walk, "management"),
    )


def _field(walk: Walk, name: str) -> str:
    if name not in walk.fields:
        raise BundleError(f"the bundle's report grammar has no field {name!r}")
    return walk.fields[name]


def _one_of(walk: Walk, name: str, allowed: tuple[str, ...]) -> str:
    value = _field(walk, name)
    if value not in allowed:
        raise BundleError(
            f"the bundle's report grammar gives {name!r} the value {value!r}; "
            f"allowed: {', '.join(allowed)}"
        )
    return value


def _breast(walk: Walk, section: str, side: Laterality) -> BreastReport:
    findings = tuple(
        ReportFinding(kind, MappingProxyType(dict(descriptors)))
        for place, kind, descriptors in walk.findings
        if place == section
    )
    if findings:
        return BreastReport("findings", findings)
    status = _one_of(walk, f"status_{side}", ("no_findings", "not_imaged"))
    return BreastReport(cast(BreastStatus, status), ())

"""From the truth of a phantom to the report that its pictures call for.

The report says what the views at hand can show: of one view a mass is an asymmetry and a quadrant
half a breast, of no view nothing. Findings stand with the suspicious ones first, so that there is
one right order for a decoder to learn. Words vary where the grammar has several for the same.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from mammofm_lite.errors import ExportError
from mammofm_lite.export.report_text import MOST_FINDINGS
from mammofm_lite.grammar import (
    Choice,
    Either,
    Finding,
    Language,
    Literal,
    Node,
    Repeat,
    Section,
    Series,
)
from mammofm_lite.phantom import PhantomLesion, PhantomTruth
from mammofm_lite.views import STANDARD_VIEWS, Laterality, ViewName, projection

__all__ = ["Piece", "Wanted", "report_pieces", "wanted_report"]

_SECTIONS: Final[Mapping[str, Laterality]] = {"right_breast": "R", "left_breast": "L"}
_KINDS: Final = (
    "mass",
    "architectural_distortion",
    "calcifications",
    "focal_asymmetry",
    "intramammary_lymph_node",
)
# What one view leaves of a kind; what is not here is not told from one view.
_OF_ONE_VIEW: Final = {
    "mass": "asymmetry",
    "focal_asymmetry": "asymmetry",
    "calcifications": "calcifications",
    "architectural_distortion": "architectural_distortion",
}
_ULTRASOUND_TOO: Final = frozenset({"mass", "focal_asymmetry", "asymmetry"})


class WantedFinding(NamedTuple):
    """One finding as the grammar's fields, and the place of its lesion in the truth's list;
    `suspicious` decides about the recall only."""

    kind: str
    descriptors: Mapping[str, str]
    suspicious: bool
    lesion: int


@dataclass(frozen=True)
class Wanted:
    """What a report on some views has to say.

    Attributes
    ----------
    fields
        Values of the choices outside findings, by name.
    findings
        Of the right and the left breast, in order.
    """

    fields: Mapping[str, str]
    findings: Mapping[Laterality, tuple[WantedFinding, ...]]

    @property
    def recall(self) -> bool:
        """Whether it calls the woman back."""
        return self.fields["recall"] == "yes"


def wanted_report(truth: PhantomTruth, views: Collection[ViewName] = STANDARD_VIEWS) -> Wanted:
    """What the report of a study says, seen in some of its views (at least one)."""
    findings = {side: _findings(truth.lesions, side, views) for side in _SECTIONS.values()}
    told = [finding for found in findings.values() for finding in found]
    suspicious = [finding for finding in told if finding.suspicious]
    fields = {
        "composition": truth.density,
        "recall": "yes" if suspicious else "no",
        "birads_estimate": "0" if suspicious else "2" if told else "1",
        "management": _management(suspicious, complete=len(views) == len(STANDARD_VIEWS)),
    }
    for side in _SECTIONS.values():
        shown = any(view.startswith(side) for view in views)
        fields[f"status_{side}"] = "no_findings" if shown else "not_imaged"
    return Wanted(fields, findings)


def _management(suspicious: Sequence[WantedFinding], *, complete: bool) -> str:
    if not suspicious:
        return "routine_screening" if complete else "complete_views"
    ultrasound = any(finding.kind in _ULTRASOUND_TOO for finding in suspicious)
    return "additional_views_and_ultrasound" if ultrasound else "additional_views"


def _findings(
    lesions: Sequence[PhantomLesion], side: Laterality, views: Collection[ViewName]
) -> tuple[WantedFinding, ...]:
    projections = {projection(view) for view in views if view.startswith(side)}
    if not projections:
        return ()
    own = [index for index, lesion in enumerate(lesions) if lesion.laterality == side]
    if len(projections) == 1:
        own = [index for index in own if lesions[index].kind in _OF_ONE_VIEW]
    own.sort(key=lambda index: _order(lesions[index]))
    shown = "both" if len(projections) == 2 else next(iter(projections))
    return tuple(_finding(lesions[index], index, shown) for index in own[:MOST_FINDINGS])


def _order(lesion: PhantomLesion) -> tuple[bool, int, str, str]:
    """Suspicious findings first, then by kind and place."""
    return (not lesion.suspicious, _KINDS.index(lesion.kind), lesion.quadrant, lesion.depth)


def _finding(lesion: PhantomLesion, index: int, shown: str) -> WantedFinding:
    kind = lesion.kind if shown == "both" else _OF_ONE_VIEW[lesion.kind]
    place = {"location": _location(lesion.quadrant, shown), "depth": lesion.depth}
    words = {} if kind == "asymmetry" else lesion.descriptors
    return WantedFinding(kind, {**words, **place}, lesion.suspicious, index)


def _location(quadrant: str, shown: str) -> str:
    """The grammar's word for a quadrant (``"upper outer"``), as far as the projections show it."""
    vertical, _, across = quadrant.partition(" ")
    if not across:  # not a quadrant: the same in every view
        return quadrant
    halves = {"both": f"{vertical}_{across}_quadrant", "CC": f"{across}_half"}
    return halves.get(shown, f"{vertical}_half")


# -------------------- the words


class Piece(NamedTuple):
    """A fixed text or option; `lesion` is the place of the one it tells of in the truth's list, and
    `wording` whether another text would have said the same."""

    text: str
    lesion: int | None
    wording: bool = False


class _Place(NamedTuple):
    """How far a report is written: the section, findings told in it, whether inside the last."""

    section: str = ""
    told: int = 0
    inside: bool = False


_Written = tuple[tuple[Piece, ...], _Place]


def report_pieces(
    wanted: Wanted, language: Language, random: np.random.Generator | None = None
) -> tuple[Piece, ...]:
    """The report as the fixed texts and options that its language is made of.

    Joined they are the text; cut into tokens one by one they are what a decoder that follows the
    grammar writes. `random` chooses among words that say the same; without it the first ones come.

    Raises
    ------
    ExportError
        The language cannot say it.
    """
    written = _Writer(wanted, random).write(language.root, _Place())
    if written is None:
        raise ExportError("the report grammar has no words for the truth of a phantom")
    return written[0]


def _same_facts(parts: Sequence[Node]) -> bool:
    return all(isinstance(part, Literal) for part in parts)


def _as_wording(written: _Written | None) -> _Written | None:
    if written is None:
        return None
    pieces, place = written
    return tuple(piece._replace(wording=True) for piece in pieces), place


@dataclass(frozen=True)
class _Writer:
    """Every method gives ``None`` where a part cannot say what is wanted."""

    wanted: Wanted
    random: np.random.Generator | None

    def write(self, node: Node, place: _Place) -> _Written | None:
        match node:
            case Literal(text):
                return (self._piece(text, place),), place
            case Choice(name, options):
                value = self._values(place).get(name)
                text = next((words for option, words in options if option == value), None)
                return None if text is None else ((self._piece(text, place),), place)
            case Series(parts):
                return self._series(parts, place)
            case Either(parts):
                tried = (self.write(part, place) for part in self._in_turn(parts))
                written = next((one for one in tried if one is not None), None)
                return _as_wording(written) if _same_facts(parts) else written
            case Repeat():
                return self._repeat(node, place)
            case Section(name, _, part):
                return self._section(name, part, place)
            case Finding(kind, part):
                return self._finding(kind, part, place)
        return None

    def _in_turn(self, parts: Sequence[Node]) -> Sequence[Node]:
        """As they come, but texts without a fact in them in any order."""
        if self.random is None or not _same_facts(parts):
            return parts
        return [parts[i] for i in self.random.permutation(len(parts))]

    def _piece(self, text: str, place: _Place) -> Piece:
        return Piece(text, self._told(place).lesion if place.inside else None)

    def _told(self, place: _Place) -> WantedFinding:
        return self._findings(place)[place.told - 1]

    def _findings(self, place: _Place) -> tuple[WantedFinding, ...]:
        side = _SECTIONS.get(place.section)
        return self.wanted.findings[side] if side else ()

    def _values(self, place: _Place) -> Mapping[str, str]:
        return self._told(place).descriptors if place.inside else self.wanted.fields

    def _series(self, parts: Sequence[Node], place: _Place) -> _Written | None:
        pieces: tuple[Piece, ...] = ()
        for part in parts:
            written = self.write(part, place)
            if written is None:
                return None
            pieces, place = pieces + written[0], written[1]
        return pieces, place

    def _repeat(self, node: Repeat, place: _Place) -> _Written | None:
        left = len(self._findings(place)) - place.told
        if not 1 <= left <= node.most:
            return None
        parts = [node.part] + [Series((Literal(node.separator), node.part))] * (left - 1)
        return self._series(parts, place)

    def _section(self, name: str, part: Node, place: _Place) -> _Written | None:
        written = self.write(part, _Place(name))
        if written is None or written[1].told < len(self._findings(_Place(name))):
            return None
        return written[0], place

    def _finding(self, kind: str, part: Node, place: _Place) -> _Written | None:
        findings = self._findings(place)
        if place.told >= len(findings) or findings[place.told].kind != kind:
            return None
        written = self.write(part, _Place(place.section, place.told + 1, inside=True))
        if written is None:
            return None
        return written[0], _Place(place.section, place.told + 1)

"""The language of a bundle's reports: what may be written, and what a written report says.

A bundle carries its language as ``grammar.json``: sections, fixed words, choices and findings,
without recursion, so that every report has an end. The same description serves twice. As a token
automaton it tells the decoder which tokens may come next, so that whatever the network prefers, a
report parses. And it reads the finished text back into fields, so that fields and text cannot
disagree.

Parts that depend on which views exist (`ByViews`) are settled before anything is decoded: of a
breast that was not imaged nothing can be said, and one view shows half of a location only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from ._jsonread import Fields, read_json_object
from .errors import BundleError
from .views import ViewName

__all__ = [
    "ByViews",
    "Choice",
    "Either",
    "Finding",
    "Grammar",
    "Language",
    "Literal",
    "Node",
    "Repeat",
    "Section",
    "Series",
    "TokenAutomaton",
    "Walk",
]

# What a hostile file may cost; a report's own grammar has some hundred parts and states.
_MOST_PARTS: Final = 50_000
_MOST_STATES: Final = 200_000
_MOST_OPTIONS: Final = 1_000  # of one choice
_MOST_STEPS: Final = 500_000  # of reading one report; a real one takes some hundred
_DEEPEST: Final = 40


@dataclass(frozen=True)
class Literal:
    """Fixed text."""

    text: str


@dataclass(frozen=True)
class Choice:
    """One of several texts; the value of the one written goes into the field `name`."""

    name: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Series:
    """One part after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Either:
    """Exactly one of the parts. Without parts nothing fits: a case that cannot happen."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """The part once, up to `most` times, with `separator` between."""

    part: "Node"
    separator: str
    most: int


@dataclass(frozen=True)
class Section:
    """A titled part of the report."""

    name: str
    title: str
    part: "Node"


@dataclass(frozen=True)
class Finding:
    """A part that describes one finding; the choices inside are its descriptors."""

    kind: str
    part: "Node"


@dataclass(frozen=True)
class ByViews:
    """The case that fits the views at hand.

    `subject` is ``R`` or ``L`` with the cases ``both``, ``CC``, ``MLO`` and ``none``, or
    ``study`` with ``complete`` and ``incomplete``.
    """

    subject: str
    cases: Mapping[str, "Node"]


Node: TypeAlias = Literal | Choice | Series | Either | Repeat | Section | Finding | ByViews

_CASES: Final[Mapping[str, tuple[str, ...]]] = {
    "R": ("both", "CC", "MLO", "none"),
    "L": ("both", "CC", "MLO", "none"),
    "study": ("complete", "incomplete"),
}
_ALL_VIEWS: Final = 4


# -------------------- what a text says


@dataclass(frozen=True)
class Walk:
    """What was met on the way through a text: fields, sections and findings in order."""

    fields: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[tuple[str, str, str], ...] = ()
    """Name, title and text of every finished section."""
    findings: tuple[tuple[str, str, Mapping[str, str]], ...] = ()
    """Section, kind and descriptors of every finished finding."""


@dataclass(frozen=True)
class Language:
    """A grammar with the views settled: no `ByViews` is left in `root`."""

    root: Node

    def read(self, text: str) -> Walk:
        """What a whole text says.

        Raises
        ------
        BundleError
            The text is not of this language, or the language too ambiguous to tell.
        """
        try:
            for end, walk in _Reader().read(self.root, text, 0, Walk(), ""):
                if end == len(text):
                    return walk
        except RecursionError as error:
            raise BundleError("the report grammar has too long a series of parts") from error
        raise BundleError("a report does not follow the grammar of its bundle")

    def automaton(self, encode: Callable[[str], Sequence[int]]) -> "TokenAutomaton":
        """The automaton over the tokens of its words.

        Every fixed text and every option is encoded on its own, so a report is always cut into
        tokens in the one way that the network was trained on.

        Raises
        ------
        BundleError
            The language has no text at all, or more states than a report needs.
        """
        builder = _Builder(encode)
        last = builder.add(self.root, 0)
        automaton = TokenAutomaton(tuple(builder.tokens), tuple(builder.jumps), last)
        return automaton.without_dead_ends()


class _Reader:
    """Tries every way to read a text, as far as a report's own grammar could ever need."""

    def __init__(self) -> None:
        self._left = _MOST_STEPS

    def read(
        self, node: Node, text: str, at: int, walk: Walk, section: str
    ) -> Iterator[tuple[int, Walk]]:
        """Every way to read `node` at `at`: where it ends, and what was met so far."""
        self._left -= 1
        if self._left < 0:
            raise BundleError("the report grammar is too ambiguous to read a report by it")
        match node:
            case Literal(words):
                if text.startswith(words, at):
                    yield at + len(words), walk
            case Choice(name, options):
                for value, words in options:
                    if text.startswith(words, at):
                        yield at + len(words), replace(walk, fields={**walk.fields, name: value})
            case Series(parts):
                yield from self._series(parts, text, at, walk, section)
            case Either(parts):
                for part in parts:
                    yield from self.read(part, text, at, walk, section)
            case Repeat():
                yield from self._repeat(node, text, at, walk, section)
            case Section(name, title, part):
                for end, inner in self.read(part, text, at, walk, name):
                    done = (name, title, text[at:end])
                    yield end, replace(inner, sections=(*inner.sections, done))
            case Finding(kind, part):
                for end, inner in self.read(part, text, at, replace(walk, fields={}), section):
                    found = (section, kind, inner.fields)
                    yield end, replace(walk, findings=(*walk.findings, found))
            case ByViews():
                raise TypeError("the views are not settled")

    def _series(
        self, parts: tuple[Node, ...], text: str, at: int, walk: Walk, section: str
    ) -> Iterator[tuple[int, Walk]]:
        if not parts:
            yield at, walk
            return
        for end, inner in self.read(parts[0], text, at, walk, section):
            yield from self._series(parts[1:], text, end, inner, section)

    def _repeat(
        self, node: Repeat, text: str, at: int, walk: Walk, section: str
    ) -> Iterator[tuple[int, Walk]]:
        for end, inner in self.read(node.part, text, at, walk, section):
            yield end, inner
            if node.most > 1:
                rest = Series((Literal(node.separator), replace(node, most=node.most - 1)))
                yield from self.read(rest, text, end, inner, section)


# -------------------- what may come next


@dataclass(frozen=True)
class TokenAutomaton:
    """A nondeterministic automaton without cycles; states are numbered, 0 is the start.

    Attributes
    ----------
    tokens
        Per state its edges: (token, next state).
    jumps
        Per state the states reached without a token.
    last
        The state in which a report is complete.
    """

    tokens: tuple[tuple[tuple[int, int], ...], ...]
    jumps: tuple[tuple[int, ...], ...]
    last: int

    @cached_property
    def start(self) -> frozenset[int]:
        """States before the first token."""
        return self._closed([0])

    def allowed(self, states: frozenset[int]) -> tuple[int, ...]:
        """Tokens that may come next, rising; none when the report is complete."""
        return tuple(sorted({token for state in states for token, _ in self.tokens[state]}))

    def after(self, states: frozenset[int], token: int) -> frozenset[int]:
        """States after one more token."""
        reached = [end for state in states for edge, end in self.tokens[state] if edge == token]
        return self._closed(reached)

    def complete(self, states: frozenset[int]) -> bool:
        """Whether a report may end here."""
        return self.last in states

    def _closed(self, states: list[int]) -> frozenset[int]:
        closed, waiting = set(states), list(states)
        while waiting:
            for end in self.jumps[waiting.pop()]:
                if end not in closed:
                    closed.add(end)
                    waiting.append(end)
        return frozenset(closed)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest report."""
        count = [0] * len(self.tokens)
        for state in self._latest_first():
            steps = [1 + count[end] for _, end in self.tokens[state]]
            count[state] = max(steps + [count[end] for end in self.jumps[state]], default=0)
        return count[0]

    def without_dead_ends(self) -> "TokenAutomaton":
        """Without edges into states from which no report can be completed."""
        alive = {self.last}
        for state in self._latest_first():
            ends = [end for _, end in self.tokens[state]] + list(self.jumps[state])
            if not alive.isdisjoint(ends):
                alive.add(state)
        if 0 not in alive:
            raise BundleError("the report grammar allows no report on these views")
        return TokenAutomaton(
            tuple(tuple(edge for edge in edges if edge[1] in alive) for edges in self.tokens),
            tuple(tuple(end for end in jumps if end in alive) for jumps in self.jumps),
            self.last,
        )

    def _latest_first(self) -> list[int]:
        """All states, each after those that it leads to."""
        order: list[int] = []
        seen: set[int] = set()
        waiting = [(0, False)]
        while waiting:
            state, done = waiting.pop()
            if done:
                order.append(state)
            elif state not in seen:
                seen.add(state)
                waiting.append((state, True))
                ends = [end for _, end in self.tokens[state]] + list(self.jumps[state])
                waiting += [(end, False) for end in ends if end not in seen]
        return order


class _Builder:
    """Adds nodes one after the other; every `add` starts at a state and returns its end state."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        self._encode = encode
        self.tokens: list[tuple[tuple[int, int], ...]] = []
        self.jumps: list[tuple[int, ...]] = []
        self._state()

    def _state(self) -> int:
        if len(self.tokens) >= _MOST_STATES:
            raise BundleError(f"the report grammar has more than {_MOST_STATES} states")
        self.tokens.append(())
        self.jumps.append(())
        return len(self.tokens) - 1

    def _words(self, text: str, start: int, end: int) -> None:
        tokens = list(self._encode(text))
        for token in tokens[:-1]:
            following = self._state()
            self.tokens[start] += ((token, following),)
            start = following
        if tokens:
            self.tokens[start] += ((tokens[-1], end),)
        else:
            self.jumps[start] += (end,)

    def add(self, node: Node, start: int) -> int:
        match node:
            case Literal(text):
                end = self._state()
                self._words(text, start, end)
            case Choice(_, options):
                end = self._state()
                for _, text in options:
                    self._words(text, start, end)
            case Series(parts):
                end = start
                for part in parts:
                    end = self.add(part, end)
            case Either(parts):
                ends = [self.add(part, self._jump(start)) for part in parts]
                end = self._join(ends)
            case Repeat(part, separator, most):
                ends = [self.add(part, self._jump(start))]
                for _ in range(most - 1):
                    ends.append(self.add(Series((Literal(separator), part)), ends[-1]))
                end = self._join(ends)
            case Section(_, _, part) | Finding(_, part):
                end = self.add(part, start)
            case ByViews():
                raise TypeError("the views are not settled")
        return end

    def _jump(self, start: int) -> int:
        state = self._state()
        self.jumps[start] += (state,)
        return state

    def _join(self, ends: list[int]) -> int:
        end = self._state()
        for state in ends:
            self.jumps[state] += (end,)
        return end


# -------------------- the file


@dataclass(frozen=True)
class Grammar:
    """A report language for any set of views, and the lexicon whose terms it uses."""

    lexicon_name: str
    lexicon_edition: str
    root: Node

    @classmethod
    def open(cls, path: Path) -> "Grammar":
        """Read ``grammar.json``.

        Raises
        ------
        BundleError
            The file is missing, malformed, nested too deeply, or names an unknown rule.
        """
        return cls.parse(read_json_object(path))

    @classmethod
    def parse(cls, fields: Fields) -> "Grammar":
        """Read the parsed content of ``grammar.json``; raises as `open` does."""
        fields.only("lexicon", "rules", "report")
        lexicon = fields.object("lexicon").only("name", "edition")
        reader = _NodeReader(fields.object("rules"), fields.where)
        root = reader.node(fields.value.get("report"), "report", 0)
        return cls(lexicon.text("name"), lexicon.text("edition"), root)

    def language(self, views: Sequence[ViewName]) -> Language:
        """The language of reports on these views."""
        return Language(_settled(self.root, frozenset(views)))


def _settled(node: Node, views: frozenset[ViewName]) -> Node:
    match node:
        case ByViews(subject, cases):
            return _settled(cases[_case(subject, views)], views)
        case Series(parts):
            return Series(tuple(_settled(part, views) for part in parts))
        case Either(parts):
            return Either(tuple(_settled(part, views) for part in parts))
        case Repeat(part) | Section(_, _, part) | Finding(_, part):
            return replace(node, part=_settled(part, views))
        case _:
            return node


def _case(subject: str, views: frozenset[ViewName]) -> str:
    if subject == "study":
        return "complete" if len(views) == _ALL_VIEWS else "incomplete"
    shown = [view.removeprefix(f"{subject}-") for view in views if view.startswith(subject)]
    if len(shown) == 2:
        return "both"
    return shown[0] if shown else "none"


class _NodeReader:
    """JSON to nodes: a string is fixed text, a list a series, an object by its first key."""

    def __init__(self, rules: Fields, file: str) -> None:
        self.rules = rules
        self.file = file
        self._parts = 0

    def node(self, value: Any, where: str, depth: int) -> Node:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise BundleError(f"{self.file}: expands to more than {_MOST_PARTS} parts")
        if depth > _DEEPEST:
            raise BundleError(f"{self.file}: {where}: nested more than {_DEEPEST} deep")
        if isinstance(value, str):
            return Literal(value)
        if isinstance(value, list):
            return Series(self._nodes(value, where, depth))
        return self._object(Fields(value, f"{self.file}: {where}"), where, depth)

    def _nodes(self, values: list[Any], where: str, depth: int) -> tuple[Node, ...]:
        return tuple(self.node(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(values))

    def _object(self, fields: Fields, where: str, depth: int) -> Node:
        def inner(key: str) -> Node:
            return self.node(fields.value.get(key), f"{where}.{key}", depth + 1)

        if "rule" in fields:
            name = fields.only("rule").text("rule")
            if name not in self.rules:
                raise BundleError(f"{fields.where}: unknown rule {name!r}")
            return self.node(self.rules.value[name], f"rules.{name}", depth + 1)
        if "either" in fields:
            return Either(self._list(fields.only("either"), "either", where, depth))
        if "repeat" in fields:
            fields.only("repeat", "separator", "most")
            return Repeat(inner("repeat"), fields.text("separator"), fields.integer("most", 1, 9))
        if "section" in fields:
            fields.only("section", "title", "text")
            return Section(fields.text("section"), fields.text("title"), inner("text"))
        if "finding" in fields:
            return Finding(fields.only("finding", "text").text("finding"), inner("text"))
        if "by_views" in fields:
            return self._by_views(fields, where, depth)
        return _choice(fields)

    def _list(self, fields: Fields, key: str, where: str, depth: int) -> tuple[Node, ...]:
        values = fields.value[key]
        if not isinstance(values, list):
            raise BundleError(f"{fields.where}: {key!r} must be a list")
        return self._nodes(values, where, depth)

    def _by_views(self, fields: Fields, where: str, depth: int) -> Node:
        subject = fields.only("by_views", "cases").choice("by_views", tuple(_CASES))
        cases = fields.object("cases").only(*_CASES[subject])
        if missing := [case for case in _CASES[subject] if case not in cases]:
            raise BundleError(f"{fields.where}: case {missing[0]!r} is missing")
        nodes = {c: self.node(cases.value[c], f"{where}.{c}", depth + 1) for c in _CASES[subject]}
        return ByViews(subject, nodes)


def _choice(fields: Fields) -> Choice:
    fields.only("choice", "of")
    options = fields.object("of")
    texts = tuple((value, options.text(value)) for value in options.mapping())
    if not texts or any(not text for _, text in texts):
        raise BundleError(f"{fields.where}: 'of' must hold texts that are not empty")
    if len(texts) > _MOST_OPTIONS:
        raise BundleError(f"{fields.where}: 'of' holds more than {_MOST_OPTIONS} texts")
    return Choice(fields.text("choice"), texts)

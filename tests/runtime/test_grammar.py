"""The report language: what it allows is what it reads, and hostile files are refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite._jsonread import Fields
from mammofm_lite.errors import BundleError
from mammofm_lite.grammar import Grammar, Language, TokenAutomaton


def grammar(report: Any, **rules: Any) -> Grammar:
    value = {"lexicon": {"name": "x", "edition": "1"}, "rules": rules, "report": report}
    return Grammar.parse(Fields(value, "grammar.json"))


def language(report: Any, views: tuple[str, ...] = ("L-CC",), **rules: Any) -> Language:
    return grammar(report, **rules).language(views)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def walk(automaton: TokenAutomaton, rng: random.Random) -> str:
    """A random text, one token after the other; fails if it ends before it is complete."""
    states, text = automaton.start, ""
    while allowed := automaton.allowed(states):
        token = rng.choice(allowed)
        text += chr(token)
        states = automaton.after(states, token)
    assert automaton.complete(states)
    return text


COLOUR = {"choice": "colour", "of": {"red": "red", "reddish": "reddish", "blue": "blue"}}


def test_reads_fields_sections_and_findings() -> None:
    finding = {"finding": "spot", "text": ["a ", COLOUR, " spot"]}
    report = {
        "section": "skin",
        "title": "Skin",
        "text": [{"repeat": finding, "separator": ", ", "most": 3}, "."],
    }
    read = language(report).read("a red spot, a reddish spot.")
    assert read.sections == (("skin", "Skin", "a red spot, a reddish spot."),)
    assert read.findings == (
        ("skin", "spot", {"colour": "red"}),
        ("skin", "spot", {"colour": "reddish"}),
    )
    assert read.fields == {}


@pytest.mark.parametrize("text", ["", "re", "red ", "green", "redblue"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BundleError, match="does not follow the grammar of its bundle"):
        language(COLOUR).read(text)


def test_an_option_that_begins_another_is_told_apart() -> None:
    automaton = language([COLOUR, "!"]).automaton(letters)
    states = automaton.start
    for letter in "red":
        states = automaton.after(states, ord(letter))
    assert automaton.allowed(states) == (ord("!"), ord("d"))
    assert not automaton.complete(states)


def test_after_a_foreign_token_nothing_is_allowed() -> None:
    automaton = language(COLOUR).automaton(letters)
    assert automaton.after(automaton.start, ord("x")) == frozenset()


def test_dead_ends_are_never_entered() -> None:
    """The first branch shares its beginning with the second, and then cannot happen."""
    report = {"either": [["ab", {"either": []}], ["ac", COLOUR]]}
    automaton = language(report).automaton(letters)
    after_a = automaton.after(automaton.start, ord("a"))
    assert automaton.allowed(after_a) == (ord("c"),)


def test_a_language_without_texts() -> None:
    with pytest.raises(BundleError, match="allows no report on these views"):
        language(["a", {"either": []}]).automaton(letters)


def test_longest_report() -> None:
    report = [{"repeat": COLOUR, "separator": "--", "most": 3}, {"either": ["x", "xyz"]}]
    assert language(report).automaton(letters).longest == 3 * len("reddish") + 2 * len("--") + len(
        "xyz"
    )


@pytest.mark.parametrize(
    ("views", "text"),
    [
        (("L-CC", "L-MLO", "R-CC", "R-MLO"), "both"),
        (("L-CC", "R-CC"), "CC"),
        (("R-CC", "L-MLO"), "MLO"),
        (("R-CC",), "none"),
    ],
)
def test_cases_by_views_of_a_breast(views: tuple[str, ...], text: str) -> None:
    cases = {case: case for case in ("both", "CC", "MLO", "none")}
    assert language({"by_views": "L", "cases": cases}, views).read(text)


@pytest.mark.parametrize(("count", "text"), [(4, "complete"), (3, "incomplete")])
def test_cases_by_completeness(count: int, text: str) -> None:
    views = ("L-CC", "L-MLO", "R-CC", "R-MLO")[:count]
    cases = {"complete": "complete", "incomplete": "incomplete"}
    assert language({"by_views": "study", "cases": cases}, views).read(text)


def nodes() -> st.SearchStrategy[Any]:
    """Random grammars in which any text may begin another."""
    words = st.text("ab", min_size=1, max_size=3)
    choices = st.dictionaries(words, words, min_size=1, max_size=3)
    leaf = words | choices.map(lambda of: {"choice": "f", "of": of})

    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return (
            st.lists(inner, max_size=3)
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"either": parts})
            | st.builds(
                lambda part, sep, most: {"repeat": part, "separator": sep, "most": most},
                inner,
                st.text("ab", max_size=1),
                st.integers(1, 3),
            )
            | inner.map(lambda part: {"finding": "k", "text": part})
            | inner.map(lambda part: {"section": "s", "title": "S", "text": part})
        )

    return st.recursive(leaf, grown, max_leaves=8)


@given(nodes(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_whatever_the_automaton_allows_is_read(report: Any, rng: random.Random) -> None:
    spoken = language(report)
    automaton = spoken.automaton(letters)
    text = walk(automaton, rng)
    assert len(text) <= automaton.longest
    spoken.read(text)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (3, "report: expected an object"),
        ({"rule": "x"}, "unknown rule 'x'"),
        ({"either": "a"}, "'either' must be a list"),
        ({"repeat": "a", "separator": "", "most": 10**6}, "'most' is 1000000, allowed 1 to 9"),
        ({"choice": "f", "of": {}}, "'of' must hold texts"),
        ({"choice": "f", "of": {"a": ""}}, "'of' must hold texts"),
        ({"choice": "f", "of": {"a": "a"}, "x": 1}, "unknown field 'x'"),
        ({"by_views": "L", "cases": {"both": "a"}}, "case 'CC' is missing"),
        ({"by_views": "X", "cases": {}}, "'by_views' is 'X'"),
    ],
)
def test_malformed_files(report: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        grammar(report)


def test_a_rule_that_names_itself() -> None:
    with pytest.raises(BundleError, match="nested more than 40 deep"):
        grammar({"rule": "a"}, a=["x", {"rule": "a"}])


def test_a_file_that_expands_to_a_monster() -> None:
    rules = {f"r{i}": [{"rule": f"r{i + 1}"}] * 10 for i in range(15)} | {"r15": "a"}
    with pytest.raises(BundleError, match="expands to more than 50000 parts"):
        grammar({"rule": "r0"}, **rules)
    long = {"repeat": "a" * 50_000, "separator": "", "most": 9}
    with pytest.raises(BundleError, match="more than 200000 states"):
        language(long).automaton(letters)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"grammar\.json is missing"):
        Grammar.open(tmp_path / "grammar.json")
    (tmp_path / "grammar.json").write_text(json.dumps({"report": "a"}))
    with pytest.raises(BundleError, match="'lexicon' must be an object"):
        Grammar.open(tmp_path / "grammar.json")

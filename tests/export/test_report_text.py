"""The reports we write: every one parses, none says what its views cannot show."""

import json
import random
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mammofm_lite._jsonread import Fields
from mammofm_lite.export.report_text import (
    BOS,
    report_grammar,
    report_tokenizer,
    sample_report,
    varied_report_grammar,
)
from mammofm_lite.grammar import Choice, Either, Finding, Grammar, Literal, Node, Series
from mammofm_lite.heads.report import decode_greedily
from mammofm_lite.report import Report, read_report
from mammofm_lite.views import STANDARD_VIEWS, ViewName

VIEW_SETS = [views for n in range(1, 5) for views in combinations(STANDARD_VIEWS, n)]
ONE_VIEW_KINDS = {"calcifications", "architectural_distortion", "asymmetry"}


@pytest.fixture(scope="module", params=[report_grammar, varied_report_grammar])
def grammar(request: pytest.FixtureRequest) -> Grammar:
    return Grammar.parse(Fields(json.loads(json.dumps(request.param())), "grammar.json"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return report_tokenizer()


def check(report: Report, views: Sequence[ViewName]) -> None:
    """What must hold of every report, whatever a network prefers."""
    found = [finding for breast in report.breasts.values() for finding in breast.findings]
    for side, breast in report.breasts.items():
        shown = [view for view in views if view.startswith(side)]
        assert (breast.status == "not_imaged") == (not shown)
        assert (breast.status == "findings") == bool(breast.findings)
        if len(shown) == 1:
            assert {finding.kind for finding in breast.findings} <= ONE_VIEW_KINDS
            places = {f.descriptors["location"] for f in breast.findings}
            assert not any("quadrant" in place for place in places)
    complete = len(views) == 4
    if report.recall:
        assert found
        assert report.birads_estimate == "0"
        assert report.management.startswith("additional_views")
    else:
        assert report.management == ("routine_screening" if complete else "complete_views")
        category = "2" if found else "1"
        assert report.birads_estimate == (category if complete else None)
    assert report.composition in "abcd"
    assert "estimate" in report.text or report.birads_estimate is None
    assert report.lexicon.edition


@pytest.mark.parametrize("views", VIEW_SETS, ids="+".join)
def test_every_sample_is_read_and_coherent(grammar: Grammar, views: tuple[ViewName, ...]) -> None:
    language = grammar.language(views)
    for seed in range(60):
        text = sample_report(language, random.Random(seed))
        check(read_report(grammar, language, text), views)


@given(st.sampled_from(VIEW_SETS), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_any_decoder_writes_a_report(
    grammar: Grammar, tokenizer: Tokenizer, views: tuple[ViewName, ...], rng: random.Random
) -> None:
    """Greedy decoding with random logits: the worst network there could be."""
    import numpy as np

    language = grammar.language(views)
    noise = np.random.default_rng(rng.randrange(2**32))
    size = tokenizer.get_vocab_size()
    seen: list[tuple[int, int]] = []

    def logits(token: int, position: int) -> np.ndarray:
        seen.append((token, position))
        return noise.standard_normal(size).astype(np.float32)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    tokens = decode_greedily(language.automaton(encode), logits)
    check(read_report(grammar, language, tokenizer.decode(tokens)), views)
    assert seen == list(zip([0, *tokens[:-1]], range(len(tokens)), strict=True))


def test_a_report_in_words_and_fields(grammar: Grammar) -> None:
    language = grammar.language(STANDARD_VIEWS)
    text = (
        "There are scattered areas of fibroglandular tissue (b).\n"
        "No finding.\n"
        "Mass: irregular, spiculated, high density; upper outer quadrant, middle third.\n"
        "No earlier examination was read.\n"
        "Recall suggested. The model's estimate of the BI-RADS category: 0.\n"
        "Recall for additional mammographic views."
    )
    report = read_report(grammar, language, text)
    assert report.composition == "b"
    assert report.breasts["R"].status == "no_findings"
    (mass,) = report.breasts["L"].findings
    assert mass.kind == "mass"
    assert dict(mass.descriptors) == {
        "shape": "irregular",
        "margin": "spiculated",
        "density": "high",
        "location": "upper_outer_quadrant",
        "depth": "middle",
    }
    assert report.recall
    assert [section.title for section in report.sections] == [
        "Composition",
        "Right breast",
        "Left breast",
        "Comparison",
        "Assessment",
        "Management",
    ]
    assert report.text.splitlines()[2].startswith("Left breast: Mass: irregular, spiculated")


def test_the_tokenizer_is_exact_and_repeatable(grammar: Grammar, tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id(BOS) == 0
    assert report_tokenizer().to_str() == tokenizer.to_str()
    language = grammar.language(STANDARD_VIEWS)
    for seed in range(50):
        text = sample_report(language, random.Random(seed))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text


def test_words_never_decide_a_fact(grammar: Grammar) -> None:
    """A value is told by one text; alternatives are words alone, or differ in what they tell."""

    def first_told(node: Node) -> tuple[str, ...]:
        match node:
            case Choice(name, options):
                return name, *(value for value, _ in options)
            case Finding(kind):
                return ("finding", kind)
            case Series(parts) if parts:
                return first_told(parts[0])
        return ()

    def check_node(node: Node) -> None:
        match node:
            case Choice(_, options):
                assert len({value for value, _ in options}) == len(options)
            case Either(parts):
                words = [isinstance(part, Literal) for part in parts]
                assert all(words) or not any(words)
                told = [first for part in parts if (first := first_told(part))]
                assert len(set(told)) == len(told)
        inner = getattr(node, "parts", ()) or filter(None, [getattr(node, "part", None)])
        for part in inner:
            check_node(part)

    for views in VIEW_SETS:
        check_node(grammar.language(views).root)


def test_what_is_written_is_cut_as_what_was_taught() -> None:
    """The first words, in the same pieces: a decoder meets no token that it never learned."""
    written, taught = (
        Grammar.parse(Fields(grammar(), "grammar.json"))
        for grammar in (report_grammar, varied_report_grammar)
    )
    tokenizer = report_tokenizer()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    for views in VIEW_SETS:
        own, all_words = (one.language(views).automaton(encode) for one in (written, taught))
        for seed in range(20):
            rng, tokens = random.Random(seed), []
            states, known = own.start, all_words.start
            while allowed := own.allowed(states):
                assert set(allowed) <= set(all_words.allowed(known))
                tokens.append(rng.choice(allowed))
                states, known = own.after(states, tokens[-1]), all_words.after(known, tokens[-1])
            assert all_words.complete(known)
            text = tokenizer.decode(tokens)
            assert "abnormality is seen" not in text
            assert "BI-RADS category as" not in text
            read_report(taught, taught.language(views), text)

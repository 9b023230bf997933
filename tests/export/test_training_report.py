"""Every truth of a phantom becomes a report that the grammar reads back to the same fields."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammofm_lite.errors import ExportError
from mammofm_lite.export.report_text import DESCRIPTORS, MOST_FINDINGS
from mammofm_lite.export.training.network import KINDS, ReportWords
from mammofm_lite.export.training.report_truth import Wanted, report_pieces, wanted_report
from mammofm_lite.phantom import PhantomLesion, PhantomTruth
from mammofm_lite.report import read_report
from mammofm_lite.views import STANDARD_VIEWS, ViewName

VIEW_SETS = [views for n in range(1, 5) for views in combinations(STANDARD_VIEWS, n)]


@pytest.fixture(scope="module")
def words() -> ReportWords:
    return ReportWords()


@st.composite
def lesions(draw: st.DrawFn) -> PhantomLesion:
    kind = draw(st.sampled_from(KINDS))
    names = {
        "mass": ("shape", "margin", "density"),
        "calcifications": ("morphology", "distribution"),
    }
    descriptors = {name: DESCRIPTORS[name] for name in names.get(kind, ())}
    return PhantomLesion(
        kind=kind,
        laterality=draw(st.sampled_from(["L", "R"])),
        malignant=False,
        suspicious=draw(st.booleans()),
        benign_type=None,
        descriptors={name: draw(st.sampled_from(values)) for name, values in descriptors.items()},
        quadrant=draw(
            st.sampled_from(["upper outer", "upper inner", "lower outer", "lower inner"])
        ),
        clock=12,
        depth=draw(st.sampled_from(["anterior", "middle", "posterior"])),
        nipple_depth_mm=30.0,
        diameter_mm=10.0,
        boxes_px={},
        contrast_to_noise={},
    )


def truth_of(density: str, found: list[PhantomLesion]) -> PhantomTruth:
    recall = any(lesion.suspicious for lesion in found)
    return PhantomTruth(0, density, tuple(found), 0.0, None, False, recall, None, (0.0,) * 5)


@given(
    st.sampled_from("abcd"),
    st.lists(lesions(), max_size=6),
    st.sampled_from(VIEW_SETS),
    st.none() | st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_a_truth_is_read_back(
    words: ReportWords,
    density: str,
    found: list[PhantomLesion],
    views: tuple[ViewName, ...],
    wording: int | None,
) -> None:
    language = words.grammar.language(views)
    wanted = wanted_report(truth_of(density, found), views)
    random = None if wording is None else np.random.default_rng(wording)
    pieces = report_pieces(wanted, language, random)
    text = "".join(piece.text for piece in pieces)
    told = [f.lesion for side in "RL" for f in wanted.findings[side]]  # type: ignore[index]
    assert list(dict.fromkeys(p.lesion for p in pieces if p.lesion is not None)) == told
    report = read_report(words.grammar, language, text)
    assert report.composition == density
    assert report.recall == wanted.recall
    assert report.management == wanted.fields["management"]
    for side, breast in report.breasts.items():
        assert [(f.kind, dict(f.descriptors)) for f in breast.findings] == [
            (finding.kind, dict(finding.descriptors)) for finding in wanted.findings[side]
        ]
        shown = {view[2:] for view in views if view.startswith(side)}
        own = [lesion for lesion in found if lesion.laterality == side]
        if shown == {"CC", "MLO"}:
            assert len(breast.findings) == min(len(own), MOST_FINDINGS)
            told = {f.descriptors["location"] for f in breast.findings}
            assert told <= {lesion.quadrant.replace(" ", "_") + "_quadrant" for lesion in own}
        elif shown == {"CC"}:
            assert {f.descriptors["location"] for f in breast.findings} <= {
                f"{lesion.quadrant.split()[1]}_half" for lesion in own
            }
        elif not shown:
            assert breast.status == "not_imaged"


@given(st.lists(lesions(), max_size=6))
@settings(max_examples=50, deadline=None)
def test_all_views_recall_what_is_suspicious(found: list[PhantomLesion]) -> None:
    truth = truth_of("b", found)
    assert wanted_report(truth).recall == truth.recall


def test_the_pieces_are_cut_as_the_automaton_goes(words: ReportWords) -> None:
    language = words.grammar.language(STANDARD_VIEWS)
    wanted = wanted_report(truth_of("c", []))
    pieces = report_pieces(wanted, language, np.random.default_rng(0))
    automaton = language.automaton(words.encode)
    states = automaton.start
    for token in (token for piece in pieces for token in words.encode(piece.text)):
        assert token in automaton.allowed(states)
        states = automaton.after(states, token)
    assert automaton.complete(states)


def test_the_same_is_said_in_varied_words(words: ReportWords) -> None:
    language, wanted = words.grammar.language(STANDARD_VIEWS), wanted_report(truth_of("c", []))
    random = np.random.default_rng(0)
    texts = {
        "".join(piece.text for piece in report_pieces(wanted, language, random)) for _ in range(200)
    }
    assert len(texts) > 40
    read = [read_report(words.grammar, language, text) for text in texts]
    assert {(report.composition, report.management, report.recall) for report in read} == {
        ("c", "routine_screening", False)
    }


def test_wording_is_what_could_be_said_otherwise(words: ReportWords) -> None:
    """The pieces that differ between wordings, and no others."""
    language, wanted = words.grammar.language(STANDARD_VIEWS), wanted_report(truth_of("c", []))
    random = np.random.default_rng(0)
    drawn = [report_pieces(wanted, language, random) for _ in range(50)]
    assert len({tuple(piece.wording for piece in pieces) for pieces in drawn}) == 1
    for place, piece in enumerate(drawn[0]):
        assert (len({pieces[place].text for pieces in drawn}) > 1) == piece.wording


def test_what_the_grammar_cannot_say_is_refused(words: ReportWords) -> None:
    wanted = wanted_report(truth_of("c", []))
    odd = Wanted({**wanted.fields, "composition": "e"}, wanted.findings)
    with pytest.raises(ExportError, match="no words for the truth of a phantom"):
        report_pieces(odd, words.grammar.language(STANDARD_VIEWS))

"""The measures against independent truths: scipy, closed forms, brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mammofm_lite.export.quality.metrics import (
    FALSE_MARK,
    IGNORED_MARK,
    Froc,
    Scores,
    auc,
    bootstrap,
    calibration_error,
    calibration_floor,
    counted,
    interval,
    match_marks,
    precision_recall_f1,
)

# Few distinct scores, so that ties are common.
ANSWERS = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60)


@given(ANSWERS)
def test_auc_is_that_of_mann_whitney_with_ties(answers: list[tuple[bool, int]]) -> None:
    positive = np.array([yes for yes, _ in answers])
    score = np.array([value for _, value in answers], float)
    if positive.all() or not positive.any():
        assert np.isnan(auc(positive, score))
        return
    u = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic").statistic
    assert auc(positive, score) == pytest.approx(
        u / (positive.sum() * (~positive).sum()), abs=1e-12
    )


def test_auc_of_two_normals_is_its_closed_form() -> None:
    random = np.random.default_rng(1)
    positive = np.repeat([True, False], 100_000)
    score = random.normal(size=200_000) + positive
    # Standard error of the AUC at this size is below 0.0012.
    assert auc(positive, score) == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.005)


def test_calibration_error_by_hand() -> None:
    # Bin 0.2-0.3: claims 0.2 and 0.28, half true; last bin: claims 1.0, true.
    value = calibration_error([True, False, True], [0.2, 0.28, 1.0], bins=10)
    assert value == pytest.approx((abs(1 - 0.48) + 0) / 3)
    assert np.isnan(calibration_error([], []))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=50))
def test_calibration_error_by_brute_force(answers: list[tuple[bool, float]]) -> None:
    total = 0.0
    for i in range(10):
        inside = [(y, p) for y, p in answers if min(int(p * 10), 9) == i]
        if inside:
            true, claimed = np.mean(inside, axis=0)
            total += len(inside) / len(answers) * abs(true - claimed)
    assert calibration_error(*zip(*answers, strict=True)) == pytest.approx(total, abs=1e-12)


def test_an_exact_model_has_its_floor_and_a_constant_gap_shows() -> None:
    random = np.random.default_rng(2)
    claimed = random.uniform(size=20_000)
    true = random.uniform(size=20_000) < claimed
    floor = calibration_floor(claimed, draws=50)
    # The mean absolute scatter of 10 bins of 2000: sqrt(2/pi) E sqrt(p(1-p)/2000).
    expected = np.sqrt(2 / np.pi) * np.pi / 8 / np.sqrt(2000)
    assert floor == pytest.approx(expected, rel=0.15)
    assert calibration_error(true, claimed) == pytest.approx(floor, abs=0.005)
    # Claims halved: the gap in each bin is the claim itself, on average 0.25.
    assert calibration_error(true, claimed / 2) == pytest.approx(0.25, abs=0.01)


def test_what_is_true_and_said_is_counted_as_often_as_it_is() -> None:
    assert counted("aab", "aac") == (2, 1, 1)
    assert counted("ab", "aab") == (2, 1, 0)
    assert counted("", "") == (0, 0, 0)


def test_precision_recall_f1() -> None:
    assert precision_recall_f1(6, 2, 4) == (0.75, 0.6, pytest.approx(2 * 0.75 * 0.6 / 1.35))
    assert np.isnan(precision_recall_f1(0, 0, 0)).all()
    precision, recall, f1 = precision_recall_f1(0, 3, 0)
    assert (precision, f1) == (0.0, 0.0)
    assert np.isnan(recall)


# -------------------- intervals


def test_the_bootstrap_of_a_mean_is_normal_and_seeded() -> None:
    values = np.random.default_rng(3).normal(size=400)

    def mean(indices: np.ndarray) -> float:
        return float(values[indices].mean())

    drawn = bootstrap(mean, 400, replicates=4000, seed=5)
    found = interval(drawn)
    assert found is not None
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.008)
    assert found.high == pytest.approx(values.mean() + half, abs=0.008)
    assert np.array_equal(drawn, bootstrap(mean, 400, replicates=4000, seed=5))
    assert not np.array_equal(drawn, bootstrap(mean, 400, replicates=4000, seed=6))


def test_no_interval_where_the_figure_is_often_undefined() -> None:
    assert interval([0.5] * 80 + [float("nan")] * 20) is None
    assert interval([0.5] * 95 + [float("nan")] * 5) == (0.5, 0.5)
    assert interval([]) is None


# -------------------- localization


def test_a_mark_hits_by_its_centre_or_by_overlap() -> None:
    lesion = [[10, 10, 20, 20]]
    assert match_marks([[0, 0, 30, 30]], lesion) == [0]  # the centre, though the IoU is 1/9
    assert match_marks([[15, 10, 25.5, 20]], lesion) == [0]  # centre outside, IoU 50 / 155
    assert match_marks([[15.5, 10, 25.5, 20]], lesion) == [FALSE_MARK]  # IoU 45 / 155


def test_a_lesion_is_hit_once() -> None:
    lesions = [[10, 10, 20, 20], [12, 12, 22, 22]]
    mark = [12, 12, 22, 22]
    assert match_marks([mark, mark, mark], lesions) == [1, 0, FALSE_MARK]


def test_a_mark_on_what_the_head_does_not_know_is_spared() -> None:
    mark, elsewhere = [0, 0, 10, 10], [50, 50, 60, 60]
    assert match_marks([mark, elsewhere], [], [mark]) == [IGNORED_MARK, FALSE_MARK]
    # Where it lies on both, the known lesion counts.
    assert match_marks([mark, mark], [mark], [mark]) == [0, FALSE_MARK]


def test_no_marks_and_no_lesions() -> None:
    assert match_marks([], [[0, 0, 1, 1]]) == []
    assert match_marks([[0, 0, 1, 1]], []) == [FALSE_MARK]


BOXES = st.lists(
    st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(2, 8)] * 2).map(
        lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    ),
    max_size=8,
)


@given(BOXES, BOXES)
def test_fewer_marks_match_as_the_first_of_more(marks: list, lesions: list) -> None:
    """A threshold may be set after the matching."""
    whole = match_marks(marks, lesions)
    for count in range(len(marks)):
        assert match_marks(marks[:count], lesions) == whole[:count]
    hits = [place for place in whole if place >= 0]
    assert len(hits) == len(set(hits))


STUDIES = st.lists(
    st.builds(
        Scores,
        st.lists(st.integers(0, 9).map(float), max_size=6),
        st.lists(st.sampled_from([float("-inf"), *map(float, range(10))]), max_size=4),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=8,
)


def brute_sensitivity(studies: list[Scores], rate: float) -> float:
    """The best sensitivity of all thresholds that keep within the rate."""
    false = [score for study in studies for score in study.false]
    hits = [score for study in studies for score in study.hits]
    images = sum(study.images for study in studies)
    best = 0.0
    for bar in [-1.0, *range(10)]:
        if sum(score > bar for score in false) <= rate * images:
            best = max(best, sum(score > bar for score in hits) / len(hits))
    return best


@given(STUDIES, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.randoms(use_true_random=False))
def test_froc_by_brute_force(studies: list[Scores], rate: float, random: object) -> None:
    drawn = np.array([random.randrange(len(studies)) for _ in studies])  # type: ignore[attr-defined]
    for indices, sample in ((None, studies), (drawn, [studies[i] for i in drawn])):
        found = Froc(studies).sensitivity(rate, indices)
        if not any(study.hits for study in sample):
            assert np.isnan(found)
        else:
            assert found == pytest.approx(brute_sensitivity(sample, rate))


def test_froc_of_some_targets_keeps_the_bar_of_all() -> None:
    froc = Froc([Scores([0.5, 0.4], [0.9, 0.45], 2), Scores([], [0.2], 2)])
    assert froc.bar(0.25) == 0.4  # one false mark in four images: the second is one too many
    assert froc.sensitivity(0.25) == pytest.approx(2 / 3)
    assert froc.sensitivity(0.25, among=np.array([False, True, True])) == pytest.approx(0.5)
    assert froc.sensitivity(0.5) == 1.0

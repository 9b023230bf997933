"""Measures of answers against the truth: pure functions of arrays.

A measure that a sample does not define (an AUC of one class only, a share of nothing) is ``nan``,
never a number that looks like an answer.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FALSE_MARK",
    "IGNORED_MARK",
    "Froc",
    "Interval",
    "Scores",
    "auc",
    "bootstrap",
    "calibration_error",
    "calibration_floor",
    "counted",
    "interval",
    "match_marks",
    "precision_recall_f1",
]

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

FALSE_MARK: Final = -1
IGNORED_MARK: Final = -2
HIT_IOU: Final = 0.3


def auc(positive: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(a positive scores higher) + P(equal) / 2.

    Mann-Whitney's U from midranks (Hanley and McNeil 1982, 10.1148/radiology.143.1.7063747).

    Parameters
    ----------
    positive, score
        bool [n] and float [n].
    """
    truth, values = np.asarray(positive, bool), np.asarray(score, np.float64)
    ones = int(truth.sum())
    zeros = len(truth) - ones
    if not ones or not zeros:
        return float("nan")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    midranks = (last - (counts - 1) / 2)[place]
    return float((midranks[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def calibration_error(positive: npt.ArrayLike, probability: npt.ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean absolute gap between claimed and true share, by bins.

    Bins of equal width over 0 to 1, weighted by the answers in them; the last one holds 1 (Guo et
    al. 2017, arXiv 1706.04599, equation 3).
    """
    truth, claimed = np.asarray(positive, np.float64), np.asarray(probability, np.float64)
    if not len(truth):
        return float("nan")
    place = np.minimum((claimed * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, truth - claimed, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


def calibration_floor(
    probability: npt.ArrayLike, bins: int = 10, *, draws: int = 500, seed: int = 0
) -> float:
    """The calibration error that these very answers would show if they were exactly right.

    With few studies it is well above 0, because true shares in a bin scatter; outcomes are drawn
    from the probabilities themselves.
    """
    claimed = np.asarray(probability, np.float64)
    random = np.random.default_rng(seed)
    errors = [
        calibration_error(random.random(len(claimed)) < claimed, claimed, bins)
        for _ in range(draws)
    ]
    return float(np.mean(errors))


def counted(true: Iterable[Hashable], said: Iterable[Hashable]) -> tuple[int, int, int]:
    """How many things are true and said, said only, and true only; alike ones are counted."""
    there, told = Counter(true), Counter(said)
    return (there & told).total(), (told - there).total(), (there - told).total()


def precision_recall_f1(true: int, false: int, missed: int) -> tuple[float, float, float]:
    """Of counts: found and true, found and false, missed. ``nan`` where nothing is counted."""
    precision = true / (true + false) if true + false else float("nan")
    recall = true / (true + missed) if true + missed else float("nan")
    counted = 2 * true + false + missed
    return precision, recall, 2 * true / counted if counted else float("nan")


# -------------------- intervals


class Interval(NamedTuple):
    """A range from `low` to `high`."""

    low: float
    high: float


def bootstrap(
    statistic: Callable[[Whole], float], count: int, *, replicates: int = 1000, seed: int = 0
) -> Floats:
    """A statistic of resampled studies, float64 [replicates].

    `statistic` is given the indices, int64 [count], drawn with replacement from 0 to `count` - 1.
    The same seed draws the same studies, so that differences of two statistics are paired.
    """
    random = np.random.default_rng(seed)
    drawn = (random.integers(0, count, count) for _ in range(replicates if count else 0))
    return np.array([statistic(indices) for indices in drawn], np.float64)


def interval(replicates: npt.ArrayLike, level: float = 0.95) -> Interval | None:
    """Percentile interval; ``None`` where more than a tenth of the replicates are undefined."""
    values = np.asarray(replicates, np.float64)
    known = values[np.isfinite(values)]
    if not len(known) or len(known) < 0.9 * len(values):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


# -------------------- localization


def match_marks(
    marks: npt.ArrayLike, targets: npt.ArrayLike, ignored: npt.ArrayLike = ()
) -> list[int]:
    """What each mark of one image hits.

    A mark hits a target when its centre lies in the target's box (as in Ribli et al. 2018,
    10.1038/s41598-018-22437-z), or the two boxes overlap by an IoU of 0.3 or more. Marks are taken
    in the given order, by falling score; each hits at most one target and each target is hit once:
    of several the one with the largest IoU. A second mark on a target is false.

    Parameters
    ----------
    marks, targets, ignored
        float [n, 4], boxes x1, y1, x2, y2. What hits nothing else but an `ignored` box is neither
        right nor false.

    Returns
    -------
    list
        Per mark the index of its target, `FALSE_MARK` or `IGNORED_MARK`.
    """
    found, known, spared = (_boxes(boxes) for boxes in (marks, targets, ignored))
    hits, overlap = _hits(found, known)
    pardoned = _hits(found, spared)[0].any(axis=1)
    free = np.ones(len(known), bool)
    matched = []
    for row, shares, pardon in zip(hits, overlap, pardoned, strict=True):
        usable = row & free
        if usable.any():
            target = int(np.argmax(np.where(usable, shares, -1.0)))
            free[target] = False
            matched.append(target)
        else:
            matched.append(IGNORED_MARK if pardon and not row.any() else FALSE_MARK)
    return matched


def _boxes(boxes: npt.ArrayLike) -> Floats:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _hits(marks: Floats, targets: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Whether marks hit targets, bool [marks, targets], and their IoU."""
    a, b = marks[:, None], targets[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(size, 0, None).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b)]
    overlap = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    centre = (a[..., :2] + a[..., 2:]) / 2
    inside = ((centre >= b[..., :2]) & (centre <= b[..., 2:])).all(axis=-1)
    return inside | (overlap >= HIT_IOU), overlap


class Scores(NamedTuple):
    """Of one study: scores of its false marks, of the marks that hit each target, its images.

    A target that no mark hits has ``-inf``.
    """

    false: Sequence[float]
    hits: Sequence[float]
    images: int


class Froc:
    """Free-response curve of many studies: sensitivity at a rate of false marks per image.

    Chakraborty 2006, 10.1088/0031-9155/51/14/012. Sensitivity counts every target in every image.
    """

    def __init__(self, studies: Sequence[Scores]) -> None:
        self._images = np.array([study.images for study in studies], np.float64)
        false = [(score, i) for i, study in enumerate(studies) for score in study.false]
        false.sort(reverse=True)
        self._false = np.array([score for score, _ in false], np.float64)
        self._false_study = np.array([i for _, i in false], np.int64)
        self._hits = np.array([score for study in studies for score in study.hits], np.float64)
        self._hit_study = np.repeat(np.arange(len(studies)), [len(s.hits) for s in studies])

    def bar(self, rate: float, indices: Whole | None = None) -> float:
        """The score that a mark must exceed, so that at most `rate` false ones stand per image.

        `indices` resamples the studies.
        """
        weights = self._weights(indices)
        count = np.cumsum(weights[self._false_study])
        # Equal scores pass or fail together: the first that is one too many is the bar.
        too_many = np.searchsorted(count, rate * float(weights @ self._images), side="right")
        return float(self._false[too_many]) if too_many < len(count) else -np.inf

    def sensitivity(
        self,
        rate: float,
        indices: Whole | None = None,
        among: npt.NDArray[np.bool_] | None = None,
    ) -> float:
        """Share of the targets that are hit at `rate`; `among`, bool [targets], picks some.

        The bar is that of all marks, whichever targets are picked.
        """
        weights = self._weights(indices)[self._hit_study]
        if among is not None:
            weights = weights * among
        if not weights.sum():
            return float("nan")
        return float(weights @ (self._hits > self.bar(rate, indices)) / weights.sum())

    def _weights(self, indices: Whole | None) -> Floats:
        if indices is None:
            return np.ones(len(self._images))
        return np.bincount(indices, minlength=len(self._images)).astype(np.float64)

"""From the records of many studies to the figures that are claimed, each with its interval."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .metrics import (
    Froc,
    auc,
    bootstrap,
    calibration_error,
    calibration_floor,
    counted,
    interval,
    precision_recall_f1,
)
from .records import Record

__all__ = ["CALIBRATION_BINS", "FALSE_MARKS_PER_IMAGE", "Measure", "confusion", "measures"]

CALIBRATION_BINS: Final = 10
FALSE_MARKS_PER_IMAGE: Final = 0.5
SIZES_MM: Final = ((0.0, 10.0), (10.0, 20.0), (20.0, float("inf")))
YEARS: Final = (1, 2, 3, 4, 5)
DENSITIES: Final = ("a", "b", "c", "d")
THIRDS: Final = ("small", "middle", "large")

Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Statistic = Callable[[Whole], float]


@dataclass(frozen=True)
class Measure:
    """One figure to be: `statistic` of resampled studies, over `count` studies or targets.

    `target` is to be reached from below where `higher` is better, else not to be exceeded. A
    measure is of `quality` where a fall of it would count against a quantized bundle.
    """

    name: str
    group: str
    text: str
    statistic: Statistic
    count: int
    target: float | None = None
    higher: bool = True
    quality: bool = False

    def figure(self, studies: int, replicates: int) -> tuple[dict[str, Any], npt.NDArray[Any]]:
        """The figure as JSON types, and the bootstrap's values behind its interval."""
        value = self.statistic(np.arange(studies))
        drawn = bootstrap(self.statistic, studies, replicates=replicates)
        between = interval(drawn)
        figure = {
            "name": self.name,
            "group": self.group,
            "text": self.text,
            "value": _number(value),
            "low": between.low if between else None,
            "high": between.high if between else None,
            "n": self.count,
            "target": self.target,
            "higher_is_better": self.higher,
            "met": self._met(value),
        }
        return figure, drawn

    def _met(self, value: float) -> bool | None:
        if self.target is None or not np.isfinite(value):
            return None
        return bool(value >= self.target if self.higher else value <= self.target)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def measures(records: Sequence[Record], heads: Sequence[str], *, shifted: bool) -> list[Measure]:
    """All measures of one bundle on the studies of one condition.

    Parameters
    ----------
    heads
        Those that the bundle has; the others give no measure. A diagnosis head is measured on the
        labels ``malignancy`` and ``density`` where it has them.
    shifted
        The studies are unlike those of the training, and the targets of such hold.
    """
    found: list[Measure] = []
    if all(record.malignancy is not None for record in records):
        found += _malignancy(records, 0.90 if shifted else 0.95)
    if all(record.density is not None for record in records):
        found += _density(records)
    if "localization" in heads:
        found += _localization(records)
    if "report" in heads:
        found += _report(records)
    if "prognosis" in heads:
        found += _prognosis(records)
    return found


def confusion(records: Sequence[Record]) -> list[list[int]]:
    """Density: rows are true a to d, columns answered a to d."""
    counts = Counter((record.known.density, record.density) for record in records)
    return [[counts[true, said] for said in DENSITIES] for true in DENSITIES]


def _array(records: Sequence[Record], read: Callable[[Record], Any]) -> npt.NDArray[Any]:
    return np.array([read(record) for record in records])


def _share(right: npt.NDArray[Any]) -> Statistic:
    return lambda indices: float(right[indices].mean())


def _thirds(records: Sequence[Record]) -> dict[str, Flags]:
    """Studies by breast size, in thirds of those at hand."""
    size = _array(records, lambda record: record.breast_cm2)
    edges = np.quantile(size, [1 / 3, 2 / 3])
    place = np.searchsorted(edges, size, side="right")
    return {f"{name} breasts": place == i for i, name in enumerate(THIRDS)}


def _subgroups(records: Sequence[Record]) -> dict[str, Flags]:
    density = _array(records, lambda record: record.known.density)
    return {f"density {d}": density == d for d in DENSITIES} | _thirds(records)


# -------------------- diagnosis


def _malignancy(records: Sequence[Record], target: float) -> list[Measure]:
    true = _array(records, lambda record: record.known.malignant)
    claimed = _array(records, lambda record: record.malignancy)
    n, bins = len(records), CALIBRATION_BINS
    floor = calibration_floor(claimed, bins)

    def area(indices: Whole, among: Flags | None = None) -> float:
        chosen = indices if among is None else indices[among[indices]]
        return auc(true[chosen], claimed[chosen])

    group = "diagnosis"
    main = Measure("auc", group, "malignancy AUC of the study", area, n, target, quality=True)
    error = Measure(
        "calibration_error",
        group,
        f"calibration error, {bins} bins (an exact model of these answers: {floor:.3f})",
        lambda indices: calibration_error(true[indices], claimed[indices], bins),
        n,
        0.05,
        higher=False,
        quality=True,
    )
    parts = [
        Measure(
            f"auc, {name}",
            group,
            f"malignancy AUC, {name}",
            lambda indices, among=among: area(indices, among),  # type: ignore[misc]
            int(among.sum()),
        )
        for name, among in _subgroups(records).items()
    ]
    return [main, error, *parts]


def _density(records: Sequence[Record]) -> list[Measure]:
    right = _array(records, lambda record: record.density == record.known.density)
    main = Measure(
        "density",
        "diagnosis",
        "density accuracy",
        _share(right),
        len(records),
        0.85,
        quality=True,
    )
    parts = [
        Measure(
            f"density, {name}",
            "diagnosis",
            f"density accuracy, {name}",
            _share_among(right, among),
            int(among.sum()),
        )
        for name, among in _subgroups(records).items()
    ]
    return [main, *parts]


def _share_among(right: npt.NDArray[Any], among: Flags) -> Statistic:
    def share(indices: Whole) -> float:
        chosen = indices[among[indices]]
        return float(right[chosen].mean()) if len(chosen) else float("nan")

    return share


# -------------------- localization


def _localization(records: Sequence[Record]) -> list[Measure]:
    targets = [target for record in records for target in record.targets]
    study = np.repeat(np.arange(len(records)), [len(record.targets) for record in records])
    froc = Froc([record.scores for record in records])
    rate = FALSE_MARKS_PER_IMAGE
    group, title = "localization", f"sensitivity at {rate} false marks per image"

    def sensitivity(name: str, among: Flags | None, **more: Any) -> Measure:
        return Measure(
            f"sensitivity{name and ', '}{name}",
            group,
            f"{title}{name and ', '}{name}",
            lambda indices: froc.sensitivity(rate, indices, among),
            len(targets) if among is None else int(among.sum()),
            **more,
        )

    main = sensitivity("", None, target=0.85, quality=True)
    parts = _target_groups(targets) | {
        name: among[study] for name, among in _subgroups(records).items()
    }
    return [
        main,
        *(sensitivity(name, among) for name, among in parts.items()),
        *_at_threshold(records, np.array([target.found for target in targets], bool), study),
        *_by_lesion(records),
    ]


def _target_groups(targets: Sequence[Any]) -> dict[str, Flags]:
    kind = np.array([target.kind for target in targets])
    size = np.array([target.diameter_mm for target in targets], np.float64)
    groups = {"malignant": np.array([target.malignant for target in targets], bool)}
    groups |= {name.replace("_", " "): kind == name for name in sorted(set(kind.tolist()))}
    for low, high in SIZES_MM:
        name = f"{low:.0f} to {high:.0f} mm" if np.isfinite(high) else f"from {low:.0f} mm"
        groups[name] = (size >= low) & (size < high)
    return groups


def _at_threshold(records: Sequence[Record], found: Flags, study: Whole) -> list[Measure]:
    false = _array(records, lambda record: record.false_marks)
    images = _array(records, lambda record: record.images)
    hits = np.bincount(study, found, minlength=len(records))
    sought = np.bincount(study, minlength=len(records))
    named = _array(records, lambda record: sum(target.named for target in record.targets))
    group = "localization"
    return [
        Measure(
            "sensitivity at threshold",
            group,
            "sensitivity at the bundle's threshold",
            _ratio(hits, sought),
            len(found),
        ),
        Measure(
            "false marks",
            group,
            "false marks per image at the bundle's threshold",
            _ratio(false, images),
            int(images.sum()),
            higher=False,
        ),
        Measure(
            "label",
            group,
            "right label among hits at the threshold",
            _ratio(named, hits),
            int(hits.sum()),
        ),
    ]


def _by_lesion(records: Sequence[Record]) -> list[Measure]:
    """A lesion counts as found when a mark in either of its views hits it."""
    found = _array(records, lambda record: len({t.lesion for t in record.targets if t.found}))
    sought = _array(records, lambda record: len({target.lesion for target in record.targets}))
    text = "lesions found in one view at least, at the bundle's threshold"
    count = int(sought.sum())
    return [Measure("lesions found", "localization", text, _ratio(found, sought), count)]


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Statistic:
    def ratio(indices: Whole) -> float:
        total = below[indices].sum()
        return float(above[indices].sum() / total) if total else float("nan")

    return ratio


# -------------------- report


def _report(records: Sequence[Record]) -> list[Measure]:
    parsed = _array(records, lambda record: record.findings is not None)
    recall = _array(records, lambda record: record.report_recall == record.known.recall)
    suggested = _array(records, lambda record: record.suggested == record.known.recall)
    unflagged = _array(records, lambda record: record.unflagged)
    contradicting = _array(records, lambda record: record.contradictions > 0)
    n, group = len(records), "report"
    return [
        Measure("parsed", group, "reports that parse", _share(parsed), n, 1.0, quality=True),
        *_findings(records),
        Measure(
            "recall", group, "recall decision of the report", _share(recall), n, 0.90, quality=True
        ),
        Measure("suggestion", group, "recall suggested by all heads", _share(suggested), n),
        Measure(
            "unflagged",
            group,
            "contradictions with other heads that carry no flag, per study",
            _share(unflagged),
            n,
            0.0,
            higher=False,
        ),
        Measure(
            "contradicting",
            group,
            "studies whose report contradicts another head",
            _share(contradicting),
            n,
            higher=False,
        ),
    ]


def _findings(records: Sequence[Record]) -> list[Measure]:
    """A report that does not parse has missed every finding."""
    counts = np.array(
        [counted(record.known.findings, record.findings or ()) for record in records], np.int64
    )
    named = ("precision", "recall of findings", "f1")
    texts = ("finding precision", "finding recall", "finding F1")
    total = int(counts[:, 0].sum() + counts[:, 2].sum())

    def statistic(place: int) -> Statistic:
        return lambda indices: precision_recall_f1(*counts[indices].sum(axis=0).tolist())[place]

    return [
        Measure(
            name,
            "report",
            f"{text} on kind, side and location",
            statistic(place),
            total,
            0.85 if name == "f1" else None,
            quality=name == "f1",
        )
        for place, (name, text) in enumerate(zip(named, texts, strict=True))
    ]


# -------------------- prognosis


def _prognosis(records: Sequence[Record]) -> list[Measure]:
    everyone = np.ones(len(records), bool)
    unseen = ~_array(records, lambda record: record.known.malignant)
    years = [year for year in YEARS if all(year in (record.risks or {}) for record in records)]
    found: list[Measure] = []
    for name, among in (("", everyone), ("no visible cancer", unseen)):
        for year in years:
            found += _year(records, year, name, among)
    return found


def _year(records: Sequence[Record], year: int, name: str, among: Flags) -> list[Measure]:
    time = _array(records, lambda r: r.known.years_to_cancer)
    cancer = np.array([value is not None and value <= year for value in time], bool)
    said = _array(records, lambda record: (record.risks or {})[year])
    best = _array(records, lambda record: record.known.risk_by_year[year - 1])

    def area(scores: npt.NDArray[Any]) -> Statistic:
        def statistic(indices: Whole) -> float:
            chosen = indices[among[indices]]
            return auc(cancer[chosen], scores[chosen])

        return statistic

    def way(indices: Whole) -> float:
        possible = area(best)(indices) - 0.5
        return (area(said)(indices) - 0.5) / possible if possible > 0 else float("nan")

    of, count = name and f", {name}", int(among.sum())
    return [
        Measure(
            f"year {year}{of}",
            "prognosis",
            f"AUC of year {year}{of} ({int(cancer[among].sum())} cancers)",
            area(said),
            count,
            quality=not name,
        ),
        Measure(
            f"best year {year}{of}",
            "prognosis",
            f"best possible AUC of year {year}{of}, from the known hazard",
            area(best),
            count,
        ),
        Measure(
            f"way year {year}{of}",
            "prognosis",
            f"share of the way from 0.5 to it, year {year}{of}",
            way,
            count,
            0.85,
        ),
    ]

"""Prognosis: per-year scores, never-decreasing risk, and where left and right differ most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..bundle import PrognosisMember, PrognosisSpec
from ..errors import BundleError
from ..geometry import ViewGeometry
from ..results import AsymmetryMap, AsymmetryPeak, Box, PrognosisResult, YearRisk
from ..views import Projection, ViewName, laterality

__all__ = ["PROJECTIONS", "interpret_prognosis", "usable_projections"]

Outputs = Mapping[str, npt.NDArray[np.generic]]

PROJECTIONS: tuple[Projection, Projection] = ("CC", "MLO")


def usable_projections(views: Mapping[ViewName, object]) -> tuple[Projection, ...]:
    """Projections of which both breasts are there: asymmetry needs a pair."""
    return tuple(p for p in PROJECTIONS if f"L-{p}" in views and f"R-{p}" in views)


def interpret_prognosis(
    spec: PrognosisSpec,
    outputs: Sequence[Outputs],
    geometries: Mapping[ViewName, ViewGeometry],
) -> PrognosisResult:
    """Name the outputs of the head's members, and put their years in order.

    A member's risk never decreases over its own years; the running maximum over all years makes
    the whole so.

    Parameters
    ----------
    outputs
        Of every member ``score`` and ``risk`` float32 [years], ``heatmap`` float32
        [years, 2, rows, columns], ``peak`` int [years, 2, 2] (row, column of the heatmap's
        maximum).
    geometries
        Of the views that were used; projections without both sides are left out.

    Raises
    ------
    BundleError
        A graph answers for other years, a risk that decreases, or a peak outside its map.
    """
    years = _in_order(spec, outputs)
    used = usable_projections(geometries)
    risks = np.maximum.accumulate([item.risk for item in years])
    peaks = tuple(_peak(item, projection, geometries) for item in years for projection in used)
    maps: dict[ViewName, AsymmetryMap] = {}
    for projection in used:
        last = years[-1]
        values = np.array(last.heatmap[PROJECTIONS.index(projection)], np.float32)
        for view in _pair(projection):
            maps[view] = _map(last.member, view, values, geometries[view])
    return PrognosisResult(
        tuple(
            YearRisk(item.year, item.score, float(risk))
            for item, risk in zip(years, risks, strict=True)
        ),
        used,
        peaks,
        MappingProxyType(maps),
    )


@dataclass(frozen=True)
class _Year:
    """One year's answer, and the member that gave it."""

    year: int
    member: PrognosisMember
    score: float
    risk: float
    heatmap: npt.NDArray[np.generic]
    peak: npt.NDArray[np.generic]


def _in_order(spec: PrognosisSpec, outputs: Sequence[Outputs]) -> list[_Year]:
    years = []
    for member, answer in zip(spec.members, outputs, strict=True):
        _check(member, answer)
        for i, year in enumerate(member.years):
            score, risk = float(answer["score"][i]), float(answer["risk"][i])
            found = _Year(year, member, score, risk, answer["heatmap"][i], answer["peak"][i])
            years.append(found)
    return sorted(years, key=lambda item: item.year)


def _check(spec: PrognosisMember, outputs: Outputs) -> None:
    years, cells = len(spec.years), outputs["heatmap"].shape[2:]
    shapes = {"score": (years,), "risk": (years,), "heatmap": (years, 2, *cells),
              "peak": (years, 2, 2)}  # fmt: skip
    if any(outputs[name].shape != shape for name, shape in shapes.items()):
        raise BundleError(f"{spec.model}: its answers are not for the bundle's {years} years")
    if np.any(np.diff(np.asarray(outputs["risk"], np.float64)) < 0):
        raise BundleError(f"{spec.model}: answers a risk that decreases over the years")
    peak = np.asarray(outputs["peak"], np.int64)
    if peak.size and (peak.min() < 0 or np.any(peak.max(axis=(0, 1)) >= cells)):
        raise BundleError(f"{spec.model}: answers a peak outside its map")


def _pair(projection: Projection) -> tuple[ViewName, ViewName]:
    """The left and the right view of a projection."""
    return ("L-CC", "R-CC") if projection == "CC" else ("L-MLO", "R-MLO")


def _map(
    spec: PrognosisMember, view: ViewName, values: npt.NDArray[np.float32], geometry: ViewGeometry
) -> AsymmetryMap:
    """Cells are drawn around the centres of their windows, which overlap by more than a stride."""
    if spec.alignment == "latent" and laterality(view) == "R":
        values = values[:, ::-1]  # the right map was mirrored before it was compared
    cell = geometry.model_height / spec.map[0], geometry.model_width / spec.map[1]
    low = [(w - s) / 2 * c for w, s, c in zip(spec.window, spec.stride, cell, strict=True)]
    size = [n * s * c for n, s, c in zip(values.shape, spec.stride, cell, strict=True)]
    x1, y1 = low[1], low[0]
    if spec.alignment == "latent" and laterality(view) == "R":
        x1 = geometry.model_width - x1 - size[1]
    return AsymmetryMap(values, (x1, y1, x1 + size[1], y1 + size[0]))


def _peak(
    found: _Year, projection: Projection, geometries: Mapping[ViewName, ViewGeometry]
) -> AsymmetryPeak:
    spec, cell = found.member, found.peak[PROJECTIONS.index(projection)]
    row = int(cell[0]) * spec.stride[0]
    column = int(cell[1]) * spec.stride[1]
    right = column
    if spec.alignment == "latent":  # the right map was mirrored before it was compared
        right = spec.map[1] - column - spec.window[1]
    left_view, right_view = _pair(projection)
    return AsymmetryPeak(
        found.year,
        projection,
        _window(spec, geometries[left_view], row, column),
        _window(spec, geometries[right_view], row, right),
    )


def _window(spec: PrognosisMember, geometry: ViewGeometry, row: int, column: int) -> Box:
    cell_x = geometry.model_width / spec.map[1]
    cell_y = geometry.model_height / spec.map[0]
    model = [column, row, column + spec.window[1], row + spec.window[0]]
    box = np.array([model], dtype=np.float64) * (cell_x, cell_y, cell_x, cell_y)
    x1, y1, x2, y2 = (round(float(v), 1) for v in geometry.box_to_original(box)[0])
    return x1, y1, x2, y2

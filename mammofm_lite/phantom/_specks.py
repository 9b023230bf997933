"""Calcifications: specks at places in space, by morphology and distribution of BI-RADS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..views import ViewName, projection
from ._grid import Floats, as_floats
from ._plan import Planted
from ._signal import Window

__all__ = ["draw_calcifications"]

_DENSEST: Final = 0.6  # specks over each other grow no brighter
_DETECTOR_MM: Final = 0.06

Random = np.random.Generator


@dataclass(frozen=True)
class _Speck:
    """One calcification: offset in mm (forward, down, inward), half axes in mm, turn in radians."""

    offset: tuple[float, float, float]
    half_axes: tuple[float, float]
    turn: float
    peak: float


@dataclass(frozen=True)
class _Morphology:
    """How specks of one kind vary: each pair is the least and the most.

    Attributes
    ----------
    half_mm
        Half of the length.
    slender
        Length over width.
    aligned
        Spread of direction around the axis of the group, in radians; ``None`` for any direction.
    """

    count: tuple[int, int]
    half_mm: tuple[float, float]
    slender: tuple[float, float]
    peak: tuple[float, float]
    aligned: float | None = None


_MORPHOLOGIES: Final[Mapping[str, _Morphology]] = {
    "round": _Morphology((5, 14), (0.15, 0.45), (1.0, 1.1), (0.2, 0.42)),
    "amorphous": _Morphology((18, 40), (0.1, 0.2), (1.0, 1.3), (0.13, 0.26)),
    "fine_pleomorphic": _Morphology((10, 30), (0.1, 0.28), (1.0, 2.2), (0.24, 0.5)),
    "fine_linear": _Morphology((9, 22), (0.25, 0.75), (2.5, 5.0), (0.26, 0.5), 0.5),
    "coarse_heterogeneous": _Morphology((7, 16), (0.25, 0.55), (1.0, 1.8), (0.26, 0.46)),
    "coarse": _Morphology((5, 11), (0.6, 1.7), (1.0, 1.6), (0.25, 0.45)),
    "large_rod_like": _Morphology((5, 11), (1.0, 3.5), (3.5, 7.0), (0.28, 0.46), 0.25),
    "dystrophic": _Morphology((3, 8), (0.5, 1.2), (1.0, 1.8), (0.25, 0.45)),
}
# How round a group is: 1 a ball, 0 a line.
_ROUNDNESS: Final = {"grouped": 0.8, "regional": 0.9, "segmental": 0.45, "linear": 0.14}


def draw_calcifications(planted: Planted, random: Random, window: Window, view: ViewName) -> Floats:
    """The sum of the specks, each at its place in space: float32 like the window."""
    morphology = planted.descriptors["morphology"]
    special = _SPECIAL.get(morphology)
    specks = special(planted, random, view) if special else _scattered(planted, random)
    drawn = window.empty()
    for speck in specks:
        _stamp(drawn, speck, window, view, planted.contrast)
    return as_floats(np.minimum(drawn, np.float32(_DENSEST)))


def _scattered(planted: Planted, random: Random) -> list[_Speck]:
    """Specks in an ellipsoid as long as the lesion's diameter, or along a line."""
    made_of = _MORPHOLOGIES[planted.descriptors["morphology"]]
    axis = _axis(planted, random)
    tilt = float(np.arctan2(axis[2], axis[0]))
    specks = []
    for _ in range(int(random.integers(*made_of.count))):
        half = random.uniform(*made_of.half_mm)
        width = half / random.uniform(*made_of.slender)
        turn = random.uniform(0, np.pi)
        if made_of.aligned is not None:
            turn = tilt + random.normal(0, made_of.aligned)
        offset = _offset(planted, random, axis)
        specks.append(_Speck(offset, (half, width), turn, random.uniform(*made_of.peak)))
    return specks


def _axis(planted: Planted, random: Random) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Direction of a group (forward, down, inward): ducts run towards the nipple."""
    along_ducts = planted.descriptors["distribution"] in ("linear", "segmental")
    axis = random.normal(0, 0.35 if along_ducts else 1.0, 3) + np.array([along_ducts, 0.0, 0.0])
    unit: np.ndarray[tuple[int], np.dtype[np.float64]] = axis / np.linalg.norm(axis)
    return unit


def _offset(
    planted: Planted, random: Random, axis: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[float, float, float]:
    round_share = _ROUNDNESS[planted.descriptors["distribution"]]
    ball = random.normal(size=3)
    ball *= random.uniform() ** (1 / 3) / np.linalg.norm(ball)
    along = random.uniform(-1, 1) if round_share < 0.3 else float(ball @ axis)
    place = round_share * ball + (along - round_share * float(ball @ axis)) * axis
    forward, down, inward = (float(part) for part in place * planted.diameter_mm / 2)
    return forward, down, inward


# -------------------- looks of their own


def _in_plane(view: ViewName, forward: float, across: float) -> tuple[float, float, float]:
    """An offset that the view shows at this place."""
    return forward, 0.0, across if projection(view) == "CC" else across * 2**0.5


def _ring(
    centre: tuple[float, float], radius: float, width: float, peak: float, view: ViewName
) -> list[_Speck]:
    """A shell seen from outside is a ring from every direction."""
    count = max(10, int(2 * np.pi * radius / (0.9 * width)))
    specks = []
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False).tolist():
        bumps = 0.05 * float(np.cos(2 * angle + peak)) + 0.03 * float(np.cos(3 * angle))
        uneven = radius * (1 + bumps)
        x = centre[0] + uneven * float(np.cos(angle))
        y = centre[1] + uneven * float(np.sin(angle))
        heavy = peak * (1 + 0.35 * float(np.sin(angle + 9 * width)))
        specks.append(_Speck(_in_plane(view, x, y), (1.2 * width, width), angle + np.pi / 2, heavy))
    return specks


def _rim(planted: Planted, random: Random, view: ViewName) -> list[_Speck]:
    width, peak = random.uniform(0.2, 0.35), random.uniform(0.2, 0.34)
    return _ring((0.0, 0.0), planted.diameter_mm / 2 - width, width, peak * 0.7, view)


def _skin(planted: Planted, random: Random, view: ViewName) -> list[_Speck]:
    """Tiny rings with a lucent centre."""
    specks: list[_Speck] = []
    for _ in range(int(random.integers(4, 10))):
        forward, _, inward = (float(part) for part in random.uniform(-0.5, 0.5, 3))
        centre = (forward * planted.diameter_mm, inward * planted.diameter_mm)
        specks += _ring(centre, random.uniform(0.35, 0.65), 0.14, random.uniform(0.1, 0.18), view)
    return specks


def _milk(planted: Planted, random: Random, view: ViewName) -> list[_Speck]:
    """Sediment in small cysts: smudges from above, level lines from the side."""
    specks = []
    for _ in range(int(random.integers(6, 14))):
        offset = tuple(float(part) for part in random.uniform(-0.4, 0.4, 3) * planted.diameter_mm)
        half, peak = random.uniform(0.4, 0.8), random.uniform(0.24, 0.4)
        from_above = projection(view) == "CC"
        axes = (half, 0.85 * half) if from_above else (half, 0.14)
        peak *= 0.45 if from_above else 1
        specks.append(_Speck((offset[0], offset[1], offset[2]), axes, 0.0, peak))
    return specks


def _vascular(planted: Planted, random: Random, view: ViewName) -> list[_Speck]:
    """Two parallel broken lines in the wall of a winding vessel."""
    length, half_width = planted.diameter_mm, random.uniform(0.7, 1.3)
    count = int(length / 0.45)
    heading = random.uniform(-1.2, 1.2) + np.cumsum(random.normal(0, 0.09, count))
    way = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * 0.45
    way -= way.mean(axis=0)
    specks = []
    gaps = random.uniform(0, 2 * np.pi, 2)
    steps = zip(way.tolist(), heading.tolist(), strict=True)
    for index, ((forward, across), turn) in enumerate(steps):
        for side, gap in zip((-1, 1), gaps, strict=True):
            present = np.sin(0.35 * index + gap) + random.normal(0, 0.5) > -0.2
            peak = random.uniform(0.12, 0.3)
            if present:
                x = forward - side * half_width * float(np.sin(turn))
                y = across + side * half_width * float(np.cos(turn))
                specks.append(_Speck(_in_plane(view, x, y), (0.42, 0.17), turn, peak))
    return specks


_SPECIAL: Final[Mapping[str, Callable[[Planted, Random, ViewName], list[_Speck]]]] = {
    "rim": _rim,
    "skin": _skin,
    "milk_of_calcium": _milk,
    "vascular": _vascular,
}


def _stamp(drawn: Floats, speck: _Speck, window: Window, view: ViewName, contrast: float) -> None:
    """Add a blurred ellipse; one smaller than a pixel is spread over it and fainter by as much."""
    forward, down, inward = speck.offset
    across = inward if projection(view) == "CC" else (down + inward) * 0.5**0.5
    # A pixel averages over its width: a variance of step ** 2 / 12, in this form twice that.
    blur = window.step_mm**2 / 6 + _DETECTOR_MM**2
    squares = [(0.7 * half) ** 2 for half in speck.half_axes]
    spread = [square + blur for square in squares]
    reach = 2.4 * max(spread) ** 0.5
    columns = np.flatnonzero(np.abs(window.x[0] - forward) < reach)
    rows = np.flatnonzero(np.abs(window.y[:, 0] - across) < reach)
    if not rows.size or not columns.size:
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    x = window.x[:, part[1]] - np.float32(forward)
    y = window.y[part[0]] - np.float32(across)
    turn = (np.float32(np.cos(speck.turn)), np.float32(np.sin(speck.turn)))
    along, aside = x * turn[0] + y * turn[1], y * turn[0] - x * turn[1]
    peak = contrast * speck.peak * np.sqrt(squares[0] * squares[1] / (spread[0] * spread[1]))
    exponent = along**2 / np.float32(spread[0]) + aside**2 / np.float32(spread[1])
    drawn[part] += np.float32(peak) * np.exp(-exponent)

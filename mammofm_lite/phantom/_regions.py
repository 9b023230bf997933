"""Findings without a body: architectural distortion, focal asymmetry, precursors of a cancer."""

from typing import Final

import numpy as np

from ..views import ViewName, projection
from ._grid import Floats, as_floats, smoothstep
from ._masses import rays
from ._plan import Planted
from ._signal import Window

__all__ = ["draw_asymmetry", "draw_distortion", "draw_precursor"]

_PULL: Final = 0.38
_LINES: Final = 0.11
_GLAND: Final = 0.17
_PRECURSOR: Final = 0.22


def draw_distortion(
    planted: Planted, random: np.random.Generator, window: Window, tissue: Floats
) -> Floats:
    """Tissue drawn to a point and lines that radiate from it, without a mass in the middle.

    Parameters
    ----------
    tissue
        The window without the lesion, float32.
    """
    radius = planted.diameter_mm / 2
    away, angle = np.hypot(window.x, window.y), np.arctan2(window.y, window.x)
    ratio = away / np.float32(radius)
    # Content moves inwards: a pixel shows what lay further out.
    pull = np.float32(_PULL * min(planted.contrast, 1.3)) * np.clip(1 - ratio, 0, 1) ** 2
    moved = _shifted(tissue, window, as_floats(window.x * pull), as_floats(window.y * pull))
    lines = rays(random, away, angle, radius * 0.5)
    hollow = smoothstep((ratio - 0.1) / 0.12) * smoothstep((1.1 - ratio) / 0.4)
    drawn = moved - tissue + np.float32(_LINES * planted.contrast) * lines * hollow
    if planted.benign_type == "radial scar":
        drawn -= np.float32(0.07 * planted.contrast) * np.exp(-((ratio / np.float32(0.22)) ** 2))
    return as_floats(drawn * smoothstep((1.15 - ratio) / 0.15))


def _shifted(tissue: Floats, window: Window, across_mm: Floats, down_mm: Floats) -> Floats:
    """The tissue at displaced points, by linear interpolation: float32 like `tissue`."""
    rows, columns = tissue.shape
    at_row = np.clip(np.arange(rows)[:, None] + down_mm / window.step_mm, 0, rows - 1)
    at_column = np.clip(np.arange(columns)[None] + across_mm / window.step_mm, 0, columns - 1)
    row = np.minimum(at_row.astype(np.intp), max(rows - 2, 0))
    column = np.minimum(at_column.astype(np.intp), max(columns - 2, 0))
    below, right = np.minimum(row + 1, rows - 1), np.minimum(column + 1, columns - 1)
    down, across = as_floats(at_row - row), as_floats(at_column - column)
    upper = tissue[row, column] * (1 - across) + tissue[row, right] * across
    lower = tissue[below, column] * (1 - across) + tissue[below, right] * across
    return as_floats(upper * (1 - down) + lower * down)


def draw_asymmetry(
    planted: Planted, random: np.random.Generator, window: Window, view: ViewName
) -> Floats:
    """An island of gland without a convex border, seen in both views: float32 like the window.

    A suspicious one is dense towards its middle, a benign one loose, with fat between its lumps.
    """
    lumps = _lumps(planted, random, window, view, loose=not planted.suspicious)
    return as_floats(np.float32(_GLAND * planted.contrast) * lumps)


def draw_precursor(
    planted: Planted, random: np.random.Generator, window: Window, view: ViewName
) -> Floats:
    """A faint thickening with a few lines: float32 like the window."""
    away, angle = np.hypot(window.x, window.y), np.arctan2(window.y, window.x)
    own = np.random.Generator(np.random.PCG64(int(random.integers(1 << 62))))
    lumps = _lumps(planted, random, window, view, loose=False)
    lines = rays(own, away, angle, planted.diameter_mm * 0.3)
    drawn = lumps + np.float32(0.6) * lines
    return as_floats(np.float32(_PRECURSOR * planted.contrast) * drawn)


def _lumps(
    planted: Planted,
    random: np.random.Generator,
    window: Window,
    view: ViewName,
    *,
    loose: bool,
) -> Floats:
    """A cluster of lumps in space, projected into the view: float32, 0 to 1."""
    total = window.empty()
    spread = planted.diameter_mm * (0.27 if loose else 0.2)
    for _ in range(int(random.integers(14, 22))):
        forward, down, inward = random.normal(0, spread, 3)
        across = inward if projection(view) == "CC" else (down + inward) * 0.5**0.5
        size = planted.diameter_mm * random.uniform(0.06, 0.13)
        height = np.float32(random.uniform(0.3, 0.7))
        apart_x = np.exp(-(((window.x - np.float32(forward)) / np.float32(size)) ** 2))
        apart_y = np.exp(-(((window.y - np.float32(across)) / np.float32(size)) ** 2))
        total += height * apart_y * apart_x
    ratio = np.hypot(window.x, window.y) / np.float32(planted.diameter_mm / 2)
    return as_floats(total / (1 + total) * np.float32(1.6) * smoothstep((1.25 - ratio) / 0.5))

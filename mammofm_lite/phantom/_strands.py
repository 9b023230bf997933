"""Lines in the tissue: ligaments from gland to skin, and vessels."""

from typing import Final

import numpy as np
import numpy.typing as npt

from ._anatomy import ViewAnatomy
from ._grid import Floats, Grid

__all__ = ["draw_strands"]

_LIGAMENTS: Final = 90
_VESSELS: Final = 4
_REACH: Final = 2.5  # a stamp ends where its Gaussian has fallen to 4 %


def draw_strands(anatomy: ViewAnatomy, grid: Grid, random: np.random.Generator) -> Floats:
    """Brightness that strands add: float32 [grid.rows, grid.columns], at least 0."""
    canvas = np.zeros((grid.rows, grid.columns), np.float32)
    for _ in range(_LIGAMENTS):
        _ligament(canvas, anatomy, grid, random)
    for _ in range(_VESSELS):
        _vessel(canvas, anatomy, grid, random)
    return canvas


def _ligament(
    canvas: Floats, anatomy: ViewAnatomy, grid: Grid, random: np.random.Generator
) -> None:
    """A thin line that runs from near the skin towards a point behind the nipple."""
    contour = anatomy.contour_mm
    start = contour[int(random.integers(len(contour) // 10, len(contour) - len(contour) // 10))]
    x, y = anatomy.nipple_mm
    goal = np.array([x * random.uniform(0.2, 0.7), y + random.normal(0, 14) * anatomy.body.scale])
    begin, end = np.sort(random.uniform(0.03, 0.6, 2))
    length = float(np.hypot(*(goal - start))) * (end - begin)
    along = np.linspace(begin, end, max(8, int(length / (0.8 * max(0.6, grid.step_mm)))))
    bend = random.normal(0, 0.06) * np.sin(np.pi * (along - begin) / (end - begin + 1e-6))
    way = goal - start
    path = start + along[:, None] * way + bend[:, None] * np.array([-way[1], way[0]])
    _stamp(canvas, grid, path, random.uniform(0.3, 0.6), random.uniform(0.05, 0.13))


def _vessel(canvas: Floats, anatomy: ViewAnatomy, grid: Grid, random: np.random.Generator) -> None:
    """A winding band of about two millimetres, from the chest wall forward."""
    x, y = anatomy.nipple_mm
    scale = anatomy.body.scale
    steps = int(x * random.uniform(0.5, 0.85) / (1.0 * max(0.6, grid.step_mm)))
    turn = np.cumsum(random.normal(0, 0.06, max(steps, 8)))
    heading = random.uniform(-0.5, 0.5) + turn - turn.mean()
    way = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    start = np.array([0.0, y + random.uniform(-0.75, 0.6) * anatomy.body.half_width_mm])
    path = start + way * max(0.6, grid.step_mm)
    _stamp(canvas, grid, path, scale * random.uniform(0.7, 1.1), random.uniform(0.035, 0.06))


def _stamp(
    canvas: Floats, grid: Grid, path_mm: npt.NDArray[np.float64], sigma_mm: float, peak: float
) -> None:
    """Draw a line of Gaussian cross-section, in place; the brighter of old and new stays."""
    sigma = np.float32(max(sigma_mm, 0.4 * grid.step_mm))
    reach = max(1, int(np.ceil(_REACH * sigma / grid.step_mm)))
    fade = np.sin(np.linspace(0.15, np.pi - 0.15, len(path_mm)))
    y_mm, x_mm = grid.y_mm, grid.x_mm
    for (x, y), share in zip(path_mm, fade, strict=True):
        column, row = int(x / grid.step_mm), int(y / grid.step_mm)
        rows = slice(max(row - reach, 0), max(row + reach + 1, 0))
        columns = slice(max(column - reach, 0), max(column + reach + 1, 0))
        patch = canvas[rows, columns]
        if patch.size:
            squared = (y_mm[rows] - y) ** 2 + (x_mm[:, columns] - x) ** 2
            bump = np.float32(peak * share) * np.exp(squared * (-0.5 / sigma**2))
            np.maximum(patch, bump, out=patch, casting="same_kind")

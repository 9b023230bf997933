"""Lines in the tissue: Cooper's ligaments from gland to skin, and vessels.

They stand for the walls of the compartments of fat that three-dimensional phantoms build (P. R.
Bakic et al., Med. Phys. 29, 2131-2139, 2002; D. D. Pokrajac, A. D. A. Maidment and P. R. Bakic,
Med. Phys. 39, 2290-2302, 2012), seen in projection.
"""

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
    sigma = max(sigma_mm, 0.4 * grid.step_mm)
    reach = max(1, int(np.ceil(_REACH * sigma / grid.step_mm)))
    fade = np.sin(np.linspace(0.15, np.pi - 0.15, len(path_mm)))
    middle = np.floor(path_mm / grid.step_mm).astype(np.intp)
    around = np.arange(-reach, reach + 1)
    column, row = (middle[:, axis, None] + around for axis in (0, 1))
    x, y = (
        np.exp(-0.5 * (((at + 0.5) * grid.step_mm - path_mm[:, axis, None]) / sigma) ** 2)
        for axis, at in ((0, column), (1, row))
    )
    # What lies outside of the canvas adds nothing.
    x *= (column >= 0) & (column < grid.columns)
    y *= ((row >= 0) & (row < grid.rows)) * (peak * fade)[:, None]
    bumps = y[:, :, None] * x[:, None, :]
    at = row.clip(0, grid.rows - 1)[:, :, None] * grid.columns
    at = at + column.clip(0, grid.columns - 1)[:, None, :]
    np.maximum.at(canvas.reshape(-1), at.reshape(-1), bumps.reshape(-1).astype(np.float32))

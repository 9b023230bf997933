"""What the tissue of one view looks like before lesions, noise and the detector.

Brightness runs from 0 (air) to about 1. As vendors' processing does for presentation, the loss of
thickness towards the skin is mostly, not fully, compensated.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..views import projection
from ._anatomy import Pectoral, ViewAnatomy
from ._grid import Floats, Grid, as_floats, smoothstep
from ._strands import draw_strands
from ._truth import Density

__all__ = ["Fields", "tissue"]


@dataclass(frozen=True)
class _Composition:
    """How much gland there is: `extent` of it, `threshold` of its noise, brightness added."""

    extent: float
    threshold: float
    brightness: float


_COMPOSITIONS: Final[dict[Density, _Composition]] = {
    "a": _Composition(extent=0.62, threshold=0.75, brightness=0.14),
    "b": _Composition(extent=0.78, threshold=0.42, brightness=0.2),
    "c": _Composition(extent=0.92, threshold=0.05, brightness=0.26),
    "d": _Composition(extent=1.04, threshold=-0.45, brightness=0.33),
}
_FAT: Final = 0.17
# By how much extra gland lifts the level: from the middle of fat into gland.
_EXTRA: Final = 1.5
# Lines that run towards the nipple: 1 mm of noise spans 1 / _FAN_MM radians of direction.
_FAN_MM: Final = 60.0
_FOCUS_MM: Final = 12.0


@dataclass(frozen=True)
class Fields:
    """Random fields of one view, each float32 of mean 0 and variance 1.

    `cloud` is power-law noise and `bulk` its coarse part, both [grid.rows, grid.columns]. `web`
    and `fibre` have structures of about 9 and 2 mm; they are periodic, of a size of their own, and
    `web` of a step of its own.
    """

    cloud: Floats
    bulk: Floats
    web: Floats
    web_step_mm: float
    fibre: Floats


def tissue(
    anatomy: ViewAnatomy,
    fields: Fields,
    grid: Grid,
    random: np.random.Generator,
    edge_share: float,
) -> Floats:
    """Brightness of the breast: float32 [grid.rows, grid.columns], 0 in air.

    Parameters
    ----------
    edge_share
        Brightness that is left at the skin.
    """
    depth = anatomy.depth_in_skin(grid)
    fields = _converging(fields, anatomy, grid)
    gland = _gland(anatomy, fields, grid, depth)
    image = _FAT + 0.04 * fields.cloud + _parenchyma(anatomy.body.density, gland, fields)
    image += _septa(fields, depth) * (0.4 + 0.6 * gland)
    image += draw_strands(anatomy, grid, random)
    if anatomy.pectoral is not None:
        image = _with_pectoral(image, anatomy.pectoral, fields, grid)
    image *= _thickness(depth, anatomy.body.scale, edge_share)
    image += _skin(depth)
    image *= np.clip(depth / np.float32(max(0.35, grid.step_mm)) + 0.5, 0, 1)
    return as_floats(np.maximum(image, 0))


def _converging(fields: Fields, anatomy: ViewAnatomy, grid: Grid) -> Fields:
    """`web` and `fibre` bent so that their lines run towards the nipple, on the grid."""
    coarse = Grid.covering(
        grid.rows * grid.step_mm, grid.columns * grid.step_mm, fields.web_step_mm
    )
    web = _at(fields.web, *_polar(anatomy, coarse), fields.web_step_mm)
    fibre = _at(fields.fibre, *_polar(anatomy, grid), grid.step_mm)
    return replace(fields, web=grid.sample(web, coarse), fibre=fibre)


def _polar(anatomy: ViewAnatomy, grid: Grid) -> tuple[Floats, Floats]:
    """Places around the nipple: along the arc and away from it, mm, each float32 like the grid."""
    x, y = anatomy.nipple_mm
    # A little in front of the nipple, so that nothing is squeezed to a point.
    forward = np.float32(x + _FOCUS_MM * anatomy.body.scale) - grid.x_mm
    down = grid.y_mm - np.float32(y)
    arc = np.arctan2(down, forward) * np.float32(_FAN_MM * anatomy.body.scale)
    return as_floats(arc), as_floats(np.hypot(forward, down))


def _at(field: Floats, down_mm: Floats, across_mm: Floats, step_mm: float) -> Floats:
    """A periodic field, by linear interpolation: float32 like `down_mm`."""
    rows, columns = field.shape
    # With its first row and column once more at the end, a point and its next are neighbours.
    wrapped = np.pad(field, ((0, 1), (0, 1)), mode="wrap")
    row, column = _remainder(down_mm, step_mm, rows), _remainder(across_mm, step_mm, columns)
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, across = row - top.astype(np.float32), column - left.astype(np.float32)
    at, flat = top * (columns + 1) + left, wrapped.reshape(-1)
    upper = flat[at]
    upper += (flat[at + 1] - upper) * across
    at += columns + 1
    lower = flat[at]
    lower += (flat[at + 1] - lower) * across
    return as_floats(upper + (lower - upper) * down)


def _remainder(mm: Floats, step_mm: float, size: int) -> Floats:
    """Position in a field of `size` points, in steps: float32 of at least 0, below `size`."""
    turns = mm * np.float32(1 / (step_mm * size))
    turns -= np.floor(turns)
    # Rounding may leave a whole turn.
    return as_floats(np.minimum(turns * np.float32(size), np.float32(size - 1e-3)))


def _gland(anatomy: ViewAnatomy, fields: Fields, grid: Grid, depth: Floats) -> Floats:
    """Share of gland, 0 to 1: a cone behind the nipple with a ragged edge, under a coat of fat."""
    made_of = _COMPOSITIONS[anatomy.body.density]
    body = anatomy.body
    x, y = anatomy.nipple_mm
    # In the MLO view most gland lies above the nipple, in the CC view lateral of it: both up.
    rise = 0.2 if projection(anatomy.view) == "MLO" else 0.1
    behind = (x - grid.x_mm) / np.float32(body.depth_mm)
    middle = y - np.float32(rise * body.half_width_mm) * np.clip(behind * 2, 0, 1)
    across = (grid.y_mm - middle) / np.float32(body.half_width_mm * made_of.extent)
    opening = np.float32(0.05) + np.float32(1.15) * np.clip(behind, 0, 1) ** np.float32(0.8)
    cone = 1 - (across / opening) ** 2 - smoothstep((behind - 0.62) * 3) * np.float32(0.9)
    coat = smoothstep((depth - 3 * body.scale) / np.float32(9 * body.scale))
    # Towards the nipple ducts reach the skin.
    near = np.exp(-(((grid.y_mm - y) / np.float32(5 * body.scale)) ** 2)) * (behind < 0.5)
    noise = fields.bulk + np.float32(0.2) * fields.web + np.float32(0.25) * fields.cloud
    level = np.float32(0.9) * cone + noise * np.float32(0.5) - np.float32(made_of.threshold)
    level += np.float32(_EXTRA) * anatomy.extra_gland(grid)
    return as_floats(
        smoothstep(np.float32(0.6) * level + np.float32(0.35))
        * np.maximum(coat, near * np.float32(0.7))
    )


def _parenchyma(density: Density, gland: Floats, fields: Fields) -> Floats:
    """Brightness that gland adds, uneven as it is."""
    uneven = np.clip(1 + np.float32(0.2) * fields.cloud + np.float32(0.05) * fields.web, 0.3, 1.7)
    return as_floats(np.float32(_COMPOSITIONS[density].brightness) * gland * uneven)


def _septa(fields: Fields, depth: Floats) -> Floats:
    """Thin bright walls between lobules: where a smooth random field passes through zero."""
    walls = 0.065 * _ridges(fields.web, 0.24) + 0.045 * _ridges(fields.fibre, 0.3)
    faint = np.clip(0.75 + np.float32(0.45) * fields.cloud, 0.1, 1.6)
    return as_floats(walls * faint * smoothstep(depth / 4))


def _ridges(field: Floats, width: float) -> Floats:
    """1 on the zero lines of a field, falling to 0 beside them."""
    ratio = field * np.float32(1 / width)
    return as_floats(1 / (1 + ratio * ratio))


def _with_pectoral(image: Floats, pectoral: Pectoral, fields: Fields, grid: Grid) -> Floats:
    """The pectoral muscle over the tissue: thin at its edge, thick and bright towards the top."""
    behind = pectoral.edge_mm(grid.y_mm) + np.float32(1.5) * fields.bulk - grid.x_mm
    down = grid.y_mm / np.float32(pectoral.side_mm)
    inside = smoothstep(behind / np.float32(4) + 0.5) * smoothstep((1.1 - down) * 4)
    # The tissue in front of it shows through.
    thick = np.clip(behind / np.float32(0.8 * pectoral.top_mm), 0, 1)
    muscle = 0.12 + 0.16 * np.sqrt(thick) + 0.02 * fields.cloud
    return as_floats(image + inside * (muscle + (np.float32(_FAT) + 0.06 - image) * 0.6))


def _thickness(depth: Floats, scale: float, edge_share: float) -> Floats:
    """Share of brightness that the thickness leaves: round towards the skin, then level."""
    share = np.clip(depth / np.float32(16 * scale), 0, 1)
    round_edge = np.sqrt(share * (2 - share))
    return as_floats(np.float32(edge_share) + np.float32(1 - edge_share) * round_edge)


def _skin(depth: Floats) -> Floats:
    """The skin, seen edge-on: a bright line of a good millimetre."""
    return as_floats(np.float32(0.26) * np.exp(-(((depth - 0.8) / np.float32(0.6)) ** 2)))

"""The shape of the breast and what it is made of, drawn from the seed and projected into views.

Positions inside a breast are fractions of its extent: ``forward`` from chest wall (0) to nipple
(1), ``down`` and ``inward`` (towards the other breast) within a unit ball, whatever the breast's
size. Compression flattens that ball: in the image plane it fills the outline of the view. The CC
view shows ``inward`` against ``forward``, the MLO view, taken at 45 degrees from above and between
the breasts, shows ``(down + inward) / sqrt(2)``.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..views import Laterality, ViewName, laterality, projection
from ._grid import Floats, Grid, as_floats
from ._options import PhantomOptions
from ._random import stream
from ._truth import Density

__all__ = ["Body", "Pectoral", "Place", "ViewAnatomy", "draw_body", "draw_view"]

Doubles = npt.NDArray[np.float64]

# Breast sizes are drawn for this field and shrunk for a smaller one.
_FIELD_HEIGHT_MM: Final = 229.4
_FIELD_WIDTH_MM: Final = 191.4
# Of the compositions a to d among screened women, roughly: D. B. Kopans, Breast Imaging, 3rd ed.,
# 2007; B. L. Sprague et al., J. Natl. Cancer Inst. 106, dju255, 2014.
_DENSITIES: Final[tuple[Density, ...]] = ("a", "b", "c", "d")
_DENSITY_SHARES: Final = (0.1, 0.4, 0.4, 0.1)
# Of the beta distribution of the asymmetry: mean 0.3, most women less.
_ASYMMETRY_SHAPE: Final = (1.1, 2.6)
_CONTOUR_POINTS: Final = 320
_SQRT_HALF: Final = 0.5**0.5


class Place(NamedTuple):
    """A position in the breast, in fractions of its extent."""

    forward: float
    down: float
    inward: float


@dataclass(frozen=True)
class Body:
    """What both breasts of one woman share; lengths in mm.

    Attributes
    ----------
    scale
        Size relative to an average breast on the default field.
    depth_mm
        From the chest wall, where the image begins, to the nipple.
    half_width_mm
        Half the width of the compressed breast at the chest wall.
    fit
        1, or less where the field is smaller than the default and all is shrunk to fit it.
    thickness_mm
        Of the compressed breast.
    asymmetry
        0 to 1, the strength of `extra`.
    """

    scale: float
    depth_mm: float
    half_width_mm: float
    density: Density
    fit: float
    thickness_mm: float
    asymmetry: float
    extra: tuple["ExtraGland", ...]


class ExtraGland(NamedTuple):
    """Gland of one breast that the other has not, in a ball around `place`."""

    side: Laterality
    place: Place
    radius_mm: float


class Pectoral(NamedTuple):
    """The pectoral muscle of an MLO view: where its edge leaves the image's top and side."""

    top_mm: float
    side_mm: float

    def edge_mm(self, y_mm: Floats) -> Floats:
        """Abscissa of its edge, which bulges towards the breast: elementwise, float32."""
        down = y_mm / np.float32(self.side_mm)
        bulge = np.float32(0.4) * np.clip(down * (1 - down), 0, 1)
        return as_floats(np.float32(self.top_mm) * (1 - down + bulge))


@dataclass(frozen=True)
class ViewAnatomy:
    """One breast in one view, chest wall at x = 0; lengths in mm.

    Attributes
    ----------
    nipple_mm
        x, y of the nipple's base on the skin.
    contour_mm
        The skin line from top to bottom, float32 [points, 2] as x, y, with rising y.
    """

    view: ViewName
    body: Body
    nipple_mm: tuple[float, float]
    contour_mm: Floats
    pectoral: Pectoral | None

    def project(self, place: Place) -> tuple[float, float]:
        """Where a place of the breast lies in this view: x, y in mm."""
        across = place.inward
        if projection(self.view) == "MLO":
            across = (place.down + place.inward) * _SQRT_HALF
        x, y = self.nipple_mm
        return (
            x - (1 - place.forward) * self.body.depth_mm,
            y + across * self.body.half_width_mm,
        )

    def extra_gland(self, grid: Grid) -> Floats:
        """Gland that the other breast has not: float32 [grid.rows, grid.columns], 0 to about 1."""
        total = np.zeros((grid.rows, grid.columns), np.float32)
        for extra in self.body.extra:
            if extra.side == laterality(self.view):
                x, y = self.project(extra.place)
                width = np.float32(0.7 / extra.radius_mm**2)
                down = np.exp(-width * (grid.y_mm - np.float32(y)) ** 2)
                total += down * np.exp(-width * (grid.x_mm - np.float32(x)) ** 2)
        return as_floats(np.float32(self.body.asymmetry) * np.minimum(total, 1))

    def depth_in_skin(self, grid: Grid) -> Floats:
        """Distance to the skin line, positive inside: float32 [grid.rows, grid.columns], mm."""
        # The distance is smooth: found at few points, interpolated between them.
        coarse = Grid.covering(
            grid.rows * grid.step_mm, grid.columns * grid.step_mm, max(2.4, grid.step_mm)
        )
        distance = _distance_to_contour(coarse, self.contour_mm)
        x, y = self.nipple_mm
        radius = 4.5 * self.body.scale**0.5
        to_nipple = radius - np.hypot(
            (coarse.x_mm - np.float32(x - 0.1 * radius)) * np.float32(0.8), coarse.y_mm - y
        )
        return grid.sample(_smooth_union(distance, to_nipple, 2.0), coarse)


def draw_body(seed: int, options: PhantomOptions) -> Body:
    """The woman of this seed."""
    random = stream(seed, "body")
    fit = min(1.0, options.height_mm / _FIELD_HEIGHT_MM, options.width_mm / _FIELD_WIDTH_MM)
    size = random.uniform(0.78, 1.22)
    own = stream(seed, "asymmetry")
    return Body(
        scale=fit * size,
        depth_mm=fit * size * random.uniform(84, 96),
        half_width_mm=fit * size * random.uniform(72, 84),
        density=_DENSITIES[int(random.choice(len(_DENSITIES), p=_DENSITY_SHARES))],
        fit=fit,
        thickness_mm=float(np.clip(random.normal(52, 9) * size**0.7, 25, 90)),
        asymmetry=round(float(own.beta(*_ASYMMETRY_SHAPE)), 4),
        extra=_draw_extra(own, fit * size),
    )


def _draw_extra(random: np.random.Generator, scale: float) -> tuple[ExtraGland, ...]:
    """Two or three places of one breast, of 12 to 20 mm radius."""
    side: Laterality = "L" if random.random() < 0.5 else "R"
    places = (
        Place(random.uniform(0.35, 0.7), random.normal(-0.15, 0.3), random.normal(-0.1, 0.3))
        for _ in range(int(random.integers(2, 4)))
    )
    return tuple(ExtraGland(side, place, scale * random.uniform(12, 20)) for place in places)


def draw_view(seed: int, body: Body, view: ViewName, options: PhantomOptions) -> ViewAnatomy:
    """How that woman was positioned for one view; left and right nearly alike."""
    shared = stream(seed, "position", projection(view))
    own = stream(seed, "position", view)
    draw = _draw_cc if projection(view) == "CC" else _draw_mlo
    return draw(shared, own, view, body, options.height_mm)


def _draw_cc(
    shared: np.random.Generator,
    own: np.random.Generator,
    view: ViewName,
    body: Body,
    height_mm: float,
) -> ViewAnatomy:
    pointed = shared.uniform(1.02, 1.4) + own.normal(0, 0.02)
    wide = (shared.uniform(0.98, 1.12), shared.uniform(0.92, 1.02))  # laterally, medially
    x = body.depth_mm * (1 + own.normal(0, 0.02))
    y = height_mm * (0.5 + own.normal(0, 0.012))
    angle = np.linspace(-np.pi / 2, np.pi / 2, _CONTOUR_POINTS)
    half = body.half_width_mm * np.where(angle < 0, *wide)
    across = x * np.clip(np.cos(angle), 0, None) ** pointed
    contour = _uneven(across, y + half * np.sin(angle), own, body)
    return ViewAnatomy(view, body, (x, y), contour, None)


def _draw_mlo(
    shared: np.random.Generator,
    own: np.random.Generator,
    view: ViewName,
    body: Body,
    height_mm: float,
) -> ViewAnatomy:
    x = body.depth_mm * (1 + own.normal(0, 0.02))
    y = height_mm * (shared.uniform(0.53, 0.6) + own.normal(0, 0.01))
    below = min(body.half_width_mm * shared.uniform(0.84, 0.96), 0.92 * height_mm - y)
    axilla = x * (shared.uniform(0.5, 0.78) + own.normal(0, 0.02))
    rows = _mlo_ordinates(y, below, height_mm)
    # Below the fold the abdomen comes forward, or stays out of the image.
    under = np.maximum(rows - y - 0.9 * below, 0)
    belly = shared.uniform(0.15, 0.5) * under**2 / (under + 25)
    abdomen = body.scale * shared.uniform(3, 7) + belly if shared.random() < 0.3 else -20.0
    rising = np.clip((y - rows) / y, 0, 1.2)
    upper = axilla + (x - axilla) * 0.5 * (1 + np.cos(np.pi * rising**1.15))
    round_off = 1 - (np.maximum(rows - y, 0) / below) ** 2
    pole = x * np.sign(round_off) * np.sqrt(np.abs(round_off))
    lower = 0.5 * (pole + abdomen + np.sqrt((pole - abdomen) ** 2 + (0.12 * x) ** 2))
    across = np.where(rows < y, upper, lower - (lower[rows >= y][0] - x) * np.maximum(pole / x, 0))
    pectoral = Pectoral(
        top_mm=axilla * (shared.uniform(0.62, 0.86) + own.normal(0, 0.02)),
        side_mm=y * (shared.uniform(0.85, 1.1) + own.normal(0, 0.02)),
    )
    return ViewAnatomy(view, body, (x, y), _uneven(across, rows, own, body), pectoral)


def _mlo_ordinates(nipple: float, below: float, height_mm: float) -> Doubles:
    """Ordinates from above the image to below it, dense where the lower pole turns."""
    third = _CONTOUR_POINTS // 3
    upper = np.linspace(-0.1 * height_mm, nipple, third, endpoint=False)
    pole = nipple + below * np.sin(np.linspace(0, np.pi / 2, third, endpoint=False))
    rest = np.linspace(nipple + below, 1.2 * height_mm, third)
    return np.concatenate([upper, pole, rest])


def _uneven(across: Doubles, rows: Doubles, random: np.random.Generator, body: Body) -> Floats:
    """Skin is not a formula: the contour with slow bumps of about a millimetre."""
    waves = np.arange(3, 9)
    phase = random.uniform(0, 2 * np.pi, len(waves))
    height = random.normal(0, 0.35 * body.scale, len(waves))
    at = np.linspace(0, 2 * np.pi, len(rows))[:, None]
    bumps = np.sum(height * np.sin(waves * at + phase), axis=1)
    taper = np.clip(across / body.depth_mm, 0, 1)
    return np.stack([across + bumps * taper, rows], axis=1).astype(np.float32)


def _distance_to_contour(grid: Grid, contour: Floats) -> Floats:
    """Signed distance to a polyline with rising y, positive on the chest wall's side, mm."""
    x = np.broadcast_to(grid.x_mm, (grid.rows, grid.columns)).reshape(-1, 1)
    y = np.broadcast_to(grid.y_mm, (grid.rows, grid.columns)).reshape(-1, 1)
    nearest = np.argmin((x - contour[:, 0]) ** 2 + (y - contour[:, 1]) ** 2, axis=1)
    last = len(contour) - 1
    before, after = np.clip(nearest - 1, 0, last), np.clip(nearest + 1, 0, last)
    points = np.concatenate([x, y], axis=1)
    squared = np.minimum(
        _squared_distance(points, contour[before], contour[nearest]),
        _squared_distance(points, contour[nearest], contour[after]),
    )
    edge = np.interp(grid.y_mm[:, 0], contour[:, 1], contour[:, 0], left=-1, right=-1)
    inside = grid.x_mm < edge[:, None]
    distance = np.sqrt(squared).reshape(grid.rows, grid.columns)
    return as_floats(np.where(inside, distance, -distance))


def _squared_distance(points: Floats, start: Floats, stop: Floats) -> Floats:
    """Of points to segments, row by row: float32 [count]."""
    along = stop - start
    length = np.maximum(np.sum(along * along, axis=1), np.float32(1e-6))
    share = np.clip(np.sum((points - start) * along, axis=1) / length, 0, 1)
    away = points - start - share[:, None] * along
    return as_floats(np.sum(away * away, axis=1))


def _smooth_union(first: Floats, second: Floats, blend_mm: float) -> Floats:
    """Union of two shapes given by signed distance, the notch between them filled."""
    gap = first - second
    return as_floats(0.5 * (first + second + np.sqrt(gap * gap + np.float32(blend_mm**2))))

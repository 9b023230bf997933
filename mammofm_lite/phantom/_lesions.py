"""Planted lesions: where they lie in the breast, and what each adds to the image of a view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..views import Laterality, ViewName, laterality, projection
from ._anatomy import Body, Place, ViewAnatomy
from ._grid import Floats, Grid, as_floats, smoothstep
from ._random import stream
from ._truth import Box, LesionKind, PhantomLesion

__all__ = ["Planted", "Signal", "described", "plan_lesions", "signal"]

# Of a study without a given number: most screening studies show nothing to plant.
_COUNT_SHARES: Final = (0.4, 0.4, 0.15, 0.05)
_TRIES: Final = 400
_CLEARANCE_MM: Final = 5.0
# Brightness below this is not seen, and not drawn: it bounds the box.
_VISIBLE: Final = 0.01
_WORDS: Final[Mapping[tuple[LesionKind, bool], tuple[Mapping[str, tuple[str, ...]], ...]]] = {
    ("mass", True): (
        {"shape": ("irregular",), "margin": ("spiculated",), "density": ("high", "equal")},
        {"shape": ("irregular",), "margin": ("indistinct",), "density": ("high", "equal")},
    ),
    ("mass", False): (
        {"shape": ("oval", "round"), "margin": ("circumscribed",), "density": ("equal", "low")},
    ),
    ("calcifications", True): (
        {"morphology": ("fine pleomorphic",), "distribution": ("grouped", "segmental")},
        {"morphology": ("fine linear branching",), "distribution": ("linear",)},
    ),
    ("calcifications", False): (
        {"morphology": ("round", "punctate"), "distribution": ("grouped",)},
    ),
}
_PEAKS: Final = {"high": 0.26, "equal": 0.19, "low": 0.13}


@dataclass(frozen=True)
class Planted:
    """A lesion before it is drawn; `name` names its random streams."""

    name: str
    kind: LesionKind
    laterality: Laterality
    malignant: bool
    descriptors: Mapping[str, str]
    place: Place
    diameter_mm: float


@dataclass(frozen=True)
class Signal:
    """What a lesion adds to a view: `patch` float32, above 0 up to every side of `box`.

    The box is x1, y1, x2, y2 in pixels of the grid it was drawn on.
    """

    box: Box
    patch: Floats

    def add_to(self, image: Floats) -> None:
        """Add it to a whole image, in place."""
        x1, y1, x2, y2 = self.box
        image[y1:y2, x1:x2] += self.patch


# -------------------- planning


def plan_lesions(
    seed: int, body: Body, anatomies: Mapping[ViewName, ViewAnatomy], count: int | None
) -> tuple[Planted, ...]:
    """The lesions of a study, each clear of skin, muscle, image edge and the other lesions.

    The lesions of a smaller `count` are the first of those of a larger one.
    """
    if count is None:
        count = int(stream(seed, "lesions").choice(len(_COUNT_SHARES), p=_COUNT_SHARES))
    planted: list[Planted] = []
    for index in range(count):
        planted.append(_plan(seed, f"lesion {index}", body, anatomies, planted))
    return tuple(planted)


def _plan(
    seed: int,
    name: str,
    body: Body,
    anatomies: Mapping[ViewName, ViewAnatomy],
    others: Sequence[Planted],
) -> Planted:
    random = stream(seed, name)
    kind: LesionKind = "mass" if random.random() < 0.6 else "calcifications"
    malignant = bool(random.random() < 0.55)
    side: Laterality = "L" if random.random() < 0.5 else "R"
    ways = _WORDS[kind, malignant]
    words = ways[int(random.integers(len(ways)))]
    chosen = {key: str(random.choice(options)) for key, options in words.items()}
    diameter = body.scale * random.uniform(*((9, 22) if kind == "mass" else (7, 15)))
    views = [anatomy for view, anatomy in anatomies.items() if laterality(view) == side]
    taken = [other for other in others if other.laterality == side]
    place = _find_place(random, body, views, taken, diameter)
    return Planted(name, kind, side, malignant, chosen, place, diameter)


def _find_place(
    random: np.random.Generator,
    body: Body,
    views: Sequence[ViewAnatomy],
    taken: Sequence[Planted],
    diameter_mm: float,
) -> Place:
    """A random place that fits; should none of many fit, the middle of the breast."""
    for _ in range(_TRIES):
        down, inward = random.uniform(-0.8, 0.8, 2).tolist()
        place = Place(random.uniform(0.2, 0.85), down, inward)
        if all(_fits(view, place, diameter_mm, taken) for view in views):
            return place
    return Place(0.5, 0.0, 0.0)


def _fits(view: ViewAnatomy, place: Place, diameter_mm: float, taken: Sequence[Planted]) -> bool:
    x, y = view.project(place)
    # Spicules and blurred margins reach beyond the diameter.
    reach = 0.9 * diameter_mm + _CLEARANCE_MM * view.body.scale
    away = np.hypot(view.contour_mm[:, 0] - x, view.contour_mm[:, 1] - y)
    at = float(np.interp(y, view.contour_mm[:, 1], view.contour_mm[:, 0], left=0, right=0))
    if x < reach or at < x or float(np.min(away)) < reach:
        return False
    muscle = view.pectoral
    if muscle and x < float(muscle.edge_mm(as_floats([y]))[0]) + 0.6 * diameter_mm:
        return False
    apart = (view.project(other.place) for other in taken)
    return all(
        np.hypot(x - at_x, y - at_y) > reach + 0.9 * other.diameter_mm
        for other, (at_x, at_y) in zip(taken, apart, strict=True)
    )


# -------------------- the truth


def described(planted: Planted, body: Body, boxes: Mapping[ViewName, Box]) -> PhantomLesion:
    """What the truth says of a planted lesion."""
    place = planted.place
    vertical = "upper" if place.down < 0 else "lower"
    horizontal = "outer" if place.inward < 0 else "inner"
    thirds = ("posterior", "middle", "anterior")
    return PhantomLesion(
        kind=planted.kind,
        laterality=planted.laterality,
        malignant=planted.malignant,
        descriptors=planted.descriptors,
        quadrant=f"{vertical} {horizontal}",
        clock=_clock(place, planted.laterality),
        depth=thirds[min(int(place.forward * 3), 2)],
        nipple_depth_mm=round((1 - place.forward) * body.depth_mm, 2),
        diameter_mm=round(planted.diameter_mm, 2),
        boxes_px=boxes,
    )


def _clock(place: Place, side: Laterality) -> int:
    """Hour of a place; the viewer faces the woman, so her left breast's outer side is at 3."""
    rightward = -place.inward if side == "L" else place.inward
    hour = round(float(np.degrees(np.arctan2(rightward, -place.down))) / 30) % 12
    return hour or 12


# -------------------- drawing


def signal(seed: int, planted: Planted, anatomy: ViewAnatomy, grid: Grid) -> Signal:
    """What a lesion adds to the brightness of one view."""
    random = stream(seed, planted.name, anatomy.view)
    window, x, y = _window(grid, anatomy.project(planted.place), 1.9 * planted.diameter_mm)
    if planted.kind == "mass":
        drawn = _mass(planted, random, x, y)
    else:
        specks = stream(seed, planted.name, "specks")
        drawn = _calcifications(planted, anatomy.view, specks, x, y, grid.step_mm)
    return _trimmed(drawn, window)


def _window(
    grid: Grid, centre_mm: tuple[float, float], reach_mm: float
) -> tuple[Box, Floats, Floats]:
    """The pixels around a point, and their x [1, w] and y [h, 1] relative to it in mm."""
    x, y = centre_mm
    reach = int(np.ceil(reach_mm / grid.step_mm)) + 1
    column, row = int(x / grid.step_mm), int(y / grid.step_mm)
    x1, x2 = max(column - reach, 0), min(column + reach + 1, grid.columns)
    y1, y2 = max(row - reach, 0), min(row + reach + 1, grid.rows)
    return (
        (x1, y1, x2, y2),
        grid.x_mm[:, x1:x2] - np.float32(x),
        grid.y_mm[y1:y2] - np.float32(y),
    )


def _trimmed(drawn: Floats, window: Box) -> Signal:
    """Cut off what is not visible, and bound the rest."""
    visible = np.maximum(drawn - np.float32(_VISIBLE), 0)
    rows = np.flatnonzero(visible.max(axis=1))
    columns = np.flatnonzero(visible.max(axis=0))
    x1, y1 = window[:2]
    box = (
        x1 + int(columns[0]),
        y1 + int(rows[0]),
        x1 + int(columns[-1]) + 1,
        y1 + int(rows[-1]) + 1,
    )
    patch = visible[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Signal(box, np.ascontiguousarray(patch))


def _mass(planted: Planted, random: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """A rounded body; spicules where the margin has them: float32 [h, w]."""
    margin, shape = planted.descriptors["margin"], planted.descriptors["shape"]
    radius = planted.diameter_mm / 2
    away, angle = np.hypot(x, y), np.arctan2(y, x)
    outline = np.float32(radius) * _outline(random, angle, shape)
    ratio = away / outline
    # Seen through a ball, with more or less of a halo where its margin is not sharp.
    soft = {"circumscribed": 0.08, "indistinct": 0.6, "spiculated": 0.35}[margin]
    ball = np.sqrt(np.clip(1 - (0.86 * ratio) ** 2, 0, None))
    body = (np.float32(0.3) + np.float32(0.7) * ball) * smoothstep((1 + soft / 2 - ratio) / soft)
    peak = np.float32(_PEAKS[planted.descriptors["density"]])
    if margin == "spiculated":
        body = np.maximum(body, _spicules(random, away, angle, radius))
    return as_floats(peak * body)


def _outline(random: np.random.Generator, angle: Floats, shape: str) -> Floats:
    """Radius by angle, near 1: float32 like `angle`."""
    first = random.uniform(0, np.pi)
    flat = {"round": 0.03, "oval": 0.16, "irregular": 0.12}[shape]
    radius = 1 + np.float32(flat) * np.cos(2 * (angle - np.float32(first)))
    if shape == "irregular":
        for waves in range(3, 10):
            height = np.float32(random.normal(0, 0.16 / waves**0.5 * 1.1))
            radius += height * np.cos(waves * angle + np.float32(random.uniform(0, 2 * np.pi)))
    return as_floats(np.clip(radius, 0.55, 1.5))


def _spicules(random: np.random.Generator, away: Floats, angle: Floats, radius: float) -> Floats:
    """Thin rays from the middle outwards, fading: float32 like `away`, at most 1."""
    rays = np.zeros_like(away)
    for _ in range(int(random.integers(16, 28))):
        towards, bend = random.uniform(-np.pi, np.pi), random.normal(0, 0.12)
        turned = angle - np.float32(towards) - np.float32(bend) * (away / np.float32(radius) - 1)
        aside = away * np.sin(turned)
        ahead = np.cos(turned) > 0
        length = np.float32(radius * random.uniform(1.6, 2.7))
        tapering = np.minimum(away / length, 1.2)
        width = np.float32(random.uniform(0.35, 0.65)) * (1.3 - tapering / 2)
        strength = np.float32(random.uniform(0.6, 1.0)) * np.clip(1.15 - tapering, 0, 1)
        np.maximum(rays, ahead * strength * np.exp(-((aside / width) ** 2)), out=rays)
    return rays


@dataclass(frozen=True)
class _Speck:
    """One calcification: offset in mm (forward, down, inward), half axes in mm, turn in radians."""

    offset: tuple[float, float, float]
    half_axes: tuple[float, float]
    turn: float
    peak: float


def _calcifications(
    planted: Planted,
    view: ViewName,
    random: np.random.Generator,
    x: Floats,
    y: Floats,
    step_mm: float,
) -> Floats:
    """The sum of the specks, each at its place in space: float32 [h, w]."""
    drawn = np.zeros((y.shape[0], x.shape[1]), np.float32)
    for speck in _specks(planted, random):
        forward, down, inward = speck.offset
        across = inward if projection(view) == "CC" else (down + inward) * 0.5**0.5
        drawn += _speck(speck, x - np.float32(forward), y - np.float32(across), step_mm)
    faintest = np.float32(0.06)
    return as_floats(drawn * max(faintest / drawn.max(), np.float32(1)))


def _specks(planted: Planted, random: np.random.Generator) -> list[_Speck]:
    """Specks scattered in an ellipsoid as long as the lesion's diameter."""
    morphology = planted.descriptors["morphology"]
    narrow = {"grouped": 0.8, "segmental": 0.5, "linear": 0.22}[planted.descriptors["distribution"]]
    slender = {"round": 1.0, "punctate": 1.0, "fine pleomorphic": 1.5}.get(morphology, 2.4)
    largest = 0.25 if morphology == "punctate" else 0.3
    axis = random.normal(size=3)
    axis /= np.linalg.norm(axis)
    specks = []
    for _ in range(int(random.integers(9, 24))):
        offset = random.normal(size=3)
        offset *= random.uniform() ** (1 / 3) / np.linalg.norm(offset) * planted.diameter_mm / 2
        offset = narrow * offset + (1 - narrow) * float(offset @ axis) * axis
        half = random.uniform(0.1, largest)
        stretch = random.uniform(0.6, 1) * (slender - 1) + 1
        axes = (min(half * stretch, 0.45), half / stretch**0.5)
        place = (float(offset[0]), float(offset[1]), float(offset[2]))
        specks.append(_Speck(place, axes, random.uniform(0, np.pi), random.uniform(0.22, 0.5)))
    return specks


def _speck(speck: _Speck, x: Floats, y: Floats, step_mm: float) -> Floats:
    """A blurred ellipse; one smaller than a pixel is spread over it and fainter by as much."""
    blur = (0.35 * step_mm) ** 2 + 0.06**2
    turn = (np.float32(np.cos(speck.turn)), np.float32(np.sin(speck.turn)))
    along, aside = x * turn[0] + y * turn[1], y * turn[0] - x * turn[1]
    squares = [(0.7 * half) ** 2 for half in speck.half_axes]
    spread = [square + blur for square in squares]
    peak = speck.peak * np.sqrt(squares[0] * squares[1] / (spread[0] * spread[1]))
    exponent = along**2 / np.float32(spread[0]) + aside**2 / np.float32(spread[1])
    return as_floats(np.float32(peak) * np.exp(-exponent))

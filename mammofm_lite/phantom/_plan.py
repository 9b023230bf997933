"""Which lesions a woman has, and where: drawn from the seed before anything is rendered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..views import Laterality, ViewName, laterality
from ._anatomy import Body, Place, ViewAnatomy
from ._catalogue import Pattern, choose
from ._grid import as_floats
from ._options import PhantomOptions
from ._random import stream
from ._truth import Box, LesionKind, PhantomLesion, PhantomPrecursor

__all__ = ["Plan", "Planted", "described", "plan", "precursor_described"]

# Of benign findings, where the number is left to the seed.
_COUNT_SHARES: Final = (0.5, 0.35, 0.15)
_SECOND_CANCER: Final = 0.08
_TRIES: Final = 200
_CLEARANCE_MM: Final = 4.0
_WEAKEST_PRECURSOR: Final = 0.3
# Calcifications are called regional where they take up more than this (BI-RADS).
_REGION_MM: Final = 20.0


@dataclass(frozen=True)
class Planted:
    """A lesion before it is drawn; `name` names its random streams.

    Attributes
    ----------
    kind
        ``"precursor"`` too, which is no lesion.
    contrast
        What its brightness is multiplied by: difficulty, and thickness of the breast.
    """

    name: str
    kind: LesionKind | str
    laterality: Laterality
    malignant: bool
    suspicious: bool
    benign_type: str | None
    descriptors: Mapping[str, str]
    place: Place
    diameter_mm: float
    contrast: float


@dataclass(frozen=True)
class Plan:
    """Lesions, cancers first, and the precursor (`strength` 0 where there is none)."""

    lesions: tuple[Planted, ...]
    precursor: Planted | None
    strength: float


def plan(
    seed: int,
    body: Body,
    anatomies: Mapping[ViewName, ViewAnatomy],
    options: PhantomOptions,
) -> Plan:
    """What to plant, each clear of skin, muscle, image edge and the others.

    Fewer lesions are the first of more, and a higher prevalence adds cancers without removing any.
    """
    random = stream(seed, "lesions")
    cancer = bool(random.random() < options.prevalence)
    cancers = (1 + int(random.random() < _SECOND_CANCER)) if cancer else 0
    benign = int(random.choice(len(_COUNT_SHARES), p=_COUNT_SHARES))
    early = not cancer and bool(random.random() < options.prevalence)
    strength = round(random.uniform(_WEAKEST_PRECURSOR, 1), 4) if early else 0.0
    count = cancers + benign if options.lesions is None else options.lesions
    planner = _Planner(seed, body, anatomies, options.difficulty)
    # First, so that its place does not depend on the number of lesions.
    precursor = planner.precursor(strength) if early else None
    taken = [precursor] if precursor else []
    planted: list[Planted] = []
    for index in range(count):
        planted.append(planner.lesion(f"lesion {index}", index < cancers, [*taken, *planted]))
    return Plan(tuple(planted), precursor, strength)


@dataclass(frozen=True)
class _Planner:
    seed: int
    body: Body
    anatomies: Mapping[ViewName, ViewAnatomy]
    difficulty: float

    def lesion(self, name: str, malignant: bool, others: Sequence[Planted]) -> Planted:
        random = stream(self.seed, name)
        pattern = choose(random, malignant, self.difficulty)
        side: Laterality = "L" if random.random() < 0.5 else "R"
        words = {key: str(random.choice(terms)) for key, terms in pattern.words.items()}
        diameter = self._diameter(random, pattern)
        place, diameter = self._place(random, side, pattern.kind, diameter, others)
        if words.get("distribution") == "regional" and diameter < _REGION_MM * self.body.fit:
            words["distribution"] = "grouped"
        return Planted(
            name=name,
            kind=pattern.kind,
            laterality=side,
            malignant=malignant,
            suspicious=pattern.suspicious,
            benign_type=pattern.benign_type,
            descriptors=words,
            place=place,
            diameter_mm=diameter,
            contrast=self._contrast(random),
        )

    def precursor(self, strength: float) -> Planted:
        random = stream(self.seed, "precursor")
        side: Laterality = "L" if random.random() < 0.5 else "R"
        wanted = self.body.fit * random.uniform(16, 30)
        place, diameter = self._place(random, side, "precursor", wanted, ())
        return Planted(
            "precursor", "precursor", side, False, False, None, {}, place, diameter, strength
        )

    def _contrast(self, random: np.random.Generator) -> float:
        """Thick breasts scatter more and need harder beams, which show less contrast."""
        thick = float(np.clip((50 / self.body.thickness_mm) ** 0.3, 0.8, 1.2))
        return thick * (1.4 - 0.8 * self.difficulty) * random.uniform(0.8, 1.25)

    def _diameter(self, random: np.random.Generator, pattern: Pattern) -> float:
        median, smallest, largest = pattern.size_mm
        grown = median * (1.2 - 0.4 * self.difficulty) * np.exp(0.38 * random.normal())
        return self.body.fit * float(np.clip(grown, smallest, largest))

    def _place(
        self,
        random: np.random.Generator,
        side: Laterality,
        kind: str,
        diameter_mm: float,
        others: Sequence[Planted],
    ) -> tuple[Place, float]:
        """A random place that fits, and the diameter, smaller should none of many fit."""
        views = [view for name, view in self.anatomies.items() if laterality(name) == side]
        taken = [other for other in others if other.laterality == side]
        while True:
            for _ in range(_TRIES):
                place = _draw_place(random, kind)
                if all(_fits(view, place, kind, diameter_mm, taken) for view in views):
                    return place, diameter_mm
            if diameter_mm < 3 * self.body.fit:
                return Place(0.5, 0.0, 0.0), diameter_mm
            diameter_mm *= 0.7


def _draw_place(random: np.random.Generator, kind: str) -> Place:
    """Anywhere, most often in the upper outer quadrant, where most tissue and most cancers are."""
    down, inward = (float(random.normal(-0.15, 0.42)) for _ in range(2))
    if kind == "intramammary_lymph_node":
        return Place(random.uniform(0.08, 0.5), -abs(down), -abs(inward))
    return Place(random.uniform(0.15, 0.85), down, inward)


def _reach(kind: str, diameter_mm: float) -> float:
    """How far from its middle a lesion is seen."""
    return diameter_mm * (0.8 if kind == "mass" else 0.55)


def _fits(
    view: ViewAnatomy, place: Place, kind: str, diameter_mm: float, taken: Sequence[Planted]
) -> bool:
    x, y = view.project(place)
    reach = _reach(kind, diameter_mm)
    clear = reach + _CLEARANCE_MM * view.body.fit
    at = float(np.interp(y, view.contour_mm[:, 1], view.contour_mm[:, 0], left=0, right=0))
    if x < reach or at < x + clear:
        return False
    away = np.hypot(view.contour_mm[:, 0] - x, view.contour_mm[:, 1] - y)
    if float(np.min(away)) < clear:
        return False
    muscle = view.pectoral
    if muscle and x < float(muscle.edge_mm(as_floats([y]))[0]) + 0.55 * diameter_mm:
        return False
    apart = (view.project(other.place) for other in taken)
    return all(
        np.hypot(x - at_x, y - at_y) > clear + _reach(other.kind, other.diameter_mm)
        for other, (at_x, at_y) in zip(taken, apart, strict=True)
    )


# -------------------- the truth


def described(
    planted: Planted,
    body: Body,
    boxes: Mapping[ViewName, Box],
    contrast_to_noise: Mapping[ViewName, float],
) -> PhantomLesion:
    """What the truth says of a planted lesion."""
    return PhantomLesion(
        kind=planted.kind,  # type: ignore[arg-type]  # a precursor is never described here
        laterality=planted.laterality,
        malignant=planted.malignant,
        suspicious=planted.suspicious,
        benign_type=planted.benign_type,
        descriptors=planted.descriptors,
        quadrant=_quadrant(planted.place),
        clock=_clock(planted.place, planted.laterality),
        depth=_depth(planted.place),
        nipple_depth_mm=round((1 - planted.place.forward) * body.depth_mm, 2),
        diameter_mm=round(planted.diameter_mm, 2),
        boxes_px=boxes,
        contrast_to_noise=contrast_to_noise,
    )


def precursor_described(
    planted: Planted, strength: float, boxes: Mapping[ViewName, Box]
) -> PhantomPrecursor:
    """What the truth says of a precursor."""
    return PhantomPrecursor(
        laterality=planted.laterality,
        quadrant=_quadrant(planted.place),
        clock=_clock(planted.place, planted.laterality),
        depth=_depth(planted.place),
        strength=strength,
        boxes_px=boxes,
    )


def _quadrant(place: Place) -> str:
    vertical = "upper" if place.down < 0 else "lower"
    return f"{vertical} {'outer' if place.inward < 0 else 'inner'}"


def _depth(place: Place) -> str:
    return ("posterior", "middle", "anterior")[min(int(place.forward * 3), 2)]


def _clock(place: Place, side: Laterality) -> int:
    """Hour of a place; the viewer faces the woman, so her left breast's outer side is at 3."""
    rightward = -place.inward if side == "L" else place.inward
    hour = round(float(np.degrees(np.arctan2(rightward, -place.down))) / 30) % 12
    return hour or 12

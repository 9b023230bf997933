"""What is known of a phantom because it was put there."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from .._jsonread import Fields
from ..errors import UsageError
from ..views import STANDARD_VIEWS, Laterality, ViewName

__all__ = ["Box", "Density", "LesionKind", "PhantomLesion", "PhantomPrecursor", "PhantomTruth"]

Density = Literal["a", "b", "c", "d"]
LesionKind = Literal[
    "mass",
    "calcifications",
    "architectural_distortion",
    "focal_asymmetry",
    "intramammary_lymph_node",
]
Box = tuple[int, int, int, int]

_LARGEST: Final = 1 << 63
_DENSITIES: Final = ("a", "b", "c", "d")
_KINDS: Final[tuple[str, ...]] = get_args(LesionKind)
YEARS_TOLD: Final = 5


def _boxes(fields: Fields) -> dict[ViewName, Box]:
    boxes = fields.object("boxes_px").only(*STANDARD_VIEWS)
    return {cast(ViewName, view): cast(Box, boxes.integers(view, 4)) for view in boxes.mapping()}


def _plain(value: Any) -> dict[str, Any]:
    """Fields of a lesion or precursor as JSON types."""
    plain = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return plain | {"boxes_px": {view: list(box) for view, box in value.boxes_px.items()}}


@dataclass(frozen=True)
class PhantomLesion:
    """One planted lesion, at one place in the breast, seen in both views of its side.

    Attributes
    ----------
    kind
        One of the finding kinds of the report's grammar.
    laterality
        Side of the breast.
    malignant
        Whether it is a cancer.
    suspicious
        Whether a reader would recall the woman for it. Cancers are; a few benign ones are too.
    benign_type
        What it is where it is benign, such as ``"cyst"``; ``None`` for a cancer.
    descriptors
        BI-RADS terms by name, in the spelling of the report's grammar. A mass has ``shape``,
        ``margin`` and ``density``; calcifications have ``morphology`` and ``distribution``; other
        kinds have none.
    quadrant
        ``"upper outer"``, ``"upper inner"``, ``"lower outer"`` or ``"lower inner"``.
    clock
        Clock face of the breast as seen from the front, 1 to 12.
    depth
        ``"anterior"``, ``"middle"`` or ``"posterior"`` third.
    nipple_depth_mm
        How far behind the nipple it lies, measured from the nipple towards the chest wall: the
        same in both views.
    diameter_mm
        Diameter of a mass without its spicules, of a group of calcifications, or of the region
        that another finding takes up.
    boxes_px
        Per view, x1, y1, x2, y2 in pixels as in `mammofm_lite.geometry`: whatever the lesion
        changes lies in ``image[y1:y2, x1:x2]``.
    contrast_to_noise
        Per view, measured on the stored image: the mean change by the lesion, where it changes the
        image by more than half of its largest change, over the standard deviation of the image
        without it in a frame of 5 mm around its box. Structure of the tissue counts as noise.
    """

    kind: LesionKind
    laterality: Laterality
    malignant: bool
    suspicious: bool
    benign_type: str | None
    descriptors: Mapping[str, str]
    quadrant: str
    clock: int
    depth: str
    nipple_depth_mm: float
    diameter_mm: float
    boxes_px: Mapping[ViewName, Box]
    contrast_to_noise: Mapping[ViewName, float]

    def to_json(self) -> dict[str, Any]:
        """The lesion as JSON types."""
        return _plain(self) | {
            "descriptors": dict(self.descriptors),
            "contrast_to_noise": dict(self.contrast_to_noise),
        }

    @classmethod
    def from_json(cls, value: Any) -> "PhantomLesion":
        """Read what `to_json` wrote.

        Raises
        ------
        UsageError
            A field is missing, unknown, or of the wrong kind.
        """
        fields = Fields(value, "phantom lesion", UsageError).only(*cls.__dataclass_fields__)
        words = fields.object("descriptors")
        ratios = fields.object("contrast_to_noise").only(*STANDARD_VIEWS)
        return cls(
            kind=cast(LesionKind, fields.choice("kind", _KINDS)),
            laterality=cast(Laterality, fields.choice("laterality", ("L", "R"))),
            malignant=fields.flag("malignant"),
            suspicious=fields.flag("suspicious"),
            benign_type=fields.optional("benign_type", fields.text),
            descriptors={name: words.text(name) for name in words.mapping()},
            quadrant=fields.text("quadrant"),
            clock=fields.integer("clock", 1, 12),
            depth=fields.text("depth"),
            nipple_depth_mm=fields.number("nipple_depth_mm"),
            diameter_mm=fields.number("diameter_mm"),
            boxes_px=_boxes(fields),
            contrast_to_noise={
                cast(ViewName, view): ratios.number(view) for view in ratios.mapping()
            },
        )


@dataclass(frozen=True)
class PhantomPrecursor:
    """A subtle change of the tissue at a place where a cancer will come; no lesion yet.

    Attributes
    ----------
    laterality, quadrant, clock, depth, boxes_px
        As of a `PhantomLesion`.
    strength
        0 to 1: how much the tissue differs, and how much more likely a cancer is.
    """

    laterality: Laterality
    quadrant: str
    clock: int
    depth: str
    strength: float
    boxes_px: Mapping[ViewName, Box]

    def to_json(self) -> dict[str, Any]:
        """The precursor as JSON types."""
        return _plain(self)

    @classmethod
    def from_json(cls, value: Any) -> "PhantomPrecursor":
        """Read what `to_json` wrote.

        Raises
        ------
        UsageError
            A field is missing, unknown, or of the wrong kind.
        """
        fields = Fields(value, "phantom precursor", UsageError).only(*cls.__dataclass_fields__)
        return cls(
            laterality=cast(Laterality, fields.choice("laterality", ("L", "R"))),
            quadrant=fields.text("quadrant"),
            clock=fields.integer("clock", 1, 12),
            depth=fields.text("depth"),
            strength=fields.number("strength", 0, 1),
            boxes_px=_boxes(fields),
        )


@dataclass(frozen=True)
class PhantomTruth:
    """What a phantom study shows.

    Attributes
    ----------
    seed
        The seed it was made from.
    density
        Breast composition ``"a"`` (almost all fat) to ``"d"`` (extremely dense).
    lesions
        What was planted that a reader would name, benign findings included.
    asymmetry
        0 to 1: how much one breast has gland that the other has not, beyond what is usual.
    precursor
        Where there is one. A woman with a cancer has none.
    malignant
        Whether some lesion is a cancer that is there now.
    recall
        Whether a reader should call the woman back: some lesion is suspicious.
    years_to_cancer
        Years until the diagnosis, drawn from the hazard; ``None`` beyond the horizon.
    risk_by_year
        True probability of a diagnosis within 1 to 5 years.
    """

    seed: int
    density: Density
    lesions: tuple[PhantomLesion, ...]
    asymmetry: float
    precursor: PhantomPrecursor | None
    malignant: bool
    recall: bool
    years_to_cancer: float | None
    risk_by_year: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The truth as JSON types."""
        return {
            "synthetic": True,
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "lesions": [lesion.to_json() for lesion in self.lesions],
            "precursor": self.precursor and self.precursor.to_json(),
            "risk_by_year": list(self.risk_by_year),
        }

    @classmethod
    def from_json(cls, value: Any) -> "PhantomTruth":
        """Read what `to_json` wrote.

        Raises
        ------
        UsageError
            A field is missing, unknown, or of the wrong kind.
        """
        fields = Fields(value, "phantom truth", UsageError)
        fields.only("synthetic", *cls.__dataclass_fields__)
        precursor = fields.optional("precursor", fields.object)
        return cls(
            seed=fields.integer("seed", 0, _LARGEST),
            density=cast(Density, fields.choice("density", _DENSITIES)),
            lesions=tuple(
                PhantomLesion.from_json(lesion.value) for lesion in fields.objects("lesions")
            ),
            asymmetry=fields.number("asymmetry", 0, 1),
            precursor=PhantomPrecursor.from_json(precursor.value) if precursor else None,
            malignant=fields.flag("malignant"),
            recall=fields.flag("recall"),
            years_to_cancer=fields.optional("years_to_cancer", fields.number),
            risk_by_year=_probabilities(fields),
        )


def _probabilities(fields: Fields) -> tuple[float, ...]:
    """`risk_by_year`: a probability for each year told, never decreasing."""
    values = fields.value.get("risk_by_year")
    numbers = isinstance(values, list) and all(type(value) is float for value in values)
    if not numbers or len(values) != YEARS_TOLD or not 0 <= values[0] <= values[-1] <= 1:
        raise UsageError(
            f"phantom truth: 'risk_by_year' must be a list of {YEARS_TOLD} probabilities"
        )
    if values != sorted(values):
        raise UsageError("phantom truth: 'risk_by_year' must never decrease")
    return tuple(values)

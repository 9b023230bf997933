"""What is known of a phantom because it was put there."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from .._jsonread import Fields
from ..errors import UsageError
from ..views import STANDARD_VIEWS, Laterality, ViewName

__all__ = ["Box", "Density", "PhantomLesion", "PhantomTruth"]

Density = Literal["a", "b", "c", "d"]
LesionKind = Literal["mass", "calcifications"]
Box = tuple[int, int, int, int]

_LARGEST: Final = 1 << 63


@dataclass(frozen=True)
class PhantomLesion:
    """One planted lesion, at one place in the breast, seen in both views of its side.

    Attributes
    ----------
    kind
        ``"mass"`` or ``"calcifications"``.
    laterality
        Side of the breast.
    malignant
        Whether it was drawn with the look of a cancer.
    descriptors
        BI-RADS terms by name. A mass has ``shape``, ``margin`` and ``density``; calcifications
        have ``morphology`` and ``distribution``.
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
        Diameter of a mass without its spicules, or of the group of calcifications.
    boxes_px
        Per view, x1, y1, x2, y2 in pixels as in `mammofm_lite.geometry`: whatever the lesion
        changes lies in ``image[y1:y2, x1:x2]``.
    """

    kind: LesionKind
    laterality: Laterality
    malignant: bool
    descriptors: Mapping[str, str]
    quadrant: str
    clock: int
    depth: str
    nipple_depth_mm: float
    diameter_mm: float
    boxes_px: Mapping[ViewName, Box]

    def to_json(self) -> dict[str, Any]:
        """The lesion as JSON types."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "descriptors": dict(self.descriptors),
            "boxes_px": {view: list(box) for view, box in self.boxes_px.items()},
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
        boxes = fields.object("boxes_px").only(*STANDARD_VIEWS)
        return cls(
            kind=cast(LesionKind, fields.choice("kind", ("mass", "calcifications"))),
            laterality=cast(Laterality, fields.choice("laterality", ("L", "R"))),
            malignant=fields.flag("malignant"),
            descriptors={name: words.text(name) for name in words.mapping()},
            quadrant=fields.text("quadrant"),
            clock=fields.integer("clock", 1, 12),
            depth=fields.text("depth"),
            nipple_depth_mm=fields.number("nipple_depth_mm"),
            diameter_mm=fields.number("diameter_mm"),
            boxes_px={
                cast(ViewName, view): cast(Box, boxes.integers(view, 4)) for view in boxes.mapping()
            },
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
        What was planted.
    recall
        Whether a reader should call the woman back: some planted lesion is malignant.
    """

    seed: int
    density: Density
    lesions: tuple[PhantomLesion, ...]
    recall: bool

    def to_json(self) -> dict[str, Any]:
        """The truth as JSON types."""
        return {
            "synthetic": True,
            "seed": self.seed,
            "density": self.density,
            "recall": self.recall,
            "lesions": [lesion.to_json() for lesion in self.lesions],
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
        return cls(
            seed=fields.integer("seed", 0, _LARGEST),
            density=cast(Density, fields.choice("density", ("a", "b", "c", "d"))),
            lesions=tuple(
                PhantomLesion.from_json(lesion.value) for lesion in fields.objects("lesions")
            ),
            recall=fields.flag("recall"),
        )

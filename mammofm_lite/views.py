"""Names fixed everywhere: the four standard views of screening mammography, and the heads."""

from typing import Final, Literal, cast

__all__ = [
    "HEADS",
    "STANDARD_VIEWS",
    "Laterality",
    "Projection",
    "ViewName",
    "laterality",
    "projection",
]

ViewName = Literal["L-CC", "L-MLO", "R-CC", "R-MLO"]
Laterality = Literal["L", "R"]
Projection = Literal["CC", "MLO"]

HEADS: Final[tuple[str, ...]] = ("diagnosis", "localization", "prognosis", "report")
STANDARD_VIEWS: Final[tuple[ViewName, ...]] = ("L-CC", "L-MLO", "R-CC", "R-MLO")


def laterality(view: ViewName) -> Laterality:
    """Side of the breast a view shows: ``"L"`` or ``"R"``."""
    return cast(Laterality, view.split("-")[0])


def projection(view: ViewName) -> Projection:
    """Projection of a view: ``"CC"`` (cranio-caudal) or ``"MLO"`` (medio-lateral oblique)."""
    return cast(Projection, view.split("-")[1])

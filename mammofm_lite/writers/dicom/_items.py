"""Content items of structured reports (PS3.3 C.17.3), one function per value type."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._codes import Code

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["by_reference", "code", "container", "item", "number", "scoord", "text", "with_children"]


def item(relationship: str | None, value_type: str, name: Code | None, **values: Any) -> "Dataset":
    """Any content item; `values` are its other attributes by keyword."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    if relationship is not None:
        dataset.RelationshipType = relationship
    dataset.ValueType = value_type
    if name is not None:
        dataset.ConceptNameCodeSequence = [name.item()]
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def container(relationship: str | None, name: Code, *children: "Dataset") -> "Dataset":
    """CONTAINER with its children."""
    dataset = item(relationship, "CONTAINER", name, ContinuityOfContent="SEPARATE")
    return with_children(dataset, *children)


def code(relationship: str, name: Code, value: Code, *children: "Dataset") -> "Dataset":
    """CODE with its children."""
    dataset = item(relationship, "CODE", name, ConceptCodeSequence=[value.item()])
    return with_children(dataset, *children)


def text(relationship: str, name: Code, value: str) -> "Dataset":
    """TEXT."""
    return item(relationship, "TEXT", name, TextValue=value)


def number(relationship: str, name: Code, value: float, unit: Code) -> "Dataset":
    """NUM with three decimals."""
    from pydicom.dataset import Dataset

    measured = Dataset()
    measured.NumericValue = f"{value:.3f}"
    measured.MeasurementUnitsCodeSequence = [unit.item()]
    return item(relationship, "NUM", name, MeasuredValueSequence=[measured])


def scoord(
    name: Code, graphic_type: str, points: Sequence[float], selected_from: Sequence[int]
) -> "Dataset":
    """SCOORD of an image elsewhere in the tree: columns and rows in turn, counting pixel edges."""
    dataset = item(
        "HAS PROPERTIES", "SCOORD", name, GraphicType=graphic_type, GraphicData=list(points)
    )
    return with_children(dataset, by_reference("SELECTED FROM", selected_from))


def by_reference(relationship: str, place: Sequence[int]) -> "Dataset":
    """A relationship to another item of the tree, by its place."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    dataset.RelationshipType = relationship
    dataset.ReferencedContentItemIdentifier = list(place)
    return dataset


def with_children(parent: "Dataset", *children: "Dataset") -> "Dataset":
    """`parent`, with `children` after those that it has."""
    if children:
        parent.ContentSequence = [*parent.get("ContentSequence", []), *children]
    return parent

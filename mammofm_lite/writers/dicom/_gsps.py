"""Grayscale Softcopy Presentation States (PS3.3 A.33.1): the marks drawn on the original images.

One per view, a series per breast, for any viewer of an archive. A presentation state replaces the
whole display pipeline of its image (PS3.4 N.2), so the image's own rescale, window and shutter are
repeated.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ...background import CircularShutter, PolygonalShutter, RectangularShutter
from ...views import Laterality, laterality
from ..text import operating_points
from ._case import Case, Image, Kind, TrackedMark, reference, series_references

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

__all__ = ["presentation_states"]

_SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.11.1"
_SERIES: Final[Mapping[Laterality, Kind]] = {  # Laterality is an attribute of the series
    "L": Kind("gsps L", _SOP_CLASS, "PR", 9003),
    "R": Kind("gsps R", _SOP_CLASS, "PR", 9004),
}
_MARKS: Final = "MARKS"
_NOTICES: Final = "NOTICES"
_WHITE: Final = 0xFFFF
_MAX_ST: Final = 1024


def presentation_states(case: Case) -> Iterator[tuple[Image, "FileDataset"]]:
    """One for every image that was answered about, with or without marks."""
    for number, image in enumerate(case.used, start=1):
        side = laterality(image.view)
        dataset = case.new(_SERIES[side], image.view)
        dataset.Laterality = side
        dataset.InstanceNumber = number
        dataset.ContentLabel = "MAMMOFM_MARKS"
        dataset.ContentDescription = f"Marks in {image.view} - NOT FOR CLINICAL USE"
        dataset.ContentCreatorName = ""
        dataset.PresentationCreationDate = dataset.InstanceCreationDate
        dataset.PresentationCreationTime = dataset.InstanceCreationTime
        dataset.ReferencedSeriesSequence = series_references((image,), "ReferencedImageSequence")
        _add_display(dataset, image)
        _add_annotations(dataset, case, image)
        yield image, dataset


# -------------------- display


def _add_display(dataset: "Dataset", image: Image) -> None:
    from pydicom.dataset import Dataset
    from pydicom.valuerep import DSfloat

    instance = image.instance
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]  # whole pixels, counted from 1 (PS3.3 C.10.4)
    area.DisplayedAreaBottomRightHandCorner = [instance.columns, instance.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = instance.pixel_spacing_mm
    if spacing is None or spacing[0] == spacing[1]:
        area.PresentationPixelAspectRatio = [1, 1]  # leaves it to the image what its pixels measure
    else:
        area.PresentationPixelSpacing = [DSfloat(each, auto_format=True) for each in spacing]
    dataset.DisplayedAreaSelectionSequence = [area]
    if (instance.rescale_slope, instance.rescale_intercept) != (1, 0):
        dataset.RescaleSlope = DSfloat(instance.rescale_slope, auto_format=True)
        dataset.RescaleIntercept = DSfloat(instance.rescale_intercept, auto_format=True)
        dataset.RescaleType = "US"
    _add_shutters(dataset, image)
    window = _voi(image)
    if window is not None:
        dataset.SoftcopyVOILUTSequence = [window]
    # What MONOCHROME1 says is not regarded any more (PS3.4 N.2.1.3): the shape says it.
    inverse = instance.photometric_interpretation == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"


def _voi(image: Image) -> "Dataset | None":
    """The image's first table, which takes precedence, or its first window; else none."""
    from pydicom.dataset import Dataset
    from pydicom.valuerep import DSfloat

    item = Dataset()
    if image.origin.voi_tables:
        item.VOILUTSequence = [image.origin.voi_tables[0]]
        return item
    voi = image.instance.voi
    if not voi.windows or voi.function is None:
        return None
    centre, width = voi.windows[0]
    item.WindowCenter = DSfloat(centre, auto_format=True)
    item.WindowWidth = DSfloat(width, auto_format=True)
    item.VOILUTFunction = voi.function
    return item


def _add_shutters(dataset: "Dataset", image: Image) -> None:
    shutters = image.instance.background.shutters
    names = []
    for shutter in shutters:
        if isinstance(shutter, RectangularShutter):
            names.append("RECTANGULAR")
            dataset.ShutterLeftVerticalEdge = shutter.left
            dataset.ShutterRightVerticalEdge = shutter.right
            dataset.ShutterUpperHorizontalEdge = shutter.top
            dataset.ShutterLowerHorizontalEdge = shutter.bottom
        elif isinstance(shutter, CircularShutter):
            names.append("CIRCULAR")
            dataset.CenterOfCircularShutter = [shutter.row, shutter.column]
            dataset.RadiusOfCircularShutter = shutter.radius
        elif isinstance(shutter, PolygonalShutter):
            names.append("POLYGONAL")
            dataset.VerticesOfThePolygonalShutter = [v for point in shutter.vertices for v in point]
    if names:
        dataset.ShutterShape = names
        dataset.ShutterPresentationValue = 0


# -------------------- annotations


def _add_annotations(dataset: "Dataset", case: Case, image: Image) -> None:
    marks = [tracked for tracked in case.marks if tracked.image is image]
    annotations = [_annotation(image, _NOTICES, [_notice(case, marks)], [])]
    if marks:
        words, outlines = [_name(each) for each in marks], [_outline(each) for each in marks]
        annotations.append(_annotation(image, _MARKS, words, outlines))
    dataset.GraphicAnnotationSequence = annotations
    layers = [_layer(_NOTICES, 1, "What must be read with the marks")]
    if marks:
        layers.append(_layer(_MARKS, 2, "Marks of the localization head"))
    dataset.GraphicLayerSequence = layers


def _annotation(
    image: Image, layer: str, words: list["Dataset"], outlines: list["Dataset"]
) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedImageSequence = [reference(image)]
    item.GraphicLayer = layer
    item.TextObjectSequence = words
    if outlines:
        item.GraphicObjectSequence = outlines
    return item


def _layer(name: str, order: int, description: str) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.GraphicLayer = name
    item.GraphicLayerOrder = order
    item.GraphicLayerRecommendedDisplayGrayscaleValue = _WHITE
    item.GraphicLayerDescription = description
    return item


def _outline(tracked: TrackedMark) -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(tracked.corners) // 2
    item.GraphicData = tracked.corners
    item.GraphicType = "POLYLINE"
    item.GraphicFilled = "N"
    return item


def _name(tracked: TrackedMark) -> "Dataset":
    """At the lower left corner of the outline."""
    from pydicom.dataset import Dataset

    x1, _, _, y2 = tracked.mark.box_px
    item = Dataset()
    item.UnformattedTextValue = f"{tracked.name} {tracked.mark.label} {tracked.mark.score:.2f}"
    item.AnchorPointAnnotationUnits = "PIXEL"
    item.AnchorPoint = [x1, y2]
    item.AnchorPointVisibility = "N"
    return item


def _notice(case: Case, marks: list[TrackedMark]) -> "Dataset":
    """A strip along the top of the displayed area."""
    from pydicom.dataset import Dataset

    item = Dataset()
    first, *others = case.statements()
    lines = (first, _searched(case, marks), *others)  # what may be cut off comes last
    item.UnformattedTextValue = "\r\n".join(lines)[:_MAX_ST]
    item.BoundingBoxAnnotationUnits = "DISPLAY"
    item.BoundingBoxTopLeftHandCorner = [0.0, 0.0]
    item.BoundingBoxBottomRightHandCorner = [1.0, 0.1]
    item.BoundingBoxTextHorizontalJustification = "LEFT"
    return item


def _searched(case: Case, marks: list[TrackedMark]) -> str:
    """A picture without marks must not be taken for a negative answer."""
    found = case.result.localization
    if found is None:
        return "Not searched for findings."
    if not marks:
        return f"Searched; no mark at or above {operating_points(found)}."
    return f"Marks at or above {operating_points(found)}; a score is not a probability."

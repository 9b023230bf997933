"""How a radiologist hangs four views: right beside left, chest walls together, at one scale.

A view is hung by what its file says of its orientation. Where that cannot be told, or the image is
turned by a quarter, it stays as it is stored, and the page says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..geometry import ViewGeometry
from ..views import Projection, ViewName, laterality, projection

__all__ = ["HANGING", "Hung", "Window", "hang", "orientation"]

# Row by row, as they hang: the patient's right breast is on the reader's left.
HANGING: Final[tuple[ViewName, ...]] = ("R-CC", "L-CC", "R-MLO", "L-MLO")

_MARGIN_MM: Final = 6.0  # around the breast, where the image has room

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Window:
    """A part of a hung view: left and top edge, width and height, in original pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Hung:
    """A view as it hangs.

    Parameters
    ----------
    flip_x, flip_y
        The stored image is mirrored left to right, or upside down.
    known
        Whether the file says how it is to be hung.
    breast, whole
        What is shown at first, and what shows all of the image: equal in mm for the views of a
        row, and equally wide for all. They may reach over the image's edges, but never over the
        chest wall's.
    part
        How high the view's row is beside the highest row, so that all views have one scale.
    px_per_mm
        Of the columns; ``None`` where the scale of some view is unknown, and pixels stand for mm.
    """

    flip_x: bool
    flip_y: bool
    known: bool
    breast: Window
    whole: Window
    part: float
    px_per_mm: float | None


def orientation(
    view: ViewName, patient_orientation: tuple[str, str] | None
) -> tuple[bool, bool, bool]:
    """Whether to flip left to right, whether upside down, and whether the file says so.

    Hung, the rows of a right view run to the back (``P``), of a left one to the front (``A``).
    Downwards is inside in CC (``L`` of a right breast, ``R`` of a left one) and the feet in MLO.
    """
    if patient_orientation is None:
        return False, False, False
    side = laterality(view)
    across, down = patient_orientation
    hung, mirrored = ("P", "A") if side == "R" else ("A", "P")
    inside, outside = ("L", "R") if side == "R" else ("R", "L")
    top, bottom = ("H", "F") if projection(view) == "MLO" else (outside, inside)
    flip_x = {hung: False, mirrored: True}.get(across[0])
    flip_y = {bottom: False, top: True}.get(down[0])
    if flip_x is None or flip_y is None:
        return False, False, False
    return flip_x, flip_y, True


def hang(
    geometries: Mapping[ViewName, ViewGeometry],
    orientations: Mapping[ViewName, tuple[str, str] | None],
) -> Mapping[ViewName, Hung]:
    """Flips and windows of the views that are there."""
    spacings = {view: geometry.pixel_spacing_mm for view, geometry in geometries.items()}
    scaled = all(spacing is not None for spacing in spacings.values())
    pixels = {view: (scaled and spacing) or (1.0, 1.0) for view, spacing in spacings.items()}
    flips = {view: orientation(view, orientations.get(view)) for view in geometries}
    wholes = {view: _whole(geometries[view], pixels[view]) for view in geometries}
    breasts = {view: _breast(geometries[view], pixels[view], flips[view]) for view in geometries}
    parts = _parts(breasts)
    windows = [_windows(boxes, wholes, parts, pixels) for boxes in (breasts, wholes)]
    return {
        view: Hung(
            *flips[view],
            breast=windows[0][view],
            whole=windows[1][view],
            part=parts[projection(view)],
            px_per_mm=1 / pixels[view][1] if scaled else None,
        )
        for view in geometries
    }


def _whole(geometry: ViewGeometry, pixel_mm: tuple[float, float]) -> Box:
    return (0.0, 0.0, geometry.columns * pixel_mm[1], geometry.rows * pixel_mm[0])


def _breast(
    geometry: ViewGeometry, pixel_mm: tuple[float, float], flips: tuple[bool, bool, bool]
) -> Box:
    """What the model saw of a hung view, and a margin, in mm: x1, y1, x2, y2."""
    x1, x2 = geometry.column_runs[0][0], geometry.column_runs[-1][1]
    y1, y2 = geometry.row_runs[0][0], geometry.row_runs[-1][1]
    if flips[0]:
        x1, x2 = geometry.columns - x2, geometry.columns - x1
    if flips[1]:
        y1, y2 = geometry.rows - y2, geometry.rows - y1
    height_mm, width_mm = pixel_mm
    right, bottom = geometry.columns * width_mm, geometry.rows * height_mm
    return (
        max(x1 * width_mm - _MARGIN_MM, 0.0),
        max(y1 * height_mm - _MARGIN_MM, 0.0),
        min(x2 * width_mm + _MARGIN_MM, right),
        min(y2 * height_mm + _MARGIN_MM, bottom),
    )


def _heights(boxes: Mapping[ViewName, Box]) -> dict[Projection, float]:
    """Of every row of views the height of its highest."""
    heights: dict[Projection, float] = {}
    for view, (_, top, _, bottom) in boxes.items():
        row = projection(view)
        heights[row] = max(heights.get(row, 0.0), bottom - top)
    return heights


def _parts(breasts: Mapping[ViewName, Box]) -> dict[Projection, float]:
    heights = _heights(breasts)
    return {row: height / max(heights.values()) for row, height in heights.items()}


def _windows(
    boxes: Mapping[ViewName, Box],
    wholes: Mapping[ViewName, Box],
    parts: Mapping[Projection, float],
    pixels: Mapping[ViewName, tuple[float, float]],
) -> dict[ViewName, Window]:
    """From the chest wall's edge wide enough for every box, and high enough for those of its row.

    Right views have the chest wall at their right edge, left views at their left one. Rows keep
    the ratio of their heights.
    """
    width = max(
        wholes[view][2] - box[0] if laterality(view) == "R" else box[2]
        for view, box in boxes.items()
    )
    highest = max(height / parts[row] for row, height in _heights(boxes).items())
    windows = {}
    for view, (_, top, _, bottom) in boxes.items():
        height = highest * parts[projection(view)]
        x = wholes[view][2] - width if laterality(view) == "R" else 0.0
        y = (top + bottom - height) / 2
        height_mm, width_mm = pixels[view]
        windows[view] = Window(x / width_mm, y / height_mm, width / width_mm, height / height_mm)
    return windows

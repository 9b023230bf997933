"""Where a prepared view lies in its original image: prepared pixels, original pixels, millimetres.

All coordinates are continuous and count pixel edges: x is the column, y the row, the top-left
corner of the top-left pixel is (0, 0) and its centre (0.5, 0.5). A box x1, y1, x2, y2 with whole
numbers therefore covers exactly the pixels ``image[y1:y2, x1:x2]``. This is the convention of DICOM
PS3.3 C.18.6 (Graphic Data of spatial coordinates, relative to the image).

The crop of the reference may keep several runs of rows or columns and glue them, so the way from a
prepared pixel to an original one is piecewise linear, with a jump at every seam. It is written in
C++ (``c_ext/src/runtime/geometry.cpp``), once for this runtime and for ``libmammofm``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from . import _native_pixels as native
from ._jsonread import Fields
from .errors import StudyError, UsageError

__all__ = ["Runs", "ViewGeometry"]

Runs = tuple[tuple[int, int], ...]
Floats = npt.NDArray[np.float64]
_Edge = Literal["point", "low", "high"]

# A box edge this near a whole pixel lies on it: above the rounding of float32 boxes.
_TOUCH_PX: Final = 1e-3
# As `native.along_axis` numbers them: on a seam a point and the low edge of a box belong to the run
# above it, the high edge to the run below it.
_EDGES: Final[Mapping[_Edge, int]] = {"point": 0, "low": 1, "high": 2}
_TO_MODEL: Final = -1


@dataclass(frozen=True)
class _Axis:
    """One axis: kept runs of original pixels, glued, then scaled to `model_size` pixels."""

    runs: Runs
    model_size: int
    mirrored: bool

    def to_original(self, model: Floats, edge: _Edge) -> Floats:
        """The original coordinate; outside the crop the first or last run is prolonged."""
        return native.along_axis(self.runs, self.model_size, self.mirrored, _EDGES[edge], model)

    def to_model(self, original: Floats) -> Floats:
        """The prepared coordinate; all of a gap between two runs falls on their seam."""
        return native.along_axis(self.runs, self.model_size, self.mirrored, _TO_MODEL, original)


@dataclass(frozen=True)
class ViewGeometry:
    """How a prepared view was cut from its original image and scaled.

    Parameters
    ----------
    rows, columns
        Size of the original image in pixels.
    border_px
        Width of the frame that was dropped before anything else.
    row_runs, column_runs
        Kept original rows and columns as rising ``(start, stop)``, stop exclusive.
    model_height, model_width
        Size of the prepared view in pixels.
    mirrored
        The prepared view is flipped left to right.
    pixel_spacing_mm
        Distance of rows, then of columns, in mm at the breast as the study tells it; or unknown.

    Raises
    ------
    UsageError
        A size is not positive, runs leave the image, overlap or are not rising.
    """

    rows: int
    columns: int
    border_px: int
    row_runs: Runs
    column_runs: Runs
    model_height: int
    model_width: int
    mirrored: bool = False
    pixel_spacing_mm: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if min(self.model_height, self.model_width) < 1:
            raise UsageError(
                f"geometry: a prepared view of {self.model_height} x {self.model_width} pixels"
                " is not possible"
            )
        _check_runs(self.row_runs, self.rows, "row_runs")
        _check_runs(self.column_runs, self.columns, "column_runs")
        spacing = self.pixel_spacing_mm
        if spacing is not None and not all(0 < value < float("inf") for value in spacing):
            raise UsageError(f"geometry: pixel spacing {spacing} mm must be positive and finite")

    @cached_property
    def _x(self) -> _Axis:
        return _Axis(self.column_runs, self.model_width, self.mirrored)

    @cached_property
    def _y(self) -> _Axis:
        return _Axis(self.row_runs, self.model_height, mirrored=False)

    def to_original(self, points: npt.ArrayLike) -> Floats:
        """Prepared x, y [..., 2] to original x, y: float64 [..., 2].

        A point on a seam goes to the run right of or below it; one outside is extrapolated.
        """
        xy = _last_axis(points, 2)
        x, y = self._x, self._y
        points_xy = (x.to_original(xy[..., 0], "point"), y.to_original(xy[..., 1], "point"))
        return np.stack(points_xy, axis=-1)

    def to_model(self, points: npt.ArrayLike) -> Floats:
        """Original x, y [..., 2] to prepared x, y: float64 [..., 2].

        Exact inverse of `to_original` inside the kept runs. A point in a gap goes to its seam.
        """
        xy = _last_axis(points, 2)
        return np.stack((self._x.to_model(xy[..., 0]), self._y.to_model(xy[..., 1])), axis=-1)

    def box_to_original(self, boxes: npt.ArrayLike) -> Floats:
        """Prepared boxes x1, y1, x2, y2 [..., 4] to original ones: float64 [..., 4].

        A box across a seam becomes the smallest box around all of its pixels, gap included; a box
        that ends on a seam does not reach over the gap. An empty or inverted box stays so.
        """
        x1, y1, x2, y2 = np.moveaxis(_last_axis(boxes, 4), -1, 0)
        if self.mirrored:
            x1, x2 = x2, x1
        return np.stack(
            (
                self._x.to_original(x1, "low"),
                self._y.to_original(y1, "low"),
                self._x.to_original(x2, "high"),
                self._y.to_original(y2, "high"),
            ),
            axis=-1,
        )

    def box_to_model(self, boxes: npt.ArrayLike) -> Floats:
        """Original boxes x1, y1, x2, y2 [..., 4] to prepared ones: float64 [..., 4]."""
        x1, y1, x2, y2 = np.moveaxis(_last_axis(boxes, 4), -1, 0)
        if self.mirrored:
            x1, x2 = x2, x1
        x, y = self._x, self._y
        return np.stack((x.to_model(x1), y.to_model(y1), x.to_model(x2), y.to_model(y2)), axis=-1)

    def box_to_original_pixels(self, boxes: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Prepared boxes [..., 4] to whole original pixels: int64 x1, y1, x2, y2, stop exclusive.

        Rounded outward, so that every touched pixel is inside, and clipped to the image. A pixel
        of which less than a thousandth is covered counts as not touched.
        """
        exact = self.box_to_original(boxes)
        low = np.floor(exact[..., :2] + _TOUCH_PX)
        high = np.ceil(exact[..., 2:] - _TOUCH_PX)
        limits = np.array([self.columns, self.rows] * 2, dtype=np.float64)
        whole: Floats = np.clip(np.concatenate((low, high), axis=-1), 0, limits)
        return whole.astype(np.int64)

    def to_mm(self, points: npt.ArrayLike) -> Floats:
        """Original x, y [..., 2] in mm right of and below the image's top-left corner.

        Raises
        ------
        StudyError
            The pixel spacing is unknown.
        """
        row_mm, column_mm = self._spacing()
        return _last_axis(points, 2) * (column_mm, row_mm)

    def box_to_mm(self, boxes: npt.ArrayLike) -> Floats:
        """Original boxes [..., 4] in mm from the image's top-left corner.

        Raises
        ------
        StudyError
            The pixel spacing is unknown.
        """
        row_mm, column_mm = self._spacing()
        return _last_axis(boxes, 4) * (column_mm, row_mm, column_mm, row_mm)

    def box_size_mm(self, boxes: npt.ArrayLike) -> Floats:
        """Width and height in mm [..., 2] of original boxes [..., 4].

        Raises
        ------
        StudyError
            The pixel spacing is unknown.
        """
        edges = self.box_to_mm(boxes)
        return edges[..., 2:] - edges[..., :2]

    def _spacing(self) -> tuple[float, float]:
        if self.pixel_spacing_mm is None:
            raise StudyError(
                "the image carries no pixel spacing, so nothing in it can be given in mm; "
                "use pixel coordinates"
            )
        return self.pixel_spacing_mm

    def to_json(self) -> dict[str, Any]:
        """As JSON types; `from_json` reads it back."""
        spacing = self.pixel_spacing_mm
        return {
            "rows": self.rows,
            "columns": self.columns,
            "border_px": self.border_px,
            "row_runs": [list(run) for run in self.row_runs],
            "column_runs": [list(run) for run in self.column_runs],
            "model_height": self.model_height,
            "model_width": self.model_width,
            "mirrored": self.mirrored,
            "pixel_spacing_mm": None if spacing is None else list(spacing),
        }

    @classmethod
    def from_json(cls, value: Any) -> "ViewGeometry":
        """Read what `to_json` wrote.

        Raises
        ------
        UsageError
            A field is missing, unknown, or of the wrong kind.
        """
        fields = Fields(value, "geometry", UsageError).only(*cls.__dataclass_fields__)
        largest = 1 << 20
        return cls(
            rows=fields.integer("rows", 1, largest),
            columns=fields.integer("columns", 1, largest),
            border_px=fields.integer("border_px", 0, largest),
            row_runs=_read_runs(fields, "row_runs"),
            column_runs=_read_runs(fields, "column_runs"),
            model_height=fields.integer("model_height", 1, largest),
            model_width=fields.integer("model_width", 1, largest),
            mirrored=fields.flag("mirrored"),
            pixel_spacing_mm=fields.optional(
                "pixel_spacing_mm", lambda key: _read_pair(fields, key)
            ),
        )


def _check_runs(runs: Runs, size: int, name: str) -> None:
    edges = [0, *(edge for run in runs for edge in run), size]
    inside = all(low <= high for low, high in pairwise(edges))
    if not runs or not inside or any(start >= stop for start, stop in runs):
        raise UsageError(
            f"geometry: {name} must be rising (start, stop) pairs inside 0 to {size} that do not "
            "overlap"
        )


def _last_axis(values: npt.ArrayLike, count: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 1 or array.shape[-1] != count:
        raise ValueError(f"expected [..., {count}] coordinates, not {list(array.shape)}")
    return array


def _read_runs(fields: Fields, key: str) -> Runs:
    value = fields.value.get(key)
    if not isinstance(value, list) or not all(_is_whole_pair(item) for item in value):
        raise UsageError(f"geometry: {key!r} must be a list of [start, stop] pairs")
    return tuple((start, stop) for start, stop in value)


def _is_whole_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(type(edge) is int for edge in item)


def _read_pair(fields: Fields, key: str) -> tuple[float, float]:
    value = fields.value[key]
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not numbers or len(value) != 2:
        raise UsageError(f"geometry: {key!r} must be two numbers or null")
    return float(value[0]), float(value[1])

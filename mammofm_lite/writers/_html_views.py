"""The four views of the page: pictures in SVG whose unit is the original pixel, with their boxes.

Every box has the coordinates of `result.json` in its attributes. A view that hangs mirrored is
turned by the transform of the group around picture and boxes; only texts stand outside of it.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..results import Box, Mark, StudyResult, ViewInfo
from ..views import ViewName, laterality, projection
from ._hanging import HANGING, Hung, Window
from ._markup import Markup, Value, element, number
from ._meaning import plain_label
from ._overlay import MARK_COLOURS
from .png import encode_png

__all__ = ["NumberedMark", "Picture", "colours", "numbered_marks", "view_grid", "view_words"]

_SIDES: Final = {"R": "right breast", "L": "left breast"}
_PROJECTIONS: Final = {"CC": "cranio-caudal", "MLO": "medio-lateral oblique"}
_SCALE_BARS_MM: Final = (50, 20, 10, 5, 2, 1)
_TEXTS_PER_WIDTH: Final = 30  # heights of a tag in the width of a view, before the script
# Where a tag may stand, in its own heights: above its box, below it, and further off.
_ABOVE: Final = (-0.45, -1.7, -2.95)
_BELOW: Final = (1.2, 2.45, 3.7)
_CHARACTER: Final = 0.58  # mean width, in heights


@dataclass(frozen=True)
class Picture:
    """A view for the eye, as it is stored: uint8 [height, width], and a sentence on its window."""

    image: npt.NDArray[np.uint8]
    window: str


@dataclass(frozen=True)
class NumberedMark:
    """A mark of the localization head and its number on the page."""

    number: int
    mark: Mark


def view_words(view: ViewName) -> str:
    """``R-CC`` as ``right breast, cranio-caudal``."""
    return f"{_SIDES[laterality(view)]}, {_PROJECTIONS[projection(view)]}"


def numbered_marks(result: StudyResult) -> tuple[NumberedMark, ...]:
    """All marks, numbered from 1 view by view as they hang, by falling score within a view."""
    found = result.localization.marks if result.localization else ()
    ordered = sorted(found, key=lambda mark: (HANGING.index(mark.view), -mark.score))
    return tuple(NumberedMark(i, mark) for i, mark in enumerate(ordered, 1))


def colours(result: StudyResult) -> Mapping[str, str]:
    """A colour for every label that was searched for, the same in all studies of a bundle."""
    found = result.localization
    marked = sorted({mark.label for mark in found.marks}) if found else []
    names = dict.fromkeys([*(found.thresholds if found else ()), *marked])
    return {
        name: "#{:02x}{:02x}{:02x}".format(*MARK_COLOURS[i % len(MARK_COLOURS)])
        for i, name in enumerate(names)
    }


def view_grid(
    result: StudyResult,
    hung: Mapping[ViewName, Hung],
    pictures: Mapping[ViewName, Picture],
) -> Markup:
    """Two rows of two views; a view that is missing has its place."""
    views = {info.view: info for info in result.views}
    marks = numbered_marks(result)
    figures = []
    for view in HANGING:
        if view in views:
            mine = [item for item in marks if item.mark.view == view]
            figures.append(_View(result, views[view], hung[view], pictures[view], mine).figure())
        else:
            figures.append(_missing(result, view))
    return element("div", {"class": "hanging", "id": "hanging"}, figures)


def _missing(result: StudyResult, view: ViewName) -> Markup:
    given: dict[str, Value] = {"data-view": view, "data-side": laterality(view)}
    why = [item.detail for item in result.files if item.view == view and not item.used] or [
        "no file of the study shows it"
    ]
    return element(
        "figure",
        {"class": f"view missing row-{projection(view)}", **given},
        element("p", {"class": "corner"}, view.replace("-", " ")),
        element(
            "div",
            {"class": "absent"},
            element("strong", {}, "Missing view"),
            element("span", {}, view_words(view)),
            (element("span", {"class": "why"}, reason) for reason in dict.fromkeys(why)),
        ),
        element("figcaption", {}, "Nothing on this page says anything about this view."),
    )


@dataclass(frozen=True)
class _View:
    """One view that is there."""

    result: StudyResult
    info: ViewInfo
    hung: Hung
    picture: Picture
    marks: Sequence[NumberedMark]

    def figure(self) -> Markup:
        view = self.info.view
        count = self._count()
        given: dict[str, Value] = {"data-view": view, "data-side": laterality(view)}
        viewer: dict[str, Value] = {"class": "viewer", "tabindex": 0, "role": "group"}
        title = f"{view}, {view_words(view)}: {count}"
        return element(
            "figure",
            {"class": f"view row-{projection(view)}", **given},
            element("p", {"class": "corner", "aria-hidden": "true"}, view.replace("-", " ")),
            element(
                "div",
                {**viewer, "aria-label": title, "aria-describedby": "keys"},
                self._svg(title),
            ),
            element("figcaption", {}, f"{view}: {count}. {self._scale()}"),
        )

    def _count(self) -> str:
        found = self.result.localization
        if found is None or self.info.view not in found.views_searched:
            return "not searched for findings"
        return {0: "no mark", 1: "1 mark"}.get(len(self.marks), f"{len(self.marks)} marks")

    def _scale(self) -> str:
        rows, columns = self.info.rows, self.info.columns
        reduced = columns / self.picture.image.shape[1]
        shown = f"shown at 1:{reduced:.1f}" if reduced > 1 else "shown in full"
        spacing = self.info.geometry.pixel_spacing_mm
        size = f"{spacing[1]:.3g} mm" if spacing else "of unknown size"
        stored = "" if self.hung.known else " Hung as stored: the file does not say how."
        mirrored = " Mirrored for hanging." if self.hung.flip_x or self.hung.flip_y else ""
        return f"{columns} × {rows} pixels, each {size}, {shown}.{stored}{mirrored}"

    def _svg(self, title: str) -> Markup:
        side, shown = laterality(self.info.view), self.hung.breast
        return element(
            "svg",
            {
                "viewBox": _numbers(shown),
                "data-breast": _numbers(shown),
                "data-whole": _numbers(self.hung.whole),
                "data-columns": self.info.columns,
                "data-rows": self.info.rows,
                "data-px-per-mm": self.hung.px_per_mm,
                "preserveAspectRatio": "xMaxYMid meet" if side == "R" else "xMinYMid meet",
                "font-size": round(shown.width / _TEXTS_PER_WIDTH, 2),
                "role": "img",
                "aria-label": title,
            },
            self._trim(),
            element("g", {"transform": self._transform()}, self._image(), self._outlines()),
            self._tags(),
            self._scale_bar(),
        )

    def _transform(self) -> str | None:
        if not (self.hung.flip_x or self.hung.flip_y):
            return None
        x, a = (self.info.columns, -1) if self.hung.flip_x else (0, 1)
        y, d = (self.info.rows, -1) if self.hung.flip_y else (0, 1)
        return f"matrix({a} 0 0 {d} {x} {y})"

    def _image(self) -> Markup:
        data = base64.b64encode(encode_png(self.picture.image)).decode()
        return element(
            "image",
            {
                "class": "pixels",
                "width": self.info.columns,
                "height": self.info.rows,
                "preserveAspectRatio": "none",
                "filter": "url(#grey)",
                "clip-path": f"url(#trim-{self.info.view})",
                "href": f"data:image/png;base64,{data}",
            },
        )

    def _trim(self) -> Markup:
        """What is seen of the picture until whole images are asked for.

        The place on the screen may be wider than the window, and would show half a side marker.
        """
        shown = self.hung.breast
        x1, y1, x2, y2 = self._hung_box(
            (shown.x, shown.y, shown.x + shown.width, shown.y + shown.height)
        )
        place: dict[str, Value] = {
            "x": round(x1, 2), "y": round(y1, 2),
            "width": round(x2 - x1, 2), "height": round(y2 - y1, 2),
        }  # fmt: skip
        return element("clipPath", {"id": f"trim-{self.info.view}"}, element("rect", place))

    def _outlines(self) -> Iterator[Markup]:
        for x1, x2 in self.info.geometry.column_runs:
            for y1, y2 in self.info.geometry.row_runs:
                yield _box("field off", (x1, y1, x2, y2), {})
        yield from (_box("peak off", box, {}) for box in self._peaks())
        found = colours(self.result)
        # The best score last, so that it lies on top.
        for item in reversed(self.marks):
            mark = item.mark
            given: dict[str, Value] = {"data-mark": item.number, "data-label": mark.label}
            yield _box("rim", mark.box_px, given)
            yield _box("box", mark.box_px, {**given, "stroke": found[mark.label]})

    def _peaks(self) -> Iterator[Box]:
        """Where left and right differ most, of the last year."""
        answer = self.result.prognosis
        if answer is None or not answer.peaks:
            return
        last = max(peak.year for peak in answer.peaks)
        for peak in answer.peaks:
            if peak.year == last and peak.projection == projection(self.info.view):
                yield (peak.left_box_px if laterality(self.info.view) == "L" else peak.right_box_px)

    def _hung_box(self, box: Box) -> Box:
        x1, y1, x2, y2 = box
        if self.hung.flip_x:
            x1, x2 = self.info.columns - x2, self.info.columns - x1
        if self.hung.flip_y:
            y1, y2 = self.info.rows - y2, self.info.rows - y1
        return x1, y1, x2, y2

    def _tags(self) -> Iterator[Markup]:
        """Number, label and score of every mark: on no other tag and few boxes, if possible."""
        found = colours(self.result)
        right = laterality(self.info.view) == "R"
        boxes = [self._hung_box(item.mark.box_px) for item in self.marks]
        taken: list[Box] = []
        for item in self.marks:
            mark = item.mark
            text = f"{item.number} {plain_label(mark.label)} {mark.score:.2f}"
            box = self._hung_box(mark.box_px)
            others = [each for each in boxes if each != box]
            x, y, dy, area = self._tag_place(box, len(text), taken, others)
            taken.append(area)
            place: dict[str, Value] = {"x": x, "y": y, "dy": f"{dy}em"}
            given: dict[str, Value] = {"data-mark": item.number, "data-label": mark.label}
            anchor = "end" if right else "start"
            shown: dict[str, Value] = {"text-anchor": anchor, "fill": found[mark.label]}
            yield element("text", {"class": "tag", **place, **shown, **given}, text)

    def _tag_place(
        self, box: Box, length: int, taken: Sequence[Box], others: Sequence[Box]
    ) -> tuple[float, float, float, Box]:
        """Anchor, shift in heights, and the area taken, of a tag that grows off the chest wall."""
        x1, y1, x2, y2 = box
        height = self.hung.breast.width / _TEXTS_PER_WIDTH
        width = length * height * _CHARACTER
        left, x = (x2 - width, x2) if laterality(self.info.view) == "R" else (x1, x1)
        places = []
        for y, shifts in ((y1, _ABOVE), (y2, _BELOW)):
            for shift in shifts:
                bottom = y + (shift + 0.3) * height
                area = (left, bottom - 1.3 * height, left + width, bottom)
                places.append((x, y, shift, area))
        inside = [place for place in places if place[3][1] >= self.hung.breast.y] or places
        return min(
            inside,
            key=lambda place: (
                any(_overlap(place[3], one) for one in taken),
                sum(_overlap(place[3], one) for one in others),
            ),
        )

    def _scale_bar(self) -> Markup | None:
        """In the lower corner away from the chest wall; the page's script keeps it there."""
        if self.hung.px_per_mm is None:
            return None
        shown, per_mm = self.hung.breast, self.hung.px_per_mm
        length_mm = next(
            (mm for mm in _SCALE_BARS_MM if mm * per_mm <= shown.width / 3), _SCALE_BARS_MM[-1]
        )
        length, gap = length_mm * per_mm, shown.width / 40
        right = laterality(self.info.view) == "R"
        x = shown.x + gap if right else shown.x + shown.width - gap - length
        y = shown.y + shown.height - gap
        tick = gap / 3
        line = (
            f"M{number(round(x, 2))} {number(round(y - tick, 2))}v{number(round(tick, 2))}"
            f"h{number(round(length, 2))}v{number(-round(tick, 2))}"
        )
        text: dict[str, Value] = {"x": round(x + length / 2, 2), "y": round(y - tick * 1.5, 2)}
        return element(
            "g",
            {"class": "scale"},
            element("path", {"class": "halo", "d": line}),
            element("path", {"d": line}),
            element("text", {**text, "text-anchor": "middle"}, f"{length_mm} mm"),
        )


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _box(kind: str, box: Box, attributes: Mapping[str, Value]) -> Markup:
    x1, y1, x2, y2 = box
    place: dict[str, Value] = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return element("rect", {"class": kind, **place, **attributes})


def _numbers(window: Window) -> str:
    edges = (window.x, window.y, window.width, window.height)
    return " ".join(number(round(edge, 2)) for edge in edges)

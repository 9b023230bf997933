"""Drawing one view: the image for the eye, outlines of findings, the strip below."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..geometry import ViewGeometry
from ..resize import resize_area
from ._canvas import BLACK, WHITE, Box, Canvas, Colour, Frame, Rect, text_size
from ._font import printable
from ._heat import OverlayHeatmap, draw_heat_legend, draw_heatmap

__all__ = ["MARK_COLOURS", "OverlayMark", "display_image", "reduced_image", "render_overlay"]

UInt8Array = npt.NDArray[np.uint8]

# Okabe and Ito's palette, told apart by all kinds of colour vision, light enough on black and,
# with their black rim, dark enough on dense tissue. https://jfly.uni-koeln.de/color/
MARK_COLOURS: Final[tuple[Colour, ...]] = (
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (0, 158, 115),
)
_DIM: Final[Colour] = (170, 170, 170)
_SURROUND: Final[Colour] = (22, 22, 22)

_LEAST_WIDTH: Final = 720  # so that a caption has room below a narrow view
_MARGIN: Final = 16
_OUTLINE: Final = 3  # coloured line; one black pixel on either side
_LABEL_SIZE: Final = 2
_NEAR: Final = range(6)  # lines of text between a mark and its own
_FAR: Final = range(6, 20)
_SCALE_BARS_MM: Final = (100, 50, 20, 10, 5, 1)


@dataclass(frozen=True)
class OverlayMark:
    """A finding to outline: box x1, y1, x2, y2 in original pixels, its label, its score in 0..1."""

    box_px: Box
    label: str
    score: float


# -------------------- stored pixels for the eye


def display_image(
    stored: npt.NDArray[np.integer[Any]],
    photometric_interpretation: str,
    rescale_slope: float,
    rescale_intercept: float,
    window: tuple[float, float] | None = None,
) -> UInt8Array:
    """Stored pixels as a reader sees them: tissue light, background dark.

    Parameters
    ----------
    stored
        Integers [rows, columns].
    window
        Window centre and width, in rescaled values, applied as DICOM PS3.3 C.11.2.1.2.1 (linear)
        says. If not given, from the least value to one that a thousandth of the pixels exceed, so
        that a burnt-in marker does not darken the breast.

    Returns
    -------
    uint8 [rows, columns].
    """
    inverted = photometric_interpretation == "MONOCHROME1"
    if window is None:
        black, white = _own_window(stored, inverted != (rescale_slope < 0))
    else:
        centre, half = window[0] - 0.5, max(window[1] - 1.0, 1e-6) / 2
        ends = (centre + half, centre - half) if inverted else (centre - half, centre + half)
        black, white = ((end - rescale_intercept) / rescale_slope for end in ends)
    return _stretched(stored, black, white)


def _own_window(stored: npt.NDArray[np.integer[Any]], falling: bool) -> tuple[float, float]:
    sample = stored[::4, ::4]
    low, almost_low, almost_high, high = np.percentile(sample, (0, 0.1, 99.9, 100)).tolist()
    black, white = (high, almost_low) if falling else (low, almost_high)
    return (black, white) if black != white else ((high, low) if falling else (low, high))


def _stretched(stored: npt.NDArray[np.integer[Any]], black: float, white: float) -> UInt8Array:
    """Linear from `black` (0) to `white` (255), which may be the smaller; clipped and rounded."""
    gain = np.float32(255.0 / (white - black)) if white != black else np.float32(0)
    out = np.empty(stored.shape, np.uint8)
    for start in range(0, stored.shape[0], 64):
        values = stored[start : start + 64].astype(np.float32)
        values -= np.float32(black)
        values *= gain
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        np.copyto(out[start : start + 64], values, casting="unsafe")
    return out


# -------------------- the view and its marks


def reduced_image(image: UInt8Array, longest_px: int = 1600) -> UInt8Array:
    """A whole view at the size that `render_overlay` draws it in: uint8 [height, width]."""
    rows, columns = image.shape
    return resize_area(image, *_picture_size(rows, columns, longest_px))


def _picture_size(rows: int, columns: int, longest_px: int) -> tuple[int, int]:
    scale = longest_px / max(rows, columns)
    return max(round(rows * scale), 1), max(round(columns * scale), 1)


def render_overlay(
    image: UInt8Array,
    geometry: ViewGeometry,
    marks: Sequence[OverlayMark],
    *,
    caption: Sequence[str] = (),
    labels: Sequence[str] = (),
    heatmap: OverlayHeatmap | None = None,
    longest_px: int = 1600,
) -> UInt8Array:
    """Draw one view.

    Parameters
    ----------
    image
        uint8 [rows, columns], the whole original image as `display_image` gives it, or what
        `reduced_image` makes of it.
    marks
        Outlined just outside their boxes, so that nothing of a finding is covered.
    caption
        Lines below the view, the first of them larger: view, model, and the notice on its use.
    labels
        All labels that a mark may have, in a fixed order, so that each has one colour in all
        views; those of `marks` if not given.
    longest_px
        Length of the view's longer side in the picture.

    Returns
    -------
    uint8 [height, width, 3], RGB.

    Raises
    ------
    ValueError
        `image` is not of the size that `geometry` tells.
    """
    height, width = _picture_size(geometry.rows, geometry.columns, longest_px)
    if image.shape == (geometry.rows, geometry.columns):
        image = reduced_image(image, longest_px)
    elif image.shape != (height, width):
        raise ValueError(
            f"the image is {list(image.shape)}, the geometry tells "
            f"{[geometry.rows, geometry.columns]}"
        )
    scale = longest_px / max(geometry.rows, geometry.columns)
    total_width = max(width, _LEAST_WIDTH)
    left = (total_width - width) // 2
    frame = Frame(scale, Rect(left, 0, left + width, height), geometry)
    footer = _Footer(caption, heatmap, frame, total_width)
    canvas = Canvas(np.full((height + footer.height, total_width, 3), _SURROUND, np.uint8))
    canvas.pixels[:height, left : left + width] = image[..., None]
    if heatmap is not None:
        draw_heatmap(canvas, heatmap, frame)
    _draw_marks(canvas, marks, frame, labels)
    footer.draw(canvas, height)
    return canvas.pixels


def _draw_marks(
    canvas: Canvas, marks: Sequence[OverlayMark], frame: Frame, labels: Sequence[str]
) -> None:
    """Outlines first, then texts, so that no line crosses a text; the best score has its pick."""
    colours = _label_colours([*labels, *sorted({mark.label for mark in marks})])
    ordered = sorted(marks, key=lambda mark: -mark.score)
    # Inset, so that the outline of a finding at the chest wall is still seen.
    boxes = [frame.rect(mark.box_px, inset=_OUTLINE + 2) for mark in ordered]
    for mark, box in zip(reversed(ordered), reversed(boxes), strict=True):
        canvas.frame(box, _OUTLINE + 2, BLACK)
        canvas.frame(box.grown(1), _OUTLINE, colours[mark.label])
    outlines = [box.grown(_OUTLINE + 2) for box in boxes]
    plates: list[Rect] = []
    for mark, outline in zip(ordered, outlines, strict=True):
        text = printable(f"{mark.label.replace('_', ' ')} {mark.score:.2f}")
        plate = _plate(outline, text, (plates, outlines), frame.area)
        plates.append(plate)
        canvas.fill(plate, BLACK, opacity=0.7)
        canvas.text((plate.x1 + 5, plate.y1 + 3), text, _LABEL_SIZE, colours[mark.label])


def _label_colours(labels: Sequence[str]) -> Mapping[str, Colour]:
    names = dict.fromkeys(labels)
    return {name: MARK_COLOURS[i % len(MARK_COLOURS)] for i, name in enumerate(names)}


def _plate(
    outline: Rect, text: str, avoid: tuple[Sequence[Rect], Sequence[Rect]], area: Rect
) -> Rect:
    """Where a mark's text goes: near its outline and on no other text; off all boxes, or between
    the lines of one around it, or if need be farther away."""
    plates, outlines = avoid
    near, far = (list(_places(outline, text, area, steps)) for steps in (_NEAR, _FAR))

    def beside(place: Rect, around: Sequence[Rect] = ()) -> bool:
        return all(
            one in around and place.within(one.grown(-_OUTLINE - 2))
            for one in outlines
            if place.overlaps(one)
        )

    def between(place: Rect) -> bool:
        return beside(place, [one for one in outlines if outline.within(one)])

    width, height = _plate_size(text)
    top = Rect(outline.x1, area.y1, outline.x1 + width, area.y1 + height).moved_into(area)
    places = chain(filter(beside, near), filter(between, near), filter(beside, far), near)
    free = (place for place in places if not any(place.overlaps(plate) for plate in plates))
    return next(free, top)


def _places(outline: Rect, text: str, area: Rect, steps: range) -> Iterator[Rect]:
    """Above and below the outline, nearest first, flush left then right; always inside `area`."""
    width, height = _plate_size(text)
    for step in steps:
        for top in (outline.y1 - (step + 1) * height, outline.y2 + step * height):
            for left in (outline.x1, outline.x2 - width):
                place = Rect(left, top, left + width, top + height).moved_into(area)
                if area.y1 <= top and place.y2 <= area.y2:
                    yield place


def _plate_size(text: str) -> tuple[int, int]:
    width, height = text_size(text, _LABEL_SIZE)
    return width + 10, height + 4


# -------------------- the strip below


class _Footer:
    """Scale bar, legend and caption; laid out before the picture is made, which it makes taller."""

    def __init__(
        self,
        caption: Sequence[str],
        heatmap: OverlayHeatmap | None,
        frame: Frame,
        width: int,
    ) -> None:
        self._lines = tuple(_caption_lines(caption, width - 2 * _MARGIN))
        self._bar = _scale_bar(frame)
        self._heatmap = heatmap
        self._tools = 44 if self._bar or heatmap else 0
        text = sum(text_size("", size)[1] + 4 for _, size, _ in self._lines)
        self.height = text + self._tools + (_MARGIN * 2 if text or self._tools else 0)
        self._width = width

    def draw(self, canvas: Canvas, top: int) -> None:
        y = top + _MARGIN
        if self._tools:
            self._draw_tools(canvas, y)
            y += self._tools
        for text, size, colour in self._lines:
            canvas.text((_MARGIN, y), text, size, colour)
            y += text_size(text, size)[1] + 4

    def _draw_tools(self, canvas: Canvas, y: int) -> None:
        if self._bar:
            length_mm, length_px = self._bar
            _draw_scale_bar(canvas, (_MARGIN, y), f"{length_mm} mm", length_px)
        if self._heatmap is not None:
            draw_heat_legend(canvas, self._width - _MARGIN, y, self._heatmap.title)


def _caption_lines(caption: Sequence[str], width: int) -> Iterator[tuple[str, int, Colour]]:
    for index, paragraph in enumerate(caption):
        size, colour = (3, WHITE) if index == 0 else (2, _DIM)
        for line in _wrapped(printable(paragraph), width // text_size("m", size)[0]):
            yield line, size, colour


def _wrapped(text: str, columns: int) -> Iterator[str]:
    """Lines of at most `columns` characters, broken at spaces; runs of spaces inside are kept."""
    while len(text) > columns:
        cut = text.rfind(" ", 0, columns + 1)
        cut = cut if cut > 0 else columns
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    yield text


def _scale_bar(frame: Frame) -> tuple[int, int] | None:
    """Length in mm and in picture pixels of a bar of at most a third of the view's width."""
    spacing = frame.geometry.pixel_spacing_mm
    if spacing is None:
        return None
    px_per_mm = frame.scale / spacing[1]
    longest = (frame.area.x2 - frame.area.x1) / 3
    fitting = [length for length in _SCALE_BARS_MM if length * px_per_mm <= longest]
    return (fitting[0], round(fitting[0] * px_per_mm)) if fitting else None


def _draw_scale_bar(canvas: Canvas, at: tuple[int, int], text: str, length_px: int) -> None:
    x, y = at
    canvas.fill(Rect(x, y + 8, x + length_px, y + 11), WHITE)
    for end in (x, x + length_px - 3):
        canvas.fill(Rect(end, y, end + 3, y + 19), WHITE)
    canvas.text((x + length_px + 10, y + 2), text, 2, WHITE)

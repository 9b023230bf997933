"""Padding and shutters: nothing changes unless they mislead, and then only what must.

The plain way (`plain`) is `prepare_view` told of no background, which other tests hold against the
reference bit for bit.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mammofm_lite import StudyError
from mammofm_lite.background import (
    Background,
    CircularShutter,
    PixelPadding,
    PolygonalShutter,
    RectangularShutter,
    background_masks,
    filled,
)
from mammofm_lite.prepare import PreparedView, PreprocessingSpec, prepare_view

ROWS, COLUMNS = 90, 70
SPEC = PreprocessingSpec(height=48, width=32)
PADDING, SHUTTER = ("pixel_padding_masked",), ("display_shutter_masked",)
FRAME = RectangularShutter(left=9, right=62, top=9, bottom=82)  # leaves 8 pixels on every side


def breast(dtype: Any = np.uint16) -> npt.NDArray[Any]:
    """MONOCHROME2: tissue of 1000 to 4000 before air of 50 to 90."""
    random = np.random.default_rng(0)
    stored = random.integers(50, 91, (ROWS, COLUMNS))
    row, column = np.mgrid[:ROWS, :COLUMNS]
    tissue = ((row - 45) / 32) ** 2 + ((column - 12) / 40) ** 2 < 1
    stored[tissue] = random.integers(1000, 4001, tissue.sum())
    return stored.astype(dtype)


def framed(value: int, dtype: Any = np.uint16) -> npt.NDArray[Any]:
    stored = breast(dtype)
    hidden = ~FRAME.visible(ROWS, COLUMNS)
    stored[hidden] = value
    return stored


def negative(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return (4095 - stored.astype(np.int64)).astype(stored.dtype)


def prepare(stored: npt.NDArray[Any], background: Background, **given: Any) -> PreparedView:
    arguments: dict[str, Any] = {
        "photometric_interpretation": "MONOCHROME2",
        "rescale_slope": 1.0,
        "rescale_intercept": 0.0,
        "laterality": "L",
        "spec": SPEC,
    }
    return prepare_view(stored, background=background, **(arguments | given))


def plain(stored: npt.NDArray[Any], **given: Any) -> PreparedView:
    return prepare(stored, Background(), **given)


def same(view: PreparedView, other: PreparedView) -> None:
    np.testing.assert_array_equal(view.image, other.image)
    assert view.geometry == other.geometry


def padding(low: int, high: int | None = None) -> Background:
    return Background(PixelPadding(low, low if high is None else high))


# -------------------- where the reference works, its way is kept bit for bit


@pytest.mark.parametrize(
    ("stored", "background"),
    [
        (breast(), padding(0)),  # named, and nowhere to be seen
        (breast(), padding(4096, 65535)),
        (breast(), padding(-32768)),  # a value that no pixel of this type can have
        (breast(), padding(50, 90)),  # the air itself, as manufacturers do
        (breast(), padding(70)),
        (framed(0), padding(0)),  # a little darker than the air
        (framed(0), Background(None, (FRAME,))),
        (framed(60), Background(None, (FRAME,))),
        (framed(60), Background(PixelPadding(60, 60), (FRAME,))),
        (breast(), Background(None, (RectangularShutter(1, COLUMNS, 1, ROWS),))),
    ],
)
def test_dark_background_changes_nothing(stored: npt.NDArray[Any], background: Background) -> None:
    for image, photometric in ((stored, "MONOCHROME2"), (negative(stored), "MONOCHROME1")):
        limits = background.padding
        if limits is not None and photometric == "MONOCHROME1":
            mirrored = PixelPadding(4095 - limits.high, 4095 - limits.low)
            background = Background(mirrored, background.shutters)
        view = prepare(image, background, photometric_interpretation=photometric)
        assert view.deviations == ()
        same(view, plain(image, photometric_interpretation=photometric))


def test_what_lies_in_the_dropped_border_changes_nothing() -> None:
    stored = breast()
    stored[:5] = stored[-5:] = 65535
    view = prepare(stored, padding(65535))
    assert view.deviations == ()
    same(view, plain(stored))


@pytest.mark.parametrize(("offset", "deviations"), [(3899, ()), (3901, PADDING)])
def test_dark_padding_misleads_where_it_takes_half_of_the_grey_levels(
    offset: int, deviations: tuple[str, ...]
) -> None:
    stored = framed(0)
    stored[20, 20], stored[20, 60] = 4000, 50  # the extremes of the image
    stored[stored > 0] += offset + 1
    assert prepare(stored, padding(0)).deviations == deviations


# -------------------- where it would be misled


@pytest.mark.parametrize(
    ("value", "dtype", "photometric"),
    [
        (65535, np.uint16, "MONOCHROME1"),  # as dark as can be, and the image becomes all white
        (4095 * 3, np.uint16, "MONOCHROME1"),
        (0, np.uint16, "MONOCHROME1"),  # bright
        (65535, np.uint16, "MONOCHROME2"),  # bright, and the image becomes all black
        (4095, np.uint16, "MONOCHROME2"),
        (2000, np.uint16, "MONOCHROME2"),  # within the range, and bright
        (-32768, np.int16, "MONOCHROME2"),
        (32767, np.int16, "MONOCHROME2"),
        (-32768, np.int16, "MONOCHROME1"),
        (32767, np.int16, "MONOCHROME1"),
    ],
)
@pytest.mark.parametrize("how", ["padding", "range", "shutter", "both"])
def test_misleading_pixels_become_background(
    value: int, dtype: Any, photometric: str, how: str
) -> None:
    """As if the air went on there: the same picture as of an image whose frame is its darkest."""
    inverted = photometric == "MONOCHROME1"
    hidden = ~FRAME.visible(ROWS, COLUMNS)
    stored = negative(breast(dtype)) if inverted else breast(dtype)
    stored[stored == value] += 1  # the standard: no pixel of the image has the value of padding
    shown = stored[~hidden]
    expected = stored.copy()
    expected[hidden] = shown.max() if inverted else shown.min()
    stored[hidden] = value
    background = {
        "padding": padding(value),
        "range": padding(*sorted((value, value))),
        "shutter": Background(None, (FRAME,)),
        "both": Background(PixelPadding(value, value), (FRAME,)),
    }[how]
    view = prepare(stored, background, photometric_interpretation=photometric)
    same(view, plain(expected, photometric_interpretation=photometric))
    assert view.deviations == (SHUTTER if how == "shutter" else PADDING)
    reference = plain(stored, photometric_interpretation=photometric)
    # A frame of one value within the range is cut off by the crop rule, whatever its value.
    assert np.array_equal(view.image, reference.image) is (value == 2000)


def test_a_falling_rescale_turns_dark_and_bright() -> None:
    stored = framed(65535)
    given = {"rescale_slope": -1.0, "rescale_intercept": 65535.0}
    hidden = stored == 65535
    expected = np.where(hidden, stored[~hidden].max(), stored)
    view = prepare(stored, padding(65535), **given)
    same(view, plain(expected, **given))
    assert view.deviations == PADDING


def test_each_mask_is_judged_by_itself() -> None:
    """Padding far off and a dark shutter: only the padding is touched, and the reverse."""
    stored = framed(0)
    stored[40:50, 55:60] = 65535
    background = Background(PixelPadding(65535, 65535), (FRAME,))
    view = prepare(stored, background)
    assert view.deviations == PADDING
    expected = stored.copy()
    expected[stored == 65535] = 0
    same(view, plain(expected))
    stored = framed(4000)
    stored[40:50, 55:60] = 0
    assert prepare(stored, Background(PixelPadding(0, 0), (FRAME,))).deviations == SHUTTER


def test_both_masks_are_named_where_both_mislead() -> None:
    stored = framed(4000)
    stored[40:50, 55:60] = 65535
    view = prepare(stored, Background(PixelPadding(65535, 65535), (FRAME,)))
    assert view.deviations == PADDING + SHUTTER


def test_the_input_is_left_alone() -> None:
    stored = framed(65535)
    before = stored.copy()
    stored.setflags(write=False)
    prepare(stored, padding(65535))
    np.testing.assert_array_equal(stored, before)


@pytest.mark.parametrize(
    "background",
    [
        padding(0, 65535),
        padding(50, 65535),
        Background(None, (RectangularShutter(200, 300, 1, ROWS),)),
        Background(None, (RectangularShutter(20, 10, 1, ROWS),)),
        Background(None, (CircularShutter(40, 30, 3),)),
    ],
)
def test_nothing_is_left_of_the_image(background: Background) -> None:
    with pytest.raises(StudyError, match="padding and display shutter cover the whole image"):
        prepare(breast(), background)


def test_what_is_left_is_constant() -> None:
    stored = np.full((ROWS, COLUMNS), 7, np.uint16)
    stored[:20] = 65535
    with pytest.raises(StudyError, match="constant apart from pixel padding"):
        prepare(stored, padding(65535))


# -------------------- shapes


def shown(shutter: Any, rows: int = 20, columns: int = 30) -> npt.NDArray[np.bool_]:
    (mask,) = background_masks(
        np.zeros((rows, columns), np.uint8), Background(None, (shutter,))
    ).values()
    return ~mask


def test_a_rectangle() -> None:
    seen = shown(RectangularShutter(left=3, right=5, top=2, bottom=2))
    assert np.argwhere(seen).tolist() == [[1, 2], [1, 3], [1, 4]]


def test_a_rectangle_larger_than_the_image() -> None:
    assert shown(RectangularShutter(left=-5, right=900, top=0, bottom=900)).all()


def test_a_circle() -> None:
    seen = shown(CircularShutter(row=10, column=15, radius=5))
    row, column = np.argwhere(seen).T + 1
    assert (row.min(), row.max(), column.min(), column.max()) == (5, 15, 10, 20)
    assert seen.sum() == 81  # lattice points in a circle of radius 5
    assert seen[9, 14]


@given(
    st.lists(
        st.tuples(st.integers(-10, 40), st.integers(-10, 50)), min_size=3, max_size=8, unique=True
    )
)
@settings(max_examples=200)
def test_a_polygon_against_another_implementation(vertices: list[tuple[int, int]]) -> None:
    """Pillow fills the outline as well, so pixels within one of an edge may differ."""
    rows, columns, margin = 30, 40, 20
    size = (columns + 2 * margin, rows + 2 * margin)
    points = [(column - 1 + margin, row - 1 + margin) for row, column in vertices]
    canvas, outline = Image.new("1", size), Image.new("1", size)
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    ImageDraw.Draw(outline).line([*points, points[0]], fill=1, width=3)
    inside = np.asarray(canvas)[margin:-margin, margin:-margin]
    near = np.asarray(outline)[margin:-margin, margin:-margin]
    seen = shown(PolygonalShutter(tuple(vertices)), rows, columns)
    assert not ((seen != inside) & ~near).any()


def test_a_polygon_of_many_vertices_is_quick() -> None:
    """The cost grows with the image and the edges, never with their product."""
    zigzag = tuple((1 if i % 2 else 4096, i % 3328 + 1) for i in range(200))
    assert shown(PolygonalShutter(zigzag), 4096, 3328).shape == (4096, 3328)


def test_shapes_together_show_what_all_of_them_show() -> None:
    stored = np.zeros((20, 30), np.uint8)
    shapes = (RectangularShutter(1, 10, 1, 20), RectangularShutter(5, 30, 1, 20))
    (mask,) = background_masks(stored, Background(None, shapes)).values()
    assert np.flatnonzero(~mask[0]).tolist() == list(range(4, 10))


def test_a_pixel_is_in_one_mask() -> None:
    stored = np.arange(20, dtype=np.uint8).reshape(4, 5)
    background = Background(PixelPadding(0, 7), (RectangularShutter(2, 5, 1, 4),))
    masks = background_masks(stored, background)
    assert list(masks) == [*PADDING, *SHUTTER]
    assert np.flatnonzero(masks[PADDING[0]]).tolist() == list(range(8))
    assert np.flatnonzero(masks[SHUTTER[0]]).tolist() == [10, 15]


@pytest.mark.parametrize(("falling", "darkest"), [(False, 4), (True, 9)])
def test_filled(falling: bool, darkest: int) -> None:
    stored = np.array([[1, 4, 9], [200, 5, 6]], np.int16)
    mask = np.array([[1, 0, 0], [1, 0, 0]], np.bool_)
    changed = filled(stored, mask, falling=falling)
    assert changed.tolist() == [[darkest, 4, 9], [darkest, 5, 6]]
    assert changed.dtype == stored.dtype

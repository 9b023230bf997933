"""`resize_area` against OpenCV itself, and against stored results of the reference's OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mammofm_lite.resize import resize_area

RULES = Path(__file__).parents[1] / "data" / "golden" / "preproc_rules.npz"
SIDE = st.integers(1, 200)


def texture(rows: int, columns: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def opencv(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.generic]:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@given(rows=SIDE, columns=SIDE, height=SIDE, width=SIDE, seed=st.integers(0, 9))
@example(rows=150, columns=96, height=75, width=48, seed=0)  # 2 x 2 blocks: rounds half up
@example(rows=150, columns=96, height=50, width=32, seed=0)  # integer blocks: half to even
@example(rows=150, columns=96, height=75, width=32, seed=0)
@example(rows=147, columns=98, height=3, width=2, seed=0)  # 1 / (1 / 49) is not 49
@example(rows=150, columns=96, height=150, width=48, seed=0)  # one axis kept
@example(rows=150, columns=96, height=40, width=130, seed=0)  # one axis enlarged
@example(rows=40, columns=30, height=80, width=90, seed=0)  # both enlarged by integers
@example(rows=1, columns=1, height=7, width=5, seed=0)
@settings(max_examples=400, deadline=None)
def test_equals_opencv(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    image = texture(rows, columns, seed)
    np.testing.assert_array_equal(
        resize_area(image, height, width), opencv(image, height, width).reshape(height, width)
    )


@pytest.mark.parametrize(
    ("rows", "columns"), [(4086, 3318), (2840, 2073), (3040, 1824), (1922, 722), (1096, 758)]
)
def test_equals_opencv_at_the_size_of_mammograms(rows: int, columns: int) -> None:
    image = texture(rows, columns, seed=1)
    np.testing.assert_array_equal(resize_area(image, 1520, 912), opencv(image, 1520, 912))


@pytest.mark.parametrize("group", ["area", "area2"])
def test_equals_the_stored_results(group: str) -> None:
    with np.load(RULES) as rules:
        sizes = [name for name in rules.files if name.startswith(f"{group}/out_")]
        assert sizes
        for name in sizes:
            expected = rules[name]
            np.testing.assert_array_equal(
                resize_area(rules[f"{group}/in"], *expected.shape), expected, err_msg=name
            )


def test_accepts_a_view_and_returns_a_copy() -> None:
    image = texture(60, 50, seed=2)
    view = image[3:-3, 7:-2]
    np.testing.assert_array_equal(resize_area(view, 20, 30), opencv(view.copy(), 20, 30))
    same = resize_area(view, *view.shape)
    assert same.flags.c_contiguous
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((0, 4), np.uint8),
                                   np.zeros((4, 4, 3), np.uint8)])  # fmt: skip
def test_refuses_what_is_not_a_grey_image(image: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="expected a non-empty uint8"):
        resize_area(image, 2, 2)  # type: ignore[arg-type]


def test_refuses_an_empty_size() -> None:
    with pytest.raises(ValueError, match="0 x 5 is not possible; both must be at least 1"):
        resize_area(np.zeros((4, 4), np.uint8), 0, 5)

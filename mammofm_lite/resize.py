"""OpenCV's INTER_AREA for 8-bit grey images, bit for bit, in numpy.

The reference prepares its images with ``cv2.resize(..., INTER_AREA)``. OpenCV is a large dependency
for one function, so the function is written here again, in the three variants that OpenCV chooses
from. All arithmetic that rounds is float32 or integer, in OpenCV's order, so results are equal and
not merely close.

Source: reference facts, section 7 ("INTER_AREA for uint8 as verified bit-exactly").
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["resize_area"]

UInt8Image = npt.NDArray[np.uint8]

_CHUNK_ELEMENTS: Final = 1 << 17  # of float32 or int32: half a megabyte, stays in the L2 cache
_MIN_OVERLAP: Final = 1e-3  # OpenCV drops a source pixel of which a cell covers less than this
_FIXED_ONE: Final = 2048  # 1.0 in the 11-bit weights of OpenCV's bilinear variant


def resize_area(image: UInt8Image, height: int, width: int) -> UInt8Image:
    """Resize to `height` x `width`, equal to ``cv2.resize(image, (width, height), INTER_AREA)``.

    Parameters
    ----------
    image
        uint8 [rows, columns], not empty.
    height, width
        Size of the result in pixels, at least 1.

    Returns
    -------
    uint8 [height, width], contiguous; a copy even where nothing changes.

    Raises
    ------
    ValueError
        `image` is not a non-empty 2-D uint8 array, or a size is below 1.
    """
    if image.dtype != np.uint8 or image.ndim != 2 or image.size == 0:
        raise ValueError(f"expected a non-empty uint8 [rows, columns], not {image.dtype} "
                         f"{list(image.shape)}")  # fmt: skip
    if height < 1 or width < 1:
        raise ValueError(f"a size of {height} x {width} is not possible; both must be at least 1")
    if image.shape == (height, width):
        return image.copy()
    scale_y, scale_x = _scale(image.shape[0], height), _scale(image.shape[1], width)
    if scale_y < 1 or scale_x < 1:
        return _bilinear(image, height, width)
    if scale_y.is_integer() and scale_x.is_integer():
        return _block_mean(image, int(scale_y), int(scale_x))
    return _area_weighted(image, height, width)


def _scale(source: int, target: int) -> float:
    """Source pixels per target pixel, with the rounding of OpenCV's two divisions."""
    return 1.0 / (target / source)


def _chunks(count: int, row_elements: int) -> list[slice]:
    """Split `count` rows so that a working array of one piece stays in the cache."""
    step = max(_CHUNK_ELEMENTS // row_elements, 1)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


# -------------------- both axes reduced


@dataclass(frozen=True)
class _Taps:
    """Which source pixels make a target pixel: int [taps, target] and float32 [taps, target].

    A target pixel with fewer taps than others has weight zero in the rest, which leaves its
    float32 sum as it is.
    """

    index: npt.NDArray[np.intp]
    weight: npt.NDArray[np.float32]


def _area_taps(source: int, target: int) -> _Taps:
    """Overlap of every source pixel with every target cell, as a share of the cell.

    The cell of target pixel d is [d, d + 1) * scale, cut at the end of the source. Its taps rise
    with the source index, the order in which OpenCV adds them.
    """
    scale = _scale(source, target)
    start = np.arange(target) * scale
    stop = start + scale
    cell = np.minimum(scale, source - start)
    last = np.minimum(np.floor(stop).astype(np.intp), source - 1)
    first = np.minimum(np.ceil(start).astype(np.intp), last)
    index = first - 1 + np.arange(int((last - first).max()) + 2)[:, None]
    weight = np.where((index >= first) & (index < last), 1.0 / cell, 0.0)
    head = (index == first - 1) & (first - start > _MIN_OVERLAP)
    weight = np.where(head, (first - start) / cell, weight)
    tail = (index == last) & (stop - last > _MIN_OVERLAP)
    weight = np.where(tail, np.minimum(np.minimum(stop - last, 1.0), cell) / cell, weight)
    return _Taps(np.clip(index, 0, source - 1), weight.astype(np.float32))


def _area_weighted(image: UInt8Image, height: int, width: int) -> UInt8Image:
    """Along x, then along y, float32 sums in the order of the taps, rounded half to even."""
    narrow = _reduce_columns(image, _area_taps(image.shape[1], width))
    taps = _area_taps(image.shape[0], height)
    out = np.empty((height, width), np.uint8)
    for rows in _chunks(height, width):
        total = narrow[taps.index[0, rows]]
        total *= taps.weight[0, rows, None]
        for index, weight in zip(taps.index[1:, rows], taps.weight[1:, rows], strict=True):
            total += narrow[index] * weight[:, None]
        np.copyto(out[rows], np.rint(total, out=total), casting="unsafe")
    return out


def _reduce_columns(image: UInt8Image, taps: _Taps) -> npt.NDArray[np.float32]:
    rows, width = image.shape[0], taps.index.shape[1]
    out = np.empty((rows, width), np.float32)
    for piece in _chunks(rows, image.shape[1]):
        source = image[piece].astype(np.float32)
        total = out[piece]
        np.take(source, taps.index[0], axis=1, out=total, mode="clip")
        total *= taps.weight[0]
        term = np.empty_like(total)
        for index, weight in zip(taps.index[1:], taps.weight[1:], strict=True):
            np.take(source, index, axis=1, out=term, mode="clip")
            term *= weight
            total += term
    return out


# -------------------- both axes reduced by integers


def _block_mean(image: UInt8Image, step_y: int, step_x: int) -> UInt8Image:
    """Integer sum of every block, times float32(1 / area), rounded half to even; 2x2 half up."""
    height, width = image.shape[0] // step_y, image.shape[1] // step_x
    total = np.zeros((height, width), np.int32)
    for dy in range(step_y):
        for dx in range(step_x):
            total += image[dy::step_y, dx::step_x]
    out = np.empty((height, width), np.uint8)
    if step_y == step_x == 2:
        mean = (total + 2) >> 2
    else:
        mean = np.rint(total.astype(np.float32) * np.float32(1.0 / (step_y * step_x)))
    np.copyto(out, mean, casting="unsafe")
    return out


# -------------------- an axis is enlarged


@dataclass(frozen=True)
class _Pairs:
    """Two neighbouring source pixels per target pixel, and their 11-bit weights: int32 [target]."""

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    first_weight: npt.NDArray[np.int32]
    second_weight: npt.NDArray[np.int32]


def _bilinear_pairs(source: int, target: int) -> _Pairs:
    """OpenCV's area-like bilinear coordinates: the weight is the part of cell d behind pixel s."""
    inverse = target / source
    at = np.arange(target)
    first = np.floor(at * _scale(source, target)).astype(np.intp)
    share = ((at + 1) - (first + 1) * inverse).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    share[first >= source - 1] = 0
    first = np.minimum(first, source - 1)
    one, scale = np.float32(1), np.float32(_FIXED_ONE)
    return _Pairs(
        first,
        np.minimum(first + 1, source - 1),
        np.rint((one - share) * scale).astype(np.int32),
        np.rint(share * scale).astype(np.int32),
    )


def _bilinear(image: UInt8Image, height: int, width: int) -> UInt8Image:
    """Fixed point: exact row sums along x, then two truncating products along y."""
    across, down = _bilinear_pairs(image.shape[1], width), _bilinear_pairs(image.shape[0], height)
    out = np.empty((height, width), np.uint8)
    for rows in _chunks(height, width):
        upper = _weighted_row(image[down.first[rows]], across, down.first_weight[rows])
        lower = _weighted_row(image[down.second[rows]], across, down.second_weight[rows])
        upper += lower
        upper += 2
        upper >>= 2
        np.copyto(out[rows], upper, casting="unsafe")
    return out


def _weighted_row(
    rows: UInt8Image, across: _Pairs, weight: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    total = rows.take(across.first, axis=1).astype(np.int32)
    total *= across.first_weight
    second = rows.take(across.second, axis=1).astype(np.int32)
    second *= across.second_weight
    total += second
    total >>= 4
    total *= weight[:, None]
    total >>= 16
    return total

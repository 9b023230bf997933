"""OpenCV's INTER_AREA for 8-bit grey images, bit for bit.

The reference prepares its images with ``cv2.resize(..., INTER_AREA)``. OpenCV is a large dependency
for one function, so the function is written here again (``c_ext/src/runtime/resize.cpp``), in the
three variants that OpenCV chooses from. All arithmetic that rounds is float32 or integer, in
OpenCV's order, so results are equal and not merely close.

Source: reference facts, section 7 ("INTER_AREA for uint8 as verified bit-exactly").
"""

import numpy as np
import numpy.typing as npt

from . import _native_pixels as native

__all__ = ["resize_area"]

UInt8Image = npt.NDArray[np.uint8]


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
    return native.resize_area(image, height, width)

"""Where the nipple lies in a prepared view: quadrants are counted from there."""

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["nipple_box", "nipple_row"]

_TISSUE: Final = 12  # grey levels above the darkest: more than noise, less than skin
_TIP: Final = 2  # pixels: rows that reach as far as the farthest, nearly
_SIDE: Final = 16.0  # pixels of a box around it


def nipple_row(image: npt.NDArray[np.uint8]) -> float:
    """Row, in pixels from the upper edge, of the tissue farthest from the chest wall, which a
    prepared view ``[height, width]`` has on the left; cropped to the breast, it ends there."""
    tissue = image > int(image.min()) + _TISSUE
    reach = np.where(tissue.any(axis=1), image.shape[1] - tissue[:, ::-1].argmax(axis=1), 0)
    return float(np.flatnonzero(reach >= reach.max() - _TIP).mean()) + 0.5


def nipple_box(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A small box at the right edge around that row: float32 ``[4]`` in pixels."""
    row, right = nipple_row(image), image.shape[1]
    return np.array([right - _SIDE, row - _SIDE / 2, right, row + _SIDE / 2], np.float32)

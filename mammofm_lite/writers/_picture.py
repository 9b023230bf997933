"""The picture of a view for the eye: the file's own window where it can be applied."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from ..background import background_masks, filled
from ..deviations import PADDING_MASKED, SHUTTER_MASKED
from ..dicom import Instance, VoiLut
from ._overlay import display_image

__all__ = ["file_window", "view_picture"]

StoredImage = npt.NDArray[np.integer[Any]]


def view_picture(
    stored: StoredImage, instance: Instance, deviations: Collection[str]
) -> tuple[npt.NDArray[np.uint8], str]:
    """A view as a workstation shows it.

    Parameters
    ----------
    stored
        The pixels of `instance`.
    deviations
        Codes of the result's view: what was masked for the encoders is masked here too.

    Returns
    -------
    uint8 [rows, columns], and a sentence on the window, for the caption.
    """
    window, said = file_window(instance.voi)
    image = display_image(
        _masked(stored, instance, deviations),
        instance.photometric_interpretation,
        instance.rescale_slope,
        instance.rescale_intercept,
        window,
    )
    return image, said


def _masked(stored: StoredImage, instance: Instance, deviations: Collection[str]) -> StoredImage:
    if not {PADDING_MASKED, SHUTTER_MASKED}.intersection(deviations):
        return stored
    inverted = instance.photometric_interpretation == "MONOCHROME1"
    masks = background_masks(stored, instance.background)
    applied = [mask for code, mask in masks.items() if code in deviations]
    falling = (instance.rescale_slope < 0) != inverted
    return filled(stored, np.logical_or.reduce(applied), falling=falling)


def file_window(voi: VoiLut) -> tuple[tuple[float, float] | None, str]:
    """The file's first window as centre and width of a linear one, and a sentence on it.

    Of a sigmoid window and of tables the picture is not what a workstation shows, and the
    sentence says so.
    """
    if voi.tables:
        return None, "Shown in a window of our own; the file's VOI LUT table is not applied."
    if not voi.windows:
        return None, "Shown in a window of our own; the file has none."
    centre, width = voi.windows[0]
    said = f"Shown in the file's window {centre:g} / {width:g}; the model saw none applied."
    if voi.function == "LINEAR" and width >= 1:
        return (centre, width), said
    if voi.function == "LINEAR_EXACT" and width > 0:  # PS3.3 C.11.2.1.3.2
        return (centre + 0.5, width + 1), said
    return None, "Shown in a window of our own; the file's window cannot be applied here."

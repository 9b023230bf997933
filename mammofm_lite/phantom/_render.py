"""From a seed to the pixels of four views and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from ..views import STANDARD_VIEWS, ViewName, laterality, projection
from ..writers._font import text_mask
from ._anatomy import ViewAnatomy, draw_body, draw_view
from ._grid import Floats, Grid
from ._lesions import Signal, described, plan_lesions, signal
from ._options import PhantomOptions
from ._random import check_seed, stream
from ._texture import Noise
from ._tissue import Fields, tissue
from ._truth import Box, PhantomTruth

__all__ = ["render_phantom"]

Pixels = npt.NDArray[np.uint16]

# Tissue is no sharper than this; finer pixels are interpolated.
_FINEST_MM: Final = 0.2
_MARGIN_MM: Final = 8.0
_WEB_MM: Final = 9.0
_FIBRE_MM: Final = 1.6
_LETTER_MM: Final = 6.0
_MARKER_BRIGHTNESS: Final = 0.92


@dataclass(frozen=True)
class _Detector:
    """Where the breasts lie on it: the image's pixels, and the coarser grid of the tissue."""

    pixels: Grid
    tissue: Grid

    @classmethod
    def for_views(
        cls, anatomies: Mapping[ViewName, ViewAnatomy], options: PhantomOptions
    ) -> "_Detector":
        """One grid for all views, so that left and right can share their noise."""
        widest = max(float(anatomy.contour_mm[:, 0].max()) for anatomy in anatomies.values())
        width = min(widest + _MARGIN_MM, options.width_mm)
        spacing = options.pixel_spacing_mm
        pixels = Grid(options.rows, min(int(np.ceil(width / spacing)), options.columns), spacing)
        step = spacing * max(1, round(_FINEST_MM / spacing))
        coarse = Grid.covering(options.height_mm, pixels.columns * spacing, step)
        return cls(pixels, coarse)


def render_phantom(
    seed: int, options: PhantomOptions | None = None
) -> tuple[PhantomTruth, dict[ViewName, Pixels]]:
    """Render a synthetic four-view study.

    The same seed, options and version give the same pixels on one numpy version and kind of CPU.
    Elsewhere numpy rounds some float32 functions differently, and a few pixels in 100,000 differ.

    Parameters
    ----------
    seed
        A whole number from 0.
    options
        Defaults where not given.

    Returns
    -------
    truth
        What was planted.
    images
        Per view, uint16 [rows, columns] as stored: left breasts touch the left edge, right ones
        the right edge; inverted for MONOCHROME1.

    Raises
    ------
    UsageError
        `seed` is not a whole number of at least 0.
    """
    check_seed(seed)
    options = options or PhantomOptions()
    body = draw_body(seed, options)
    anatomies = {view: draw_view(seed, body, view, options) for view in STANDARD_VIEWS}
    detector = _Detector.for_views(anatomies, options)
    lesions = plan_lesions(seed, body, anatomies, options.lesions)
    signals: dict[ViewName, list[Signal]] = {view: [] for view in STANDARD_VIEWS}
    known = []
    for lesion in lesions:
        boxes: dict[ViewName, Box] = {}
        for view in STANDARD_VIEWS:
            if laterality(view) == lesion.laterality:
                drawn = signal(seed, lesion, anatomies[view], detector.pixels)
                signals[view].append(drawn)
                boxes[view] = _in_image(drawn.box, view, options)
        known.append(described(lesion, body, boxes))
    images = {
        view: _image(seed, anatomy, detector, signals[view], options)
        for view, anatomy in anatomies.items()
    }
    recall = any(lesion.malignant for lesion in lesions)
    return PhantomTruth(seed, body.density, tuple(known), recall), images


def _image(
    seed: int,
    anatomy: ViewAnatomy,
    detector: _Detector,
    signals: list[Signal],
    options: PhantomOptions,
) -> Pixels:
    """One view as stored: uint16 [rows, columns]."""
    view = anatomy.view
    fields = _fields(seed, view, detector.tissue)
    smooth = tissue(anatomy, fields, detector.tissue, stream(seed, "strands", view))
    bright = detector.pixels.sample(smooth, detector.tissue)
    breast = bright > 0
    for lesion in signals:
        lesion.add_to(bright)
    _add_exposure_noise(bright, stream(seed, "noise", view))
    levels = _levels(bright, breast, options.white)
    image = np.zeros((options.rows, options.columns), np.uint16)
    image[:, : levels.shape[1]] = levels
    if laterality(view) == "R":
        image = np.ascontiguousarray(image[:, ::-1])
    _draw_marker(image, view, options)
    return options.white - image if options.photometric_interpretation == "MONOCHROME1" else image


def _fields(seed: int, view: ViewName, grid: Grid) -> Fields:
    """The random fields of a view, alike for both sides."""
    noise = Noise(grid)
    shared, own = stream(seed, "texture", projection(view)), stream(seed, "texture", view)
    white = noise.alike(noise.draw(shared), noise.draw(own))
    return Fields(
        cloud=noise.tissue(white),
        bulk=noise.bulk(white),
        web=noise.band(noise.draw(own), _WEB_MM, stretch=1.8),
        fibre=noise.band(noise.draw(own), _FIBRE_MM, stretch=3.0),
    )


def _add_exposure_noise(bright: Floats, random: np.random.Generator) -> None:
    """Quantum noise, in place: more where fewer photons arrived, slightly blurred by the detector.

    Every pixel's noise depends on that pixel's brightness alone.
    """
    white = random.standard_normal(bright.shape, dtype=np.float32)
    white[:, 1:] += np.float32(0.4) * white[:, :-1].copy()
    white *= np.float32(0.003) + np.float32(0.009) * bright
    bright += white


def _levels(bright: Floats, breast: npt.NDArray[np.bool_], white: int) -> Pixels:
    """Stored values: a shoulder keeps the brightest tissue below white; air is exactly 0."""
    knee = np.float32(0.7)
    over = np.maximum(bright - knee, 0)
    toned = np.minimum(bright, knee) + over / (1 + over / (np.float32(0.98) - knee))
    levels = np.clip(np.rint(toned * np.float32(white)), 1, white) * breast
    return cast(Pixels, levels.astype(np.uint16))


def _draw_marker(image: Pixels, view: ViewName, options: PhantomOptions) -> None:
    """Side and view in the air, laterally or towards the axilla, as a lead marker shows them."""
    size = max(1, round(_LETTER_MM / 7 / options.pixel_spacing_mm))
    mask = text_mask(view.replace("-", " "), size)
    height, width = mask.shape
    margin = round(0.03 * options.columns)
    top = round(0.12 * options.rows)
    left = margin if laterality(view) == "R" else options.columns - margin - width
    target = image[top : top + height, left : left + width]
    ink = np.rint(mask * np.float32(_MARKER_BRIGHTNESS * options.white)).astype(np.uint16)
    np.maximum(target, ink, out=target)


def _in_image(box: Box, view: ViewName, options: PhantomOptions) -> Box:
    """A box of the working orientation in the stored image."""
    x1, y1, x2, y2 = box
    if laterality(view) == "R":
        x1, x2 = options.columns - x2, options.columns - x1
    return x1, y1, x2, y2

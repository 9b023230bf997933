"""From a seed to the pixels of four views and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from ..views import STANDARD_VIEWS, ViewName, laterality, projection
from ..writers._font import text_mask
from ._anatomy import Body, ViewAnatomy, draw_body, draw_view
from ._draw import signal
from ._exposure import Exposure
from ._grid import Floats, Grid, as_floats
from ._hazard import Hazard
from ._look import LOOKS, Look
from ._options import PhantomOptions
from ._plan import Plan, Planted, described, plan, precursor_described
from ._random import check_seed, stream
from ._signal import Signal
from ._texture import Coefficients, Noise, band_law, bulk_law, step_for, tissue_law
from ._tissue import Fields, tissue
from ._truth import Box, PhantomPrecursor, PhantomTruth

__all__ = ["draw_plan", "render_phantom"]

Pixels = npt.NDArray[np.uint16]

_MARGIN_MM: Final = 8.0
_BULK_STEP_MM: Final = 1.2
_WEB_STEP_MM: Final = 0.6
_FRAME_MM: Final = 5.0
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
        coarse = Grid.covering(options.height_mm, pixels.columns * spacing, step_for(spacing))
        return cls(pixels, coarse)


def draw_plan(
    seed: int, options: PhantomOptions
) -> tuple[Body, Mapping[ViewName, ViewAnatomy], Plan]:
    """The body of a seed, its views and what is planted in them; nothing is rendered yet."""
    body = draw_body(seed, options)
    anatomies = {view: draw_view(seed, body, view, options) for view in STANDARD_VIEWS}
    return body, anatomies, plan(seed, body, anatomies, options)


def render_phantom(
    seed: int, options: PhantomOptions | None = None
) -> tuple[PhantomTruth, dict[ViewName, Pixels]]:
    """Render a synthetic four-view study.

    The same seed, options and version give the same pixels on one numpy version and kind of CPU.
    Elsewhere numpy rounds some float32 functions differently, and a few pixels in 100,000 differ.

    A coarser `pixel_spacing_mm` shows the same woman as a finer one averaged down.

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
    body, anatomies, planned = draw_plan(seed, options)
    detector = _Detector.for_views(anatomies, options)
    views = {
        view: _view(seed, anatomy, detector, planned, options)
        for view, anatomy in anatomies.items()
    }
    boxes = _Known(views)
    malignant = any(lesion.malignant for lesion in planned.lesions)
    hazard = Hazard.of(body.density, body.asymmetry, planned.strength, malignant)
    truth = PhantomTruth(
        seed=seed,
        density=body.density,
        lesions=tuple(
            described(lesion, body, boxes.box(lesion), boxes.ratio(lesion))
            for lesion in planned.lesions
        ),
        asymmetry=body.asymmetry,
        precursor=boxes.precursor(planned),
        malignant=malignant,
        recall=any(lesion.suspicious for lesion in planned.lesions),
        years_to_cancer=hazard.draw(stream(seed, "years")),
        risk_by_year=hazard.risk_by_year(),
    )
    return truth, {view: rendered.pixels for view, rendered in views.items()}


@dataclass(frozen=True)
class _View:
    """A rendered view; boxes and contrast-to-noise ratios by the name of the lesion."""

    pixels: Pixels
    boxes: Mapping[str, Box]
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class _Known:
    """What the views tell of a lesion."""

    views: Mapping[ViewName, _View]

    def box(self, planted: Planted) -> dict[ViewName, Box]:
        return {
            name: view.boxes[planted.name]
            for name, view in self.views.items()
            if laterality(name) == planted.laterality
        }

    def precursor(self, planned: Plan) -> PhantomPrecursor | None:
        planted = planned.precursor
        if planted is None:
            return None
        return precursor_described(planted, planned.strength, self.box(planted))

    def ratio(self, planted: Planted) -> dict[ViewName, float]:
        return {
            name: view.ratios[planted.name]
            for name, view in self.views.items()
            if laterality(name) == planted.laterality
        }


def _view(
    seed: int, anatomy: ViewAnatomy, detector: _Detector, planned: Plan, options: PhantomOptions
) -> _View:
    """One view with what is planted in it."""
    look, view, grid = LOOKS[options.shift], anatomy.view, detector.pixels
    bright = _healthy(seed, anatomy, detector, look)
    exposure = Exposure.of(look, anatomy.body, grid.step_mm)
    noise = exposure.draw(bright.shape, stream(seed, "noise", view))
    everything = [*planned.lesions, *([planned.precursor] if planned.precursor else [])]
    here = [planted for planted in everything if planted.laterality == laterality(view)]
    signals = {planted.name: signal(seed, planted, anatomy, grid, bright, look) for planted in here}
    stored = _Stored(exposure, look, bright, noise, options.white, grid)
    ratios = {name: stored.contrast_to_noise(drawn) for name, drawn in signals.items()}
    return _View(
        pixels=_image(stored.levels(list(signals.values())), view, options),
        boxes={name: _in_image(drawn.box, view, options) for name, drawn in signals.items()},
        ratios=ratios,
    )


def _healthy(seed: int, anatomy: ViewAnatomy, detector: _Detector, look: Look) -> Floats:
    """Brightness of a view before lesions and noise: float32 [pixels.rows, pixels.columns]."""
    fields = _fields(seed, anatomy, detector.tissue, look)
    strands = stream(seed, "strands", anatomy.view)
    smooth = tissue(anatomy, fields, detector.tissue, strands, look.edge_share)
    smooth = Exposure.of(look, anatomy.body, detector.tissue.step_mm).veiled(smooth)
    return detector.pixels.sample(smooth, detector.tissue)


def _fields(seed: int, anatomy: ViewAnatomy, grid: Grid, look: Look) -> Fields:
    """The random fields of a view, alike for both sides but for her asymmetry."""
    view = anatomy.view
    own = stream(seed, "texture", view)
    noise, coarse = Noise(grid.step_mm), Noise(max(grid.step_mm, _BULK_STEP_MM))
    medium = Noise(max(grid.step_mm, _WEB_STEP_MM))
    share = 1 - 0.5 * anatomy.body.asymmetry
    white = noise.alike(_shared(seed, projection(view), noise), noise.draw(own), share)
    bulk = coarse.field(coarse.cut(white), bulk_law(look.exponent, look.smooth_mm))
    whole = Grid.covering(grid.rows * grid.step_mm, grid.columns * grid.step_mm, coarse.step_mm)
    web, fibre = stream(seed, "web", view), stream(seed, "fibre", view)
    return Fields(
        cloud=noise.crop(noise.field(white, tissue_law(look.exponent)), grid),
        bulk=grid.sample(coarse.crop(bulk, whole), whole),
        web=medium.field(medium.draw(web), band_law(look.web_mm, 1.8)),
        web_step_mm=medium.step_mm,
        fibre=noise.field(noise.draw(fibre), band_law(look.fibre_mm, 3.0)),
    )


@lru_cache(maxsize=2)
def _shared(seed: int, projected: str, noise: Noise) -> Coefficients:
    """White noise of both breasts in one projection, made once for both."""
    return noise.draw(stream(seed, "texture", projected))


@dataclass(frozen=True)
class _Stored:
    """From brightness to stored values, with and without lesions."""

    exposure: Exposure
    look: Look
    bright: Floats
    noise: Floats
    white: int
    grid: Grid

    def levels(self, signals: Sequence[Signal]) -> Pixels:
        """The view as stored for MONOCHROME2, before it is mirrored; air is exactly 0."""
        bright = self.bright.copy()
        for drawn in signals:
            drawn.add_to(bright)
        breast = self.bright > 0
        return cast(Pixels, (self._level(bright, self.noise) * breast).astype(np.uint16))

    def _level(self, bright: Floats, noise: Floats) -> Floats:
        toned = self.look.tone(bright + self.exposure.scaled(noise, bright))
        return as_floats(np.clip(np.rint(toned * np.float32(self.white)), 1, self.white))

    def contrast_to_noise(self, drawn: Signal) -> float:
        """As `PhantomLesion` states it."""
        x1, y1, x2, y2 = drawn.box
        reach = int(np.ceil(_FRAME_MM / self.grid.step_mm))
        top, left = max(y1 - reach, 0), max(x1 - reach, 0)
        part = slice(top, y2 + reach), slice(left, x2 + reach)
        before = self._level(self.bright[part], self.noise[part])
        around = self.bright[part] > 0
        box = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
        inside = self.bright[y1:y2, x1:x2]
        after = self._level(inside + drawn.patch, self.noise[y1:y2, x1:x2])
        change = np.abs(after - before[box]) * (inside > 0)
        around[box] = False
        most = change > 0.5 * change.max()
        background = before[around]
        if not most.any() or background.size < 2:
            return 0.0
        spread = max(float(np.std(background, dtype=np.float64)), 1e-6)
        return round(float(change[most].mean(dtype=np.float64)) / spread, 3)


def _image(levels: Pixels, view: ViewName, options: PhantomOptions) -> Pixels:
    """A view as stored: uint16 [rows, columns]."""
    image = np.zeros((options.rows, options.columns), np.uint16)
    image[:, : levels.shape[1]] = levels
    if laterality(view) == "R":
        image = np.ascontiguousarray(image[:, ::-1])
    _draw_marker(image, view, options)
    return options.white - image if options.photometric_interpretation == "MONOCHROME1" else image


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

"""A map over the prepared view, tinted onto the original picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ._canvas import WHITE, Box, Canvas, Frame, text_size
from ._font import printable

__all__ = ["OverlayHeatmap", "draw_heat_legend", "draw_heatmap"]

Floats = npt.NDArray[np.floating[Any]]

_STOPS: Final = np.array([(110, 80, 175), (205, 75, 100), (250, 215, 70)], dtype=np.float32)
_OPACITY: Final = 0.55


@dataclass(frozen=True)
class OverlayHeatmap:
    """A map over the prepared view, to be tinted onto the original.

    Parameters
    ----------
    values
        float32 [rows, columns]; NaN is left clear.
    extent_px
        x1, y1, x2, y2 in prepared pixels that the outer edges of the map's cells have; the whole
        prepared view if not given.
    limits
        Values shown as clear and as brightest; the map's own least and greatest if not given.
    title
        What the map shows, for the legend.
    """

    values: Floats
    extent_px: Box | None = None
    limits: tuple[float, float] | None = None
    title: str = ""


def draw_heatmap(canvas: Canvas, heatmap: OverlayHeatmap, frame: Frame) -> None:
    heat = _scaled_heat(heatmap)
    area, geometry = frame.area, frame.geometry
    x1, y1, x2, y2 = heatmap.extent_px or (0, 0, geometry.model_width, geometry.model_height)
    x = (np.arange(area.x2 - area.x1) + 0.5) / frame.scale
    y = (np.arange(area.y2 - area.y1) + 0.5) / frame.scale
    model_x = geometry.to_model(np.stack((x, np.zeros_like(x)), axis=-1))[:, 0]
    model_y = geometry.to_model(np.stack((np.zeros_like(y), y), axis=-1))[:, 1]
    across = _cell_weights((model_x - x1) / (x2 - x1), heat.shape[1])
    down = _cell_weights((model_y - y1) / (y2 - y1), heat.shape[0])
    across *= _inside(x, geometry.column_runs)[:, None]
    down *= _inside(y, geometry.row_runs)[:, None]
    value = down @ heat @ across.T
    where = (slice(area.y1, area.y2), slice(area.x1, area.x2))
    canvas.blend(where, _OPACITY * value, _heat_colour(value))


def _scaled_heat(heatmap: OverlayHeatmap) -> Floats:
    """Values in 0..1 by the limits; NaN becomes 0."""
    values = np.asarray(heatmap.values, dtype=np.float32)
    clear = np.isnan(values)
    if clear.all():
        return np.zeros_like(values)
    low, high = heatmap.limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    span = high - low if high > low else 1.0
    return np.where(clear, np.float32(0), np.clip((values - low) / span, 0, 1, dtype=np.float32))


def _cell_weights(share: Floats, cells: int) -> Floats:
    """Linear interpolation between cell centres, flat beyond the outer ones: [points, cells].

    `share` runs from 0 to 1 across the map; outside of that all weights are zero.
    """
    at = np.clip(share * cells - 0.5, 0, cells - 1)
    linear = np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0)
    within = (share >= 0) & (share <= 1)
    weights: Floats = (linear * within[:, None]).astype(np.float32)
    return weights


def _inside(original: Floats, runs: Sequence[tuple[int, int]]) -> Floats:
    kept = np.zeros(original.shape, np.bool_)
    for start, stop in runs:
        kept |= (original >= start) & (original < stop)
    return kept.astype(np.float32)


def _heat_colour(value: Floats) -> Floats:
    """[...] in 0..1 to RGB [..., 3]: from violet to yellow, lighter all the way."""
    stops = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(value, stops, channel) for channel in _STOPS.T]
    colours: Floats = np.stack(channels, axis=-1).astype(np.float32)
    return colours


def draw_heat_legend(canvas: Canvas, right: int, y: int, title: str) -> None:
    text = printable(title)
    width, bar = text_size(text, 2)[0], 160
    ramp = np.broadcast_to(np.linspace(0, 1, bar, dtype=np.float32), (16, bar))
    where = (slice(y + 2, y + 18), slice(right - bar, right))
    canvas.blend(where, np.ones_like(ramp), _heat_colour(ramp))
    canvas.text((right - bar - 10 - width, y + 2), text, 2, WHITE)

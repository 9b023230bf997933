"""What a planted lesion changes in a view."""

from ._anatomy import ViewAnatomy
from ._grid import Floats, Grid
from ._look import Look
from ._masses import draw_mass, draw_node
from ._plan import Planted
from ._random import stream
from ._regions import draw_asymmetry, draw_distortion, draw_precursor
from ._signal import Signal, Window, blurred
from ._specks import draw_calcifications

__all__ = ["signal"]

_SPECK_REACH_MM = 3.0


def signal(
    seed: int, planted: Planted, anatomy: ViewAnatomy, grid: Grid, tissue: Floats, look: Look
) -> Signal:
    """What a lesion changes in the brightness of one view; nothing outside of the breast.

    Parameters
    ----------
    tissue
        The whole view without lesions, float32 [grid.rows, grid.columns], 0 in air.
    """
    reach = 0.55 * planted.diameter_mm + _SPECK_REACH_MM
    if planted.kind in ("mass", "architectural_distortion", "precursor"):
        reach = 1.35 * planted.diameter_mm
    window = Window.around(grid, anatomy.project(planted.place), reach)
    around = window.of(tissue)
    drawn = _drawn(seed, planted, anatomy, window, around)
    if look.blur_mm:
        drawn = blurred(drawn, look.blur_mm, grid.step_mm)
    return window.trimmed(drawn * (around > 0))


def _drawn(
    seed: int, planted: Planted, anatomy: ViewAnatomy, window: Window, around: Floats
) -> Floats:
    """Shapes differ between views; what has places in space is drawn from one stream for both."""
    own = stream(seed, planted.name, anatomy.view)
    shared = stream(seed, planted.name, "space")
    match planted.kind:
        case "mass":
            return draw_mass(planted, own, window, around)
        case "intramammary_lymph_node":
            return draw_node(planted, own, window)
        case "architectural_distortion":
            return draw_distortion(planted, own, window, around)
        case "focal_asymmetry":
            return draw_asymmetry(planted, shared, window, anatomy.view)
        case "precursor":
            return draw_precursor(planted, shared, window, anatomy.view)
    return draw_calcifications(planted, shared, window, anatomy.view)

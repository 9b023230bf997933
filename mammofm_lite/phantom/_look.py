"""How an image comes to look as it does: dose, blur, grey-scale, spectrum; one set per shift."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from ._grid import Floats, as_floats
from ._options import Shift
from ._texture import EXPONENT

__all__ = ["LOOKS", "Look"]


@dataclass(frozen=True)
class Look:
    """Constants of acquisition, processing and texture.

    Attributes
    ----------
    noise
        Standard deviation of quantum noise in a pixel of 0.1 mm behind average tissue, 5 cm thick.
    blur_mm
        Standard deviation of blur beyond that of a common detector.
    gamma, contrast, knee
        The grey-scale: exponent, steepness of its sigmoid (0: none), where its shoulder begins.
    edge_share
        Brightness that is left at the skin, where thickness ends; processing lifts it.
    window
        The display window, centre and width, as shares of the stored range.
    exponent
        Of the power spectrum of tissue.
    smooth_mm, web_mm, fibre_mm
        Size of the lobes of gland, of the septa between them, of fibres.
    """

    noise: float = 0.006
    blur_mm: float = 0.0
    gamma: float = 1.0
    contrast: float = 0.0
    knee: float = 0.7
    edge_share: float = 0.3
    window: tuple[float, float] = (0.43, 0.86)
    exponent: float = EXPONENT
    smooth_mm: float = 12.0
    web_mm: float = 9.0
    fibre_mm: float = 1.6
    model: str = "phantom"

    def tone(self, bright: Floats) -> Floats:
        """Brightness on the vendor's grey-scale, 0 to below 1: float32, monotonic."""
        level = np.maximum(bright, np.float32(0))
        if self.gamma != 1:
            level = level ** np.float32(self.gamma)
        if self.contrast:
            slope = np.float32(self.contrast)
            low = np.float32(1 / (1 + np.exp(self.contrast * 0.4)))
            level = (1 / (1 + np.exp(-slope * (level - np.float32(0.4)))) - low) / (1 - low)
        over = np.maximum(level - np.float32(self.knee), 0)
        room = np.float32(0.98 - self.knee)
        return as_floats(np.minimum(level, np.float32(self.knee)) + over / (1 + over / room))


_PLAIN: Final = Look()
LOOKS: Final[Mapping[Shift, Look]] = MappingProxyType(
    {
        "none": _PLAIN,
        "vendor": replace(
            _PLAIN,
            gamma=0.7,
            contrast=5.0,
            knee=0.8,
            edge_share=0.5,
            window=(0.47, 0.9),
            model="phantom V",
        ),
        "noise": replace(_PLAIN, noise=0.009, blur_mm=0.13, model="phantom N"),
        "texture": replace(
            _PLAIN, exponent=2.6, smooth_mm=7.0, web_mm=6.0, fibre_mm=2.2, model="phantom T"
        ),
    }
)

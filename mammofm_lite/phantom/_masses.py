"""Masses and lymph nodes: bodies with an outline and a margin.

A mass is drawn as the path of X-rays through a rounded body, as in the phantom of K. Bliznakova et
al. (Phys. Med. Biol. 48, 3699-3719, 2003); spicules are thin rays around it, as those that A.
Badano et al. grew (JAMA Netw. Open 1, e185474, 2018).
"""

from typing import Final

import numpy as np

from ._grid import Floats, as_floats, smoothstep
from ._plan import Planted
from ._signal import Window

__all__ = ["draw_mass", "draw_node", "rays"]

_PEAKS: Final = {"high": 0.25, "equal": 0.18, "low": 0.12}
_FAT: Final = np.float32(0.19)
_SOFTNESS: Final = {
    "circumscribed": 0.08,
    "obscured": 0.2,
    "microlobulated": 0.16,
    "indistinct": 0.6,
    "spiculated": 0.35,
}


def draw_mass(
    planted: Planted, random: np.random.Generator, window: Window, tissue: Floats
) -> Floats:
    """What a mass changes: float32 like the window.

    Parameters
    ----------
    tissue
        The window without the mass, float32: fat takes the place of what is there.
    """
    margin, density = planted.descriptors["margin"], planted.descriptors["density"]
    radius = planted.diameter_mm / 2
    away, angle = np.hypot(window.x, window.y), np.arctan2(window.y, window.x)
    shape = _outline(random, angle, planted.descriptors["shape"], margin)
    ratio = away / (np.float32(radius) * shape)
    soft = np.full_like(ratio, _SOFTNESS[margin])
    if margin == "obscured":  # a part of its border cannot be followed
        hidden = np.cos(angle - np.float32(random.uniform(0, 2 * np.pi)))
        soft += np.float32(0.6) * np.clip(hidden, 0, 1)
    edge = smoothstep((1 + soft / 2 - ratio) / soft)
    if density == "fat_containing":
        return _with_fat(random, planted, window, ratio, edge * np.minimum(_FAT - tissue, 0))
    ball = np.sqrt(np.clip(1 - (0.86 * ratio) ** 2, 0, None))
    body = (np.float32(0.3) + np.float32(0.7) * ball) * edge
    if margin == "spiculated":
        body = np.maximum(body, rays(random, away, angle, radius))
    return as_floats(np.float32(_PEAKS[density] * planted.contrast) * body)


def _with_fat(
    random: np.random.Generator, planted: Planted, window: Window, ratio: Floats, fat: Floats
) -> Floats:
    """As dark as fat within a thin capsule; a hamartoma holds islands of gland."""
    width = np.float32(0.45 / max(planted.diameter_mm / 2, 1.0))
    drawn = np.float32(0.1 * planted.contrast) * np.exp(-(((ratio - 1 + width) / width) ** 2))
    drawn += np.float32(0.7) * fat
    if planted.benign_type == "hamartoma":
        inside = smoothstep((1 - ratio) / 0.2)
        for _ in range(int(random.integers(5, 9))):
            x, y = random.normal(0, 0.22, 2) * planted.diameter_mm
            size = planted.diameter_mm * random.uniform(0.06, 0.13)
            island = ((window.x - np.float32(x)) ** 2 + (window.y - np.float32(y)) ** 2) / size**2
            height = np.float32(planted.contrast * random.uniform(0.1, 0.2))
            drawn += height * np.exp(-island) * inside
    return as_floats(drawn)


def draw_node(planted: Planted, random: np.random.Generator, window: Window) -> Floats:
    """A lymph node: kidney-shaped, sharp, with the fat of its hilum: float32 like the window."""
    turn = random.uniform(0, np.pi)
    along = window.x * np.float32(np.cos(turn)) + window.y * np.float32(np.sin(turn))
    aside = window.y * np.float32(np.cos(turn)) - window.x * np.float32(np.sin(turn))
    long, short = planted.diameter_mm / 2, planted.diameter_mm / 2 * random.uniform(0.55, 0.7)
    ratio = np.hypot(along / np.float32(long), (aside + along**2 * np.float32(0.25 / long)) / short)
    body = np.sqrt(np.clip(1 - (0.8 * ratio) ** 2, 0, None)) * smoothstep((1.08 - ratio) / 0.16)
    notch = (along / np.float32(0.42 * long)) ** 2 + ((aside - 0.55 * short) / (0.5 * short)) ** 2
    hilum = np.float32(0.85) * np.exp(-notch)
    return as_floats(np.float32(0.18 * planted.contrast) * body * (1 - hilum))


def _outline(random: np.random.Generator, angle: Floats, shape: str, margin: str) -> Floats:
    """Radius by angle, near 1: float32 like `angle`."""
    first = random.uniform(0, np.pi)
    flat = {"round": 0.03, "oval": 0.16, "irregular": 0.12}[shape]
    radius = 1 + np.float32(flat) * np.cos(2 * (angle - np.float32(first)))
    if shape == "irregular":
        for waves in range(3, 10):
            height = np.float32(random.normal(0, 0.22 / waves**0.9))
            radius += height * np.cos(waves * angle + np.float32(random.uniform(0, 2 * np.pi)))
    if margin == "microlobulated":
        for waves in (9, 13):
            phase = np.float32(random.uniform(0, 2 * np.pi))
            height = np.float32(random.uniform(0.03, 0.06))
            radius += height * np.abs(np.cos(waves / 2 * angle + phase))
    return as_floats(np.clip(radius, 0.55, 1.5))


def rays(random: np.random.Generator, away: Floats, angle: Floats, radius: float) -> Floats:
    """Thin rays from the middle outwards, fading: float32 like `away`, at most 1."""
    drawn = np.zeros_like(away)
    for _ in range(int(random.integers(16, 28))):
        towards, bend = random.uniform(-np.pi, np.pi), random.normal(0, 0.12)
        turned = angle - np.float32(towards) - np.float32(bend) * (away / np.float32(radius) - 1)
        aside = away * np.sin(turned)
        ahead = np.cos(turned) > 0
        length = np.float32(radius * random.uniform(1.5, 2.3))
        tapering = np.minimum(away / length, 1.2)
        width = np.float32(random.uniform(0.35, 0.65)) * (1.3 - tapering / 2)
        strength = np.float32(random.uniform(0.4, 0.8)) * np.clip(1.15 - tapering, 0, 1)
        np.maximum(drawn, ahead * strength * np.exp(-((aside / width) ** 2)), out=drawn)
    return drawn

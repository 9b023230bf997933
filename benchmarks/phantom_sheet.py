"""The contact sheet of the documentation: whole studies above, lesions at full resolution below.

    python benchmarks/phantom_sheet.py docs/phantoms.png

Needs pillow, which the extra [test] brings.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mammofm_lite.phantom import PhantomLesion, PhantomOptions, render_phantom
from mammofm_lite.phantom._anatomy import draw_body, draw_view
from mammofm_lite.phantom._catalogue import _BENIGN, _CANCERS, Pattern
from mammofm_lite.phantom._plan import Planted, plan
from mammofm_lite.views import STANDARD_VIEWS, ViewName

Grey = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint16]

STUDIES = (23, 4, 21, 1)  # seeds: a spiculated mass, a dense breast, a fatty one, an asymmetric one
OVERVIEW = PhantomOptions(rows=459, columns=383, pixel_spacing_mm=0.5)
CANCERS = PhantomOptions(lesions=1, prevalence=1.0)
BENIGN = PhantomOptions(lesions=1, prevalence=0.0)
KEPT = 240  # columns of an overview
TILE = 192  # pixels of 0.1 mm
ACROSS = 10
GREYS = 32  # fewer grey levels make a smaller file


def shown(pixels: Pixels, low: float, high: float) -> Grey:
    """Stored values between two shares of the range as 8-bit grey."""
    share = np.clip((pixels / 4095 - low) / (high - low), 0, 1)
    return (np.rint(share * (GREYS - 1)) * (255 / (GREYS - 1))).astype(np.uint8)


def overview(seed: int) -> Grey:
    """The four views of a study side by side."""
    _, images = render_phantom(seed, OVERVIEW)
    order: tuple[ViewName, ...] = ("R-CC", "L-CC", "R-MLO", "L-MLO")
    kept = (images[view][:, -KEPT:] if view[0] == "R" else images[view][:, :KEPT] for view in order)
    parts = [shown(part, 0, 0.8) for part in kept]
    return np.concatenate(parts, axis=1)


def look(lesion: Planted | PhantomLesion) -> str:
    """What tells one tile from another."""
    words = (lesion.descriptors.get(key, "") for key in ("margin", "morphology"))
    name = lesion.benign_type or lesion.kind
    return " ".join(dict.fromkeys((name, *words))).replace("_", " ").strip()


def looks(pattern: Pattern) -> tuple[object, ...]:
    """What tells one pattern from another in the sheet, as `look` does."""
    words = (pattern.words.get(key) for key in ("margin", "morphology"))
    return (pattern.benign_type or pattern.kind, *words)


def seeds(options: PhantomOptions, count: int) -> Iterator[tuple[str, int]]:
    """The first seeds that have each look at a size that fits a tile, found by planning alone."""
    seen: set[str] = set()
    for seed in range(2000):
        body = draw_body(seed, options)
        anatomies = {view: draw_view(seed, body, view, options) for view in STANDARD_VIEWS}
        (lesion,) = plan(seed, body, anatomies, options).lesions
        largest = (0.8 if lesion.kind == "mass" else 1.3) * TILE
        fits = 0.3 * TILE < 10 * lesion.diameter_mm < largest
        if fits and look(lesion) not in seen:
            seen.add(look(lesion))
            yield look(lesion), seed
        if len(seen) == count:
            return


def tile(name: str, seed: int, options: PhantomOptions) -> Grey:
    """The surroundings of a lesion in one view, 1:1, with its name."""
    truth, images = render_phantom(seed, options)
    (lesion,) = truth.lesions
    view, (x1, y1, x2, y2) = list(lesion.boxes_px.items())[seed % 2]
    padded = np.pad(images[view], TILE)
    top, left = (y1 + y2 + TILE) // 2, (x1 + x2 + TILE) // 2
    part = padded[top : top + TILE, left : left + TILE]
    low, high = np.percentile(part[part > 0], (1, 99.8)) / 4095
    picture = Image.fromarray(shown(part, low, max(high, low + 0.3)))
    ImageDraw.Draw(picture).text((3, 1), name, fill=255, stroke_width=1, stroke_fill=0)
    return np.asarray(picture)


def sheet() -> Grey:
    """Studies two by two, then tiles in rows."""
    studies = [overview(seed) for seed in STUDIES]
    pairs = [np.concatenate(studies[at : at + 2], axis=1) for at in (0, 2)]
    tiles = [
        tile(f"{what}:\n{name}", seed, options)
        for what, options, patterns in (("cancer", CANCERS, _CANCERS), ("benign", BENIGN, _BENIGN))
        for name, seed in seeds(options, len({looks(pattern) for pattern in patterns}))
    ]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % ACROSS)
    rows = [np.concatenate(tiles[at : at + ACROSS], axis=1) for at in range(0, len(tiles), ACROSS)]
    return np.concatenate([*pairs, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    picture = Image.fromarray(sheet())
    picture.quantize(GREYS).save(parser.parse_args().output, optimize=True)


if __name__ == "__main__":
    main()

"""Answers to free text: the summary a person reads, and the folder with JSON and pictures.

Names of files hold the number of a text, never the text.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..ask import AskResult, TextAnswer, ViewAgreement
from ..dicom import Study, read_pixels
from ..progress import StageReporter
from ..results import ViewInfo
from ..views import STANDARD_VIEWS
from ._picture import view_picture
from .files import claim_folder, write_atomically
from .folder import caption
from .png import OverlayHeatmap, OverlayMark, render_overlay, write_png
from .text import header

__all__ = ["AskFolder", "ask_summary"]

_JSON: Final = "ask.json"
_PICTURE: Final = re.compile(rf"ask-[1-9][0-9]*-({'|'.join(STANDARD_VIEWS)})\.png")
_COLUMN: Final = 9
_SIDES: Final = {"R": "right", "L": "left"}
_LONGEST_SHOWN: Final = 200  # characters of a text in a picture
_KINDS: Final = {
    "exact": "a view's similarity is the mean of its map",
    "cells": "every cell is a similarity of its own; their mean is not the view's",
}


# -------------------- for a person


def ask_summary(result: AskResult) -> str:
    """The result in plain text; ends with a newline."""
    lines = [*header(result), "", "TEXTS, highest first (cosine similarity)"]
    lines += [f"  {line}".rstrip() for line in _table(result)]
    lines += ["", "WHERE each view agrees most, however little"]
    lines += [f"  {line}" for answer in _ranked(result) for line in _peaks(result, answer)]
    lines += ["", *(f"! {notice}" for notice in result.notices)]
    return "\n".join(lines) + "\n"


def _ranked(result: AskResult) -> list[TextAnswer]:
    return sorted(result.texts, key=lambda answer: -answer.study)


def _number(result: AskResult, answer: TextAnswer) -> int:
    """Place of a text in the call, from 1, which its files are named by."""
    return next(i for i, other in enumerate(result.texts, 1) if other is answer)


def _table(result: AskResult) -> Iterator[str]:
    """A row per text, a column for the study, each breast and each view."""
    sides = sorted(result.texts[0].breasts, reverse=True)
    views = list(result.texts[0].views)
    titles = ["study", *(_SIDES[side] for side in sides), *views]
    yield f"{'':<4}" + "".join(f"{title:<{_COLUMN}}" for title in titles) + "text"
    for answer in _ranked(result):
        values = [answer.study]
        values += [answer.breasts[side] for side in sides]
        values += [answer.views[view].similarity for view in views]
        cells = "".join(f"{f'{value:+.4f}':<{_COLUMN}}" for value in values)
        yield f"{_number(result, answer):<4}{cells}{answer.text}"


def _peaks(result: AskResult, answer: TextAnswer) -> Iterator[str]:
    for view, found in answer.views.items():
        x1, y1, x2, y2 = found.peak.box_px
        box = f"columns {x1:.0f} to {x2:.0f}, rows {y1:.0f} to {y2:.0f}"
        yield f"{_number(result, answer):<4}{view:<6} {found.peak.agreement:+.3f}  {box}"


# -------------------- the folder


class AskFolder:
    """Writes ``ask.json`` and, per text and view, a picture ``ask-1-L-CC.png``; each atomic.

    Raises
    ------
    UsageError
        The folder exists as a file, or holds such files and `force` is not set.
    """

    def __init__(self, folder: Path, force: bool) -> None:
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        names = [_JSON, *(name for name in found if _PICTURE.fullmatch(name))]
        self._taken = claim_folder(folder, names, force)
        self._folder = folder

    def write(self, result: AskResult, study: Study, reporter: StageReporter) -> None:
        """Write all; ask.json last, so that its presence says the folder is complete.

        Files of an earlier result go first: a picture of another study must not stay behind.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._taken:
            path.unlink(missing_ok=True)
        for info in result.views:
            with reporter.stage("write", info.view):
                self._pictures(result, study, info)
        with reporter.stage("write", "json"):
            write_atomically(self._folder / _JSON, result.to_json_text().encode())

    def _pictures(self, result: AskResult, study: Study, info: ViewInfo) -> None:
        instance = study.views[info.view]
        image, window = view_picture(read_pixels(instance), instance, info.deviations)
        for number, answer in enumerate(result.texts, 1):
            heat = _heat(number, answer, info)
            found = answer.views[info.view]
            lines = caption(result, info, *_shown(result, number, answer, found), window)
            peak = [OverlayMark(found.peak.box_px, "peak", found.peak.agreement)]
            rgb = render_overlay(image, info.geometry, peak, caption=lines, heatmap=heat)
            write_png(self._folder / f"ask-{number}-{info.view}.png", rgb)


def _limits(answer: TextAnswer) -> tuple[float, float]:
    """Least and greatest agreement in all views: one scale, so that they can be compared."""
    maps = [found.agreement for found in answer.views.values()]
    return float(min(one.min() for one in maps)), float(max(one.max() for one in maps))


def _heat(number: int, answer: TextAnswer, info: ViewInfo) -> OverlayHeatmap:
    values = answer.views[info.view].agreement
    return OverlayHeatmap(values, None, _limits(answer), f"agreement with text {number}")


def _shown(
    result: AskResult, number: int, answer: TextAnswer, found: ViewAgreement
) -> tuple[str, ...]:
    low, high = _limits(answer)
    text = answer.text
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... (all in {_JSON})"
    return (
        f"Text {number}: {cut}",
        f"Similarity of this view {found.similarity:+.4f}; {_KINDS[result.agreement_kind]}.",
        f"Tinted from {low:+.3f} (clear) to {high:+.3f} (brightest), one scale for all views of "
        "this text. Every view has a peak, whether or not anything is there.",
    )

"""The result folder of one study: JSON, text, a page for a browser, pictures, DICOM objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..ask import AskResult
from ..bundle import Bundle
from ..dicom import Instance, Origin, Study, read_pixels
from ..prepare import PreparedView
from ..progress import StageReporter
from ..results import StudyResult, ViewInfo
from ..views import STANDARD_VIEWS, ViewName
from ._html_views import colours
from ._overlay import reduced_image
from ._picture import view_picture
from .dicom import (
    DICOM_FILES,
    DICOM_KINDS,
    Case,
    check_kinds,
    dicom_bytes,
    dicom_objects,
    read_origins,
)
from .files import claim_folder, write_atomically
from .html import Picture, html_page
from .png import OverlayHeatmap, OverlayMark, render_overlay, write_png
from .report_text import report_text
from .text import operating_points

__all__ = ["ResultFolder", "caption"]

_NAMES: Final = (
    "result.json",
    "result.txt",
    "result.html",
    *(f"{view}{kind}.png" for view in STANDARD_VIEWS for kind in ("", "-asymmetry")),
    *DICOM_FILES,
)
_PICTURED: Final = frozenset({"png", "heat", "html"})


class ResultFolder:
    """Writes the kinds of files asked for; each file is atomic.

    ``json``, ``text`` and ``html`` give ``result.json``, ``result.txt`` and ``result.html``,
    ``png`` one picture per view with the localization head's marks, ``heat`` one per compared view
    with the prognosis head's map; `mammofm_lite.writers.dicom` describes ``cad-sr``, ``sr`` and
    ``gsps``.

    Raises
    ------
    UsageError
        The folder exists as a file, or holds results and `force` is not set; or a kind needs a
        package that is not installed.
    """

    def __init__(self, folder: Path, kinds: tuple[str, ...], force: bool) -> None:
        check_kinds(kinds)
        self._taken = claim_folder(folder, _NAMES, force)
        self._folder = folder
        self._kinds = kinds
        self._pictures: dict[ViewName, Picture] = {}
        self._origins: Mapping[ViewName, Origin] | None = None

    def take_study(self, study: Study) -> None:
        """Read what DICOM results take over, so that a refusal comes before the model runs.

        Raises
        ------
        StudyError
            The files' attributes cannot be taken over.
        """
        if any(kind in DICOM_KINDS for kind in self._kinds):
            self._origins = read_origins(study)

    def take_pixels(
        self, instance: Instance, stored: npt.NDArray[np.integer[Any]], prepared: PreparedView
    ) -> None:
        """Keep a view's picture, some 2 MB, so that `write` need not decode it again.

        For `Model.infer`, which calls it from several threads.
        """
        if _PICTURED.intersection(self._kinds):
            deviations = instance.deviations + prepared.deviations
            self._pictures[instance.view] = _picture(instance, stored, deviations)

    def write(
        self,
        result: StudyResult,
        study: Study,
        reporter: StageReporter,
        *,
        bundle: Bundle | None = None,
    ) -> None:
        """Write all kinds; result.json last, so that its presence says the folder is complete.

        A view whose pixels `take_pixels` was not given is decoded anew.
        Files of an earlier result go first: a picture of another study must not stay behind.

        Parameters
        ----------
        bundle
            That gave the result; ``html`` needs it, for its words on labels and limits.

        Raises
        ------
        BundleError
            ``html`` is asked for, and the bundle's model card is no text.
        ValueError
            ``html`` is asked for without `bundle`.
        """
        if "html" in self._kinds and bundle is None:
            raise ValueError("the page needs the bundle that gave the result")
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._taken:
            path.unlink(missing_ok=True)
        for info in result.views:
            self._write_pictures(result, study, info, reporter)
        if "html" in self._kinds and bundle is not None:
            with reporter.stage("write", "html"):
                self._write_page(result, study, bundle)
        self._write_dicom(result, study, reporter)
        with reporter.stage("write", "text and json"):
            if "text" in self._kinds:
                write_atomically(self._folder / "result.txt", report_text(result).encode())
            if "json" in self._kinds:
                write_atomically(self._folder / "result.json", result.to_json_text().encode())

    def _write_dicom(self, result: StudyResult, study: Study, reporter: StageReporter) -> None:
        if not any(kind in DICOM_KINDS for kind in self._kinds):
            return
        with reporter.stage("write", "dicom"):
            case = Case.of(result, study, self._origins or read_origins(study))
            for name, dataset in dicom_objects(self._kinds, case):
                write_atomically(self._folder / name, dicom_bytes(dataset))

    def _write_pictures(
        self, result: StudyResult, study: Study, info: ViewInfo, reporter: StageReporter
    ) -> None:
        heat = _heat(result, info) if "heat" in self._kinds else None
        if heat is None and not {"png", "html"}.intersection(self._kinds):
            return
        with reporter.stage("write", info.view):
            picture = self._picture(study.views[info.view], info)
            if "png" in self._kinds:
                marks, labels = _marks(result, info), _labels(result)
                lines = caption(result, info, _searched(result, marks), picture.window)
                rgb = render_overlay(
                    picture.image, info.geometry, marks, caption=lines, labels=labels
                )
                write_png(self._folder / f"{info.view}.png", rgb)
            if heat is not None:
                title = "Asymmetry of the last year; no marks drawn."
                lines = caption(result, info, title, picture.window)
                rgb = render_overlay(picture.image, info.geometry, [], caption=lines, heatmap=heat)
                write_png(self._folder / f"{info.view}-asymmetry.png", rgb)

    def _picture(self, instance: Instance, info: ViewInfo) -> Picture:
        """Kept until the page is written, if there is one."""
        picture = self._pictures.pop(instance.view, None)
        if picture is None:
            picture = _picture(instance, read_pixels(instance), info.deviations)
        if "html" in self._kinds:
            self._pictures[instance.view] = picture
        return picture

    def _write_page(self, result: StudyResult, study: Study, bundle: Bundle) -> None:
        views = [info.view for info in result.views]
        page = html_page(
            result,
            bundle,
            {view: self._pictures.pop(view) for view in views},
            {view: study.views[view].patient_orientation for view in views},
        )
        write_atomically(self._folder / "result.html", page)


def _picture(
    instance: Instance, stored: npt.NDArray[np.integer[Any]], deviations: tuple[str, ...]
) -> Picture:
    image, window = view_picture(stored, instance, deviations)
    return Picture(reduced_image(image), window)


def _heat(result: StudyResult, info: ViewInfo) -> OverlayHeatmap | None:
    """The map of a view that was compared with the other side, on one scale for both."""
    answer = result.prognosis
    if answer is None or info.view not in answer.heatmaps:
        return None
    found = answer.heatmaps[info.view]
    limits = (float(found.values.min()), float(found.values.max()))
    return OverlayHeatmap(found.values, found.extent_px, limits, "left-right asymmetry")


def _labels(result: StudyResult) -> tuple[str, ...]:
    """Every label that may be marked, so that each has the page's colour in all views."""
    return tuple(colours(result))


def _marks(result: StudyResult, info: ViewInfo) -> list[OverlayMark]:
    found = result.localization
    marks = [] if found is None else [mark for mark in found.marks if mark.view == info.view]
    return [OverlayMark(mark.box_px, mark.label, mark.score) for mark in marks]


def _searched(result: StudyResult, marks: list[OverlayMark]) -> str:
    """What the picture shows, so that one without marks is not taken for a negative answer."""
    found = result.localization
    if found is None:
        outcome = result.heads.get("localization")
        why = outcome.detail if outcome else "the localization head was not asked for"
        return f"Not searched for findings: {why}."
    if not marks:
        return f"Searched; no mark at or above {operating_points(found)}."
    return f"Marks at or above {operating_points(found)}; a score is not a probability."


def caption(result: StudyResult | AskResult, info: ViewInfo, *shown: str) -> tuple[str, ...]:
    """What stands below a view: its name, what is shown, which model, and the notices."""
    model = (
        f"{result.model.name} {result.model.version}, mammofm-lite {result.software.mammofm_lite}"
    )
    return (info.view, *shown, model, *result.notices)

"""What a study is once it is read: one decision per file, and the views that were chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..background import Background
from ..views import Laterality, ViewName
from ._display import VoiLut
from ._pixels import GivenPixels, PixelLocation

__all__ = ["FileDecision", "Instance", "ReadOptions", "Study"]


@dataclass(frozen=True)
class ReadOptions:
    """What to accept beyond mammograms For Presentation.

    Parameters
    ----------
    allow_cr
        Computed Radiography and Digital X-Ray For Presentation whose Body Part Examined is BREAST:
        older archives hold mammograms as such. The result names each view that is one.
    """

    allow_cr: bool = False


@dataclass(frozen=True)
class FileDecision:
    """What was decided about one file of the study, and why.

    Parameters
    ----------
    index
        Place in the sorted listing, from 1.
    sop_instance_uid
        ``None`` where the file is not DICOM, or its UID is not one.
    used
        Whether the file's pixels go to the model.
    view
        The standard view the file shows, as far as it is known.
    reason
        A stable code, ``"used"`` or why not.
    detail
        One sentence for a person; never a path, never anything that identifies the patient.
    """

    index: int
    sop_instance_uid: str | None
    used: bool
    view: ViewName | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Instance:
    """One chosen mammogram: what is needed to prepare it, and where its pixels lie.

    Parameters
    ----------
    sop_instance_uid
        UID of the file.
    view, laterality
        What it shows.
    rows, columns
        Size in pixels.
    photometric_interpretation
        ``"MONOCHROME1"`` or ``"MONOCHROME2"``.
    rescale_slope, rescale_intercept
        The linear Modality LUT (PS3.3 C.11.1); 1 and 0 where the file has none.
    pixel_spacing_mm
        Distance of rows, then of columns; ``None`` where the file does not say.
    pixel_spacing_source
        The attributes `pixel_spacing_mm` comes from. ``"ImagerPixelSpacing"`` alone is measured at
        the detector, so lengths at the breast are some percent smaller.
    background
        Pixels that are no image by the file's own word.
    voi
        The file's windows and tables for display; the encoders never see them applied.
    deviations
        Codes out of `DEVIATIONS`: where the file was not taken as it is.
    pixels
        Where `read_pixels` finds the pixel data, or the pixels themselves.
    patient_orientation
        Where the rows run to (left to right) and the columns (downwards), in the letters of
        Patient Orientation (PS3.3 C.7.6.1.1.1); ``None`` where the file does not say. For
        hanging pictures only: no answer depends on it.
    """

    sop_instance_uid: str
    view: ViewName
    laterality: Laterality
    rows: int
    columns: int
    photometric_interpretation: str
    rescale_slope: float
    rescale_intercept: float
    pixel_spacing_mm: tuple[float, float] | None
    pixel_spacing_source: str | None
    background: Background
    voi: VoiLut
    deviations: tuple[str, ...]
    pixels: PixelLocation | GivenPixels = field(repr=False, compare=False)
    patient_orientation: tuple[str, str] | None = None


@dataclass(frozen=True)
class Study:
    """The mammograms of one study that are used.

    Parameters
    ----------
    study_instance_uid
        UID of the study.
    views
        The chosen instance per standard view, in the order of `STANDARD_VIEWS`.
    decisions
        One for every file seen, in the order of the listing.
    """

    study_instance_uid: str
    views: Mapping[ViewName, Instance]
    decisions: tuple[FileDecision, ...]

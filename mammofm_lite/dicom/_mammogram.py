"""What one For Presentation file shows, as far as its attributes say so without contradiction.

Nothing is guessed: where an attribute is missing, unknown or contradicts another, the file is
refused with a reason, and details quote only words of the standard's vocabularies, because any
other text of a file may hold a name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from ..background import Background
from ..deviations import COMPUTED_RADIOGRAPHY, TRANSFER_SYNTAX_CORRECTED
from ..views import Laterality, ViewName
from ._codes import (
    FOR_PRESENTATION,
    IMPLANT_DISPLACED,
    LATERALITIES,
    PIXEL_SYNTAXES,
    STANDARD_PROJECTIONS,
    VIEW_CODES,
    VIEW_MODIFIER_CODES,
    VIEW_POSITIONS,
)
from ._display import VoiLut, background, check_presentation, patient_orientation, voi_lut
from ._header import Attributes, Header, PixelElement, syntax_name
from ._numbers import number
from ._pixels import MAX_SIDE_PX, PixelFormat
from ._refused import FileRefusedError

__all__ = ["Identity", "Mammogram", "describe", "identity", "shown_view"]

# ImageType values that name another kind of image than a screening view.
_SYNTHETIC: Final = frozenset({"GENERATED_2D", "TOMO_2D", "TOMO"})
_OTHER_IMAGE_TYPES: Final = re.compile(
    r"STEREO_.*|PREFIRE.*|POSTFIRE.*|.*SUBTRACTION.*|LOW_ENERGY|HIGH_ENERGY|TOMO_PROJ"
)
# A magnification stand gives 1.5 and more, a breast on the support at most about 1.2.
_MAGNIFIED: Final = 1.4
_MOST_SPACING_MM: Final = 100.0  # far beyond any detector; a larger one counts as none
_PLAUSIBLE_MAGNIFICATION: Final = (1.0, 20.0)


@dataclass(frozen=True)
class Identity:
    """Whose image it is; compared, never shown."""

    study_instance_uid: str
    patient_id: str
    patient_name: str
    birth_date: str


@dataclass(frozen=True)
class Mammogram:
    """One usable candidate for a standard view.

    `acquired` sorts by time (``""`` is unknown, oldest). What is not compared may differ between
    copies of the same image that were compressed or windowed differently.
    """

    sop_instance_uid: str
    identity: Identity = field(repr=False)
    view: ViewName
    form: PixelFormat
    photometric_interpretation: str
    rescale: tuple[float, float]
    pixel_spacing_mm: tuple[float, float] | None
    pixel_spacing_source: str | None
    synthetic: bool
    implant_present: bool
    implant_displaced: bool
    acquired: str
    background: Background
    radiography: bool
    voi: VoiLut = field(compare=False)
    patient_orientation: tuple[str, str] | None = field(compare=False)
    deviations: tuple[str, ...] = field(compare=False)
    pixels: PixelElement = field(repr=False, compare=False)
    coding: str = field(compare=False)


def describe(header: Header) -> Mammogram:
    """A file of an accepted SOP class as a candidate.

    Raises
    ------
    FileRefusedError
        It is no standard view, does not say what it is, or cannot be decoded.
    """
    who = identity(header)
    for check in (_check_quality_control, _check_intent, _check_image_type, _check_partial):
        check(header)
    view, displaced = _view(header)
    form = _pixel_format(header)
    photometric = _photometric(header)
    check_presentation(header, photometric)
    spacing, spacing_source = _pixel_spacing(header)
    hidden, not_applied = background(header, signed=form.pixel_representation == 1)
    pixels, coding = _pixels(header, form)
    radiography = header.sop_class_uid != FOR_PRESENTATION
    corrected = coding != PIXEL_SYNTAXES.get(header.transfer_syntax)
    return Mammogram(
        sop_instance_uid=header.sop_instance_uid,
        identity=who,
        view=view,
        form=form,
        photometric_interpretation=photometric,
        rescale=_rescale(header),
        pixel_spacing_mm=spacing,
        pixel_spacing_source=spacing_source,
        synthetic=not _SYNTHETIC.isdisjoint(_image_type(header)[2:]),
        implant_present=header.text("BreastImplantPresent") == "YES",
        implant_displaced=displaced,
        acquired=_acquired(header),
        background=hidden,
        radiography=radiography,
        voi=voi_lut(header),
        patient_orientation=patient_orientation(header),
        deviations=(
            *((COMPUTED_RADIOGRAPHY,) if radiography else ()),
            *((TRANSFER_SYNTAX_CORRECTED,) if corrected else ()),
            *not_applied,
        ),
        pixels=pixels,
        coding=coding,
    )


def shown_view(header: Header) -> ViewName | None:
    """The standard view a file shows, modified or not; ``None`` where it is not clear."""
    try:
        projection, _ = _projection(header)
        name = f"{_laterality(header)}-{STANDARD_PROJECTIONS[projection]}"
    except (FileRefusedError, KeyError):
        return None
    return cast(ViewName, name)


# -------------------- identity and purpose


def identity(header: Header) -> Identity:
    """Study and patient.

    Raises
    ------
    FileRefusedError
        The file does not say which study or instance it is.
    """
    study = header.uid("StudyInstanceUID")
    if not header.sop_instance_uid or not study:
        raise FileRefusedError("no_identity", "Study or SOP Instance UID is missing or malformed")
    return Identity(
        study, header.text("PatientID"), header.text("PatientName").rstrip("^ "),
        header.text("PatientBirthDate"),
    )  # fmt: skip


def is_quality_control(header: Header) -> bool:
    """Whether a phantom or a calibration is shown."""
    return (
        header.text("QualityControlImage") in ("YES", "BOTH")
        or header.text("CalibrationImage") == "YES"
        or header.text("BodyPartExamined") == "PHANTOM"
    )


def _check_quality_control(header: Header) -> None:
    if is_quality_control(header):
        raise FileRefusedError("quality_control", "a quality control, phantom or calibration image")


def _check_intent(header: Header) -> None:
    intent = header.text("PresentationIntentType")
    if intent not in ("", "FOR PRESENTATION"):
        raise FileRefusedError(
            "intent_contradiction",
            "PresentationIntentType contradicts the SOP class (For Presentation)",
        )


def _image_type(header: Header) -> tuple[str, ...]:
    return tuple(value.upper() for value in header.texts("ImageType"))


def _check_image_type(header: Header) -> None:
    for value in _image_type(header)[2:]:
        if _OTHER_IMAGE_TYPES.fullmatch(value):
            raise FileRefusedError(
                "other_image_type",
                "ImageType names a biopsy, contrast or projection image, not a screening view",
            )


def _check_partial(header: Header) -> None:
    if header.text("PartialView") == "YES":
        raise FileRefusedError(
            "partial_view", "one of several images of a breast too large for one (PartialView)"
        )


# -------------------- side


def _laterality(header: Header) -> Laterality:
    values = {
        "ImageLaterality": header.text("ImageLaterality"),
        "Laterality": header.text("Laterality"),
        "FrameLaterality": _frame_laterality(header),
    }
    given = {keyword: value for keyword, value in values.items() if value}
    if not given:
        raise FileRefusedError(
            "no_laterality", "no attribute says whether it is the left or right breast"
        )
    sides = {LATERALITIES.get(value) for value in given.values()}
    if len(sides) > 1:
        raise FileRefusedError(
            "laterality_contradiction", f"{' and '.join(given)} contradict each other"
        )
    side = sides.pop()
    if side is None:
        raise FileRefusedError("no_laterality", f"{' and '.join(given)}: neither left nor right")
    return side


def _frame_laterality(header: Header) -> str:
    """Of an enhanced object: Shared Functional Groups, Frame Anatomy (PS3.3 C.7.6.16.2.8)."""
    found = {
        anatomy.text("FrameLaterality")
        for group in header.items("SharedFunctionalGroupsSequence")
        for anatomy in group.items("FrameAnatomySequence")
    }
    return "\\".join(sorted(found - {""}))


def _check_orientation(header: Header, side: Laterality, projection: str) -> None:
    """A cross-check only: what is unusual is passed over, what is certain refuses the file.

    Certain are the usual orientation of the other breast (PS3.3 C.7.6.1.1.1: ``A\\R`` and
    ``A\\FR`` left, ``P\\L`` and ``P\\FL`` right), and in MLO, flipped or not, the axis from above
    outside to below inside, which runs head-left to foot-right in a left breast.
    """
    values = [frozenset(value.upper()) for value in header.texts("PatientOrientation")]
    if len(values) != 2:
        return
    row, column = values
    usual = {"L": ("A", ("R", "FR")), "R": ("P", ("L", "FL"))}
    other_row, other_columns = usual["R" if side == "L" else "L"]
    contradicts = row == frozenset(other_row) and column in map(frozenset, other_columns)
    if projection == "MLO":
        other_axis = ("FL", "HR") if side == "L" else ("FR", "HL")
        contradicts |= any(value in map(frozenset, other_axis) for value in values)
    if contradicts:
        raise FileRefusedError(
            "laterality_contradiction",
            "PatientOrientation is that of the other breast than the laterality says",
        )


# -------------------- view


def _view(header: Header) -> tuple[ViewName, bool]:
    """The standard view, and whether the implant is displaced."""
    side = _laterality(header)
    projection, position = _projection(header)
    if position is not None and position[1] not in (None, side):
        raise FileRefusedError("laterality_contradiction", "ViewPosition names the other breast")
    modifiers = _modifiers(header)
    if projection not in STANDARD_PROJECTIONS:
        raise FileRefusedError("other_view", f"the view is {projection}, not CC or MLO")
    others = sorted(modifiers - {IMPLANT_DISPLACED})
    if others:
        raise FileRefusedError("view_modifier", f"not a standard view: {', '.join(others)}")
    _check_magnification(header)
    _check_orientation(header, side, projection)
    displaced = IMPLANT_DISPLACED in modifiers or (position is not None and position[2])
    return cast(ViewName, f"{side}-{projection}"), displaced


def _projection(header: Header) -> tuple[str, tuple[str, Laterality | None, bool] | None]:
    """The view by its code, else by View Position; and what View Position says.

    Raises
    ------
    FileRefusedError
        Neither says it, or they contradict each other.
    """
    position = VIEW_POSITIONS.get(" ".join(header.text("ViewPosition").split()))
    codes = _codes(header.items("ViewCodeSequence"), VIEW_CODES)
    if not codes and position is None:
        raise FileRefusedError("no_view", "neither ViewCodeSequence nor ViewPosition says the view")
    if not codes:
        assert position is not None  # narrowed above
        return position[0], position
    if codes == {None}:
        raise FileRefusedError("no_view", "ViewCodeSequence holds a code that is not of CID 4014")
    if len(codes) > 1:
        raise FileRefusedError("view_contradiction", "ViewCodeSequence holds more than one view")
    projection = str(codes.pop())
    if position is not None and position[0] != projection:
        raise FileRefusedError(
            "view_contradiction",
            f"ViewCodeSequence says {projection} and ViewPosition {position[0]}",
        )
    return projection, position


def _codes(sequence: Iterable[Attributes], table: Mapping[tuple[str, str], str]) -> set[str | None]:
    """Names of the codes in a sequence; ``None`` for one that the table does not hold."""
    found: set[str | None] = set()
    for item in sequence:
        value = item.text("CodeValue")
        scheme = item.text("CodingSchemeDesignator")
        if value:
            found.add(table.get((scheme, value)))
        elif item.text("LongCodeValue") or item.text("URNCodeValue"):
            found.add(None)
    return found


def _modifiers(header: Header) -> set[str]:
    """Inside the view's item, and at the top level, where some devices put them."""
    sequences = [header.items("ViewModifierCodeSequence")]
    views = header.items("ViewCodeSequence")
    sequences += [view.items("ViewModifierCodeSequence") for view in views]
    names = {name for each in sequences for name in _codes(each, VIEW_MODIFIER_CODES)}
    return {name or "a modifier that is not of CID 4015" for name in names}


def _check_magnification(header: Header) -> None:
    factor = _magnification(header)
    if factor is not None and factor >= _MAGNIFIED:
        raise FileRefusedError(
            "view_modifier",
            f"magnified: EstimatedRadiographicMagnificationFactor is {_MAGNIFIED} or more",
        )


# -------------------- pixels


def _pixel_format(header: Header) -> PixelFormat:
    samples, frames = header.number("SamplesPerPixel"), header.texts("NumberOfFrames")
    if samples != 1:
        raise FileRefusedError("samples_per_pixel", "SamplesPerPixel is not 1: not a grey image")
    if frames not in ((), ("1",)):
        raise FileRefusedError("multi_frame", "NumberOfFrames is not 1")
    keywords = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    numbers = [header.number(keyword) for keyword in keywords]
    missing = [key for key, value in zip(keywords, numbers, strict=True) if value is None]
    if missing:
        raise FileRefusedError("pixel_format", f"{missing[0]} is missing or malformed")
    form = PixelFormat(*cast(list[int], numbers))
    if not (1 <= form.rows <= MAX_SIDE_PX and 1 <= form.columns <= MAX_SIDE_PX):
        raise FileRefusedError(
            "pixel_format", f"{form.rows} x {form.columns} pixels is not an image"
        )
    _check_bits(header, form)
    return form


def _check_bits(header: Header, form: PixelFormat) -> None:
    fits = form.bits_allocated in (8, 16) and 1 <= form.bits_stored <= form.bits_allocated
    fits = fits and form.bits_stored - 1 <= form.high_bit < form.bits_allocated
    if _coding(header) not in ("native", "rle"):
        fits = fits and form.high_bit == form.bits_stored - 1  # no other place in a code stream
    if not fits or form.pixel_representation not in (0, 1):
        raise FileRefusedError(
            "pixel_format",
            f"BitsAllocated {form.bits_allocated}, BitsStored {form.bits_stored}, HighBit "
            f"{form.high_bit}, PixelRepresentation {form.pixel_representation} make no grey image",
        )


def _photometric(header: Header) -> str:
    value = header.text("PhotometricInterpretation")
    if value not in ("MONOCHROME1", "MONOCHROME2"):
        raise FileRefusedError(
            "photometric_interpretation",
            "PhotometricInterpretation is neither MONOCHROME1 nor MONOCHROME2",
        )
    return value


def _coding(header: Header) -> str | None:
    """How the pixels are coded: by the code stream's own first bytes, else by what the file says.

    A file's transfer syntax is at times that of another copy; a code stream's marker is not.
    """
    found = header.pixels
    if isinstance(found, PixelElement) and found.code_stream is not None:
        return found.code_stream
    return PIXEL_SYNTAXES.get(header.transfer_syntax)


def _pixels(header: Header, form: PixelFormat) -> tuple[PixelElement, str]:
    coding = _coding(header)
    if coding is None:
        name = syntax_name(header.transfer_syntax)
        raise FileRefusedError("unsupported_transfer_syntax", f"pixels in {name} cannot be decoded")
    found = header.pixels
    if not isinstance(found, PixelElement):
        raise found or FileRefusedError("no_pixel_data", "the file has no integer pixel data")
    if found.encapsulated == (coding == "native"):
        raise FileRefusedError(
            "damaged", "the pixel data are not encoded as the transfer syntax says"
        )
    (_, length), *_ = found.fragments
    if coding == "native" and not 0 <= length - form.bytes <= 1:  # padded to an even length
        raise FileRefusedError(
            "pixel_size", f"{length} bytes of pixel data where {form.bytes} are needed"
        )
    return found, coding


def _rescale(header: Header) -> tuple[float, float]:
    """Slope and intercept of a linear Modality LUT (PS3.3 C.11.1)."""
    if header.items("ModalityLUTSequence"):
        raise FileRefusedError("rescale", "a Modality LUT that is a table cannot be applied")
    slope = _default("RescaleSlope", header, 1.0)
    intercept = _default("RescaleIntercept", header, 0.0)
    if slope is None or intercept is None or slope == 0:
        raise FileRefusedError(
            "rescale", "RescaleSlope or RescaleIntercept is not one finite number"
        )
    return slope, intercept


def _default(keyword: str, header: Header, absent: float) -> float | None:
    return number(header.texts(keyword)) if header.has(keyword) else absent


def _magnification(header: Header) -> float | None:
    return number(header.texts("EstimatedRadiographicMagnificationFactor"))


def _pixel_spacing(header: Header) -> tuple[tuple[float, float] | None, str | None]:
    """At the breast where the file says so (PS3.3 C.8.11.7, 10.7.1.3), and the attributes used."""
    detector = _pair(header.texts("ImagerPixelSpacing"))
    calibrated = _pair(header.texts("PixelSpacing"))
    if header.text("PixelSpacingCalibrationType") not in ("GEOMETRY", "FIDUCIAL"):
        calibrated = None
    keyword = "EstimatedRadiographicMagnificationFactor"
    factor = _magnification(header)
    low, high = _PLAUSIBLE_MAGNIFICATION
    if detector and factor is not None and low <= factor <= high:
        return (detector[0] / factor, detector[1] / factor), f"ImagerPixelSpacing / {keyword}"
    if calibrated:
        return calibrated, "PixelSpacing"
    if detector and not header.texts(keyword):
        return detector, "ImagerPixelSpacing"
    return None, None


def _pair(values: tuple[str, ...]) -> tuple[float, float] | None:
    numbers = [number((value,)) for value in values]
    if len(numbers) != 2 or not all(
        each is not None and 0 < each <= _MOST_SPACING_MM for each in numbers
    ):
        return None
    return cast(tuple[float, float], tuple(numbers))


# -------------------- time


def _acquired(header: Header) -> str:
    """When the image was taken, as digits that sort; ``""`` where no attribute says it."""
    pairs: list[Callable[[], str]] = [
        lambda: _moment(header.text("AcquisitionDate"), header.text("AcquisitionTime")),
        lambda: _moment(
            header.text("AcquisitionDateTime")[:8], header.text("AcquisitionDateTime")[8:]
        ),
        lambda: _moment(header.text("ContentDate"), header.text("ContentTime")),
    ]
    return next((moment for pair in pairs if (moment := pair())), "")


def _moment(date: str, time: str) -> str:
    """Date YYYYMMDD and time HHMMSS.FFFFFF, later parts optional (PS3.5 6.2), as 20 digits."""
    date = date.replace(".", "")
    clock = re.match(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?", time.replace(":", ""))
    if not re.fullmatch(r"\d{8}", date) or clock is None:
        return ""
    whole, _, fraction = clock.group().partition(".")
    return date + whole.ljust(6, "0") + fraction.ljust(6, "0")

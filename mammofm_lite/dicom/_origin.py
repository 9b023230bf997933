"""What a DICOM result takes over from an image it is about: patient, study, series, display.

Only here are names and numbers of a patient read as text. They go into DICOM objects, where they
belong, and nowhere else: no message carries one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..errors import StudyError
from ._codes import IMPLANT_DISPLACED, VIEW_MODIFIER_CODES
from ._header import read_elements
from ._pixels import GivenPixels, check_unchanged
from ._quiet import quiet
from ._refused import FileRefusedError
from ._types import Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["PATIENT_IDENTITY", "Origin", "read_origin"]

PATIENT_IDENTITY: Final = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
)  # fmt: skip
"""Attributes that say who the patient is; files of one study must not contradict each other."""

# What a value must look like to be written again (PS3.5 6.2).
_UID: Final = re.compile(r"(?=.{1,64}$)[0-2](\.(0|[1-9]\d*))+")
_DATE: Final = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_SEX: Final = re.compile(r"[MFO]")
_DIRECTION: Final = re.compile(r"[APRLHF]{1,3}")
_LONG: Final = re.compile(r"[^\x00-\x1f\\]{0,64}")
_SHORT: Final = re.compile(r"[^\x00-\x1f\\]{0,16}")
_NAME: Final = re.compile(r"[^\x00-\x1f\\=]{0,64}(=[^\x00-\x1f\\=]{0,64}){0,2}")

# Modules Patient and General Study (PS3.3 C.7.1.1, C.7.2.1).
_MODULES: Final[Mapping[str, re.Pattern[str]]] = {
    "PatientName": _NAME,
    "PatientID": _LONG,
    "IssuerOfPatientID": _LONG,
    "PatientBirthDate": _DATE,
    "PatientSex": _SEX,
    "StudyInstanceUID": _UID,
    "StudyDate": _DATE,
    "StudyTime": _TIME,
    "ReferringPhysicianName": _NAME,
    "StudyID": _SHORT,
    "AccessionNumber": _SHORT,
    "StudyDescription": _LONG,
}
_NEVER_LEFT_OUT: Final = ("PatientName", "PatientID", "IssuerOfPatientID")
_IMAGE: Final[Mapping[str, re.Pattern[str]]] = {
    "SOPClassUID": _UID,
    "SeriesInstanceUID": _UID,
    "ContentDate": _DATE,
    "ContentTime": _TIME,
}
_OTHERS: Final = (
    "SpecificCharacterSet", "PatientOrientation", "ImagerPixelSpacing", "ViewCodeSequence",
    "ViewModifierCodeSequence", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """One image as DICOM results refer to it.

    Parameters
    ----------
    patient_and_study
        Attributes of the modules Patient and General Study by keyword, as text; ``""`` where the
        file has none or what it has may not be written: malformed, or too long. A name or
        number of the patient is never left out so.
    sop_class_uid, series_instance_uid
        Of the image.
    content_date, content_time
        Of the image, ``""`` where the file does not say.
    patient_orientation
        Direction of rows, then of columns; ``None`` where the file does not say.
    imager_pixel_spacing_mm
        Distance of rows, then of columns, at the detector; ``None`` where the file does not say.
    implant_displaced
        Whether the view has that modifier.
    voi_tables
        Items of VOI LUT Sequence.
    """

    patient_and_study: Mapping[str, str] = field(repr=False)
    sop_class_uid: str
    series_instance_uid: str
    content_date: str
    content_time: str
    patient_orientation: tuple[str, str] | None
    imager_pixel_spacing_mm: tuple[float, float] | None
    implant_displaced: bool
    voi_tables: tuple["Dataset", ...] = field(repr=False, compare=False)


def read_origin(instance: Instance) -> Origin:
    """Read the file of a chosen mammogram again, up to its pixel data.

    Raises
    ------
    StudyError
        The file changed, does not say its series, or names the patient in a form that may not be
        written or a character set that cannot be read: a shortened or garbled name in a result
        could be taken for another patient's. Or there is none, for the study is one of arrays.
    """
    if isinstance(instance.pixels, GivenPixels):
        raise StudyError(
            "no DICOM result can be written of a study of arrays: patient, study and series stand "
            "in DICOM files alone; read the study from them"
        )
    keywords = (*_MODULES, *_IMAGE, *_OTHERS)
    try:
        with instance.pixels.source.open() as opened:
            check_unchanged(opened, instance.pixels)
            dataset = read_elements(opened, keywords)
        with quiet():
            return _origin(dataset)
    except FileRefusedError as refused:
        why = refused.detail
    except StudyError as error:
        why = str(error)
    except Exception:
        # The library raises many kinds on hostile values, and what they say may quote the file.
        why = "the attributes of patient and study are malformed"
    raise StudyError(
        f"no DICOM result can be written: {why} (SOP Instance UID {instance.sop_instance_uid})"
    ) from None


def _origin(dataset: "Dataset") -> Origin:
    _check_character_set(dataset)
    image = {keyword: _text(dataset, keyword, form) for keyword, form in _IMAGE.items()}
    if not image["SeriesInstanceUID"] or not image["SOPClassUID"]:
        raise StudyError("the image does not say its Series Instance UID")
    modules = {keyword: _text(dataset, keyword, form) for keyword, form in _MODULES.items()}
    return Origin(
        patient_and_study=modules,
        sop_class_uid=image["SOPClassUID"],
        series_instance_uid=image["SeriesInstanceUID"],
        content_date=image["ContentDate"],
        content_time=image["ContentTime"],
        patient_orientation=_orientation(dataset),
        imager_pixel_spacing_mm=_spacing(dataset),
        implant_displaced=_implant_displaced(dataset),
        voi_tables=_voi_tables(dataset),
    )


def _check_character_set(dataset: "Dataset") -> None:
    """The library takes an unknown character set for Latin-1 and goes on."""
    from pydicom.charset import python_encoding

    names = dataset.get("SpecificCharacterSet") or ""
    for name in [names] if isinstance(names, str) else names:
        if name not in python_encoding:
            raise StudyError("its character set (SpecificCharacterSet) is not known")
    if names:
        return
    for keyword in _MODULES:
        raw = dataset.get_item(keyword).value if keyword in dataset else b""
        if isinstance(raw, bytes) and not raw.isascii():
            raise StudyError("it names no character set (SpecificCharacterSet) for its text")


def _text(dataset: "Dataset", keyword: str, form: re.Pattern[str]) -> str:
    """A value; what is malformed counts as absent, but not a name or number of the patient."""
    value = dataset.get(keyword)
    text = "" if value is None else str(value).strip(" \0")
    if "\ufffd" in text:
        raise StudyError("its text does not fit its character set (SpecificCharacterSet)")
    one = not isinstance(value, list | tuple) and not hasattr(value, "append")
    if one and form.fullmatch(text):
        return text
    if keyword in _NEVER_LEFT_OUT:
        raise StudyError(f"its {keyword} is malformed")
    return ""


def _orientation(dataset: "Dataset") -> tuple[str, str] | None:
    value = dataset.get("PatientOrientation")
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    row, column = (str(part) for part in value)
    known = _DIRECTION.fullmatch(row) and _DIRECTION.fullmatch(column)
    return (row, column) if known else None


def _spacing(dataset: "Dataset") -> tuple[float, float] | None:
    value: Any = dataset.get("ImagerPixelSpacing")
    if value is None or isinstance(value, str | float) or len(value) != 2:
        return None
    row, column = (float(part) for part in value)
    return (row, column) if 0 < row < 100 and 0 < column < 100 else None


def _implant_displaced(dataset: "Dataset") -> bool:
    views = dataset.get("ViewCodeSequence") or ()
    items = [*(dataset.get("ViewModifierCodeSequence") or ())]
    items += [item for view in views for item in view.get("ViewModifierCodeSequence") or ()]
    codes = ((item.get("CodingSchemeDesignator"), item.get("CodeValue")) for item in items)
    return any(VIEW_MODIFIER_CODES.get(code) == IMPLANT_DISPLACED for code in codes)


def _voi_tables(dataset: "Dataset") -> tuple["Dataset", ...]:
    """Descriptor and data of every table (PS3.3 C.11.8), in explicit VRs and little endian."""
    from pydicom.dataset import Dataset
    from pydicom.filewriter import correct_ambiguous_vr

    little = bool(dataset.original_encoding[1])
    correct_ambiguous_vr(dataset, is_little_endian=little)
    tables = []
    for item in dataset.get("VOILUTSequence") or ():
        if "LUTDescriptor" not in item or "LUTData" not in item:
            continue
        table = Dataset()
        table.add(item["LUTDescriptor"])
        table.add_new("LUTData", item["LUTData"].VR, item.LUTData)
        if isinstance(item.LUTData, bytes) and not little:
            words = item.LUTData
            pairs = zip(words[1::2], words[::2], strict=True)
            table.LUTData = bytes(byte for pair in pairs for byte in pair)
        tables.append(table)
    return tuple(tables)

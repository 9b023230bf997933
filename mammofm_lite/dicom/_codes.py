"""Vocabularies of the standard, edition 2024e, as far as the choice of views needs them.

Code values are those of CID 4014 "View for Mammography" and CID 4015 "View Modifier for
Mammography" (PS3.16), in SNOMED CT and in the older SNOMED RT; meanings are never compared,
because manufacturers word them as they like.
"""

from collections.abc import Mapping
from typing import Final

from ..views import Laterality, Projection

__all__ = [
    "DICOMDIR",
    "FOR_PRESENTATION",
    "IMPLANT_DISPLACED",
    "KEY_OBJECT",
    "LATERALITIES",
    "NEWER_SYNTAXES",
    "PIXEL_SYNTAXES",
    "RADIOGRAPHY",
    "STANDARD_PROJECTIONS",
    "VIEW_CODES",
    "VIEW_MODIFIER_CODES",
    "VIEW_POSITIONS",
    "sop_class_refusal",
]

Code = tuple[str, str]  # coding scheme, value

FOR_PRESENTATION: Final = "1.2.840.10008.5.1.4.1.1.1.2"
KEY_OBJECT: Final = "1.2.840.10008.5.1.4.1.1.88.59"
DICOMDIR: Final = "1.2.840.10008.1.3.10"

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# Computed radiography, and digital X-ray For Presentation: archives hold mammograms as such.
RADIOGRAPHY: Final = frozenset({_STORAGE + "1", _STORAGE + "1.1"})
# SOP class (or a branch of them, ending in a dot): stable code, what it is
_OTHER_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    DICOMDIR: ("dicomdir", "a DICOMDIR index"),
    _STORAGE + "1.2.1": ("for_processing", "a For Processing mammogram"),
    _STORAGE + "13.1.3": ("tomosynthesis", "a breast tomosynthesis"),
    _STORAGE + "13.1.4": ("projection", "breast projection X-ray images (For Presentation)"),
    _STORAGE + "13.1.5": ("projection", "breast projection X-ray images (For Processing)"),
    _STORAGE + "7": ("secondary_capture", "a secondary capture"),
    _STORAGE + "7.": ("secondary_capture", "a multi-frame secondary capture"),
    _STORAGE + "1": ("computed_radiography", "a computed radiography image"),
    _STORAGE + "1.1": ("digital_radiography", "a digital X-ray image"),
    _STORAGE + "1.1.1": ("digital_radiography", "a digital X-ray image (For Processing)"),
    KEY_OBJECT: ("key_object", "a key object selection"),
    _STORAGE + "88.": ("structured_report", "a structured report"),
    _STORAGE + "11.": ("presentation_state", "a presentation state"),
    _STORAGE + "104.": ("encapsulated_document", "an encapsulated document"),
    _STORAGE + "66.": ("segmentation", "a segmentation or registration"),
    _STORAGE + "4": ("other_sop_class", "a magnetic resonance image"),
    _STORAGE + "6.1": ("other_sop_class", "an ultrasound image"),
    _STORAGE + "3.1": ("other_sop_class", "an ultrasound clip"),
}

# Transfer syntaxes whose pixels can be read.
PIXEL_SYNTAXES: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2": "native",
    "1.2.840.10008.1.2.1": "native",
    "1.2.840.10008.1.2.1.99": "native",  # deflated as a whole
    "1.2.840.10008.1.2.2": "native",
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.57": "jpeg_lossless",
    "1.2.840.10008.1.2.4.70": "jpeg_lossless",
    "1.2.840.10008.1.2.4.80": "jpeg_ls",
    "1.2.840.10008.1.2.4.81": "jpeg_ls",
    "1.2.840.10008.1.2.4.90": "jpeg_2000",
    "1.2.840.10008.1.2.4.91": "jpeg_2000",
}

# Names of syntaxes that pydicom does not know yet.
NEWER_SYNTAXES: Final[Mapping[str, str]] = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}

LATERALITIES: Final[Mapping[str, Laterality]] = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}
STANDARD_PROJECTIONS: Final[Mapping[str, Projection]] = {"CC": "CC", "MLO": "MLO"}

# Name: SNOMED CT, SNOMED RT. The names are the defined terms of View Position where one exists.
_VIEWS: Final[Mapping[str, Code]] = {
    "CC": ("399162004", "R-10242"),
    "MLO": ("399368009", "R-10226"),
    "ML": ("399260004", "R-10224"),
    "LM": ("399352003", "R-10228"),
    "LMO": ("399099002", "R-10230"),
    "XCCL": ("399192008", "R-1024A"),
    "XCCM": ("399101009", "R-1024B"),
    "FB": ("399196006", "R-10244"),
    "SIO": ("399188001", "R-102D0"),
    "ISO": ("441555000", "R-40AAA"),
    "SPECIMEN": ("127457009", "G-8310"),
}

IMPLANT_DISPLACED: Final = "implant displaced"
_MODIFIERS: Final[Mapping[str, Code]] = {
    "spot compression": ("399055006", "R-102D7"),
    "magnification": ("399163009", "R-102D6"),
    IMPLANT_DISPLACED: ("399209000", "R-102D5"),
    "cleavage": ("399161006", "R-102D2"),
    "tangential": ("399110001", "R-102C2"),
    "axillary tail": ("399011000", "R-102D1"),
    "rolled lateral": ("399197002", "R-102D3"),
    "rolled medial": ("399226006", "R-102D4"),
    "rolled inferior": ("414493004", "R-102CA"),
    "rolled superior": ("415670009", "R-102C9"),
    "nipple in profile": ("442581004", "R-40AB3"),
    "anterior compression": ("441752004", "P2-00161"),
    "infra-mammary fold": ("442593008", "R-40ABE"),
    "axillary tissue": ("442580003", "R-40AB2"),
}

_SCT: Final = ("SCT",)
_SRT: Final = ("SRT", "SNM3", "99SDM")  # the names SNOMED RT had over the years, PS3.16 8.1


def _by_code(names: Mapping[str, Code]) -> Mapping[Code, str]:
    table = {(scheme, sct): name for name, (sct, _) in names.items() for scheme in _SCT}
    return table | {(scheme, srt): name for name, (_, srt) in names.items() for scheme in _SRT}


VIEW_CODES: Final = _by_code(_VIEWS)
VIEW_MODIFIER_CODES: Final = _by_code(_MODIFIERS)


def _view_positions() -> Mapping[str, tuple[str, Laterality | None, bool]]:
    """View Position: a defined term, with side before it and ID after it as some devices write.

    A closed table, so that ``"LMLO"`` is the left MLO and ``"LMO"`` stays the other view.
    """
    plain = {name: (name, None, False) for name in _VIEWS}
    sides: list[tuple[str, Laterality]] = [
        *LATERALITIES.items(),
        *((word + " ", side) for word, side in LATERALITIES.items()),
    ]
    sided: dict[str, tuple[str, Laterality | None, bool]] = {
        prefix + name: (name, side, False)
        for name in STANDARD_PROJECTIONS
        for prefix, side in sides
    }
    table = sided | plain
    standard = [key for key, (name, _, _) in table.items() if name in STANDARD_PROJECTIONS]
    return table | {key + "ID": (*table[key][:2], True) for key in standard}


# what View Position says: view, side where given, whether implant displaced
VIEW_POSITIONS: Final = _view_positions()


def sop_class_refusal(sop_class_uid: str) -> tuple[str, str] | None:
    """Why a SOP class is not read: stable code and what it is; ``None`` for For Presentation."""
    if sop_class_uid == FOR_PRESENTATION:
        return None
    known = _OTHER_CLASSES.get(sop_class_uid)
    if known is None:
        branch = (key for key in _OTHER_CLASSES if key[-1] == "." and sop_class_uid.startswith(key))
        known = _OTHER_CLASSES.get(next(branch, ""))
    return known or ("other_sop_class", "another kind of DICOM object")

"""Codes of the standard (PS3.16), and which of them a bundle's labels have.

A label that no table names is written as a code of our own, or where a context group allows none,
as a selected region: never as the next best term.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...views import Laterality, Projection

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "BREAST",
    "BREAST_SIDES",
    "CERTAINTY",
    "COMPOSITION",
    "DCM",
    "DENSITIES",
    "PERCENT",
    "SCHEME",
    "SELECTED_REGION",
    "SIDES",
    "VIEWS",
    "Code",
    "cad_finding",
    "dcm",
    "finding",
    "label_code",
    "own_code",
    "probability_code",
    "short",
]

DCM: Final = "DCM"
SCHEME: Final = "99MAMMOFMLITE"
"""Codes of our own; CodingSchemeIdentificationSequence names it in every object."""


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8)."""

    value: str
    scheme: str
    meaning: str

    def item(self) -> "Dataset":
        """As an item of a code sequence."""
        from pydicom.dataset import Dataset

        item = Dataset()
        item.CodeValue = self.value
        item.CodingSchemeDesignator = self.scheme
        item.CodeMeaning = self.meaning
        return item


def dcm(value: str, meaning: str) -> Code:
    """A code of the DICOM Controlled Terminology."""
    return Code(value, DCM, meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


BREAST: Final = _sct("76752008", "Breast")
COMPOSITION: Final = _sct("129715009", "Breast composition")
CERTAINTY: Final = dcm("111012", "Certainty of Finding")
_PROBABILITY_OF_CANCER: Final = dcm("111047", "Probability of cancer")
PERCENT: Final = Code("%", "UCUM", "Percent")
SELECTED_REGION: Final = dcm("111099", "Selected region")
# CID 6022 and CID 244, CID 4014, CID 6000
BREAST_SIDES: Final[Mapping[Laterality, Code]] = {
    "L": _sct("80248007", "Left breast"),
    "R": _sct("73056007", "Right breast"),
}
SIDES: Final[Mapping[Laterality, Code]] = {
    "L": _sct("7771000", "Left"),
    "R": _sct("24028007", "Right"),
}
VIEWS: Final[Mapping[Projection, Code]] = {
    "CC": _sct("399162004", "cranio-caudal"),
    "MLO": _sct("399368009", "medio-lateral oblique"),
}
DENSITIES: Final[Mapping[str, Code]] = {
    "a": _sct("129716005", "Almost entirely fat"),
    "b": _sct("129717001", "Scattered fibroglandular densities"),
    "c": _sct("129718006", "Heterogeneously dense"),
    "d": _sct("129719003", "Extremely dense"),
}

_CALCIFICATIONS: Final = (
    "calcification",
    "calcifications",
    "suspicious calcification",
    "suspicious calcifications",
    "microcalcifications",
)
_DISTORTIONS: Final = ("distortion", "architectural distortion")
_DISTORTION: Final = _sct("129792006", "Architectural distortion of breast")

# CID 6014 has no mass: in one image that is a density, and a mass only where views are joined.
_CAD_FINDINGS: Final[Mapping[str, Code]] = {
    "mass": _sct("129793001", "Mammography breast density"),
    **dict.fromkeys(_CALCIFICATIONS, _sct("129769006", "Calcification Cluster")),
    **dict.fromkeys(_DISTORTIONS, _DISTORTION),
}
# CID 6054
_FINDINGS: Final[Mapping[str, Code]] = {
    "mass": _sct("129788004", "Mammographic breast mass"),
    **dict.fromkeys(_CALCIFICATIONS, _sct("309587003", "Calcification of breast")),
    **dict.fromkeys(_DISTORTIONS, _DISTORTION),
    "asymmetry": _sct("129790003", "Asymmetric breast tissue"),
    "focal asymmetry": _sct("129789007", "Focal asymmetric breast tissue"),
}


def cad_finding(label: str) -> Code:
    """A label of the localization head in CID 6014 "Mammography Single Image Finding"."""
    return _CAD_FINDINGS.get(label.casefold(), SELECTED_REGION)


def finding(label: str) -> Code:
    """A label of the localization head as the type of a finding (CID 6054), or as our own code."""
    return _FINDINGS.get(label.casefold()) or label_code(label)


def probability_code(label: str) -> Code:
    """What the probability of a binary label of the diagnosis head is called."""
    if label.casefold() in ("malignancy", "cancer"):
        return _PROBABILITY_OF_CANCER
    return label_code(f"Probability of {label}")


def label_code(label: str) -> Code:
    """A bundle's label in our own scheme: the value by its hash, the meaning as the bundle says."""
    digest = hashlib.sha256(label.encode()).hexdigest()[:12]
    return own_code(f"L-{digest}", label)


def own_code(value: str, meaning: str) -> Code:
    """A code of our own scheme."""
    return Code(value, SCHEME, short(meaning))


def short(text: str) -> str:
    """Text as the value of LO: no backslash, which separates values, and at most 64 bytes.

    The limit is 64 characters, but some receivers count bytes.
    """
    plain = " ".join(text.replace("\\", "/").split())
    return plain.encode()[:64].decode(errors="ignore").rstrip()

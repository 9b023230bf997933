"""Mammography CAD SR (PS3.3 A.35.5) after TID 4000: what mammography workstations read.

It carries what the localization head marked, and nothing of the other heads: the template has no
place for them that does not claim an assessment. A mark's score is Certainty of Finding, which is
the device's own scale; Probability of cancer would be a claim that no head makes of a mark.
https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_MammographyCADSRIODTemplates.html
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ...views import laterality, projection
from ._case import (
    Case,
    Image,
    Kind,
    TrackedMark,
    algorithm_parameters,
    algorithm_version,
    reference,
)
from ._codes import (
    BREAST_SIDES,
    CERTAINTY,
    PERCENT,
    SELECTED_REGION,
    VIEWS,
    Code,
    cad_finding,
    dcm,
)
from ._items import by_reference, code, container, item, number, scoord, text, with_children

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

__all__ = ["cad_sr"]

_KIND: Final = Kind("cad-sr", "1.2.840.10008.5.1.4.1.1.88.50", "SR", 9001)

_REPORT: Final = dcm("111036", "Mammography CAD Report")
_LANGUAGE: Final = dcm("121049", "Language of Content Item and Descendants")
_ENGLISH: Final = Code("en", "RFC5646", "English")
_IMAGE_LIBRARY: Final = dcm("111028", "Image Library")
_LATERALITY: Final = dcm("111027", "Image Laterality")
_VIEW: Final = dcm("111031", "Image View")
_VIEW_MODIFIER: Final = dcm("111032", "Image View Modifier")
_IMPLANT_DISPLACED: Final = Code("399209000", "SCT", "Implant Displaced")
_MICROMETRE: Final = Code("um", "UCUM", "micrometer")

# CID 6047 by (all succeeded, with findings); CID 6042
_OVERALL: Final = dcm("111017", "CAD Processing and Findings Summary")
_SUMMARIES: Final = {
    (True, False): dcm("111241", "All algorithms succeeded; without findings"),
    (True, True): dcm("111242", "All algorithms succeeded; with findings"),
    (False, False): dcm("111243", "Not all algorithms succeeded; without findings"),
    (False, True): dcm("111244", "Not all algorithms succeeded; with findings"),
}
_NO_SUCCESS: Final = dcm("111245", "No algorithms succeeded; without findings")
_SUCCEEDED: Final = dcm("111222", "Succeeded")
_PARTIALLY: Final = dcm("111223", "Partially Succeeded")
_NOT_ATTEMPTED: Final = dcm("111225", "Not Attempted")

_DESCRIPTION: Final = dcm("111033", "Impression Description")
_INDIVIDUAL: Final = dcm("111034", "Individual Impression/Recommendation")
_INTENT: Final = dcm("111056", "Rendering Intent")
_REQUIRED: Final = dcm("111150", "Presentation Required: Rendering device is expected to present")
_FINDING: Final = dcm("111059", "Single Image Finding")
_TRACKING: Final = dcm("112039", "Tracking Identifier")
_TRACKING_UID: Final = dcm("112040", "Tracking Unique Identifier")
_ALGORITHM_NAME: Final = dcm("111001", "Algorithm Name")
_ALGORITHM_VERSION: Final = dcm("111003", "Algorithm Version")
_ALGORITHM_PARAMETERS: Final = dcm("111002", "Algorithm Parameters")
_CENTRE: Final = dcm("111010", "Center")
_OUTLINE: Final = dcm("111041", "Outline")

_REGION: Final = dcm("111058", "Selected Region Description")

_DETECTIONS: Final = dcm("111064", "Summary of Detections")
_SUCCESSFUL: Final = dcm("111063", "Successful Detections")
_FAILED: Final = dcm("111025", "Failed Detections")
_DETECTION: Final = dcm("111022", "Detection Performed")
_ANALYSES: Final = dcm("111065", "Summary of Analyses")


def cad_sr(case: Case) -> "FileDataset":
    """The marks of one study, or that there are none, or that none were looked for."""
    root = container(
        None,
        _REPORT,
        code("HAS CONCEPT MOD", _LANGUAGE, _ENGLISH),
        container("CONTAINS", _IMAGE_LIBRARY, *(_library_entry(image) for image in case.images)),
        _overall(case),
        _detections(case),
        code("CONTAINS", _ANALYSES, _NOT_ATTEMPTED),
    )
    root.ContentTemplateSequence = [_template()]
    dataset = case.new(_KIND)
    return case.as_document(dataset, root)


def _template() -> "Dataset":
    from pydicom.dataset import Dataset

    item = Dataset()
    item.MappingResource = "DCMR"
    item.TemplateIdentifier = "4000"
    return item


def _place(case: Case, image: Image) -> list[int]:
    """Of an image in the tree: the library is the second child of the root."""
    return [1, 2, case.images.index(image) + 1]


# -------------------- TID 4020


def _library_entry(image: Image) -> "Dataset":
    view = code("HAS ACQ CONTEXT", _VIEW, VIEWS[projection(image.view)])
    if image.origin.implant_displaced:
        with_children(view, code("HAS CONCEPT MOD", _VIEW_MODIFIER, _IMPLANT_DISPLACED))
    side = code("HAS ACQ CONTEXT", _LATERALITY, BREAST_SIDES[laterality(image.view)])
    entry = item("CONTAINS", "IMAGE", None, ReferencedSOPSequence=[reference(image)])
    return with_children(entry, side, view, *_orientation(image), *_times(image), *_spacing(image))


def _orientation(image: Image) -> Iterator["Dataset"]:
    if image.origin.patient_orientation is not None:
        row, column = image.origin.patient_orientation
        yield text("HAS ACQ CONTEXT", dcm("111044", "Patient Orientation Row"), row)
        yield text("HAS ACQ CONTEXT", dcm("111043", "Patient Orientation Column"), column)


def _times(image: Image) -> Iterator["Dataset"]:
    origin = image.origin
    dates = (
        ("111060", "Study Date", "DATE", origin.patient_and_study["StudyDate"]),
        ("111061", "Study Time", "TIME", origin.patient_and_study["StudyTime"]),
        ("111018", "Content Date", "DATE", origin.content_date),
        ("111019", "Content Time", "TIME", origin.content_time),
    )
    for value, meaning, kind, moment in dates:
        if moment:
            keyword = kind.capitalize()
            yield item("HAS ACQ CONTEXT", kind, dcm(value, meaning), **{keyword: moment})


def _spacing(image: Image) -> Iterator["Dataset"]:
    """At the detector, as the concepts say; rows are apart vertically."""
    if image.origin.imager_pixel_spacing_mm is not None:
        row, column = image.origin.imager_pixel_spacing_mm
        horizontal = dcm("111026", "Horizontal Pixel Spacing")
        yield number("HAS ACQ CONTEXT", horizontal, 1000 * column, _MICROMETRE)
        vertical = dcm("111066", "Vertical Pixel Spacing")
        yield number("HAS ACQ CONTEXT", vertical, 1000 * row, _MICROMETRE)


# -------------------- TID 4001, 4003, 4006


def _overall(case: Case) -> "Dataset":
    if case.result.localization is None:
        summary = _NO_SUCCESS
    else:
        # Part of an exam without a finding must not read like a whole one without findings.
        summary = _SUMMARIES[case.complete, bool(case.marks)]
    said = text("HAS PROPERTIES", _DESCRIPTION, "\r\n".join(case.statements()))
    findings = (_individual(case, tracked) for tracked in case.marks)
    return code("CONTAINS", _OVERALL, summary, said, *_algorithm(case), *findings)


def _individual(case: Case, tracked: TrackedMark) -> "Dataset":
    intent = code("HAS CONCEPT MOD", _INTENT, _REQUIRED)
    return container("INFERRED FROM", _INDIVIDUAL, intent, _single_image_finding(case, tracked))


def _single_image_finding(case: Case, tracked: TrackedMark) -> "Dataset":
    mark, place = tracked.mark, _place(case, tracked.image)
    kind = cad_finding(mark.label)
    finding = code(
        "CONTAINS",
        _FINDING,
        kind,
        code("HAS CONCEPT MOD", _INTENT, _REQUIRED),
        text("HAS OBS CONTEXT", _TRACKING, tracked.title),
        item("HAS OBS CONTEXT", "UIDREF", _TRACKING_UID, UID=tracked.uid),
        *_algorithm(case),
        number("HAS PROPERTIES", CERTAINTY, 100 * mark.score, PERCENT),
        scoord(_CENTRE, "POINT", tracked.centre, place),
        scoord(_OUTLINE, "POLYLINE", tracked.corners, place),
    )
    if kind == SELECTED_REGION:  # TID 4013
        with_children(finding, text("HAS PROPERTIES", _REGION, mark.label))
    return finding


def _algorithm(case: Case) -> Iterator["Dataset"]:
    """TID 4019, with the relationship that TID 4006 and 4017 ask for."""
    name = f"{case.result.model.name} localization"
    yield text("HAS PROPERTIES", _ALGORITHM_NAME, name)
    yield text("HAS PROPERTIES", _ALGORITHM_VERSION, algorithm_version(case))
    yield text("HAS PROPERTIES", _ALGORITHM_PARAMETERS, algorithm_parameters(case))


# -------------------- TID 4015, 4017


def _detections(case: Case) -> "Dataset":
    if case.result.localization is None:
        return code("CONTAINS", _DETECTIONS, _NOT_ATTEMPTED)
    status = _PARTIALLY if case.unusable else _SUCCEEDED
    children = [container("INFERRED FROM", _SUCCESSFUL, *_performed(case, case.used))]
    if case.unusable:
        children.append(container("INFERRED FROM", _FAILED, *_performed(case, case.unusable)))
    return code("CONTAINS", _DETECTIONS, status, *children)


def _performed(case: Case, images: Sequence[Image]) -> Iterator["Dataset"]:
    """One for every kind of finding that was searched for."""
    found = case.result.localization
    kinds = dict.fromkeys(cad_finding(label) for label in (found.thresholds if found else ()))
    for kind in kinds:
        places = (by_reference("HAS PROPERTIES", _place(case, image)) for image in images)
        yield code("CONTAINS", _DETECTION, kind, *_algorithm(case), *places)

"""What all DICOM results of one study share: images, identifiers, and the modules around a content.

Unique identifiers are UUIDs under 2.25 (PS3.5 B.2) from hashes, so that the same study, bundle,
version and heads give the same identifiers: a repeated run replaces its results in an archive.
"""

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ...dicom import PATIENT_IDENTITY, Instance, Origin, Study, read_origin
from ...errors import StudyError
from ...results import Mark, StudyResult
from ...views import STANDARD_VIEWS, ViewName
from ._codes import dcm, short

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

__all__ = [
    "ALGORITHM",
    "Case",
    "Image",
    "Kind",
    "TrackedMark",
    "algorithm_parameters",
    "algorithm_version",
    "read_origins",
    "reference",
    "series_references",
    "uid",
]

ALGORITHM: Final = "mammofm-lite"
_MANUFACTURER: Final = "mammofm-lite"
_ROOT: Final = "2.25"
_PROCESSING: Final = dcm("109102", "Processing Equipment")
_MAX_ST: Final = 1024


def uid(*names: str) -> str:
    """The UID that the hash of names gives."""
    digest = hashlib.sha256("\n".join(("mammofm-lite result", *names)).encode()).digest()
    return f"{_ROOT}.{uuid.UUID(bytes=digest[:16], version=5).int}"


@dataclass(frozen=True)
class Kind:
    """Which class of object, and which series of the study holds it."""

    series: str
    sop_class_uid: str
    modality: str
    series_number: int


@dataclass(frozen=True)
class Image:
    """A chosen mammogram; `used` is false where its pixels turned out to be unusable."""

    view: ViewName
    instance: Instance
    origin: Origin
    used: bool


@dataclass(frozen=True)
class TrackedMark:
    """A mark with the same name and UID in every kind of DICOM result."""

    mark: Mark
    image: Image
    name: str
    uid: str

    @property
    def title(self) -> str:
        """For a person: its name and label."""
        return f"{self.name} {self.mark.label}"

    @property
    def corners(self) -> list[float]:
        """The outline, closed: column, row, column, row, ... in original pixels.

        Pixel edges count as in PS3.3 C.18.6.1 and C.10.5, where 0\\0 is the top-left corner of the
        top-left pixel, so the box of the result is written as it is.
        """
        x1, y1, x2, y2 = self.mark.box_px
        return [x1, y1, x2, y1, x2, y2, x1, y2, x1, y1]

    @property
    def centre(self) -> list[float]:
        """Column and row of the middle."""
        x1, y1, x2, y2 = self.mark.box_px
        return [(x1 + x2) / 2, (y1 + y2) / 2]


@dataclass(frozen=True)
class Case:
    """One answered study on its way into DICOM objects.

    Parameters
    ----------
    result
        What was found.
    images
        Every chosen mammogram, in the order of `STANDARD_VIEWS`.
    now
        When the objects are made.
    """

    result: StudyResult
    images: tuple[Image, ...]
    now: datetime = field(default_factory=datetime.now)

    @classmethod
    def of(
        cls,
        result: StudyResult,
        study: Study,
        origins: Mapping[ViewName, Origin],
        now: datetime | None = None,
    ) -> "Case":
        """Bring together what was found, and what `read_origins` read of the files.

        Raises
        ------
        StudyError
            `result` is of another study.
        """
        if result.study_instance_uid != study.study_instance_uid:
            raise StudyError("the result is of another study than the files")
        used = {info.sop_instance_uid for info in result.views}
        images = tuple(
            Image(view, instance, origins[view], instance.sop_instance_uid in used)
            for view in STANDARD_VIEWS
            if (instance := study.views.get(view)) is not None
        )
        return cls(result, images, now or datetime.now())

    # -------------------- identifiers

    @cached_property
    def _made_from(self) -> tuple[str, ...]:
        """Everything that decides on the answers."""
        result = self.result
        return (
            result.study_instance_uid,
            result.model.sha256,
            result.software.mammofm_lite,
            ",".join(result.heads),
            *(f"{image.instance.sop_instance_uid} {image.used}" for image in self.images),
        )

    def uid(self, *names: str) -> str:
        """A UID of this study as this bundle and version answers it."""
        return uid(*self._made_from, *names)

    @property
    def device_uid(self) -> str:
        """Changes with the model: by the bundle's hash alone."""
        return uid("device", self.result.model.sha256)

    # -------------------- content

    @cached_property
    def marks(self) -> tuple[TrackedMark, ...]:
        """All marks, numbered per view by falling score.

        Raises
        ------
        StudyError
            A mark lies outside its image, which no result of ours does.
        """
        found = self.result.localization
        by_view = {image.view: image for image in self.images if image.used}
        tracked: list[TrackedMark] = []
        for mark in found.marks if found else ():
            image = by_view.get(mark.view)
            if image is None or not _inside(mark, image):
                raise StudyError(f"a mark in {mark.view} lies in no image of the study")
            number = 1 + sum(other.mark.view == mark.view for other in tracked)
            name = f"{mark.view} {number}"
            made_of = (image.instance.sop_instance_uid, mark.label, repr(mark.box_px))
            tracked.append(TrackedMark(mark, image, name, self.uid("mark", *made_of, name)))
        return tuple(tracked)

    @property
    def used(self) -> tuple[Image, ...]:
        """The images that were answered about."""
        return tuple(image for image in self.images if image.used)

    @property
    def unusable(self) -> tuple[Image, ...]:
        """The images whose pixels could not be used."""
        return tuple(image for image in self.images if not image.used)

    @property
    def complete(self) -> bool:
        """Four views, and every head asked for answered."""
        answered = (outcome.status == "answered" for outcome in self.result.heads.values())
        return not self.result.missing_views and all(answered)

    def lacks(self) -> Iterator[str]:
        """What is not there, each in a few words."""
        if self.result.missing_views:
            yield f"no {', '.join(self.result.missing_views)}"
        names = [name for name, each in self.result.heads.items() if each.status != "answered"]
        if names:
            yield f"no answer: {', '.join(names)}"

    def statements(self) -> Iterator[str]:
        """What must be read with any result: notices, and what is missing and why."""
        yield "NOT FOR CLINICAL USE."
        yield from self.result.notices
        if self.result.missing_views:
            yield f"Views missing: {', '.join(self.result.missing_views)}."
        for name, outcome in self.result.heads.items():
            if outcome.status != "answered":
                yield f"No answer from {name}: {outcome.detail}."

    # -------------------- objects

    def new(self, kind: Kind, name: str = "") -> "FileDataset":
        """An object with all modules but its content.

        Parameters
        ----------
        kind
            Its series; decides on the identifiers, together with `name` in the series.
        """
        made_of = ("instance", kind.series, name)
        dataset = _file(kind.sop_class_uid, self.uid(*made_of), self.now)
        for keyword, text in self._patient_and_study().items():
            setattr(dataset, keyword, text)
        dataset.Modality = kind.modality
        dataset.SeriesInstanceUID = self.uid("series", kind.series)
        dataset.SeriesNumber = kind.series_number
        dataset.SeriesDescription = _series_description(self.result)
        dataset.SeriesDate = dataset.InstanceCreationDate
        dataset.SeriesTime = dataset.InstanceCreationTime
        dataset.InstanceNumber = 1
        self._add_equipment(dataset)
        return dataset

    def _patient_and_study(self) -> dict[str, str]:
        """Of the first file that says it; optional attributes only where one does.

        `read_origins` refused files that contradict each other on the patient.
        """
        optional = ("IssuerOfPatientID", "StudyDescription")
        merged: dict[str, str] = {}
        for image in self.images:
            for keyword, text in image.origin.patient_and_study.items():
                merged[keyword] = merged.get(keyword) or text
        merged["StudyInstanceUID"] = self.result.study_instance_uid
        return {key: text for key, text in merged.items() if text or key not in optional}

    def _add_equipment(self, dataset: "FileDataset") -> None:
        from pydicom.dataset import Dataset

        model = self.result.model
        item = Dataset()
        item.PurposeOfReferenceCodeSequence = [_PROCESSING.item()]
        item.DeviceUID = self.device_uid
        item.ContributionDateTime = self.now.strftime("%Y%m%d%H%M%S")
        item.ContributionDescription = " ".join(
            (f"Bundle {model.name} {model.version}, sha256 {model.sha256}.", *self.statements())
        )[:_MAX_ST]
        for equipment in (dataset, item):
            equipment.Manufacturer = _MANUFACTURER
            equipment.ManufacturerModelName = ALGORITHM
            equipment.DeviceSerialNumber = model.sha256[:16]
            equipment.SoftwareVersions = [
                self.result.software.mammofm_lite,
                short(f"{model.name} {model.version}"),
            ]
        dataset.ContributingEquipmentSequence = [item]

    def as_document(self, dataset: "FileDataset", root: "Dataset") -> "FileDataset":
        """Add the module SR Document General and the content tree (PS3.3 C.17.2, C.17.3)."""
        dataset.update(root)
        dataset.ContentDate = dataset.InstanceCreationDate
        dataset.ContentTime = dataset.InstanceCreationTime
        dataset.CompletionFlag = "COMPLETE" if self.complete else "PARTIAL"
        if not self.complete:
            dataset.CompletionFlagDescription = short("; ".join(self.lacks()))
        dataset.VerificationFlag = "UNVERIFIED"
        dataset.PerformedProcedureCodeSequence = []
        dataset.ReferencedPerformedProcedureStepSequence = []
        dataset.CurrentRequestedProcedureEvidenceSequence = [self._evidence()]
        return dataset

    def _evidence(self) -> "Dataset":
        from pydicom.dataset import Dataset

        item = Dataset()
        item.StudyInstanceUID = self.result.study_instance_uid
        item.ReferencedSeriesSequence = series_references(self.images)
        return item


def read_origins(study: Study) -> Mapping[ViewName, Origin]:
    """Read the chosen files again for what DICOM results take over from them.

    Raises
    ------
    StudyError
        A file changed, its attributes cannot be taken over, or two files contradict each other on
        the patient.
    """
    origins = {view: read_origin(instance) for view, instance in study.views.items()}
    for keyword in PATIENT_IDENTITY:
        said = (origin.patient_and_study[keyword] for origin in origins.values())
        # Names are padded with empty components, and case carries no meaning in them.
        if len({text.rstrip("^= ").casefold() for text in said} - {""}) > 1:
            raise StudyError(
                f"no DICOM result can be written: the files disagree on {keyword}, so it is not "
                "sure whose results these are"
            )
    return MappingProxyType(origins)


def series_references(
    images: Sequence[Image], keyword: str = "ReferencedSOPSequence"
) -> list["Dataset"]:
    """Items of Referenced Series Sequence; `keyword` holds a series' images together."""
    from pydicom.dataset import Dataset

    by_series: dict[str, list[Dataset]] = {}
    for image in images:
        by_series.setdefault(image.origin.series_instance_uid, []).append(reference(image))
    items = []
    for series, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = series
        setattr(item, keyword, references)
        items.append(item)
    return items


def reference(image: Image) -> "Dataset":
    """An item of Referenced SOP Sequence or Referenced Image Sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = image.origin.sop_class_uid
    item.ReferencedSOPInstanceUID = image.instance.sop_instance_uid
    return item


def algorithm_version(case: Case) -> str:
    """Of the bundle, and of the program that ran it."""
    return f"{case.result.model.version} ({ALGORITHM} {case.result.software.mammofm_lite})"


def algorithm_parameters(case: Case) -> str:
    """What the answers depend on beside the version."""
    model, found = case.result.model, case.result.localization
    thresholds = found.thresholds if found else {}
    return "; ".join(
        (
            f"bundle {model.name} {model.version}",
            f"precision {model.precision}",
            f"sha256 {model.sha256}",
            *(f"{label} at least {value:g}" for label, value in thresholds.items()),
        )
    )


def _inside(mark: Mark, image: Image) -> bool:
    x1, y1, x2, y2 = mark.box_px
    return 0 <= x1 < x2 <= image.instance.columns and 0 <= y1 < y2 <= image.instance.rows


def _series_description(result: StudyResult) -> str:
    what = "DEMONSTRATION, synthetic weights" if result.model.weights_synthetic else "RESEARCH"
    return f"{what} - NOT FOR CLINICAL USE"


def _file(sop_class_uid: str, sop_instance_uid: str, now: datetime) -> "FileDataset":
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid("implementation"))
    meta.ImplementationVersionName = "MAMMOFM_LITE"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    return dataset

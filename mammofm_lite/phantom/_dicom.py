"""A rendered view as a DICOM object: Digital Mammography X-Ray Image - For Presentation.

https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.27.html

Every object says in several attributes that it is synthetic. Quality Control Image stays away
although it would be true: readers rightly skip such images, and these are there to be read.
"""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    JPEG2000Lossless,
)
from pydicom.valuerep import DSfloat

from .. import __version__
from ..views import STANDARD_VIEWS, ViewName, laterality, projection
from ._anatomy import Body, draw_body
from ._look import LOOKS
from ._options import PhantomOptions
from ._random import uid
from ._syntax import TRANSFER_SYNTAXES

__all__ = ["dicom_bytes"]

Pixels = npt.NDArray[np.uint16]

_NOTICE: Final = "Synthetic phantom, not a patient"
_DATE: Final = "20250101"
_TIME: Final = "120000"
_MLO_ANGLE_DEGREES: Final = 45
_VIEW_CODES: Final = {
    "CC": ("399162004", "cranio-caudal"),
    "MLO": ("399368009", "medio-lateral oblique"),
}
# Directions of rows and of columns. Left breasts touch the left edge, so their rows run anterior.
_ORIENTATIONS: Final[dict[ViewName, list[str]]] = {
    "L-CC": ["A", "R"],
    "L-MLO": ["A", "FR"],
    "R-CC": ["P", "L"],
    "R-MLO": ["P", "FL"],
}


def dicom_bytes(seed: int, view: ViewName, pixels: Pixels, options: PhantomOptions) -> bytes:
    """One view as a DICOM file in the transfer syntax of the options.

    Parameters
    ----------
    pixels
        uint16 [options.rows, options.columns], as `render_phantom` returns them.
    """
    # Other pixels of the same seed are another image.
    made_from = (__version__, repr(options))
    dataset = Dataset()
    _add_patient_and_study(dataset, seed, made_from)
    _add_series_and_equipment(dataset, seed, made_from)
    dataset.ManufacturerModelName = LOOKS[options.shift].model
    _add_image(dataset, seed, view, made_from)
    _add_acquisition(dataset, view, options, draw_body(seed, options))
    _add_view(dataset, view)
    _add_pixels(dataset, pixels, options)
    dataset.file_meta = _file_meta(dataset, TRANSFER_SYNTAXES[options.transfer_syntax])
    _encode(dataset, pixels)
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _add_patient_and_study(dataset: Dataset, seed: int, made_from: tuple[str, ...]) -> None:
    dataset.PatientName = "PHANTOM^SYNTHETIC"
    dataset.PatientID = _patient_id(seed)
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "F"
    dataset.PatientAge = "055Y"
    dataset.PatientComments = _NOTICE
    dataset.StudyInstanceUID = uid(seed, "study", *made_from)
    dataset.StudyDate = _DATE
    dataset.StudyTime = _TIME
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    dataset.StudyDescription = _NOTICE


def _patient_id(seed: int) -> str:
    """The seed where it fits the 64 characters of the attribute, else its last digits."""
    return f"PHANTOM-{seed}" if seed < 10**50 else f"PHANTOM-{seed % 10**50}"


def _add_series_and_equipment(dataset: Dataset, seed: int, made_from: tuple[str, ...]) -> None:
    dataset.Modality = "MG"
    dataset.SeriesInstanceUID = uid(seed, "series", *made_from)
    dataset.SeriesNumber = 1
    dataset.SeriesDate = _DATE
    dataset.SeriesTime = _TIME
    dataset.SeriesDescription = _NOTICE
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.OperatorsName = ""
    dataset.Manufacturer = "mammofm-lite"
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = "0"
    dataset.InstitutionName = ""
    dataset.StationName = "PHANTOM"


def _add_image(dataset: Dataset, seed: int, view: ViewName, made_from: tuple[str, ...]) -> None:
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid(seed, view, *made_from)
    dataset.InstanceNumber = STANDARD_VIEWS.index(view) + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.AcquisitionDate = _DATE
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.AcquisitionTime = _TIME
    dataset.ImageComments = _NOTICE
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = Sequence()


def _add_acquisition(dataset: Dataset, view: ViewName, options: PhantomOptions, body: Body) -> None:
    """Geometry, detector and technique; thick breasts take a harder beam and more charge."""
    thickness = round(body.thickness_mm)
    dataset.BodyPartThickness = thickness
    dataset.CompressionForce = 100
    dataset.KVP = 26 + round((thickness - 30) / 12)
    dataset.ExposureTime = 400 + 12 * thickness
    dataset.XRayTubeCurrent = 100
    dataset.ExposureInuAs = dataset.ExposureTime * dataset.XRayTubeCurrent
    dataset.Exposure = round(dataset.ExposureInuAs / 1000)
    dataset.AnodeTargetMaterial = "TUNGSTEN"
    dataset.FilterMaterial = "RHODIUM"
    dataset.Grid = ["FOCUSED", "RECIPROCATING"]
    dataset.DistanceSourceToDetector = 660
    dataset.FieldOfViewShape = "RECTANGLE"
    spacing = DSfloat(options.pixel_spacing_mm, auto_format=True)
    dataset.ImagerPixelSpacing = [spacing, spacing]
    dataset.EstimatedRadiographicMagnificationFactor = 1
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "MAMMOGRAPHIC"
    angle = _MLO_ANGLE_DEGREES if projection(view) == "MLO" else 0
    dataset.PositionerPrimaryAngle = angle if laterality(view) == "R" else -angle
    dataset.OrganExposed = "BREAST"
    dataset.BreastImplantPresent = "NO"
    dataset.PartialView = "NO"


def _add_view(dataset: Dataset, view: ViewName) -> None:
    value, meaning = _VIEW_CODES[projection(view)]
    code = _code(value, "SCT", meaning)
    code.ViewModifierCodeSequence = Sequence()
    dataset.ViewCodeSequence = Sequence([code])
    dataset.ViewPosition = projection(view)
    dataset.ImageLaterality = laterality(view)
    dataset.PatientOrientation = _ORIENTATIONS[view]
    dataset.BodyPartExamined = "BREAST"
    dataset.AnatomicRegionSequence = Sequence([_code("76752008", "SCT", "Breast")])


def _add_pixels(dataset: Dataset, pixels: Pixels, options: PhantomOptions) -> None:
    inverted = options.photometric_interpretation == "MONOCHROME1"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = options.photometric_interpretation
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.PixelIntensityRelationship = "LOG"
    # -1: the stored value falls as the exposure rises.
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = options.bits_stored
    dataset.HighBit = options.bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelPaddingValue = options.white if inverted else 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    centre, width = (round(share * (options.white + 1)) for share in LOOKS[options.shift].window)
    dataset.WindowCenter = options.white - centre if inverted else centre
    dataset.WindowWidth = width
    dataset.WindowCenterWidthExplanation = "NORMAL"
    dataset.VOILUTFunction = "LINEAR"


def _encode(dataset: Dataset, pixels: Pixels) -> None:
    """Pixel data in the transfer syntax of the file."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        # pydicom asks for another package to do the same.
        code = encode_array(pixels, bits_stored=dataset.BitsStored, photometric_interpretation=2)
        dataset.PixelData = encapsulate([code])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    elif syntax.is_encapsulated:
        dataset.compress(syntax, pixels, generate_instance_uid=False)
    else:
        order = "<u2" if syntax.is_little_endian else ">u2"
        dataset.PixelData = pixels.astype(order, copy=False).tobytes()
        dataset["PixelData"].VR = "OW"


def _file_meta(dataset: Dataset, syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    # Ours, not pydicom's: the bytes must not change with the version of a library.
    meta.ImplementationClassUID = UID(uid(0, "implementation"))
    meta.ImplementationVersionName = f"MAMMOFM_{__version__}"[:16]
    return meta

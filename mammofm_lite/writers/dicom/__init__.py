"""Results as DICOM objects, for workstations, viewers and archives.

``cad-sr`` is a Mammography CAD SR (TID 4000), ``sr`` a Comprehensive 3D SR (TID 1500, needs the
extra ``sr``), ``gsps`` one Grayscale Softcopy Presentation State per view. The same study, bundle,
version and heads give the same SOP Instance UIDs.

>>> from mammofm_lite.writers.dicom import Case, dicom_objects, read_origins
>>> case = Case.of(result, study, read_origins(study))              # doctest: +SKIP
>>> for name, dataset in dicom_objects(("cad-sr", "gsps"), case):   # doctest: +SKIP
...     dataset.save_as(name)
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ...views import STANDARD_VIEWS
from ._cad import cad_sr
from ._case import Case, read_origins
from ._gsps import presentation_states
from ._measurements import check_highdicom, measurement_report

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

__all__ = [
    "DICOM_FILES",
    "DICOM_KINDS",
    "Case",
    "check_kinds",
    "dicom_bytes",
    "dicom_objects",
    "read_origins",
]

DICOM_KINDS: Final = ("cad-sr", "sr", "gsps")
DICOM_FILES: Final = ("cad-sr.dcm", "sr.dcm", *(f"{view}-gsps.dcm" for view in STANDARD_VIEWS))
"""Names that `dicom_objects` may give; none says anything of the patient."""


def check_kinds(kinds: tuple[str, ...]) -> None:
    """Refuse a kind that cannot be written here, before anything is computed.

    Raises
    ------
    UsageError
        ``sr`` is asked for and highdicom is not installed.
    """
    if "sr" in kinds:
        check_highdicom()


def dicom_objects(kinds: tuple[str, ...], case: Case) -> Iterator[tuple[str, "FileDataset"]]:
    """File names and objects, one after another; kinds of other writers are passed over.

    Raises
    ------
    StudyError
        The result does not fit the images.
    UsageError
        ``sr`` is asked for and highdicom is not installed.
    """
    if "cad-sr" in kinds:
        yield "cad-sr.dcm", cad_sr(case)
    if "sr" in kinds:
        yield "sr.dcm", measurement_report(case)
    if "gsps" in kinds:
        for image, state in presentation_states(case):
            yield f"{image.view}-gsps.dcm", state


def dicom_bytes(dataset: "FileDataset") -> bytes:
    """The object as a file (PS3.10), explicit little endian."""
    import io

    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()

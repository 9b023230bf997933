"""The head of a DICOM file: attributes as plain values, and where the pixel data lie.

Values are taken as the bytes they are, without the library's conversion: only code strings, UIDs
and numbers are read, in vocabularies that are checked here, so neither the character set nor an
invalid value elsewhere in the file can matter.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from ._codes import DICOMDIR, FOR_PRESENTATION, NEWER_SYNTAXES, PIXEL_SYNTAXES, RADIOGRAPHY
from ._codestreams import kind_of_code_stream
from ._quiet import quiet
from ._refused import FileRefusedError
from ._sources import OpenFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "TAGS",
    "Attributes",
    "Header",
    "PixelElement",
    "inflate",
    "read_elements",
    "read_header",
    "syntax_name",
]

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_IMPLICIT: Final = "1.2.840.10008.1.2"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

# Every attribute that is read; the same list makes the reader skip all others.
TAGS: Final = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime",
    "PresentationIntentType", "ConceptNameCodeSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "PatientID", "PatientName", "PatientBirthDate", "BodyPartExamined",
    "EstimatedRadiographicMagnificationFactor", "ImagerPixelSpacing", "ViewPosition",
    "PatientOrientation", "Laterality", "ImageLaterality",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "QualityControlImage", "PixelSpacingCalibrationType", "RescaleIntercept", "RescaleSlope",
    "BreastImplantPresent", "PartialView", "ModalityLUTSequence", "CalibrationImage",
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
    "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape",
    "ViewCodeSequence", "ViewModifierCodeSequence", "SharedFunctionalGroupsSequence",
)  # fmt: skip

_ITEM_TAGS: Final = (
    "CodeValue", "CodingSchemeDesignator", "LongCodeValue", "URNCodeValue",
    "ViewModifierCodeSequence", "FrameAnatomySequence", "FrameLaterality",
    "ReferencedSeriesSequence", "ReferencedSOPSequence", "ReferencedSOPInstanceUID",
)  # fmt: skip
_META_TAGS: Final = (
    "FileMetaInformationGroupLength", "TransferSyntaxUID", "MediaStorageSOPClassUID",
)  # fmt: skip

_MAGIC_BYTES: Final = 132  # preamble and "DICM", PS3.10 7.1
_MAX_VALUE_BYTES: Final = 1 << 20  # of one attribute; ours have some hundred
_MAX_INFLATED_BYTES: Final = 1 << 30
_MAX_INFLATE_RATIO: Final = 200  # as for a zip member
_HARMLESS_BYTES: Final = 1 << 20
_MAX_FRAGMENTS: Final = 100_000
_SNIFFED_BYTES: Final = 1 << 12  # of a code stream, up to its frame head
_T = TypeVar("_T")
_UNDEFINED: Final = 0xFFFFFFFF
_PIXEL_DATA: Final = 0x7FE00010
_FIRST_PIXEL_TAG: Final = 0x7FE00008  # float and double pixel data come just before
_ITEM: Final = 0xFFFEE000
_DELIMITER: Final = 0xFFFEE0DD
_VR: Final = re.compile(rb"UI|UL|CS|DA|TM|SH|LO|DT|SQ|OB")  # of a file's first element
_UID: Final = re.compile(r"[0-2](\.[0-9]+)+")  # not any number: that could be a date of birth


@dataclass(frozen=True)
class PixelElement:
    """Where the value of Pixel Data lies.

    Parameters
    ----------
    fragments
        Offset and length in bytes: the value itself, or the fragments of its only frame.
    encapsulated
        Whether the value is a sequence of fragments (PS3.5 A.4).
    vr
        ``"OB"`` or ``"OW"``; ``"OW"`` where the syntax is implicit.
    code_stream
        What the first fragment is by its own markers, as `PIXEL_SYNTAXES` calls it; ``None``
        where it has none that is known.
    """

    fragments: tuple[tuple[int, int], ...]
    encapsulated: bool
    vr: str
    code_stream: str | None = None


@dataclass(frozen=True)
class Attributes:
    """Attributes of a data set or of a sequence's item: the bytes as encoded, and the items."""

    values: Mapping[str, bytes] = field(repr=False)
    sequences: Mapping[str, tuple["Attributes", ...]] = field(repr=False)

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values of a string attribute, without padding; empty where absent or empty."""
        parts = self.values.get(keyword, b"").decode("latin-1").split("\\")
        values = tuple(part.strip(" \0\t\r\n") for part in parts)
        return values if any(values) else ()

    def text(self, keyword: str) -> str:
        """The whole string attribute in capitals; ``""`` where absent or empty."""
        return "\\".join(self.texts(keyword)).upper()

    def uid(self, keyword: str) -> str:
        """A UID; ``""`` where absent or not one (PS3.5 9.1)."""
        value = "\\".join(self.texts(keyword))
        return value if len(value) <= 64 and _UID.fullmatch(value) else ""

    def items(self, keyword: str) -> tuple["Attributes", ...]:
        """Items of a sequence; empty where absent."""
        return self.sequences.get(keyword, ())

    def has(self, keyword: str) -> bool:
        """Whether the attribute is there, be it empty."""
        return keyword in self.values or keyword in self.sequences


@dataclass(frozen=True)
class Header(Attributes):
    """Attributes of one file; `pixels` says why where the pixel data cannot be found.

    `pixels` is looked for in kinds of images that can be accepted, and ``None`` in others.
    """

    transfer_syntax: str
    deflated_at: int | None
    little_endian: bool
    sop_class_uid: str
    sop_instance_uid: str
    pixels: PixelElement | FileRefusedError | None

    def number(self, keyword: str, *, signed: bool = False) -> int | None:
        """A short attribute; ``None`` where absent or not one value."""
        raw = self.values.get(keyword, b"")
        if len(raw) != 2:
            return None
        return int.from_bytes(raw, "little" if self.little_endian else "big", signed=signed)


def _attributes(dataset: "Dataset", keywords: tuple[str, ...]) -> Attributes:
    """Plain values of what the library read.

    Bytes first: whenever the library converts a sequence it may also convert elements beside it.
    """
    values: dict[str, bytes] = {}
    present = [keyword for keyword in keywords if keyword in dataset]
    for keyword in present:
        if keyword.endswith("Sequence"):
            continue
        element: Any = dataset.get_item(keyword)
        if element.value is None and getattr(element, "length", None):
            raise FileRefusedError("damaged", f"{keyword} has more than {_MAX_VALUE_BYTES} bytes")
        values[keyword] = _encoded(keyword, element.value)
    sequences = {
        keyword: tuple(_attributes(item, _ITEM_TAGS) for item in dataset[keyword].value or ())
        for keyword in present
        if keyword.endswith("Sequence")
    }
    return Attributes(values, sequences)


def _encoded(keyword: str, value: Any) -> bytes:
    if value is None or value == "":
        return b""
    if not isinstance(value, bytes):  # of undefined length, which no such attribute may have
        raise FileRefusedError("damaged", f"{keyword} is not encoded as the standard says")
    return value


# -------------------- reading


def read_header(opened: OpenFile) -> Header:
    """Read no more of a file than its attributes before the pixel data.

    Raises
    ------
    FileRefusedError
        Not DICOM (only the first bytes were looked at), an index, cut off or malformed.
    """
    syntax, with_preamble = _start(opened)
    try:
        return _guarded(lambda: _read_body(opened, syntax))
    except FileRefusedError:
        if syntax not in PIXEL_SYNTAXES:
            name = syntax_name(syntax)
            raise FileRefusedError(
                "unsupported_transfer_syntax", f"{name} cannot be read"
            ) from None
        if not with_preamble:
            raise _not_dicom() from None
        raise


def read_elements(opened: OpenFile, keywords: tuple[str, ...]) -> "Dataset":
    """Elements before the pixel data as the library reads them, and the file's character set.

    Raises
    ------
    FileRefusedError
        As `read_header`.
    """
    syntax, _ = _start(opened)

    def read() -> "Dataset":
        file: BinaryIO = inflate(opened.file) if syntax == DEFLATED else opened.file
        return _read_dataset(file, syntax, keywords, lambda tag: tag >= _FIRST_PIXEL_TAG)

    return _guarded(read)


def _start(opened: OpenFile) -> tuple[str, bool]:
    """Move to the data set; its transfer syntax, and whether a preamble stands before it."""
    file = opened.file
    magic = _guarded(lambda: file.read(_MAGIC_BYTES))
    with_preamble = magic[128:] == b"DICM"
    if not with_preamble:
        _check_plausible(magic)
        file.seek(0)
    meta = _guarded(lambda: _read_meta(file, magic))
    if meta.uid("MediaStorageSOPClassUID") == DICOMDIR:
        raise FileRefusedError(
            "dicomdir", "a DICOMDIR index; the files it lists are read by themselves"
        )
    syntax = meta.uid("TransferSyntaxUID")
    if not syntax:
        if with_preamble:
            raise _incomplete(file.tell(), opened.size, "the file does not say its transfer syntax")
        syntax = _EXPLICIT if _VR.match(magic[4:6]) else _IMPLICIT
    return syntax, with_preamble


def _check_plausible(magic: bytes) -> None:
    """Files without preamble: the first element must be one of group 2 or 8, and small."""
    if magic[:4] == b"PK\x03\x04":
        raise FileRefusedError(
            "archive", "a zip inside the study; unpack it, or give it as the study"
        )
    if len(magic) < 8 or magic[:2] not in (b"\x02\x00", b"\x08\x00"):
        raise _not_dicom()
    explicit = _VR.match(magic[4:6]) is not None
    if not explicit and int.from_bytes(magic[4:8], "little") > 1024:
        raise _not_dicom()


def _not_dicom() -> FileRefusedError:
    return FileRefusedError("not_dicom", "not a DICOM file")


def _cut_off() -> FileRefusedError:
    return FileRefusedError("truncated", "the file ends before its pixel data; copy it again")


def _guarded(read: Callable[[], _T]) -> _T:
    """Turn whatever a parser raises on malformed bytes into one kind.

    The library, zipfile and zlib raise some twenty kinds on hostile input, and none of them may
    end a study that has other files; what they say may quote the file, so it is dropped.
    """
    try:
        with quiet():
            return read()
    except FileRefusedError:
        raise
    except EOFError:
        raise _cut_off() from None
    except Exception:
        raise FileRefusedError("damaged", "the file is malformed; copy it again") from None


def _read_meta(file: BinaryIO, magic: bytes) -> Attributes:
    """File meta information (PS3.10 7.1), and `file` moved to the data set behind it."""
    if magic[128:] != b"DICM" and magic[:2] != b"\x02\x00":
        return Attributes({}, {})
    start = file.tell()
    dataset = _read_dataset(file, _EXPLICIT, _META_TAGS, lambda tag: tag >> 16 != 2)
    meta = _attributes(dataset, _META_TAGS)
    length = meta.values.get("FileMetaInformationGroupLength", b"")
    if len(length) == 4 and meta.uid("TransferSyntaxUID") == DEFLATED:
        file.seek(start + 12 + int.from_bytes(length, "little"))  # any byte may follow here
    return meta


def _read_dataset(
    file: BinaryIO, syntax: str, keywords: tuple[str, ...], stop: Callable[[int], bool]
) -> "Dataset":
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    return read_dataset(
        file,
        is_implicit_VR=syntax == _IMPLICIT,
        is_little_endian=syntax != _BIG_ENDIAN,
        stop_when=lambda tag, vr, length: stop(tag),
        defer_size=_MAX_VALUE_BYTES,
        specific_tags=[Tag(keyword) for keyword in keywords],
    )


def _read_body(opened: OpenFile, syntax: str) -> Header:
    file, size, deflated_at = opened.file, opened.size, None
    if syntax == DEFLATED:
        deflated_at = file.tell()
        unpacked = inflate(file)
        file, size = unpacked, len(unpacked.getbuffer())
    dataset = _read_dataset(file, syntax, TAGS, lambda tag: tag >= _FIRST_PIXEL_TAG)
    end = file.tell()
    implicit, little = (bool(value) for value in dataset.original_encoding)
    read = _attributes(dataset, TAGS)
    sop_class = read.uid("SOPClassUID")
    if not sop_class:
        raise _incomplete(end, size, "the file does not say its SOP class")
    pixels = None
    if sop_class == FOR_PRESENTATION or sop_class in RADIOGRAPHY:
        pixels = _found(lambda: _pixel_element(file, size, implicit, little))
    return Header(
        values=read.values,
        sequences=read.sequences,
        transfer_syntax=syntax,
        deflated_at=deflated_at,
        little_endian=little,
        sop_class_uid=sop_class,
        sop_instance_uid=read.uid("SOPInstanceUID"),
        pixels=pixels,
    )


def _incomplete(end: int, size: int, missing: str) -> FileRefusedError:
    """An attribute is missing: the file was cut off before it, or has none."""
    return _cut_off() if end >= size else FileRefusedError("damaged", missing)


def syntax_name(syntax: str) -> str:
    """The transfer syntax in words, with its UID."""
    from pydicom._uid_dict import UID_dictionary

    known = NEWER_SYNTAXES.get(syntax) or UID_dictionary.get(syntax, ("",))[0]
    return f"{known} ({syntax})" if known else f"transfer syntax {syntax}"


def inflate(file: BinaryIO) -> io.BytesIO:
    """The rest of `file`, unpacked (PS3.5 A.5), never much larger than an image can be.

    Raises
    ------
    FileRefusedError
        Cut off, or grows like a bomb.
    """
    packed = file.read()
    limit = min(max(_MAX_INFLATE_RATIO * len(packed), _HARMLESS_BYTES), _MAX_INFLATED_BYTES)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(packed, limit)
    if not unpacker.eof:
        if len(data) >= limit:
            raise FileRefusedError(
                "compression_ratio", "the deflated data set unpacks to an absurd size"
            )
        raise _cut_off()
    return io.BytesIO(data)


# -------------------- pixel data


def _found(locate: Callable[[], PixelElement]) -> PixelElement | FileRefusedError:
    try:
        return locate()
    except FileRefusedError as refused:
        return refused
    except struct.error:  # fewer bytes than an element's head
        return _cut_off()


def _pixel_element(file: BinaryIO, size: int, implicit: bool, little: bool) -> PixelElement:
    order = "<" if little else ">"
    group, element = struct.unpack(order + "HH", file.read(4))
    if group << 16 | element != _PIXEL_DATA:
        raise FileRefusedError("no_pixel_data", "the file has no integer pixel data")
    vr = "OW"
    if not implicit:
        vr = struct.unpack("2s2x", file.read(4))[0].decode("latin-1")
        if vr not in ("OB", "OW"):
            raise FileRefusedError("damaged", "the pixel data are not encoded as the standard says")
    (length,) = struct.unpack(order + "I", file.read(4))
    if length == _UNDEFINED:
        fragments, start = _fragments(file, size)
        return PixelElement(fragments, True, vr, kind_of_code_stream(start))
    _check_inside(file.tell() + length, size)
    return PixelElement(((file.tell(), length),), False, vr)


def _check_inside(end: int, size: int) -> None:
    if end > size:
        raise FileRefusedError("truncated", "the file ends inside its pixel data; copy it again")


def _fragments(file: BinaryIO, size: int) -> tuple[tuple[tuple[int, int], ...], bytes]:
    """Fragments of the only frame, and the first bytes of the first one.

    The table of frame offsets before them is passed over.
    """
    found: list[tuple[int, int]] = []
    start = b""
    while len(found) < _MAX_FRAGMENTS:
        group, element, length = struct.unpack("<HHI", file.read(8))
        tag = group << 16 | element
        if tag == _DELIMITER:
            return _only_frame(found), start
        if tag != _ITEM or length == _UNDEFINED:
            break
        _check_inside(file.tell() + length, size)
        found.append((file.tell(), length))
        looked_at = file.read(min(length, _SNIFFED_BYTES)) if len(found) == 2 else b""
        start = start or looked_at
        file.seek(length - len(looked_at), io.SEEK_CUR)
    raise FileRefusedError("damaged", "the fragments of the pixel data are malformed")


def _only_frame(found: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    if not found or len(found) == 1:
        raise FileRefusedError("damaged", "the pixel data hold no frame")
    (_, table_bytes), *fragments = found
    if table_bytes > 4:
        raise FileRefusedError("multi_frame", "the pixel data hold several frames")
    return tuple(fragments)

"""Stored values of a chosen mammogram, decoded.

One decoder per kind of transfer syntax (`_DECODERS`), named in code: what else happens to be
installed is never asked, so a result cannot depend on it and GPL code is never loaded.
"""

import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import StudyError
from ._codestreams import FrameShape, jpeg_2000, jpeg_lossless, jpeg_ls
from ._header import inflate
from ._refused import FileRefusedError
from ._rle import decode_rle
from ._sources import OpenFile, Source

if TYPE_CHECKING:
    from ._types import Instance

__all__ = [
    "MAX_PIXELS",
    "MAX_SIDE_PX",
    "GivenPixels",
    "PixelFormat",
    "PixelLocation",
    "check_unchanged",
    "read_pixels",
]

MAX_SIDE_PX: Final = 32768
# The largest scanned films have about 40 million. A few kilobytes of JPEG-LS or RLE may claim any
# size, and decoders allocate what is claimed before they find that it is not there.
MAX_PIXELS: Final = 1 << 27

Words = npt.NDArray[np.unsignedinteger[Any]]
StoredImage = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels are stored: the attributes of these names (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """Of the decoded image, in bytes."""
        return self.pixels * self.bits_allocated // 8


@dataclass(frozen=True)
class PixelLocation:
    """Where a file's pixel data lie; everything to decode them without reading the head again.

    `coding` is how they are coded, as `PIXEL_SYNTAXES` calls it, be it what `transfer_syntax` says
    or not. `fragments` are offset and length in bytes: in the file, or from `deflated_at` in what
    is unpacked. `stamp` tells whether the file is still the one that was read.
    """

    source: Source
    stamp: tuple[int, ...]
    transfer_syntax: str
    coding: str
    deflated_at: int | None
    fragments: tuple[tuple[int, int], ...]
    vr: str
    format: PixelFormat


@dataclass(frozen=True, eq=False)
class GivenPixels:
    """Pixels that a program hands over already decoded: stored values [rows, columns]."""

    values: StoredImage


def read_pixels(instance: "Instance", threads: int = 1) -> StoredImage:
    """Decode the pixel data of a mammogram. Several threads may do so at once.

    Parameters
    ----------
    instance
        A view of a `Study`.
    threads
        How many the decoder may use, where it can (JPEG 2000); the pixels are the same.

    Returns
    -------
    Stored values, before the rescale: uint8, uint16, int8 or int16 [rows, columns], by Bits
    Allocated and Pixel Representation; unused bits are removed and the sign is extended from
    Bits Stored (PS3.5 8.1.1).

    Raises
    ------
    StudyError
        The pixel data are cut off or malformed, are not of the size that the file says, or the
        file changed since it was read.
    """
    location = instance.pixels
    if isinstance(location, GivenPixels):
        return location.values
    try:
        _check_size(location.format)
        data = _pixel_data(location)
        decode = _DECODERS[location.coding]
        return decode(data, location, threads)
    except StudyError as error:
        raise StudyError(f"{error} (SOP Instance UID {instance.sop_instance_uid})") from None
    except Exception:
        # Decoders raise many kinds on hostile bytes; what they say names neither file nor cure.
        raise StudyError(
            "the pixel data are malformed and cannot be decoded; copy the file again "
            f"(SOP Instance UID {instance.sop_instance_uid})"
        ) from None


def _check_size(form: PixelFormat) -> None:
    if form.pixels > MAX_PIXELS:
        raise StudyError(
            f"{form.rows} x {form.columns} pixels are more than a mammogram can have "
            f"(at most {MAX_PIXELS} in all)"
        )


def _pixel_data(location: PixelLocation) -> bytes:
    """The value, or the fragments of the only frame, joined."""
    try:
        with location.source.open() as opened:
            check_unchanged(opened, location)
            file = opened.file
            if location.deflated_at is not None:
                file.seek(location.deflated_at)
                file = inflate(file)
            parts = []
            for offset, length in location.fragments:
                file.seek(offset)
                parts.append(file.read(length))
    except FileRefusedError as refused:
        raise StudyError(refused.detail) from None
    if [len(part) for part in parts] != [length for _, length in location.fragments]:
        raise StudyError("the file ends inside its pixel data; copy it again")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_unchanged(opened: OpenFile, location: PixelLocation) -> None:
    """Refuse a file that is not the one the study was chosen from.

    Raises
    ------
    StudyError
        It was changed or replaced.
    """
    if opened.stamp != location.stamp:
        raise StudyError("the file was changed while the study was read; start again")


# -------------------- decoders: (data, location, threads) -> stored values


def _native(data: bytes, location: PixelLocation, _: int) -> StoredImage:
    """PS3.5 A.1, A.2, A.3 and A.5."""
    form = location.format
    if not 0 <= len(data) - form.bytes <= 1:  # padded to an even length
        raise StudyError(f"{len(data)} bytes of pixel data where {form.bytes} are needed")
    big_endian = location.transfer_syntax == "1.2.840.10008.1.2.2"
    if form.bits_allocated == 8 and big_endian and location.vr == "OW":
        # Two samples share a word, and words are stored with the high byte first.
        pairs = np.frombuffer(data, ">u2").astype("<u2").view(np.uint8)
        return _stored_values(pairs[: form.pixels], form)
    words = np.frombuffer(data, _word_type(form, ">" if big_endian else "<"), form.pixels)
    return _stored_values(words, form)


def _rle(data: bytes, location: PixelLocation, _: int) -> StoredImage:
    """PS3.5 annex G, by our own decoder: dicomsdl is faster, but parses in C++."""
    form = location.format
    words = decode_rle(data, form.pixels, form.bits_allocated // 8)
    return _stored_values(np.frombuffer(words, _word_type(form, "<")), form)


def _jpeg_lossless(data: bytes, location: PixelLocation, _: int) -> StoredImage:
    """PS3.5 A.4.1, process 14, by dicomsdl (MIT), which carries the IJG's lossless codec."""
    form = location.format
    shape, frame = jpeg_lossless(data)
    _check_shape(shape, form)
    wide = 8 if shape.precision <= 8 else 16
    words = np.empty((form.rows, form.columns), np.uint8 if wide == 8 else np.uint16)
    _dicomsdl_decode(_wrapped(frame, form, wide, shape.precision), words)
    return _coded_values(words, shape, form)


def _jpeg_ls(data: bytes, location: PixelLocation, _: int) -> StoredImage:
    """PS3.5 A.4.3, by CharLS (BSD) through imagecodecs (BSD)."""
    from imagecodecs import jpegls_decode

    form = location.format
    shape = jpeg_ls(data)
    _check_shape(shape, form)
    return _coded_values(_as_words(jpegls_decode(data), shape), shape, form)


def _jpeg_2000(data: bytes, location: PixelLocation, threads: int) -> StoredImage:
    """PS3.5 A.4.4, by OpenJPEG (BSD) through imagecodecs (BSD)."""
    from imagecodecs import jpeg2k_decode

    form = location.format
    shape, frame = jpeg_2000(data)
    _check_shape(shape, form)
    return _coded_values(_as_words(jpeg2k_decode(frame, numthreads=threads), shape), shape, form)


def _as_words(samples: npt.NDArray[Any], shape: FrameShape) -> Words:
    """What a decoder returned, signed or not, held against what the frame says of itself.

    Raises
    ------
    StudyError
        Another size or another width.
    """
    width = 1 if shape.precision <= 8 else 2
    if samples.shape != (shape.rows, shape.columns) or samples.dtype.itemsize != width:
        raise StudyError("the compressed pixel data do not decode to what their head says")
    words: Words = samples.view(f"u{width}")
    return words


# Seconds for 4096 x 3328 pixels of 12 bits on one core, AVX-512, reading the file included.
_DECODERS: Final[Mapping[str, Callable[[bytes, PixelLocation, int], StoredImage]]] = {
    "native": _native,  # 0.01; deflated 0.10
    "rle": _rle,  # 0.26; pydicom 0.17 and dicomsdl 0.02, which take a wrong size
    "jpeg_lossless": _jpeg_lossless,  # 0.12
    "jpeg_ls": _jpeg_ls,  # 0.09; dicomsdl and pyjpegls the same
    "jpeg_2000": _jpeg_2000,  # 0.4 to 1.0 by noise; dicomsdl and Pillow the same, under the lock
}


# -------------------- from words to stored values


def _word_type(form: PixelFormat, order: str) -> np.dtype[Any]:
    return np.dtype(f"{order}u{form.bits_allocated // 8}")


def _stored_values(words: Words, form: PixelFormat) -> StoredImage:
    """The stored bits of allocated words: [rows, columns] (PS3.5 8.1.1).

    Bits above High Bit may hold anything (once overlays), so they are cut off, and the sign is
    extended from Bits Stored.
    """
    signed = np.dtype(f"{'i' if form.pixel_representation else 'u'}{form.bits_allocated // 8}")
    values = words.astype(_word_type(form, "=")).view(signed).reshape(form.rows, form.columns)
    above = form.bits_allocated - 1 - form.high_bit
    if form.bits_stored != form.bits_allocated:
        np.left_shift(values, above, out=values)
        np.right_shift(values, form.bits_allocated - form.bits_stored, out=values)
    return values


def _coded_values(words: Words, shape: FrameShape, form: PixelFormat) -> StoredImage:
    """Decoded samples of `shape.precision` bits as stored values.

    JPEG has no sign; signed values are coded modulo 2 to the precision, and JPEG 2000 may carry
    either, so the sign is taken from there whatever Pixel Representation the decoder assumed.

    Raises
    ------
    StudyError
        A value does not fit into Bits Stored: one of the two is wrong, and nothing says which.
    """
    coded = PixelFormat(
        form.rows, form.columns, 8 * words.itemsize, shape.precision, shape.precision - 1,
        form.pixel_representation,
    )  # fmt: skip
    values = _stored_values(words, coded)
    _check_range(values, form)
    kind = "i" if form.pixel_representation else "u"
    return values.astype(f"{kind}{form.bits_allocated // 8}", copy=False)


def _check_range(values: StoredImage, form: PixelFormat) -> None:
    bits = form.bits_stored
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if form.pixel_representation else (
        0, (1 << bits) - 1,
    )  # fmt: skip
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        raise StudyError(
            f"pixel values from {least} to {most} do not fit into the {bits} bits that the file "
            "says are stored"
        )


def _check_shape(shape: FrameShape, form: PixelFormat) -> None:
    if (shape.rows, shape.columns) != (form.rows, form.columns):
        raise StudyError(
            f"the compressed image is {shape.rows} x {shape.columns} pixels where the file says "
            f"{form.rows} x {form.columns}"
        )
    if not 2 <= shape.precision <= form.bits_allocated:
        raise StudyError(
            f"the compressed image has {shape.precision} bits where the file allocates "
            f"{form.bits_allocated}"
        )


# -------------------- dicomsdl

_dicomsdl_lock: Final = threading.Lock()


def _dicomsdl_decode(file: bytes, words: Words) -> None:
    """Decode the only frame of `file` into `words`.

    The decoder fills what is missing with grey and only warns of it, so every warning is a
    failure here. Its log has one reader for the whole process, hence the lock; and that reader
    must be taken away again, or the interpreter does not come to its end.
    """
    import dicomsdl

    said: list[str] = []
    with _dicomsdl_lock:
        level = dicomsdl.get_loglevel()
        dicomsdl.set_loglevel(dicomsdl.LogLevel.WARN)
        dicomsdl.set_logger_function(lambda level, text: said.append(text))
        try:
            dicomsdl.open_memory(file).copyFrameData(0, words)
        finally:
            dicomsdl.set_default_logger_function()
            dicomsdl.set_loglevel(level)
    if said:
        raise StudyError("the compressed pixel data are cut off or malformed; copy the file again")


def _wrapped(frame: bytes, form: PixelFormat, bits_allocated: int, bits_stored: int) -> bytes:
    """A minimal DICOM file around a frame, so that dicomsdl parses nothing of the study's file."""
    meta = _element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2.4.57\0")
    image = [
        (0x0002, 1),  # SamplesPerPixel
        (0x0010, form.rows),
        (0x0011, form.columns),
        (0x0100, bits_allocated),
        (0x0101, bits_stored),
        (0x0102, bits_stored - 1),
        (0x0103, 0),  # PixelRepresentation: the sign is extended here
    ]
    elements = [_element(0x0028, tag, b"US", struct.pack("<H", value)) for tag, value in image]
    elements.insert(1, _element(0x0028, 0x0004, b"CS", b"MONOCHROME2 "))
    frame += b"\0" * (len(frame) % 2)
    pixel_data = (
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame))
        + frame
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    size = _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + size + meta + b"".join(elements) + pixel_data


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value

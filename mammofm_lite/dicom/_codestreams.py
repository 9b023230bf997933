"""Checks of compressed frames before a decoder in C or C++ sees them.

The decoders trust what a frame says of its own size, and some fill what is missing with grey and
only mutter about it. So the structure is read here first: size, precision, one component, nothing
missing at the end. A frame that does not say what the DICOM attributes say is refused.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import StudyError

__all__ = ["FrameShape", "jpeg_2000", "jpeg_lossless", "jpeg_ls", "kind_of_code_stream"]

_SOI, _EOI, _SOS, _DHT, _DRI, _DQT, _COM = 0xD8, 0xD9, 0xDA, 0xC4, 0xDD, 0xDB, 0xFE
_SOF_LOSSLESS: Final = 0xC3  # ITU-T T.81: process 14, Huffman
_SOF_LS: Final = 0xF7  # ITU-T T.87
_LSE: Final = 0xF8
_APPLICATION: Final = range(0xE0, 0xF0)
_ANY_SOF: Final = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC} | {_SOF_LS}
_MAX_CATEGORIES: Final = 17  # SSSS 0 to 16, T.81 H.1.2.2
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOC_SIZ: Final = b"\xff\x4f\xff\x51"
_BEYOND_PART_1: Final = 0xC000  # of Rsiz: high-throughput (T.814) and extensions (T.801)
_SOT, _SOD, _EOC = 0xFF90, 0xFF93, b"\xff\xd9"


@dataclass(frozen=True)
class FrameShape:
    """What a frame says of itself; `precision` in bits."""

    rows: int
    columns: int
    precision: int
    signed: bool = False


def _malformed(what: str) -> StudyError:
    return StudyError(f"the compressed pixel data are malformed: {what}")


def _cut_off() -> StudyError:
    return StudyError("the compressed pixel data are cut off; copy the file again")


# -------------------- what it is


def kind_of_code_stream(start: bytes) -> str | None:
    """What a frame is by its markers, never by trying a decoder.

    Parameters
    ----------
    start
        The frame's first bytes; some thousand reach the frame head.

    Returns
    -------
    ``"jpeg_lossless"``, ``"jpeg_ls"`` or ``"jpeg_2000"``; ``None`` for everything else.
    """
    if start[4:8] == b"jP  ":
        box = start.find(b"jp2c" + _SOC_SIZ)
        return kind_of_code_stream(start[box + 4 :]) if box >= 0 else None
    if start.startswith(_SOC_SIZ) and len(start) >= 8:
        beyond = int.from_bytes(start[6:8], "big") & _BEYOND_PART_1
        return None if beyond else "jpeg_2000"
    kinds = {_SOF_LOSSLESS: "jpeg_lossless", _SOF_LS: "jpeg_ls"}
    try:
        heads = (marker for marker, _, _ in _segments(start) if marker in _ANY_SOF)
        return kinds.get(next(heads, 0))
    except StudyError:  # no JPEG, or its frame head lies further on
        return None


# -------------------- JPEG


def _segments(frame: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, content and where the segment ends, up to the first scan's head included."""
    if frame[:2] != b"\xff\xd8":
        raise _malformed("no JPEG start of image")
    at = 2
    while True:
        while frame[at : at + 2] == b"\xff\xff":  # fill bytes, T.81 B.1.1.2
            at += 1
        if at + 4 > len(frame):
            raise _cut_off()
        lead, marker, length = struct.unpack_from(">BBH", frame, at)
        if lead != 0xFF or length < 2 or 0xD0 <= marker <= _EOI or marker in (0x00, 0x01):
            raise _malformed("a JPEG marker was expected")
        end = at + 2 + length
        if end > len(frame):
            raise _cut_off()
        yield marker, frame[at + 4 : end], end
        if marker == _SOS:
            return
        at = end


def _frame_head(content: bytes) -> FrameShape:
    """T.81 B.2.2, of one component."""
    if len(content) != 9 or content[5] != 1:
        raise _malformed("the frame is not of one component")
    precision, rows, columns = struct.unpack_from(">BHH", content)
    return FrameShape(rows, columns, precision)


def jpeg_lossless(frame: bytes) -> tuple[FrameShape, bytes]:
    """Check a JPEG lossless frame (ITU-T T.81 process 14) and write its head anew.

    Only what decoding needs is kept: frame head, Huffman tables, restart interval, one scan.

    Parameters
    ----------
    frame
        The fragments of a frame, joined.

    Returns
    -------
    What the frame says of its size, and a frame that decodes to the same samples.

    Raises
    ------
    StudyError
        Malformed, cut off, or of another JPEG process.
    """
    shape: FrameShape | None = None
    head = [b"\xff\xd8"]
    scan_at = 0
    restarts = False
    for marker, content, end in _segments(frame):
        if marker == _SOF_LOSSLESS and shape is None:
            shape = _frame_head(content)
            # The sampling factors of a lone component mean nothing (T.81 A.2.2); 1 is safest.
            content = content[:7] + b"\x11\x00"
        elif marker == _DHT:
            _check_huffman(content)
        elif marker == _DRI:
            restarts = content != b"\0\0"
        elif marker == _SOS:
            _check_scan(content, shape)
            scan_at = end
        elif marker in _APPLICATION or marker in (_COM, _DQT):
            continue
        else:
            raise _malformed(f"marker FF{marker:02X} has no place in JPEG lossless")
        head.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    assert shape is not None  # _check_scan saw to it
    return shape, b"".join(head) + _scan(frame, scan_at, restarts) + b"\xff\xd9"


def _check_huffman(content: bytes) -> None:
    """T.81 B.2.4.2: tables of at most 17 codes, none longer than its length allows."""
    at = 0
    while at < len(content):
        counts = content[at + 1 : at + 17]
        codes = sum(counts)
        room = sum(count << (16 - bits) for bits, count in enumerate(counts, start=1))
        values = content[at + 17 : at + 17 + codes]
        whole = len(counts) == 16 and len(values) == codes
        if not whole or content[at] > 3 or not 1 <= codes <= _MAX_CATEGORIES or room >= 1 << 16:
            raise _malformed("a Huffman table")
        if max(values) >= _MAX_CATEGORIES or len(set(values)) != codes:
            raise _malformed("a Huffman table")
        at += 17 + codes


def _check_scan(content: bytes, shape: FrameShape | None) -> None:
    """T.81 B.2.3 and H.1: one component, predictor 1 to 7."""
    if shape is None or len(content) != 6:
        raise _malformed("the scan is not of one component after a frame head")
    count, _, tables, predictor, end, approximation = content
    known = count == 1 and tables & 0x0F == 0 and tables >> 4 <= 3
    if not known or not 1 <= predictor <= 7 or end != 0 or approximation >= shape.precision:
        raise _malformed("the head of the scan")


def _scan(frame: bytes, start: int, restarts: bool) -> bytes:
    """The coded samples, up to the end of image."""
    after = _AFTER_SCAN.search(frame, start)
    if after is None:
        raise _cut_off()
    if frame[after.start() + 1] != _EOI:
        raise _malformed("more than one scan")
    data = frame[start : after.start()].rstrip(b"\xff")
    if not restarts and re.search(rb"\xff[\xd0-\xd7]", data):
        raise _malformed("restart markers without an interval")
    return data


def jpeg_ls(frame: bytes) -> FrameShape:
    """Check the head of a JPEG-LS frame (ITU-T T.87); the decoder finds what is missing.

    Raises
    ------
    StudyError
        Malformed, cut off, or another JPEG process.
    """
    shape: FrameShape | None = None
    for marker, content, _ in _segments(frame):
        if marker == _SOF_LS and shape is None:
            shape = _frame_head(content)
        elif marker in _ANY_SOF:
            raise _malformed(f"marker FF{marker:02X} has no place in JPEG-LS")
    if shape is None:
        raise _malformed("no JPEG-LS frame head")
    if _EOC not in frame[-3:]:  # EOI has the same value; one byte of padding may follow
        raise _cut_off()
    return shape


# -------------------- JPEG 2000


def jpeg_2000(frame: bytes) -> tuple[FrameShape, bytes]:
    """Check a JPEG 2000 code stream (ITU-T T.800) and that none of its tile-parts is cut off.

    Returns
    -------
    What the frame says of its size, and the code stream without a file format around it.

    Raises
    ------
    StudyError
        Malformed or cut off: the decoder would fill what is missing.
    """
    if frame[4:8] == b"jP  ":  # a JP2 file, which some devices put in
        frame = frame[max(frame.find(b"jp2c" + _SOC_SIZ), 0) + 4 :]
    if not frame.startswith(_SOC_SIZ):
        raise _malformed("no JPEG 2000 code stream")
    if len(frame) < 45:
        raise _cut_off()
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    components, depth = struct.unpack_from(">HB", frame, 40)
    if components != 1 or right <= left or bottom <= top or frame[43:45] != b"\x01\x01":
        raise _malformed("the image is not of one component")
    _check_tile_parts(frame)
    return FrameShape(bottom - top, right - left, (depth & 0x7F) + 1, bool(depth & 0x80)), frame


def _check_tile_parts(frame: bytes) -> None:
    """Walk marker segments and tile-parts (T.800 A.4.2) to the end of code stream."""
    at = 2
    while frame[at : at + 2] != _EOC:
        if at + 12 > len(frame):
            raise _cut_off()
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker < 0xFF00 or length < 2:
            raise _malformed("a JPEG 2000 marker was expected")
        if marker != _SOT:
            at += 2 + length
            continue
        (tile_bytes,) = struct.unpack_from(">I", frame, at + 6)
        if tile_bytes == 0:  # up to the end of the code stream
            at = frame.rfind(_EOC)
            if at < 0:
                raise _cut_off()
        elif tile_bytes < 14:
            raise _malformed("a tile-part of JPEG 2000")
        else:
            at += tile_bytes

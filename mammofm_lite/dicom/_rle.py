"""RLE frames (PS3.5 annex G): a strict decoder.

Others drop bytes in excess, so that an image of the wrong size decodes to a sheared one; here every
segment must give exactly one byte per pixel. Plain Python is fast enough, for a run is up to 128
bytes long, and hostile bytes cannot do harm.
"""

import struct
from typing import Final

from ..errors import StudyError

__all__ = ["decode_rle"]

_HEADER_BYTES: Final = 64
_NO_OPERATION: Final = 128


def decode_rle(frame: bytes, pixels: int, bytes_per_pixel: int) -> bytes:
    """Decode the frame of a grey image.

    Parameters
    ----------
    frame
        The fragments of the frame, joined.
    pixels
        How many pixels the image has.
    bytes_per_pixel
        One segment for each, the high byte first.

    Returns
    -------
    The words, low byte first.

    Raises
    ------
    StudyError
        Malformed, cut off, or of another size.
    """
    if len(frame) < _HEADER_BYTES:
        raise _wrong("cut off")
    count, *offsets = struct.unpack_from("<16I", frame)
    starts = [*offsets[:bytes_per_pixel], len(frame)]
    if count != bytes_per_pixel or starts[0] < _HEADER_BYTES or starts != sorted(starts):
        raise _wrong("malformed")
    words = bytearray(pixels * bytes_per_pixel)
    for number in range(bytes_per_pixel):
        segment = frame[starts[number] : starts[number + 1]]
        words[bytes_per_pixel - 1 - number :: bytes_per_pixel] = _segment(segment, pixels)
    return bytes(words)


def _segment(data: bytes, size: int) -> bytearray:
    """G.3.2: literal and replicate runs; at most a byte of padding may follow them."""
    out = bytearray()
    at, end = 0, len(data)
    try:
        while len(out) < size:
            head = data[at]
            if head < _NO_OPERATION:
                out += data[at + 1 : at + 2 + head]
                at += 2 + head
            elif head > _NO_OPERATION:
                out += data[at + 1 : at + 2] * (257 - head)
                at += 2
            else:
                at += 1
    except IndexError:
        raise _wrong("cut off") from None
    if len(out) != size or at > end:
        raise _wrong("malformed")
    if end - at > 1 or any(data[at:]):
        raise _wrong("of another size than the file says")
    return out


def _wrong(how: str) -> StudyError:
    return StudyError(f"the RLE pixel data are {how}; copy the file again")

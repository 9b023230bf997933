"""Small mammograms of any kind, in any transfer syntax, for the tests of the DICOM package."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from mammofm_lite.dicom import FileDecision, Study, read_study

Pixels = npt.NDArray[np.integer[Any]]

SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg lossless 57": "1.2.840.10008.1.2.4.57",
    "jpeg lossless 70": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls near": "1.2.840.10008.1.2.4.81",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
    "jpeg 2000 lossy": "1.2.840.10008.1.2.4.91",
}
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"
# Text that identifies a patient or a place; no message may hold any of it.
SECRETS = ("Musterfrau", "Erika", "PID-4711", "19600229", "Klinik Seeblick", "ACC-0815")
VIEW_CODES = {"CC": "399162004", "MLO": "399368009"}
ORIENTATIONS = {"L-CC": "A\\R", "R-CC": "P\\L", "L-MLO": "A\\FR", "R-MLO": "P\\FL"}


def code(value: str, scheme: str = "SCT", meaning: str = "any wording") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def mammogram(view: str = "L-CC", uid: str = "", **changes: Any) -> Dataset:
    """A valid For Presentation mammogram of 12 bits; a change to ``None`` takes a value away."""
    side, projection = view.split("-")
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    ds.SOPInstanceUID = uid or f"1.2.3.{list(ORIENTATIONS).index(view) + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY_UID, "1.2.3"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{SECRETS[0]}^{SECRETS[1]}", *SECRETS[2:4]
    ds.InstitutionName, ds.AccessionNumber = SECRETS[4:6]
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.AcquisitionDate, ds.AcquisitionTime = "20240501", "101500"
    ds.ImageLaterality = side
    ds.ViewCodeSequence = [code(VIEW_CODES[projection])]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.PatientOrientation = ORIENTATIONS[view]
    ds.PartialView, ds.BreastImplantPresent = "NO", "NO"
    ds.ImagerPixelSpacing = [0.1, 0.05]
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    pixels = np.random.default_rng(7).integers(0, 4096, (24, 18))
    set_pixels(ds, pixels, bits=12)
    for keyword, value in changes.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def set_pixels(ds: Dataset, pixels: Pixels, *, bits: int, signed: bool = False) -> None:
    """Native pixel data and the attributes that describe them."""
    allocated = 8 if bits <= 8 else 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    data = pixels.astype(f"<i{allocated // 8}").tobytes()
    ds.add_new("PixelData", "OW", data + b"\0" * (len(data) % 2))


def file_bytes(ds: Dataset, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
    """A whole file; `ds` holds its pixel data as this syntax has them, little endian if native."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.3"
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(syntax), "1.2.3"
    meta.FileMetaInformationVersion = b"\0\1"
    body = io.BytesIO()
    uid = UID(syntax)
    stream: Any = _stream(body, implicit=syntax == SYNTAXES["implicit"],
                          little=syntax != SYNTAXES["big endian"])  # fmt: skip
    if "PixelData" in ds and uid.is_transfer_syntax and uid.is_compressed:
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = syntax != SYNTAXES["deflated"]
    write_dataset(stream, ds)
    data = body.getvalue()
    if syntax == SYNTAXES["deflated"]:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = packer.compress(data) + packer.flush()
    head = io.BytesIO()
    write_dataset(_stream(head, implicit=False, little=True), meta)
    group = head.getvalue()
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group))
    return bytes(128) + b"DICM" + length + group + data


def _stream(buffer: io.BytesIO, *, implicit: bool, little: bool) -> Any:
    from pydicom.filebase import DicomIO

    stream = DicomIO(buffer)
    stream.is_implicit_VR, stream.is_little_endian = implicit, little
    return stream


def encoded(
    pixels: Pixels, syntax: str, *, bits: int, signed: bool = False, predictor: int = 1
) -> Dataset:
    """An L-CC mammogram of these pixels with its pixel data in a syntax named in `SYNTAXES`."""
    ds = mammogram()
    set_pixels(ds, pixels, bits=bits, signed=signed)
    if syntax == "big endian":
        data = np.frombuffer(ds.PixelData, "<u2")
        ds["PixelData"].value = data.astype(">u2").tobytes()
    elif syntax not in ("implicit", "explicit", "deflated"):
        ds["PixelData"].value = encapsulate([frame(ds, pixels, syntax, predictor)])
    return ds


def frame(ds: Dataset, pixels: Pixels, syntax: str, predictor: int = 1) -> bytes:
    bits, signed = ds.BitsStored, bool(ds.PixelRepresentation)
    native = np.ascontiguousarray(
        pixels.astype(f"<{'i' if signed else 'u'}{ds.BitsAllocated // 8}")
    )
    if syntax.startswith("jpeg lossless"):
        return encode_jpeg_lossless(pixels, bits, predictor)
    if syntax.startswith("jpeg-ls"):
        import jpeg_ls

        words = native.view(f"<u{native.itemsize}") & np.array(
            (1 << bits) - 1, f"u{native.itemsize}"
        )
        return bytes(jpeg_ls.encode_array(words, lossy_error=2 if syntax == "jpeg-ls near" else 0))
    if syntax.startswith("jpeg 2000"):
        from openjpeg.utils import encode_array

        lossy = {"compression_ratios": [6]} if syntax == "jpeg 2000 lossy" else {}
        return bytes(encode_array(native, bits_stored=bits, photometric_interpretation=2, **lossy))
    return rle_frame(ds)


def rle_frame(ds: Dataset) -> bytes:
    from pydicom.pixels.encoders.base import get_encoder

    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = bytes(get_encoder(UID(SYNTAXES["rle"])).encode(ds, index=0))
    del ds.file_meta
    return data


# -------------------- JPEG lossless, ITU-T T.81 process 14: an encoder of our own

# Length of the Huffman code per category SSSS: table K.3, continued
_CODE_BITS = (2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)


def encode_jpeg_lossless(
    pixels: Pixels, bits: int, predictor: int = 1, point_transform: int = 0
) -> bytes:
    """A frame of one component; signed pixels are coded modulo ``2**bits``."""
    x = (pixels.astype(np.int64) & ((1 << bits) - 1)) >> point_transform
    difference = x - _prediction(x, predictor, bits - point_transform)
    difference = ((difference + 32767) % 65536 - 32767).ravel()  # T.81 H.1.2.1, 32768 stays
    data = _huffman(difference)
    counts = bytes(_CODE_BITS.count(length) for length in range(1, 17))
    rows, columns = pixels.shape
    return b"".join(
        [
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB", bits, rows, columns, 1) + b"\x01\x11\x00"),
            _segment(0xC4, b"\0" + counts + bytes(range(17))),
            _segment(0xDA, bytes([1, 1, 0, predictor, 0, point_transform])),
            data.replace(b"\xff", b"\xff\0"),
            b"\xff\xd9",
        ]
    )


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _prediction(x: npt.NDArray[np.int64], predictor: int, bits: int) -> npt.NDArray[np.int64]:
    """T.81 table H.1; the first row from the left, the first column from above."""
    a, b, c = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
    inner = (a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1)
    predicted = np.full_like(x, 1 << (bits - 1))
    predicted[0, 1:] = x[0, :-1]
    predicted[1:, 0] = x[:-1, 0]
    predicted[1:, 1:] = inner[predictor - 1]
    return predicted


def _huffman(difference: npt.NDArray[np.int64]) -> bytes:
    codes, value = [], 0
    for category, length in enumerate(_CODE_BITS):
        value <<= length - _CODE_BITS[max(category - 1, 0)]
        codes.append(value)
        value += 1
    size = np.frompyfunc(lambda d: int(abs(d)).bit_length(), 1, 1)(difference).astype(np.int64)
    extra = np.where(size == 16, 0, size)  # 32768 has no further bits
    rest = np.where(
        size == 16, 0, np.where(difference < 0, difference + (1 << size) - 1, difference)
    )
    word = (np.array(codes)[size] << extra) | rest
    length = np.array(_CODE_BITS)[size] + extra
    at = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    bit = np.repeat(word, length) >> (np.repeat(length, length) - 1 - at) & 1
    padding = np.ones(-bit.size % 8, np.int64)
    return np.packbits(np.concatenate([bit, padding]).astype(np.uint8)).tobytes()


# -------------------- what tests ask for


@dataclass(frozen=True)
class Kit:
    """The helpers above, for tests that cannot import this module."""

    folder: Path
    syntaxes = SYNTAXES
    secrets = SECRETS
    study_uid = STUDY_UID
    code = staticmethod(code)
    mammogram = staticmethod(mammogram)
    set_pixels = staticmethod(set_pixels)
    file_bytes = staticmethod(file_bytes)
    encoded = staticmethod(encoded)
    frame = staticmethod(frame)
    encode_jpeg_lossless = staticmethod(encode_jpeg_lossless)

    def put(self, name: str, content: Dataset | bytes, syntax: str = "explicit") -> Path:
        """Write a file into the study folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else file_bytes(content, SYNTAXES[syntax])
        path.write_bytes(data)
        return path

    def read(self, *datasets: Dataset) -> Study:
        """A study of these files, in this order."""
        for number, ds in enumerate(datasets, start=1):
            self.put(f"{number:03}", ds)
        return read_study(self.folder)

    def decide(self, *datasets: Dataset) -> list[FileDecision]:
        """Decisions on these files, with one good R-MLO after them so that the study stands."""
        return list(self.read(*datasets, mammogram("R-MLO", "1.2.3.999")).decisions[:-1])


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    folder = tmp_path / "Musterfrau Erika PID-4711"
    folder.mkdir()
    return Kit(folder)

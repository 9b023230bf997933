"""Pixels come back bit for bit from every transfer syntax, or not at all."""

import io
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate, get_frame

from mammofm_lite import StudyError
from mammofm_lite.dicom import read_pixels, read_study

SYNTAXES = (
    "implicit", "explicit", "deflated", "big endian", "rle", "jpeg lossless 57",
    "jpeg lossless 70", "jpeg-ls", "jpeg 2000",
)  # fmt: skip
COMPRESSED = SYNTAXES[4:]


def image(bits: int, signed: bool, shape: tuple[int, int], seed: int = 0) -> Any:
    """A noisy ramp over the whole range, both ends included."""
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    ramp = np.linspace(low, high - 1, shape[0] * shape[1]).reshape(shape)
    noise = np.random.default_rng(seed).normal(size=shape) * (high - low) / 32
    pixels = np.clip(np.rint(ramp + noise), low, high - 1).astype(np.int64)
    pixels.flat[:2] = low, high - 1
    return pixels


def decoded(kit: Any, ds: Any, syntax: str) -> Any:
    path = kit.put("a", ds, syntax)
    return read_pixels(read_study(path).views["L-CC"])


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_is_bit_exact(kit: Any, syntax: str, bits: int, signed: bool) -> None:
    for shape in ((33, 41), (64, 32), (57, 100)):
        pixels = image(bits, signed, shape)
        stored = decoded(kit, kit.encoded(pixels, syntax, bits=bits, signed=signed), syntax)
        np.testing.assert_array_equal(stored, pixels)
        assert stored.dtype == np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_predictor_of_jpeg_lossless(kit: Any, predictor: int, bits: int) -> None:
    pixels = image(bits, False, (31, 45))
    ds = kit.encoded(pixels, "jpeg lossless 57", bits=bits, predictor=predictor)
    np.testing.assert_array_equal(decoded(kit, ds, "jpeg lossless 57"), pixels)


def test_the_point_transform_of_jpeg_lossless(kit: Any) -> None:
    pixels = image(12, False, (31, 45))
    ds = kit.encoded(pixels, "explicit", bits=12)
    ds["PixelData"].value = encapsulate([kit.encode_jpeg_lossless(pixels, 12, 1, 3)])
    np.testing.assert_array_equal(decoded(kit, ds, "jpeg lossless 57"), pixels >> 3 << 3)


def test_what_a_jpeg_head_may_hold_besides(kit: Any) -> None:
    pixels = image(12, False, (9, 7))
    frame = kit.encode_jpeg_lossless(pixels, 12)
    more = b"\xff\xe0\x00\x06JFIF" + b"\xff\xff\xff\xfe\x00\x09comment" + b"\xff\xdb\x00\x03\x00"
    ds = kit.encoded(pixels, "explicit", bits=12)
    ds["PixelData"].value = encapsulate([frame[:2] + more + frame[2:]])
    np.testing.assert_array_equal(decoded(kit, ds, "jpeg lossless 70"), pixels)


@pytest.mark.parametrize("syntax", ["jpeg-ls near", "jpeg 2000 lossy"])
def test_lossy_syntaxes_come_near(kit: Any, syntax: str) -> None:
    rows, columns = np.mgrid[:64, :48]
    pixels = (rows * 30 + columns * 20).astype(np.int64)
    stored = decoded(kit, kit.encoded(pixels, syntax, bits=12), syntax)
    error = np.abs(stored.astype(int) - pixels).max()
    assert error <= (2 if syntax == "jpeg-ls near" else 40)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "rle", "deflated"])
def test_unused_bits_are_removed(kit: Any, syntax: str, signed: bool) -> None:
    """Twelve bits under HighBit 13, with rubbish above and below (PS3.5 8.1.1)."""
    pixels = image(12, signed, (33, 35))
    rubbish = np.random.default_rng(1).integers(0, 1 << 16, pixels.shape) & 0xC003
    ds = kit.encoded(((pixels & 0xFFF) << 2) | rubbish, syntax, bits=16)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 13, int(signed)
    np.testing.assert_array_equal(decoded(kit, ds, syntax), pixels)


@pytest.mark.parametrize("syntax", ["jpeg lossless 70", "jpeg-ls", "jpeg 2000"])
def test_a_code_stream_of_more_bits_than_stored(kit: Any, syntax: str) -> None:
    """Values that fit are taken, others refused: nothing says which of the two is wrong."""
    pixels = image(12, False, (33, 35))
    ds = kit.encoded(pixels, syntax, bits=16)
    ds.BitsStored, ds.HighBit = 12, 11
    np.testing.assert_array_equal(decoded(kit, ds, syntax), pixels)
    pixels[5, 5] = 4096
    ds["PixelData"].value = kit.encoded(pixels, syntax, bits=16).PixelData
    with pytest.raises(StudyError, match="do not fit into the 12 bits"):
        decoded(kit, ds, syntax)


def test_eight_bits_in_big_endian_words(kit: Any) -> None:
    pixels = image(8, False, (5, 5))
    ds = kit.encoded(pixels, "big endian", bits=8)
    assert ds.PixelData[:2] == bytes([pixels.flat[1], pixels.flat[0]])
    np.testing.assert_array_equal(decoded(kit, ds, "big endian"), pixels)


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_frame_in_several_fragments(kit: Any, syntax: str) -> None:
    pixels = image(12, False, (40, 50))
    ds = kit.encoded(pixels, syntax, bits=12)
    ds["PixelData"].value = encapsulate(
        [kit.frame(ds, pixels, syntax)] if syntax != "rle" else [frame_of(ds)],
        fragments_per_frame=3,
    )
    np.testing.assert_array_equal(decoded(kit, ds, syntax), pixels)


def frame_of(ds: Any) -> bytes:
    return bytes(get_frame(ds.PixelData, 0, number_of_frames=1))


# -------------------- refused


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("attribute", ["Rows", "Columns"])
def test_another_size_than_the_file_says(kit: Any, syntax: str, attribute: str) -> None:
    ds = kit.encoded(image(12, False, (36, 33)), syntax, bits=12)
    for size in (32, 34, 35, 37, 32768):
        setattr(ds, attribute, size)
        with pytest.raises(StudyError, match=r"SOP Instance UID 1\.2\.3\.1"):
            decoded(kit, ds, syntax)


CORRECTED = "transfer_syntax_corrected"


@pytest.mark.parametrize("inside", COMPRESSED)
@pytest.mark.parametrize("said", ["explicit", *COMPRESSED])
def test_another_code_stream_than_the_syntax_says(kit: Any, said: str, inside: str) -> None:
    """Decoded by its own markers and recorded; RLE has none, so it is never taken for anything."""
    pixels = image(12, False, (36, 33))
    ds = kit.encoded(pixels, inside, bits=12)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    path = kit.put("a", ds, said)
    if inside == "rle" != said:
        with pytest.raises(StudyError, match=r"SOP Instance UID|1 damaged"):
            decoded(kit, ds, said)
        return
    study = read_study(path)
    instance = study.views["L-CC"]
    np.testing.assert_array_equal(read_pixels(instance), pixels)
    same = said.split()[:2] == inside.split()[:2]
    assert instance.deviations == (() if same else (CORRECTED,))
    assert ("decoded as what they are" in study.decisions[0].detail) is not same


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.201", "1.2.3.4.5"])
def test_a_syntax_that_is_not_read_with_a_code_stream_that_is(kit: Any, uid: str) -> None:
    pixels = image(12, False, (36, 33))
    ds = kit.encoded(pixels, "jpeg-ls", bits=12)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    path = kit.put("a", kit.file_bytes(ds, uid))
    instance = read_study(path).views["L-CC"]
    np.testing.assert_array_equal(read_pixels(instance), pixels)
    assert instance.deviations == (CORRECTED,)


@pytest.mark.parametrize("syntax", ["jpeg lossless 70", "jpeg-ls", "jpeg 2000"])
def test_a_code_stream_in_a_file_format_or_behind_comments(kit: Any, syntax: str) -> None:
    """JP2 boxes around JPEG 2000, application segments and fill bytes in JPEG."""
    pixels = image(12, False, (36, 33))
    ds = kit.encoded(pixels, syntax, bits=12)
    frame = kit.frame(ds, pixels, syntax)
    if syntax == "jpeg 2000":
        frame = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0jp2c" + frame
    else:
        frame = frame[:2] + b"\xff\xfe\x00\x09comment\xff" + frame[2:]
    ds["PixelData"].value = encapsulate([frame])
    instance = read_study(kit.put("a", ds, "rle")).views["L-CC"]
    np.testing.assert_array_equal(read_pixels(instance), pixels)
    assert instance.deviations == (CORRECTED,)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff\x4f\xff\x51\x00\x29\x40\x00",  # high-throughput JPEG 2000
        b"\xff\x4f\xff\x51\x00\x29\x80\x00",  # JPEG 2000 with extensions
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x24\x00\x21\x01\x01\x11\x00",  # baseline
        b"\xff\xd8\xff\xfe\x20\x00" + bytes(64),  # its frame head lies too far on
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\x0a" + bytes(20),  # JPEG XL
        b"\x01" + bytes(100),
        b"\0\0",
    ],
)
def test_a_code_stream_that_is_nothing_we_read_corrects_nothing(kit: Any, frame: bytes) -> None:
    ds = kit.encoded(image(12, False, (36, 33)), "rle", bits=12)
    ds["PixelData"].value = encapsulate([frame])
    kit.put("b", kit.mammogram("R-CC"))
    kit.put("a", kit.file_bytes(ds, "1.2.840.10008.1.2.4.50"))
    assert read_study(kit.folder).decisions[0].reason == "unsupported_transfer_syntax"
    instance = read_study(kit.put("a", ds, "rle")).views["L-CC"]
    assert instance.deviations == ()
    with pytest.raises(StudyError):
        read_pixels(instance)


def test_native_pixels_under_a_compressed_syntax_stay_refused(kit: Any) -> None:
    data = kit.file_bytes(kit.mammogram())
    old, new = (kit.syntaxes[key].encode() for key in ("explicit", "jpeg 2000"))
    at = data.index(b"\x02\x00\x10\x00UI")
    length = len(new) + len(new) % 2
    data = (
        data[: at + 6] + struct.pack("<H", length) + new.ljust(length, b"\0")
        + data[at + 8 + len(old) + len(old) % 2 :]
    )  # fmt: skip
    kit.put("a", data)
    kit.put("b", kit.mammogram("R-CC"))
    assert read_study(kit.folder).decisions[0].reason == "damaged"


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_frame_that_is_cut_off_is_never_filled_up(kit: Any, syntax: str) -> None:
    """Decoders fill what is missing with grey; a file whose structure is whole hides it."""
    pixels = image(12, False, (40, 50))
    ds = kit.encoded(pixels, syntax, bits=12)
    whole = frame_of(ds).rstrip(b"\0") if syntax != "rle" else frame_of(ds)
    for kept in range(2, len(whole) - 3, 41):
        for ending in (b"", b"\xff\xd9"):
            ds["PixelData"].value = encapsulate([whole[:kept] + ending])
            with pytest.raises(StudyError):
                decoded(kit, ds, syntax)


@pytest.mark.parametrize("syntax", COMPRESSED)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_altered_frames_raise_nothing_else(kit: Any, syntax: str, data: st.DataObject) -> None:
    ds = kit.encoded(image(12, False, (36, 33)), syntax, bits=12)
    frame = bytearray(frame_of(ds))
    for _ in range(data.draw(st.integers(1, 4))):
        last = data.draw(st.sampled_from([min(120, len(frame)), len(frame)]))
        frame[data.draw(st.integers(0, last - 1))] = data.draw(st.integers(0, 255))
    ds["PixelData"].value = encapsulate([bytes(frame)])
    try:
        stored = decoded(kit, ds, syntax)
    except StudyError as error:
        said = str(error)
    else:
        said = ""
        assert stored.shape == (36, 33)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.replace(b"\xff\xc3", b"\xff\xc0"), "FFC0 has no place"),
        (lambda f: f[:2] + f[2:15] + f[2:], "FFC3 has no place"),
        (lambda f: f.replace(bytes([1, 1, 0, 1, 0, 0]), bytes([1, 1, 0, 8, 0, 0])), "the scan"),
        (lambda f: f.replace(b"\x01\x11\x00", b"\x03\x11\x00", 1), "malformed"),
        (lambda f: f.replace(bytes(range(17)), bytes([0] * 17)), "Huffman"),
        (lambda f: f[:-2] + b"\xff\xd0\xff\xd9", "restart"),
        (lambda f: f[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00\x00\xff\xd9", "one scan"),
        (lambda f: f[:-2], "cut off"),
        (lambda f: b"", "cut off|malformed"),
    ],
)  # fmt: skip
def test_each_rule_on_jpeg_lossless(kit: Any, change: Any, words: str) -> None:
    pixels = image(12, False, (36, 33))
    ds = kit.encoded(pixels, "jpeg lossless 70", bits=12)
    ds["PixelData"].value = encapsulate([change(kit.encode_jpeg_lossless(pixels, 12)) or b"\0\0"])
    with pytest.raises(StudyError, match=words):
        decoded(kit, ds, "jpeg lossless 70")


def test_a_file_that_changed_since_it_was_read(kit: Any) -> None:
    path = kit.put("a", kit.mammogram())
    instance = read_study(path).views["L-CC"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StudyError, match="changed while the study was read"):
        read_pixels(instance)
    path.unlink()
    with pytest.raises(StudyError, match="cannot be opened"):
        read_pixels(instance)


def test_a_location_past_the_end(kit: Any) -> None:
    instance = read_study(kit.put("a", kit.mammogram())).views["L-CC"]
    location = replace(instance.pixels, fragments=((1 << 20, 864),))
    with pytest.raises(StudyError, match="ends inside its pixel data"):
        read_pixels(replace(instance, pixels=location))


def test_jpeg_lossless_from_several_threads(kit: Any) -> None:
    pixels = image(12, False, (60, 50))
    path = kit.put("a", kit.encoded(pixels, "jpeg lossless 70", bits=12), "jpeg lossless 70")
    instance = read_study(path).views["L-CC"]
    results: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(np.array_equal(read_pixels(instance), pixels))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_a_process_stays_silent_and_ends(kit: Any) -> None:
    """The decoder's own log goes to stdout; left redirected it would keep Python from ending."""
    ds = kit.encoded(image(12, False, (36, 33)), "jpeg lossless 70", bits=12)
    whole = kit.put("whole", ds, "jpeg lossless 70")
    ds["PixelData"].value = encapsulate([frame_of(ds)[:700] + b"\xff\xd9"])
    cut = kit.put("cut", ds, "jpeg lossless 70")
    script = (
        "import sys, pathlib; from mammofm_lite.dicom import *\n"
        "from mammofm_lite import StudyError\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_pixels(read_study(pathlib.Path(name)).views['L-CC'])\n"
        "    except StudyError: pass"
    )
    command = [sys.executable, "-c", script, whole, cut]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_gpl_codec_is_asked(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders are named in code; the plug-in frame that would choose libjpeg is not loaded."""
    for name in ("pylibjpeg", "libjpeg"):
        monkeypatch.setitem(sys.modules, name, None)  # an import now fails
    for syntax in SYNTAXES:
        pixels = image(12, False, (33, 33))
        np.testing.assert_array_equal(
            decoded(kit, kit.encoded(pixels, syntax, bits=12), syntax), pixels
        )


@pytest.mark.parametrize(("syntax", "codec"), [("jpeg 2000", "_jpeg2k"), ("jpeg-ls", "_jpegls")])
def test_of_many_codecs_only_the_one_is_loaded(kit: Any, syntax: str, codec: str) -> None:
    path = kit.put("a", kit.encoded(image(12, False, (36, 33)), syntax, bits=12), syntax)
    script = (
        "import sys, pathlib; from mammofm_lite.dicom import *\n"
        "read_pixels(read_study(pathlib.Path(sys.argv[1])).views['L-CC'])\n"
        "print(*(name.split('.')[1] for name in sys.modules if name.startswith('imagecodecs.')))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True)
    assert set(done.stdout.decode().split()) == {"imagecodecs", "_shared", "_shared_cython", codec}


# Tiles narrower than the image Pillow writes wrong, which two decoders agree upon.
LAYOUTS: list[dict[str, Any]] = [
    {"tile_size": (22, 24)},
    {"tile_size": (132, 32), "progression": "RPCL", "num_resolutions": 2},
    {"precinct_size": (32, 32), "codeblock_size": (16, 16), "progression": "PCRL"},
    {"num_resolutions": 1, "progression": "CPRL"},
    {"quality_mode": "rates", "quality_layers": [40, 10, 0]},
    {"irreversible": True, "quality_mode": "rates", "quality_layers": [10]},
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_jpeg_2000(kit: Any, layout: dict[str, Any]) -> None:
    """As another build of OpenJPEG decodes them, on one thread and on several."""
    import openjpeg

    out = io.BytesIO()
    pixels = image(12, False, (96, 132)).astype(np.uint16)
    Image.fromarray(pixels).save(out, "JPEG2000", no_jp2=True, **layout)
    ds = kit.encoded(pixels, "explicit", bits=16)
    ds["PixelData"].value = encapsulate([out.getvalue()])
    instance = read_study(kit.put("a", ds, "jpeg 2000")).views["L-CC"]
    stored = read_pixels(instance)
    expected = openjpeg.decode_pixel_data(out.getvalue(), version=2)
    np.testing.assert_array_equal(stored, np.frombuffer(expected, "<u2").reshape(pixels.shape))
    if "irreversible" not in layout and layout.get("tile_size") != (22, 24):
        np.testing.assert_array_equal(stored, pixels)
    for threads in (2, 5):
        np.testing.assert_array_equal(read_pixels(instance, threads), stored)


# -------------------- the real exam


@pytest.fixture(scope="module")
def exam(real_exam: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exam")
    subprocess.run([sys.executable, real_exam / "make_dicom.py", folder], check=True)
    return folder


def test_the_real_exam(exam: Path, real_exam: Path) -> None:
    study = read_study(exam)
    assert list(study.views) == ["L-CC", "L-MLO", "R-CC", "R-MLO"]
    assert all(decision.used for decision in study.decisions)
    for view, instance in study.views.items():
        picture = np.asarray(Image.open(real_exam / f"0_{view}.png"))
        np.testing.assert_array_equal(read_pixels(instance), picture)


def test_eof_is_not_read_as_pixels(kit: Any) -> None:
    """Of native pixels exactly what is needed; a longer value is refused at the head."""
    ds = kit.mammogram()
    ds["PixelData"].value += struct.pack("<4H", 1, 2, 3, 4)
    with pytest.raises(StudyError, match="1 pixel size"):
        decoded(kit, ds, "explicit")

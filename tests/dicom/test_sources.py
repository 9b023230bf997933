"""Files, folders and zips: what is opened, what is not, and what hostile bytes may do."""

import io
import os
import socket
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.tag import Tag

from mammofm_lite import StudyError
from mammofm_lite.dicom import _header, _sources, read_pixels, read_study

WHOLE_FILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reasons(path: Path) -> list[str]:
    return [decision.reason for decision in read_study(path).decisions]


# -------------------- folders


def test_any_depth_and_any_name(kit: Any) -> None:
    names = ["a/b/c/d/e/f/g/IM0001", "übung/1", "no extension", "x.PNG"]
    for name, view in zip(names, ("L-CC", "L-MLO", "R-CC", "R-MLO"), strict=True):
        kit.put(name, kit.mammogram(view))
    study = read_study(kit.folder)
    assert len(study.views) == 4
    assert [d.view for d in study.decisions] == ["L-CC", "R-CC", "R-MLO", "L-MLO"]
    assert [d.index for d in study.decisions] == [1, 2, 3, 4]


def test_the_order_does_not_depend_on_the_file_system(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b/1", "a/2", "c", "a/1"):
        kit.put(name, kit.mammogram(uid=f"1.2.{ord(name[0])}.{name[-1:].encode().hex()}"))
    first = read_study(kit.folder).decisions
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scan(path))))
    assert read_study(kit.folder).decisions == first


def test_a_single_file(kit: Any) -> None:
    assert reasons(kit.put("a", kit.mammogram())) == ["used"]


def test_a_dicomdir_is_only_recorded(kit: Any) -> None:
    data = kit.file_bytes(kit.mammogram()).replace(b"\x02\x00\x02\x00UI\x06\x001.2.3\0",
        b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10")  # fmt: skip
    kit.put("DICOMDIR", data)
    kit.put("a", kit.mammogram())
    assert reasons(kit.folder) == ["dicomdir", "used"]


# Name, Specific Character Set, what the bytes are: also what devices should not have written
NAMES = [
    ("Müller^Änne", "ISO_IR 100", "latin-1"),
    ("Иванова^Мария", "ISO_IR 144", "iso8859_5"),
    ("王^小东", "GB18030", "gb18030"),
    ("山田^太郎", "\\ISO 2022 IR 87", "iso2022_jp"),
    ("دانا^فاطمة", "ISO_IR 192", "utf-8"),
    ("Müller^Änne", "ISO_IR 6", "latin-1"),
    ("Müller^Änne", "NO CHARACTER SET", "utf-8"),
]


def named(kit: Any, view: str, name: str, charset: str, codec: str) -> Dataset:
    ds = kit.mammogram(view)
    for keyword, vr, raw in (
        ("SpecificCharacterSet", "CS", charset.encode()),
        ("PatientName", "PN", name.encode(codec)),
    ):
        tag, raw = Tag(keyword), raw + b" " * (len(raw) % 2)
        ds._dict[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    return ds


@pytest.mark.filterwarnings("ignore:(Invalid value|Unknown encoding):UserWarning")
@pytest.mark.parametrize(("name", "charset", "codec"), NAMES)
def test_names_in_any_script(kit: Any, tmp_path: Path, name: str, charset: str, codec: str) -> None:
    """Of patients and of files, in a folder and in a zip."""
    views = ("L-CC", "L-MLO", "R-CC", "R-MLO")
    files = {f"{name}/{view}-日本": named(kit, view, name, charset, codec) for view in views}
    for where, ds in files.items():
        kit.put(where, ds)
    study = read_study(kit.folder)
    assert list(study.views) == list(views)
    assert not any(part in repr(study.decisions) for part in name.split("^"))
    members = [(where, kit.file_bytes(ds)) for where, ds in files.items()]
    assert list(read_study(zipped(tmp_path / "a.zip", *members)).views) == list(views)


def test_a_medium_with_dicomdir(kit: Any, tmp_path: Path) -> None:
    """As a CD has it: the index is recorded, and the files it lists are read by themselves."""
    medium = FileSet()
    for number, view in enumerate(("L-CC", "L-MLO", "R-CC", "R-MLO"), start=1):
        ds = named(kit, view, *NAMES[1])
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240501", "10", "1", "1"
        ds.SeriesNumber, ds.InstanceNumber = 1, number
        kit.put(f"in/{number}", ds)
        medium.add(kit.folder / "in" / str(number))
    medium.write(tmp_path / "medium")
    assert (tmp_path / "medium" / "DICOMDIR").is_file()
    study = read_study(tmp_path / "medium")
    assert list(study.views) == ["L-CC", "L-MLO", "R-CC", "R-MLO"]
    assert sorted(decision.reason for decision in study.decisions) == ["dicomdir"] + ["used"] * 4
    with pytest.raises(StudyError, match="1 file: 1 dicomdir"):
        read_study(tmp_path / "medium" / "DICOMDIR")


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
@pytest.mark.parametrize("start", [132, None])
def test_files_without_preamble(kit: Any, syntax: str, start: int | None) -> None:
    """With the file meta information, or with the data set alone."""
    data = kit.file_bytes(kit.mammogram(), kit.syntaxes[syntax])
    if start is None:
        start = 132 + 12 + int.from_bytes(data[140:144], "little")
    instance = read_study(kit.put("a", data[start:])).views["L-CC"]
    pixels = np.frombuffer(kit.mammogram().PixelData, "<u2").reshape(24, 18)
    np.testing.assert_array_equal(read_pixels(instance), pixels)


def test_foreign_files(kit: Any) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    for number, data in enumerate(
        [b"", b"x", b"hello" * 100, noise, b"\x08\x00" + noise, b"\x08\x00\x05\x00CS\x02\x00A ",
         b"\x89PNG\r\n" + noise, b"\x02\x00\x00\x00" + noise]
    ):  # fmt: skip
        kit.put(f"a{number}", data)
    kit.put("z", kit.mammogram())
    assert reasons(kit.folder) == ["not_dicom"] * 8 + ["used"]


def test_links_are_not_followed(kit: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(kit.file_bytes(kit.mammogram("R-CC")))
    inside = kit.put("a", kit.mammogram())
    (kit.folder / "b").symlink_to(outside)
    (kit.folder / "c").symlink_to(tmp_path)
    (kit.folder / "d").symlink_to(inside)
    (kit.folder / "e").symlink_to(kit.folder)
    (kit.folder / "f").symlink_to("nowhere")
    assert reasons(kit.folder) == ["used", "link", "link", "link", "link", "link"]


def test_the_study_itself_may_be_a_link(kit: Any, tmp_path: Path) -> None:
    kit.put("a", kit.mammogram())
    (tmp_path / "link").symlink_to(kit.folder)
    assert reasons(tmp_path / "link") == ["used"]


def test_pipes_and_sockets_are_not_opened(kit: Any) -> None:
    os.mkfifo(kit.folder / "a")
    kit.put("b", kit.mammogram())
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.getcwd()
        os.chdir(kit.folder)  # a socket's path must be short
        listening.bind("c")
        os.chdir(where)
        assert reasons(kit.folder) == ["special_file", "used", "special_file"]


def test_a_pipe_put_in_place_of_a_file(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.put("b", kit.mammogram())
    os.mkfifo(kit.folder / "a")
    monkeypatch.setattr(_sources, "_entry", lambda child: _sources.Entry(
        _sources._FileSource(Path(child.path))))  # fmt: skip
    assert reasons(kit.folder) == ["special_file", "used"]


def test_a_device_is_no_study() -> None:
    with pytest.raises(StudyError, match="pipe or device"):
        read_study(Path("/dev/null"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_cannot_be_read_is_recorded(kit: Any) -> None:
    kit.put("a", kit.mammogram()).chmod(0)
    kit.put("b/c", kit.mammogram())
    (kit.folder / "b").chmod(0)
    kit.put("d", kit.mammogram())
    assert reasons(kit.folder) == ["unreadable", "unreadable", "used"]
    (kit.folder / "b").chmod(stat.S_IRWXU)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(StudyError, match="empty"):
        read_study(tmp_path)


def test_too_many_files(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sources, "MAX_FILES", 3)
    for name in "abcd":
        kit.put(name, b"x")
    with pytest.raises(StudyError, match="more than 3 files"):
        read_study(kit.folder)


def test_unrelated_files_cost_only_their_first_bytes(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand files of a megabyte each: none is parsed, of none more than a preamble read."""
    for number in range(10_000):
        path = kit.put(f"{number % 40}/{number}.jpg", b"\xff\xd8\xff\xe0" + bytes(200))
        os.truncate(path, 1 << 20)  # sparse: no block of it is written
    kit.put("z", kit.mammogram())
    opened: list[int] = []
    read: list[int] = []
    parsed: list[str] = []

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            read.append(len(data))
            return data

    def counting(descriptor: int, *_: Any) -> Any:
        opened.append(descriptor)
        return Counting(io.FileIO(descriptor))

    read_dataset = _header._read_dataset
    monkeypatch.setattr(os, "fdopen", counting)
    monkeypatch.setattr(_header, "_read_dataset", lambda *a: parsed.append("") or read_dataset(*a))
    assert reasons(kit.folder).count("not_dicom") == 10_000
    assert len(opened) == 10_001
    assert len(parsed) == 2  # file meta information and data set of the one mammogram
    assert sum(read) < 10_000 * 132 + 5000


def test_only_the_head_of_a_file_is_read(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels and what is not asked for are passed over, also in a file of 8 MB."""
    ds = kit.mammogram()
    kit.set_pixels(ds, np.zeros((2000, 2000), np.int64), bits=12)
    ds.add_new(0x00091010, "OB", bytes(1 << 20))
    ds.add_new(0x00090010, "LO", "private")
    path = kit.put("a", ds)
    count = [0]

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            count[0] += len(data)
            return data

    opened = _sources.OpenFile(Counting(path.read_bytes()), path.stat().st_size, ())
    header = _header.read_header(opened)
    assert header.sop_class_uid
    assert count[0] < 5000


# -------------------- zip


def zipped(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # members of equal name are meant
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip(kit: Any, tmp_path: Path, method: int) -> None:
    views = ("L-CC", "L-MLO", "R-CC", "R-MLO")
    members = [(f"b/{view}/same", kit.file_bytes(kit.mammogram(view))) for view in views]
    path = zipped(tmp_path / "a.zip", ("a/", b""), ("a/x.txt", b"hello"), *members, method=method)
    before = sorted(tmp_path.rglob("*"))
    study = read_study(path)
    assert [d.reason for d in study.decisions] == ["not_dicom"] + ["used"] * 4
    for view in views:
        pixels = np.frombuffer(kit.mammogram(view).PixelData, "<u2").reshape(24, 18)
        np.testing.assert_array_equal(read_pixels(study.views[view]), pixels)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked to disk


@pytest.mark.parametrize("syntax", ["deflated", "rle", "jpeg lossless 70", "jpeg 2000"])
def test_compressed_pixels_in_a_zip(kit: Any, tmp_path: Path, syntax: str) -> None:
    pixels = np.arange(40 * 50).reshape(40, 50)
    ds = kit.encoded(pixels, syntax, bits=12)
    path = zipped(tmp_path / "a.zip", ("a", kit.file_bytes(ds, kit.syntaxes[syntax])))
    np.testing.assert_array_equal(read_pixels(read_study(path).views["L-CC"]), pixels)


def test_members_of_equal_name(kit: Any, tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip",
        ("a", kit.file_bytes(kit.mammogram("R-CC"))),
        ("a", kit.file_bytes(kit.mammogram("L-CC"))),
    )
    assert list(read_study(path).views) == ["L-CC", "R-CC"]


def test_names_that_lead_out_of_the_zip_mean_nothing(kit: Any, tmp_path: Path) -> None:
    name = "../../../../tmp/evil"
    path = zipped(tmp_path / "a.zip", (name, kit.file_bytes(kit.mammogram())))
    assert reasons(path) == ["used"]


def with_flag(data: bytes) -> bytes:
    """Mark every member as encrypted, in both of its headers."""
    data = data.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00")
    return data.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )


def test_an_encrypted_member(kit: Any, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a", kit.file_bytes(kit.mammogram())))
    path.write_bytes(with_flag(path.read_bytes()))
    with pytest.raises(StudyError, match="1 file: 1 encrypted"):
        read_study(path)


def test_a_zip_bomb(kit: Any, tmp_path: Path) -> None:
    head = kit.file_bytes(kit.mammogram())
    path = zipped(tmp_path / "a.zip", ("a", head + bytes(1 << 24)), ("b", head))
    assert reasons(path) == ["compression_ratio", "used"]


def test_a_member_that_is_too_large(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sources, "MAX_MEMBER_BYTES", 5000)
    head = kit.file_bytes(kit.mammogram())
    path = zipped(tmp_path / "a.zip", ("a", head + bytes(5000)), ("b", head))
    assert reasons(path) == ["too_large", "used"]


def test_a_deflated_bomb(kit: Any) -> None:
    ds = kit.mammogram()
    ds.add_new(0x00091010, "OB", bytes(1 << 24))
    ds.add_new(0x00090010, "LO", "private")
    with pytest.raises(StudyError, match="compression ratio"):
        read_study(kit.put("a", ds, "deflated"))


def test_a_zip_inside_the_study(kit: Any, tmp_path: Path) -> None:
    inner = zipped(tmp_path / "i.zip", ("a", kit.file_bytes(kit.mammogram()))).read_bytes()
    kit.put("a.zip", inner)
    kit.put("b", kit.mammogram())
    assert reasons(kit.folder) == ["archive", "used"]
    path = zipped(tmp_path / "o.zip", ("a", inner), ("b", kit.file_bytes(kit.mammogram())))
    assert reasons(path) == ["archive", "used"]


def test_an_empty_zip(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="empty"):
        read_study(zipped(tmp_path / "a.zip"))


def test_a_dicom_file_with_the_magic_of_a_zip(kit: Any) -> None:
    data = kit.file_bytes(kit.mammogram())
    assert reasons(kit.put("a", b"PK\x03\x04" + data[4:])) == ["used"]


# -------------------- hostile bytes


def outcome(path: Path) -> str:
    """A decision or a `StudyError` of one line, and nothing else; pixels too, where used."""
    try:
        study = read_study(path)
        for instance in study.views.values():
            read_pixels(instance)
    except StudyError as error:
        said = str(error)
    else:
        said = study.decisions[0].reason
    assert "\n" not in said
    return said


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "deflated", "rle", "jpeg lossless 70"])
def test_cut_off_anywhere(kit: Any, syntax: str) -> None:
    ds = kit.encoded(np.arange(33 * 35).reshape(33, 35), syntax, bits=12)
    data = kit.file_bytes(ds, kit.syntaxes[syntax])
    for length in [*range(0, 200, 3), *range(200, len(data) - 1, 37), len(data) - 1]:
        said = outcome(kit.put("a", data[:length], syntax))
        assert said.startswith("no usable mammogram among 1 file"), (length, said)
    assert outcome(kit.put("a", data)) == "used"


@WHOLE_FILE
@given(data=st.data())
def test_altered_files(kit: Any, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(["implicit", "explicit", "big endian", "rle", "deflated"]))
    ds = kit.encoded(np.arange(33 * 35).reshape(33, 35), syntax, bits=12)
    content = bytearray(kit.file_bytes(ds, kit.syntaxes[syntax]))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(128, min(len(content), 1100) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]) | st.integers(0, 255))
    outcome(kit.put("a", bytes(content)))


@WHOLE_FILE
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\x08\x00", b"\x02\x00", None]))
def test_any_bytes(kit: Any, data: bytes, start: bytes | None) -> None:
    head = bytes(128) + b"DICM" if start is None else start
    assert outcome(kit.put("a", head + data)).startswith("no usable mammogram among 1 file")


@WHOLE_FILE
@given(data=st.data())
def test_altered_zips(kit: Any, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", kit.file_bytes(kit.mammogram()))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.none())
    outcome(kit.put("a.zip", bytes(content[:cut])))


def test_deeply_nested_sequences(kit: Any) -> None:
    item = Dataset()
    for _ in range(200):
        outer = Dataset()
        outer.ViewModifierCodeSequence = [item]
        item = outer
    ds = kit.mammogram(ViewModifierCodeSequence=[item])
    assert outcome(kit.put("a", ds)).startswith(("used", "no usable"))
    open_items = b"\x54\x00\x22\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    data = kit.file_bytes(kit.mammogram())
    at = data.index(b"\x54\x00\x20\x02")
    assert "1 damaged" in outcome(kit.put("a", data[:at] + open_items))


# -------------------- no patient, no path


@WHOLE_FILE
@given(data=st.data())
def test_no_message_holds_patient_or_path(
    kit: Any, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    """Names in any attribute that is read, in file names, and in a damaged file."""
    texts = [
        tag for tag in _header.TAGS
        if not tag.endswith("Sequence") and tag not in ("Rows", "Columns", "SamplesPerPixel",
            "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    ]  # fmt: skip
    ds = kit.mammogram()
    for keyword in data.draw(st.lists(st.sampled_from(texts), max_size=3)):
        secret = data.draw(st.sampled_from(kit.secrets))
        raw = secret.encode() + b" " * (len(secret) % 2)
        tag = Tag(keyword)
        ds._dict[tag] = RawDataElement(tag, "LO", len(raw), raw, 0, False, True, True)
    content = kit.file_bytes(ds)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    kit.put("Musterfrau.dcm", content)
    kit.put("z", kit.mammogram("R-CC", ViewCodeSequence=[kit.code("Erika", "Musterfrau")]))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            said = [repr(read_study(kit.folder).decisions)]
        except StudyError as error:
            said = [str(error)]
    said += [str(warning.message) for warning in warned] + caplog.messages
    for secret in (*kit.secrets, str(kit.folder), kit.folder.name):
        assert not any(secret.upper() in text.upper() for text in said), said


def test_errors_of_pixels_hold_neither(kit: Any) -> None:
    ds = kit.encoded(np.arange(33 * 35).reshape(33, 35), "jpeg 2000", bits=12)
    path = kit.put("a", ds, "jpeg 2000")
    path.write_bytes(path.read_bytes().replace(b"\xff\x52", b"\xff\x53", 1))
    instance = read_study(path).views["L-CC"]
    with pytest.raises(StudyError) as caught:
        read_pixels(instance)
    assert not any(secret in str(caught.value) for secret in (*kit.secrets, str(kit.folder)))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.1.2.4.50", "JPEG Baseline"),
        ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000"),
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.3.4.5", "1.2.3.4.5"),
    ],
)
def test_unsupported_transfer_syntaxes_are_named(kit: Any, uid: str, name: str) -> None:
    ds = kit.mammogram()
    ds["PixelData"].value = encapsulate([b"\xff\xd8\xff\xd9"])
    kit.put("a", kit.file_bytes(ds, uid))
    kit.put("b", kit.mammogram("R-CC"))
    decision = read_study(kit.folder).decisions[0]
    assert (decision.view, decision.reason) == ("L-CC", "unsupported_transfer_syntax")
    assert name in decision.detail


@pytest.mark.parametrize(
    ("said", "inside", "reason"),
    [("explicit", "rle", "damaged"), ("rle", "explicit", "damaged")],
)
def test_encapsulation_against_the_syntax(kit: Any, said: str, inside: str, reason: str) -> None:
    ds = kit.encoded(np.arange(33 * 35).reshape(33, 35), inside, bits=12)
    data = kit.file_bytes(ds, kit.syntaxes[inside])
    old, new = (kit.syntaxes[key].encode() for key in (inside, said))
    kit.put("a", data.replace(old + b"\0" * (len(old) % 2), new.ljust(len(old), b"\0"), 1))
    kit.put("b", kit.mammogram("R-CC"))
    assert reasons(kit.folder)[0] in (reason, "truncated")

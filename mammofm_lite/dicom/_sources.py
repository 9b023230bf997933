"""Where files come from: a single file, a folder of any depth, or a zip. Nothing is extracted."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

from ..errors import StudyError
from ._refused import FileRefusedError

__all__ = ["Entry", "OpenFile", "Source", "listing"]

MAX_FILES: Final = 100_000  # a study has some tens; more is the wrong folder
MAX_MEMBER_BYTES: Final = 2 << 30  # of a zip member, unpacked; a tomosynthesis has about 500 MB
MAX_RATIO: Final = 200  # unpacked to packed; a mammogram reaches 10, a zip bomb 1000
RATIO_FREE_BYTES: Final = 1 << 20  # below this size any ratio is harmless
_BUFFER_BYTES: Final = 1 << 16  # small steps back stay inside it and do not unpack a member anew
_ENCRYPTED: Final = 1  # bit of a zip member's flags
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Stamp = tuple[int, ...]


@dataclass(frozen=True)
class OpenFile:
    """An open file: `size` in bytes, `stamp` equal as long as the file was not changed."""

    file: BinaryIO
    size: int
    stamp: Stamp


class Source(Protocol):
    """Something that can be opened as often as needed."""

    def open(self) -> AbstractContextManager[OpenFile]:
        """Context manager that gives an `OpenFile`.

        Raises
        ------
        FileRefusedError
            The file cannot be read.
        """


@dataclass(frozen=True)
class Entry:
    """One place of the listing: a file, or why it is not opened (a link, a device)."""

    source: Source | None
    refusal: FileRefusedError | None = None


@contextmanager
def listing(path: Path) -> Iterator[list[Entry]]:
    """Everything under `path`, in a stable order.

    Raises
    ------
    StudyError
        The path does not exist, is neither file nor folder, holds nothing or far too much, or is
        a damaged zip.
    """
    try:
        resolved = path.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError, ValueError):  # a loop of links; a null byte in the name
        raise StudyError("the study does not exist or cannot be reached") from None
    if stat.S_ISDIR(mode):
        yield _folder_entries(resolved)
    elif not stat.S_ISREG(mode):
        raise StudyError("the study is a pipe or device; give a DICOM file, a folder or a zip")
    elif _is_zip(resolved):
        archive = _Archive(resolved)
        with archive.kept_open():
            yield archive.entries()
    else:
        yield [Entry(_FileSource(resolved))]


def _check_count(count: int) -> None:
    if count == 0:
        raise StudyError("the study is empty; give a folder or zip that holds DICOM files")
    if count > MAX_FILES:
        raise StudyError(f"the study holds more than {MAX_FILES} files; give one study alone")


# -------------------- files and folders


@dataclass(frozen=True)
class _FileSource:
    path: Path

    @contextmanager
    def open(self) -> Iterator[OpenFile]:
        try:
            # NONBLOCK: a pipe put in the file's place must not hang us
            descriptor = os.open(self.path, _OPEN_FLAGS)
        except OSError:
            raise FileRefusedError("unreadable", "the file cannot be opened") from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _special_file()
            yield OpenFile(file, status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _special_file() -> FileRefusedError:
    return FileRefusedError("special_file", "a pipe, socket or device; not opened")


def _folder_entries(root: Path) -> list[Entry]:
    """Of any depth, sorted by the names along the way; links are not followed."""
    found: list[tuple[tuple[str, ...], Entry]] = []
    pending: list[tuple[str, ...]] = [()]
    while pending:
        parts = pending.pop()
        try:
            children = list(os.scandir(root.joinpath(*parts)))
        except OSError:
            refusal = FileRefusedError("unreadable", "a folder of the study cannot be listed")
            found.append((parts, Entry(None, refusal)))
            continue
        for child in children:
            if child.is_dir(follow_symlinks=False):
                pending.append((*parts, child.name))
            else:
                found.append(((*parts, child.name), _entry(child)))
        if len(found) + len(pending) > MAX_FILES:
            break
    _check_count(len(found) + len(pending))
    return [entry for _, entry in sorted(found, key=lambda item: item[0])]


def _entry(child: os.DirEntry[str]) -> Entry:
    if child.is_symlink():
        return Entry(
            None,
            FileRefusedError(
                "link", "a symbolic link; not followed (files inside the study are read there)"
            ),
        )
    if not child.is_file(follow_symlinks=False):
        return Entry(None, _special_file())
    return Entry(_FileSource(Path(child.path)))


# -------------------- zip


def _is_zip(path: Path) -> bool:
    """By its end record, unless it is DICOM: a preamble may hold anything, also a zip's magic."""
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return False
        return zipfile.is_zipfile(path)
    except OSError:
        return False


@dataclass
class _Archive:
    path: Path
    _kept: zipfile.ZipFile | None = field(default=None, init=False, repr=False)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Read the directory of the zip once for all members."""
        with self._opened() as archive:
            self._kept = archive
            try:
                yield
            finally:
                self._kept = None

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        if self._kept is not None:
            yield self._kept
            return
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception:  # zipfile raises many kinds on hostile bytes
            raise StudyError("the zip is damaged; copy it again") from None
        with archive:
            yield archive

    def entries(self) -> list[Entry]:
        with self._opened() as archive:
            # Not is_dir(), which fails on a member without name.
            members = [
                item for item in enumerate(archive.infolist()) if not item[1].filename.endswith("/")
            ]
        _check_count(len(members))
        members.sort(key=lambda item: (item[1].filename.split("/"), item[0]))
        return [Entry(_MemberSource(self, number)) for number, _ in members]

    @contextmanager
    def member(self, number: int) -> Iterator[OpenFile]:
        with self._opened() as archive:
            info = archive.infolist()[number]
            _check_member(info)
            status = os.stat(self.path)
            # Guarded by hand: an error of the caller's block must pass through unchanged.
            try:
                raw = archive.open(info)
            except Exception:  # encryption, unknown method, damaged local header
                raise FileRefusedError("unreadable", "the zip member cannot be unpacked") from None
            with raw:
                buffered = io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER_BYTES)
                stamp = (*_stamp(status), info.header_offset, info.CRC)
                yield OpenFile(buffered, info.file_size, stamp)


@dataclass(frozen=True)
class _MemberSource:
    archive: _Archive
    number: int

    @contextmanager
    def open(self) -> Iterator[OpenFile]:
        with self.archive.member(self.number) as opened:
            yield opened


def _check_member(info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise FileRefusedError(
            "encrypted", "the zip member is encrypted; unpack the zip and give the folder"
        )
    if info.file_size > MAX_MEMBER_BYTES:
        raise FileRefusedError(
            "too_large", f"the zip member has more than {MAX_MEMBER_BYTES >> 30} GiB"
        )
    bomb = info.file_size > MAX_RATIO * max(info.compress_size, 1)
    if bomb and info.file_size > RATIO_FREE_BYTES:
        raise FileRefusedError(
            "compression_ratio",
            f"the zip member unpacks to more than {MAX_RATIO} times its size; unpack it yourself "
            "if you trust it",
        )

"""Files that are there whole or not at all."""

import os
import re
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["unfinished_files", "write_atomically"]

_PREFIX: Final = ".part-"
_UNFINISHED: Final = re.compile(re.escape(_PREFIX) + "[a-z0-9_]{8}")  # as tempfile names them


def unfinished_files(folder: Path) -> list[Path]:
    """What `write_atomically` left in a folder when its process was killed, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _UNFINISHED.fullmatch(path.name) and path.is_file() and not path.is_symlink()
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Write through a temporary file in the same folder, synced, then renamed over `path`.

    Raises
    ------
    OSError
        The folder cannot be written; nothing is left behind. Only a killed process leaves a
        file, under a name that `unfinished_files` knows.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

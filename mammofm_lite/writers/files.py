"""Files that are there whole or not at all."""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..errors import UsageError

__all__ = ["claim_folder", "unfinished_files", "write_atomically"]

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


def claim_folder(folder: Path, names: Iterable[str], force: bool) -> list[Path]:
    """What lies in a result folder from an earlier run and must go before new results come.

    Parameters
    ----------
    names
        Of the files that a run may write.

    Raises
    ------
    UsageError
        The folder exists as a file, or holds such files and `force` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("the output is a file; give a folder")
    # A link counts even if it leads nowhere; it is replaced, never written through.
    taken = [folder / name for name in names if os.path.lexists(folder / name)]
    if taken and not force:
        raise UsageError(
            f"the output folder already has {taken[0].name}; give --force to replace it"
        )
    unfinished = unfinished_files(folder)
    if unfinished and not force:
        raise UsageError(
            "the output folder holds an unfinished file of a run that was killed "
            f"({unfinished[0].name}); give --force to remove it"
        )
    return taken + unfinished


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

"""How a bundle comes to lie on disk: whole or not at all."""

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mammofm_lite.bundle import DESCRIPTION, Bundle, file_record
from mammofm_lite.errors import ExportError

__all__ = [
    "changed_bundle",
    "check_output",
    "file_records",
    "remove_unfinished",
    "whole_bundle",
    "write_description",
]


def check_output(output: Path, *, force: bool) -> None:
    """Refuse to replace what is there, unless told to; before any work is done."""
    if output.exists() and not force:
        raise ExportError(f"{output} exists; give --force to replace it")


@contextmanager
def whole_bundle(output: Path, *, force: bool) -> Iterator[Path]:
    """A scratch folder beside `output`, which becomes the bundle when the block ends well.

    What the block wrote is opened and verified first. If it raises, nothing is left behind and
    what was there stays.

    Raises
    ------
    ExportError
        `output` exists and `force` is not set.
    BundleError
        What was written is no whole bundle.
    """
    check_output(output, force=force)
    output.parent.mkdir(parents=True, exist_ok=True)
    if force:
        remove_unfinished(output)
    scratch = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        yield scratch
        Bundle.open(scratch)
        _replace(scratch, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def changed_bundle(
    bundle: Bundle, output: Path, *, force: bool, without: Collection[str] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """As `whole_bundle`, with the files of a bundle, but those it is to be `without`, in the
    scratch folder, and its description, which is written as the block leaves it, with the files
    that there are then."""
    text = (bundle.path / DESCRIPTION).read_text(encoding="utf-8")
    with whole_bundle(output, force=force) as scratch:
        for name in bundle.files.keys() - set(without):
            shutil.copyfile(bundle.path / name, scratch / name)
        description = json.loads(text)
        yield scratch, description
        description["files"] = file_records(scratch)
        write_description(scratch, description)


def remove_unfinished(output: Path) -> None:
    """What runs with this output left behind when they were killed."""
    unfinished = re.compile(re.escape(f".{output.name}-") + "([a-z0-9_]{8}|old)")
    for path in output.parent.iterdir():
        if unfinished.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _replace(scratch: Path, output: Path) -> None:
    scratch.chmod(0o755)
    if output.exists():
        old = output.with_name(f".{output.name}-old")
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
        scratch.rename(output)
        shutil.rmtree(old)
    else:
        scratch.rename(output)


def file_records(folder: Path) -> dict[str, Any]:
    """What the description says of every file of a folder but itself."""
    names = sorted(path.name for path in folder.iterdir() if path.name != DESCRIPTION)
    return {name: asdict(file_record(folder / name)) for name in names}


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``bundle.json``, the same bytes for the same content."""
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")

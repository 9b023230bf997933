"""A phantom study as a folder of DICOM files, with its truth beside them."""

import json
from pathlib import Path
from typing import Final

from ..writers.files import write_atomically
from ._dicom import dicom_bytes
from ._options import PhantomOptions
from ._render import render_phantom
from ._truth import PhantomTruth

__all__ = ["TRUTH_FILE", "write_phantom"]

TRUTH_FILE: Final = "truth.json"


def write_phantom(
    folder: Path, *, seed: int, options: PhantomOptions | None = None
) -> PhantomTruth:
    """Write a synthetic four-view study: ``L-CC.dcm`` to ``R-MLO.dcm`` and ``truth.json``.

    Files of the same names are replaced, each at once; others are left alone.

    Parameters
    ----------
    folder
        Created where it is missing.
    seed, options
        As for `render_phantom`.

    Raises
    ------
    UsageError
        `seed` is not a whole number of at least 0.
    OSError
        The folder cannot be written.
    """
    options = options or PhantomOptions()
    truth, images = render_phantom(seed, options)
    folder.mkdir(parents=True, exist_ok=True)
    for view, pixels in images.items():
        write_atomically(folder / f"{view}.dcm", dicom_bytes(seed, view, pixels, options))
    text = json.dumps(truth.to_json(), indent=2) + "\n"
    write_atomically(folder / TRUTH_FILE, text.encode())
    return truth

"""Put a file into a bundle that is there already, and list it."""

import dataclasses
import json
from pathlib import Path

from mammofm_lite.bundle import DESCRIPTION, SIGNATURE, Bundle, file_record
from mammofm_lite.writers.files import write_atomically

__all__ = ["put_file"]


def put_file(bundle: Path, name: str, data: bytes) -> Bundle:
    """Write a file, in place of one of that name, and its size and hash into the description.

    A signature is void afterwards and is removed: sign the bundle anew. Killed between the file and
    the description, a bundle is left that does not open; run it again.

    Raises
    ------
    BundleError
        The bundle could not be used before, or `name` is none that a bundle may list.
    """
    Bundle.open(bundle)
    write_atomically(bundle / name, data)
    description = json.loads((bundle / DESCRIPTION).read_text(encoding="utf-8"))
    description["files"][name] = dataclasses.asdict(file_record(bundle / name))
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    write_atomically(bundle / DESCRIPTION, text.encode())
    (bundle / SIGNATURE).unlink(missing_ok=True)
    return Bundle.open(bundle)

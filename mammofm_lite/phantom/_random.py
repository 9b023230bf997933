"""Independent random streams and identifiers, all derived from the seed by hashing.

Every part of a phantom draws from a stream of its own, so that one part can change, or be left
out, without moving the others: a study rendered without lesions is the same study.
"""

import hashlib
import uuid
from typing import Final

import numpy as np

from ..errors import UsageError

__all__ = ["check_seed", "stream", "uid"]

# Raise it when the pixels of a seed change on purpose; identifiers change with it.
REVISION: Final = 2


def check_seed(seed: int) -> None:
    """Refuse what is no seed.

    Raises
    ------
    UsageError
        `seed` is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"phantom: seed is {seed!r}, allowed whole numbers from 0")


def stream(seed: int, *names: str) -> np.random.Generator:
    """The random stream of one named part of the study `seed`."""
    entropy = int.from_bytes(_digest(seed, names), "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def uid(seed: int, *names: str) -> str:
    """A UID under 2.25 (PS3.5 B.2): the UUID that the hash of seed and names gives."""
    return f"2.25.{uuid.UUID(bytes=_digest(seed, names)[:16], version=5).int}"


def _digest(seed: int, names: tuple[str, ...]) -> bytes:
    text = "\n".join(("mammofm-lite phantom", str(REVISION), str(seed), *names))
    return hashlib.sha256(text.encode()).digest()

"""Decimal strings, taken only where they are what the standard calls one."""

import math
import re
from collections.abc import Sequence

__all__ = ["number"]


def number(values: Sequence[str]) -> float | None:
    """A decimal string of one value (PS3.5 6.2); ``None`` where it is not."""
    if len(values) != 1 or not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", values[0]):
        return None
    value = float(values[0])
    return value if math.isfinite(value) else None

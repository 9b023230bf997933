"""The transfer syntaxes that phantoms can be written in: what this package reads and can encode."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSFER_SYNTAXES"]

# Names as the command line takes them, and UIDs (PS3.6 A). JPEG 2000 and JPEG-LS are lossless.
TRANSFER_SYNTAXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "explicit-little": "1.2.840.10008.1.2.1",
        "implicit-little": "1.2.840.10008.1.2",
        "explicit-big": "1.2.840.10008.1.2.2",
        "deflated": "1.2.840.10008.1.2.1.99",
        "rle": "1.2.840.10008.1.2.5",
        "jpeg-ls": "1.2.840.10008.1.2.4.80",
        "jpeg-2000": "1.2.840.10008.1.2.4.90",
    }
)

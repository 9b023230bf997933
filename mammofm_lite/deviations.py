"""Where a file or its pixels were not taken as they are; every result names it per view."""

from collections.abc import Mapping
from typing import Final

__all__ = [
    "COMPUTED_RADIOGRAPHY",
    "DEVIATIONS",
    "PADDING_MASKED",
    "PADDING_NOT_APPLIED",
    "SHUTTER_MASKED",
    "SHUTTER_NOT_APPLIED",
    "TRANSFER_SYNTAX_CORRECTED",
]

PADDING_MASKED: Final = "pixel_padding_masked"
PADDING_NOT_APPLIED: Final = "pixel_padding_not_applied"
SHUTTER_MASKED: Final = "display_shutter_masked"
SHUTTER_NOT_APPLIED: Final = "display_shutter_not_applied"
TRANSFER_SYNTAX_CORRECTED: Final = "transfer_syntax_corrected"
COMPUTED_RADIOGRAPHY: Final = "computed_radiography"

# Stable code: a sentence for a person. Codes are only ever added within one major version of the
# result's schema.
DEVIATIONS: Final[Mapping[str, str]] = {
    PADDING_MASKED: (
        "the pixels of PixelPaddingValue would have misled the grey scale, so they were set to "
        "background"
    ),
    PADDING_NOT_APPLIED: (
        "PixelPaddingValue and PixelPaddingRangeLimit cannot be understood and were not regarded"
    ),
    SHUTTER_MASKED: (
        "the pixels behind the display shutter would have misled the grey scale, so they were set "
        "to background"
    ),
    SHUTTER_NOT_APPLIED: "the display shutter cannot be understood and was not regarded",
    TRANSFER_SYNTAX_CORRECTED: (
        "the pixel data were decoded as what they are, not as the transfer syntax that the file "
        "names"
    ),
    COMPUTED_RADIOGRAPHY: (
        "computed or digital radiography of the breast, accepted as asked; the model was not made "
        "for it"
    ),
}

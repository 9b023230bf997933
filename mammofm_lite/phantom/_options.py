"""What a caller may choose about a phantom study."""

from dataclasses import dataclass
from typing import Final, Literal

from ..errors import UsageError
from ._syntax import TRANSFER_SYNTAXES

__all__ = ["PhantomOptions", "Shift"]

Shift = Literal["none", "vendor", "noise", "texture"]

MOST_LESIONS: Final = 3
_PIXELS: Final = (64, 8192)
_SPACING_MM: Final = (0.04, 1.0)
_SHORTEST_ROWS_MM: Final = 100.0
_SHORTEST_COLUMNS_MM: Final = 80.0
_BITS: Final = (12, 14)
_INTERPRETATIONS: Final = ("MONOCHROME1", "MONOCHROME2")
_SHIFTS: Final = ("none", "vendor", "noise", "texture")


@dataclass(frozen=True)
class PhantomOptions:
    """How a study is rendered; the defaults are a common full-field detector of 23 x 19 cm.

    Parameters
    ----------
    rows, columns
        Size of every image in pixels, 64 to 8192.
    pixel_spacing_mm
        Distance of pixel centres at the detector, 0.04 to 1 mm. The field must measure at least
        100 mm by 80 mm; a breast is shrunk to fit a field smaller than the default.
    lesions
        How many lesions to plant in the study, 0 to 3; ``None`` leaves it to the seed.
    photometric_interpretation
        ``"MONOCHROME2"`` (0 is black) or ``"MONOCHROME1"`` (0 is white).
    bits_stored
        Grey levels are ``2 ** bits_stored``; 12 to 14.
    prevalence
        Share of studies with a cancer, and of the others with a precursor, 0 to 1. Screening finds
        about 5 to 8 cancers in 1000 women; the default is enriched, as reader studies are.
    difficulty
        0 to 1. It lowers contrast and size of lesions and makes their look less typical; at the
        default of 0.5 a careful reader sees most of them, and few leap to the eye.
    shift
        What differs from the plain look: ``"vendor"`` another grey-scale, ``"noise"`` less dose and
        more blur, ``"texture"`` a shallower spectrum and finer lobes of gland. Anatomy and lesions
        stay those of the seed.
    transfer_syntax
        How the pixels are stored in files; a name of `mammofm_lite.phantom.TRANSFER_SYNTAXES`.

    Raises
    ------
    UsageError
        An option is out of its range.
    """

    rows: int = 2294
    columns: int = 1914
    pixel_spacing_mm: float = 0.1
    lesions: int | None = None
    photometric_interpretation: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    bits_stored: int = 12
    prevalence: float = 0.35
    difficulty: float = 0.5
    shift: Shift = "none"
    transfer_syntax: str = "explicit-little"

    def __post_init__(self) -> None:
        _check_whole("rows", self.rows, *_PIXELS)
        _check_whole("columns", self.columns, *_PIXELS)
        _check_whole("bits_stored", self.bits_stored, *_BITS)
        if self.lesions is not None:
            _check_whole("lesions", self.lesions, 0, MOST_LESIONS)
        _check_number("pixel_spacing_mm", self.pixel_spacing_mm, *_SPACING_MM)
        _check_number("prevalence", self.prevalence, 0, 1)
        _check_number("difficulty", self.difficulty, 0, 1)
        _check_choice(
            "photometric_interpretation", self.photometric_interpretation, _INTERPRETATIONS
        )
        _check_choice("shift", self.shift, _SHIFTS)
        _check_choice("transfer_syntax", self.transfer_syntax, tuple(TRANSFER_SYNTAXES))
        self._check_field()

    def _check_field(self) -> None:
        if self.height_mm < _SHORTEST_ROWS_MM or self.width_mm < _SHORTEST_COLUMNS_MM:
            raise UsageError(
                f"phantom: the field is {self.height_mm:.0f} mm by {self.width_mm:.0f} mm, at "
                f"least {_SHORTEST_ROWS_MM:.0f} mm by {_SHORTEST_COLUMNS_MM:.0f} mm are needed; "
                "give more rows and columns or a larger pixel_spacing_mm"
            )

    @property
    def height_mm(self) -> float:
        """Height of the field."""
        return self.rows * self.pixel_spacing_mm

    @property
    def width_mm(self) -> float:
        """Width of the field."""
        return self.columns * self.pixel_spacing_mm

    @property
    def white(self) -> int:
        """Largest stored value."""
        return (1 << self.bits_stored) - 1


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"phantom: {name} is {value!r}, allowed whole numbers {low} to {high}")


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"phantom: {name} is {value!r}, allowed {low} to {high}")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"phantom: {name} is {value!r}, allowed: {', '.join(allowed)}")

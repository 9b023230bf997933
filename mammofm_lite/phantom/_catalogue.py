"""What may be planted: kinds, looks, sizes and how often, as tables.

Terms are those of the mammography lexicon of BI-RADS, 5th edition (C. J. D'Orsi et al., ACR BI-RADS
Atlas, 2013), in the spelling of the report's grammar. The mixture is plausible, not measured:
about half of the cancers found at screening are masses, a third calcifications, the rest
distortions and asymmetries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ._truth import LesionKind

__all__ = ["Pattern", "choose"]

Words = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Pattern:
    """One look of one thing.

    Attributes
    ----------
    weight
        How often, against the others of the same malignancy.
    size_mm
        Median, smallest and largest diameter; log-normal between.
    benign_type
        ``None`` for a cancer.
    typical
        Whether a reader knows at once what it is; difficulty makes these rarer.
    """

    kind: LesionKind
    weight: float
    size_mm: tuple[float, float, float]
    words: Words = field(default_factory=dict)
    benign_type: str | None = None
    suspicious: bool = True
    typical: bool = True


def _mass(
    weight: float,
    shape: str,
    margin: str,
    density: str,
    *,
    size_mm: tuple[float, float, float] = (14, 5, 35),
    benign_type: str | None = None,
    suspicious: bool = True,
    typical: bool = True,
) -> Pattern:
    """Several words of one kind are separated by a stroke."""
    words = {
        "shape": tuple(shape.split("|")),
        "margin": tuple(margin.split("|")),
        "density": tuple(density.split("|")),
    }
    return Pattern("mass", weight, size_mm, words, benign_type, suspicious, typical)


def _specks(
    weight: float,
    morphology: str,
    distribution: str,
    size_mm: tuple[float, float, float],
    *,
    benign_type: str | None = None,
    suspicious: bool = True,
    typical: bool = True,
) -> Pattern:
    words = {"morphology": (morphology,), "distribution": tuple(distribution.split("|"))}
    return Pattern("calcifications", weight, size_mm, words, benign_type, suspicious, typical)


def _benign_specks(
    weight: float, morphology: str, distribution: str, size_mm: tuple[float, float, float]
) -> Pattern:
    name = morphology.replace("_", " ")
    return _specks(weight, morphology, distribution, size_mm, benign_type=name, suspicious=False)


_CANCERS: Final = (
    _mass(0.26, "irregular", "spiculated", "high|equal"),
    _mass(0.14, "irregular", "indistinct", "high|equal"),
    _mass(0.07, "round|oval|irregular", "microlobulated", "high|equal", typical=False),
    _mass(0.05, "round|oval", "indistinct", "high|equal", typical=False),
    _specks(0.09, "fine_pleomorphic", "grouped", (12, 4, 25)),
    _specks(0.04, "fine_pleomorphic", "segmental|regional", (28, 20, 40)),
    _specks(0.06, "fine_linear", "linear", (16, 8, 25)),
    _specks(0.03, "fine_linear", "segmental", (28, 20, 40)),
    _specks(0.05, "amorphous", "grouped", (14, 4, 25), typical=False),
    _specks(0.05, "coarse_heterogeneous", "grouped", (12, 5, 25), typical=False),
    Pattern("architectural_distortion", 0.08, (26, 16, 40)),
    Pattern("focal_asymmetry", 0.08, (20, 12, 35), typical=False),
)
_SMALL_SUSPICIOUS: Final = 0.02
_BENIGN: Final = (
    _mass(0.14, "round|oval", "circumscribed", "low|equal", benign_type="cyst", suspicious=False),
    _mass(0.12, "oval", "circumscribed", "equal", benign_type="fibroadenoma", suspicious=False),
    _mass(0.04, "oval", "obscured", "equal", benign_type="fibroadenoma", suspicious=False),
    _mass(
        0.06,
        "round|oval",
        "circumscribed",
        "fat_containing",
        size_mm=(10, 5, 20),
        benign_type="oil cyst",
        suspicious=False,
    ),
    _mass(
        0.03,
        "oval",
        "circumscribed",
        "fat_containing",
        size_mm=(22, 12, 35),
        benign_type="hamartoma",
        suspicious=False,
    ),
    Pattern("intramammary_lymph_node", 0.1, (8, 5, 12), benign_type="lymph node", suspicious=False),
    _benign_specks(0.1, "vascular", "linear", (28, 18, 40)),
    _benign_specks(0.06, "rim", "grouped", (6, 4, 11)),
    _benign_specks(0.07, "coarse", "grouped", (9, 5, 16)),
    _benign_specks(0.05, "large_rod_like", "regional", (30, 20, 40)),
    _benign_specks(0.05, "milk_of_calcium", "grouped", (12, 6, 20)),
    _benign_specks(0.05, "skin", "grouped", (10, 5, 16)),
    _benign_specks(0.06, "round", "grouped", (14, 5, 25)),
    _benign_specks(0.03, "dystrophic", "grouped", (10, 5, 18)),
    Pattern(
        "focal_asymmetry", 0.06, (26, 16, 38), benign_type="asymmetric tissue", suspicious=False
    ),
    _mass(
        _SMALL_SUSPICIOUS,
        "irregular|oval",
        "indistinct",
        "equal",
        size_mm=(11, 5, 20),
        benign_type="fat necrosis",
        typical=False,
    ),
    _specks(
        _SMALL_SUSPICIOUS,
        "amorphous",
        "grouped",
        (9, 4, 16),
        benign_type="fibrocystic change",
        typical=False,
    ),
    Pattern(
        "architectural_distortion",
        _SMALL_SUSPICIOUS,
        (20, 14, 30),
        benign_type="radial scar",
        typical=False,
    ),
)


def choose(random: np.random.Generator, malignant: bool, difficulty: float) -> Pattern:
    """A pattern by its weight; the harder, the fewer typical ones."""
    patterns = _CANCERS if malignant else _BENIGN
    weights = np.array(
        [
            pattern.weight * ((1.5 - difficulty) if pattern.typical else (0.5 + difficulty))
            for pattern in patterns
        ]
    )
    return patterns[int(random.choice(len(patterns), p=weights / weights.sum()))]

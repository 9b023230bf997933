"""Which phantoms serve for what. No seed serves twice: what is measured was never trained on."""

from typing import Final

__all__ = ["HELD_OUT", "TRAINING", "VALIDATION", "training_seeds"]

TRAINING: Final = range(1_000_000)
"""Weights are fitted on these."""

VALIDATION: Final = range(1_000_000, 2_000_000)
"""Thresholds, calibration and the epoch to keep are chosen on these."""

HELD_OUT: Final = range(2_000_000, 3_000_000)
"""Quality is measured on these, and nothing else is done with them."""

_APART: Final = 20_000


def training_seeds(run: int) -> range:
    """Seeds to train on, in their order: other ones for another run, so that one which goes on
    meets none that an earlier one has learned by heart. At least half of `TRAINING`."""
    return TRAINING[run * _APART % (len(TRAINING) // 2) :]

"""Heads of few numbers, fitted to a frozen encoder's features of all studies at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .data import Study
from .encoders import FrozenEncoder, pooled_exactly
from .features import FeatureSet
from .fitting import Twins, fit_head
from .network import DENSITIES, DemoNetwork
from .stages import risks

__all__ = ["Checks", "fit_heads", "make_checks"]

_SHARE_OF_VARIED: Final = 0.75  # of the loss


@dataclass(frozen=True)
class Checks:
    """What keeps heads from leaning on what only the pictures have that they are fitted to.

    Attributes
    ----------
    varied
        What the encoder pools of the first studies, varied ``[studies, 4, channels]``.
    exact
        What it pools of the first ones without rounding, the same.
    """

    varied: Tensor
    exact: Tensor


def make_checks(
    network: DemoNetwork,
    encoder: FrozenEncoder,
    studies: Sequence[Study],
    *,
    exact: int,
    seed: int,
) -> Checks:
    """Encode studies varied, and so many of them without rounding."""
    random = np.random.default_rng(seed)
    varied = torch.cat([encoder([study], random).pooled for study in studies])
    return Checks(varied, pooled_exactly(network, studies[:exact]))


def fit_heads(
    network: DemoNetwork, features: FeatureSet, checks: Checks, device: torch.device
) -> None:
    """Fit diagnosis and prognosis.

    Diagnosis was trained beside the encoder, a study or two a step, and lags behind it; but fitted
    to plain INT8 features alone, it leans on what is nowhere else. Measured, fitted to 2325
    phantoms and on others, before, fitted to them alone, and with 500 of them varied too and 250
    as twins (of which each weight did not yet have its price, see `fit_head`):

    ==================================  ======  ===========  =============
    phantoms                            before  plain alone  with `checks`
    ==================================  ======  ===========  =============
    183: malignancy, area under curve   0.911        0.927          0.922
    the same, float32                   0.913        0.629          0.919
    183: density                          0.78         0.97           0.95
    the same, float32                     0.75         0.47           0.95
    90 of another texture: density        0.78         0.52           0.89
    90 of another vendor: density         0.80         0.79           1.00
    ==================================  ======  ===========  =============

    The prognosis is fitted to plain features alone: varied ones made it no better anywhere.

    Parameters
    ----------
    checks
        Of the first of the same studies.
    """
    plain = features.pooled().flatten(0, 1)
    varied, exact = checks.varied.flatten(0, 1), checks.exact.flatten(0, 1)
    pooled = torch.cat([plain, varied]).to(device)
    twins = Twins(plain[: len(exact)].to(device), exact.to(device))
    malignant, densities = (
        torch.cat([labels, labels[: len(varied)]]).to(device) for labels in _labels(features)
    )
    counts = [len(plain), len(varied)]
    shares = torch.tensor([1 - _SHARE_OF_VARIED, _SHARE_OF_VARIED]) / torch.tensor(counts)
    weights = shares.repeat_interleave(torch.tensor(counts)).to(device)

    def called(logits: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0], malignant, weights, reduction="sum"
        )

    def dense(logits: Tensor) -> Tensor:
        return weights @ functional.cross_entropy(logits, densities, reduction="none")

    fit_head(network.malignancy, pooled, called, twins)
    fit_head(network.density, pooled, dense, twins)
    network.prognosis.fit(features.squares().to(device), risks(features.truths).to(device))


def _labels(features: FeatureSet) -> tuple[Tensor, Tensor]:
    """Of every view, study by study: whether it shows a cancer, float32, and the density, int64."""
    malignant, densities = [], []
    for truth, shown in zip(features.truths, features.shown, strict=True):
        malignant += [
            float(any(truth.lesions[lesion].malignant for lesion in view)) for view in shown
        ]
        densities += [DENSITIES.index(truth.density)] * len(shown)
    return torch.tensor(malignant), torch.tensor(densities)

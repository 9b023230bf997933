"""Heads of few numbers, fitted to a frozen encoder's features of all studies at once."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.export.models.diagnosis import LinearClassifier

from .features import FeatureSet
from .fitting import Twins, fit_head
from .heard import Heard
from .network import DENSITIES, DemoNetwork
from .stages import risks

__all__ = ["Checks", "Examples", "fit_density", "fit_heads", "fit_malignancy"]

_SHARE_OF_VARIED: Final = 0.75  # of the loss


@dataclass(frozen=True)
class Checks:
    """What keeps heads from leaning on what only the pictures have that they are fitted to.

    Attributes
    ----------
    varied
        What the encoder pools of the first studies, varied: float32 ``[studies, 4, channels]``.
    exact
        What it pools of the first ones without rounding, the same.
    """

    varied: Tensor
    exact: Tensor

    @classmethod
    def of(cls, heard: Heard, exact: Tensor) -> "Checks":
        """By the first variation of studies that are heard."""
        return cls(torch.from_numpy(np.array(heard.pooled[1])), exact)


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
    examples = Examples.of(features, checks, device)
    fit_malignancy(network.malignancy, examples)
    fit_density(network.density, examples)
    network.prognosis.fit(features.squares().to(device), risks(features.truths).to(device))


@dataclass(frozen=True)
class Examples:
    """Views that diagnosis is fitted to.

    Attributes
    ----------
    pooled
        float32 ``[views, channels]``, of plain and of varied ones.
    weights
        Of each in the loss, float32 ``[views]``.
    malignant, densities
        Whether each shows a cancer, float32, and the density of its breast, int64: ``[views]``.
    twins
        Of the first plain ones.
    """

    pooled: Tensor
    weights: Tensor
    malignant: Tensor
    densities: Tensor
    twins: Twins

    @classmethod
    def of(cls, features: FeatureSet, checks: Checks, device: torch.device) -> "Examples":
        """All views of some studies, and what keeps heads from leaning on them alone."""
        plain = features.pooled().flatten(0, 1)
        varied, exact = checks.varied.flatten(0, 1), checks.exact.flatten(0, 1)
        counts = [len(plain), len(varied)]
        shares = torch.tensor([1 - _SHARE_OF_VARIED, _SHARE_OF_VARIED]) / torch.tensor(counts)
        malignant, densities = (
            torch.cat([labels, labels[: len(varied)]]).to(device) for labels in _labels(features)
        )
        return cls(
            torch.cat([plain, varied]).to(device),
            shares.repeat_interleave(torch.tensor(counts)).to(device),
            malignant,
            densities,
            Twins(plain[: len(exact)].to(device), exact.to(device)),
        )


def fit_malignancy(head: LinearClassifier, examples: Examples) -> None:
    """Fit the answer whether a view shows a cancer."""

    def loss(logits: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0], examples.malignant, examples.weights, reduction="sum"
        )

    fit_head(head, examples.pooled, loss, examples.twins)


def fit_density(head: LinearClassifier, examples: Examples) -> None:
    """Fit the answer how dense a breast is."""

    def loss(logits: Tensor) -> Tensor:
        apart = functional.cross_entropy(logits, examples.densities, reduction="none")
        return examples.weights @ apart

    fit_head(head, examples.pooled, loss, examples.twins)


def _labels(features: FeatureSet) -> tuple[Tensor, Tensor]:
    """Of every view, study by study: whether it shows a cancer, float32, and the density, int64."""
    malignant, densities = [], []
    for truth, shown in zip(features.truths, features.shown, strict=True):
        malignant += [
            float(any(truth.lesions[lesion].malignant for lesion in view)) for view in shown
        ]
        densities += [DENSITIES.index(truth.density)] * len(shown)
    return torch.tensor(malignant), torch.tensor(densities)

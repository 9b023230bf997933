"""The stages of training: crops, whole views, then the heads that read a frozen encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.export.models.efficientnet import Features
from mammofm_lite.phantom import PhantomTruth

from .batches import CropPlan, Pictures, crops, whole_views
from .data import Study
from .losses import dense_loss, detection_loss
from .network import DENSE_CLASSES, DemoNetwork

__all__ = ["CropLosses", "ViewLosses", "risks", "settle_norms", "start_prognosis"]

_PRECURSOR: Final = DENSE_CLASSES.index("precursor")


def _seen(network: DemoNetwork, pictures: Pictures, device: torch.device) -> Features:
    return network.features(pictures.grey.to(device))


def _lesion_losses(
    network: DemoNetwork, features: Features, pictures: Pictures
) -> dict[str, Tensor]:
    """Losses of boxes and cells, which crops and whole views share."""
    size = (int(pictures.grey.shape[2]), int(pictures.grey.shape[3]))
    pyramid = (features.c3, features.c4, features.c5)
    fine = dense_loss(network.dense_c3(features.c3), pictures.targets, size, _PRECURSOR)
    coarse = dense_loss(network.dense_map(features.map), pictures.targets, size, _PRECURSOR)
    return {
        "boxes": detection_loss(network.localization, pyramid, pictures.targets, size),
        "cells": 0.5 * fine + 0.5 * coarse,
    }


@dataclass(frozen=True)
class CropLosses:
    """Stage A: most of what there is to learn of lesions, at many examples per second."""

    network: DemoNetwork
    studies: Sequence[Study]
    plan: CropPlan
    device: torch.device

    def __call__(self, random: np.random.Generator) -> Mapping[str, Tensor]:
        network = self.network
        pictures = crops(self.studies, self.plan, network.kinds, random)
        features = _seen(network, pictures, self.device)
        answers = network.pooled(features)
        density = functional.cross_entropy(answers.density, pictures.density.to(self.device))
        return {
            **_lesion_losses(network, features, pictures),
            "malignancy": _malignancy(answers.malignancy, pictures),
            "density": 0.3 * density,
        }


def _malignancy(logits: Tensor, pictures: Pictures) -> Tensor:
    malignant = torch.tensor([float(one.malignant) for one in pictures.targets])
    return functional.binary_cross_entropy_with_logits(logits, malignant.to(logits.device))


@dataclass(frozen=True)
class ViewLosses:
    """Stage B: whole studies, all heads but the report."""

    network: DemoNetwork
    studies: Sequence[Study]
    count: int
    device: torch.device

    def __call__(self, random: np.random.Generator) -> Mapping[str, Tensor]:
        network = self.network
        chosen = [self.studies[i] for i in random.integers(len(self.studies), size=self.count)]
        pictures = whole_views(chosen, network.kinds, random)
        features = _seen(network, pictures, self.device)
        answers = network.pooled(features)
        density = functional.cross_entropy(answers.density, pictures.density.to(self.device))
        truths = [study.truth for study in chosen]
        return {
            **_lesion_losses(network, features, pictures),
            "malignancy": _malignancy(answers.malignancy, pictures)
            + 0.5 * _study_malignancy(answers.malignancy, truths),
            "density": 0.5 * density,
            "risk": 0.5 * _risk(network, features.map, truths),
        }


def _study_malignancy(logits: Tensor, truths: Sequence[PhantomTruth]) -> Tensor:
    """Of the study as the bundle combines it: views of a breast averaged, the worse breast."""
    breasts = torch.sigmoid(logits).reshape(len(truths), 2, 2).mean(dim=2)
    study = breasts.amax(dim=1).clamp(1e-6, 1 - 1e-6)
    malignant = torch.tensor([float(truth.malignant) for truth in truths]).to(logits.device)
    return functional.binary_cross_entropy(study, malignant)


def risks(truths: Sequence[PhantomTruth]) -> Tensor:
    """True risk of every year: float32 ``[studies, years]``.

    The risk is the mean of the drawn outcomes, so as a target of the cross entropy it is what
    infinitely many draws of the same woman would teach.
    """
    return torch.tensor([truth.risk_by_year for truth in truths], dtype=torch.float32)


def _risk(network: DemoNetwork, maps: Tensor, truths: Sequence[PhantomTruth]) -> Tensor:
    logits = network.prognosis.logits(network.prognosis.study_squares(maps))
    wanted = risks(truths).to(logits.device)
    return functional.binary_cross_entropy_with_logits(logits, wanted)


@torch.no_grad()
def settle_norms(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> None:
    """Measure the statistics of batch norms anew, on whole views as inference sees them.

    Those gathered on the way are of other weights than the average that is kept.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of all batches
    network.train()
    for study in studies:
        _seen(network, whole_views([study], network.kinds, None), device)
    network.eval()
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


@torch.no_grad()
def start_prognosis(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> None:
    """Scale the stretch so that scores begin where they can be learned."""
    network.train()
    maps = _seen(network, whole_views(studies, network.kinds, None), device).map
    network.prognosis.start(network.prognosis.study_squares(maps))

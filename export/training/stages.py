"""The stages of training: crops, whole views, then the heads that read a frozen encoder."""

from collections.abc import Callable, Mapping, Sequence
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

__all__ = [
    "CropLosses",
    "MixedLosses",
    "ViewLosses",
    "fitted_line",
    "hold_norms",
    "risks",
    "settle_norms",
    "start_views",
    "stretch_logit",
]

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


@dataclass(frozen=True)
class MixedLosses:
    """Stage C: whole studies and, beside each step, crops of others.

    A whole study costs as much as forty crops; what is rare has to be seen more often than that
    allows. Of crops only boxes and cells are taught: in a crop a lesion fills more of what is
    pooled than in a view.
    """

    views: ViewLosses
    plan: CropPlan

    def __call__(self, random: np.random.Generator) -> Mapping[str, Tensor]:
        whole, network = self.views(random), self.views.network
        pictures = crops(self.views.studies, self.plan, network.kinds, random)
        features = _seen(network, pictures, self.views.device)
        cut = _lesion_losses(network, features, pictures)
        return {**whole, **{f"{name} of crops": loss for name, loss in cut.items()}}


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
def settle_norms(
    network: DemoNetwork, losses: CropLosses, steps: int, generator: np.random.Generator
) -> None:
    """Measure the statistics of batch norms anew on crops, for the weights as they are now.

    Those gathered on the way are of other weights than the average that is kept.
    """
    norms = _norms(network)
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean of all batches
    network.train()
    for _ in range(steps):
        pictures = crops(losses.studies, losses.plan, network.kinds, generator)
        _seen(network, pictures, losses.device)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def hold_norms(network: DemoNetwork) -> None:
    """Train on with the statistics that the batch norms have.

    A whole view is half background: by statistics of its own, tissue would look to every layer
    otherwise than the crops did from which lesions were learned. Measured after a short run, on
    the first whole views: loss of boxes 2.1 with the statistics of crops, 2.8 with the view's
    own; of the risk 0.6 instead of 12.
    """
    network.train()
    for layer in _norms(network):
        layer.eval()


def _norms(network: DemoNetwork) -> list[nn.BatchNorm2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def start_views(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> None:
    """Scale the answers about whole views so that they begin where they can be learned.

    A cancer fills less of a view than of a crop, so less of the pooled features too: the logit of
    malignancy is stretched for it. The risk is centred on what these studies run.
    """
    network.eval()
    logits, squares, malignant = [], [], []
    for study in studies:
        pictures = whole_views([study], network.kinds, None)
        features = _seen(network, pictures, device)
        logits.append(network.pooled(features).malignancy)
        squares.append(network.prognosis.study_squares(features.map))
        malignant += [float(one.malignant) for one in pictures.targets]
    wanted = torch.tensor(malignant, device=device)
    stretch_logit(network.malignancy.classifier.classification_head, torch.cat(logits), wanted)
    together = torch.cat(squares)
    network.prognosis.start(together)
    network.prognosis.recentre(together, risks([study.truth for study in studies]).to(device))


def stretch_logit(head: nn.Linear, logits: Tensor, wanted: Tensor) -> None:
    """Scale and shift a head of one logit by what fits the answers wanted best."""
    scale, shift = fitted_line(
        lambda a, c: functional.binary_cross_entropy_with_logits(logits * a + c, wanted)
    )
    with torch.no_grad():
        head.weight.mul_(scale)
        head.bias.mul_(scale).add_(shift)


def fitted_line(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """The positive scale and the shift of logits that minimise a loss (Platt 1999)."""
    log_scale, shift = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(log_scale.exp(), shift)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return float(log_scale.detach().exp()), float(shift.detach())

"""The stages of training: crops, whole views, then the heads that read a frozen encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.efficientnet import Features
from mammofm_lite.phantom import PhantomTruth

from .batches import CropPlan, Pictures, crops, whole_views
from .data import Study
from .fitting import fit_head, minimise
from .losses import Aims, dense_loss, dense_targets, detection_loss, offset_loss
from .network import DENSE_CLASSES, RISK_CLASSES, DemoNetwork

__all__ = [
    "CropLosses",
    "DrawnStudies",
    "MixedLosses",
    "ViewLosses",
    "begin_rounding",
    "fitted_line",
    "hold_norms",
    "risks",
    "settle_norms",
    "start_views",
    "stretch_logit",
]

Losses = Mapping[str, Tensor]
Size = tuple[int, int]

_OF_RISK: Final = [DENSE_CLASSES.index(name) for name in RISK_CLASSES]
_WINDOWS: Final = 0.05


def _seen(network: DemoNetwork, pictures: Pictures, device: torch.device) -> Features:
    return network.features(pictures.grey(device))


def _lesion_losses(network: DemoNetwork, features: Features, aims: Aims, size: Size) -> Losses:
    """Losses of boxes and cells, which crops and whole views share."""
    pyramid = (features.c3, features.c4, features.c5)
    fine = dense_loss(network.dense_c3(features.c3), aims, size)
    coarse = dense_loss(network.dense_map(features.map), aims, size)
    risky = replace(aims, flags=aims.flags[..., _OF_RISK])
    return {
        "boxes": detection_loss(network.localization, pyramid, aims, size),
        "cells": 0.5 * fine + 0.5 * coarse,
        "offsets": offset_loss(network.dense_offsets(features.map), aims, size),
        "cells of risk": 0.5 * dense_loss(network.risk_cells(features.map), risky, size),
    }


@dataclass(frozen=True)
class CropLosses:
    """Stage A: most of what there is to learn of lesions, at many examples per second.

    Attributes
    ----------
    views
        Pooled features of whole views without a cancer ``[n, channels]``, for a network that knows
        such views already: malignancy is judged as if the crops lay in them, see `_in_views`, and
        density, which a crop shows badly, is not. ``None`` judges both in the crops alone.
    """

    network: DemoNetwork
    studies: Sequence[Study]
    plan: CropPlan
    device: torch.device
    views: Tensor | None = None

    def draw(self, random: np.random.Generator) -> Pictures:
        return crops(self.studies, self.plan, self.network.kinds, random)

    def __call__(self, drawn: Pictures) -> Losses:
        network, aims = self.network, drawn.aims.to(self.device)
        features = _seen(network, drawn, self.device)
        lesions = _lesion_losses(network, features, aims, drawn.size)
        if self.views is not None:
            placed = _in_views(features, drawn.size, self.views, network.size)
            return {**lesions, "malignancy": _malignancy(network.malignancy(placed)[:, 0], aims)}
        answers = network.pooled(features)
        density = functional.cross_entropy(answers.density, drawn.density.to(self.device))
        return {
            **lesions,
            "malignancy": _malignancy(answers.malignancy, aims),
            "density": 0.3 * density,
        }


def _malignancy(logits: Tensor, aims: Aims) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, aims.malignant)


@dataclass(frozen=True, eq=False)
class DrawnStudies:
    """Whole studies of a step: all their views, and what is true of each study."""

    pictures: Pictures
    malignant: Tensor
    risks: Tensor


@dataclass(frozen=True)
class ViewLosses:
    """Stage B: whole studies, all heads but the report."""

    network: DemoNetwork
    studies: Sequence[Study]
    count: int
    device: torch.device

    def draw(self, random: np.random.Generator) -> DrawnStudies:
        chosen = [self.studies[i] for i in random.integers(len(self.studies), size=self.count)]
        truths = [study.truth for study in chosen]
        return DrawnStudies(
            whole_views(chosen, self.network.kinds, random),
            torch.tensor([float(truth.malignant) for truth in truths]),
            risks(truths),
        )

    def __call__(self, drawn: DrawnStudies) -> Losses:
        return self.of(_seen(self.network, drawn.pictures, self.device), drawn)

    def of(self, features: Features, drawn: DrawnStudies) -> Losses:
        """The losses, where the features of all views are known."""
        network, pictures = self.network, drawn.pictures
        aims = pictures.aims.to(self.device)
        answers = network.pooled(features)
        density = functional.cross_entropy(answers.density, pictures.density.to(self.device))
        study = _study_malignancy(answers.malignancy, drawn.malignant.to(self.device))
        return {
            **_lesion_losses(network, features, aims, pictures.size),
            "malignancy": _malignancy(answers.malignancy, aims) + 0.5 * study,
            "density": 0.5 * density,
            **_risk_losses(network, features.map, aims, pictures.size, drawn.risks.to(self.device)),
        }


@dataclass(frozen=True)
class MixedLosses:
    """Stage C: whole studies and, beside each step, crops of others.

    A whole study costs as much as twenty to forty crops; what is rare has to be seen more often
    than that allows. In a crop a lesion fills more of what is pooled than in a view; so that a
    crop teaches malignancy in the measure of a view, it is judged within one: see `_in_views`.
    """

    views: ViewLosses
    plan: CropPlan

    def draw(self, random: np.random.Generator) -> tuple[DrawnStudies, Pictures]:
        whole, kinds = self.views.draw(random), self.views.network.kinds
        return whole, crops(self.views.studies, self.plan, kinds, random)

    def __call__(self, drawn: tuple[DrawnStudies, Pictures]) -> Losses:
        studies, pictures = drawn
        network, device = self.views.network, self.views.device
        whole = _seen(network, studies.pictures, device)
        features, aims = _seen(network, pictures, device), pictures.aims.to(device)
        cut = dict(_lesion_losses(network, features, aims, pictures.size))
        normal = studies.pictures.aims.malignant == 0
        if normal.any():
            rest = whole.pooled[normal.to(device)]
            placed = _in_views(features, pictures.size, rest, network.size)
            cut["malignancy"] = _malignancy(network.malignancy(placed)[:, 0], aims)
        of_crops = {f"{name} of crops": loss for name, loss in cut.items()}
        return {**self.views.of(whole, studies), **of_crops}


def _in_views(crops: Features, size: Size, views: Tensor, whole: Size) -> Tensor:
    """What would be pooled if crops lay in whole views: ``[crops, channels]``.

    The mean over a view, of which as much as a crop has is the crop's. Views take their turns; they
    are taught nothing by it.

    Parameters
    ----------
    size, whole
        Of a crop, and of a view, in pixels.
    views
        What is pooled of views ``[n, channels]``.
    """
    share = (size[0] * size[1]) / (whole[0] * whole[1])
    turns = torch.arange(len(crops.pooled), device=views.device) % len(views)
    return torch.lerp(views.detach()[turns], crops.pooled, min(share, 1.0))


def _study_malignancy(logits: Tensor, malignant: Tensor) -> Tensor:
    """Of the study as the bundle combines it: views of a breast averaged, the worse breast."""
    breasts = torch.sigmoid(logits).reshape(len(malignant), 2, 2).mean(dim=2)
    study = breasts.amax(dim=1).clamp(1e-6, 1 - 1e-6)
    return functional.binary_cross_entropy(study, malignant)


def risks(truths: Sequence[PhantomTruth]) -> Tensor:
    """True risk of every year: float32 ``[studies, years]``.

    The risk is the mean of the drawn outcomes, so as a target of the cross entropy it is what
    infinitely many draws of the same woman would teach.
    """
    return torch.tensor([truth.risk_by_year for truth in truths], dtype=torch.float32)


def _risk_losses(
    network: DemoNetwork, maps: Tensor, aims: Aims, size: Size, wanted: Tensor
) -> Losses:
    """Of the whole study, and of every window of it: what lets a woman's risk rise has its place.

    The largest window alone decides the risk, and it alone would be taught. So each is taught: one
    with a cancer or a precursor on either side the risk of the study, every other to be silent.
    """
    prognosis = network.prognosis
    squares = prognosis.study_squares(maps)
    whole = functional.binary_cross_entropy_with_logits(prognosis.logits(squares), wanted)
    cells = dense_targets(aims, (int(maps.shape[2]), int(maps.shape[3])), size)
    held = prognosis.covered(cells[:, _OF_RISK].amax(dim=1, keepdim=True).ceil())
    windows = functional.binary_cross_entropy_with_logits(
        prognosis.window_logits(squares),
        held[:, None] * wanted[:, :, None, None],
        reduction="sum",
    )
    count = held.sum().clamp(min=len(wanted)) * wanted.shape[1]
    return {"risk": 0.5 * whole, "risk of windows": _WINDOWS * windows / count}


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
        _seen(network, losses.draw(generator), losses.device)
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
def begin_rounding(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> None:
    """Round from now on, in the ranges that these studies have as quantization will see them.

    Training moves the ranges along, by varied pictures and by weights that change; what comes after
    it is to hear the encoder as it will be.
    """
    hold_norms(network)
    network.rounding.begin()
    for study in studies:
        _seen(network, whole_views([study], network.kinds, None), device)
    network.rounding.on = True


@torch.no_grad()
def start_views(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> Tensor:
    """Scale the answers about whole views so that they begin where they can be learned.

    A cancer fills less of a view than of a crop, so less of the pooled features too: the logit of
    malignancy is stretched for it. Density, which crops do not teach, is forgotten in them where
    they teach the encoder: its head is fitted. The prognosis begins from nothing, centred on the
    risk that these studies run.

    Returns
    -------
    Tensor
        Pooled features of the views without a cancer ``[n, channels]``.

    Raises
    ------
    ExportError
        Every view has one.
    """
    network.eval()
    pooled, squares, malignant, densities = [], [], [], []
    for study in studies:
        pictures = whole_views([study], network.kinds, None)
        features = _seen(network, pictures, device)
        pooled.append(features.pooled)
        squares.append(network.prognosis.study_squares(features.map))
        malignant.append(pictures.aims.malignant)
        densities.append(pictures.density)
    views, wanted = torch.cat(pooled), torch.cat(malignant).to(device)
    normal = views[wanted == 0]
    if not len(normal):
        raise ExportError("training: no view without a cancer among the first phantoms")
    head = network.malignancy
    stretch_logit(head.classifier.classification_head, head(views)[:, 0], wanted)
    classes = torch.cat(densities).to(device)
    fit_head(network.density, views, lambda logits: functional.cross_entropy(logits, classes))
    together = torch.cat(squares)
    network.prognosis.start(together)
    network.prognosis.recentre(together, risks([study.truth for study in studies]).to(device))
    return normal


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
    minimise((log_scale, shift), lambda: loss(log_scale.exp(), shift))
    return float(log_scale.detach().exp()), float(shift.detach())

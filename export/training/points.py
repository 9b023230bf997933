"""Operating points and calibration, chosen on phantoms that nothing was trained on.

Every choice is folded into what the bundle already has: the linear layer of the malignancy label,
the shared standardisation of the asymmetry heads, and the thresholds of the recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mammofm_lite.export.models.boxes import postprocess
from mammofm_lite.phantom import PhantomTruth

from .batches import whole_views
from .data import Study
from .losses import NO_BOX, overlaps
from .network import DENSITIES, DemoNetwork
from .stages import fitted_line, risks

__all__ = [
    "Answers",
    "Calibration",
    "Mark",
    "Points",
    "answers",
    "area_under_curve",
    "best_threshold",
    "calibration",
    "choose_points",
    "mark_threshold",
    "marks_of",
    "study_probability",
]

FALSE_MARKS_PER_IMAGE: Final = 0.5
_HIT_IOU: Final = 0.3
_LEAST_SCORE: Final = 0.05
_MOST_MARKS: Final = 100

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mark:
    """One box of the detector: its score, and the lesion it hits (-1 for none)."""

    score: float
    lesion: int


@dataclass(frozen=True)
class Answers:
    """What a network says of some studies.

    Attributes
    ----------
    malignancy
        Logits ``[studies, 4]``.
    density
        Probabilities ``[studies, 4, classes]``.
    risk
        Logits ``[studies, years]``.
    marks
        Per picture, by falling score.
    lesions
        How many lesions each picture shows.
    """

    malignancy: Tensor
    density: Tensor
    risk: Tensor
    marks: Sequence[Sequence[Mark]]
    lesions: Sequence[int]


@torch.no_grad()
def answers(network: DemoNetwork, studies: Sequence[Study], device: torch.device) -> Answers:
    """Ask the network as the bundle will be asked, study by study."""
    network.eval()
    malignancy, density, risk = [], [], []
    marks: list[list[Mark]] = []
    lesions: list[int] = []
    for study in (studies[index] for index in range(len(studies))):
        pictures = whole_views([study], network.kinds, None)
        size, aims = pictures.size, pictures.aims
        features = network.features(pictures.grey(device))
        pooled = network.pooled(features)
        malignancy.append(pooled.malignancy.cpu())
        density.append(torch.softmax(pooled.density, dim=1).cpu())
        prognosis = network.prognosis
        risk.append(prognosis.logits(prognosis.study_squares(features.map))[0].cpu())
        raw = network.localization.raw(features.c3, features.c4, features.c5, size)
        boxes = network.localization.decode(raw.deltas.cpu(), size)
        for row, labels in enumerate(aims.labels):
            found = postprocess(boxes[row], raw.scores[row].cpu(), most=_MOST_MARKS)
            wanted = aims.boxes[row, labels != NO_BOX].numpy()
            marks.append(marks_of(found.boxes.numpy(), found.scores.tolist(), wanted))
            lesions.append(len(wanted))
    return Answers(torch.stack(malignancy), torch.stack(density), torch.stack(risk), marks, lesions)


def marks_of(boxes: Floats, scores: Sequence[float], targets: Floats) -> list[Mark]:
    """A mark hits the lesion that holds its centre or overlaps it by 0.3; each is hit once."""
    if not len(targets):
        return [Mark(score, -1) for score in scores]
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = ((centre >= targets[None, :, :2]) & (centre <= targets[None, :, 2:])).all(axis=2)
    shares = overlaps(boxes, targets)
    hits = inside | (shares >= _HIT_IOU)
    free = np.ones(len(targets), bool)
    marks = []
    for hit, share, score in zip(hits, shares, scores, strict=True):
        usable = hit & free
        lesion = int(np.argmax(np.where(usable, share, -1))) if usable.any() else -1
        if lesion >= 0:
            free[lesion] = False
        marks.append(Mark(score, lesion))
    return marks


# -------------------- what is chosen


@dataclass(frozen=True)
class Points:
    """What goes into the recipe: thresholds, and the standardisation of the prognosis."""

    malignancy: float
    localization: float
    mean: float
    std: float


@dataclass(frozen=True)
class Calibration:
    """How the logit of malignancy is scaled and shifted, and from where on a woman is recalled."""

    scale: float
    shift: float
    threshold: float


def calibration(logits: Tensor, truths: Sequence[PhantomTruth]) -> Calibration:
    """The line that fits the truth best (Platt 1999), and the threshold with most right recalls.

    Parameters
    ----------
    logits
        Of every view: float32 ``[studies, 4]``.
    """
    malignant = torch.tensor([float(truth.malignant) for truth in truths])
    scale, shift = fitted_line(
        lambda a, c: functional.binary_cross_entropy(
            study_probability(logits * a + c).clamp(1e-6, 1 - 1e-6), malignant
        )
    )
    probability = study_probability(logits * scale + shift).numpy()
    threshold = best_threshold(probability, [truth.recall for truth in truths])
    return Calibration(scale, shift, threshold)


def choose_points(network: DemoNetwork, given: Answers, truths: Sequence[PhantomTruth]) -> Points:
    """Calibrate the network in place, and choose the thresholds.

    Parameters
    ----------
    given
        The network's answers about the validation studies, before calibration.
    truths
        Of the same studies.
    """
    chosen = calibration(given.malignancy, truths)
    head = network.malignancy.classifier.classification_head
    with torch.no_grad():
        head.weight.mul_(chosen.scale)
        head.bias.mul_(chosen.scale).add_(chosen.shift)
    wanted = risks(truths)
    slope, offset = fitted_line(
        lambda a, c: functional.binary_cross_entropy_with_logits(given.risk * a + c, wanted)
    )
    prognosis = network.prognosis
    std = float(prognosis.log_std.detach().exp())
    return Points(
        malignancy=chosen.threshold,
        localization=mark_threshold(given.marks),
        mean=float(prognosis.mean.detach()) - offset * std / slope,
        std=std / slope,
    )


def study_probability(logits: Tensor) -> Tensor:
    """Probability of a study from the logits ``[studies, 4]`` of its views, as the bundle has it.

    The mean over the views of a breast, then the worse breast.
    """
    return torch.sigmoid(logits).unflatten(1, (2, 2)).mean(dim=2).amax(dim=1)


def best_threshold(probability: Floats, positive: Sequence[bool]) -> float:
    """The threshold with the most right answers about the recall; halfway between two answers."""
    order = np.argsort(-probability)
    sorted_truth = np.array(positive, bool)[order]
    right = np.concatenate([[0], np.cumsum(np.where(sorted_truth, 1, -1))])
    cut = int(np.argmax(right))
    values = np.concatenate([[1.0], probability[order], [0.0]])
    return float(np.clip((values[cut] + values[cut + 1]) / 2, 0.01, 0.99))


def mark_threshold(found: Sequence[Sequence[Mark]]) -> float:
    """The score above which there are half as many false marks as pictures; `found` per picture."""
    false = sorted((m.score for marks in found for m in marks if m.lesion < 0), reverse=True)
    allowed = int(FALSE_MARKS_PER_IMAGE * len(found))
    score = false[allowed] if allowed < len(false) else _LEAST_SCORE
    return float(np.clip(np.nextafter(np.float32(score), np.float32(1)), _LEAST_SCORE, 1))


# -------------------- how good that is


def area_under_curve(positive: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Share of pairs in the right order, equal ones counting half; NaN without pairs."""
    truth, values = np.asarray(positive, bool), np.asarray(score, np.float64)
    difference = values[truth][:, None] - values[~truth][None]
    if not difference.size:
        return float("nan")
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def sensitivity(given: Answers, threshold: float) -> float:
    """Share of the lesions, in every view, that a mark at or above a threshold hits."""
    hit = sum(m.lesion >= 0 and m.score >= threshold for marks in given.marks for m in marks)
    return hit / max(sum(given.lesions), 1)


def summary(given: Answers, truths: Sequence[PhantomTruth], points: Points) -> dict[str, float]:
    """The figures of the log; `benchmarks/demo_quality.py` measures on other seeds."""
    malignant = [truth.malignant for truth in truths]
    density = given.density.unflatten(1, (2, 2)).mean(dim=2).argmax(dim=2).amax(dim=1)
    known = torch.tensor([DENSITIES.index(truth.density) for truth in truths])
    figures = {
        "malignancy AUC": area_under_curve(malignant, study_probability(given.malignancy)),
        "density accuracy": float((density == known).float().mean()),
        "sensitivity": sensitivity(given, points.localization),
    }
    for year in range(given.risk.shape[1]):
        events = [(t.years_to_cancer or np.inf) <= year + 1 for t in truths]
        own = area_under_curve(events, given.risk[:, year].numpy())
        best = area_under_curve(events, [t.risk_by_year[year] for t in truths])
        figures[f"year {year + 1} AUC"] = own
        figures[f"best {year + 1}"] = best
    return figures

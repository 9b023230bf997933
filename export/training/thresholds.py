"""``python -m mammofm_lite.export.training.thresholds BUNDLE OUTPUT``: operating points anew.

Training chooses them by answers whose encoder is rounded as quantization will round it, but whose
localization head is not, and on few phantoms. On 183 of them a bundle that was to show half a false
mark per image showed 0.81 when it was quantized; by its own answers its threshold is 0.172 instead
of 0.144, and it finds 0.955 of the lesions instead of 0.962. So few leave the calibration of
malignancy open, too: by half a unit of the logit up or down.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor

from mammofm_lite._openvino import ov
from mammofm_lite.bundle import Bundle, DiagnosisMember, LocalizationMember
from mammofm_lite.errors import ExportError, MammoFMError
from mammofm_lite.expected import SELFTEST_FILE
from mammofm_lite.export.seeds import VALIDATION
from mammofm_lite.export.writing import changed_bundle
from mammofm_lite.graphs import Graph, GraphStore, Tensors
from mammofm_lite.progress import StageReporter
from mammofm_lite.quant.ptq import read_graph, save_graph
from mammofm_lite.views import STANDARD_VIEWS, ViewName

from .batches import targets_of
from .data import DataPlan, Study, make_studies
from .encoders import encoder_input
from .loop import in_tenths, print_line
from .losses import NO_BOX
from .plan import Plan
from .points import Calibration, Mark, calibration, mark_threshold, marks_of
from .read_back import constant_of

__all__ = [
    "OwnAnswers",
    "OwnPoints",
    "change_malignancy",
    "own_answers",
    "own_points",
    "with_points",
]

_MALIGNANCY: Final = "malignancy"
_PYRAMID: Final = ("c3", "c4", "c5")
_DIGITS: Final = 6


@dataclass(frozen=True)
class OwnAnswers:
    """What a bundle says of some studies.

    Attributes
    ----------
    malignancy
        Logits of the standard views, float32 ``[studies, 4]``.
    marks
        Of every view, study by study: the marks, however low, by falling score.
    """

    malignancy: Tensor
    marks: Sequence[Sequence[Mark]]


@dataclass(frozen=True)
class OwnPoints:
    """How its malignancy is to be scaled and from where on a woman is recalled, and from which
    score on marks are shown."""

    calibration: Calibration
    marks: float


def own_answers(bundle: Bundle, studies: Sequence[Study], threads: int) -> OwnAnswers:
    """Ask a bundle.

    Raises
    ------
    ExportError
        The bundle has not one encoder with one detector and one member that tells malignancy first.
    """
    diagnosis, detector = _members(bundle)
    store, quiet = GraphStore(bundle, threads), StageReporter(None)
    encoder, pooled, boxes = (
        store.graph(file, quiet)
        for file in (bundle.encoders[detector.encoder].model, diagnosis.model, detector.model)
    )
    logits, marks = [], []
    for study in (studies[index] for index in range(len(studies))):
        for view in STANDARD_VIEWS:
            seen = encoder.run(encoder_input(study.views[view].image))
            said = pooled.run({"pooled": seen["pooled"]})["probabilities"]
            logits.append(float(said[0, 0]))
            marks.append(_marks(boxes, seen, study, view, detector.labels))
    asked = torch.tensor(logits).unflatten(0, (-1, len(STANDARD_VIEWS)))
    return OwnAnswers(torch.logit(asked, eps=1e-6), marks)


def _marks(
    head: Graph, seen: Tensors, study: Study, view: ViewName, kinds: Sequence[str]
) -> list[Mark]:
    said = head.run({name: seen[name] for name in _PYRAMID})
    wanted = targets_of(study, view, kinds)
    order = np.argsort(-said["scores"], kind="stable")
    return marks_of(
        said["boxes"][order],
        said["scores"][order].tolist(),
        wanted.boxes[wanted.labels != NO_BOX],
    )


def _members(bundle: Bundle) -> tuple[DiagnosisMember, LocalizationMember]:
    diagnosis, detectors = (
        spec.members if spec else () for spec in (bundle.diagnosis, bundle.localization)
    )
    if len(diagnosis) != 1 or len(detectors) != 1:
        raise ExportError(
            f"the bundle has {len(diagnosis)} members of diagnosis and {len(detectors)} detectors; "
            "one each is wanted"
        )
    one, detector = diagnosis[0], detectors[0]
    if one.labels[0].name != _MALIGNANCY or one.encoder != detector.encoder:
        raise ExportError("the bundle's one encoder does not tell malignancy first")
    return one, detector


def own_points(given: OwnAnswers, studies: Sequence[Study]) -> OwnPoints:
    """Choose by a bundle's answers about studies."""
    truths = [studies[index].truth for index in range(len(studies))]
    return OwnPoints(calibration(given.malignancy, truths), mark_threshold(given.marks))


def with_points(bundle: Bundle, points: OwnPoints, output: Path, *, force: bool) -> Bundle:
    """Write a bundle with other operating points.

    Its self-test, untrue now, is left out like its signature: make them anew.

    Raises
    ------
    ExportError
        `output` exists and `force` is not set, or the bundle is none that `own_answers` can ask.
    """
    diagnosis, _ = _members(bundle)
    without = {SELFTEST_FILE}
    with changed_bundle(bundle, output, force=force, without=without) as (scratch, description):
        _scale(scratch / diagnosis.model, points.calibration, half=bundle.precision != "f32")
        (judged,) = description["heads"]["diagnosis"]["members"]
        judged["labels"][0]["threshold"] = round(points.calibration.threshold, _DIGITS)
        (shown,) = description["heads"]["localization"]["members"]
        shown["threshold"] = round(points.marks, _DIGITS)
    return Bundle.open(output)


def _scale(path: Path, chosen: Calibration, *, half: bool) -> None:
    """Scale and shift the one logit of a graph, in its weights."""

    def scaled(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight * chosen.scale, bias * chosen.scale + chosen.shift

    change_malignancy(path, scaled, half=half)


def change_malignancy(
    path: Path, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], *, half: bool
) -> None:
    """Change weight and bias of the one logit in a graph of the diagnosis head.

    `change` gives tensors of as many numbers as it is given.
    """
    model = read_graph(path)
    (asked,) = (node for node in model.get_ops() if node.get_type_name() == "Sigmoid")
    added = asked.input_value(0).get_node()
    product = added.input_value(0).get_node()
    weight, bias = (constant_of(node, 1, path.name) for node in (product, added))
    for node, old, new in zip((product, added), (weight, bias), change(weight, bias), strict=True):
        _put(node, new.reshape(old.shape))
    for file in (path, path.with_suffix(".bin")):  # which the model may still be reading
        file.unlink()
    save_graph(model, path, half_weights=half)


def _put(node: Any, value: Tensor) -> None:
    constant = ov.op.Constant(value.numpy())
    node.input(1).replace_source_output(constant.output(0))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--folder", default=Path("build/demo-model"), type=click.Path(path_type=Path))
@click.option("--studies", default=600, show_default=True, help="Phantoms to choose on.")
@click.option("--workers", default=2, show_default=True, help="Processes that render; threads.")
@click.option("--force", is_flag=True, help="Replace OUTPUT.")
def main(bundle: Path, output: Path, folder: Path, studies: int, workers: int, force: bool) -> None:
    """Calibrate BUNDLE's malignancy and choose the thresholds of recall and of marks by its own
    answers; write the whole as OUTPUT."""
    try:
        opened = Bundle.open(bundle)
        plan = DataPlan(VALIDATION[:studies], Plan.coarse_mm, opened.preprocessing)
        counter = in_tenths(print_line, "phantoms (points)")
        chosen_on = make_studies(folder / "points", plan, workers=workers, tell=counter)
        points = own_points(own_answers(opened, chosen_on, workers), chosen_on)
        made = with_points(opened, points, output, force=force)
    except MammoFMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    chosen = points.calibration
    print_line(f"malignancy: logits times {chosen.scale:.3f}, plus {chosen.shift:.3f}")
    print_line(f"done: {made.path} recalls from {chosen.threshold:.3f} on")
    print_line(f"      and shows marks from {points.marks:.3f} on")


if __name__ == "__main__":
    main()

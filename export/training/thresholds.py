"""``python -m mammofm_lite.export.training.thresholds BUNDLE OUTPUT``: the threshold of marks anew.

Training chooses it by answers whose encoder is rounded as quantization will round it, but whose
localization head is not. On 183 phantoms a bundle that was to show half a false mark per image
showed 0.81 when it was quantized; by its own answers its threshold is 0.172 instead of 0.144, and
it finds 0.955 of the lesions instead of 0.962.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np

from mammofm_lite.bundle import Bundle, LocalizationMember
from mammofm_lite.errors import ExportError, MammoFMError
from mammofm_lite.expected import SELFTEST_FILE
from mammofm_lite.export.seeds import VALIDATION
from mammofm_lite.export.writing import changed_bundle
from mammofm_lite.graphs import GraphStore
from mammofm_lite.progress import StageReporter
from mammofm_lite.views import STANDARD_VIEWS

from .batches import targets_of
from .data import DataPlan, Study, make_studies
from .encoders import encoder_input
from .loop import in_tenths, print_line
from .losses import NO_BOX
from .plan import Plan
from .points import Mark, mark_threshold, marks_of

__all__ = ["found_marks", "with_threshold"]

_PYRAMID: Final = ("c3", "c4", "c5")
_DIGITS: Final = 6


def found_marks(bundle: Bundle, studies: Sequence[Study], threads: int) -> Iterator[Sequence[Mark]]:
    """The marks of every view, however low, by falling score.

    Raises
    ------
    ExportError
        The bundle has not one detector on one encoder.
    """
    detector = _detector(bundle)
    store, quiet = GraphStore(bundle, threads), StageReporter(None)
    encoder = store.graph(bundle.encoders[detector.encoder].model, quiet)
    head = store.graph(detector.model, quiet)
    for study in (studies[index] for index in range(len(studies))):
        for view in STANDARD_VIEWS:
            seen = encoder.run(encoder_input(study.views[view].image))
            said = head.run({name: seen[name] for name in _PYRAMID})
            wanted = targets_of(study, view, detector.labels)
            order = np.argsort(-said["scores"], kind="stable")
            yield marks_of(
                said["boxes"][order],
                said["scores"][order].tolist(),
                wanted.boxes[wanted.labels != NO_BOX],
            )


def _detector(bundle: Bundle) -> LocalizationMember:
    members = bundle.localization.members if bundle.localization else ()
    if len(members) != 1:
        raise ExportError(f"the bundle has {len(members)} detectors; one is wanted")
    return members[0]


def with_threshold(bundle: Bundle, threshold: float, output: Path, *, force: bool) -> Bundle:
    """Write a bundle that shows marks from another threshold on.

    Its self-test, untrue now, is left out like its signature: make them anew.

    Raises
    ------
    ExportError
        `output` exists and `force` is not set, or the bundle has not one detector.
    """
    _detector(bundle)
    with changed_bundle(bundle, output, force=force, without={SELFTEST_FILE}) as (_, description):
        (member,) = description["heads"]["localization"]["members"]
        member["threshold"] = round(threshold, _DIGITS)
    return Bundle.open(output)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--folder", default=Path("build/demo-model"), type=click.Path(path_type=Path))
@click.option("--studies", default=183, show_default=True, help="Phantoms to check on.")
@click.option("--workers", default=2, show_default=True, help="Processes that render; threads.")
@click.option("--force", is_flag=True, help="Replace OUTPUT.")
def main(bundle: Path, output: Path, folder: Path, studies: int, workers: int, force: bool) -> None:
    """Choose the threshold of BUNDLE's marks by its own answers; write the whole as OUTPUT."""
    try:
        opened = Bundle.open(bundle)
        plan = DataPlan(VALIDATION[:studies], Plan.fine_mm, opened.preprocessing)
        counter = in_tenths(print_line, "phantoms (check)")
        checked = make_studies(folder / "check", plan, workers=workers, tell=counter)
        threshold = mark_threshold(list(found_marks(opened, checked, workers)))
        made = with_threshold(opened, threshold, output, force=force)
    except MammoFMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print_line(f"done: {made.path} shows marks from {threshold:.3f} on")


if __name__ == "__main__":
    main()

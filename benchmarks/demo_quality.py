"""How good is a bundle on phantoms whose truth is known?

``python benchmarks/demo_quality.py [--bundle A --bundle B] [--studies N] [--spacing MM]
[--shift NAME] [--json FILE] [--card FILE] [--into-bundle]`` asks every bundle (default: the
demonstration bundle) about held-out phantoms, and again about each shift of them, and prints
Markdown tables: figures with intervals, the targets beside them, and of every further bundle how it
differs from the first. At 0.1 mm a study takes some seconds, most of it to draw the phantom; 0.3 mm
is quicker.
"""

import argparse
import json
import sys
from pathlib import Path

from mammofm_lite.bundle import demo_bundle_path
from mammofm_lite.errors import MammoFMError
from mammofm_lite.export.bundle_files import put_file
from mammofm_lite.export.quality import EvaluationOptions, evaluate, model_card, table
from mammofm_lite.export.quality.evaluation import SHIFTS
from mammofm_lite.writers.files import write_atomically

DEFAULTS = EvaluationOptions()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bundle", type=Path, action="append", help="repeat to compare")
    parser.add_argument("--studies", type=int, default=DEFAULTS.studies, help="per condition")
    parser.add_argument("--spacing", type=float, default=DEFAULTS.pixel_spacing_mm, metavar="MM")
    parser.add_argument("--shift", choices=SHIFTS, action="append", help="default: all")
    parser.add_argument("--replicates", type=int, default=DEFAULTS.replicates)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="write the model card of the last bundle"
    )
    parser.add_argument(
        "--into-bundle", action="store_true", help="put that card into the last bundle"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """Print the tables; the exit status is that of the command line."""
    asked = _arguments(words)
    paths = asked.bundle or [demo_bundle_path()]
    try:
        options = EvaluationOptions(
            studies=asked.studies,
            shifts=tuple(asked.shift or SHIFTS),
            pixel_spacing_mm=asked.spacing,
            replicates=asked.replicates,
            threads=asked.threads,
        )
        evaluation = evaluate(paths, options, _tell)
    except MammoFMError as error:
        _tell(f"demo_quality: {error}")
        return error.exit_status
    if asked.json:
        write_atomically(asked.json, (json.dumps(evaluation, indent=2) + "\n").encode())
    if asked.card:
        write_atomically(asked.card, model_card(evaluation, -1).encode())
    if asked.into_bundle:
        put_file(paths[-1], "MODEL_CARD.md", model_card(evaluation, -1).encode())
    print(table(evaluation), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m mammofm_lite.export.training OUTPUT``: train the demonstration model."""

import os
import sys
from pathlib import Path

import click
import torch

from mammofm_lite.bundle import Bundle
from mammofm_lite.errors import MammoFMError

from .loop import print_line
from .plan import Machine, Plan
from .run import Training

_RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "demo.toml"


@click.command()
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--hours", default=2.0, show_default=True, help="How long all of it may take.")
@click.option("--seed", default=0, show_default=True, help="Of weights, draws and phantoms.")
@click.option("--smoke", is_flag=True, help="A few steps of everything; learns nothing.")
@click.option(
    "--start",
    type=click.Path(exists=True, path_type=Path),
    help="Go on from the weights of this bundle, INT8 or not, instead of from nothing.",
)
@click.option("--recipe", default=_RECIPE, type=click.Path(exists=True, path_type=Path))
@click.option("--workers", type=int, help="Processes that render; default one per core.")
def main(
    output: Path,
    hours: float,
    seed: int,
    smoke: bool,
    start: Path | None,
    recipe: Path,
    workers: int | None,
) -> None:
    """Train the demonstration model in the folder OUTPUT; the same command goes on after a stop.

    Leaves model.pth, demo.toml and the bundle demo.mfm in it.
    """
    try:
        cores = workers if workers is not None else os.cpu_count() or 1
        machine = Machine(cores, torch.cuda.is_available())
        plan = Plan.smoke(seed=seed) if smoke else Plan.for_hours(hours, machine, seed=seed)
        begun = None if start is None else Bundle.open(start)
        plan = plan if begun is None else plan.going_on()
        output.mkdir(parents=True, exist_ok=True)
        bundle = Training(recipe, output, plan, machine, print_line, begun).run()
    except MammoFMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print_line(f"done: {bundle}")


if __name__ == "__main__":
    main()

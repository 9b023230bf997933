"""How hard the phantoms are: kinds, sizes and contrast-to-noise over many seeds, as Markdown.

    python benchmarks/phantom_spread.py --seeds 300 --spacing 0.1

Contrast-to-noise is what `PhantomLesion` states: the change by the lesion over the standard
deviation of the tissue around it. It depends on the pixel spacing; the files have 0.1 mm.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from mammofm_lite.phantom import PhantomLesion, PhantomOptions, PhantomTruth, render_phantom

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def truths(count: int, options: PhantomOptions) -> list[PhantomTruth]:
    """Of the seeds from 0."""
    return [render_phantom(seed, options)[0] for seed in range(count)]


def name_of(lesion: PhantomLesion) -> str:
    """A row of the table: kind, and morphology or margin."""
    word = lesion.descriptors.get("morphology") or lesion.descriptors.get("margin") or ""
    return f"{lesion.kind} {word}".strip().replace("_", " ")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def quantiles(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in np.quantile(values, QUANTILES))


def lesions_table(lesions: Sequence[PhantomLesion]) -> str:
    """One row per kind and look: how many, how large, how visible."""
    groups: dict[tuple[str, str], list[PhantomLesion]] = defaultdict(list)
    for lesion in lesions:
        what = "benign, recalled" if lesion.suspicious else "benign"
        what = "cancer" if lesion.malignant else what
        groups[what, name_of(lesion)].append(lesion)
        groups[what, "all"].append(lesion)
    rows = [
        (
            what,
            name,
            len(group),
            quantiles([lesion.diameter_mm for lesion in group]),
            quantiles([ratio for lesion in group for ratio in lesion.contrast_to_noise.values()]),
        )
        for (what, name), group in sorted(groups.items())
    ]
    return table(("", "look", "n", "diameter, mm", "contrast-to-noise"), rows)


def study_table(studies: Sequence[PhantomTruth]) -> str:
    """Shares of what a study is."""
    count = len(studies)
    density = Counter(truth.density for truth in studies)
    shares = {
        "cancer": sum(truth.malignant for truth in studies),
        "recall": sum(truth.recall for truth in studies),
        "precursor": sum(truth.precursor is not None for truth in studies),
        "nothing planted": sum(not truth.lesions for truth in studies),
        **{f"density {letter}": density[letter] for letter in "abcd"},
    }
    rows = [(what, f"{100 * number / count:.0f} %") for what, number in shares.items()]
    free = [truth for truth in studies if not truth.malignant]
    rows += [
        ("asymmetry x 10, quantiles", quantiles([10 * truth.asymmetry for truth in studies])),
        (
            "5-year risk without a cancer, quantiles",
            quantiles([100 * truth.risk_by_year[-1] for truth in free]) + " %",
        ),
    ]
    return table(("of the studies", "share"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--spacing", type=float, default=0.1, help="mm")
    parser.add_argument("--difficulty", type=float, default=0.5)
    parser.add_argument("--shift", default="none")
    given = parser.parse_args()
    options = PhantomOptions(
        rows=round(229.4 / given.spacing),
        columns=round(191.4 / given.spacing),
        pixel_spacing_mm=given.spacing,
        difficulty=given.difficulty,
        shift=given.shift,
    )
    studies = truths(given.seeds, options)
    print(f"{given.seeds} seeds at {given.spacing} mm, difficulty {given.difficulty}; ", end="")
    print(f"shift {given.shift}. Quantiles: {', '.join(f'{100 * q:.0f} %' for q in QUANTILES)}.\n")
    print(study_table(studies), end="\n\n")
    print(lesions_table([lesion for truth in studies for lesion in truth.lesions]))


if __name__ == "__main__":
    main()

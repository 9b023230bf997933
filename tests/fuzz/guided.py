"""Fuzz guided by coverage: ``python tests/fuzz/guided.py study -runs=20000 [libFuzzer options]``.

Where `run.py` draws independent mutants, this one keeps those
that reached new code of ours or of pydicom and goes on from them. A mutant may take 20 seconds and
4 GiB. What comes out other than our own errors ends the run and is written to ``crash-...`` in the
working directory; the same command with that file in place of options runs it again.
"""

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, mutate, random_mutations

LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=2000000", "-len_control=0")


def mutator(data: bytes, most: int, seed: int) -> bytes:
    """Our own changes, which know JSON, or libFuzzer's, which know what was compared with what."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return mutate(data, random_mutations(rng))[:most]
    changed: bytes = atheris.Mutate(data, most)
    return changed


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: guided.py {'|'.join(TARGETS)} [-runs=N] [libFuzzer options]")
    seeds, check = TARGETS[sys.argv[1]]
    given: list[str] = sys.argv[2:]
    again = any(not option.startswith("-") for option in given)
    with tempfile.TemporaryDirectory(prefix="mammofm-fuzz-corpus-") as corpus:
        for number, seed in enumerate(seeds()):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        places: list[str] = [] if again else [corpus]
        arguments: list[Any] = [sys.argv[0], *LIMITS, *given, *places]
        # All that is loaded: atheris cannot hook the imports of an editable installation.
        atheris.instrument_all()
        atheris.Setup(arguments, lambda data: check(data), custom_mutator=mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

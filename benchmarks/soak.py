"""Many studies in one process: does memory grow, and does any answer change?

``python benchmarks/soak.py [--studies 300] [--threads-models 2]`` first answers all studies with
one model, one after the other, then as many again with several models in as many threads. After
each study the resident memory is noted and the whole result compared, byte for byte, with that of
a model that was loaded for this study alone. Asserts nothing; the figures say what they say.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mammofm_lite import Model
from mammofm_lite.phantom import PhantomOptions, write_phantom

SMALL = PhantomOptions(rows=1147, columns=957, pixel_spacing_mm=0.2)
MIB = 1 << 20
WINDOW = 100  # studies at either end that are averaged


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def soak(
    model: Model, studies: Sequence[Path], numbers: Iterable[int], expected: Sequence[str]
) -> tuple[list[float], int]:
    """Resident memory after each study, and how many results differ from the expected ones."""
    memory, different = [], 0
    for number in numbers:
        which = number % len(studies)
        different += model.infer(studies[which]).to_json_text() != expected[which]
        memory.append(resident_mib())
    return memory, different


def in_threads(
    count: int, bundle: Path | None, studies: Sequence[Path], total: int, expected: Sequence[str]
) -> tuple[list[float], int]:
    """The same with `count` models at once, each in its own thread; memory in order of time."""
    found: list[tuple[float, float]] = []
    differing: list[int] = []

    def work(first: int) -> None:
        model = Model.load(bundle, threads=1)
        for number in range(first, total, count):
            memory, different = soak(model, studies, [number], expected)
            found.append((time.monotonic(), memory[0]))
            differing.append(different)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) != total:
        sys.exit("a thread failed")
    return [memory for _, memory in sorted(found)], sum(differing)


def report(name: str, memory: Sequence[float], different: int, seconds: float) -> None:
    window = min(WINDOW, len(memory) // 2)
    first, last = statistics.mean(memory[:window]), statistics.mean(memory[-window:])
    print(f"{name}: {len(memory)} studies in {seconds:.0f} s")
    print(f"  resident memory, mean of the first {window}: {first:.1f} MiB")
    print(f"  resident memory, mean of the last {window}:  {last:.1f} MiB")
    print(f"  drift: {100 * (last - first) / first:+.2f} %, highest {max(memory):.1f} MiB")
    print(f"  identical to a single run: {'yes' if different == 0 else f'no, {different} differ'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--threads-models", type=int, default=2, help="models at once")
    parser.add_argument("--bundle", type=Path, help="default: the demonstration bundle")
    parser.add_argument("--different", type=int, default=8, help="phantoms that take turns")
    options = parser.parse_args()
    if min(options.studies, options.threads_models, options.different) < 1 or options.studies < 2:
        parser.error("two studies or more, and one or more of the others")
    with tempfile.TemporaryDirectory() as scratch:
        studies = [Path(scratch, str(seed)) for seed in range(options.different)]
        for seed, folder in enumerate(studies):
            write_phantom(folder, seed=seed, options=SMALL)
        # A model of its own for each: what a process that answers one study would say.
        expected = [
            Model.load(options.bundle, threads=1).infer(folder).to_json_text() for folder in studies
        ]
        gc.collect()
        started = time.monotonic()
        model = Model.load(options.bundle, threads=1)
        memory, different = soak(model, studies, range(options.studies), expected)
        report("one model", memory, different, time.monotonic() - started)
        del model
        started = time.monotonic()
        memory, different = in_threads(
            options.threads_models, options.bundle, studies, options.studies, expected
        )
        name = f"{options.threads_models} models in as many threads"
        report(name, memory, different, time.monotonic() - started)


if __name__ == "__main__":
    main()

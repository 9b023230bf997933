"""Fuzz in worker processes: ``python tests/fuzz/run.py --count 20000 [--seed 0] [--target study]``.

A worker may use so much memory and so many seconds per mutant and no more. What comes out other
than our own errors is printed with the number of the mutant; ``--only NUMBER`` runs that one again
here, so that a debugger can look at it.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from targets import SCRATCH, TARGETS, mutate, random_mutations

GIB = 1 << 30
ENOUGH_DEFECTS = 20  # of one worker; a new process for each is slow


def mutant(target: str, seed: int, number: int) -> bytes:
    """The mutant of this number; the same on every machine."""
    rng = random.Random(f"{target}/{seed}/{number}")
    seeds, _ = TARGETS[target]
    return mutate(rng.choice(seeds()), random_mutations(rng))


def attempt(target: str, data: bytes) -> str:
    """``accepted``, ``refused``, or what came out that must not."""
    try:
        return TARGETS[target][1](data)
    except BaseException as error:  # a panic is no Exception
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = "" if isinstance(error, AssertionError) else f": {str(error)[:80]!a}"
        return f"{type(error).__name__}{text} at {Path(place.filename).name}:{place.lineno}"


def work(target: str, seed: int, numbers: range, memory_gib: float, connection: Connection) -> None:
    """In a process of its own: one message per mutant, then the peak memory in MiB."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_gib * GIB),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries complain in their own words
    for number in numbers:
        connection.send(attempt(target, mutant(target, seed, number)))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


class Shard:
    """A run of mutants, in as many processes as they kill."""

    def __init__(self, options: argparse.Namespace, target: str, numbers: range) -> None:
        self.options, self.target, self.numbers = options, target, numbers
        self.counts: Counter[str] = Counter()
        self.defects: list[tuple[int, str]] = []
        self.slowest = (0.0, -1)
        self.peak_mib = 0

    def run(self) -> None:
        at = self.numbers.start
        while at < self.numbers.stop and len(self.defects) < ENOUGH_DEFECTS:
            at = self._process(at)

    def _process(self, at: int) -> int:
        """Run one worker until it ends or dies; the number of the next mutant."""
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe(duplex=False)
        rest = range(at, self.numbers.stop)
        arguments = (self.target, self.options.seed, rest, self.options.memory_gib, theirs)
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        limit = self.options.seconds + 60  # the first one waits for the imports
        while at < self.numbers.stop:
            started = time.monotonic()
            if not mine.poll(limit):
                self._count(at, f"timeout after {limit:g} s")
                process.kill()
                process.join()
                return at + 1
            try:
                outcome = mine.recv()
            except EOFError:
                process.join()
                self._count(at, f"the process died ({process.exitcode})")
                return at + 1
            self._count(at, outcome)
            if limit == self.options.seconds:
                self.slowest = max(self.slowest, (time.monotonic() - started, at))
            at, limit = at + 1, self.options.seconds
        self.peak_mib = max(self.peak_mib, mine.recv())
        process.join()
        return at

    def _count(self, number: int, outcome: str) -> None:
        known = outcome in ("accepted", "refused")
        self.counts[outcome if known else "DEFECT"] += 1
        if not known:
            self.defects.append((number, outcome))


def fuzz(options: argparse.Namespace, target: str) -> dict[str, Any]:
    """Run all mutants of a target; what happened."""
    edges = [options.count * i // options.workers for i in range(options.workers + 1)]
    shards = [Shard(options, target, range(a, b)) for a, b in itertools.pairwise(edges)]
    started = time.monotonic()
    threads = [threading.Thread(target=shard.run) for shard in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts: Counter[str] = sum((shard.counts for shard in shards), Counter())
    slowest, number = max(shard.slowest for shard in shards)
    return {
        "target": target,
        "mutants": counts.total(),
        "accepted": counts["accepted"],
        "refused": counts["refused"],
        "defects": [list(defect) for shard in shards for defect in shard.defects],
        "seconds": round(time.monotonic() - started, 1),
        "slowest_seconds": round(slowest, 2),
        "slowest_mutant": number,
        "peak_memory_mib": max(shard.peak_mib for shard in shards),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="mutants per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="default: all")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory-gib", type=float, default=4.0, help="address space of a worker")
    parser.add_argument("--seconds", type=float, default=20.0, help="per mutant")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="run one mutant, in this process"
    )
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    if options.only is not None:
        for target in targets:
            data = mutant(target, options.seed, options.only)
            print(target, len(data), "bytes:", TARGETS[target][1](data))
        return 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if memory.is_dir() else None, prefix="mammofm-fuzz-"
    ) as scratch:
        os.environ[SCRATCH] = scratch
        found = [fuzz(options, target) for target in targets]
    for report in found:
        print(json.dumps(report))
    return int(any(report["defects"] for report in found))


if __name__ == "__main__":
    sys.exit(main())

"""Run many seeds, one process for each processor, and print a summary.

python -m tests.simulation.long 0-9999          these seeds; exit code 1 when one fails
python -m tests.simulation.long --show 17       one seed with its whole trace
python -m tests.simulation.long --show 17 loss  … without that kind of trouble
"""

import argparse
import collections
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.conftest import EXAMPLE

from .drive import KINDS, plan_of, run
from .shrink import shortened


@dataclass(frozen=True)
class Verdict:
    """What one seed came to."""

    seed: int
    failure: str
    simulated: float = 0.0
    requests: int = 0
    excused: int = 0
    commands: int = 0
    controllers: int = 0


def judge(seed: int) -> Verdict:
    """Run one seed; a failure is shortened at once."""
    try:
        world = run(seed, EXAMPLE)
    except AssertionError as guilty:
        return Verdict(seed, shortened(seed, EXAMPLE, guilty))
    started = sum(" -- [" in line and "to 2026" in line for line in world.trace)
    return Verdict(
        seed, "", world.elapsed, world.requests, world.excused, world.network.sent, started
    )


def many(first: int, last: int, processes: int) -> int:
    """All seeds from ``first`` to ``last``; how many failed."""
    start = time.monotonic()
    total: collections.Counter[str] = collections.Counter()
    failed = []
    with multiprocessing.Pool(processes, maxtasksperchild=200) as pool:
        for done, verdict in enumerate(
            pool.imap_unordered(judge, range(first, last + 1), chunksize=5), 1
        ):
            for name in ("simulated", "requests", "excused", "commands"):
                total[name] += getattr(verdict, name)
            if verdict.failure:
                failed.append(verdict.seed)
                print(f"FAILED {verdict.failure}\n", flush=True)
            if done % 100 == 0 or done == last - first + 1:
                _say(done, failed, total, time.monotonic() - start)
    return len(failed)


def _say(done: int, failed: list[int], total: collections.Counter[str], spent: float) -> None:
    print(
        f"{done} seeds, {len(failed)} failed {failed[:20] or ''} in {spent:.0f} s: "
        f"{total['simulated'] / 3600:.0f} h simulated, {total['requests']} requests "
        f"({total['excused']} taken away by faults), {total['commands']} commands sent",
        flush=True,
    )


def show(seed: int, without: frozenset[str]) -> int:
    """One seed with its whole trace."""
    print(
        f"seed {seed}: {', '.join(sorted(plan_of(seed, EXAMPLE, without).kinds)) or 'no trouble'}"
    )
    try:
        print("\n".join(run(seed, EXAMPLE, without).trace))
    except AssertionError as guilty:
        print(guilty)
        return 1
    return 0


def main() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", help="FIRST-LAST")
    parser.add_argument("without", nargs="*", choices=[[], *KINDS])
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.show:
        return show(int(given.seeds), frozenset(given.without))
    first, _, last = given.seeds.partition("-")
    return min(1, many(int(first), int(last or first), given.processes))


if __name__ == "__main__":
    sys.exit(main())

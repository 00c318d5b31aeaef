"""Does the weights' engine keep what it is told? Its memory over an hour of reports.

    .venv/bin/python benchmarks/weights_memory.py [--minutes N] [--servers N]

The engine's controller, its vectors and its book, without Salt's bus: every server reports every
three seconds, a farm's tick comes when it is due, the clock is simulated. The table shows the
process's memory (RSS) after each tenth, and its ratio to the first.
"""

import argparse
import gc
import random
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("_utils", "tests/unit", "tests", "")]

from rebalance_world import Keys, World  # noqa: E402

REPORT_SECONDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--servers", type=int, default=512)
    options = parser.parse_args()
    chance = random.Random(1)
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        # the world has two sites of two farms
        world = World(Keys(here), book=here / "book.sqlite", servers=options.servers // 4)
        servers = list(world.controller.home)
        print(f"{len(servers)} servers, a report each {REPORT_SECONDS} s\n")
        print("| minutes | reports accepted | MiB | ratio |\n|---:|---:|---:|---:|")
        first = 0.0
        for minute in range(1, options.minutes + 1):
            for _ in range(0, 60, REPORT_SECONDS):
                for server in servers:
                    world.report(
                        server,
                        busy=chance.expovariate(0.1) + 0.1,
                        requests=chance.randrange(1, 100),
                        active=chance.uniform(0, 5),
                    )
                world.turn(REPORT_SECONDS)
                world.fired.clear()
            if minute % max(1, options.minutes // 10) == 0:
                gc.collect()
                used = process.memory_info().rss / 2**20
                first = first or used
                accepted = world.controller.intake.accepted
                print(f"| {minute} | {accepted} | {used:.1f} | {used / first:.3f} |", flush=True)


if __name__ == "__main__":
    main()

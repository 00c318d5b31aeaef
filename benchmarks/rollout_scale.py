#!/usr/bin/env python3
"""How the rollout engine scales: plan and upgrade of everything, on a simulated cluster.

The commands, the conductor, the journal and the Salt adapter are the real ones; nodes and time are
those of `tests/simulation`, without clients and without faults::

    python benchmarks/rollout_scale.py                 512 servers
    python benchmarks/rollout_scale.py 20x25x20        10,000: sites x farms x servers in each

The critical path is what no rollout could do without: the longest restart of php-fpm in each farm,
one health check, the soak, the staging in batches of `stage_parallel`, and for each change of the
balancers a round trip to make it and one to read it back. Farm after farm, site after site.
"""

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "_utils")]

from webfarm.rollout import commands  # noqa: E402

from tests.simulation.drive import FIRST, SECOND, Drive, Plan  # noqa: E402
from tests.simulation.world import CHECK_SECONDS  # noqa: E402

SOAK, CANARY, PARALLEL = 10.0, 30.0, 16
RESTART = 1.5  # the longest that a simulated php-fpm takes
COPY = 2.0  # the longest that a simulated server takes to be staged
ROUND_TRIPS = 14  # drain, close, fence, ready and open two each; preflight, quiesce, flush, warm


def pillar(sites: int, farms: int, servers: int) -> dict[str, Any]:
    """A cluster of that size, two balancers a site."""
    return {
        "store": {"minion": "master", "address": "10.255.0.2"},
        "primary": {
            "balancers": {"lb1": {"address": "10.255.0.11", "public": "10.255.1.11"}},
            "domain": "shop.example",
        },
        "sites": {f"site{s}": site(s, farms, servers) for s in range(1, sites + 1)},
        "releases": {
            FIRST: {"php": "8.2.32", "webapp": "1"},
            SECOND: {"php": "8.2.36", "webapp": "2"},
        },
        "initial": FIRST,
        "target": SECOND,
    }


def site(number: int, farms: int, servers: int) -> dict[str, Any]:
    """One site of it."""
    name = f"site{number}"
    address = {(f, n): f"10.{number}.{f}.{n}" for f in range(farms) for n in range(servers)}
    return {
        "balancers": {f"{name}-lb{n}": {"address": f"10.{number}.254.{n}"} for n in (1, 2)},
        "database": {"minion": f"{name}-db1", "address": f"10.{number}.254.9"},
        "policy": {
            "soak_seconds": SOAK,
            "canary_soak_seconds": CANARY,
            "stage_parallel": PARALLEL,
            "gates": {"min_requests": 0},
        },
        "farms": {
            f"farm{f}": {
                "memcached": [f"{address[f, n]}:11211" for n in range(servers)],
                "servers": {
                    f"{name}-farm{f}-ws{n}": {"address": address[f, n]} for n in range(servers)
                },
            }
            for f in range(farms)
        },
    }


def measure(sites: int, farms: int, servers: int) -> dict[str, str]:
    """Plan and upgrade all; the row of the table."""
    size = pillar(sites, farms, servers)
    drive = Drive(Plan(1, size, tuple(size["sites"]), frozenset()), sessions=0)
    drive.longest = 1_000_000.0
    drive.world.network.weather.slow = 0.0
    row: dict[str, str] = {"servers": f"{sites * farms * servers} ({sites} x {farms} x {servers})"}

    def work(drive: Drive) -> None:
        world = drive.world
        start = time.process_time()
        planned = drive.command("plan", lambda c: commands.plan(c, release=SECOND))
        row["plan, s of CPU"] = f"{time.process_time() - start:.1f}"
        assert planned.result and planned.result["result"], planned.error
        sent, began, start = world.network.sent, world.now, time.process_time()
        upgraded = drive.command("upgrade", lambda c: commands.upgrade(c, release=SECOND))
        assert upgraded.result and upgraded.result["state"] == "done", upgraded.result
        trip = 0.3  # two ways of at most 0.2 and 0.1 s, for the slowest of the nodes
        batches = -(-farms * servers // PARALLEL)
        floor = sites * (batches * (COPY + trip) + farms * (RESTART + CHECK_SECONDS + SOAK))
        floor += CANARY - SOAK + sites * farms * ROUND_TRIPS * trip
        row["commands sent"] = str(world.network.sent - sent)
        row["a server"] = f"{(world.network.sent - sent) / (sites * farms * servers):.1f}"
        row["upgrade.all, s simulated"] = f"{world.now - began:.0f}"
        row["critical path, s"] = f"{floor:.0f}"
        row["ratio"] = f"{(world.now - began) / floor:.2f}"
        row["s of CPU"] = f"{time.process_time() - start:.0f}"
        row["memory, MiB"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"

    drive.run(work)
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["2x16x16"], help="SITESxFARMSxSERVERS")
    rows = [measure(*map(int, size.split("x"))) for size in parser.parse_args().sizes]
    for name in rows[0]:
        print(f"| {name:<26} | " + " | ".join(f"{row[name]:>24}" for row in rows) + " |")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compare a farm upgrade's wall time with the sum of the waits that no upgrade can avoid.

Run it on the master, with Salt's Python, while the cluster is in service::

    /opt/salt/bin/python benchmarks/farm_upgrade.py site1 farm2 --release 2026.11.2
    /opt/salt/bin/python benchmarks/farm_upgrade.py --rollout 7      a rollout that has run

What cannot be avoided: the transfer of the trees, the time that sessions and requests get to end,
php-fpm's restart, the balancers' health checks, the soak; and for each change of a balancer one
round trip through Salt to make it and one to read it back. A round trip is measured with
`test.ping` to the same balancers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "_utils"))

WAITS = {
    "stage": "rsync and digests",
    "soft": "policy drain_seconds",
    "quiesce": "requests in flight",
    "switch": "php-fpm restarts and is ready",
    "verify": "health checks on every balancer",
    "soak": "policy soak_seconds",
}
ROUND_TRIPS = {  # a change and its proof; a question is one
    "drain": 2,
    "close": 2,
    "fence": 2,
    "ready": 2,
    "open": 2,
    "preflight": 1,
    "flush": 1,
    "warm": 1,
}


def salt_run(*words: str) -> dict[str, Any]:
    """One runner's data; exits with its message when it failed."""
    done = subprocess.run(
        ["salt-run", "--out=json", *words], capture_output=True, text=True, check=False
    )
    try:
        data: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"salt-run {' '.join(words)} gave no data:\n{done.stdout}\n{done.stderr}")
    if done.returncode:
        sys.exit(f"salt-run {' '.join(words)}: {data.get('message', data)}")
    return data


def round_trip(targets: list[str], times: int = 9) -> float:
    """Seconds from publishing a job until the last target's return, the median."""
    import salt.client
    import salt.config
    from webfarm.rollout.salt_cluster import SaltCluster

    client = salt.client.get_local_client(mopts=salt.config.master_config("/etc/salt/master"))
    cluster = SaltCluster(client, None)  # type: ignore[arg-type]
    spent = []
    for _ in range(times):
        start = time.monotonic()
        replies = cluster.call("test.ping", targets, {}, 20)
        spent.append(time.monotonic() - start)
        for name, reply in replies.items():
            if not reply.ok:
                sys.exit(f"{name}: {reply.error}")
    client.destroy()
    return statistics.median(spent)


def floor_of(step: str, seconds: float, trip: float) -> float:
    """The part of a step that no upgrade can avoid."""
    if step in WAITS:
        return seconds
    return min(seconds, ROUND_TRIPS.get(step, 0) * trip)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site", nargs="?")
    parser.add_argument("farm", nargs="?")
    parser.add_argument("--release")
    parser.add_argument("--rollout", type=int, help="a rollout that has run, by its number")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.rollout is None:
        if not (given.site and given.farm):
            parser.error("SITE and FARM, or --rollout NUMBER")
        words = [given.site, given.farm, *([f"release={given.release}"] if given.release else [])]
        given.rollout = salt_run("upgrade.farm", *words)["outcomes"][0]["rollout"]
    rollout = salt_run("upgrade.history", f"rollout={given.rollout}")
    steps = rollout["steps"]
    if not steps:
        sys.exit(f"rollout {given.rollout} had nothing to do")
    balancers = next((s["targets"] for s in steps if s["name"] in ("drain", "open")), [])
    trip = round_trip(balancers) if balancers else 0.0
    wall = rollout["ended"] - rollout["started"]
    rows = [
        {
            "step": s["name"],
            "seconds": round(s["ended"] - s["started"], 2),
            "unavoidable": round(floor_of(s["name"], s["ended"] - s["started"], trip), 2),
            "for": WAITS.get(s["name"], f"{ROUND_TRIPS.get(s['name'], 0)} round trips"),
        }
        for s in steps
    ]
    stepping = sum(row["seconds"] for row in rows)
    floor = sum(row["unavoidable"] for row in rows)
    result = {
        "rollout": given.rollout,
        "round_trip": round(trip, 3),
        "steps": rows,
        "between_steps": round(wall - stepping, 2),
        "wall": round(wall, 2),
        "unavoidable": round(floor, 2),
        "ratio": round(wall / floor, 2),
    }
    if given.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"rollout {given.rollout}, a round trip to {', '.join(balancers)} takes {trip:.3f} s\n")
    print(f"| {'step':<13} | seconds | unavoidable | for                             |")
    print("|---------------|--------:|------------:|---------------------------------|")
    for row in rows:
        print(
            f"| {row['step']:<13} | {row['seconds']:7.2f} | {row['unavoidable']:11.2f} "
            f"| {row['for']:<31} |"
        )
    rest = f"{result['between_steps']:7.2f} | {0:11.2f}"
    print(f"| between steps | {rest} | {'observing, journal':<31} |")
    print(f"| sum           | {wall:7.2f} | {floor:11.2f} | {f'{wall / floor:.2f} times':<31} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

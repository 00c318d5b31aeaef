"""Guess how long a plan takes: what its steps took lately, and the waits that the policy sets."""

from collections.abc import Iterable
from statistics import median

from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Step

LATELY = 20  # rollouts
WAITS = ("soft", "soak")  # as long as the policy says
# seconds, where nothing has been upgraded yet
USUAL = {
    **{"stage": 30.0, "switch": 10.0, "warm": 5.0, "quiesce": 5.0, "verify": 3.0},
    **{"install": 60.0, "reboot": 60.0, "restore": 5.0, "restart": 10.0, "check": 5.0},
}
OTHERWISE = 2.0


def lately(journal: Journal) -> dict[str, float]:
    """The median seconds of each step in the latest rollouts."""
    took: dict[str, list[float]] = {}
    for rollout in journal.rollouts(LATELY):
        for step in journal.steps(rollout["id"]):
            if step["state"] == "done" and step["ended"] is not None:
                took.setdefault(step["name"], []).append(step["ended"] - step["started"])
    return {name: median(seconds) for name, seconds in took.items()}


def seconds(steps: Iterable[Step], took: dict[str, float]) -> float:
    """How long the steps take together."""
    total = 0.0
    for step in steps:
        if step.name in WAITS:
            total += step.deadline or 0.0
        else:
            total += took.get(step.name, USUAL.get(step.name, OTHERWISE))
    return total


def text(estimate: float) -> str:
    """``about 3 min``; rounded, since it is a guess."""
    if estimate < 90:
        return f"about {max(5, 5 * round(estimate / 5))} s"
    if estimate < 5400:
        return f"about {round(estimate / 60)} min"
    return f"about {estimate / 3600:.1f} h"

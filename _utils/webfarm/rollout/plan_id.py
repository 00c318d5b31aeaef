"""A short digest of a plan and of the world that it was made for; pure.

It has one part for each thing that may change, so that a stale plan can say what did. What changes
by itself all the time is left out: requests in flight, counters, and what the weights' loop sets
(the shares in the pick maps, its own drains).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rollout.model import BalancerView, Goal, Seen, ServerView
from webfarm.topology import Site

PREFIX = "p"  # no YAML number begins with it
DIGITS = 5  # of each part
PARTS = {
    "goals": "the farms, their order or the release",
    "trees": "the release's trees in the store",
    "policy": "the policy in force",
    "balancers": "what the balancers have (states, generations, releases, servers UP)",
    "servers": "what the servers run, or which of them answer",
}


def plan_id(
    goals: Sequence[Goal], sites: Mapping[str, Site], seen: Mapping[tuple[str, str], Seen]
) -> str:
    """The digest.

    sites
        The sites with the policies in force.
    seen
        What was observed for each site and farm of the goals.
    """
    touched = dict.fromkeys(goal.site for goal in goals)
    basis: dict[str, Any] = {
        "goals": [{**asdict(goal), "digests": None} for goal in goals],
        "trees": [goal.digests for goal in goals],
        "policy": {name: sites[name].policy.model_dump(mode="json") for name in touched},
        "balancers": {
            f"{site}/{view.id}": _balancer(view)
            for (site, _), one in seen.items()
            for view in one.balancers.values()
        },
        "servers": {
            f"{site}/{view.id}": _server(view)
            for (site, _), one in seen.items()
            for view in one.servers.values()
        },
    }
    return PREFIX + "".join(_digest(basis[part]) for part in PARTS)


def confirm(asked: str, now: str) -> None:
    """Raise :class:`WebfarmError` when the plan that was asked for is not the one of now."""
    if asked == now:
        return
    changed = []
    if len(asked) == len(now) and asked.startswith(PREFIX):
        for number, what in enumerate(PARTS.values()):
            at = slice(len(PREFIX) + number * DIGITS, len(PREFIX) + (number + 1) * DIGITS)
            if asked[at] != now[at]:
                changed.append(what)
    why = f"changed since: {'; '.join(changed)}" if changed else "it is no plan of this cluster"
    raise WebfarmError(
        f"the plan {asked} is stale: {why}. Nothing was changed; look at `salt-run upgrade.plan` "
        f"again (the plan of now is {now})"
    )


def _balancer(view: BalancerView) -> Any:
    if not view.answered:
        return None
    farms = {
        name: [
            farm.state,
            farm.generation,
            farm.release,
            sorted(
                (n, s.healthy, "ready" if s.rested else s.admin) for n, s in farm.servers.items()
            ),
        ]
        for name, farm in view.farms.items()
    }
    picks = [sorted(n for n, s in pick.items() if s) for pick in (view.pick, view.pick_newest)]
    return [farms, view.newest, *picks, view.disk_agrees]


def _server(view: ServerView) -> Any:
    if not view.answered:
        return None
    versions = [sorted(view.php_versions), sorted(view.webapp_versions)]
    return [view.release, view.ready, *versions]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

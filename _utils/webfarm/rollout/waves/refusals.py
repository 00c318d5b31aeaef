"""Say why a wave's members must not leave service now, each reason with its numbers."""

import math
from collections.abc import Sequence

from webfarm.rollout.model import listed
from webfarm.rollout.preflight import percent
from webfarm.rollout.waves.situation import WaveSituation


def refusals(now: WaveSituation, members: Sequence[str]) -> list[str]:
    """Why not; empty when they may. Who is out already is counted as gone."""
    policy = now.site.policy
    reasons = [
        f"balancer {name} has another state on disk than in memory; run "
        f"`salt {name} haproxy_runtime.reconcile`"
        for name, view in now.balancers.items()
        if not view.disk_agrees
    ]
    for member in members:
        farm = now.farms[member]
        reasons += _farm(now, farm)
        reasons += _others_out(now, farm, member)
        keeps = now.keeps(farm, [member])
        if keeps < policy.min_farm_capacity:
            reasons.append(_too_little(now, farm, member, keeps))
    rest = now.site_keeps(members)
    if rest < policy.min_capacity:
        reasons.append(
            f"without {listed(list(members))} the site keeps {percent(rest)} of its weight, "
            f"min_capacity is {percent(policy.min_capacity)}"
        )
    return reasons


def too_busy(now: WaveSituation, members: Sequence[str], load: float) -> str:
    """Why the others cannot carry the present load; empty when they can."""
    limit = now.site.policy.gates.max_utilisation
    if load <= limit:
        return ""
    shown = "all there are" if math.isinf(load) else f"{math.ceil(load * 100)} %"
    return (
        f"without {listed(list(members))} the requests now in flight and queued would take {shown} "
        f"of the other servers' php-fpm processes, gates.max_utilisation is {percent(limit)}"
    )


def _farm(now: WaveSituation, farm: str) -> list[str]:
    shown = {
        f"{view.farms[farm].state} on {view.farms[farm].release}" for view in _views(now, farm)
    }
    if len(shown) == 1 and next(iter(shown)).startswith("open "):
        return []
    return [f"{farm} is not open on one release on every balancer: {listed(sorted(shown))}"]


def _others_out(now: WaveSituation, farm: str, member: str) -> list[str]:
    """S4: a wave takes at most one server of any farm, whoever left another one out."""
    out = sorted(
        {
            name
            for view in _views(now, farm)
            for name, at in view.farms[farm].servers.items()
            if at.taken and name != member
        }
    )
    if not out:
        return []
    return [
        f"{listed(out)} of {farm} is still out of service by an earlier wave; bring it back first: "
        f"`salt-run upgrade.resume`, or `salt '*-lb*' haproxy_runtime.set_state {farm} {out[0]} "
        "ready` when it is in order"
    ]


def _too_little(now: WaveSituation, farm: str, member: str, keeps: float) -> str:
    limit = percent(now.site.policy.min_farm_capacity)
    count = len(now.site.farms[farm].servers)
    why = (
        f"without {member}, {farm} keeps {percent(keeps)} of its weight, "
        f"min_farm_capacity is {limit}"
    )
    if count == 1:
        return (
            f"{why}: it is its only server. Add a server to the farm, or let its sessions go to "
            "the site's other farms for that time with policy='{min_farm_capacity: 0.0}'"
        )
    down = [n for n in now.site.farms[farm].servers if n != member and not now.up(n)]
    return why + (f"; not UP: {listed(down)}" if down else "")


def _views(now: WaveSituation, farm: str) -> list:  # type: ignore[type-arg]
    return [view for view in now.balancers.values() if farm in view.farms]

"""Say why a farm must not leave service now, each reason with its numbers."""

import math

from webfarm.rollout.gates import utilisation
from webfarm.rollout.model import listed
from webfarm.rollout.situation import Situation


def refusals(now: Situation) -> list[str]:
    """Why the farm must not leave service now, each with its numbers; empty when it may."""
    goal, policy = now.goal, now.site.policy
    reasons = disagreements(now)
    if now.regression:
        reasons.append(now.regression)
    if not now.may_do_without(now.left_out):
        reasons.append(too_many(now))
    others = now.others()
    if not others:
        reasons.append(f"{goal.farm} is the only farm of {goal.site} that is open on all balancers")
        return reasons
    rest = now.capacity(goal.farm)
    if rest < policy.min_capacity:
        reasons.append(
            f"without {goal.farm} the site keeps {percent(rest)} of its weight, min_capacity is "
            f"{percent(policy.min_capacity)}; not UP: {listed(_down(now)) or 'none'}"
        )
    generation = max(at.generation for at in now.at.values())
    if not now.resets and not any(_takes_over(now, farm, generation) for farm in others):
        reasons.append(
            f"no other open farm may answer the sessions of {goal.farm} (generation {generation}); "
            "upgrade another farm to its release first"
        )
    return reasons


def load_without(now: Situation) -> float:
    """The share of the other farms' php-fpm processes that the site's present requests take."""
    return utilisation(now.site, now.seen, now.goal.farm)


def too_busy(now: Situation, load: float) -> str:
    """Why the other farms cannot carry ``load``; empty when they can.

    One look may catch an odd moment, so this is asked once, with the mean of several, and not of
    each observation like :func:`refusals`.
    """
    limit = now.site.policy.gates
    if load <= limit.max_utilisation:
        return ""
    if math.isinf(load):
        return f"without {now.goal.farm} no php-fpm process of an open farm is UP on all balancers"
    return (
        f"without {now.goal.farm} the requests now in flight and queued would take "
        f"{math.ceil(load * 100)} % of the other farms' php-fpm processes, "
        f"gates.max_utilisation is {percent(limit.max_utilisation)}"
    )


def _takes_over(now: Situation, farm: str, generation: int) -> bool:
    return all(
        (view.farms[farm].generation >= generation or view.amnesty >= generation)
        and any(server.up for server in view.farms[farm].servers.values())
        for view in now.balancers.values()
    )


def _down(now: Situation) -> list[str]:
    return [
        f"{farm}/{name}"
        for farm, plan in now.site.farms.items()
        if farm != now.goal.farm
        for name in plan.servers
        if not all(
            name in view.farms[farm].servers and view.farms[farm].servers[name].up
            for view in now.balancers.values()
        )
    ]


def disagreements(now: Situation) -> list[str]:
    """Where the site's balancers differ from each other or from their own disk.

    Pick maps may differ: each step that changes a farm's state writes them whole, on all balancers.
    """
    views = now.balancers
    lines = [
        f"balancer {name} has another state on disk than in memory; run "
        f"`salt {name} haproxy_runtime.reconcile`"
        for name, view in views.items()
        if not view.disk_agrees
    ]
    lines += _differ("newest", {name: str(view.newest) for name, view in views.items()})
    for farm in now.site.farms:
        for what in ("state", "generation", "release"):
            values = {name: getattr(view.farms[farm], what) for name, view in views.items()}
            partly = farm == now.goal.farm and what == "state"
            if not partly:  # the farm itself may be half-way, that is what the steps mend
                lines += _differ(f"{farm} {what}", {n: str(v) for n, v in values.items()})
    return lines


def _differ(what: str, values: dict[str, str]) -> list[str]:
    if len(set(values.values())) <= 1:
        return []
    return [
        f"the balancers disagree on {what}: "
        + listed([f"{name} has {value}" for name, value in values.items()])
    ]


def percent(share: float) -> str:
    """A share as text: ``50 %``; rounded down, so that nothing looks more than it is."""
    return f"{int(share * 100)} %"


def too_many(now: Situation) -> str:
    """Why the farm cannot go on without those that are left out."""
    shown = listed([f"{name} {why}" for name, why in now.left_out.items()])
    return (
        f"{len(now.left_out)} of {now.goal.farm}'s {len(now.farm.servers)} servers cannot be "
        f"upgraded, {now.budget} may be left out (max_failed): {shown}"
    )

"""Foresee a rollout: the planner's steps if each does what it says, and the capacity at each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from webfarm.rollout.model import (
    BalancerView,
    Before,
    FarmAtBalancer,
    Goal,
    Memory,
    Next,
    Seen,
    ServerAtBalancer,
    Step,
)
from webfarm.rollout.planner import decide, remember
from webfarm.rollout.situation import Situation
from webfarm.topology import Site

LONGEST = 50  # steps; a plan that does not end by then is a mistake in the planner
WAITS = ("stage", "preflight", "soft", "quiesce", "warm", "verify", "open", "soak")


@dataclass(frozen=True)
class Foreseen:
    """A step, and the share of the site's weight that is in service while it runs."""

    step: Step
    capacity: float


def outline(
    goal: Goal, site: Site, seen: Seen, memory: Memory | None = None
) -> tuple[tuple[Foreseen, ...], Next, Seen]:
    """All steps to the goal, what ends the plan (the goal, or why not), and the world then."""
    memory = memory or Memory()
    steps: list[Foreseen] = []
    while len(steps) < LONGEST:
        memory = remember(memory, goal, site, seen)
        step = decide(goal, site, seen, memory)
        if not isinstance(step, Step):
            return tuple(steps), step, seen
        now = Situation(goal, site, seen, memory)
        if step.name == "preflight":
            memory = replace(memory, before=before(now))
        seen = expected(step, goal, seen)
        steps.append(Foreseen(step, Situation(goal, site, seen, memory).capacity()))
        memory = learn(step, memory)
    raise AssertionError(f"the plan for {goal} does not end: {[s.step.name for s in steps]}")


def before(now: Situation) -> Before | None:
    """The farm as it is in service, so that it can be put back."""
    serving = [at for at in now.at.values() if at.state in ("open", "drain")]
    pairs = {(at.release, at.generation) for at in serving}
    return Before(*pairs.pop()) if len(pairs) == 1 else now.memory.before


def learn(step: Step, memory: Memory) -> Memory:
    """``memory`` after the step was done: only what an observation cannot show."""
    if step.name == "flush":
        return replace(memory, flushed=memory.flushed | set(step.arguments["servers"]))
    if step.name in ("drain", "close"):  # sessions may come or go: prove everything again
        lost = {"quiesce", "warm", "verify"}
        return replace(memory, done=memory.done - lost, flushed=frozenset(), idle=0)
    if step.name in WAITS:
        return replace(memory, done=memory.done | {step.name})
    return memory


def expected(step: Step, goal: Goal, seen: Seen) -> Seen:
    """The world after the step, if it does what it says and nothing else happens."""
    servers = dict(seen.servers)
    balancers = dict(seen.balancers)
    for name in step.targets:
        if step.name == "stage":
            view = servers[name]
            servers[name] = replace(
                view,
                php_versions=view.php_versions | {goal.php},
                webapp_versions=view.webapp_versions | {goal.webapp},
            )
        elif step.name in ("switch", "rejoin"):
            servers[name] = replace(servers[name], release=goal.release, ready=True, why="")
        elif step.function == "haproxy_runtime.set_farms":
            balancers[name] = _set_farms(balancers[name], step.arguments)
    seen = Seen(balancers, servers)
    if step.name in ("fence", "switch", "rejoin"):
        seen = Seen({n: _checked(v, goal.farm, seen) for n, v in balancers.items()}, servers)
    return seen if step.name != "quiesce" else _idle(seen, goal.farm)


def _set_farms(view: BalancerView, wanted: Mapping[str, Any]) -> BalancerView:
    farms = dict(view.farms)
    for what in ("state", "generation", "release"):
        for farm, value in wanted.get(what, {}).items():
            farms[farm] = replace(farms[farm], **{what: value})
    return replace(
        view,
        farms=farms,
        newest=wanted.get("newest", view.newest),
        amnesty=wanted.get("amnesty", view.amnesty),
        pick=_slots(wanted["pick"]) if "pick" in wanted else view.pick,
        pick_newest=_slots(wanted["pick_newest"]) if "pick_newest" in wanted else view.pick_newest,
    )


def _slots(weights: Mapping[str, int]) -> dict[str, int]:
    """Each farm's part of the 256 slots of a pick map, at least one."""
    total = sum(weights.values())
    return {farm: max(1, 256 * weight // total) for farm, weight in weights.items() if weight}


def _checked(view: BalancerView, name: str, seen: Seen) -> BalancerView:
    """The health checks after a change of the fence or of a server's release."""
    farm: FarmAtBalancer = view.farms[name]
    servers = {}
    for server, at in farm.servers.items():
        own = seen.servers.get(server)
        if own is None or not own.answered or at.withheld:
            servers[server] = at
            continue
        # a closed farm has no drains of the weights' loop any more
        servers[server] = ServerAtBalancer(
            "UP" if own.runs(farm.release) else "DOWN", check=at.check
        )
    return replace(view, farms={**view.farms, name: replace(farm, servers=servers)})


def _idle(seen: Seen, name: str) -> Seen:
    balancers = {}
    for balancer, view in seen.balancers.items():
        farm = replace(view.farms[name], in_flight=0, queued=0)
        balancers[balancer] = replace(view, farms={**view.farms, name: farm})
    return Seen(balancers, seen.servers)

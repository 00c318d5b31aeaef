"""Decide the next step of a farm's rollout from what is seen; pure, so it can start anywhere.

The order is that of the design. Each guard asks the observation whether its part is done, so a
rollout that was killed goes on by looking: nothing here depends on how the farm got where it is.

Two rules differ from a naive reading of the order:

- The memcached pool is flushed after the switch, not before. The switch ends the old php-fpm, so
  no request that a balancer gave up on can still write an old session into a pool already proven
  empty.
- The fence moves only while the farm is closed on every balancer. See :attr:`Situation.generation`.
"""

from dataclasses import replace

from webfarm.rollout import opening, steps
from webfarm.rollout.model import (
    Goal,
    InService,
    Memory,
    Next,
    Refused,
    Seen,
    Step,
    Stuck,
    listed,
)
from webfarm.rollout.preflight import percent, refusals, too_many
from webfarm.rollout.situation import Situation
from webfarm.topology import Site


def decide(goal: Goal, site: Site, seen: Seen, memory: Memory) -> Next:
    """The next step towards ``goal``, or why there is none."""
    now = Situation(goal, site, seen, memory)
    if now.blind:
        return Stuck(tuple(now.blind))
    if goal.server is not None:
        return _one_server(now, goal.server)
    if now.fenced and now.states == {"open"}:
        return _in_service(now)
    if now.fenced and now.states <= {"open", "drain"}:
        # drained, never closed: its sessions are still here and nothing moved
        return opening.open_(now)
    if now.fenced and now.states & {"open", "ready"}:
        return opening.half_open(now)
    if not now.fenced and len(now.fences) > 1 and now.states != {"closed"}:
        shown = listed([f"{name} {at.release} ({at.state})" for name, at in now.at.items()])
        return Stuck(
            (
                f"the balancers disagree on the release of {goal.farm}, which is not "
                f"closed: {shown}; see what each has on disk with `salt BALANCER "
                "haproxy_runtime.reconcile`",
            )
        )
    return _out_of_service(now)


def remember(memory: Memory, goal: Goal, site: Site, seen: Seen) -> Memory:
    """``memory`` after one more observation: how often in a row the farm was seen idle."""
    idle = memory.idle + 1 if Situation(goal, site, seen, memory).idle else 0
    return replace(memory, idle=idle)


# -- the farm is in service on the goal's release -------------------------------------------------


def _in_service(now: Situation) -> Next:
    if opening.lacking(now):
        return opening.open_(now)
    policy = now.site.policy
    soaks = policy.soak_seconds and not now.memory.retreat
    if "open" in now.memory.done and "soak" not in now.memory.done and soaks:
        return Step(
            "soak",
            tuple(now.members),
            f"watch the farm on {now.goal.release}",
            policy.soak_seconds,
        )
    stragglers = opening.stragglers(now)
    if not stragglers:
        return InService(now.out_of_service)
    return steps.stage(now, stragglers) or steps.switch(now, stragglers, "rejoin")


def _one_server(now: Situation, name: str) -> Next:
    """A server that was left out or slept: to the release of its farm, which stays in service."""
    goal, view = now.goal, now.server(name)
    if not (now.fenced and now.states == {"open"}):
        return Refused((f"{goal.farm} is not open on {goal.release} on every balancer",))
    if now.up(name) and view.runs(goal.release):
        return InService(now.out_of_service)
    if not view.answered:
        return Refused((f"{name} does not answer: {view.why}",))
    if now.withheld(name):
        return Refused((f"{name} is held out of service by an operator; make it ready first",))
    if name in now.memory.quarantined:
        return InService(now.out_of_service)
    if "stage" not in now.memory.done:
        return steps.stage_again(now, name)
    if not view.runs(goal.release):
        return steps.switch(now, [name], "rejoin")
    return opening.verify(now, [name])


# -- out of service: drain, close, switch ----------------------------------------------------------


def _out_of_service(now: Situation) -> Next:
    goal, memory, policy = now.goal, now.memory, now.site.policy
    untouched = now.states == {"open"}
    if now.states != {"closed"} and not memory.retreat:
        reasons = refusals(now)
        if reasons:
            return Refused(tuple(reasons))
    step = steps.stage(now, now.members)
    if step:
        return step
    if untouched and "preflight" not in memory.done:
        return Step(
            "preflight",
            tuple(now.members),
            f"without {goal.farm} the site keeps {percent(now.capacity(goal.farm))}, "
            f"{percent(policy.min_capacity)} are required",
            policy.answer_seconds,
            "farm_cache.stats",
            {"servers": now.to_flush()},
        )
    step = _drain(now)
    if step:
        return step
    soft = policy.drain_seconds and "soft" not in memory.done and not memory.retreat
    if "drain" in now.states and soft:
        return Step(
            "soft",
            tuple(now.balancers),
            "sessions may end by themselves",
            policy.drain_seconds,
        )
    if now.states != {"closed"} or any(now.picked(name) for name in now.balancers):
        return _close(now)
    return _closed(now)


def _closed(now: Situation) -> Next:
    goal, memory, policy = now.goal, now.memory, now.site.policy
    if not memory.retreat and "quiesce" not in memory.done:
        return Step(
            "quiesce",
            tuple(now.balancers),
            f"{now.in_flight} in flight"
            if now.in_flight
            else "nothing in flight must be seen twice",
            None if policy.on_deadline == "wait" else policy.quiesce_seconds,
        )
    if not now.may_do_without(now.left_out):
        return Stuck((too_many(now),))
    behind = [
        name
        for name in now.balancers
        if not now.fenced_at(name) or now.lacks_amnesty(name, now.known)
    ]
    if behind:
        return Step(
            "fence",
            tuple(behind),
            f"only a server on {goal.release} may be UP",
            3 * policy.answer_seconds,
            "haproxy_runtime.set_farms",
            {"release": {goal.farm: goal.release}, **now.amnesty(now.known)},
        )
    old = [name for name in now.members if not now.server(name).runs(goal.release)]
    if old:
        return steps.switch(now, old, "switch")
    return steps.flush(now) or opening.prove(now) or opening.ready(now)


def _drain(now: Situation) -> Step | None:
    """A farm that is only ``ready`` has no sessions to keep: it is closed without a drain."""
    goal = now.goal
    targets = [
        name
        for name, at in now.at.items()
        if at.state == "open"
        or (at.state == "drain" and (now.picked(name) or now.lacks_amnesty(name, now.known)))
    ]
    if not targets:
        return None
    return Step(
        "drain",
        tuple(targets),
        "no new sessions; those that saw the newer release may be reset"
        if now.resets
        else "no new sessions",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {"state": {goal.farm: "drain"}, **_without(now), **now.amnesty(now.known)},
    )


def _close(now: Situation) -> Step:
    goal = now.goal
    targets = [name for name, at in now.at.items() if at.state != "closed" or now.picked(name)]
    return Step(
        "close",
        tuple(targets),
        f"sessions go to {listed(now.others())}",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {"state": {goal.farm: "closed"}, **_without(now)},
    )


def _without(now: Situation) -> dict[str, dict[str, int]]:
    """The pick maps without the farm."""
    newest = [
        farm
        for farm in now.others(("open", "ready"))
        if all(view.farms[farm].generation == now.newest for view in now.balancers.values())
    ]
    return {"pick": now.shares(now.others()), "pick_newest": now.shares(newest)}

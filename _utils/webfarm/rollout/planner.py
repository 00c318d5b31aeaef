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

from webfarm.rollout.model import (
    Goal,
    InService,
    Memory,
    Next,
    Refused,
    Seen,
    ServerView,
    Step,
    Stuck,
    listed,
)
from webfarm.rollout.preflight import percent, refusals, too_many
from webfarm.rollout.situation import Situation
from webfarm.topology import Site

STAGE_SECONDS = 3600.0
SWITCH_SECONDS = 90.0
VERIFY_SECONDS = 60.0
FLUSH_SECONDS = 10.0


def decide(goal: Goal, site: Site, seen: Seen, memory: Memory) -> Next:
    """The next step towards ``goal``, or why there is none."""
    now = Situation(goal, site, seen, memory)
    if now.blind:
        return Stuck(tuple(now.blind))
    if now.fenced and now.states == {"open"}:
        return _in_service(now)
    if now.fenced and now.states <= {"open", "drain"}:
        # drained, never closed: its sessions are still here and nothing moved
        return _open(now)
    if now.fenced and now.states & {"open", "ready"}:
        return _opening(now)
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
    if not all(_opened(now, name) for name in now.balancers):
        return _open(now)
    policy = now.site.policy
    soaks = policy.soak_seconds and not now.memory.retreat
    if "open" in now.memory.done and "soak" not in now.memory.done and soaks:
        return Step(
            "soak",
            tuple(now.members),
            f"watch the farm on {now.goal.release}",
            policy.soak_seconds,
        )
    stragglers = _stragglers(now)
    if not stragglers:
        return InService(now.out_of_service)
    return _stage(now, stragglers) or _switch(now, stragglers, "rejoin")


def _stragglers(now: Situation) -> list[str]:
    return [
        name
        for name in now.members
        if not now.server(name).runs(now.goal.release) and not now.up(name, everywhere=False)
    ]


def _opened(now: Situation, name: str) -> bool:
    at, view = now.at[name], now.balancers[name]
    farm = now.goal.farm
    young = at.generation < view.newest or view.pick_newest.get(farm, 0) > 0
    return at.state == "open" and view.pick.get(farm, 0) > 0 and young


# -- out of service: drain, close, switch ----------------------------------------------------------


def _out_of_service(now: Situation) -> Next:
    goal, memory, policy = now.goal, now.memory, now.site.policy
    untouched = now.states == {"open"}
    if now.states != {"closed"} and not memory.retreat:
        reasons = refusals(now)
        if reasons:
            return Refused(tuple(reasons))
    step = _stage(now, now.members)
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
    if not now.fenced:
        behind = [name for name, at in now.at.items() if at.release != goal.release]
        return Step(
            "fence",
            tuple(behind),
            f"only a server on {goal.release} may be UP",
            3 * policy.answer_seconds,
            "haproxy_runtime.set_farms",
            {"release": {goal.farm: goal.release}},
        )
    old = [name for name in now.members if not now.server(name).runs(goal.release)]
    if old:
        return _switch(now, old, "switch")
    return _flush(now) or _prove(now) or _ready(now)


def _drain(now: Situation) -> Step | None:
    """A farm that is only ``ready`` has no sessions to keep: it is closed without a drain."""
    goal = now.goal
    targets = [
        name
        for name, at in now.at.items()
        if at.state == "open" or (at.state == "drain" and now.picked(name))
    ]
    if not targets:
        return None
    return Step(
        "drain",
        tuple(targets),
        "no new sessions",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {"state": {goal.farm: "drain"}, **_without(now)},
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


def _stage(now: Situation, servers: list[str]) -> Step | None:
    goal = now.goal
    lacking = [name for name in servers if not now.server(name).has(goal.php, goal.webapp)]
    if now.states == {"open"} and not now.fenced and "stage" not in now.memory.done:
        lacking = servers  # also where the trees are: it enters the pair in releases.php
    if not lacking:
        return None
    return Step(
        "stage",
        tuple(lacking),
        f"php {goal.php} and webapp {goal.webapp} must be installed, and known as {goal.release}",
        STAGE_SECONDS,
        "webfarm_release.stage",
        {
            "release": goal.release,
            "php": goal.php,
            "webapp": goal.webapp,
            "digests": dict(goal.digests) if goal.digests else None,
        },
    )


def _switch(now: Situation, servers: list[str], name: str) -> Step:
    goal = now.goal
    return Step(
        name,
        tuple(servers),
        f"to {goal.release}, all at once",
        SWITCH_SECONDS,
        "webfarm_release.switch",
        {"release": goal.release, "php": goal.php, "webapp": goal.webapp},
    )


def _flush(now: Situation) -> Step | None:
    """Sessions that left the farm went on elsewhere: what its pool remembers is the past (S3)."""
    wanted = [m for m in now.to_flush() if m not in now.memory.flushed]
    if not wanted:
        return None
    return Step(
        "flush",
        tuple(now.members),
        f"the pool must not remember what moved away: {listed(wanted)}",
        FLUSH_SECONDS + now.site.policy.answer_seconds,
        "farm_cache.flush",
        {"servers": wanted, "deadline": FLUSH_SECONDS},
    )


# -- back into service: verify, ready on all, open on each -----------------------------------------


def _prove(now: Situation) -> Step | None:
    goal, memory = now.goal, now.memory
    if "warm" not in memory.done and not memory.retreat:
        return Step(
            "warm",
            tuple(now.members),
            "the webapp answers and opcache is filled before the first session comes",
            VERIFY_SECONDS,
            "webfarm_release.warm",
        )
    if "verify" not in memory.done:
        return Step(
            "verify",
            tuple(now.members),
            f"each says {goal.release} and is UP on every balancer",
            VERIFY_SECONDS,
        )
    return None


def _opening(now: Situation) -> Next:
    """Ready or open on some balancer: only forward is safe, a session may have seen the release."""
    if not now.may_do_without(now.left_out):
        return Stuck((too_many(now),))
    stragglers = _stragglers(now)
    step = _stage(now, stragglers) if stragglers else None
    if stragglers:  # the fence holds them DOWN, so a switch disturbs nobody
        return step or _switch(now, stragglers, "switch")
    step = _flush(now) if "closed" in now.states else None
    if step:
        return step
    if "verify" not in now.memory.done:
        return Step(
            "verify",
            tuple(now.members),
            f"each says {now.goal.release} and is UP on every balancer",
            VERIFY_SECONDS,
        )
    return _ready(now)


def _ready(now: Situation) -> Next:
    """First phase on every balancer that lacks it; only when all have it read back, the second."""
    goal = now.goal
    if now.regression:
        return Stuck((now.regression,))
    generation = now.generation
    newest = max(now.newest, generation)
    share = {"pick_newest": _newest_shares(now, generation, newest)}
    behind = [name for name in now.balancers if not _is_ready(now, name, generation, newest)]
    demoted = [name for name in behind if now.at[name].state == "open"]
    if demoted:
        return Stuck(
            (
                f"{goal.farm} is open on {listed(demoted)} with a generation that is not "
                f"{generation}; close it there with `salt {demoted[0]} haproxy_runtime.set_farms`",
            )
        )
    if not behind:
        return _open(now)
    return Step(
        "ready",
        tuple(behind),
        f"generation {generation}; serves only sessions that already saw it",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {
            "state": {goal.farm: "ready"},
            "generation": {goal.farm: generation},
            "newest": newest,
            **share,
        },
    )


def _is_ready(now: Situation, name: str, generation: int, newest: int) -> bool:
    at, view = now.at[name], now.balancers[name]
    return (
        at.state in ("ready", "open")
        and at.generation == generation
        and view.newest == newest
        and (generation < newest or view.pick_newest.get(now.goal.farm, 0) > 0)
    )


def _newest_shares(now: Situation, generation: int, newest: int) -> dict[str, int]:
    farms = [
        farm
        for farm in now.others(("open", "ready"))
        if all(view.farms[farm].generation == newest for view in now.balancers.values())
    ]
    if generation == newest:
        farms.append(now.goal.farm)
    return now.shares(farms)


def _open(now: Situation) -> Step:
    goal = now.goal
    targets = [name for name in now.balancers if not _opened(now, name)]
    generation = max(at.generation for at in now.at.values())
    return Step(
        "open",
        tuple(targets),
        "every balancer is ready",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {
            "state": {goal.farm: "open"},
            "pick": now.shares([*now.others(), goal.farm]),
            "pick_newest": _newest_shares(now, generation, now.newest),
        },
    )


# -- questions ---------------------------------------------------------------------------------


def lacking(step: Step, goal: Goal, site: Site, seen: Seen, memory: Memory) -> dict[str, str]:
    """Which targets of a step on servers are not where it takes them, and what each shows."""
    now = Situation(goal, site, seen, memory)
    out = {}
    for name in step.targets:
        view = now.server(name)
        if not view.answered:
            out[name] = f"does not answer: {view.why}"
        elif step.name == "stage" and not view.has(goal.php, goal.webapp):
            out[name] = f"php {goal.php} or webapp {goal.webapp} is not installed"
        elif step.name in ("switch", "rejoin", "verify") and not view.runs(goal.release):
            out[name] = f"expected {goal.release}, {_shows(view)}"
        elif (
            step.name in ("rejoin", "verify")
            and not now.blind
            and not now.up(name)
            and not now.withheld(name)
        ):
            out[name] = f"is not UP on {listed(now.not_up_on(name))}"
    return out


def _shows(view: ServerView) -> str:
    if view.release is None:
        return f"it shows no release: {view.why}"
    return f"it shows {view.release}" + ("" if view.ready else f", not ready: {view.why}")

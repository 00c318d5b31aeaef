"""Carry out one step; that it is done is proven by observation, a reply is only evidence."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from webfarm.rollout.cluster import Clock
from webfarm.rollout.model import Refused, Reply, Step, listed
from webfarm.rollout.outline import learn
from webfarm.rollout.pool import through_one
from webfarm.rollout.probe import lacking
from webfarm.rollout.watch_over import load, soak
from webfarm.rollout.world import Result, World

POLL_FIRST = 0.2
POLL_LONGEST = 2.0
SETTLE_SECONDS = 5.0  # after an explicit failure: the observation may be a moment behind


Waits = Callable[[str, float], None]
Stopping = Callable[[], bool]


def perform(step: Step, world: World, waits: Waits, stopping: Stopping) -> Result:
    """Run ``step`` until it is seen done, its deadline has passed, or the operator stops it.

    Only steps that change nothing while they wait can be stopped half-way.
    """
    if step.name == "soft":
        result = wait(step, world, waits, stopping)
    elif step.name == "soak":
        result = soak(step, world, waits, stopping)
    elif step.name == "quiesce":
        result = _quiesce(step, world, waits, stopping)
    elif step.name == "flush":
        result = through_one(step, world)
    elif step.name == "preflight":
        result = through_one(step, world)
        result = load(world, result) if result.state == "done" else result
    elif step.function == "haproxy_runtime.set_farms":
        result = _balancers(step, world, waits)
    else:
        result = _servers(step, world, waits)
    if result.state == "done":
        world.memory = learn(step, world.memory)
    return result


def polls(clock: Clock) -> Callable[[], None]:
    """Sleep a little, longer each time."""
    pause = POLL_FIRST

    def sleep() -> None:
        nonlocal pause
        clock.sleep(pause)
        pause = min(POLL_LONGEST, pause * 1.5)

    return sleep


def wait(step: Step, world: World, waits: Waits, stopping: Stopping) -> Result:
    """Let the step's time pass."""
    start = world.clock.monotonic()
    deadline = step.deadline or 0.0
    while (spent := world.clock.monotonic() - start) < deadline:
        if stopping():
            return Result("stopped", {"seconds": round(spent, 1)})
        waits(step.why, spent)
        world.clock.sleep(min(POLL_LONGEST, deadline - spent))
        world.observe(servers=False)
    return Result("done", {"seconds": round(spent, 1)})


def _quiesce(step: Step, world: World, waits: Waits, stopping: Stopping) -> Result:
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    while True:
        spent = world.clock.monotonic() - start
        now = world.situation
        counts = (
            {}
            if now.blind
            else {
                name: {"in_flight": at.in_flight, "queued": at.queued}
                for name, at in now.at.items()
            }
        )
        evidence = {"seconds": round(spent, 1), "in_flight": counts}
        if world.memory.idle >= 2:
            return Result("done", evidence)
        if not now.blind and now.states != {"closed"}:
            return Result("failed", evidence, f"{now.goal.farm} did not stay closed")
        if step.deadline is not None and spent >= step.deadline:
            if now.blind:
                return Result("unknown", evidence, "; ".join(now.blind))
            if world.site.policy.on_deadline == "force":
                return Result("done", {**evidence, "cut": now.in_flight})
            busy = [f"{n} {at.in_flight + at.queued}" for n, at in now.at.items()]
            return Result(
                "failed",
                evidence,
                f"{now.in_flight} requests still in flight after {spent:.0f} s (quiesce_seconds): "
                f"{listed(busy)}",
            )
        if stopping():
            return Result("stopped", evidence)
        waits(f"{now.in_flight if not now.blind else '?'} in flight", spent)
        sleep()
        world.observe(servers=False)


def _balancers(step: Step, world: World, waits: Waits) -> Result:
    """Change all balancers that lack it, read all back, and again until the deadline."""
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    errors: dict[str, str] = {}
    current: Any = step
    while True:
        if isinstance(current, Step) and current.name == step.name:
            replies = world.cluster.call(
                world.goal.site,
                str(current.function),
                current.targets,
                current.arguments,
                world.site.policy.answer_seconds,
            )
            errors = {n: r.error for n, r in replies.items() if not r.ok}
        world.observe(servers=False)
        spent = world.clock.monotonic() - start
        current = world.next()
        # a step that observation cannot move on from (quiesce, verify …) follows as another name
        if isinstance(current, Step) and current.name == step.name:
            lacking_now = listed([f"{n} {errors.get(n, '')}".strip() for n in current.targets])
        elif world.situation.blind:
            lacking_now = "; ".join(world.situation.blind)
        elif isinstance(current, Refused):
            return Result("failed", {"errors": errors}, "; ".join(current.reasons))
        else:
            at = {
                n: f"{f.state} {f.release} ({f.generation})" for n, f in world.situation.at.items()
            }
            return Result("done", {"read_back": at, **({"errors": errors} if errors else {})})
        if step.deadline is not None and spent >= step.deadline:
            return Result(
                "unknown", {"errors": errors}, f"{step.name} was not read back from {lacking_now}"
            )
        waits(f"read back from {lacking_now}", spent)
        sleep()


def _servers(step: Step, world: World, waits: Waits) -> Result:
    """Ask all targets at once, then look until each is there, has failed, or time is up."""
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    replies: Mapping[str, Reply] = {}
    if step.function:
        replies = world.cluster.call(
            world.goal.site, step.function, step.targets, step.arguments, step.deadline or 60.0
        )
    asked = world.clock.monotonic()
    while True:
        world.observe()
        now = world.clock.monotonic()
        missing = lacking(step, world.goal, world.site, world.seen, world.memory)
        if step.name == "warm":
            missing = {n: r.error for n, r in replies.items() if not r.ok}
        refused = [n for n in missing if n in replies and not replies[n].ok]
        settled = len(refused) == len(missing) and now - asked >= SETTLE_SECONDS
        over = step.deadline is not None and now - start >= step.deadline
        if not missing or settled or over or step.name in ("warm", "stage"):
            break
        waits(listed([f"{n} {why}" for n, why in missing.items()]), now - start)
        sleep()
    for name in refused:
        missing[name] = replies[name].error or missing[name]
    return _within_budget(step, world, missing)


def _within_budget(step: Step, world: World, missing: Mapping[str, str]) -> Result:
    there = [name for name in step.targets if name not in missing]
    evidence: dict[str, Any] = {"servers": there}
    if not missing:
        return Result("done", evidence)
    evidence["failed"] = dict(missing)
    left_out = {**world.situation.left_out, **missing}
    if step.name != "rejoin" and not world.situation.may_do_without(left_out):
        budget = world.situation.budget
        shown = listed([f"{name}: {why}" for name, why in missing.items()])
        count = len(world.situation.farm.servers)
        return Result(
            "failed",
            evidence,
            f"{step.name} failed on {len(missing)} of {count} servers, {budget} may be left out: "
            f"{shown}",
        )
    quarantined = {**world.memory.quarantined, **missing}
    world.memory = replace(world.memory, quarantined=quarantined)
    return Result("done", evidence)

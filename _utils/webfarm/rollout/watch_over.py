"""Hold a farm against the others: their load before it leaves service, its answers once open."""

from collections.abc import Callable
from dataclasses import replace

from webfarm.rollout import gates
from webfarm.rollout.model import Step, listed
from webfarm.rollout.preflight import load_without, too_busy
from webfarm.rollout.situation import Situation
from webfarm.rollout.world import Result, World

LOOKS = 3  # at the load, which one look may catch at an odd moment
LOOK_SECONDS = 0.3
POLL_SECONDS = 2.0
SICK_LOOKS = 2  # a server that restarts is DOWN for one


def load(world: World, result: Result) -> Result:
    """Preflight: could the other farms answer what all farms answer now?"""
    mean = mean_load(world, lambda: load_without(world.situation))
    if mean is None:
        return Result("unknown", result.evidence, listed(world.situation.blind))
    evidence = {**result.evidence, "utilisation_without": round(mean, 3)}
    busy = too_busy(world.situation, mean)
    return Result("failed", evidence, busy) if busy else replace(result, evidence=evidence)


def mean_load(world: World, load: Callable[[], float]) -> float | None:
    """The mean of ``load`` over some looks; None when a balancer was silent at each of them."""
    loads = []
    for _ in range(LOOKS):
        world.clock.sleep(LOOK_SECONDS)
        world.observe(servers=False)
        if not world.situation.blind:
            loads.append(load())
    return sum(loads) / len(loads) if loads else None


def soak(
    step: Step,
    world: World,
    waits: Callable[[str, float], None],
    stopping: Callable[[], bool],
) -> Result:
    """The opened farm against those that still run the old release, by the balancers' counters."""
    first = world.seen

    def verdict() -> gates.Verdict:
        now = world.situation
        return gates.judge(
            world.site.policy.gates,
            gates.sample(first, world.seen, [now.goal.farm]),
            gates.sample(first, world.seen, baseline) if (baseline := _baseline(now)) else None,
        )

    return watch(step, world, waits, stopping, lambda: _sick(world.situation), verdict)


def watch(
    step: Step,
    world: World,
    waits: Callable[[str, float], None],
    stopping: Callable[[], bool],
    sickness: Callable[[], str],
    judge: Callable[[], gates.Verdict],
) -> Result:
    """Look until the step's deadline has passed well.

    ``failed`` as soon as the gate says so or ``sickness`` lasts, ``inconclusive`` when there was
    not enough to judge ``patience_seconds`` after the deadline.

    sickness, judge
        Asked after each look that no balancer missed: what is not as it should be (empty:
        nothing), and the gate's verdict on what was counted since the first look.
    """
    start = world.clock.monotonic()
    deadline = step.deadline or 0.0
    sick = 0
    while True:
        spent = world.clock.monotonic() - start
        now = world.situation
        evidence: dict[str, object] = {"seconds": round(spent, 1)}
        verdict = None
        if not now.blind:
            trouble = sickness()
            sick = sick + 1 if trouble else 0
            if sick >= SICK_LOOKS:
                return Result("failed", evidence, trouble)
            verdict = judge()
            evidence |= {"gate": verdict.state, **verdict.evidence}
            if verdict.state == "fail":
                return Result("failed", evidence, verdict.why)
            if spent >= deadline and verdict.state == "pass" and not sick:
                return Result("done", evidence)
        if spent >= deadline + world.site.policy.gates.patience_seconds:
            why = verdict.why if verdict else listed(now.blind)
            return Result("inconclusive", evidence, why)
        if stopping():
            return Result("stopped", evidence)
        waits(verdict.why if verdict and spent >= deadline else step.why, spent)
        world.clock.sleep(min(POLL_SECONDS, deadline - spent if spent < deadline else POLL_SECONDS))
        world.observe(servers=False)


def _sick(now: Situation) -> str:
    if now.states != {"open"}:
        return f"{now.goal.farm} is no longer open on every balancer: {sorted(now.states)}"
    down = {
        name: f"is not UP on {listed(now.not_up_on(name))}"
        for name in now.farm.servers
        if not now.up(name) and not now.withheld(name)
    }
    if now.may_do_without(down):
        return ""
    shown = listed([f"{name} {why}" for name, why in down.items()])
    return f"{len(down)} of {now.goal.farm}'s servers are not UP, {now.budget} may be: {shown}"


def _baseline(now: Situation) -> list[str]:
    """The open farms on another release; when there is none, all other open farms."""
    others = now.others()
    old = [
        farm
        for farm in others
        if all(view.farms[farm].release != now.goal.release for view in now.balancers.values())
    ]
    return old or others

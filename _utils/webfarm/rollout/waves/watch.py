"""Watch what can only be judged over a while: the members that were opened, beside the others.

HAProxy counts for each server what it counts for a farm, so the same gates judge: the members of
the wave are one side, all other servers of their site the other.
"""

from collections.abc import Callable
from dataclasses import replace

from webfarm.rollout import gates
from webfarm.rollout.model import FarmAtBalancer, Seen, Step, listed
from webfarm.rollout.waves.refusals import too_busy
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.world import WaveWorld
from webfarm.rollout.world import Result

__all__ = ["soak", "too_busy"]

POLL_SECONDS = 2.0
SICK_LOOKS = 2  # one look may catch an odd moment


def soak(
    step: Step,
    world: WaveWorld,
    waits: Callable[[str, float], None],
    stopping: Callable[[], bool],
) -> Result:
    """As :func:`webfarm.rollout.watch_over.soak`, of servers instead of a farm."""
    start = world.clock.monotonic()
    policy, deadline = world.site.policy, step.deadline or 0.0
    first, sick = by_server(world.seen), 0
    while True:
        spent = world.clock.monotonic() - start
        now = world.situation
        evidence: dict[str, object] = {"seconds": round(spent, 1)}
        verdict = None
        if not now.blind:
            trouble = _sick(now, step.targets)
            sick = sick + 1 if trouble else 0
            if sick >= SICK_LOOKS:
                return Result("failed", evidence, trouble)
            others = [
                n for f in now.site.farms.values() for n in f.servers if n not in step.targets
            ]
            seen = by_server(world.seen)
            verdict = gates.judge(
                policy.gates,
                gates.sample(first, seen, step.targets),
                gates.sample(first, seen, others) if others else None,
            )
            evidence |= {"gate": verdict.state, **verdict.evidence}
            if verdict.state == "fail":
                return Result("failed", evidence, verdict.why)
            if spent >= deadline and verdict.state == "pass" and not sick:
                return Result("done", evidence)
        if spent >= deadline + policy.gates.patience_seconds:
            why = verdict.why if verdict else listed(now.blind)
            return Result("inconclusive", evidence, why)
        if stopping():
            return Result("stopped", evidence)
        waits(verdict.why if verdict and spent >= deadline else step.why, spent)
        world.clock.sleep(min(POLL_SECONDS, deadline - spent if spent < deadline else POLL_SECONDS))
        world.observe(servers=False)


def by_server(seen: Seen) -> Seen:
    """The observation with a farm for each server, for the arithmetic of the gates."""
    balancers = {}
    for name, view in seen.balancers.items():
        servers = {
            server: FarmAtBalancer(farm.state, 0, "", counters=at.counters)
            for farm in view.farms.values()
            for server, at in farm.servers.items()
        }
        balancers[name] = replace(view, farms=servers)
    return Seen(balancers, {})


def _sick(now: WaveSituation, members: tuple[str, ...]) -> str:
    down = [
        f"{name} is not UP on {now.missing_at(name)}"
        for name in members
        if not now.serves(name) and not now.held_by_another(name)
    ]
    return listed(down)

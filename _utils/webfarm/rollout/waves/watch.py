"""Watch what can only be judged over a while: the members that were opened, beside the others.

HAProxy counts for each server what it counts for a farm, so the same gates judge: the members of
the wave are one side, all other servers of their site the other.
"""

from collections.abc import Callable
from dataclasses import replace

from webfarm.rollout import gates, watch_over
from webfarm.rollout.model import FarmAtBalancer, Seen, Step, listed
from webfarm.rollout.waves.refusals import too_busy
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.world import WaveWorld
from webfarm.rollout.world import Result

__all__ = ["soak", "too_busy"]


def soak(
    step: Step,
    world: WaveWorld,
    waits: Callable[[str, float], None],
    stopping: Callable[[], bool],
) -> Result:
    """As :func:`webfarm.rollout.watch_over.soak`, of servers instead of a farm."""
    first = by_server(world.seen)
    farms = world.site.farms.values()
    others = [name for farm in farms for name in farm.servers if name not in step.targets]

    def verdict() -> gates.Verdict:
        seen = by_server(world.seen)
        return gates.judge(
            world.site.policy.gates,
            gates.sample(first, seen, step.targets),
            gates.sample(first, seen, others) if others else None,
        )

    def sickness() -> str:
        return _sick(world.situation, step.targets)

    return watch_over.watch(step, world, waits, stopping, sickness, verdict)


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

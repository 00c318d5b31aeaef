"""Foresee a wave: the planner's steps if each does what it says, and what is left at each."""

from dataclasses import dataclass, replace

from webfarm.rollout.model import Goal, Next, Seen, ServerAtBalancer, Step
from webfarm.rollout.waves.planner import decide, remember
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.values import MemberBefore, OsView, WaveMemory
from webfarm.topology import Site

LONGEST = 50  # steps; a plan that does not end by then is a mistake in the planner


@dataclass(frozen=True)
class Foreseen:
    """A step, and the share of the site's weight that is in service while it runs."""

    step: Step
    capacity: float


def outline(goal: Goal, site: Site, seen: Seen) -> tuple[tuple[Foreseen, ...], Next, Seen]:
    """All steps of the wave, what ends the plan, and the world then."""
    assert goal.wave is not None
    memory = WaveMemory(before=dict(goal.wave.back))
    steps: list[Foreseen] = []
    while len(steps) < LONGEST:
        memory = remember(memory, goal, site, seen)
        step = decide(goal, site, seen, memory)
        if not isinstance(step, Step):
            return tuple(steps), step, seen
        memory = _noted(step, WaveSituation(goal, site, seen, memory))
        seen, memory = _expected(step, WaveSituation(goal, site, seen, memory))
        steps.append(Foreseen(step, WaveSituation(goal, site, seen, memory).site_keeps()))
    raise AssertionError(f"the plan for {goal.farm} does not end: {[s.step.name for s in steps]}")


def _noted(step: Step, now: WaveSituation) -> WaveMemory:
    if step.name != "drain":
        return now.memory
    before = {
        name: MemberBefore(now.view(name).boot_id, "foreseen", now.os(name).installed)
        for name in now.todo
    }
    return replace(now.memory, before={**now.memory.before, **before})


def _expected(step: Step, now: WaveSituation) -> tuple[Seen, WaveMemory]:
    """The world and the memory after the step, if it does what it says."""
    memory, seen = now.memory, now.seen
    if step.function == "haproxy_runtime.set_servers":
        for name in (n for them in step.arguments["states"].values() for n in them):
            state = next(s[name] for s in step.arguments["states"].values() if name in s)
            seen = _put(now, seen, name, state)
    elif step.name in ("snapshot", "install", "reboot", "restore"):
        servers = dict(seen.servers)
        for name in step.targets:
            view, os, before = now.view(name), now.os(name), now.before(name)
            if step.name == "snapshot":
                os = replace(os, snapshots=os.snapshots | {before.snapshot})
            elif step.name == "install":
                new = {package: one["to"] for package, one in now.lacks(name).items()}
                os = replace(os, installed={**os.installed, **new})
            elif step.name == "restore":
                os = replace(os, restored=before.snapshot, installed=before.installed)
            boot_id = view.boot_id + ("'" if step.name == "reboot" else "")
            servers[name] = replace(view, os=os, boot_id=boot_id)
        seen = Seen(seen.balancers, servers)
    done = memory.done | {step.name}
    if step.name == "restore":
        done |= {f"restored {name}" for name in step.targets}
    if step.name == "restart":
        memory = replace(memory, restarted=memory.restarted | set(step.targets))
    if step.name == "verify":
        memory = replace(memory, verified=memory.verified | set(step.targets))
    return seen, replace(memory, done=done)


def _put(now: WaveSituation, seen: Seen, name: str, state: str) -> Seen:
    status = {"ready": "UP", "drain": "DRAIN", "maint": "MAINT"}[state]
    farm = now.farms[name]
    balancers = {}
    for balancer, view in seen.balancers.items():
        at = view.farms[farm]
        server = ServerAtBalancer(status, state, taken=state != "ready")
        servers = {**at.servers, name: server}
        balancers[balancer] = replace(
            view, farms={**view.farms, farm: replace(at, servers=servers)}
        )
    return Seen(balancers, seen.servers)


__all__ = ["Foreseen", "OsView", "outline"]

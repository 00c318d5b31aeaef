"""Decide the next step of a wave; a pure function of what is wanted, seen and remembered.

Each member is taken out (drain, then maint, then nothing in flight), worked on, verified, put back
(checked while it is still drained, then ready), and then the farms are watched. Members go
together; those that fail are taken back together, once the others serve again.
"""

from dataclasses import replace

from webfarm.rollout.model import Goal, InService, Next, Refused, Seen, Step, Stuck, listed
from webfarm.rollout.waves import refusals, work
from webfarm.rollout.waves.situation import AS_IT_IS, BACK, FORWARD, WaveSituation
from webfarm.rollout.waves.values import WaveMemory
from webfarm.topology import Site


def decide(goal: Goal, site: Site, seen: Seen, memory: WaveMemory) -> Next:
    """The step that brings the wave nearer to its end, or why there is none."""
    now = WaveSituation(goal, site, seen, memory)
    if now.blind:
        return Stuck(tuple(now.blind))
    group = _group(now)
    if not group:
        return _in_service(now)
    if now.wave.online:
        return _online(now, group)
    if any(not now.taken(name) for name in group):
        reasons = refusals.refusals(now, group)
        if reasons:
            return Refused(tuple(reasons))
        if "preflight" not in memory.done:
            return work.preflight(now, group)
    return (
        _answer(now, group)
        or _take(now, group)
        or work.step(now, group)
        or _verify(now, group)
        or _put_back(now, group)
    )


def remember(memory: WaveMemory, goal: Goal, site: Site, seen: Seen) -> WaveMemory:
    """``memory`` after one more observation: how often in a row nothing was in flight."""
    idle = WaveSituation(goal, site, seen, memory).idle
    return replace(memory, idle=memory.idle + 1 if idle else 0)


def _group(now: WaveSituation) -> list[str]:
    """The members that go together now: those that go forward, then those that are taken back."""
    for ways in ((FORWARD, AS_IT_IS), (BACK,)):
        group = [name for name in now.todo if now.way(name) in ways]
        if group:
            return group
    return []


def _online(now: WaveSituation, group: list[str]) -> Next:
    """Nothing leaves service: the packages were seen to disturb nothing."""
    if "preflight" not in now.memory.done:
        return work.preflight(now, group)
    return work.install(now, group, "in service")


def _in_service(now: WaveSituation) -> Next:
    seconds = now.site.policy.soak_seconds
    opened = [name for name in now.farms if name in now.memory.verified]
    soaks = seconds and "open" in now.memory.done and "soak" not in now.memory.done
    if soaks and opened and not now.wave.back and not now.memory.gives_up:
        return Step("soak", tuple(opened), "watch the members beside the others", seconds)
    return InService(now.left_out)


def _answer(now: WaveSituation, group: list[str]) -> Step | None:
    silent = [name for name in group if not now.view(name).answered]
    if not silent:
        return None
    return Step(
        "answer",
        tuple(silent),
        listed([f"{name} does not answer: {now.view(name).why}" for name in silent]),
        3 * now.site.policy.answer_seconds,
    )


def _take(now: WaveSituation, group: list[str]) -> Step | None:
    """Out of service on every balancer, and nothing in flight."""
    working = [name for name in group if not now.worked(name)]
    policy = now.site.policy
    loose = [name for name in working if not now.is_in(name, "drain", "maint")]
    if loose:
        return _set(now, "drain", loose, "drain", "no new requests; their sessions stay")
    held = [name for name in working if not now.is_in(name, "maint")]
    if held and policy.drain_seconds and "soft" not in now.memory.done:
        return Step("soft", tuple(held), "sessions may end by themselves", policy.drain_seconds)
    if held:
        return _set(now, "hold", held, "maint", "nor those of who comes back to them")
    if working and "quiesce" not in now.memory.done:
        shown = f"{now.in_flight} in flight" if now.in_flight else "it must be seen twice"
        deadline = None if policy.on_deadline == "wait" else policy.quiesce_seconds
        return Step("quiesce", tuple(now.balancers), shown, deadline)
    return None


def _verify(now: WaveSituation, group: list[str]) -> Step | None:
    unproven = [name for name in group if name not in now.memory.verified]
    if not unproven:
        return None
    return Step(
        "verify",
        tuple(unproven),
        "the right release, ready, and every service running",
        max(60.0, 3 * now.site.policy.answer_seconds),
    )


def _put_back(now: WaveSituation, group: list[str]) -> Step:
    """Drained first, so that the balancers check who serves again before anybody is sent there."""
    unchecked = [name for name in group if not now.passes(name)]
    if unchecked:
        return _set(now, "check", unchecked, "drain", "every balancer must find them healthy")
    return _set(now, "open", group, "ready", "gently: HAProxy's slowstart")


def _set(now: WaveSituation, name: str, members: list[str], state: str, why: str) -> Step:
    """The members' state, on the balancers that have another one."""
    behind = [
        balancer
        for balancer in now.balancers
        if any(
            balancer not in now.places(member) or now.places(member)[balancer].admin != state
            for member in members
        )
    ]
    states: dict[str, dict[str, str]] = {}
    for member in members:
        states.setdefault(now.farms[member], {})[member] = state
    alone = state != "ready" and now.site.policy.min_farm_capacity == 0
    return Step(
        name,
        tuple(behind or now.balancers),
        f"{listed(members)}: {why}",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_servers",
        {"states": states, **({"force": True} if alone else {})},
    )

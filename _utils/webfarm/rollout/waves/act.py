"""Carry out one step of a wave; that it is done is proven by observation, a reply is evidence.

A member on which a step fails is marked, and the others go on: what becomes of it is decided by the
planner. Only what concerns the balancers or the whole wave makes a step fail.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from webfarm.certificates.model import PACKAGES, Subject
from webfarm.rollout.act import polls, wait
from webfarm.rollout.model import Reply, Step, listed
from webfarm.rollout.watch_over import mean_load
from webfarm.rollout.waves import members, watch
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.world import WaveWorld
from webfarm.rollout.world import Result

CHECK_SECONDS = 3.0  # HAProxy believes in a server that leaves maint until two checks have failed

Waits = Callable[[str, float], None]
Stopping = Callable[[], bool]
Asked = Mapping[str, Reply]


def perform(step: Step, world: WaveWorld, waits: Waits, stopping: Stopping) -> Result:
    """Run ``step`` until it is seen done, its deadline has passed, or the operator stops it."""
    if step.name == "preflight":
        return _learned(step, world, _preflight(step, world))
    if step.name == "soft":
        return _learned(step, world, wait(step, world, waits, stopping))
    if step.name == "quiesce":
        return _learned(step, world, _quiesce(step, world, waits, stopping))
    if step.name == "soak":
        return _learned(step, world, watch.soak(step, world, waits, stopping))
    if step.function == "haproxy_runtime.set_servers":
        return _learned(step, world, _balancers(step, world, waits))
    return members.perform(step, world, waits)


def _learned(step: Step, world: WaveWorld, result: Result) -> Result:
    if result.state == "done":
        done = world.memory.done | {step.name}
        if step.name in ("drain", "check"):  # somebody may be sent there again: prove it anew
            done -= {"quiesce"}
            world.memory = replace(world.memory, idle=0)
        world.memory = replace(world.memory, done=done)
    return result


# -- before ----------------------------------------------------------------------------------------


def _preflight(step: Step, world: WaveWorld) -> Result:
    """Room for snapshots; the packages are still those of the certificate; the load is bearable."""
    goal, now = world.goal, world.situation
    evidence: dict[str, Any] = {}
    site, seconds = goal.site, step.deadline or 120.0
    space: Asked = {}
    if not now.wave.online:
        space = world.cluster.call(site, "webfarm_snapshot.space", step.targets, {}, seconds)
    errors = {}
    for name, reply in space.items():
        said = reply.value if isinstance(reply.value, Mapping) else {}
        evidence.setdefault("snapshots", {})[name] = said.get("provider", "unknown")
        if not reply.ok or said.get("ok") is not True:
            errors[name] = (
                f"no room for a snapshot: {reply.error or said.get('why') or said!r:.200}"
            )
    if now.wave.back:
        errors |= {
            name: f"the snapshot {now.before(name).snapshot or 'of before'} is not there any more"
            for name in step.targets
            if now.before(name).attempted and not now.has_snapshot(name)
        }
    if not errors and not now.wave.back:
        packages = {"packages": list(now.wave.packages)}
        asked = world.cluster.call(
            site, "webfarm_packages.pretend", step.targets, packages, seconds
        )
        errors = {name: why for name, reply in asked.items() if (why := _other(now, name, reply))}
    if now.wave.online and not errors:
        return Result("done", {"disturbs": "nothing"})
    if errors:
        shown = listed([f"{name}: {why}" for name, why in errors.items()])
        return Result("failed", {**evidence, "errors": errors}, shown)
    load = mean_load(world, lambda: world.situation.load_without(step.targets))
    if load is None:
        return Result("unknown", evidence, listed(world.situation.blind))
    evidence["utilisation_without"] = round(load, 3)
    busy = watch.too_busy(world.situation, step.targets, load)
    return Result("failed", evidence, busy) if busy else Result("done", evidence)


def _other(now: WaveSituation, name: str, reply: Reply) -> str:
    """How what would be installed differs from what was certified; empty when it does not."""
    if not reply.ok:
        return reply.error
    changes = reply.value.get("changes") if isinstance(reply.value, Mapping) else None
    if not isinstance(changes, Mapping):
        return f"answered webfarm_packages.pretend with nonsense: {reply.value!r:.100}"
    wanted, found = now.lacks(name), []
    disruptive = reply.value.get("disruptive")
    if now.wave.online and disruptive:
        return f"must not be changed in service: {disruptive!s:.300}"
    for package in sorted({*wanted, *changes}):
        would, certified = changes.get(package), wanted.get(package)
        if certified is None:
            found.append(f"{package} was not certified")
        elif not isinstance(would, Mapping):
            found.append(f"{package} {certified['to']} would not be installed")
        elif (would.get("to"), would.get("digest")) != (certified["to"], certified["digest"]):
            found.append(
                f"{package} would be {would.get('to')} ({would.get('digest')!s:.19}), certified is "
                f"{certified['to']} ({certified['digest']:.19})"
            )
    if not found:
        return ""
    again = Subject(PACKAGES, now.wave.packages).command
    return f"{listed(found)}; certify what there is now: {again}"


# -- waits -----------------------------------------------------------------------------------------


def _quiesce(step: Step, world: WaveWorld, waits: Waits, stopping: Stopping) -> Result:
    """Nothing in flight on the members, on every balancer, seen twice."""
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    while True:
        spent = world.clock.monotonic() - start
        now = world.situation
        evidence: dict[str, Any] = {"seconds": round(spent, 1)}
        if not now.blind:
            evidence["in_flight"] = {
                name: {balancer: at.in_flight for balancer, at in now.places(name).items()}
                for name in now.todo
            }
        if world.memory.idle >= 2:
            return Result("done", evidence)
        if step.deadline is not None and spent >= step.deadline:
            if now.blind:
                return Result("unknown", evidence, "; ".join(now.blind))
            if world.site.policy.on_deadline == "force":
                return Result("done", {**evidence, "cut": now.in_flight})
            old = {n: v.old_workers for n, v in now.balancers.items() if v.old_workers}
            left = f"; workers from before a reload still run: {old}" if old else ""
            return Result(
                "failed",
                evidence,
                f"{now.in_flight} requests still in flight after {spent:.0f} s (quiesce_seconds)"
                + left,
            )
        if stopping():
            return Result("stopped", evidence)
        waits(f"{now.in_flight if not now.blind else '?'} in flight", spent)
        sleep()
        world.observe(servers=False)


# -- balancers -------------------------------------------------------------------------------------


def _balancers(step: Step, world: WaveWorld, waits: Waits) -> Result:
    """Change the members' state on all balancers, read all back, until the deadline."""
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    names = [name for them in step.arguments["states"].values() for name in them]
    replies: Asked = {}
    behind = list(step.targets)
    settled = start
    while True:
        if behind:
            settled = world.clock.monotonic()
            site, seconds = world.goal.site, world.site.policy.answer_seconds
            replies = world.cluster.call(site, str(step.function), behind, step.arguments, seconds)
        world.observe(servers=False)
        spent = world.clock.monotonic() - start
        errors = {name: reply.error for name, reply in replies.items() if not reply.ok}
        missing = _not_there(step, world.situation, names)
        behind = [] if world.situation.blind else _behind(step, world.situation, names)
        checked = step.name != "check" or world.clock.monotonic() - settled >= CHECK_SECONDS
        if not missing and checked:
            return Result("done", {"members": names, **({"errors": errors} if errors else {})})
        if step.deadline is not None and spent >= step.deadline:
            shown = listed([f"{name} {why}" for name, why in {**missing, **errors}.items()])
            if step.name == "check" and not world.situation.blind and not behind:
                return members.marked(step, world, missing)
            return Result("unknown", {"errors": errors}, f"{step.name} was not read back: {shown}")
        waits(f"read back: {listed([f'{n} {why}' for n, why in missing.items()])}", spent)
        sleep()


def _behind(step: Step, now: WaveSituation, names: list[str]) -> list[str]:
    state = next(iter(next(iter(step.arguments["states"].values())).values()))
    return [
        balancer
        for balancer in now.balancers
        if any(
            balancer not in now.places(m) or now.places(m)[balancer].admin != state
            for m in names
            if state != "ready" or now.taken(m)
        )
    ]


def _not_there(step: Step, now: WaveSituation, names: list[str]) -> dict[str, str]:
    """Which members are not in the state that the step gives them, as every balancer says."""
    if now.blind:
        return {"balancers": listed(now.blind)}
    states = {"drain": ("drain", "maint"), "hold": ("maint",), "check": ("drain",)}
    out = {}
    for name in names:
        if step.name == "open":
            if not now.serves(name):
                out[name] = f"is not UP on {now.missing_at(name) or 'every balancer'}"
        elif not now.is_in(name, *states[step.name]):
            out[name] = f"is not in {states[step.name][0]} on every balancer"
        elif step.name == "check" and not now.passes(name):
            out[name] = f"is not found healthy by {now.missing_at(name)}"
    return out

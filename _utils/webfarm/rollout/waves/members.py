"""Ask a wave's members to do a step, look until it is done, and say what becomes of who fails.

A member on which a step fails is marked, and the others go on: it is taken back, or left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from webfarm.rollout.act import SETTLE_SECONDS, polls
from webfarm.rollout.model import Reply, Step, listed
from webfarm.rollout.waves.situation import BACK, WaveSituation
from webfarm.rollout.waves.values import NO_SNAPSHOTS
from webfarm.rollout.waves.world import WaveWorld
from webfarm.rollout.world import Result

Waits = Callable[[str, float], None]
Asked = Mapping[str, Reply]


def perform(step: Step, world: WaveWorld, waits: Waits) -> Result:
    """Ask all targets, then look until each is there, has failed, or time is up."""
    start = world.clock.monotonic()
    sleep = polls(world.clock)
    replies = _ask(step, world)
    _heard(step, world, replies)
    asked = world.clock.monotonic()
    while True:
        world.observe()
        now = world.clock.monotonic()
        missing = {} if world.situation.blind else _lacking(step, world.situation, replies)
        if world.situation.blind:
            missing = {"balancers": listed(world.situation.blind)}
        refused = [n for n in missing if n in replies and replies[n].ok is False]
        settled = len(refused) == len(missing) and now - asked >= SETTLE_SECONDS
        over = step.deadline is not None and now - start >= step.deadline
        if not missing or settled or over:
            break
        waits(listed([f"{n} {why}" for n, why in missing.items()]), now - start)
        sleep()
    if world.situation.blind:
        return Result("unknown", {}, listed(world.situation.blind))
    for name in refused:
        missing[name] = replies[name].error or missing[name]
    return marked(step, world, missing)


def _ask(step: Step, world: WaveWorld) -> Asked:
    """One call for all targets that are asked for the same."""
    if not step.function:
        return {}
    groups: list[tuple[dict[str, Any], list[str]]] = []
    for name in step.targets:
        arguments = _arguments(step, world.situation, name)
        same = [names for known, names in groups if known == arguments]
        if same:
            same[0].append(name)
        else:
            groups.append((arguments, [name]))
    replies: dict[str, Reply] = {}
    for number, (arguments, names) in enumerate(groups):
        if number:  # a change must follow a look closely
            world.look_again()
        replies |= world.cluster.call(
            world.goal.site, step.function, names, arguments, step.deadline or 60.0
        )
    return replies


def _arguments(step: Step, now: WaveSituation, name: str) -> dict[str, Any]:
    if step.name in ("snapshot", "restore"):
        return {"name": now.before(name).snapshot}
    if step.name == "install":
        return {"packages": list(now.wave.packages), "expected": now.lacks(name)}
    if step.name == "reboot":
        return {"boot_id": now.view(name).boot_id}
    if step.name == "restart" and name in now.memory.affects:
        return {"units": list(now.memory.affects[name])}
    return {}


def _heard(step: Step, world: WaveWorld, replies: Asked) -> None:
    """What only a reply can tell: whether a reboot is needed, that services were restarted."""
    memory = world.memory
    if step.name == "install":
        needs = {
            name: reply.value.get("reboot") is not False
            for name, reply in replies.items()
            if reply.ok and isinstance(reply.value, Mapping)
        }
        affects = {
            name: tuple(sorted(map(str, reply.value["affects"])))
            for name, reply in replies.items()
            if name in needs and isinstance(reply.value.get("affects"), Mapping)
        }
        world.memory = replace(
            memory,
            reboot={**memory.reboot, **needs},
            affects={**memory.affects, **affects},
        )
    elif step.name == "restart":
        done = {name for name, reply in replies.items() if reply.ok}
        world.memory = replace(memory, restarted=memory.restarted | done)
    elif step.name == "restore":
        done = {f"restored {name}" for name, reply in replies.items() if reply.ok}
        world.memory = replace(memory, done=memory.done | done)


def _lacking(step: Step, now: WaveSituation, replies: Asked) -> dict[str, str]:
    """Which targets are not where the step takes them, and what each shows."""
    out = {}
    for name in step.targets:
        view = now.view(name)
        if step.name in ("restart", "restore"):
            if not (name in replies and replies[name].ok):
                out[name] = replies[name].error if name in replies else "was not asked"
        elif not view.answered:
            out[name] = f"does not answer: {view.why}"
        elif step.name == "snapshot" and not now.has_snapshot(name):
            out[name] = f"does not have the snapshot {now.before(name).snapshot}"
        elif step.name == "install" and not now.installed(name):
            out[name] = f"does not have {listed(sorted(now.lacks(name)))}"
        elif step.name == "reboot" and not _came_back(now, name):
            out[name] = f"did not reboot: its boot id is still {view.boot_id}"
        elif step.name == "verify" and (trouble := now.trouble(name)):
            out[name] = trouble
    return out


def _came_back(now: WaveSituation, name: str) -> bool:
    return now.restored(name) if now.way(name) == BACK else now.rebooted(name)


def marked(step: Step, world: WaveWorld, missing: Mapping[str, str]) -> Result:
    """What becomes of the members on which the step failed: taken back, or left out for good."""
    now, memory = world.situation, world.memory
    there = [name for name in step.targets if name not in missing]
    if step.name == "verify":
        memory = replace(memory, verified=memory.verified | set(there))
    failed, lost = dict(memory.failed), dict(memory.lost)
    for name, why in missing.items():
        what = f"{step.name}: {why}"
        can_go_back = now.has_snapshot(name) or not now.before(name).attempted
        silent = not now.view(name).answered
        if now.wave.online:
            failed[name] = what
        elif now.way(name) == BACK or silent or not can_go_back:
            lost[name] = f"{failed[name]}. Then {what}" if name in failed else what
            lost[name] += _no_snapshot(now, name, silent, can_go_back)
            failed.pop(name, None)
        else:
            failed[name] = what
    world.memory = replace(
        memory, failed=failed, lost=lost, verified=memory.verified - set(missing)
    )
    evidence: dict[str, Any] = {"servers": there}
    if missing:
        evidence["failed"] = dict(missing)
    return Result("done", evidence)


def _no_snapshot(now: WaveSituation, name: str, silent: bool, can_go_back: bool) -> str:
    if silent or can_go_back:
        return ""
    if now.os(name).provider == NO_SNAPSHOTS:
        return "; no snapshot to go back to: the pillar's webfarm:snapshots has no provider"
    return "; its snapshot is gone"

"""Let the farm's servers empty their memcached pool, or say that it is there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from webfarm.rollout.model import Step, listed
from webfarm.rollout.world import Result, World

OPINIONS = 2  # how many servers must say that a pool is not empty
ROUNDS = 2  # how often a pool's servers are asked in turn


def through_one(step: Step, world: World) -> Result:
    """Let one server ask the whole pool; when it does not answer, or cannot tell, another one.

    Members on servers that are left out are asked too, but need not answer.
    """
    needed: list[str] = list(step.arguments["servers"])
    spare = [member for member in world.situation.farm.memcached if member not in needed]
    errors: dict[str, str] = {}
    if spare:
        through, value, refused = _ask_pool(step, world, [*needed, *spare], errors)
        if through or not refused:  # silence of who was asked says nothing about the pool
            return _pool_result(step, through, value, [], errors)
    if not needed:
        return Result("done", {"out of reach with their servers": spare})
    through, value, _ = _ask_pool(step, world, needed, errors)
    return _pool_result(step, through, value, spare, errors)


def _ask_pool(
    step: Step, world: World, members: list[str], errors: dict[str, str]
) -> tuple[str, Any, bool]:
    """Who gave the proof, the proof, and whether somebody said that there is none."""
    refusals = 0
    for name in step.targets * ROUNDS:
        world.look_again()
        if silent := world.situation.left_out.get(name):
            errors[name] = silent
            continue
        arguments = {**step.arguments, "servers": members}
        site, function = world.goal.site, str(step.function)
        asked = world.cluster.call(site, function, (name,), arguments, step.deadline or 60.0)
        reply = asked[name]
        bad = unproven(step.name, members, reply.value) if reply.ok else {name: reply.error}
        if not bad:
            if step.name == "flush":
                flushed = world.memory.flushed | set(members)
                world.memory = replace(world.memory, flushed=flushed)
            return name, reply.value, False
        errors[name] = "; ".join(bad.values())
        refusals += reply.ok is not None
        if refusals == OPINIONS:
            break
    return "", None, refusals > 0


def _pool_result(
    step: Step, through: str, value: Any, spare: list[str], errors: dict[str, str]
) -> Result:
    if not through:
        shown = listed([f"{name} says {why}" for name, why in errors.items()]) or "no server"
        what = "did not answer" if step.name == "preflight" else "could not be proven empty"
        return Result("failed", {"errors": errors}, f"the memcached pool {what}: {shown}")
    if step.name == "preflight":  # of memcached's many numbers, the one that says something here
        value = {member: {"curr_items": said.get("curr_items")} for member, said in value.items()}
    evidence: dict[str, Any] = {"through": through, "pool": value}
    if spare:
        evidence["out of reach with their servers"] = spare
    return Result("done", evidence)


def unproven(name: str, wanted: Sequence[str], value: Any) -> dict[str, str]:
    """The pool's members for which the reply is no proof, and what it said of them."""
    if not isinstance(value, Mapping):
        return {member: f"unexpected reply {value!r:.80}" for member in wanted}
    bad = {}
    for member in wanted:
        said = value.get(member)
        if not isinstance(said, Mapping):
            bad[member] = f"{member} is not in the reply"
        elif said.get("error"):
            bad[member] = f"{member} {said['error']!s:.200}"
        elif name == "flush" and (said.get("flushed") is not True or said.get("items") != 0):
            bad[member] = (
                f"{member} flushed is {said.get('flushed')!r}, items {said.get('items')!r}"
            )
    return bad

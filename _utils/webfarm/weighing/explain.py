"""A decision as the balancers get it, with what it was made from in words."""

from collections.abc import Mapping
from dataclasses import dataclass

from webfarm.weighing import estimate
from webfarm.weighing.drains import ERRORS, Scene, lasts, usual_errors
from webfarm.weighing.state import Decision, Estimate, Farm


@dataclass(frozen=True)
class Health:
    """Each server's capacity (requests/s; None: unknown), and its ratio to the farm's median."""

    capacities: Mapping[str, float | None]
    ratios: Mapping[str, float]


def decision(
    scene: Scene,
    base: Mapping[str, int],
    state: Farm,
    health: Health,
    aims: Mapping[str, float],
) -> Decision:
    """What the balancers shall carry by ``state``, and why."""
    law = scene.law
    usual = usual_errors(scene)
    estimates = {
        name: Estimate(
            age=None if server.at is None else max(0.0, scene.now - server.at),
            capacity=health.capacities[name],
            ratio=health.ratios[name],
            errors=estimate.errors(law, server) if server.requests >= law.min_requests else None,
            stall=server.stall,
            target=_weight(base[name], aims[name]),
        )
        for name, server in scene.servers.items()
    }
    return Decision(
        weights={name: _weight(base[name], scene.servers[name].factor) for name in base},
        drained={name: server.drained for name, server in scene.servers.items() if server.drained},
        why={name: _why(scene, name, estimates[name], usual) for name in base},
        blind=scene.blind,
        share=state.share,
        estimates=estimates,
    )


def _why(scene: Scene, name: str, seen: Estimate, usual: float) -> str:
    law, server = scene.law, scene.servers[name]
    if name in scene.frozen:
        return "held: frozen" + (f", drained: {server.drained}" if server.drained else "")
    if name in scene.absent:
        return "left alone: a hand or a rollout has it out of service"
    age = "has not reported yet" if seen.age is None else f"silent for {seen.age:.0f} s"
    if server.drained == ERRORS:
        left = max(0.0, lasts(law, server) - (scene.now - (server.since or 0.0)))
        rest = f"{left:.0f} s more" if left or not scene.silent(name) else f"until it speaks, {age}"
        return (
            f"drained for the {server.ejections}. time: {server.failed:.0%} errors or more, "
            f"the median has {usual:.0%}; {rest}"
        )
    if server.drained:
        return f"drained: {server.drained}" + (f"; {age}" if scene.silent(name) else "")
    if scene.lost:
        return f"back to its base: most of the farm is silent; {age}"
    if scene.blind:
        return f"held: most of the farm is silent; {age}"
    if scene.silent(name):
        return f"{'back to its base' if scene.forgets(name) else 'held'}: {age}"
    speed = "no requests to measure" if seen.capacity is None else f"{seen.capacity:.3g} requests/s"
    parts = [f"{seen.ratio:.2f} times the median ({speed})"]
    if seen.errors:
        parts.append(f"errors {seen.errors:.0%}")
    if seen.stall >= 0.01:
        parts.append(f"stalled {seen.stall:.0%}")
    if server.since is not None and scene.now - server.since <= law.ramp_seconds:
        parts.append(f"back in service for {scene.now - server.since:.0f} s")
    return ", ".join(parts)


def off(base: Mapping[str, int]) -> Decision:
    """What the law says where it is not to work."""
    return Decision(
        weights=dict(base),
        drained={},
        why=dict.fromkeys(base, "the loop is off"),
        blind=False,
        share=1.0,
    )


def _weight(base: int, factor: float) -> int:
    """In HAProxy's range; 0 would be a drain."""
    return min(256, max(1, round(base * factor)))

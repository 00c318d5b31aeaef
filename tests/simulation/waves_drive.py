"""One seed of the waves: uneven farms, some servers out, and everything that may go wrong."""

import copy
import random
from dataclasses import replace
from typing import Any

from webfarm.rollout import control
from webfarm.rollout.context import Context
from webfarm.rollout.waves import commands

from .drive import ATTEMPTS, Drive, Plan
from .sessions import Broken
from .systems import NEW, OLD

TROUBLED_SECONDS = 250.0
FAULTS = ("loss", "late", "twice", "silence", "cut", "death", "restart", "disk", "wall")
OPERATORS = ("crash", "kill", "freeze", "reboot", "interrupt", "unlock")
NO_GATES = {"min_requests": 0, "latency_margin_ms": 60_000, "error_excess": 1.0}


def pillar_of(
    base: dict[str, Any],
    farms: tuple[int, ...] = (2, 2),
    sites: tuple[str, ...] = ("site1",),
    **policy: Any,
) -> dict[str, Any]:
    """The example pillar with so many servers in the farms of each site."""
    pillar = copy.deepcopy(base)
    pillar["sites"] = {name: pillar["sites"][name] for name in sites}
    for name, site in pillar["sites"].items():
        s = name.removeprefix("site")
        site["farms"] = {
            f"farm{f}": {
                "memcached": [f"10.77.{s}.{100 + 10 * f + n}:11211" for n in range(1, count + 1)],
                "servers": {
                    f"{name}-farm{f}-ws{n}": {"address": f"10.77.{s}.{100 + 10 * f + n}"}
                    for n in range(1, count + 1)
                },
            }
            for f, count in enumerate(farms, 1)
        }
        site["policy"] = {
            "min_capacity": 0.3,
            "min_farm_capacity": 0.5,
            "quiesce_seconds": 30,
            "soak_seconds": 3,
            "canary_soak_seconds": 0,
            "answer_seconds": 10,
            "install_seconds": 60,
            "reboot_seconds": 90,
            "gates": {**NO_GATES, "max_utilisation": 5.0},
            **policy,
        }
    return pillar


def plan_of(seed: int, base: dict[str, Any]) -> Plan:
    """Everything that the seed decides."""
    chance = random.Random(f"{seed} waves")
    sites = ("site1", "site2") if chance.random() < 0.2 else ("site1",)
    farms = chance.choice([(2, 2), (3, 2), (2, 3), (3, 3, 2)])
    policy: dict[str, Any] = {}
    if chance.random() < 0.3:
        policy["drain_seconds"] = 5
    kinds = {kind for kind in (*FAULTS, *OPERATORS) if chance.random() < 0.25}
    return Plan(seed, pillar_of(base, farms, sites, **policy), sites, frozenset(kinds))


def os_upgrade(context: Context, site: str = "all", **given: Any) -> dict[str, Any]:
    """What an operator types."""
    return commands.upgrade_os(context, site, "tool", "disruptive", **given)


def campaign(drive: Drive) -> None:
    """Trouble while the waves go, then whoever is on duty finishes (S6)."""
    world, operators = drive.world, drive.operators
    chance = random.Random(f"{drive.plan.seed} waves duty")
    for web in world.web:
        web.never = chance.random() < 0.05
    drive.faults.begin()
    operators.begin()
    operators.start("os", os_upgrade)
    end = world.now + TROUBLED_SECONDS
    while world.now < end and (drive.plan.kinds or operators.live):
        world.sleep(chance.uniform(1, 20))
        if not operators.live and chance.random() < 0.4:
            operators.start("resume", control.resume)
    operators.end()
    for web in world.web:
        web.never = False
    drive.faults.end()
    for controller in operators.live:
        drive.wait(controller)
    world.sleep(120)  # messages that are late arrive, leases of the dead expire
    drive.faults.repair()
    calm(drive, chance)


def calm(drive: Drive, chance: random.Random) -> None:
    """Nothing is wrong any more: every server gets the packages, and none is held out."""
    for _ in range(ATTEMPTS):
        unfinished = drive.unfinished()
        if unfinished:
            ends = control.abort if chance.random() < 0.2 else control.resume
            drive.command(ends.__name__, ends)
            continue
        done = drive.command("os again", os_upgrade)
        if done.result and done.result["result"] and not drive.unfinished():
            at_rest(drive, NEW)
            return
    raise Broken(f"S6: the servers did not get their packages in {ATTEMPTS} attempts")


def at_rest(drive: Drive, version: str | None) -> None:
    """S8: nobody is held out by a rollout, everybody serves."""
    drive.at_rest(None)
    for place in drive.world.places.values():
        for balancer in place.balancers.values():
            if balancer.admin:
                raise Broken(f"S8: {balancer.name} holds {balancer.admin}, nobody knows why")
        for web in place.web.values():
            if version is not None and web.installed != version:
                raise Broken(f"S8: {web.name} has {web.installed}")


def run(seed: int, base: dict[str, Any]) -> Any:
    """One seed; raises AssertionError with seed and trace."""
    plan = plan_of(seed, base)
    return Drive(replace(plan, scopes=()), sessions=6).run(campaign)


__all__ = ["NEW", "OLD", "at_rest", "calm", "campaign", "os_upgrade", "pillar_of", "run"]

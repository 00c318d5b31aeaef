"""One seed: a cluster, its faults and its operators, from one release to the third.

Each release has two parts. First everything may go wrong while operators interfere; then nothing
more does, and whoever is on duty goes on until the run is at its end (S6). What is drawn from the
seed is the shape of the cluster, the policy, and which kinds of trouble there are.
"""

import copy
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from webfarm.releases import order_key
from webfarm.rollout import commands, control, servers
from webfarm.rollout.context import Context

from .controller import Controller, Master
from .faults import FAULTS, Faults, flaw
from .operators import OPERATORS, Operators
from .sessions import Broken
from .world import World

FIRST, SECOND, THIRD = "2026.11.1", "2026.11.2", "2026.11.10"
TROUBLED_SECONDS = 200.0
LONGEST = 7200.0  # nothing that an operator types may take longer when nothing is wrong
ATTEMPTS = 8
KINDS = (*FAULTS, *OPERATORS, "flaw", "unmoved", "forgetful")


@dataclass(frozen=True)
class Plan:
    """What a seed means."""

    seed: int
    pillar: dict[str, Any]
    sites: tuple[str, ...]
    kinds: frozenset[str]
    honours_moved: bool = True
    releases: tuple[str, ...] = (SECOND, THIRD)
    scopes: tuple[tuple[str | None, str | None], ...] = field(default=((None, None),))


def pillar_of(
    base: dict[str, Any],
    farms: int = 3,
    servers: int = 2,
    sites: tuple[str, ...] = ("site1",),
    **policy: Any,
) -> dict[str, Any]:
    """The example pillar with these farms, this policy, and a third release."""
    pillar = copy.deepcopy(base)
    pillar["sites"] = {name: pillar["sites"][name] for name in sites}
    numbers = range(1, servers + 1)
    for name, site in pillar["sites"].items():
        s = name.removeprefix("site")
        site["farms"] = {
            f"farm{f}": {
                "memcached": [f"10.77.{s}.{100 + 10 * f + n}:11211" for n in numbers],
                "servers": {
                    f"{name}-farm{f}-ws{n}": {"address": f"10.77.{s}.{100 + 10 * f + n}"}
                    for n in numbers
                },
            }
            for f in range(1, farms + 1)
        }
        site["policy"] = {
            "min_capacity": 0.5,
            "quiesce_seconds": 30,
            "soak_seconds": 3,
            "canary_soak_seconds": 6,
            "answer_seconds": 10,
            "gates": {"min_requests": 30, "latency_margin_ms": 4000, "latency_factor": 3.0},
            **policy,
        }
    pillar["releases"][THIRD] = {"php": "8.2.36", "webapp": "10"}
    return pillar


def plan_of(seed: int, base: dict[str, Any], without: frozenset[str] = frozenset()) -> Plan:
    """Everything that the seed decides, less the kinds of trouble in ``without``."""
    chance = random.Random(f"{seed} plan")
    sites = ("site1", "site2") if chance.random() < 0.1 else ("site1",)
    farms = chance.choice([2, 3, 3])
    servers = 4 if chance.random() < 0.15 else 2
    policy: dict[str, Any] = {}
    if chance.random() < 0.3:
        policy["drain_seconds"] = 5
    if chance.random() < 0.4:
        policy["on_failure"] = chance.choice(["pause", "rollback"])
    kinds = {kind for kind in FAULTS if chance.random() < 0.3}
    kinds |= {kind for kind in OPERATORS if chance.random() < 0.3}
    kinds |= {kind for kind in ("flaw", "unmoved", "forgetful") if chance.random() < 0.15}
    moved = "unmoved" not in kinds
    if not moved:  # then a cache is trusted after any move, and only an upgrade flushes it
        kinds -= {"death", "outage", "hand", "pool"}
    scopes = [(None, None), ("site1", None), ("site1", "farm1")]
    return Plan(
        seed,
        pillar_of(base, farms, servers, sites, **policy),
        sites,
        frozenset(kinds) - without,
        "unmoved" not in kinds - without,
        scopes=tuple(chance.choice(scopes) for _ in range(2)),
    )


class Drive:
    """A world with its master, and what is done to them."""

    def __init__(self, plan: Plan, sessions: int = 8) -> None:
        self.plan = plan
        self.longest = LONGEST
        shared = Path("/dev/shm")
        folder = str(shared) if shared.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="webfarm-simulation-", dir=folder))
        self.world = World(plan.seed, plan.pillar, plan.sites, sessions, plan.honours_moved)
        self.master = Master(self.world, self.folder / "journal.sqlite")
        self.master.knows_the_dead = "forgetful" not in plan.kinds
        for site in plan.sites:
            if self.world.topology.sites[site].policy.on_failure == "rollback":
                self.world.judge.resets_are_allowed()
        self.faults = Faults(self.world, self.master, plan.kinds, plan.seed)
        self.operators = Operators(self.world, self.master, plan.kinds, plan.seed)

    def run(self, work: Callable[["Drive"], None]) -> World:
        """``work`` in this world; a broken promise shows the seed and the end of the trace."""
        world = self.world
        try:
            with self.master.in_charge():
                world.sleep(5)
                work(self)
        except Exception as error:
            tail = "\n".join(world.trace[-60:])
            raise AssertionError(f"seed {self.plan.seed}: {error}\n{tail}") from error
        finally:
            self.discard()
        return world

    def discard(self) -> None:
        """Remove the journal."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, what: str, command: Callable[[Context], dict[str, Any]]) -> Controller:
        """Type a command and wait for its end."""
        controller = self.operators.start(what, command)
        self.wait(controller)
        return controller

    def wait(self, controller: Controller) -> None:
        """Until it has ended."""
        if not self.world.join(controller.actor, self.longest):
            raise Broken(f"S6: [{controller.pid}] {controller.what} does not end")

    # -- the two parts ----------------------------------------------------------------------------

    def troubled(self, release: str, scope: tuple[str | None, str | None]) -> None:
        """Somebody upgrades while everything may go wrong."""
        world, operators = self.world, self.operators
        operators.release = release
        end = world.now + TROUBLED_SECONDS
        if "flaw" in self.plan.kinds and release == SECOND:
            world.flaws[release] = flaw(random.Random(f"{self.plan.seed} flaw"))
        self.faults.begin()
        operators.begin()
        operators.upgrade(*scope)
        chance = random.Random(f"{self.plan.seed} {release} duty")
        while world.now < end and (self.plan.kinds or operators.live):
            world.sleep(chance.uniform(1, 20))
            if not operators.live and chance.random() < 0.3:
                operators.start("resume", control.resume)
        operators.end()
        self.faults.end()

    def calm(self, release: str) -> None:
        """Nothing goes wrong any more: the run comes to its end, and all farms to the release."""
        world, operators = self.world, self.operators
        for controller in operators.live:
            self.wait(controller)
        world.sleep(120)  # messages that are late arrive, leases of the dead expire
        self.faults.repair()
        chance = random.Random(f"{self.plan.seed} {release} calm")
        if release in world.flaws:
            self._off_the_flaw(release)
            return
        order: str | None = None
        tried: set[int] = set()
        for _ in range(ATTEMPTS):
            release = max([release, *self._fences()], key=order_key)  # somebody was faster
            unfinished = self.unfinished()
            if unfinished:
                again = unfinished[0] in tried or chance.random() < 0.3
                ends = control.abort if again else control.resume
                tried.add(unfinished[0])
                self.command(f"{ends.__name__} {unfinished[0]}", partial(ends, id=unfinished[0]))
                continue
            self._servers_return()
            to = partial(commands.upgrade, release=release, order=order)
            upgrade = self.command(f"upgrade all to {release}", to)
            if upgrade.result and upgrade.result["result"]:
                self.at_rest(release)
                return
            if "upgrade another farm" in str(upgrade.result):
                order = self._oldest_first()
        raise Broken(f"S6: the farms did not get to {release} in {ATTEMPTS} attempts")

    def _servers_return(self) -> None:
        """What the reactor does when a minion starts."""
        for web in self.world.web:
            if not any(b.up[web.name] for b in self.world.places[web.site].balancers.values()):
                self.command(f"rejoin {web.name}", partial(servers.rejoin, minion=web.name))

    def _off_the_flaw(self, release: str) -> None:
        """The release fails: its run is ended, and it is refused from now on."""
        for _ in range(ATTEMPTS):
            unfinished = self.unfinished()
            if not unfinished:
                break
            self.command(f"abort {unfinished[0]}", partial(control.abort, id=unfinished[0]))
        else:
            raise Broken(f"S6: the runs to {release} could not be aborted")
        self.command("bad", lambda c: control.bad(c, release, "it fails"))
        again = self.command("upgrade", lambda c: commands.upgrade(c, release=release))
        if "marked bad" not in again.error:
            raise Broken(f"a release that is marked bad was not refused: {again.result}")
        self.at_rest(None)
        self.world.flaws.clear()  # where it runs, it is mended in place

    def unfinished(self) -> list[int]:
        with self.master.journal_of_now() as journal:
            return [row["id"] for row in journal.unfinished()]

    def _fences(self) -> set[str]:
        return {release for b in self.world.balancers for release in b.live.release.values()}

    def _oldest_first(self) -> str:
        """The farms in the order in which each leaves another that may answer its sessions."""
        farms = {
            f"{place.name}/{farm}": max(b.live.generation[farm] for b in place.balancers.values())
            for place in self.world.places.values()
            for farm in place.farms
        }
        return ",".join(sorted(farms, key=lambda farm: (farms[farm], farm)))

    def at_rest(self, release: str | None) -> None:
        """S8: everything is in service and nothing is forgotten."""
        world = self.world
        world.sleep(3)
        with self.master.journal_of_now() as journal:
            named = {server for row in journal.quarantined() for server in [row["server"]]}
        for place in world.places.values():
            world.judge.at_rest(place, list(place.farms), dict.fromkeys(named, ""))
            for web in place.web.values():
                if release is not None and web.release != release:
                    raise Broken(f"S8: {web.name} is still on {web.release}")


def campaign(drive: Drive) -> None:
    """All releases, one after the other."""
    for release, scope in zip(drive.plan.releases, drive.plan.scopes, strict=True):
        drive.troubled(release, scope)
        drive.calm(release)
        drive.world.sleep(drive.world.random.uniform(0, 10))


def run(seed: int, base: dict[str, Any], without: frozenset[str] = frozenset()) -> World:
    """One seed of the campaign; raises AssertionError with seed and trace."""
    return Drive(plan_of(seed, base, without)).run(campaign)

"""Drive the real engine and journal over a simulated site, faults and crashes from one seed."""

import copy
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from webfarm.rollout import journal as journal_
from webfarm.rollout.engine import Engine
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import Lease, Process
from webfarm.rollout.model import Goal
from webfarm.rollout.watcher import Outcome

from .world import Broken, World


class Crash(BaseException):
    """The master's power is gone; not an Exception, nothing may handle it."""


class CrashingJournal(Journal):
    """Dies before or after the write with number ``at``."""

    def __init__(self, connection: sqlite3.Connection, at: float, after: bool) -> None:
        super().__init__(connection)
        self.left = at
        self.after = after

    def _write(self, write: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        result = write()
        if self.left == 0:
            raise Crash
        return result

    def intend(self, *args: Any) -> int:
        return int(self._write(lambda: Journal.intend(self, *args)))

    def settle(self, *args: Any) -> None:
        self._write(lambda: Journal.settle(self, *args))

    def remember(self, *args: Any) -> None:
        self._write(lambda: Journal.remember(self, *args))

    def end(self, *args: Any) -> None:
        self._write(lambda: Journal.end(self, *args))


@dataclass
class Drive:
    """A world and the journal that outlives each crash of the engine."""

    world: World
    connection: sqlite3.Connection = field(default_factory=lambda: journal_.connect(":memory:"))
    outcomes: list[Outcome] = field(default_factory=list)

    def goal(self, farm: str, release: str) -> Goal:
        """The goal, as a command would build it."""
        pair = self.world.topology.releases[release]
        return Goal("site1", farm, release, pair.php, pair.webapp)

    def upgrade(self, farm: str, release: str, crash: float = 0, after: bool = False) -> Outcome:
        """One run of the engine; raises :class:`Crash` at the journal's write ``crash``."""
        goal = self.goal(farm, release)
        engine = Engine(
            self.world.site,
            self.world,
            CrashingJournal(self.connection, crash, after),
            Lease(self.connection, "site1", "sim", Process("h", 1, "s", "b"), lambda _: True),
            self.world,
            lambda name: replace(
                goal,
                release=name,
                php=self.world.topology.releases[name].php,
                webapp=self.world.topology.releases[name].webapp,
            ),
        )
        self.world.log(f"-- upgrade {farm} to {release}, crash at {crash}")
        outcome = engine.run(goal)
        self.world.log(f"-- {outcome.state}: {outcome.message}")
        self.outcomes.append(outcome)
        return outcome

    def until_done(self, farm: str, release: str, attempts: int = 40) -> Outcome:
        """Run and, after each crash or failure, run again."""
        world = self.world
        for _ in range(attempts):
            crash = world.random.choice([0, 0, world.random.randrange(1, 40)])
            try:
                outcome = self.upgrade(farm, release, crash, world.random.random() < 0.5)
            except Crash:
                world.log("-- CRASH")
                world.sleep(world.random.uniform(0, 20))
                continue
            self.never_orphaned(farm, outcome)
            if outcome.ok:
                return outcome
            world.sleep(world.random.uniform(0, 30))
        raise Broken(f"S6: {farm} did not get to {release} in {attempts} attempts")

    def never_orphaned(self, farm: str, outcome: Outcome) -> None:
        """S8: a rollout that has ended well leaves each server in service, or names it."""
        if not outcome.ok:
            return
        for balancer in self.world.balancers.values():
            if balancer.state[farm] != "open":
                raise Broken(f"S8: {outcome.state}, but {farm} is {balancer.state[farm]}")
        self.world.sleep(2)
        for web in self.world.members(farm):
            served = web.alive and web.release == outcome.goal.release
            if not served and web.alive and web.name not in outcome.left_out:
                raise Broken(f"S8: {web.name} is on {web.release} and nobody says so")


THREE_FARMS = 3


def pillar_of(
    base: dict[str, Any], farms: int = THREE_FARMS, servers: int = 2, **policy: Any
) -> dict[str, Any]:
    """The example pillar with other farms in site1 and a third release."""
    pillar = copy.deepcopy(base)
    site = pillar["sites"]["site1"]
    numbers = range(1, servers + 1)
    for farm in range(1, farms + 1):
        site["farms"][f"farm{farm}"] = {
            "memcached": [f"10.77.1.{100 + 10 * farm + n}:11211" for n in numbers],
            "servers": {
                f"site1-farm{farm}-ws{n}": {"address": f"10.77.1.{100 + 10 * farm + n}"}
                for n in numbers
            },
        }
    site["policy"] = {"min_capacity": 0.5, "quiesce_seconds": 30, "soak_seconds": 3, **policy}
    pillar["releases"]["2026.11.10"] = {"php": "8.2.36", "webapp": "10"}
    return pillar


def faults(world: World, until: float = 400.0) -> None:
    """Let things go wrong from now on: replies lost, minions silent, servers dead and back."""
    choose = world.random
    world.loss = choose.choice([0, 0, 0.02, 0.1])
    world.refusal = choose.choice([0, 0, 0.02, 0.05])

    def silence() -> None:
        node = choose.choice([*world.balancers.values(), *world.web.values()])
        node.minion = False
        world.log(f"minion {node.name} is silent")
        world.at(choose.uniform(1, 60), lambda: setattr(node, "minion", True))

    def death() -> None:
        name = choose.choice(list(world.web))
        if all(web.alive for web in world.web.values()):
            world.kill(name)
            world.at(choose.uniform(1, 90), lambda: world.revive(name))

    def outage() -> None:
        farm = choose.choice(list(world.site.farms))
        if all(web.alive for web in world.web.values()):
            for web in world.members(farm):
                world.kill(web.name)
                world.at(choose.uniform(5, 40), lambda w=web: world.revive(w.name))

    def again(what: Callable[[], None], mean: float) -> None:
        if world.faults and world.now < start + until:
            what()
            world.at(choose.expovariate(1 / mean), lambda: again(what, mean))

    world.faults = True
    start = world.now
    if choose.random() < 0.3:
        for web in choose.sample(list(world.web.values()), choose.randrange(1, 4)):
            web.bad.update(world.topology.releases)
    if choose.random() < 0.6:
        world.at(choose.uniform(0, 60), lambda: again(silence, 40))
    if choose.random() < 0.6 and world.honours_moved:
        world.at(choose.uniform(0, 60), lambda: again(death, 80))
    if choose.random() < 0.3 and world.honours_moved:
        world.at(choose.uniform(0, 100), lambda: again(outage, 150))


def calm(drive: Drive) -> None:
    """No more faults; everybody comes back, and who slept through an upgrade is brought to it."""
    world = drive.world
    world.faults = False
    world.loss = world.refusal = 0
    for web in world.web.values():
        web.bad.clear()
    world.sleep(100)  # what is dead or silent by then comes back by itself
    for farm in world.site.farms:
        fences = {balancer.release[farm] for balancer in world.balancers.values()}
        states = {balancer.state[farm] for balancer in world.balancers.values()}
        if states == {"open"} and len(fences) == 1:
            drive.until_done(farm, fences.pop())


def run(seed: int, base: dict[str, Any], with_faults: bool = True) -> World:
    """One seed: all farms to the second release and on to the third, in an order of the seed."""
    farms = 2 + seed % 2
    servers = 4 if seed % 5 == 1 else 2
    world = World(seed, pillar_of(base, farms, servers), honours_moved=seed % 4 != 3)
    drive = Drive(world)
    try:
        world.sleep(5)
        for release in ("2026.11.2", "2026.11.10"):
            order = list(world.site.farms)
            world.random.shuffle(order)
            for farm in order:
                if with_faults:
                    faults(world)
                    try:
                        drive.until_done(farm, release, attempts=5)
                    except Broken as broken:
                        if not str(broken).startswith("S6"):
                            raise
                    calm(drive)
                drive.until_done(farm, release)
                world.sleep(world.random.uniform(0, 10))
        for web in world.web.values():
            if web.release != "2026.11.10":
                raise Broken(f"S8: {web.name} is still on {web.release}")
        world.sleep(20)
    except Exception as error:
        tail = "\n".join(world.trace[-60:])
        raise AssertionError(f"seed {seed}: {error}\n{tail}") from error
    return world


def weakened(seed: int, base: dict[str, Any]) -> World:
    """A farm is asked for while another one is short of a server: it must stay in service."""
    world = World(seed, pillar_of(base, 2))
    drive = Drive(world)
    world.kill("site1-farm1-ws1")
    world.sleep(100)
    outcome = drive.upgrade("farm2", "2026.11.2")
    states = {balancer.state["farm2"] for balancer in world.balancers.values()}
    if outcome.state != "refused" or states != {"open"}:
        raise AssertionError(f"seed {seed}: S4: {outcome.state}, farm2 is {states}")
    return world

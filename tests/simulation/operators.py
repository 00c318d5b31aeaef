"""What people type while a run is under way, at any time and from any shell."""

import random
from collections.abc import Callable
from typing import Any

from webfarm.rollout import back, commands, control, servers, status
from webfarm.rollout.context import Context

from .controller import Controller, Master
from .world import World

OPERATORS = (
    "crash",
    "kill",
    "freeze",
    "reboot",
    "interrupt",
    "second",
    "wish",
    "rollback",
    "unlock",
)
LIVE = 2  # controllers that are started at most beside the first


class Operators:
    """Starts controllers, ends them in every way, and wishes things of their runs."""

    def __init__(self, world: World, master: Master, kinds: frozenset[str], seed: int) -> None:
        self.world = world
        self.master = master
        self.kinds = kinds
        self.on = False
        self.chance = {kind: random.Random(f"{seed} {kind}") for kind in OPERATORS}
        self.release = ""
        self.started: list[Controller] = []

    def start(self, what: str, command: Callable[[Context], dict[str, Any]]) -> Controller:
        """A command in a shell of its own; some are killed at one of their writes."""
        chance = self.chance["crash"]
        crash, after = chance.choice([0, chance.randrange(1, 120)]), chance.random() < 0.5
        if "crash" not in self.kinds or not self.on:
            crash = 0
        controller = Controller(self.master, what, command, crash_at=crash, crash_after=after)
        self.started.append(controller)
        return controller

    def upgrade(self, site: str | None = None, farm: str | None = None) -> Controller:
        """`upgrade.farm`, `.site` or `.all` to the release of the day."""
        release = self.release
        return self.start(
            f"upgrade {site or 'all'} {farm or ''} to {release}",
            lambda context: commands.upgrade(context, site, farm, release),
        )

    def begin(self) -> None:
        """From now on people interfere."""
        self.on = True
        for kind, mean in (
            ("kill", 60),
            ("freeze", 90),
            ("reboot", 200),
            ("interrupt", 60),
            ("second", 50),
            ("wish", 50),
            ("rollback", 150),
            ("unlock", 150),
        ):
            if kind in self.kinds:
                self._again(kind, mean)

    def end(self) -> None:
        """They go to bed."""
        self.on = False

    @property
    def live(self) -> list[Controller]:
        """The controllers that have not ended."""
        self.started = [c for c in self.started if not c.over]
        return list(self.started)

    def _again(self, kind: str, mean: float) -> None:
        def happen() -> None:
            if self.on:
                getattr(self, f"_{kind}")(self.chance[kind])
                self._again(kind, mean)

        self.world.at(self.chance[kind].expovariate(1 / mean), happen)

    def _somebody(self, chance: random.Random) -> Controller | None:
        return chance.choice(self.live) if self.live else None

    # -- each kind --------------------------------------------------------------------------------

    def _kill(self, chance: random.Random) -> None:
        if controller := self._somebody(chance):
            self.world.log(f"-- [{controller.pid}] SIGKILL")
            self.world.end(controller.actor)

    def _freeze(self, chance: random.Random) -> None:
        if controller := self._somebody(chance):
            seconds = chance.choice([5.0, 50.0, 70.0, 200.0])
            self.world.log(f"-- [{controller.pid}] SIGSTOP for {seconds:.0f} s")
            self.world.freeze(controller.actor, seconds)

    def _reboot(self, chance: random.Random) -> None:
        self.master.reboot()

    def _interrupt(self, chance: random.Random) -> None:
        if controller := self._somebody(chance):
            self.world.log(f"-- [{controller.pid}] Ctrl-C")
            controller.interrupt = True

    def _second(self, chance: random.Random) -> None:
        """Somebody else upgrades too: the same, another farm, or to another release."""
        if len(self.live) > LIVE:
            return
        topology = self.world.topology
        site = chance.choice(list(self.world.places))
        farm = chance.choice([None, *topology.sites[site].farms])
        release = chance.choice([self.release, self.release, *topology.releases])
        if release in self.world.flaws:  # nobody asks for another farm of what just failed
            return
        self.start(
            f"upgrade {site} {farm or ''} to {release}",
            lambda context: commands.upgrade(context, site, farm, release),
        )

    def _wish(self, chance: random.Random) -> None:
        """Pause, resume, abort or look at a run."""
        if len(self.live) > LIVE:
            return
        what = chance.choice(["pause", "resume", "resume", "abort", "status", "server"])
        if what == "status":
            self.start("status", lambda context: status.status(context, None))
            return
        if what == "server":
            web = chance.choice(self.world.web)
            self.start(
                f"server {web.name}",
                lambda context: servers.server(context, web.site, web.farm, web.name),
            )
            return
        self.start(what, getattr(control, what))

    def _rollback(self, chance: random.Random) -> None:
        if len(self.live) > LIVE:
            return
        reset = chance.random() < 0.7

        def go_back(context: Context) -> dict[str, Any]:
            number = latest(context)
            if reset:
                self.world.judge.resets_are_allowed()
            return back.rollback(context, number, reset_sessions=reset)

        self.start("rollback" + (" with reset" if reset else ""), go_back)

    def _unlock(self, chance: random.Random) -> None:
        site = chance.choice(list(self.world.places))
        self.start(
            f"unlock {site}", lambda context: control.unlock(context, site, "it hangs, I think")
        )


def latest(context: Context) -> int:
    """The number of the latest run; 1 when there is none, which then is refused."""
    with context.journal() as journal:
        runs = journal.runs(1)
    return int(runs[0]["id"]) if runs else 1

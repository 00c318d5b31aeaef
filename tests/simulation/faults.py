"""What goes wrong in the simulated cluster; each kind has a random generator of its own.

So a kind can be left out, to shorten a failure's trace, and the others happen as before.
"""

import random
from collections.abc import Callable
from typing import Any

from .controller import Master
from .nodes import Balancer, Web
from .sessions import Flaw
from .world import World

FAULTS = (
    "loss",
    "late",
    "twice",
    "silence",
    "cut",
    "death",
    "outage",
    "restart",
    "torn",
    "hand",
    "disk",
    "wall",
    "bad",
    "pool",
)
WEIGHTS = "weights"  # not a fault: the weights' loop, which never stops
SICK = 0.3  # how many farms the loop has drained a server in, at any moment
REPAIR_SECONDS = 20.0  # until somebody has repaired what a hand or a torn change left


class Faults:
    """Lets the kinds in ``kinds`` happen from :meth:`begin` to :meth:`end`."""

    def __init__(self, world: World, master: Master, kinds: frozenset[str], seed: int) -> None:
        self.world = world
        self.master = master
        self.kinds = kinds
        self.on = False
        self.sick = SICK
        self.chance = {kind: random.Random(f"{seed} {kind}") for kind in (*FAULTS, WEIGHTS)}
        if WEIGHTS in kinds:
            world.at(1.0, self._weights)

    def begin(self) -> None:
        """From now on things go wrong."""
        self.on = True
        self.sick = SICK
        weather = self.world.network.weather
        for kind, what, levels in (
            ("loss", "loss", (0.02, 0.1)),
            ("loss", "refusal", (0.02, 0.05)),
            ("late", "late", (0.03, 0.15)),
            ("twice", "twice", (0.05, 0.2)),
        ):
            if kind in self.kinds:
                setattr(weather, what, self.chance[kind].choice(levels))
        if "torn" in self.kinds:
            self.world.minions.tear = 0.1
        if "pool" in self.kinds:
            self.world.minions.stubborn = 0.3
        if "bad" in self.kinds:
            chance = self.chance["bad"]
            for web in chance.sample(self.world.web, chance.randrange(1, 3)):
                web.bad.update(self.world.topology.releases)
        for kind, mean in (
            ("silence", 40),
            ("cut", 60),
            ("death", 80),
            ("outage", 150),
            ("restart", 60),
            ("hand", 120),
            ("disk", 120),
            ("wall", 60),
        ):
            if kind in self.kinds:
                self._again(kind, mean)

    def end(self) -> None:
        """Nothing more goes wrong, and everything is repaired."""
        self.on = False
        self.sick = SICK / 6  # or a site is short of servers, and refuses, for good reason
        world = self.world
        weather = world.network.weather
        weather.loss = weather.refusal = weather.late = weather.twice = 0.0
        world.minions.tear = world.minions.stubborn = 0.0
        self.master.disk_full = False
        for node in world.nodes:
            node.minion = True
            node.cut_until = 0.0
            world.revive(node)
            if isinstance(node, Web):
                node.bad.clear()
        self.repair()

    def _again(self, kind: str, mean: float) -> None:
        def happen() -> None:
            if self.on:
                getattr(self, f"_{kind}")(self.chance[kind])
                self._again(kind, mean)

        self.world.at(self.chance[kind].expovariate(1 / mean), happen)

    def _for_a_while(self, seconds: float, undo: Callable[[], None]) -> None:
        self.world.at(seconds, undo)

    def _weights(self) -> None:
        """A tick of the loop: each farm's vector reaches each balancer at a moment of its own."""
        chance = self.chance[WEIGHTS]
        for place in self.world.places.values():
            for farm, webs in place.farms.items():
                resting = {chance.choice(webs).name} if chance.random() < self.sick else set()
                share = chance.uniform(0.3, 2.0)
                for balancer in place.balancers.values():
                    self.world.at(
                        chance.expovariate(1.0),
                        lambda b=balancer, f=farm, r=resting, s=share: self._vector(b, f, r, s),
                    )
        self.world.at(4.0, self._weights)

    def _vector(self, balancer: Balancer, farm: str, resting: set[str], share: float) -> None:
        """What ``haproxy_runtime.apply_weights`` does; the disk is written a moment before."""
        if not balancer.alive or {balancer.live.state[farm], balancer.disk.state[farm]} != {"open"}:
            return
        members = {web.name for web in self.world.places[balancer.site].farms[farm]}
        left = {name for name in members - resting if balancer.up[name]}
        balancer.rested -= members
        balancer.rested |= resting if left else set()
        base = self.world.places[balancer.site].plan.farms[farm].weight
        for name in ("pick", "pick_newest"):
            disk, live = getattr(balancer.disk, name), getattr(balancer.live, name)
            if disk.keys() == live.keys() and farm in disk:
                disk[farm] = max(1, round(base * share))
                self.world.at(0.05, lambda b=balancer, n=name, f=farm: self._shares(b, n, f))

    @staticmethod
    def _shares(balancer: Balancer, name: str, farm: str) -> None:
        disk, live = getattr(balancer.disk, name), getattr(balancer.live, name)
        if farm in live and farm in disk:
            live[farm] = disk[farm]

    # -- each kind --------------------------------------------------------------------------------

    def _silence(self, chance: random.Random) -> None:
        node = chance.choice(self.world.nodes)
        node.minion = False
        self.world.log(f"the minion of {node.name} is stopped")
        self._for_a_while(chance.uniform(1, 90), lambda: setattr(node, "minion", True))

    def _cut(self, chance: random.Random) -> None:
        node: Any = chance.choice([*self.world.balancers, chance.choice(self.world.web)])
        node.cut_until = self.world.now + chance.uniform(5, 60)
        self.world.log(f"{node.name} is cut off Salt until {node.cut_until - self.world.now:.0f} s")

    def _death(self, chance: random.Random) -> None:
        web = chance.choice(self.world.web)
        if all(other.alive for other in self.world.web):
            self.world.kill(web)
            self._for_a_while(chance.uniform(1, 120), lambda: self.world.revive(web))

    def _outage(self, chance: random.Random) -> None:
        place = chance.choice(list(self.world.places.values()))
        farm = chance.choice(list(place.farms))
        if all(other.alive for other in self.world.web):
            for web in place.farms[farm]:
                self.world.kill(web)
                self._for_a_while(chance.uniform(5, 40), lambda w=web: self.world.revive(w))

    def _restart(self, chance: random.Random) -> None:
        place = chance.choice(list(self.world.places.values()))
        balancer = chance.choice(list(place.balancers.values()))
        if all(other.alive for other in place.balancers.values()):
            self.world.kill(balancer)
            self._for_a_while(chance.uniform(0.5, 20), lambda: self.world.revive(balancer))

    def _hand(self, chance: random.Random) -> None:
        """Somebody takes a farm out of service on one balancer, in memory only or on disk too."""
        balancer = chance.choice(self.world.balancers)
        if any(self.world.now - b.touched < 100 for b in self.world.balancers):
            return
        farm = chance.choice(list(balancer.live.state))
        state = chance.choice(["drain", "closed"])
        site = self.world.places[balancer.site].balancers.values()
        if any(other.live.state[farm] != "open" for other in site):
            return  # a hand would not know how to put it back
        self.world.log(f"a hand sets {farm} to {state} on {balancer.name}")
        balancer.touched = self.world.now
        balancer.live.state[farm] = state
        if chance.random() < 0.5:
            balancer.disk.state[farm] = state

        def undo() -> None:
            self._put_back(balancer, farm, state)
            self.world.log(f"the hand goes from {farm} on {balancer.name}")

        self._for_a_while(chance.uniform(5, REPAIR_SECONDS), undo)

    def _put_back(self, balancer: Balancer, farm: str, state: str) -> None:
        """As the other balancers have it, also in the pick maps that were written meanwhile."""
        for other in self.world.places[balancer.site].balancers.values():
            for maps in (balancer.live, balancer.disk):
                if maps.state[farm] == state and self._is_open_elsewhere(balancer, farm):
                    maps.state[farm] = "open"
                for name in ("pick", "pick_newest"):
                    share = getattr(other.live, name).get(farm)
                    if share and maps.state[farm] == "open":
                        getattr(maps, name)[farm] = share

    def _is_open_elsewhere(self, balancer: Balancer, farm: str) -> bool:
        others = self.world.places[balancer.site].balancers.values()
        return all(
            (b.live.state[farm], b.live.generation[farm], b.live.release[farm])
            == ("open", balancer.live.generation[farm], balancer.live.release[farm])
            for b in others
            if b is not balancer
        )

    def _disk(self, chance: random.Random) -> None:
        self.master.disk_full = True
        self.world.log("the master's disk is full")
        self._for_a_while(chance.uniform(1, 30), lambda: setattr(self.master, "disk_full", False))

    def _wall(self, chance: random.Random) -> None:
        self.master.wall += chance.choice([-3600, -70, -5, 5, 70, 3600])
        self.world.log(f"the master's clock is {self.master.wall:.0f} s off")

    def repair(self) -> None:
        """What ``haproxy_runtime.reconcile`` does on a balancer: memory as on disk."""
        for balancer in self.world.balancers:
            if balancer.live != balancer.disk:
                self.world.log(f"{balancer.name} is reconciled")
                balancer.live = balancer.disk.copy()
                self.world.checks(self.world.places[balancer.site])


def flaw(chance: random.Random) -> Flaw:
    """What a broken release does: answers 500, or slowly."""
    return chance.choice([Flaw(errors=0.5), Flaw(errors=1.0), Flaw(slow=6.0)])

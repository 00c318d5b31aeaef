"""The nodes of a simulated site: balancers with their maps, web servers with their memcached."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from webfarm.hold import Shown
from webfarm.topology import Site

SAMPLES = 512  # HAProxy's TIME_STATS_SAMPLES


class Refusal(Exception):
    """A node's function raised: an explicit failure, with its text."""


@dataclass
class Node:
    """What Salt reaches: ``busy_until`` is when a change that holds the node's lock ends."""

    name: str
    site: str
    alive: bool = True
    minion: bool = True
    cut_until: float = 0.0  # what is sent until then arrives afterwards
    busy_until: float = 0.0
    running: set[str] = field(default_factory=set)
    shown: dict[str, Shown] = field(default_factory=dict)
    boots: int = 0
    died: float = -1e9
    back: float = -1e9


@dataclass
class Web(Node):
    """A web server and the memcached beside it."""

    farm: str = ""
    weight: int = 100
    release: str = ""
    ready: bool = True
    staged: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)  # releases that do not start here
    cache: dict[int, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    # beneath the release: see systems.py
    installed: str = "1.0"
    installed_in: int = -1  # the boot
    snapshots: dict[str, str] = field(default_factory=dict)
    restored: str = ""
    next_root: str = ""
    ordered: set[int] = field(default_factory=set)  # boots that a rollout has ended
    maintained: bool = False  # down because a rollout rebooted it
    never: bool = False  # does not come back from a reboot
    stubborn: bool = False  # refuses to install
    found_bad: bool = False  # had packages with which it did not serve


@dataclass
class Maps:
    """The farm maps, as a balancer has them in memory and on disk."""

    state: dict[str, str]
    generation: dict[str, int]
    release: dict[str, str]
    newest: int
    pick: dict[str, int]
    pick_newest: dict[str, int]
    amnesty: int = 0

    def copy(self) -> "Maps":
        """Maps of its own."""
        own = {k: dict(v) if isinstance(v, dict) else v for k, v in vars(self).items()}
        return Maps(**own)

    def changed(self, wanted: Mapping[str, Any]) -> "Maps":
        """These maps with what ``haproxy_runtime.set_farms`` was given."""
        new = self.copy()
        for name in ("state", "release", "generation"):
            getattr(new, name).update(wanted.get(name, {}))
        for name in ("pick", "pick_newest"):
            if name in wanted:
                setattr(new, name, dict(wanted[name]))
        new.newest = wanted.get("newest", self.newest)
        new.amnesty = wanted.get("amnesty", self.amnesty)
        return new

    def agrees(self, other: "Maps") -> bool:
        """The same, but for the shares of who is in the pick maps."""
        mine, theirs = self.copy(), other.copy()
        for maps in (mine, theirs):
            maps.pick, maps.pick_newest = (
                dict.fromkeys(maps.pick, 1),
                dict.fromkeys(maps.pick_newest, 1),
            )
        return mine == theirs

    def take(self, new: "Maps", names: Iterable[str]) -> None:
        """Replace these maps; the newest generation and the amnesty are in that of generations."""
        for name in names:
            setattr(self, name, copy.copy(getattr(new, name)))
            if name == "generation":
                self.newest, self.amnesty = new.newest, new.amnesty


def order(wanted: Mapping[str, Any]) -> list[str]:
    """The order in which a balancer changes its maps."""
    closing = any(value != "open" for value in wanted.get("state", {}).values())
    last = ["pick", "state"] if closing else ["state", "pick"]
    return ["release", "generation", "pick_newest", *last]


@dataclass
class Count:
    """One farm's counters at one balancer, as HAProxy keeps them."""

    in_flight: int = 0
    requests: int = 0
    errors: int = 0
    time_sum: int = 0

    def answered(self, error: bool, seconds: float) -> None:
        """One request ended: HAProxy's ``swrate_add_dynamic``, a plain mean of the first ones."""
        self.requests += 1
        self.errors += error
        if self.requests > SAMPLES:
            self.time_sum -= (self.time_sum + SAMPLES - 1) // SAMPLES
        self.time_sum += int(seconds * 1000)

    @property
    def response_ms(self) -> int:
        """``rtime``: HAProxy's ``swrate_avg``."""
        samples = max(1, min(self.requests, SAMPLES))
        return (self.time_sum + samples - 1) // samples


@dataclass
class Balancer(Node):
    """A site balancer: its maps, what its health checks say, and what it has counted."""

    live: Maps = field(default_factory=lambda: Maps({}, {}, {}, 1, {}, {}))
    disk: Maps = field(default_factory=lambda: Maps({}, {}, {}, 1, {}, {}))
    up: dict[str, bool] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    rested: set[str] = field(default_factory=set)  # drained by the weights' loop
    admin: dict[str, str] = field(default_factory=dict)  # what a rollout took: drain or maint
    flights: dict[str, int] = field(default_factory=dict)
    served: dict[str, Count] = field(default_factory=dict)
    blinked: bool = False
    touched: float = -1e9  # when a hand changed it

    def status(self, name: str) -> str:
        """HAProxy's word for a server."""
        if self.admin.get(name) == "maint":
            return "MAINT"
        if not self.up[name]:
            return "DOWN"
        return "DRAIN" if name in self.rested or name in self.admin else "UP"

    def restart(self) -> None:
        """HAProxy starts from its disk, believes in every server, and has counted nothing."""
        self.boots += 1
        self.live = self.disk.copy()
        self.up = dict.fromkeys(self.up, True)
        self.counts = {farm: Count() for farm in self.counts}
        self.flights, self.served = {}, {}


@dataclass
class Place:
    """One site: its plan and its nodes; ``database`` is the sessions' backing store."""

    name: str
    plan: Site
    balancers: dict[str, Balancer]
    web: dict[str, Web]
    keeper: Node  # the database's minion
    database: dict[int, int] = field(default_factory=dict)
    farms: dict[str, list[Web]] = field(default_factory=dict)

    def cache_of(self, member: str) -> Web:
        """The server with the pool's member ``host:port``."""
        host = member.rpartition(":")[0]
        for farm in self.plan.farms.values():
            for name, server in farm.servers.items():
                if server.address == host:
                    return self.web[name]
        raise AssertionError(member)


def place(name: str, plan: Site, release: str) -> Place:
    """A bare site: every farm open on ``release`` with generation 1."""
    farms = list(plan.farms)
    web = {
        server: Web(server, name, farm=farm, weight=at.weight, release=release, staged={release})
        for farm, its in plan.farms.items()
        for server, at in its.servers.items()
    }
    weights = {farm: its.weight for farm, its in plan.farms.items()}
    maps = Maps(
        dict.fromkeys(farms, "open"),
        dict.fromkeys(farms, 1),
        dict.fromkeys(farms, release),
        1,
        weights,
        weights,
    )
    balancers = {
        balancer: Balancer(
            balancer,
            name,
            live=maps.copy(),
            disk=maps.copy(),
            up=dict.fromkeys(web, True),
            counts={farm: Count() for farm in farms},
        )
        for balancer in plan.balancers
    }
    by_farm = {farm: [w for w in web.values() if w.farm == farm] for farm in farms}
    return Place(name, plan, balancers, web, Node(plan.database.minion, name), farms=by_farm)

"""A site in simulated time: balancers, servers, pools, a database, sessions that judge.

One thread, one heap of events, one random generator: the same seed gives the same run. The world
moves only when the rollout calls it or sleeps. What a session does follows the site balancer's
configuration and the session handler: floor, ``ready``, the two pick maps, X-Webfarm-Moved, the
cache first and the database when it cannot be trusted.
"""

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from webfarm.releases import order_key
from webfarm.rollout import views
from webfarm.rollout.model import Reply, Seen
from webfarm.topology import Site, Topology, parse

CHECK_SECONDS = 0.7  # until a balancer's health check has followed a server or a fence
RETRIES = 3
LATELY = 60.0
NEW_SESSION = 0.03  # how likely an answer is a session's last
SLOW = 0.05  # how likely a node acts three seconds later than the others


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Web:
    """A web server and the memcached beside it."""

    name: str
    farm: str
    release: str
    alive: bool = True
    minion: bool = True
    ready: bool = True
    staged: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)  # releases that do not start here
    cache: dict[int, int] = field(default_factory=dict)
    cache_alive: bool = True
    died: float = -1e9
    back: float = -1e9

    def counts(self, now: float) -> bool:
        """It is up, or died so lately that no rollout could have known."""
        return self.alive or now - self.died < LATELY


@dataclass
class Balancer:
    """The maps of one site balancer, and what its checks and counters say."""

    name: str
    state: dict[str, str]
    generation: dict[str, int]
    release: dict[str, str]
    newest: int
    pick: dict[str, int]
    pick_newest: dict[str, int]
    up: dict[str, bool] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    minion: bool = True
    blinked: bool = False


@dataclass
class Session:
    """A client that counts: ``count`` is what the last answer said."""

    number: int
    farm: str = ""
    generation: int = 0
    uncached: bool = False
    count: int = 0
    seen: str = ""


class World:
    """See the module. ``now`` is the time, ``sleep`` lets it pass."""

    def __init__(
        self,
        seed: int,
        pillar: Mapping[str, Any],
        site: str = "site1",
        sessions: int = 12,
        honours_moved: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.topology: Topology = parse(pillar)
        self.site: Site = self.topology.sites[site]
        self.now = 1_000_000.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = 0
        self.trace: list[str] = []
        first = self.topology.initial
        self.web = {
            name: Web(name, farm, first, staged={first})
            for farm, plan in self.site.farms.items()
            for name in plan.servers
        }
        farms = list(self.site.farms)
        self.balancers = {
            name: Balancer(
                name,
                dict.fromkeys(farms, "open"),
                dict.fromkeys(farms, 1),
                dict.fromkeys(farms, first),
                1,
                dict.fromkeys(farms, 100),
                dict.fromkeys(farms, 100),
                dict.fromkeys(self.web, True),
                dict.fromkeys(farms, 0),
            )
            for name in self.site.balancers
        }
        self.database: dict[int, int] = {}
        self.born = sessions
        self.requests = 0
        self.excused = 0  # a request that a fault, not the upgrade, took away
        self.honours_moved = honours_moved  # false: only the flush stands before a stale cache
        self.loss = 0.0  # how likely a reply is lost
        self.refusal = 0.0  # how likely a command never arrives
        self.blink = 0.1  # how likely one look (never two) misses what an old worker still does
        for number in range(sessions):
            session = Session(number)
            self.at(self.random.uniform(0, 1), lambda s=session: self.request(s))

    # -- time -----------------------------------------------------------------------------------

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Let ``what`` happen ``delay`` seconds from now."""
        self.counter += 1
        heapq.heappush(self.events, (self.now + delay, self.counter, what))

    def time(self) -> float:
        """Clock."""
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        """Clock: everything that is due happens."""
        end = self.now + max(0.0, seconds)
        while self.events and self.events[0][0] <= end:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.now = end

    def log(self, text: str) -> None:
        """One line of the trace that a failure shows."""
        self.trace.append(f"{self.now - 1_000_000:8.2f} {text}")

    # -- what a balancer does with a request ----------------------------------------------------

    def request(self, session: Session) -> None:
        """One request of a session: routed now, answered later."""
        balancer = self.random.choice(list(self.balancers.values()))
        farm = self.route(balancer, session)
        self.requests += 1
        again = self.random.uniform(0.05, 1.5)
        if farm is None:
            healthy = [web.alive and self.now - web.back > 1 for web in self.web.values()]
            if all(healthy):
                raise Broken(
                    f"S2: session {session.number} (floor {session.generation}) got 503 at "
                    f"{balancer.name}: {balancer.state} {balancer.generation} {balancer.newest}"
                )
            self.excused += 1
            self.at(again, lambda: self.request(session))
            return
        web = self.server(balancer, farm)
        if web is None:
            self.excused += 1  # every server that the balancer still holds for UP is dead
            self.at(again, lambda: self.request(session))
            return
        moved = self.honours_moved and (
            session.farm != farm
            or session.generation != balancer.generation[farm]
            or session.uncached
        )
        cached = self.cache(session, farm)
        value = (
            self.database.get(session.number, 0)
            if moved or cached is None or session.number not in cached
            else cached[session.number]
        )
        long = self.random.random() < 0.1
        seconds = self.random.uniform(1.0, 8.0) if long else self.random.uniform(0.01, 0.3)
        balancer.in_flight[farm] += 1
        generation, release = balancer.generation[farm], web.release
        self.at(
            seconds,
            lambda: self.answer(session, balancer, farm, web, release, generation, value, again),
        )

    def route(self, balancer: Balancer, session: Session) -> str | None:
        """The site balancer's farm choice."""
        floor = min(session.generation, balancer.newest)
        bound = floor >= balancer.newest
        farm = session.farm
        if farm:
            alive = self.alive(balancer, farm)
            young = balancer.generation[farm] >= floor
            if alive and young and balancer.state[farm] in ("open", "drain"):
                return farm
            if alive and bound and balancer.state[farm] == "ready":
                return farm
        picks = balancer.pick_newest if floor and bound else balancer.pick
        total = sum(picks.values())
        if total:
            (picked,) = self.random.choices(list(picks), list(picks.values()))
            if self.serves(balancer, picked, floor):
                return picked
        for farm in self.site.farms:
            if self.serves(balancer, farm, floor):
                return farm
        return None

    def serves(self, balancer: Balancer, farm: str, floor: int) -> bool:
        """The farm may take a session that comes to it."""
        return (
            balancer.state[farm] == "open"
            and balancer.generation[farm] >= floor
            and self.alive(balancer, farm)
        )

    def alive(self, balancer: Balancer, farm: str) -> bool:
        """HAProxy's nbsrv is not 0."""
        return any(balancer.up[web.name] for web in self.members(farm))

    def members(self, farm: str) -> list[Web]:
        """The farm's servers."""
        return [web for web in self.web.values() if web.farm == farm]

    def server(self, balancer: Balancer, farm: str) -> Web | None:
        """A server that is UP here; one that is dead or answers 425 is retried on another."""
        up = [web for web in self.members(farm) if balancer.up[web.name]]
        self.random.shuffle(up)
        for web in up[: RETRIES + 1]:
            if web.alive and web.ready and web.release == balancer.release[farm]:
                return web
        return None

    def cache(self, session: Session, farm: str) -> dict[int, int] | None:
        """The pool's member that holds the session, or None while it is out of reach."""
        members = self.members(farm)
        member = members[session.number % len(members)]
        return member.cache if member.cache_alive else None

    def answer(
        self,
        session: Session,
        balancer: Balancer,
        farm: str,
        web: Web,
        release: str,
        generation: int,
        value: int,
        again: float,
    ) -> None:
        """The end of a request: written through, answered, judged."""
        balancer.in_flight[farm] -= 1
        if not web.alive:  # it died under the request
            self.excused += 1
            self.at(again, lambda: self.request(session))
            return
        if web.release != release or not web.ready:
            raise Broken(f"S2: {web.name} was switched under a request of session {session.number}")
        if value != session.count:
            raise Broken(
                f"S3: session {session.number} was at {session.count} and reads {value} in {farm}"
            )
        if session.seen and order_key(release) < order_key(session.seen):
            raise Broken(
                f"S1: session {session.number} saw {session.seen} and is answered by {release} on "
                f"{web.name}"
            )
        cached = self.cache(session, farm)
        self.database[session.number] = value + 1
        if cached is not None:
            cached[session.number] = value + 1
        session.count, session.seen = value + 1, release
        session.farm, session.generation, session.uncached = farm, generation, cached is None
        if self.random.random() < NEW_SESSION:  # this client has what it wanted, another comes
            self.born += 1
            session = Session(self.born)
        self.at(again, lambda: self.request(session))

    # -- what changes it -------------------------------------------------------------------------

    def checks(self) -> None:
        """Every balancer's health checks follow, each at its own moment."""
        for balancer in self.balancers.values():
            for web in self.web.values():
                delay = self.random.uniform(0.1, CHECK_SECONDS)
                self.at(delay, lambda b=balancer, w=web: self.check(b, w))

    def check(self, balancer: Balancer, web: Web) -> None:
        """One health check, with the fence in it."""
        fence = balancer.release[web.farm]
        balancer.up[web.name] = web.alive and web.ready and web.release == fence

    def set_farms(self, balancer: Balancer, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """``haproxy_runtime.set_farms``."""
        self.log(f"{balancer.name} set_farms {dict(wanted)}")
        for farm, number in wanted.get("generation", {}).items():
            if number < balancer.generation[farm]:
                raise ValueError("a generation would go down")
        for farm, state in wanted.get("state", {}).items():
            if (
                state == "open"
                and balancer.state[farm] != "open"
                and not self.alive(balancer, farm)
            ):
                raise ValueError(f"none of the servers of {farm} is UP")
            self.judge(balancer, farm, state)
        balancer.release.update(wanted.get("release", {}))
        balancer.generation.update(wanted.get("generation", {}))
        balancer.newest = max(balancer.newest, wanted.get("newest", 0))
        for what in ("pick", "pick_newest"):
            if what in wanted:
                setattr(balancer, what, dict(wanted[what]))
        balancer.state.update(wanted.get("state", {}))
        self.checks()
        return self.farms(balancer)

    def farms(self, balancer: Balancer) -> dict[str, Any]:
        """``haproxy_runtime.farms``."""
        balancer.blinked = not balancer.blinked and self.random.random() < self.blink
        return {
            "farms": {
                farm: {
                    "state": balancer.state[farm],
                    "generation": balancer.generation[farm],
                    "release": balancer.release[farm],
                    "in_flight": 0 if balancer.blinked else balancer.in_flight[farm],
                    "queued": 0,
                    "servers": {
                        web.name: {
                            "status": "UP" if balancer.up[web.name] else "DOWN",
                            "admin_state": "ready",
                            "in_flight": 0,
                        }
                        for web in self.members(farm)
                    },
                }
                for farm in self.site.farms
            },
            "newest": balancer.newest,
            "pick": balancer.pick,
            "pick_newest": balancer.pick_newest,
            "disk_agrees": True,
            "old_workers": 0,
        }

    def judge(self, balancer: Balancer, farm: str, state: str) -> None:
        """S4, when a farm leaves service or comes back."""
        before = balancer.state[farm]
        if state in ("drain", "closed") and before in ("open", "drain"):
            serving = sum(
                server.weight
                for other, plan in self.site.farms.items()
                for name, server in plan.servers.items()
                if other != farm
                and balancer.state[other] == "open"
                and self.web[name].counts(self.now)
            )
            whole = sum(plan.weight for plan in self.site.farms.values())
            if serving / whole < self.site.policy.min_capacity:
                raise Broken(f"S4: {farm} goes to {state}, {serving} of {whole} are left")
        if state == "open" and before != "open":
            lost = [w.name for w in self.members(farm) if not balancer.up[w.name]]
            count = len(self.members(farm))
            allowed = max(1, int(self.site.policy.max_failed * count))
            lately = any(self.now - web.died < LATELY for web in self.members(farm))
            if len(lost) > allowed and not lately:
                raise Broken(f"S4: {farm} opens without {lost}")

    # -- the cluster that the engine sees ----------------------------------------------------------

    def observe(self, site: str, farm: str, servers: bool = True) -> Seen:
        """:class:`webfarm.rollout.cluster.Cluster`."""
        seen_balancers = self._ask("haproxy_runtime.farms", list(self.balancers), {}, 5.0)
        seen_servers = (
            self._ask("webfarm_release.status", list(self.site.farms[farm].servers), {}, 5.0)
            if servers
            else {}
        )
        return Seen(
            {name: views.balancer(name, reply) for name, reply in seen_balancers.items()},
            {name: views.server(name, reply) for name, reply in seen_servers.items()},
        )

    def call(
        self, function: str, targets: Sequence[str], arguments: Mapping[str, Any], deadline: float
    ) -> Mapping[str, Reply]:
        """:class:`webfarm.rollout.cluster.Cluster`."""
        self.log(f"call {function} {list(targets)} {dict(arguments)}")
        return self._ask(function, targets, arguments, deadline)

    def _ask(
        self, function: str, targets: Sequence[str], arguments: Mapping[str, Any], deadline: float
    ) -> dict[str, Reply]:
        replies: dict[str, Reply] = {}
        late = False
        for name in targets:
            slow = 3.0 if self.random.random() < SLOW else 0.0
            self.sleep(slow + self.random.uniform(0.0, 0.2))  # nodes do not act at one instant
            node = self.balancers.get(name) or self.web[name]
            alive = node.minion and getattr(node, "alive", True)
            if not alive or self.random.random() < self.refusal:
                replies[name], late = Reply(None, error="no answer"), True
                continue
            try:
                reply = Reply(True, self._do(function, node, arguments))
            except ValueError as error:
                reply = Reply(False, error=str(error))
            if self.random.random() < self.loss:
                reply, late = Reply(None, error="no answer"), True
            replies[name] = reply
        self.sleep(min(deadline, 5.0) if late else 0.1)
        return replies

    def _do(self, function: str, node: Any, arguments: Mapping[str, Any]) -> Any:
        if function == "haproxy_runtime.farms":
            return self.farms(node)
        if function == "haproxy_runtime.set_farms":
            return self.set_farms(node, arguments)
        if function == "webfarm_release.status":
            return self._status(node)
        if function == "webfarm_release.stage":
            node.staged.add(arguments["release"])
            return {"php": "installed"}
        if function == "webfarm_release.switch":
            return self._switch(node, arguments["release"])
        if function == "webfarm_release.warm":
            if not node.ready:
                raise ValueError("the webapp does not answer")
            return {"requests": 2}
        if function == "farm_cache.stats":
            dead = [m for m in arguments["servers"] if not self._cache_of(m).cache_alive]
            if dead:
                raise ValueError(f"memcached {dead}: does not answer")
            return {member: {"curr_items": 0} for member in arguments["servers"]}
        if function == "farm_cache.flush":
            return {member: self._flushed(member) for member in arguments["servers"]}
        raise AssertionError(function)

    def _status(self, web: Web) -> dict[str, Any]:
        php = [self.topology.releases[name].php for name in web.staged]
        webapp = [self.topology.releases[name].webapp for name in web.staged]
        return {
            "release": web.release,
            "ready": web.ready,
            "why": "" if web.ready else "php-fpm is not running",
            "php_versions": php,
            "webapp_versions": webapp,
            "boot_id": "b",
        }

    def _switch(self, web: Web, release: str) -> dict[str, Any]:
        if release not in web.staged:
            raise ValueError(f"{release} is not staged")
        if release in web.bad:
            raise ValueError(f"php-fpm does not start with {release}; the old one runs")
        self.log(f"{web.name} switched to {release}")
        web.release, web.ready = release, True
        self.checks()
        return self._status(web)

    def _cache_of(self, member: str) -> Web:
        for farm in self.site.farms.values():
            for name, server in farm.servers.items():
                if member.rpartition(":")[0] == server.address:
                    return self.web[name]
        raise AssertionError(member)

    def _flushed(self, member: str) -> dict[str, Any]:
        web = self._cache_of(member)
        if not web.cache_alive:
            raise ValueError(f"memcached {member}: does not answer")
        web.cache.clear()
        self.log(f"{member} flushed")
        return {"flushed": True, "items": 0}

    # -- faults -----------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """A web server loses its power."""
        self.log(f"{name} dies")
        web = self.web[name]
        web.alive = web.cache_alive = False
        web.died = self.now
        self.checks()

    def revive(self, name: str) -> None:
        """It comes back, with what it ran before; its memcached remembers (the worst case)."""
        self.log(f"{name} comes back")
        web = self.web[name]
        web.alive = web.cache_alive = True
        web.back = self.now
        self.checks()

    def drop_caches(self) -> None:
        """Restarted memcacheds are empty."""
        for web in self.web.values():
            web.cache.clear()

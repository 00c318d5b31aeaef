"""The clients of a simulated site: routed as the balancer's maps say, and they judge S1, S2, S3.

What happens to a request follows the site balancer's configuration and the session handler: the
floor, ``ready``, the two pick maps, X-Webfarm-Moved, the cache first and the database when the
cache cannot be trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from webfarm import releases

from .nodes import Balancer, Count, Place, Web

RETRIES = 3
order_key = cache(releases.order_key)
STAYS, BRIEF = 0.02, 0.3  # how likely an answer is a session's last


class Broken(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a release: the share of answers with status 500, seconds too slow."""

    errors: float = 0.0
    slow: float = 0.0


@dataclass
class Session:
    """A client that counts: ``count`` is what the last answer said; some stay for long."""

    number: int
    brief: bool = False
    farm: str = ""
    generation: int = 0
    uncached: bool = False
    count: int = 0
    seen: str = ""


@dataclass(frozen=True)
class Request:
    """One request on its way: who asked whom, and what the servers were like then."""

    session: Session
    balancer: Balancer
    balancer_boots: int
    web: Web
    web_boots: int
    release: str
    generation: int
    value: int
    seconds: float
    released: bool  # from the floor: somebody goes back and allows that it is reset


class Clients:
    """The sessions of one site.

    honours_moved
        False: only the flush stands before a stale cache, as for a handler without the header.
    """

    def __init__(self, world: Any, place: Place, sessions: int, honours_moved: bool) -> None:
        self.world = world
        self.place = place
        self.honours_moved = honours_moved
        self.born = sessions
        self.requests = 0
        self.excused = 0  # requests that a fault, not the upgrade, took away
        self.cut = 0  # requests that policy `force` cut
        self.resets = 0
        for number in range(sessions):
            self._later(world.random.uniform(0, 1), Session(number, number % 2 == 0))

    def _later(self, delay: float, session: Session) -> None:
        self.world.at(delay, lambda: self.request(session))

    def _pause(self) -> float:
        return float(self.world.random.uniform(0.1, 2.0) * self.world.calm)

    def _excuse(self, session: Session) -> None:
        self.excused += 1
        self._later(self._pause(), session)

    def request(self, session: Session) -> None:
        """One request of a session: routed now, answered later."""
        place, choose = self.place, self.world.random
        self.requests += 1
        alive = [b for b in place.balancers.values() if b.alive]
        if not alive:
            return self._excuse(session)
        balancer = choose.choice(alive)
        farm = self.route(balancer, session)
        if farm is None:
            if not self.world.judge.troubled(place):
                raise Broken(
                    f"S2: session {session.number} (floor {session.generation}) got 503 at "
                    f"{balancer.name}: {balancer.live}"
                )
            return self._excuse(session)
        web = self.server(balancer, farm)
        if web is None:  # every server that the balancer still holds for UP is dead
            return self._excuse(session)
        maps = balancer.live
        moved = self.honours_moved and (
            session.farm != farm or session.generation != maps.generation[farm] or session.uncached
        )
        cached = self.cache(session, farm)
        value = (
            place.database.get(session.number, 0)
            if moved or cached is None or session.number not in cached
            else cached[session.number]
        )
        long = choose.random() < 0.1
        seconds = choose.uniform(1.0, 6.0) if long else choose.uniform(0.01, 0.3)
        flaw = self.world.flaws.get(web.release)
        seconds += flaw.slow if flaw else 0.0
        balancer.counts[farm].in_flight += 1
        balancer.flights[web.name] = balancer.flights.get(web.name, 0) + 1
        sent = Request(
            session,
            balancer,
            balancer.boots,
            web,
            web.boots,
            web.release,
            maps.generation[farm],
            value,
            seconds,
            maps.amnesty >= session.generation,
        )
        self.world.at(seconds, lambda: self.answer(sent))
        return None

    def route(self, balancer: Balancer, session: Session) -> str | None:
        """The site balancer's farm choice, as in its configuration."""
        maps = balancer.live
        floor = min(session.generation, maps.newest)
        bound = floor >= maps.newest
        farm = session.farm
        stays = ("open", "drain", "ready") if bound else ("open", "drain")
        young = farm and maps.generation[farm] >= floor
        if young and maps.state[farm] in stays and self.alive(balancer, farm):
            return farm
        tries = (maps.pick_newest if floor and bound else maps.pick, maps.pick, maps.pick)
        for picks in (*tries, maps.pick_newest):
            picked = self._picked(picks)
            if picked and self.serves(balancer, picked, floor):
                return picked
        for farm in maps.state:
            if self.serves(balancer, farm, floor):
                return farm
        for farm, state in maps.state.items():
            young = maps.generation[farm] >= floor
            if floor and bound and state == "ready" and young and self.alive(balancer, farm):
                return farm
        older = [self._picked(maps.pick), *maps.state] if maps.amnesty >= floor else []
        return next((f for f in older if f and self.serves(balancer, f, 0)), None)

    def _picked(self, picks: Mapping[str, int]) -> str:
        return self.world.random.choices(list(picks), list(picks.values()))[0] if picks else ""

    def serves(self, balancer: Balancer, farm: str, floor: int) -> bool:
        """The farm may take a session that comes to it."""
        maps = balancer.live
        return (
            maps.state[farm] == "open"
            and maps.generation[farm] >= floor
            and self.alive(balancer, farm)
        )

    def alive(self, balancer: Balancer, farm: str) -> bool:
        """HAProxy's nbsrv is not 0."""
        return any(balancer.status(web.name) == "UP" for web in self.place.farms[farm])

    def server(self, balancer: Balancer, farm: str) -> Web | None:
        """A server that is UP here; one that is dead or answers 425 is retried on another."""
        up = [web for web in self.place.farms[farm] if balancer.status(web.name) == "UP"]
        fence = balancer.live.release[farm]
        for _ in range(RETRIES + 1):
            if not up:
                break
            web = up.pop(int(self.world.random.random() * len(up)))
            if web.alive and web.ready and web.release == fence:
                return web
        return None

    def cache(self, session: Session, farm: str) -> dict[int, int] | None:
        """The pool's member that holds the session, or None while it is out of reach."""
        members = self.place.farms[farm]
        member = members[session.number % len(members)]
        return member.cache if member.alive else None

    def answer(self, sent: Request) -> None:
        """The end of a request: written through, answered, judged."""
        session, web, balancer = sent.session, sent.web, sent.balancer
        cut = balancer.boots != sent.balancer_boots
        if not cut:
            balancer.counts[web.farm].in_flight -= 1
            balancer.flights[web.name] -= 1
        if not cut and sent.web_boots in web.ordered:
            if self.place.plan.policy.on_deadline == "force":
                self.cut += 1
                self._later(self._pause(), session)
                return None
            raise Broken(f"S2: {web.name} was rebooted under a request of {session.number}")
        if cut or not web.alive or web.boots != sent.web_boots:
            return self._excuse(session)  # a node died under the request
        if web.release != sent.release or not web.ready:
            if self.place.plan.policy.on_deadline == "force":
                self.cut += 1
                self._later(self._pause(), session)
                return None
            raise Broken(f"S2: {web.name} was switched under a request of session {session.number}")
        flaw = self.world.flaws.get(sent.release)
        failed = flaw is not None and self.world.random.random() < flaw.errors
        balancer.counts[web.farm].answered(failed, sent.seconds)
        balancer.served.setdefault(web.name, Count()).answered(failed, sent.seconds)
        if not failed:
            session = self._judged(sent)
        self._later(self._pause(), session)
        return None

    def _judged(self, sent: Request) -> Session:
        session, web, release = sent.session, sent.web, sent.release
        if session.seen and order_key(release) < order_key(session.seen):
            if not (self.world.judge.may_reset and sent.released):
                raise Broken(
                    f"S1: session {session.number} saw {session.seen} and is answered by "
                    f"{release} on {web.name}"
                )
            self.resets += 1  # the PHP guard discards it: a new id, nothing in it
            fresh = self._new(session)
            fresh.farm, fresh.generation = web.farm, sent.generation
            return fresh
        if sent.value != session.count:
            raise Broken(
                f"S3: session {session.number} was at {session.count} and reads {sent.value} in "
                f"{web.farm}"
            )
        cached = self.cache(session, web.farm)
        self.place.database[session.number] = sent.value + 1
        if cached is not None:
            cached[session.number] = sent.value + 1
        session.count, session.seen = sent.value + 1, release
        session.farm, session.generation = web.farm, sent.generation
        session.uncached = cached is None
        # this client has what it wanted, another comes
        last = self.world.random.random() < (BRIEF if session.brief else STAYS)
        return self._new(session) if last else session

    def _new(self, gone: Session) -> Session:
        self.born += 1
        return Session(self.born, gone.brief)

"""All farms: letters in, events out, each farm at its tick; clock, disk and keys are handed in."""

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from webfarm.errors import WebfarmError
from webfarm.rebalance import confirm, freezes, letters
from webfarm.rebalance.book import Book, Place
from webfarm.rebalance.farm import Change, FarmLoop
from webfarm.rebalance.intake import LOG_SECONDS, Intake
from webfarm.rebalance.letters import Post
from webfarm.rebalance.mailbox import Letter
from webfarm.rebalance.vector import TAG
from webfarm.rebalance.view import view
from webfarm.signed import Forged
from webfarm.topology import Topology

log = logging.getLogger(__name__)

Event = tuple[str, dict[str, Any]]
LOOK_SECONDS = 1.0
"""How often freezes and wishes are looked for, and balancers that are away are tried."""
REFUSED_SECONDS = 10.0
"""At most so often an event says what was refused."""
LATE_SECONDS = 0.5
"""A tick that comes later is counted as late."""
AGAIN_SECONDS = 4.0
"""At most so often a balancer's start makes its site's vectors be sent again."""

SILENT_SECONDS = 8.0
"""A balancer that owes an answer, and has given none for so long, may be away."""
MOST_SERVERS = 512
"""An event has the vectors of several farms up to so many servers, or of one farm."""


class Meter(Protocol):
    """Where numbers go; Salt's metrics, or nowhere."""

    def count(self, name: str, number: int, **labels: str) -> None:
        """Add to a counter."""

    def record(self, name: str, value: float) -> None:
        """Add to a histogram."""


class Nowhere:
    """A :class:`Meter` that forgets."""

    def count(self, name: str, number: int, **labels: str) -> None:
        """Do nothing."""

    def record(self, name: str, value: float) -> None:
        """Do nothing."""


class Controller:
    """The loops of all farms.

    keys
        The folder of the accepted minions' public keys.
    seal
        A vector's body to its envelope, signed by the master; raises :class:`WebfarmError`.
    now, tick_clock
        Seconds since 1970, and a clock that never jumps.
    """

    def __init__(
        self,
        topology: Topology,
        keys: Path,
        book: Book,
        seal: Callable[[Mapping[str, Any]], dict[str, str]],
        now: float,
        tick_clock: float,
        meter: Meter | None = None,
    ) -> None:
        self.keys, self.book, self.seal = keys, book, seal
        self.meter = meter or Nowhere()
        self.intake = Intake(keys)
        self.farms: dict[Place, FarmLoop] = {}
        self.due: dict[Place, float] = {}
        self.next_look = tick_clock
        self.started_again: dict[str, float] = {}
        self.heard: dict[str, float] = {}  # balancer: its last answer, or when it was first known
        self.counts: Counter[str] = Counter()
        self.said: dict[str, float] = {}
        self.told = now - REFUSED_SECONDS
        self.told_counts: Counter[str] = Counter()
        self.latest = 0.0  # how late a tick was, at worst
        self.plan(topology, now, tick_clock)
        self._resume(now)

    # -- the pillar ------------------------------------------------------------------------------

    def plan(self, topology: Topology, now: float, tick_clock: float) -> None:
        """Take up the pillar of now: farms come and go, the others keep what they know."""
        self.topology = topology
        places = [(s, f) for s, site in topology.sites.items() for f in site.farms]
        for place in [place for place in self.farms if place not in places]:
            del self.farms[place], self.due[place]
        for number, (site, farm) in enumerate(places):
            plan = topology.sites[site]
            if (site, farm) in self.farms:
                self.farms[site, farm].plan(plan)
                continue
            self.farms[site, farm] = FarmLoop(site, farm, plan)
            # farms take turns within a tick, so that their commands do not come all at once
            self.due[site, farm] = tick_clock + plan.weights.tick * number / len(places)
        self.home: dict[str, Place] = {
            server: (site, farm)
            for site, plan in topology.sites.items()
            for farm, one in plan.farms.items()
            for server in one.servers
        }
        self.site_of: dict[str, str] = {
            balancer: site for site, plan in topology.sites.items() for balancer in plan.balancers
        }
        self.heard = {balancer: self.heard.get(balancer, now) for balancer in self.site_of}
        self.intake.know(self.home)
        self.post = Post(frozenset(self.home), frozenset(self.site_of))
        self._with_book(now, lambda: self.book.prune(places))

    # -- letters ---------------------------------------------------------------------------------

    def hear(self, letter: Letter) -> list[Event]:
        """Take a letter; what cannot wait for the tick comes out."""
        now = letter.came
        try:
            if letter.payload is None and letter.sender != "?":
                raise Forged("size", f"{letter.size} bytes")
            data = letters.unpack(letter.payload) if letter.payload else {}
            if letter.tag.startswith("salt/beacon/"):
                return self._report(letter.tag.split("/")[2], data, now)
            if letter.tag.startswith("salt/job/"):
                return self._answer(letter.sender, data, now)
            return self._balancer_started(letter.sender, now)
        except Forged as refusal:
            self.intake.refuse(refusal.kind, letter.sender, str(refusal), now)
            return []

    def _report(self, minion: str, data: Mapping[str, Any], now: float) -> list[Event]:
        report = self.intake.take(minion, data, now)
        if report is None:
            return []
        loop = self.farms[self.home[minion]]
        try:
            changes = loop.hear(report, now)
        except Exception:
            self._mistake(loop, now)
            return []
        if not changes:
            return []
        self.counts["urgent"] += 1
        return self._out(loop, changes, now)

    def _answer(self, balancer: str, data: Mapping[str, Any], now: float) -> list[Event]:
        if data.get("fun") != confirm.FUNCTION:
            return []
        away = self._silent(balancer, now)
        for result in confirm.results(data.get("return")):
            site, farm, said = confirm.read(balancer, result, self.keys / balancer, now)
            if self.site_of.get(balancer) == site and (site, farm) in self.farms:
                self.farms[site, farm].answer(balancer, said, now)
                self.counts["answers"] += 1
                self.heard[balancer] = now
        if not away or self._silent(balancer, now):
            return []
        return self._tell(balancer, now, lambda loop: loop.back(balancer))

    def _balancer_started(self, balancer: str, now: float) -> list[Event]:
        if 0 <= now - self.started_again.get(balancer, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return []
        self.started_again[balancer] = now
        return self._tell(balancer, now, lambda loop: loop.vector is not None)

    def _tell(self, balancer: str, now: float, wanted: Callable[[FarmLoop], bool]) -> list[Event]:
        """The vectors of those farms of its site, at once."""
        return self._several([loop for loop in self._of(balancer) if wanted(loop)], [balancer], now)

    def _several(self, loops: Iterable[FarmLoop], to: list[str], now: float) -> list[Event]:
        """The vectors of several farms of a site."""
        parts = _parts(loops)
        return [e for part in parts for e in self._sent(part[0].site, part, tuple(to), now)]

    def _of(self, balancer: str) -> list[FarmLoop]:
        return [loop for loop in self.farms.values() if loop.site == self.site_of[balancer]]

    def _silent(self, balancer: str, now: float) -> bool:
        """Whether it may be away, and is not merely slow."""
        if 0 <= now - self.heard[balancer] < SILENT_SECONDS:
            return False
        return any(loop.owes(balancer, now, SILENT_SECONDS) for loop in self._of(balancer))

    # -- ticks -----------------------------------------------------------------------------------

    def turn(self, now: float, tick_clock: float) -> list[Event]:
        """Do what is due; the events to fire.

        now
            Seconds since 1970.
        tick_clock
            A clock that never jumps, for the ticks.
        """
        events: list[Event] = []
        looks = tick_clock >= self.next_look
        if looks:
            self.next_look = tick_clock + LOOK_SECONDS
            events += self._look(now)
        ticked: dict[Place, FarmLoop] = {}
        for place, loop in self.farms.items():
            due = self.due[place]
            if loop.sudden:
                due = self.due[place] = min(due, tick_clock + loop.early(now))
            if due > tick_clock:
                continue
            ticked[place] = loop
            late = tick_clock - due
            self.latest = max(self.latest, late)
            self.counts["late"] += late > LATE_SECONDS
            self.meter.record("webfarm.rebalance.late", late * 1000)
            # a tick that was missed is not made up for
            following = due + loop.law.tick
            self.due[place] = following if following > tick_clock else tick_clock + loop.law.tick
            events += self._tick(loop, now)
        if looks:
            events += self._try_those_away(now)
        if ticked:
            self._with_book(now, lambda: self.book.keep(self._kept(ticked, now), self._about(now)))
        return events + self._refusals(now)

    def wait(self, tick_clock: float) -> float:
        """Seconds until something is due."""
        return max(0.0, min([self.next_look, *self.due.values()]) - tick_clock)

    def _tick(self, loop: FarmLoop, now: float) -> list[Event]:
        self.counts["ticks"] += 1
        try:
            changes = loop.tick(now)
        except Exception:
            self._mistake(loop, now)
            changes = []
        return self._out(loop, changes, now) if changes else self._send(loop, now)

    def _send(self, loop: FarmLoop, now: float) -> list[Event]:
        """The vector to those that are to have it now."""
        to = loop.due(now)
        return self._sent(loop.path, [loop], to, now) if to else []

    def _try_those_away(self, now: float) -> list[Event]:
        """All that a balancer owes which has answered nothing for long: it may be back."""
        owed: dict[
            tuple[FarmLoop, ...], list[str]
        ] = {}  # those that owe the same are told together
        for balancer in self.site_of:
            if self._silent(balancer, now):
                loops = tuple(loop for loop in self._of(balancer) if loop.owes(balancer, now))
                owed.setdefault(loops, []).append(balancer)
        return [event for loops, to in owed.items() for event in self._several(loops, to, now)]

    def _out(self, loop: FarmLoop, changes: list[Change], now: float) -> list[Event]:
        """A new vector: kept in the history, sent, and said in words beside it."""
        self._with_book(now, lambda: self.book.record(loop.site, loop.name, now, changes))
        self.counts["decisions"] += 1
        self.meter.count("webfarm.rebalance.decisions", 1)
        return [
            *self._send(loop, now),
            (f"webfarm/rebalance/decided/{loop.path}", {"changes": changes}),
        ]

    def _sent(
        self, path: str, loops: list[FarmLoop], to: tuple[str, ...], now: float
    ) -> list[Event]:
        """The event that the reactor relays: envelopes, and unsigned the minions that get them."""
        vectors = [loop.send(to, now) for loop in loops]
        try:
            envelopes = [self.seal(vector.body(now)) for vector in vectors]
        except WebfarmError as error:
            self._complain("seal", f"no weights can be sent: {error}", now)
            return []
        self.counts["vectors"] += len(vectors)
        self.meter.count("webfarm.rebalance.vectors", len(vectors))
        return [(f"{TAG}/{path}", {"vectors": envelopes, "balancers": list(to)})]

    def _look(self, now: float) -> list[Event]:
        """Take up freezes and wishes."""
        held = self._with_book(now, lambda: self.book.freezes(now))
        if held is not None:
            for (site, farm), loop in self.farms.items():
                loop.frozen = freezes.frozen(held, site, farm, loop.base, now)
        events = []
        for place in dict.fromkeys(self._with_book(now, self.book.wishes) or []):
            wished = self.farms.get(place)
            if wished is not None and wished.vector is not None:
                events += self._sent(wished.path, [wished], wished.balancers, now)
        return events

    # -- what is said ----------------------------------------------------------------------------

    def _refusals(self, now: float) -> list[Event]:
        counted = self.intake.refused | {"accepted": self.intake.accepted}
        new = Counter(counted) - self.told_counts
        if not new or 0 <= now - self.told < REFUSED_SECONDS:
            return []
        self.told, self.told_counts = now, Counter(counted)
        for kind, number in new.items():
            self.meter.count("webfarm.rebalance.reports", number, result=kind)
        refused = {kind: number for kind, number in new.items() if kind != "accepted"}
        return [("webfarm/rebalance/refused", {"kinds": refused})] if refused else []

    def _kept(
        self, ticked: Mapping[Place, FarmLoop], now: float
    ) -> dict[Place, tuple[dict[str, Any], dict[str, Any]]]:
        return {place: (loop.memory(), view(loop, now)) for place, loop in ticked.items()}

    def _about(self, now: float) -> dict[str, Any]:
        return {
            "at": now,
            "pid": os.getpid(),
            "accepted": self.intake.accepted,
            "refused": dict(self.intake.refused),
            "counts": dict(self.counts),
            "late": self.latest,
            "order": self.intake.order(),
        }

    def _with_book(self, now: float, work: Callable[[], Any]) -> Any:
        """A disk that does not work is no reason to stop: the loop goes on without."""
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            self._complain("disk", f"{self.book.path} cannot be used: {error}; make room", now)
            return None

    def _complain(self, kind: str, text: str, now: float) -> None:
        self.counts[kind] += 1
        if abs(now - self.said.get(kind, -LOG_SECONDS)) >= LOG_SECONDS:
            self.said[kind] = now
            log.error("rebalance: %s", text)

    def _mistake(self, loop: FarmLoop, now: float) -> None:
        """A farm on which the law fails must not stop the others."""
        self.counts["mistakes"] += 1
        kind = f"law of {loop.site} {loop.name}"
        if abs(now - self.said.get(kind, -LOG_SECONDS)) >= LOG_SECONDS:
            self.said[kind] = now
            log.exception("rebalance: the %s fails; its weights stay as they are", kind)

    def _resume(self, now: float) -> None:
        about = self._with_book(now, self.book.engine) or {}
        self.intake.resume(about.get("order") or {})
        for place, memory in (self._with_book(now, self.book.memories) or {}).items():
            if place in self.farms:
                try:
                    self.farms[place].resume(memory)
                except WebfarmError as error:
                    log.error("rebalance: %s %s begins anew: %s", *place, error)


def _parts(loops: Iterable[FarmLoop]) -> list[list[FarmLoop]]:
    """Such that none has too much for an event, or for a balancer's answer."""
    parts: list[list[FarmLoop]] = []
    servers = MOST_SERVERS
    for loop in loops:
        servers += len(loop.base)
        if servers > MOST_SERVERS:
            parts.append([])
            servers = len(loop.base)
        parts[-1].append(loop)
    return parts

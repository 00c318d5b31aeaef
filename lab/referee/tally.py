"""Count what was answered: when, how fast, by whom, and who moved."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from typing import Any

from .answer import Answer
from .phases import Phases


class Spell:
    """The requests of one phase."""

    def __init__(self) -> None:
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.first = float("inf")
        self.last = 0.0
        self.quick = array("d")
        self.longest = 0.0

    def add(self, answer: Answer) -> None:
        """Count one; latency is of good answers to requests that did not ask to be slow."""
        self.requests += 1
        self.first = min(self.first, answer.sent)
        self.last = max(self.last, answer.answered)
        if answer.kind:
            self.failures[answer.kind] += 1
        elif not answer.slow:
            self.quick.append(answer.took)
        self.longest = max(self.longest, answer.took - answer.slow / 1000)

    def data(self) -> dict[str, Any]:
        """Plain values; ``longest_ms`` counts all, slow ones beyond the time they asked for."""
        took = sorted(self.quick)
        seconds = self.last - self.first if self.requests else 0.0
        return {
            "requests": self.requests,
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures.most_common()),
            "seconds": round(max(seconds, 0.0), 1),
            "rate": round(self.requests / seconds, 1) if seconds > 0 else 0.0,
            "p50_ms": _milliseconds(took, 0.50),
            "p99_ms": _milliseconds(took, 0.99),
            "max_ms": _milliseconds(took, 1.0),
            "longest_ms": round(1000 * self.longest, 1),
        }


class Tally:
    """The counts of a whole log, by phase, by server and by move."""

    def __init__(self, phases: Phases) -> None:
        self.phases = phases
        self.spells: dict[str, Spell] = {name: Spell() for name in phases.names()}
        self.methods: Counter[str] = Counter()
        self.slow = 0
        self.new_connections = 0
        self.served: Counter[tuple[str, str, str, str]] = Counter()
        self.sticky: Counter[tuple[str, str, str]] = Counter()
        self.farm_moves: Counter[tuple[str, str]] = Counter()
        self.site_moves: Counter[tuple[str, str]] = Counter()
        self._place: dict[str, tuple[str, str]] = {}

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.spells[self.phases.of(answer.sent, answer.answered)].add(answer)
        self.methods[answer.method] += 1
        self.slow += bool(answer.slow)
        self.new_connections += not answer.reused
        if answer.kind:
            return
        self.served[answer.site, answer.farm, answer.server, answer.release] += 1
        if answer.farmid.startswith(f"{answer.site}:{answer.farm}:"):
            self.sticky[answer.site, answer.farm, answer.server] += 1
        place = (answer.site, answer.farm)
        before = self._place.get(answer.client)
        self._place[answer.client] = place
        if before is not None and before != place:
            if before[0] != place[0]:
                self.site_moves[before[0], place[0]] += 1
            else:
                self.farm_moves["/".join(before), "/".join(place)] += 1

    @property
    def requests(self) -> int:
        """All that were sent and came to an end."""
        return sum(spell.requests for spell in self.spells.values())

    def farms(self) -> dict[str, Any]:
        """By ``site/farm``: requests by server and release, and how evenly the servers shared.

        ``evenness`` is the busiest server's requests against the mean, of all and of the sticky
        ones (those that came with this farm's cookie); 1 is even.
        """
        servers: dict[str, Counter[str]] = defaultdict(Counter)
        releases: dict[str, Counter[str]] = defaultdict(Counter)
        sticky: dict[str, Counter[str]] = defaultdict(Counter)
        for (site, farm, server, release), count in sorted(self.served.items()):
            servers[f"{site}/{farm}"][server] += count
            releases[f"{site}/{farm}"][release] += count
        for (site, farm, server), count in sorted(self.sticky.items()):
            sticky[f"{site}/{farm}"][server] += count
        return {
            farm: {
                "requests": by.total(),
                "servers": dict(by),
                "sticky": dict(sticky[farm]),
                "releases": dict(releases[farm]),
                "evenness": _evenness(by),
                "sticky_evenness": _evenness(sticky[farm]),
            }
            for farm, by in servers.items()
        }

    def data(self) -> dict[str, Any]:
        """All counts as plain values."""
        return {
            "requests": self.requests,
            "methods": dict(self.methods),
            "slow": self.slow,
            "new_connections": self.new_connections,
            "phases": {name: spell.data() for name, spell in self.spells.items()},
            "farms": self.farms(),
            "moves": {
                "farms": {f"{a} -> {b}": n for (a, b), n in sorted(self.farm_moves.items())},
                "sites": {f"{a} -> {b}": n for (a, b), n in sorted(self.site_moves.items())},
            },
        }


def _evenness(counts: Counter[str]) -> float:
    return round(max(counts.values()) * len(counts) / counts.total(), 3) if counts.total() else 0.0


def _milliseconds(took: list[float], quantile: float) -> float:
    """Nearest rank."""
    if not took:
        return 0.0
    rank = max(0, -int(-quantile * len(took) // 1) - 1)
    return round(1000 * took[rank], 1)

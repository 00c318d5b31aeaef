"""What happens to the servers in benchmarks/weights.py: pure, from a seed.

Servers are numbered from 0; times are seconds of the measured part of a run.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

AWAY_SECONDS = 5.0


@dataclass(frozen=True, order=True)
class Event:
    """At a time, one server changes.

    kind
        ``mood`` (its page is ``factor`` times slower, answers ``status``), ``off`` (its power
        fails) or ``on`` (it starts with cold caches).
    """

    at: float
    server: int
    kind: str = "mood"
    factor: float = 1.0
    status: int = 200


@dataclass(frozen=True)
class Scenario:
    """How heavy the traffic is, as a part of what the servers can do, and what happens."""

    load: float
    events: Callable[[int, float, random.Random], list[Event]]
    slow: Callable[[int], int] = lambda servers: 0
    """How many servers take twice as long all the time, and from the beginning."""

    def factors(self, servers: int) -> list[float]:
        slow = self.slow(servers)
        return [2.0] * slow + [1.0] * (servers - slow)

    def rate(self, servers: int, children: int, work_ms: float) -> float:
        """Requests per second."""
        able = sum(children / (factor * work_ms / 1000) for factor in self.factors(servers))
        return self.load * able


def _third(servers: int) -> int:
    return max(1, servers // 3)


def _nothing(servers: int, seconds: float, chance: random.Random) -> list[Event]:
    return []


def _antagonists(servers: int, seconds: float, chance: random.Random) -> list[Event]:
    """A third of the servers at most is 3 times slower, for 20 to 40 s each time, 10 to 30 s apart.

    Each antagonist goes from server to server; two are never on the same one.
    """
    events: list[Event] = []
    free_at = [0.0] * servers
    starts = [seconds * 0.05 + 15.0 * n for n in range(_third(servers))]
    while min(starts) < seconds:
        at = min(starts)
        server = chance.choice([n for n in range(servers) if free_at[n] <= at])
        end = at + chance.uniform(20, 40)
        events += [Event(at, server, factor=3.0), Event(end, server)]
        free_at[server] = end
        starts[starts.index(at)] = end + chance.uniform(10, 30)
    return events


def _failing(servers: int, seconds: float, chance: random.Random) -> list[Event]:
    """One server, which says that it is ready, answers 500 in 1 ms for half of the time."""
    return [Event(0.1 * seconds, 0, status=500), Event(0.6 * seconds, 0)]


def _restart(servers: int, seconds: float, chance: random.Random) -> list[Event]:
    """Each minute one server loses its power, and starts with cold caches."""
    at, events, server = 0.1 * seconds, list[Event](), 0
    while at + AWAY_SECONDS < seconds:
        events += [Event(at, server, "off"), Event(at + AWAY_SECONDS, server, "on")]
        at, server = at + 60, (server + 1) % servers
    return events


SCENARIOS = {
    "heterogeneous": Scenario(0.70, _nothing, _third),
    "antagonists": Scenario(0.62, _antagonists),
    "failing": Scenario(0.62, _failing),
    "restart": Scenario(0.62, _restart),
}


def traffic(
    rate: float, work_ms: float, seconds: float, chance: random.Random
) -> list[tuple[float, float]]:
    """``(offset, ms)`` of each request: Poisson arrivals, exponential times of at most 8 means."""
    requests: list[tuple[float, float]] = []
    at = chance.expovariate(rate)
    while at < seconds:
        requests.append((at, min(chance.expovariate(1 / work_ms), 8 * work_ms)))
        at += chance.expovariate(rate)
    return requests

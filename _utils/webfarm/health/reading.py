"""What a report says, and whether it is worth one now: pure, no clock, no I/O."""

import math
from dataclasses import dataclass
from typing import Any

from webfarm.health.period import Sums
from webfarm.weighing.estimate import slowed

VERSION = 1
LEAST_SECONDS = 0.5
CONTINUOUS_SECONDS = 2.0
SAMPLE = 10
ERROR_STEP = 0.1
TIME_RATIO = 1.5
LOAD_STEP = 0.2
QUEUE_STEP = 0.5
STALL_SECONDS = 1.0


@dataclass(frozen=True)
class Reading:
    """How the server is: the sums since the last report, and the state of now.

    children
        How many php-fpm children there may be, at least 1.
    queue
        Requests that wait for a child.
    psi
        ``{"cpu": 0..100, "memory": …, "io": …}`` over the period, None where it is unknown.
    disk
        The least free share of the disks, 0 to 1; None: unknown.
    memcached
        Whether this server's cache can be reached; None: unknown, or it has none.
    release
        What the server runs; None: unknown.
    critical
        Why it must get no requests: ``php-fpm``, ``nginx``, ``disk-full``, ``read-only``.
    """

    sums: Sums
    children: int
    queue: int
    psi: dict[str, float | None]
    disk: float | None
    memcached: bool | None
    release: str | None
    critical: frozenset[str]

    @property
    def load(self) -> float:
        """The larger of php-fpm's two utilisations: by the requests' times, by its active children.

        Little's law: requests of S seconds in all, in a period of T seconds, kept S/T children
        busy at the mean.
        """
        busy = self.sums.busy / self.sums.seconds / self.children
        return max(busy, (self.sums.active or 0.0) / self.children)

    @property
    def slowed(self) -> float:
        """How many times longer work takes by the greatest pressure p: 1 + p / 3(1 - p)."""
        most = max((share for share in self.psi.values() if share is not None), default=0.0)
        return slowed(most / 100, 1 / 3)


def why_now(last: Reading | None, now: Reading, heartbeat: float) -> str | None:
    """Why a report should be sent now; None: not yet.

    last
        What was reported last.

    A change of what is critical, of the release or of the cache is reported at once, that is, at
    the beacon's next second (the sensors have their own hysteresis). The other values change by
    themselves all the time: they must differ much from the last *reported* ones, over at least 2 s
    and 10 requests; errors that rise do not wait for the 2 s, since a server that fails fast
    attracts requests, nor does a pressure that rises, since it is not made of chances. Else there
    is the heartbeat.
    """
    if last is None:
        return "first"
    if now.sums.seconds < LEAST_SECONDS:
        return None
    for what in ("critical", "release", "memcached"):
        if getattr(last, what) != getattr(now, what):
            return what
    if now.sums.seconds >= heartbeat:
        return "heartbeat"
    if now.sums.requests >= SAMPLE and _error_rise(last, now) >= ERROR_STEP:
        return "errors"
    stalled = now.slowed / last.slowed
    if stalled >= TIME_RATIO and now.sums.seconds >= STALL_SECONDS:
        return "stall"
    if now.sums.seconds < CONTINUOUS_SECONDS:
        return None
    if now.sums.requests >= SAMPLE:
        if _error_rise(last, now) <= -ERROR_STEP:
            return "errors"
        if last.sums.requests >= SAMPLE and _far(_mean_time(last.sums), _mean_time(now.sums)):
            return "time"
    if abs(now.load - last.load) >= LOAD_STEP:
        return "load"
    if abs(now.queue - last.queue) / now.children >= QUEUE_STEP:
        return "queue"
    if stalled <= 1 / TIME_RATIO:
        return "stall"
    return None


def body(reading: Reading, minion: str, boot: str, at: float, up: float) -> dict[str, Any]:
    """The report, to be sealed: see "What a server reports" in docs/weights.md.

    at
        Seconds since 1970.
    up
        ``CLOCK_BOOTTIME``; with ``boot`` it gives the order of a server's reports.
    """
    sums = reading.sums
    return {
        "v": VERSION,
        "id": minion,
        "boot": boot,
        "at": round(at, 3),
        "up": round(up, 3),
        "seconds": round(sums.seconds, 3),
        "requests": sums.requests,
        "errors": sums.errors,
        "busy": round(sums.busy, 3),
        "squares": round(sums.squares, 6),
        "active": round(sums.active or 0.0, 3),
        "children": reading.children,
        "queue": reading.queue,
        "full": sums.full,
        "psi": dict(reading.psi),
        "disk": None if reading.disk is None else round(reading.disk, 4),
        "memcached": reading.memcached,
        "release": reading.release,
        "critical": sorted(reading.critical),
    }


def _error_rise(last: Reading, now: Reading) -> float:
    was, share = (
        one.sums.errors / one.sums.requests if one.sums.requests else 0.0 for one in (last, now)
    )
    return share - was


def _mean_time(sums: Sums) -> float:
    return max(sums.busy / sums.requests, 0.001)  # nginx counts in milliseconds


def _far(one: float, other: float) -> bool:
    return abs(math.log(one / other)) >= math.log(TIME_RATIO)

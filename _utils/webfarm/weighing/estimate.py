"""What the reports of a server say of its speed, its stalls and its errors."""

import math
from dataclasses import replace

from webfarm.weighing.law import Law
from webfarm.weighing.state import Load, Server, Sums

MICRO = 1_000_000
WORK_SECONDS = 30  # for so long a server that does little is asked for enough of it
MOST_STALLED = 0.95
SOONER = 3.0  # how many times sooner a stall is believed than what is made of chances
SUDDEN = 1.5  # a stall that makes work so many times slower than was known need not wait for a tick
SURPRISE = 8.0  # how many times slower than before a server is at most thought to be at once
DEEPEST = 64.0  # how many times slower than it is now a server was at most thought to be
SLOWEST = 1e-6  # requests/s
SIGMAS = 2.0  # how sure one must be of a share of errors: two standard errors


def add(law: Law, server: Server, load: Load, now: float) -> Server:
    """``server`` with one more report."""
    micros = max(1, round(load.seconds * MICRO))
    report = Sums(
        reports=1,
        micros=micros,
        requests=load.requests,
        errors=min(load.errors, load.requests),
        busy=round(load.busy * MICRO),
        squares=round(load.squares * MICRO),
        active=round(load.active * micros),
        children=max(1, load.children) * micros,
        queue=load.queue * micros,
        stall=round(odds(_stall(load)) * micros),
        worst=proven(load.errors, load.requests) if load.requests >= law.min_requests else 0.0,
        critical=load.critical,
    )
    at = now if server.at is None else max(server.at, now)
    return replace(server, at=at, fresh=server.fresh.plus(report))


def sudden(law: Law, server: Server, load: Load) -> bool:
    """Whether a report tells of a stall that slows the server far more than was known."""
    now, known = (slowed(stall, law.psi_weight) for stall in (_stall(load), server.stall))
    return now >= SUDDEN * known


def settle(law: Law, server: Server, now: float) -> Server:
    """``server`` at ``now``: its fresh reports in its estimates, what lies ahead counts as now."""
    server = replace(
        server,
        at=_past(server.at, now),
        heard=_past(server.heard, now),
        sped=_past(server.sped, now),
        since=_past(server.since, now),
    )
    fresh, at = server.fresh, server.at
    if not fresh.reports or at is None:
        return server
    keep = _keep(law.half_life_down, _between(server.heard, at))
    share = fresh.micros or 1
    server = replace(
        server,
        fresh=Sums(),
        heard=at,
        queue=_moved(law, server, server.queue, min(1.0, fresh.queue / (fresh.children or 1))),
        stall=_stalled(law, server, fresh.stall / share),
        requests=server.requests * keep + fresh.requests,
        errors=server.errors * keep + fresh.errors,
        critical=fresh.critical,
    )
    work = server.work.plus(fresh)
    speed, sure = measured(law, work)
    if speed is None:
        return replace(server, work=work if work.micros < WORK_SECONDS * MICRO else Sums())
    if server.speed is not None and server.sped is not None:
        half_life = law.half_life_down if speed < server.speed else law.half_life_up
        gain = sure * (1 - _keep(half_life, _between(server.sped, at)))
        speed = _between_speeds(server.speed, speed, gain)
    return replace(server, work=Sums(), speed=speed, sped=at)


def _between_speeds(old: float, new: float, gain: float) -> float:
    """Averages times, not speeds: a period without a slow page looks ten times as fast.

    Each is bounded by the other: a time without end, as of a hang, is not remembered for ever.
    """
    seen = max(new, old / SURPRISE, SLOWEST)
    old = max(old, new / DEEPEST, SLOWEST)
    return 1 / (1 / old + gain * (1 / seen - 1 / old))


def measured(law: Law, work: Sums) -> tuple[float | None, float]:
    """The speed that ``work`` shows, in requests/s, and how sure that is (0 to 1).

    A server whose processes are busy for a share u while it answers r requests/s could answer r/u,
    which is processes / mean time of a request (Little's law): it does not change with the load as
    long as that time does not. u is the greater of two: the time that finished requests took, which
    is exact, and the processes seen at work, which also shows what never finishes, and of which one
    standard deviation is taken off as chance. With little load u says nothing, but with enough
    requests their mean time still does; where there is neither, the speed is unknown (None).

    A mean of times that differ much (most pages take 5 ms, some 2 s) needs more of them: the
    square of its standard error is (standard deviation / mean)² / requests. Times of an exponential
    distribution, for which that is 1 / requests, are the least that is assumed.
    """
    if not work.micros:
        return None, 0.0
    seen = work.active / work.micros
    if work.busy or not work.requests:
        seen = max(0.0, seen - math.sqrt(seen))
    used = max(work.busy / work.micros, seen) / (work.children / work.micros)
    if used < law.min_load and (used <= 0 or work.requests < law.min_requests):
        return None, 0.0
    speed = work.requests / (work.micros / MICRO) / used
    needed = law.min_requests * _spread(work)
    sure = max(work.requests / (work.requests + needed), min(1.0, used))
    return speed, sure


def _spread(work: Sums) -> float:
    """(standard deviation / mean)² of the requests' times, at least 1."""
    if not work.busy:
        return 1.0
    mean_square = (work.busy / MICRO) ** 2 / work.requests if work.requests else 0.0
    return max(1.0, work.squares / MICRO / mean_square - 1) if mean_square else 1.0


def penalty(law: Law, server: Server) -> float:
    """The part of its speed that is left when errors, queue and stalls are taken off, 0 to 1."""
    e = errors(law, server)
    return (1 - e) / ((1 + e + server.queue) * slowed(server.stall, law.psi_weight))


def errors(law: Law, server: Server) -> float:
    """Its share of 5xx lately; few requests do not make a large share."""
    requests = server.requests + server.fresh.requests
    return min(1.0, (server.errors + server.fresh.errors) / max(requests, law.min_requests))


def surely_failing(law: Law, server: Server) -> float:
    """The share of 5xx that its requests prove: those of lately, or those of one fresh report."""
    requests = server.requests + server.fresh.requests
    lately = 0.0
    if requests >= law.min_requests:
        lately = proven(server.errors + server.fresh.errors, requests)
    return max(lately, server.fresh.worst)


def proven(errors: float, requests: float) -> float:
    """Lower end of Wilson's interval of the share ``errors / requests``, at two standard errors.

    Five errors in ten requests prove 0.24, and 100 in 400 prove 0.21.
    """
    if requests <= 0:
        return 0.0
    share = min(1.0, errors / requests)
    square = SIGMAS * SIGMAS / requests
    spread = SIGMAS * math.sqrt((share * (1 - share) + square / 4) / requests)
    return max(0.0, (share + square / 2 - spread) / (1 + square))


def odds(stall: float) -> float:
    """By how much work takes longer: where the time is p part waiting, p / (1 - p) times."""
    stall = min(stall, MOST_STALLED)
    return stall / (1 - stall)


def slowed(stall: float, weight: float) -> float:
    """How many times longer work takes by a stall, when ``weight`` of its odds counts."""
    return 1 + weight * odds(stall)


def _stall(load: Load) -> float:
    """The greatest pressure, as a part of the time."""
    pressure = (load.psi_cpu, load.psi_memory, load.psi_io)
    return min(1.0, max((value for value in pressure if value is not None), default=0.0) / 100)


def _stalled(law: Law, server: Server, new: float) -> float:
    """Its stall, averaged as times are; ``new``: the odds of the latest, averaged.

    It is measured over all of a report's time and not by some requests, so it is believed sooner.
    """
    longer = _moved(law, server, odds(server.stall), new, SOONER)
    return longer / (1 + longer)


def _moved(law: Law, server: Server, old: float, new: float, sooner: float = 1.0) -> float:
    """An estimate of something bad, moved towards what was seen, so many times sooner."""
    if server.heard is None or server.at is None:
        return new
    half_life = law.half_life_down if new > old else law.half_life_up
    return new + _keep(half_life / sooner, _between(server.heard, server.at)) * (old - new)


def _keep(half_life: float, seconds: float) -> float:
    return float(2 ** (-seconds / half_life))


def _between(then: float | None, now: float) -> float:
    return math.inf if then is None else max(0.0, now - then)


def _past(then: float | None, now: float) -> float | None:
    return None if then is None else min(then, now)

"""Judge an opened farm by what the balancers counted, beside the farms that were open all along.

HAProxy shows no sum of response times, only a moving average; :func:`_answered_in` inverts it, so
that a release that is slow is seen after tens of requests and not after hundreds.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from webfarm.policy import Gates
from webfarm.rollout.model import BalancerView, Counters, FarmAtBalancer, Seen
from webfarm.topology import Site

# HAProxy's TIME_STATS_SAMPLES: the plain mean of so many requests, from then on a moving average
SAMPLES = 512
MIN_TO_FAIL = 30
MIN_ERRORS = 3


@dataclass(frozen=True)
class Sample:
    """What farms answered in a window of time.

    errors
        Answers of 5xx, HAProxy's own included.
    response_ms, rounding_ms
        Mean time to the answer's head, and how far the truth may lie from it, because HAProxy shows
        whole milliseconds; None when nothing was answered.
    """

    requests: int
    errors: int
    response_ms: float | None = None
    rounding_ms: float = 0.0

    @property
    def error_share(self) -> float:
        """Share of the requests that were answered with 5xx."""
        return self.errors / self.requests if self.requests else 0.0

    def __str__(self) -> str:
        speed = "" if self.response_ms is None else f", {self.response_ms:.0f} ms"
        near = f" ±{self.rounding_ms:.0f}" if self.response_ms and self.rounding_ms >= 1 else ""
        return f"{self.errors} of {self.requests} answers 5xx{speed}{near}"


@dataclass(frozen=True)
class Verdict:
    """``state`` is ``pass``, ``fail`` or ``inconclusive``; ``evidence`` has the numbers."""

    state: str
    why: str
    evidence: dict[str, Any] = field(default_factory=dict)


def sample(before: Seen, after: Seen, farms: Iterable[str]) -> Sample:
    """What ``farms`` together answered between two observations, over all balancers.

    Counters that fell are those of a new HAProxy process: it counts from zero. A balancer that did
    not answer, or did not count, adds nothing.
    """
    requests = errors = 0
    low = high = 0.0
    for farm in farms:
        for name, view in after.balancers.items():
            old = before.balancers.get(name)
            then = _counters(old.farms.get(farm)) if old else None
            now = _counters(view.farms.get(farm))
            if then is None or now is None:
                continue
            if now.requests < then.requests or now.errors < then.errors:
                then = Counters(0, 0, 0)
            count = now.requests - then.requests
            shortest, longest = _answered_in(then, now)
            requests += count
            errors += now.errors - then.errors
            low += count * shortest
            high += count * longest
    if not requests:
        return Sample(requests, errors)
    return Sample(requests, errors, (high + low) / 2 / requests, (high - low) / 2 / requests)


def _counters(farm: FarmAtBalancer | None) -> Counters | None:
    return farm.counters if farm else None


def _answered_in(then: Counters, now: Counters) -> tuple[float, float]:
    """The shortest and longest mean time to answer that explains two moving averages, in ms.

    HAProxy 2.6 keeps ``sum += v`` for SAMPLES requests, then ``sum += v - ceil(sum / SAMPLES)``
    (``swrate_add_dynamic`` in include/haproxy/freq_ctr.h, ``stream_update_time_stats`` in
    src/stream.c) and shows ``ceil(sum / min(requests, SAMPLES))``. So every request of the window
    took v on average when

        sum_now = kept * sum_then + weight * v - drift

    where each ceil may have taken up to 1 too much. Later requests weigh a little more.
    """
    count = now.requests - then.requests
    if count <= 0:
        return 0.0, 0.0
    plain = min(max(0, SAMPLES - then.requests), count)
    kept = (1 - 1 / SAMPLES) ** (count - plain)
    weight = kept * plain + SAMPLES * (1 - kept)
    drift = SAMPLES * (1 - kept)
    least_then, most_then = _sums(then)
    least_now, most_now = _sums(now)
    shortest = (least_now - kept * most_then) / weight
    longest = (most_now - kept * least_then + drift) / weight
    return max(0.0, shortest), max(0.0, longest)


def _sums(counters: Counters) -> tuple[int, int]:
    """The smallest and the greatest sum that HAProxy shows as this average."""
    samples = max(1, min(counters.requests, SAMPLES))
    most = counters.response_ms * samples
    return max(0, most - samples + 1), most


def judge(gates: Gates, farm: Sample, baseline: Sample | None) -> Verdict:
    """Whether the farm may stay as it is.

    baseline
        What the other open farms answered in the same window; None when there is no other.

    A ``fail`` has at least MIN_TO_FAIL requests behind it; what is over a limit with fewer, or with
    less than MIN_ERRORS errors, is ``inconclusive`` and may become something else with more.
    """
    limit = (baseline.error_share if baseline else 0.0) + gates.error_excess
    evidence = {
        "farm": asdict(farm),
        "baseline": asdict(baseline) if baseline else None,
        "error_share": round(farm.error_share, 4),
        "error_limit": round(limit, 4),
    }
    faults: list[str] = []
    doubts = _too_few(gates, farm, baseline)
    if farm.error_share > limit:
        shown = (
            f"{farm.error_share:.1%} of its answers are 5xx ({farm.errors} of {farm.requests}), "
            f"{limit:.1%} are allowed"
        )
        certain = farm.requests >= MIN_TO_FAIL and farm.errors >= MIN_ERRORS
        (faults if certain else doubts).append(shown)
    limits = _latency_limits(gates, baseline)
    if limits and farm.response_ms is not None:
        least, most = limits
        evidence["response_limit_ms"] = round(most, 1)
        shown = f"it answers in {farm.response_ms:.0f} ms (±{math.ceil(farm.rounding_ms)})"
        if farm.requests >= MIN_TO_FAIL and farm.response_ms - farm.rounding_ms > most:
            faults.append(f"{shown}, {most:.0f} ms are allowed")
        elif farm.response_ms + farm.rounding_ms > least and gates.min_requests:
            doubts.append(f"{shown}, too near to the {least:.0f} ms that are allowed to be sure")
    beside = f"; the other open farms: {baseline}" if baseline else "; there is no other open farm"
    if faults:
        return Verdict("fail", " and ".join(faults) + beside, evidence)
    if doubts:
        return Verdict("inconclusive", " and ".join(doubts) + beside, evidence)
    return Verdict("pass", f"{farm}{beside}", evidence)


def _latency_limits(gates: Gates, baseline: Sample | None) -> tuple[float, float] | None:
    """The mean time that is allowed, at least and at most; None without anything to compare."""
    if baseline is None or baseline.response_ms is None:
        return None
    least, most = (
        max(gates.latency_factor * mean, mean + gates.latency_margin_ms)
        for mean in (
            max(0.0, baseline.response_ms - baseline.rounding_ms),
            baseline.response_ms + baseline.rounding_ms,
        )
    )
    return least, most


def _too_few(gates: Gates, farm: Sample, baseline: Sample | None) -> list[str]:
    seen = {"it": farm, "the other open farms": baseline}
    return [
        f"{who} answered {it.requests} requests, {gates.min_requests} are needed"
        for who, it in seen.items()
        if it is not None and it.requests < gates.min_requests
    ]


def utilisation(site: Site, seen: Seen, without: str) -> float:
    """How busy the site's other farms would be if they had all its requests.

    In flight and queued requests of the whole site, over the php-fpm processes of the servers that
    are UP on every balancer, in farms other than ``without`` that are open on every balancer;
    infinite when there is none.
    """
    views = [seen.balancers[name] for name in site.balancers if name in seen.balancers]
    busy = sum(at.in_flight + at.queued for view in views for at in view.farms.values())
    children = sum(
        server.max_children
        for name, farm in site.farms.items()
        if name != without and _open(name, views)
        for member, server in farm.servers.items()
        if all(_up(view.farms[name], member) for view in views)
    )
    return busy / children if children else math.inf


def _open(farm: str, views: list[BalancerView]) -> bool:
    return all(farm in view.farms and view.farms[farm].state == "open" for view in views)


def _up(farm: FarmAtBalancer, server: str) -> bool:
    return server in farm.servers and farm.servers[server].up

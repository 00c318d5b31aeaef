"""The gates: what a window answered is computed from counters, and judged by its numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webfarm.policy import Gates
from webfarm.rollout.gates import SAMPLES, Sample, judge, sample, utilisation
from webfarm.rollout.model import (
    BalancerView,
    Counters,
    FarmAtBalancer,
    Goal,
    Memory,
    Seen,
    ServerAtBalancer,
)
from webfarm.rollout.preflight import load_without, too_busy
from webfarm.rollout.situation import Situation
from webfarm.topology import Site, parse

# -- what happened in a window ---------------------------------------------------------------------


@dataclass
class Haproxy:
    """Keeps a response time as HAProxy 2.6 does: swrate_add_dynamic, swrate_avg."""

    requests: int = 0
    sum: int = 0

    def answer(self, milliseconds: Iterable[int]) -> Counters:
        for value in milliseconds:
            self.requests += 1
            if self.requests > SAMPLES:
                self.sum -= (self.sum + SAMPLES - 1) // SAMPLES
            self.sum += value
        window = max(1, min(self.requests, SAMPLES))
        return Counters(self.requests, 0, (self.sum + window - 1) // window)


def seen(**balancers: Counters | None) -> Seen:
    """One farm as each balancer has counted it."""
    return Seen(
        {
            name: BalancerView(
                name, True, farms={"farm1": FarmAtBalancer("open", 1, "1", counters=c)}
            )
            for name, c in balancers.items()
        },
        {},
    )


def window(then: Counters, now: Counters) -> Sample:
    return sample(seen(lb1=then), seen(lb1=now), ["farm1"])


@settings(deadline=None)
@given(st.integers(0, 1500), st.integers(0, 5000), st.integers(1, 1500), st.integers(0, 5000))
def test_a_windows_response_time_is_within_the_rounding_that_is_admitted(
    earlier: int, usual: int, count: int, value: int
) -> None:
    haproxy = Haproxy()
    found = window(haproxy.answer([usual] * earlier), haproxy.answer([value] * count))
    assert found.requests == count
    assert found.response_ms is not None
    assert abs(found.response_ms - value) <= found.rounding_ms + 1e-6
    if found.requests >= 30:
        assert found.rounding_ms < 25


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2000), max_size=900),
    st.lists(st.integers(0, 2000), min_size=1, max_size=900),
)
def test_times_that_vary_give_a_mean_between_them(earlier: list[int], times: list[int]) -> None:
    haproxy = Haproxy()
    found = window(haproxy.answer(earlier), haproxy.answer(times))
    assert found.response_ms is not None
    assert min(times) <= found.response_ms + found.rounding_ms + 1e-6
    assert max(times) >= found.response_ms - found.rounding_ms - 1e-6


@pytest.mark.parametrize("earlier", [0, 100, 500, 512, 10_000])
def test_sixty_slow_requests_show_however_many_fast_ones_came_before(earlier: int) -> None:
    haproxy = Haproxy()
    then = haproxy.answer([5, 7] * (earlier // 2))
    found = window(then, haproxy.answer([1900, 2100] * 30))
    assert found.response_ms is not None
    assert abs(found.response_ms - 2000) <= found.rounding_ms + 2
    assert found.rounding_ms < 20


def test_a_window_without_requests_has_no_response_time() -> None:
    counters = Haproxy().answer([5] * 100)
    assert window(counters, counters) == Sample(0, 0)


def test_balancers_are_added_up_each_with_its_own_average() -> None:
    one, two = Haproxy(), Haproxy()
    before = seen(lb1=one.answer([10] * 600), lb2=two.answer([10] * 20))
    after = seen(lb1=one.answer([100] * 300), lb2=two.answer([400] * 100))
    found = sample(before, after, ["farm1"])
    assert found.requests == 400
    assert found.response_ms is not None
    assert abs(found.response_ms - 175) <= found.rounding_ms < 5


def test_counters_that_fell_are_those_of_a_new_process() -> None:
    then, now = Counters(9000, 40, 3), replace(Haproxy().answer([50] * 80), errors=2)
    found = window(then, now)
    assert (found.requests, found.errors) == (80, 2)
    assert found.response_ms is not None and abs(found.response_ms - 50) <= 1


def test_a_balancer_that_did_not_answer_or_count_adds_nothing() -> None:
    then, now = Counters(10, 0, 1), Counters(20, 5, 1)
    assert sample(seen(lb1=then), seen(lb1=now, lb2=now), ["farm1"]).requests == 10
    assert sample(seen(lb1=then, lb2=then), seen(lb1=now), ["farm1"]).requests == 10
    assert sample(seen(lb1=then, lb2=None), seen(lb1=now, lb2=now), ["farm1"]).errors == 5
    assert sample(seen(lb1=then), seen(lb1=now), ["farm1", "farm9"]).requests == 10
    assert sample(seen(), seen(lb1=now), ["farm1"]) == Sample(0, 0)


@settings(deadline=None)
@given(
    st.builds(Counters, st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 2**32)),
    st.builds(Counters, st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 2**32)),
)
def test_no_counters_are_too_strange(then: Counters, now: Counters) -> None:
    found = window(then, now)
    assert found.requests >= 0 and found.errors >= 0 and found.rounding_ms >= 0
    judge(Gates(), found, found)


# -- the verdict -----------------------------------------------------------------------------------

GATES = Gates()
GOOD = Sample(1000, 2, 20.0, 1.0)


def test_a_farm_like_the_others_passes_with_its_numbers() -> None:
    verdict = judge(GATES, Sample(50, 0, 25.0, 10.0), GOOD)
    assert verdict.state == "pass"
    assert verdict.why == (
        "0 of 50 answers 5xx, 25 ms ±10; the other open farms: 2 of 1000 answers 5xx, 20 ms ±1"
    )
    assert verdict.evidence["farm"]["requests"] == 50


def test_more_errors_than_the_others_fail() -> None:
    verdict = judge(GATES, Sample(40, 3, 20.0), GOOD)
    assert verdict.state == "fail"
    assert "7.5% of its answers are 5xx (3 of 40), 2.2% are allowed" in verdict.why


@pytest.mark.parametrize(
    "farm",
    [
        pytest.param(Sample(29, 29, 20.0), id="few requests"),
        pytest.param(Sample(49, 2, 20.0), id="few errors"),
        pytest.param(Sample(49, 0, 9000.0, 9000.0), id="rounded"),
        pytest.param(Sample(0, 0), id="nothing"),
    ],
)
def test_too_little_to_say_is_neither_passed_nor_failed(farm: Sample) -> None:
    verdict = judge(GATES, farm, GOOD)
    assert verdict.state == "inconclusive"
    assert f"it answered {farm.requests} requests, 50 are needed" in verdict.why


@pytest.mark.parametrize("min_requests", [0, 5, 50])
@pytest.mark.parametrize("farm", [Sample(5, 5, 20.0), Sample(29, 3, 20.0), Sample(60, 2, 20.0)])
def test_errors_over_the_limit_never_pass_however_few(farm: Sample, min_requests: int) -> None:
    verdict = judge(Gates(min_requests=min_requests), farm, GOOD)
    assert verdict.state == "inconclusive"
    assert f"of its answers are 5xx ({farm.errors} of {farm.requests})" in verdict.why


def test_errors_that_the_other_farms_have_too_are_not_the_releases() -> None:
    assert judge(GATES, Sample(100, 30, 20.0), Sample(100, 29, 20.0)).state == "pass"


def test_a_slow_farm_fails_beyond_factor_and_margin_both() -> None:
    assert judge(GATES, Sample(60, 0, 500.0, 10.0), GOOD).state == "fail"
    assert judge(GATES, Sample(60, 0, 180.0, 10.0), GOOD).state == "pass"
    slow_anyway = Sample(1000, 0, 600.0, 1.0)
    assert judge(GATES, Sample(60, 0, 900.0, 10.0), slow_anyway).state == "pass"
    assert judge(GATES, Sample(60, 0, 1300.0, 10.0), slow_anyway).state == "fail"


def test_a_response_time_too_near_to_its_limit_is_inconclusive() -> None:
    verdict = judge(GATES, Sample(60, 0, 215.0, 20.0), GOOD)
    assert verdict.state == "inconclusive"
    assert "215 ms (±20), too near to the 219 ms" in verdict.why


def test_a_baseline_with_too_few_requests_is_inconclusive() -> None:
    verdict = judge(GATES, Sample(60, 0, 20.0), Sample(10, 0, 20.0))
    assert verdict.state == "inconclusive"
    assert "the other open farms answered 10 requests, 50 are needed" in verdict.why


def test_without_another_open_farm_only_errors_are_judged() -> None:
    assert judge(GATES, Sample(60, 0, 9000.0), None).state == "pass"
    assert judge(GATES, Sample(60, 3, 20.0), None).state == "fail"
    assert judge(GATES, Sample(10, 0, 20.0), None).state == "inconclusive"


def test_a_site_that_asks_for_no_requests_passes_without_traffic() -> None:
    easy = Gates(min_requests=0)
    assert judge(easy, Sample(0, 0), Sample(0, 0)).state == "pass"
    assert judge(easy, Sample(3, 0, 400.0, 400.0), Sample(3, 0, 9.0, 400.0)).state == "pass"
    assert judge(easy, Sample(30, 30, 9.0), Sample(0, 0)).state == "fail"


def test_a_slow_release_is_found_from_the_counters_alone() -> None:
    farm, others = Haproxy(), Haproxy()
    before = farm.answer([30] * 5000), others.answer([30] * 5000)
    farms = [
        window(then, proxy.answer([ms] * 50))
        for then, proxy, ms in zip(before, (farm, others), (1500, 30), strict=True)
    ]
    assert judge(GATES, *farms).state == "fail"
    assert judge(GATES, farms[1], farms[1]).state == "pass"


# -- how busy the other farms would be -------------------------------------------------------------


@pytest.fixture
def site(pillar: dict[str, Any]) -> Site:
    return parse(pillar).sites["site1"]


def busy(site: Site, in_flight: int, queued: int = 0, down: Iterable[str] = ()) -> Seen:
    """Both farms open on both balancers, each with so many requests at each of them."""
    farms = {
        name: FarmAtBalancer(
            "open",
            1,
            "2026.11.1",
            in_flight,
            queued,
            {s: ServerAtBalancer("DOWN" if s in down else "UP") for s in farm.servers},
        )
        for name, farm in site.farms.items()
    }
    return Seen({name: BalancerView(name, True, farms=dict(farms)) for name in site.balancers}, {})


def test_utilisation_is_the_sites_requests_over_what_remains(site: Site) -> None:
    assert utilisation(site, busy(site, 0), "farm1") == 0
    # 2 farms at 2 balancers with 4 + 1 each, over farm2's 2 servers of 20 processes
    assert utilisation(site, busy(site, 4, 1), "farm1") == 20 / 40
    assert utilisation(site, busy(site, 4, 1, ["site1-farm2-ws1"]), "farm1") == 20 / 20
    assert utilisation(site, busy(site, 4, 1, ["site1-farm1-ws1"]), "farm1") == 20 / 40
    assert utilisation(site, busy(site, 0, 0, site.farms["farm2"].servers), "farm1") == math.inf


def test_a_farm_is_not_counted_on_where_one_balancer_does_not_use_it(site: Site) -> None:
    seen = busy(site, 4)
    view = seen.balancers["site1-lb2"]
    drained = {**view.farms, "farm2": replace(view.farms["farm2"], state="drain")}
    balancers = {**seen.balancers, "site1-lb2": replace(view, farms=drained)}
    assert utilisation(site, replace(seen, balancers=balancers), "farm1") == math.inf


def busy_without(goal: Goal, site: Site, seen: Seen) -> str:
    now = Situation(goal, site, seen, Memory())
    return too_busy(now, load_without(now))


def test_a_farm_does_not_leave_when_the_others_cannot_carry_its_load(site: Site) -> None:
    goal = Goal("site1", "farm1", "2026.11.2", "8.2.36", "2")
    assert busy_without(goal, site, busy(site, 8)) == ""
    assert busy_without(goal, site, busy(site, 9)) == (
        "without farm1 the requests now in flight and queued would take 90 % of the other farms' "
        "php-fpm processes, gates.max_utilisation is 80 %"
    )
    down = busy(site, 0, 0, site.farms["farm2"].servers)
    assert "no php-fpm process" in busy_without(goal, site, down)

"""In the benchmark's simulated farm the loop is worth what it is there for."""

import random

from benchmarks.weights_sim import POLICIES, SCENARIOS, Outcome, Run


def outcome(policy: str, scenario: str, seconds: float) -> Outcome:
    trouble = SCENARIOS[scenario](16, random.Random(0), seconds)
    return Run(POLICIES[policy], trouble, 16, 0, 0.2).run(seconds)


def test_a_fast_failing_server_costs_at_least_ten_times_fewer_errors() -> None:
    none = outcome("leastconn+maxconn", "fastfail", 100)
    loop = outcome("leastconn+maxconn + loop", "fastfail", 100)
    assert none.errors > 10 * loop.errors > 0


def test_servers_that_are_alike_hardly_move() -> None:
    loop = outcome("leastconn+maxconn + loop", "even", 60)
    assert loop.reversals < 0.5, "a server and minute: chance, at some 100 requests a report"
    assert loop.errors == 0

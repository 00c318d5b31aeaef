"""The promises S1 to S8, over seeds: the real engine on a simulated site with faults and crashes.

``WEBFARM_SEEDS=FIRST-LAST`` runs other seeds; a failure prints its seed and the end of its trace.
"""

import os
from typing import Any

import pytest

from tests.conftest import EXAMPLE

from .drive import Crash, Drive, pillar_of, run, weakened
from .world import World

FIRST, LAST = (int(n) for n in os.environ.get("WEBFARM_SEEDS", "0-29").split("-"))


@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_promises_hold_under_faults_and_crashes(seed: int) -> None:
    world = run(seed, EXAMPLE)
    assert world.requests > 1000


@pytest.mark.parametrize("seed", range(4))
def test_without_faults_no_request_is_lost(seed: int) -> None:
    world = run(seed, EXAMPLE, with_faults=False)
    assert world.excused == 0


def test_same_seed_same_run() -> None:
    assert run(5, EXAMPLE).trace == run(5, EXAMPLE).trace


def test_s4_too_little_capacity_is_refused_with_numbers_before_anything_changes() -> None:
    world = weakened(1, EXAMPLE)
    assert not any("set_farms" in line or "stage" in line for line in world.trace)
    assert "keeps 25 % of its weight, min_capacity is 50 %" in world.trace[-1]
    assert "farm1/site1-farm1-ws1" in world.trace[-1]


def upgraded(seed: int, crash: int, after: bool) -> bool:
    """One farm, killed at one write of the journal and started again; whether it was killed."""
    world = World(seed, pillar_of(EXAMPLE, 2))
    drive = Drive(world)
    world.sleep(3)
    try:
        drive.upgrade("farm2", "2026.11.2", crash, after)
        return False
    except Crash:
        world.sleep(7)
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.ok, outcome
    drive.never_orphaned("farm2", outcome)
    world.sleep(10)
    assert world.excused == 0
    return True


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_s6_killed_at_any_write_of_the_journal_it_finishes(after: bool) -> None:
    crash = 1
    while upgraded(crash, crash, after):
        crash += 1
    assert crash > 20  # every step has two writes


def test_s8_a_server_that_slept_is_brought_back_by_the_same_command() -> None:
    world = World(1, pillar_of(EXAMPLE, 2))
    drive = Drive(world)
    world.kill("site1-farm2-ws2")
    world.sleep(5)
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.ok
    assert "does not answer" in outcome.left_out["site1-farm2-ws2"]
    world.revive("site1-farm2-ws2")
    world.sleep(30)
    assert not any(b.up["site1-farm2-ws2"] for b in world.balancers.values())  # S7
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.state == "done"
    assert [done.step for done in outcome.steps] == ["stage", "rejoin"]
    world.sleep(3)
    assert all(b.up["site1-farm2-ws2"] for b in world.balancers.values())


def broken_release(bad: list[str], **policy: Any) -> tuple[World, Any]:
    world = World(2, pillar_of(EXAMPLE, 2, **policy))
    for name in bad:
        world.web[name].bad.add("2026.11.2")
    drive = Drive(world)
    world.sleep(3)
    outcome = drive.upgrade("farm2", "2026.11.2")
    world.sleep(20)
    return world, outcome


def test_a_release_that_does_not_start_leaves_the_farm_in_service_on_the_old_one() -> None:
    world, outcome = broken_release(["site1-farm2-ws1", "site1-farm2-ws2"])
    assert outcome.state == "failed"
    assert "site1-farm2-ws1" in outcome.message
    assert "put back in service on 2026.11.1" in outcome.message
    for balancer in world.balancers.values():
        assert balancer.state["farm2"] == "open"
        assert balancer.release["farm2"] == "2026.11.1"
        assert balancer.newest == 1
        assert balancer.pick["farm2"]
    assert world.excused == 0


def test_one_failing_server_is_quarantined_and_named() -> None:
    world, outcome = broken_release(["site1-farm2-ws1"])
    assert outcome.state == "done"
    assert "php-fpm does not start" in outcome.left_out["site1-farm2-ws1"]
    assert all(b.release["farm2"] == "2026.11.2" for b in world.balancers.values())
    assert world.excused == 0


def test_requests_that_do_not_end_put_the_farm_back() -> None:
    world = World(3, pillar_of(EXAMPLE, 2, quiesce_seconds=5))
    world.blink = 0
    drive = Drive(world)
    world.sleep(3)
    for balancer in world.balancers.values():
        balancer.in_flight["farm2"] += 1  # a client that never stops reading
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.state == "failed"
    assert "2 requests still in flight after" in outcome.message
    assert {b.state["farm2"] for b in world.balancers.values()} == {"open"}
    assert {web.release for web in world.members("farm2")} == {"2026.11.1"}


def test_at_the_deadline_force_goes_on_and_says_what_it_cut() -> None:
    world = World(3, pillar_of(EXAMPLE, 2, quiesce_seconds=20, on_deadline="force"))
    drive = Drive(world)
    world.sleep(3)
    for balancer in world.balancers.values():
        balancer.in_flight["farm2"] += 1
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.ok
    quiesce = next(done for done in outcome.steps if done.step == "quiesce")
    assert quiesce.evidence["cut"] == 2


def test_a_silent_balancer_stops_the_opening_and_the_same_command_finishes_it() -> None:
    world = World(4, pillar_of(EXAMPLE, 2))
    drive = Drive(world)
    world.sleep(3)
    silenced = world.balancers["site1-lb2"]

    set_farms = world.set_farms

    def then_silent(balancer: Any, wanted: Any) -> Any:
        result = set_farms(balancer, wanted)
        if wanted.get("state") == {"farm2": "ready"}:
            silenced.minion = False
        return result

    world.set_farms = then_silent  # type: ignore[method-assign]
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.state == "failed"
    assert "site1-lb2" in outcome.message
    assert {b.state["farm2"] for b in world.balancers.values()} <= {"closed", "ready"}
    silenced.minion = True
    world.set_farms = set_farms  # type: ignore[method-assign]
    outcome = drive.upgrade("farm2", "2026.11.2")
    assert outcome.ok
    assert world.excused == 0


def test_s1_no_way_back_to_a_release_when_sessions_may_have_seen_a_newer_one() -> None:
    """Opened on the second release, closed by hand, then a third that does not start."""
    world = World(6, pillar_of(EXAMPLE, 2), sessions=0)
    drive = Drive(world)
    world.sleep(3)
    drive.upgrade("farm2", "2026.11.2")
    world.sleep(5)
    drive.connection.execute("UPDATE rollouts SET state='failed'")  # as after a bad soak
    for balancer in world.balancers.values():
        balancer.pick = balancer.pick_newest = {"farm1": 200}
        balancer.state["farm2"] = "closed"
    for web in world.members("farm2"):
        web.bad.add("2026.11.10")
    for balancer in world.balancers.values():  # so that farm2's sessions have where to go
        balancer.generation["farm1"] = 2
        balancer.release["farm1"] = "2026.11.2"
    for web in world.members("farm1"):
        web.release = "2026.11.2"
        web.staged.add("2026.11.2")
    world.checks()
    world.sleep(60)
    outcome = drive.upgrade("farm2", "2026.11.10")
    assert outcome.state == "failed"
    assert "its generation was raised since 2026.11.1" in outcome.message
    assert {balancer.state["farm2"] for balancer in world.balancers.values()} == {"closed"}

"""A farm comes back into service: what must be true before, and what no interruption may undo."""

from collections.abc import Callable
from typing import Any

from webfarm.rollout import control

from tests.conftest import EXAMPLE

from .drive import FIRST, SECOND, THIRD, Drive, Plan, pillar_of
from .test_scenarios import NO_GATES, fences, play, starts, states, until, upgrade


def deaf(drive: Drive, balancer: str, commands: Callable[[dict[str, Any]], bool]) -> Any:
    """The balancer gets no such command until the result is called."""
    network = drive.world.network
    send = network.send

    def lossy(client: Any, name: str, function: str, given: Any, jid: str) -> None:
        if name != balancer or not commands(given):
            send(client, name, function, given, jid)

    network.send = lossy  # type: ignore[method-assign]

    def hear() -> None:
        network.send = send  # type: ignore[method-assign]

    return hear


def test_s1_a_balancer_that_lags_at_the_opening_lets_no_session_go_back() -> None:
    def work(drive: Drive) -> None:
        hear = deaf(drive, "site1-lb2", lambda given: "generation" in given)
        asked = starts(drive)
        until(drive, lambda: "ready" in states(drive))
        drive.world.sleep(15)
        hear()
        drive.wait(asked)
        assert asked.result and asked.result["state"] == "done"

    assert play(20, work).excused == 0


def test_s1_aborted_with_one_balancer_open_it_goes_forward() -> None:
    def work(drive: Drive) -> None:
        hear = deaf(drive, "site1-lb2", lambda given: given.get("state") == {"farm2": "open"})
        asked = starts(drive)
        until(drive, lambda: "open" in states(drive) and fences(drive) == {SECOND})
        drive.world.sleep(15)
        drive.world.end(asked.actor)
        drive.world.sleep(1)
        hear()
        ended = drive.command("abort", control.abort).result
        assert ended and ended["state"] == "aborted"
        assert (states(drive), fences(drive)) == ({"open"}, {SECOND})
        drive.world.sleep(20)

    assert play(21, work).excused == 0


def test_s6_killed_while_it_was_closed_it_can_still_go_back() -> None:
    def work(drive: Drive) -> None:
        asked = starts(drive)
        until(drive, lambda: fences(drive) == {SECOND})
        drive.world.end(asked.actor)
        drive.world.sleep(1)
        ended = drive.command("abort", control.abort).result
        assert ended and ended["state"] == "aborted", ended
        assert (states(drive), fences(drive)) == ({"open"}, {FIRST})

    assert play(22, work).excused == 0


def test_s3_a_pool_that_cannot_be_emptied_keeps_its_farm_closed() -> None:
    """No session here honours X-Webfarm-Moved: a stale cache would be believed."""

    def work(drive: Drive) -> None:
        drive.world.minions.stubborn = 1.0
        result = upgrade(drive)
        assert result["state"] == "paused" and "proven empty" in result["message"]
        assert states(drive) == {"closed"}
        drive.world.minions.stubborn = 0.0
        resumed = drive.command("resume", control.resume).result
        assert resumed and resumed["state"] == "done"
        drive.world.sleep(20)

    pillar = pillar_of(EXAMPLE, 2, canary_soak_seconds=0, gates=NO_GATES)
    plan = Plan(23, pillar, ("site1",), frozenset(), honours_moved=False)
    assert Drive(plan).run(work).excused == 0


def test_s4_servers_that_a_balancer_finds_down_keep_their_farm_out() -> None:
    def work(drive: Drive) -> None:
        world = drive.world
        check = world._check

        def cut(balancer: Any, web: Any) -> None:
            check(balancer, web)
            if balancer.name == "site1-lb2" and web.release == SECOND:
                balancer.up[web.name] = False

        world._check = cut  # type: ignore[method-assign]
        result = upgrade(drive)
        assert result["state"] == "failed" and "is not UP on site1-lb2" in result["message"]
        assert (states(drive), fences(drive)) == ({"open"}, {FIRST})

    play(24, work)


def test_s2_a_farm_stays_while_no_other_may_answer_its_sessions() -> None:
    def work(drive: Drive) -> None:
        assert upgrade(drive)["state"] == "done"
        drive.world.sleep(10)
        result = upgrade(drive, "farm2", THIRD)
        assert result["state"] == "refused"
        assert "no other open farm may answer the sessions of farm2" in result["message"]
        drive.world.sleep(10)

    assert play(25, work).excused == 0


def test_a_balancer_with_another_state_on_disk_is_reconciled_first() -> None:
    def work(drive: Drive) -> None:
        drive.world.places["site1"].balancers["site1-lb2"].disk.state["farm1"] = "closed"
        result = upgrade(drive)
        assert result["state"] == "refused" and "another state on disk" in result["message"]
        assert not any("set_farms" in line for line in drive.world.trace)

    play(26, work)

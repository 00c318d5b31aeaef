"""What must happen in cases that are worth a name; the cluster is the simulated one."""

from collections.abc import Callable
from typing import Any

import pytest
from webfarm.rollout import commands, control, servers

from tests.conftest import EXAMPLE

from .controller import Controller
from .drive import SECOND, Drive, Plan, pillar_of
from .nodes import Balancer
from .world import World

Work = Callable[[Drive], None]


def play(seed: int, work: Work, farms: int = 2, kinds: str = "", **policy: Any) -> World:
    """``work`` in a quiet cluster of one site."""
    policy = {"min_capacity": 0.5, "canary_soak_seconds": 0, "gates": NO_GATES, **policy}
    pillar = pillar_of(EXAMPLE, farms, **policy)
    return Drive(Plan(seed, pillar, ("site1",), frozenset(kinds.split()))).run(work)


NO_GATES = {"min_requests": 0, "latency_margin_ms": 60_000, "error_excess": 1.0}


def upgrade(drive: Drive, farm: str | None = "farm2", release: str = SECOND) -> dict[str, Any]:
    """Its result, once it has ended."""
    asked = drive.command(f"upgrade {farm}", lambda c: commands.upgrade(c, "site1", farm, release))
    return asked.result or {"state": "", "message": asked.error}


def starts(drive: Drive, farm: str | None = "farm2", release: str = SECOND) -> Controller:
    """The same, not waited for."""
    return drive.operators.start(
        f"upgrade {farm}", lambda c: commands.upgrade(c, "site1", farm, release)
    )


def until(drive: Drive, condition: Callable[[], bool]) -> None:
    """Let time pass in small steps until it is so."""
    for _ in range(10_000):
        if condition():
            return
        drive.world.sleep(0.1)
    raise AssertionError("that never happened")


def states(drive: Drive, farm: str = "farm2") -> set[str]:
    return {b.live.state[farm] for b in drive.world.balancers}


def fences(drive: Drive, farm: str = "farm2") -> set[str]:
    return {b.live.release[farm] for b in drive.world.balancers}


# -- S5: one hand ----------------------------------------------------------------------------------


def test_s5_of_two_started_at_the_same_instant_exactly_one_runs() -> None:
    def work(drive: Drive) -> None:
        both = [starts(drive), starts(drive)]
        for one in both:
            drive.wait(one)
        assert sorted(one.result is None for one in both) == [False, True]
        assert "is held by op" in next(one.error for one in both if one.result is None)
        assert fences(drive) == {SECOND}

    assert play(1, work).excused == 0


@pytest.mark.parametrize("at", ["drain", "closed", "ready"])
@pytest.mark.parametrize("knows", [True, False], ids=["unlocked", "expired"])
def test_s5_who_was_suspended_past_the_lease_does_nothing_more(at: str, knows: bool) -> None:
    def work(drive: Drive) -> None:
        old = starts(drive)
        until(drive, lambda: at in states(drive))
        drive.world.freeze(old.actor, 400)
        if knows:
            drive.command("unlock", lambda c: control.unlock(c, "site1", "it hangs"))
        else:
            drive.world.sleep(70)
        new = drive.command("resume", control.resume)
        assert new.result and new.result["state"] == "done", new.result
        lines = len(drive.world.trace)
        drive.wait(old)
        assert "lease of site1" in old.error, old.result
        later = drive.world.trace[lines:]
        assert not any("set_farms" in line or "switches" in line for line in later), later

    assert play(2, work).excused == 0


def test_s5_a_command_that_comes_late_undoes_nothing() -> None:
    """The first `drain` to a balancer waits in the network; it is sent again, and all goes on."""

    def work(drive: Drive) -> None:
        world = drive.world
        send, held = world.network.send, []

        def lose_first_drain(client: Any, name: str, function: str, given: Any, jid: str) -> None:
            drains = given.get("state") == {"farm2": "drain"}
            if name == "site1-lb1" and drains and not held:
                held.append(lambda: send(client, name, function, given, jid))
            else:
                send(client, name, function, given, jid)

        world.network.send = lose_first_drain  # type: ignore[method-assign]
        asked = starts(drive)
        until(drive, lambda: any("switches" in line for line in world.trace))
        held[0]()
        drive.wait(asked)
        assert asked.result and asked.result["state"] == "done"
        assert any("lb1 refuses haproxy_runtime.set_farms" in line for line in world.trace)

    assert play(3, work).excused == 0


# -- S6: killed at any write -----------------------------------------------------------------------


def killed(seed: int, write: int, after: bool, ends: Callable[..., Any]) -> bool:
    """One farm, killed at one write of the journal and taken up again; whether it was killed."""
    crashed = []

    def work(drive: Drive) -> None:
        first = Controller(
            drive.master,
            "upgrade",
            lambda c: commands.upgrade(c, "site1", "farm2", SECOND),
            crash_at=write,
            crash_after=after,
        )
        drive.wait(first)
        crashed.append(first.actor.killed)
        if not first.actor.killed:
            return
        drive.world.sleep(7)
        if drive.unfinished():
            second = drive.command("go on", ends)
            assert second.result, second.error
            assert second.result["state"] in ("done", "aborted"), second.result
        drive.at_rest(None)

    world = play(seed, work)
    assert world.excused == 0
    return bool(crashed[0])


@pytest.mark.parametrize(
    ("after", "ends"),
    [(False, control.resume), (True, control.abort)],
    ids=["before, then resume", "after, then abort"],
)
def test_s6_killed_at_any_write_of_the_journal(after: bool, ends: Callable[..., Any]) -> None:
    write = 1
    while killed(write, write, after, ends):
        write += 1
    assert write > 40  # every step has two transactions, each of two statements at least


def test_s6_a_full_disk_ends_it_with_a_remedy_and_resume_goes_on() -> None:
    def work(drive: Drive) -> None:
        asked = starts(drive)
        until(drive, lambda: "closed" in states(drive))
        drive.master.disk_full = True
        drive.wait(asked)
        assert "make room" in asked.error
        drive.master.disk_full = False
        resumed = drive.command("resume", control.resume)
        assert resumed.result and resumed.result["state"] == "done"

    assert play(4, work).excused == 0


# -- servers that fail, and S8 ---------------------------------------------------------------------


def test_s8_a_server_that_slept_is_named_and_brought_back_by_upgrade_server() -> None:
    def work(drive: Drive) -> None:
        web = drive.world.places["site1"].web["site1-farm2-ws2"]
        drive.world.kill(web)
        drive.world.sleep(5)
        result = upgrade(drive)
        assert result["state"] == "done"
        assert "does not answer" in result["outcomes"][0]["quarantined"][web.name]
        drive.world.revive(web)
        drive.world.sleep(30)
        assert not any(b.up[web.name] for b in drive.world.balancers)  # S7
        drive.at_rest(None)
        back_again = drive.command(
            "server", lambda c: servers.server(c, "site1", "farm2", web.name)
        )
        assert back_again.result and back_again.result["state"] == "done", back_again.result
        drive.at_rest(None)
        assert all(b.up[web.name] for b in drive.world.balancers)

    play(1, work)


def test_a_release_that_does_not_start_leaves_the_farm_in_service_on_the_old_one() -> None:
    def work(drive: Drive) -> None:
        for web in drive.world.places["site1"].farms["farm2"]:
            web.bad.add(SECOND)
        result = upgrade(drive)
        assert result["state"] == "failed"
        assert "site1-farm2-ws1" in result["message"]
        assert "put back in service on 2026.11.1" in result["message"]
        assert (states(drive), fences(drive)) == ({"open"}, {"2026.11.1"})
        assert all(b.live.newest == 1 and b.live.pick["farm2"] for b in drive.world.balancers)

    assert play(2, work).excused == 0


def test_one_failing_server_is_quarantined_and_named() -> None:
    def work(drive: Drive) -> None:
        drive.world.places["site1"].web["site1-farm2-ws1"].bad.add(SECOND)
        result = upgrade(drive)
        assert result["state"] == "done"
        named = result["outcomes"][0]["quarantined"]["site1-farm2-ws1"]
        assert "php-fpm does not start" in named
        assert fences(drive) == {SECOND}

    assert play(2, work).excused == 0


# -- S4, S2: capacity and requests in flight -------------------------------------------------------


def test_s4_too_little_capacity_is_refused_before_anything_changes() -> None:
    def work(drive: Drive) -> None:
        drive.world.kill(drive.world.places["site1"].web["site1-farm1-ws1"])
        drive.world.sleep(100)
        result = upgrade(drive)
        assert result["state"] == "refused"
        assert "keeps 25 % of its weight, min_capacity is 50 %" in result["message"]
        assert "farm1/site1-farm1-ws1" in result["message"]

    world = play(1, work)
    assert not any("set_farms" in line for line in world.trace)


@pytest.mark.parametrize("on_deadline", ["fail", "force"])
def test_requests_that_do_not_end(on_deadline: str) -> None:
    def work(drive: Drive) -> None:
        drive.world.minions.blink = 0
        for balancer in drive.world.balancers:  # a client that never stops reading
            balancer.counts["farm2"].in_flight += 1
        result = upgrade(drive)
        if on_deadline == "fail":
            assert result["state"] == "failed"
            assert "2 requests still in flight after" in result["message"]
            assert fences(drive) == {"2026.11.1"}
        else:
            steps = result["outcomes"][0]["steps"]
            quiesce = next(step for step in steps if step["step"] == "quiesce")
            assert quiesce["evidence"]["cut"] == 2
            assert fences(drive) == {SECOND}
        assert states(drive) == {"open"}

    play(3, work, quiesce_seconds=20, on_deadline=on_deadline)


def test_a_silent_balancer_stops_the_opening_and_resume_finishes_it() -> None:
    def work(drive: Drive) -> None:
        silenced: Balancer = drive.world.places["site1"].balancers["site1-lb2"]
        asked = starts(drive)
        until(drive, lambda: "ready" in states(drive))
        silenced.minion = False
        drive.wait(asked)
        assert asked.result and asked.result["state"] == "paused"
        assert "site1-lb2" in asked.result["message"]
        assert states(drive) <= {"closed", "ready"}
        silenced.minion = True
        resumed = drive.command("resume", control.resume)
        assert resumed.result and resumed.result["state"] == "done"

    assert play(4, work).excused == 0

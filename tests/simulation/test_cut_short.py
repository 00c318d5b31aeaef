"""A run whose process ends at an awkward moment leaves no farm behind, and no verdict unheeded."""

from functools import partial

import pytest
from webfarm.rollout import commands, control

from .controller import Controller
from .drive import FIRST, SECOND, Drive
from .sessions import Flaw
from .test_scenarios import fences, play, starts, states, until, upgrade

GATES = {"min_requests": 30, "latency_margin_ms": 3000, "patience_seconds": 600}


@pytest.mark.parametrize("on_failure", ["pause", "abort", "rollback"])
def test_killed_after_the_gate_has_failed_nobody_else_gets_the_release(on_failure: str) -> None:
    """At each of the last writes of a run that its canary stops."""

    def whole(drive: Drive) -> None:
        drive.world.flaws[SECOND] = Flaw(errors=1.0)
        drive.world.judge.resets_are_allowed()
        run = Controller(drive.master, "run", lambda c: commands.upgrade(c, "site1", None, SECOND))
        until(drive, lambda: states(drive, "farm1") == {"open"} and fences(drive, "farm1") == new)
        opened.append(run.writes)
        drive.wait(run)
        writes.append(run.writes)

    new = {SECOND}
    opened, writes = list[int](), list[int]()
    policy = {"farms": 3, "on_failure": on_failure, "gates": GATES}
    play(5, whole, **policy)  # type: ignore[arg-type]

    def cut_short(drive: Drive, write: int) -> None:
        drive.world.flaws[SECOND] = Flaw(errors=1.0)
        drive.world.judge.resets_are_allowed()
        run = Controller(
            drive.master,
            "run",
            lambda c: commands.upgrade(c, "site1", None, SECOND),
            crash_at=write,
            crash_after=True,
        )
        drive.wait(run)
        drive.world.sleep(7)
        for _ in drive.unfinished():
            ended = drive.command("resume", control.resume)
            assert ended.result and not ended.result["result"], ended.result
        assert SECOND not in fences(drive, "farm2") | fences(drive, "farm3")
        assert all(states(drive, farm) == {"open"} for farm in ("farm1", "farm2", "farm3"))

    for write in range(opened[0] + 1, writes[0] + 1):
        play(5, partial(cut_short, write=write), **policy)  # type: ignore[arg-type]


def test_a_server_that_was_left_out_before_does_not_stop_what_goes_on() -> None:
    def work(drive: Drive) -> None:
        drive.world.places["site1"].web["site1-farm1-ws2"].bad.add(SECOND)
        first = starts(drive, None)
        until(drive, lambda: states(drive) == {"closed"} and fences(drive) == {SECOND})
        drive.world.end(first.actor)
        resumed = drive.command("resume", control.resume)
        assert resumed.result and resumed.result["state"] == "done", resumed.result
        assert fences(drive, "farm1") == fences(drive) == {SECOND}
        drive.at_rest(None)

    play(33, work, farms=3)


def test_a_farm_in_hand_is_in_service_before_the_run_fails_for_another() -> None:
    def work(drive: Drive) -> None:
        first = starts(drive, None)
        until(drive, lambda: states(drive) == {"closed"} and fences(drive) == {SECOND})
        drive.world.end(first.actor)
        for web in drive.world.places["site1"].farms["farm1"]:
            drive.world.kill(web)
        drive.world.sleep(90)
        resumed = drive.command("resume", control.resume)
        assert resumed.result and resumed.result["state"] in ("failed", "paused"), resumed.result
        for web in drive.world.places["site1"].farms["farm1"]:
            drive.world.revive(web)
        drive.world.sleep(30)
        for run in drive.unfinished():
            drive.command("abort", lambda c, run=run: control.abort(c, run))  # type: ignore[misc]
        drive.at_rest(None)

    play(34, work, farms=3)


def test_a_change_that_was_cut_short_is_not_forgotten() -> None:
    """A drain is on one balancer's disk only when resume finds it; then it is reconciled."""

    def work(drive: Drive) -> None:
        first = starts(drive)
        until(drive, lambda: "drain" in states(drive))
        drive.world.end(first.actor)
        drive.world.sleep(10)
        one, *others = drive.world.balancers
        for balancer in (one, *others):
            balancer.live.state["farm2"] = balancer.disk.state["farm2"] = "open"
        one.disk.state["farm2"] = "drain"
        paused = drive.command("resume", control.resume)
        assert paused.result and paused.result["state"] == "paused", paused.result
        assert "haproxy_runtime.reconcile" in paused.result["message"]
        drive.faults.repair()
        assert states(drive) == {"open", "drain"}
        aborted = drive.command("abort", control.abort)
        assert aborted.result and aborted.result["state"] == "aborted", aborted.result
        assert (states(drive), fences(drive)) == ({"open"}, {FIRST})
        drive.at_rest(FIRST)

    play(35, work)


def test_to_ask_again_is_to_hear_what_failed() -> None:
    """One farm alone: a server that cannot be brought back fails the second attempt too."""

    def work(drive: Drive) -> None:
        drive.world.places["site1"].web["site1-farm2-ws2"].bad.add(SECOND)
        assert upgrade(drive)["state"] == "done"
        assert upgrade(drive)["state"] == "failed"

    play(36, work)

"""Who is out of service when a run has ended must be named, whatever was seen last (S8)."""

from typing import Any

from webfarm.rollout import control

from .drive import FIRST, SECOND, Drive
from .test_scenarios import fences, play, starts, states, until

SERVER = "site1-farm2-ws2"


def put_back_without_one(drive: Drive) -> None:
    """The farm serves the old release again, a server has the new one, and nobody wrote it down.

    The upgrade is aborted after the switch, while a minion is stopped; who aborts is killed as
    soon as the farm is open.
    """
    first = starts(drive)
    site = drive.world.places["site1"]
    web, farm = site.web, site.farms["farm2"]
    until(drive, lambda: all(w.release == SECOND and w.ready for w in farm))
    first.interrupt = True
    drive.wait(first)
    web[SERVER].minion = False
    second = drive.operators.start("abort", control.abort)
    until(drive, lambda: fences(drive) == {FIRST} and states(drive) == {"open"})
    drive.world.end(second.actor)
    web[SERVER].minion = True
    assert named(drive) == set()


def named(drive: Drive) -> set[str]:
    with drive.master.journal_of_now() as journal:
        return {row["server"] for row in journal.quarantined()}


def test_a_server_on_the_release_that_was_given_up_is_named() -> None:
    def work(drive: Drive) -> None:
        put_back_without_one(drive)
        third = drive.command("abort", control.abort)
        assert third.result and third.result["state"] == "aborted", third.error
        assert named(drive) == {SERVER}

    play(31, work)


def test_a_balancer_that_falls_silent_at_the_end_makes_nobody_forget_them() -> None:
    def work(drive: Drive) -> None:
        put_back_without_one(drive)
        balancers = drive.world.balancers
        run, looks = drive.world.minions.run, list[str]()

        def falls_silent(node: Any, function: str, *given: Any) -> None:
            run(node, function, *given)
            looks.append(function)
            if looks.count("haproxy_runtime.farms") == len(balancers):
                drive.world.kill(balancers[-1])

        drive.world.minions.run = falls_silent
        third = drive.command("abort", control.abort)
        assert third.result and third.result["state"] == "aborted", third.error
        assert "not known" in str(third.result), "the last look was blind"
        assert named(drive) == {SERVER}

    play(32, work)

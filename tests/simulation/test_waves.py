"""Waves in the simulated cluster: the seeds, and cases that are worth a name."""

from collections.abc import Callable
from typing import Any

import pytest
from webfarm.rollout import back, control

from tests.conftest import EXAMPLE

from .controller import Controller
from .drive import Drive, Plan
from .sessions import Flaw
from .systems import NEW, OLD
from .waves_drive import at_rest, os_upgrade, pillar_of, run
from .world import World

Work = Callable[[Drive], None]
FIRST, OTHER = "site1-farm1-ws1", "site1-farm2-ws1"


@pytest.mark.parametrize("seed", range(12))
def test_every_promise_is_kept_in_waves(seed: int) -> None:
    run(seed, EXAMPLE)


def play(seed: int, work: Work, farms: tuple[int, ...] = (2, 2), **given: Any) -> World:
    """``work`` in a quiet cluster."""
    sites = given.pop("sites", ("site1",))
    pillar = pillar_of(EXAMPLE, farms, sites, **given)
    return Drive(Plan(seed, pillar, sites, frozenset()), sessions=8).run(work)


def upgrade(drive: Drive, **given: Any) -> dict[str, Any]:
    asked = drive.command("os", lambda context: os_upgrade(context, **given))
    return asked.result or {"state": "", "message": asked.error}


def web(drive: Drive, name: str) -> Any:
    return drive.world.node(name)


def until(drive: Drive, condition: Callable[[], bool]) -> None:
    """Let time pass in small steps until it is so."""
    for _ in range(20_000):
        if condition():
            return
        drive.world.sleep(0.1)
    raise AssertionError("that never happened")


def said(drive: Drive, words: str) -> bool:
    return any(words in line for line in drive.world.trace)


@pytest.mark.parametrize(
    ("farms", "sites"), [((3, 1, 2), ("site1",)), ((2, 2), ("site1", "site2"))]
)
def test_uneven_farms_and_both_sites_lose_no_request(
    farms: tuple[int, ...], sites: tuple[str, ...]
) -> None:
    def work(drive: Drive) -> None:
        policy = {"min_farm_capacity": 0.0} if 1 in farms else None
        data = upgrade(drive, policy=policy)
        assert data["state"] == "done", data
        at_rest(drive, NEW)

    assert play(1, work, farms, sites=sites).excused == 0


def test_s4_the_load_must_be_bearable_without_the_members() -> None:
    def work(drive: Drive) -> None:
        data = upgrade(drive)
        assert data["state"] == "refused" and "max_utilisation" in data["message"]
        assert not said(drive, "set_servers")

    play(2, work, gates={"max_utilisation": 0.001, "min_requests": 0})


def test_s4_capacity_counts_who_is_out_already() -> None:
    def work(drive: Drive) -> None:
        drive.world.kill(web(drive, "site1-farm1-ws2"))
        drive.world.sleep(90)
        data = upgrade(drive)
        assert data["state"] == "refused" and "farm1 keeps 0 %" in data["message"]
        assert not said(drive, "set_servers")

    play(3, work)


def test_a_server_that_is_out_is_skipped_and_named() -> None:
    def work(drive: Drive) -> None:
        drive.world.kill(web(drive, "site1-farm1-ws3"))
        drive.world.sleep(90)
        data = upgrade(drive)
        assert data["state"] == "done", data
        assert "does not answer" in data["outcomes"][2]["quarantined"]["site1-farm1-ws3"]

    play(4, work, (3, 3), min_farm_capacity=0.3)


def test_a_reboot_that_never_ends_stops_the_next_wave_and_is_named() -> None:
    def work(drive: Drive) -> None:
        web(drive, FIRST).never = True
        data = upgrade(drive)
        assert data["state"] == "paused" and FIRST in data["message"], data
        assert web(drive, OTHER).installed == NEW
        assert not said(drive, "ws2 installed")
        assert {n for b in drive.world.balancers for n in b.admin} == {FIRST}
        web(drive, FIRST).never = False
        drive.world.minions.comes_up(drive.world.places["site1"], web(drive, FIRST))
        resumed = drive.command("resume", control.resume).result
        assert resumed and resumed["state"] == "done", resumed
        at_rest(drive, NEW)

    play(5, work)


def test_bad_packages_are_found_on_the_first_wave_and_taken_back() -> None:
    def work(drive: Drive) -> None:
        drive.world.broken_packages = True
        data = upgrade(drive)
        assert data["state"] == "paused" and "does not run" in data["message"], data
        drive.world.sleep(2)
        at_rest(drive, OLD)

    assert play(6, work).excused == 0


def test_an_install_that_is_refused_costs_nobody_anything() -> None:
    def work(drive: Drive) -> None:
        web(drive, FIRST).stubborn = True
        data = upgrade(drive)
        assert data["state"] == "paused" and "digest differs" in data["message"], data
        at_rest(drive, None)

    assert play(7, work).excused == 0


def test_a_run_of_waves_is_taken_back_in_reverse() -> None:
    def work(drive: Drive) -> None:
        assert upgrade(drive)["state"] == "done"
        undone = drive.command("rollback", lambda c: back.rollback(c, 1)).result
        assert undone and undone["state"] == "done", undone
        at_rest(drive, OLD)

    assert play(8, work).excused == 0


def test_a_late_reboot_does_not_reboot_twice() -> None:
    """The message waits in the network, it is sent again, and all goes on."""

    def work(drive: Drive) -> None:
        world = drive.world
        send, held = world.network.send, []

        def twice(client: Any, name: str, function: str, given: Any, jid: str) -> None:
            if function == "webfarm_os.reboot" and not held:
                held.append(lambda: send(client, name, function, given, jid))
            send(client, name, function, given, jid)

        world.network.send = twice  # type: ignore[method-assign]
        asked = drive.operators.start("os", os_upgrade)
        until(drive, lambda: said(drive, "is up again"))
        world.sleep(8)
        held[0]()
        drive.wait(asked)
        assert asked.result and asked.result["state"] == "done", asked.result
        assert sum(f"{FIRST} reboots" in line for line in world.trace) == 1

    play(9, work)


def test_s4_no_second_server_of_a_farm_while_one_is_still_out() -> None:
    """An earlier run has left a server out: nobody takes another one of its farm."""

    def work(drive: Drive) -> None:
        for balancer in drive.world.balancers:
            balancer.admin["site1-farm1-ws3"] = "maint"
        data = upgrade(drive)
        assert data["state"] == "refused" and "still out of service" in data["message"], data
        assert not said(drive, "set_servers")

    play(10, work, (3, 3), min_farm_capacity=0.3)


def test_s2_requests_in_flight_are_waited_for() -> None:
    def work(drive: Drive) -> None:
        drive.world.flaws[drive.world.topology.initial] = Flaw(slow=9.0)
        drive.world.sleep(5)
        assert upgrade(drive)["state"] == "done"
        at_rest(drive, NEW)

    assert play(11, work).excused == 0


def test_s2_a_balancer_that_lags_keeps_a_server_from_being_changed() -> None:
    """Its drain does not arrive at one balancer for half a minute."""

    def work(drive: Drive) -> None:
        world = drive.world
        send = world.network.send

        def deaf(client: Any, name: str, function: str, given: Any, jid: str) -> None:
            if not (
                name == "site1-lb2" and function.endswith("set_servers") and world.elapsed < 30
            ):
                send(client, name, function, given, jid)

        world.network.send = deaf  # type: ignore[method-assign]
        assert upgrade(drive)["state"] in ("done", "paused", "failed")
        if drive.unfinished():
            drive.command("resume", control.resume)

    assert play(12, work).excused == 0


def killed(seed: int, write: int, after: bool, ends: Callable[..., Any]) -> bool:
    """Killed at one write of the journal and taken up again; whether it was killed."""
    crashed = []

    def work(drive: Drive) -> None:
        first = Controller(drive.master, "os", os_upgrade, crash_at=write, crash_after=after)
        drive.wait(first)
        crashed.append(first.actor.killed)
        if first.actor.killed and drive.unfinished():
            drive.world.sleep(7)
            second = drive.command("go on", ends)
            assert second.result, second.error
            assert second.result["state"] in ("done", "aborted"), second.result
        at_rest(drive, None)

    assert play(seed, work, (2, 1), min_farm_capacity=0.0).excused == 0
    return bool(crashed[0])


@pytest.mark.parametrize(
    ("after", "ends"),
    [(False, control.resume), (True, control.abort)],
    ids=["before, then resume", "after, then abort"],
)
def test_s6_killed_at_any_write_of_the_journal(after: bool, ends: Callable[..., Any]) -> None:
    write = 1
    while killed(write, write, after, ends):
        write += 9
    assert write > 50

"""S5 where a node is cut off Salt: what a dead controller asked of it comes when the network heals.

No newer message has told the node that somebody else holds the site; the old one comes first.
"""

from collections.abc import Callable
from typing import Any

import pytest
from webfarm import hold
from webfarm.rollout import control

from .controller import Controller
from .drive import FIRST, Drive
from .test_scenarios import fences, play, starts, states, until

CUT_OFF = "site1-farm2-ws1"


def cut_off(drive: Drive) -> tuple[list[str], Callable[[], None]]:
    """From its switch on, nothing reaches the server until the second result is called.

    Then all of it does, the switch first. The first result: the functions that the network keeps.
    """
    network, kept = drive.world.network, []
    send, functions = network.send, []  # type: ignore[var-annotated]

    def keep(client: Any, name: str, function: str, given: Any, jid: str) -> None:
        if name == CUT_OFF and (kept or function == "webfarm_release.switch"):
            kept.append(lambda: send(client, name, function, given, jid))
            functions.append(function)
        else:
            send(client, name, function, given, jid)

    def heal() -> None:
        network.send = send  # type: ignore[method-assign]
        for number, arrives in enumerate(kept):
            drive.world.at(number, arrives)

    network.send = keep  # type: ignore[method-assign]
    network.weather.slow = 0.0
    return functions, heal


def another_aborts(drive: Drive, kept: list[str]) -> Controller:
    """The controller dies as soon as it has sent the switch; somebody types `upgrade.abort`."""
    first = starts(drive)
    until(drive, lambda: "webfarm_release.switch" in kept)
    drive.world.end(first.actor)
    drive.world.sleep(1)
    return drive.operators.start("abort", control.abort)


def switches(drive: Drive) -> list[str]:
    return [line for line in drive.world.trace if f"{CUT_OFF} switches" in line]


def test_s5_what_the_network_kept_for_long_is_not_done() -> None:
    """Else php-fpm restarts under the requests of a server that serves again."""

    def work(drive: Drive) -> None:
        kept, heal = cut_off(drive)
        aborted = another_aborts(drive, kept)
        drive.wait(aborted)
        assert aborted.result and aborted.result["state"] == "aborted", aborted.result
        assert all(b.up[CUT_OFF] for b in drive.world.balancers)  # it serves meanwhile
        drive.world.sleep(hold.FRESH_SECONDS)
        heal()
        drive.world.sleep(len(kept) + 5)
        (refused,) = [x for x in drive.world.trace if f"{CUT_OFF} refuses webfarm_release.sw" in x]
        assert "last looked here" in refused
        assert not switches(drive)
        assert (states(drive), fences(drive)) == ({"open"}, {FIRST})

    assert play(5, work, answer_seconds=3).excused == 0


def test_s5_what_may_still_be_done_is_waited_for_by_who_takes_over() -> None:
    """The network heals while the server would still carry it out: it is done, seen and undone."""

    def work(drive: Drive) -> None:
        kept, heal = cut_off(drive)
        aborted = another_aborts(drive, kept)
        drive.world.sleep(10)
        heal()
        drive.wait(aborted)
        assert aborted.result and aborted.result["state"] == "aborted", aborted.result
        assert len(switches(drive)) == 2
        assert (states(drive), fences(drive)) == ({"open"}, {FIRST})
        drive.at_rest(FIRST)

    assert play(6, work, answer_seconds=3).excused == 0


@pytest.mark.parametrize("asks", [control.pause, control.abort], ids=["pause", "abort"])
def test_the_wait_of_who_takes_over_obeys_an_operator(asks: Callable[..., Any]) -> None:
    def work(drive: Drive) -> None:
        kept, heal = cut_off(drive)
        first = starts(drive)
        until(drive, lambda: "webfarm_release.switch" in kept)
        drive.world.end(first.actor)
        drive.world.sleep(1)
        start, resumed = drive.world.now, drive.operators.start("resume", control.resume)
        drive.world.sleep(6)
        drive.command("wish", asks)
        drive.wait(resumed)
        ends = "paused" if asks is control.pause else "aborted"
        assert resumed.result and resumed.result["state"] == ends, resumed.result
        if asks is control.pause:
            assert drive.world.now - start < hold.FRESH_SECONDS
            assert not any("set_farms" in x for x in drive.world.trace if float(x[:8]) > start)
        heal()
        drive.world.sleep(len(kept) + 5)

    play(7, work, answer_seconds=3)

"""Every way to stop, go on and go back, with a live process at it or without one."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout import back, commands, control, servers, status
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Held, Process, this_process
from webfarm.topology import parse

from tests.unit.easy_cluster import Shop, pillar_of

OLD, NEW = "2026.11.1", "2026.11.2"


@pytest.fixture
def shop(tmp_path: Path, pillar: dict[str, Any]) -> Shop:
    return Shop(tmp_path, pillar_of(pillar))


class Killed(BaseException):
    """SIGKILL."""


def during(shop: Shop, function: str, what: Callable[[], Any]) -> list[Any]:
    """Do ``what``, once, when the run asks for ``function``; what it gave or raised."""
    found: list[Any] = []

    def act(asked: str) -> None:
        if asked == function and not found:
            found.append(None)
            try:
                found[0] = what()
            except WebfarmError as error:
                found[0] = error

    shop.cluster.on_call = act
    return found


def crash(shop: Shop, function: str) -> None:
    """Kill a run when it asks for ``function``; its process is gone."""

    def act(asked: str) -> None:
        if asked == function:
            raise Killed

    shop.cluster.on_call = act
    gone = Process("vm", os.getpid(), "1", "an older boot")
    with pytest.raises(Killed):
        commands.upgrade(replace(shop.context, process=gone), "site1")
    with shop.context.journal() as journal:  # the kill left no chance to let the lease go
        journal.connection.execute("UPDATE runs SET state='running'")
    shop.cluster.on_call = lambda function: None
    shop.cluster.hold = None


def paused(shop: Shop, function: str = "webfarm_release.switch") -> dict[str, Any]:
    """A run of site1 that somebody pauses while it asks for ``function``."""
    during(shop, function, lambda: control.pause(shop.as_user("bob"), reason="lunch"))
    data = commands.upgrade(shop.context, "site1")
    assert data["state"] == "paused"
    shop.cluster.on_call = lambda function: None
    return data


# -- pause and resume ------------------------------------------------------------------------------


def test_pause_tells_the_live_process_and_resume_goes_on(shop: Shop) -> None:
    told = during(
        shop, "webfarm_release.switch", lambda: control.pause(shop.as_user("bob"), 1, "lunch")
    )
    data = commands.upgrade(shop.context, "site1")
    assert (data["state"], data["result"]) == ("paused", False)
    assert "bob" in data["message"] and "lunch" in data["message"]
    assert told[0]["result"] is True
    assert told[0]["next"] == "salt-run upgrade.watch 1"
    assert "alice" in told[0]["message"]
    done = control.resume(shop.as_user("carol"))
    assert (done["run"], done["state"]) == (1, "done")
    assert shop.releases() == {"farm1": NEW, "farm2": NEW}


def test_pause_of_a_run_whose_process_is_gone_marks_it(shop: Shop) -> None:
    crash(shop, "webfarm_release.switch")
    data = control.pause(shop.context)
    assert (data["state"], data["result"]) == ("paused", True)
    assert "nobody conducted it" in data["message"]
    assert control.pause(shop.context)["state"] == "paused"
    assert control.resume(shop.context)["state"] == "done"


def test_resume_of_a_run_that_goes_on_is_refused(shop: Shop) -> None:
    found = during(shop, "webfarm_release.switch", lambda: control.resume(shop.as_user("bob")))
    assert commands.upgrade(shop.context, "site1")["state"] == "done"
    assert "goes on already, conducted by alice" in str(found[0])
    assert "upgrade.watch 1" in str(found[0])


def test_resume_passes_an_approval_by_one_who_may(tmp_path: Path, pillar: dict[str, Any]) -> None:
    shop = Shop(tmp_path, pillar_of(pillar, approve="canary", approvers=["carol"]))
    waiting = commands.upgrade(shop.context, "site1")
    assert (waiting["state"], waiting["next"]) == ("paused", "salt-run upgrade.resume 1")
    (unfinished,) = status.status(shop.context)["unfinished"]
    assert unfinished["approval"] == "before site1 farm2, by carol"
    with pytest.raises(WebfarmError, match=r"by carol; you are alice"):
        control.resume(shop.context)
    assert shop.releases() == {"farm1": NEW, "farm2": OLD}
    assert control.resume(shop.as_user("carol"))["state"] == "done"
    records = status.history(shop.context, id=1)["records"]
    assert [(record["what"], record["who"]) for record in records] == [("approve", "carol")]


def test_a_run_that_paused_when_its_window_closed_goes_on_with_a_reason(
    tmp_path: Path, pillar: dict[str, Any]
) -> None:
    window = {"from": "22:00", "to": "22:14", "timezone": "UTC"}
    shop = Shop(tmp_path, pillar_of(pillar, windows=[window]))  # it is 22:13:20
    during(shop, "webfarm_release.switch", lambda: shop.cluster.sleep(45))
    data = commands.upgrade(shop.context, "site1")
    assert (data["state"], shop.releases()) == ("paused", {"farm1": NEW, "farm2": OLD})
    assert "outside the maintenance windows" in data["message"]
    shop.cluster.on_call = lambda function: None
    assert control.resume(shop.context)["state"] == "paused"
    assert control.resume(shop.context, 1, "the shop is half done")["state"] == "done"
    (record,) = status.history(shop.context, id=1)["records"]
    assert (record["what"], record["why"]) == ("override", "the shop is half done")


# -- abort -----------------------------------------------------------------------------------------


def test_a_run_whose_policy_the_pillar_has_forbidden_since_can_still_be_ended(
    shop: Shop, pillar: dict[str, Any]
) -> None:
    during(shop, "webfarm_release.switch", lambda: control.pause(shop.as_user("bob")))
    commands.upgrade(shop.context, "site1", policy={"approve": "farm"})
    shop.cluster.on_call = lambda function: None
    changed = replace(shop.context, topology=parse(pillar_of(pillar, approve="canary")))
    with pytest.raises(WebfarmError, match=r"(?s)run 1 cannot go on.*approve.*upgrade.abort 1"):
        control.resume(changed)
    assert status.watch(changed, 1)["state"] == "paused"
    assert control.abort(changed)["state"] == "aborted"


def test_abort_of_a_live_run_puts_the_farm_back_and_keeps_what_was_done(shop: Shop) -> None:
    calls: list[Any] = []

    def second_switch() -> Any:
        calls.append(None)
        return control.abort(shop.as_user("bob"), 1, "too slow")

    switches = 0

    def act(asked: str) -> None:
        nonlocal switches
        switches += asked == "webfarm_release.switch"
        if asked == "webfarm_release.switch" and switches == 2:
            second_switch()

    shop.cluster.on_call = act
    data = commands.upgrade(shop.context, "site1")
    assert (data["state"], data["result"]) == ("aborted", False)
    assert shop.releases() == {"farm1": NEW, "farm2": OLD}
    assert "too slow" in data["message"]


def test_abort_of_a_run_that_nobody_conducts_is_done_here(shop: Shop) -> None:
    paused(shop)
    data = control.abort(shop.as_user("bob"), reason="too slow")
    assert (data["state"], data["result"]) == ("aborted", True)
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}
    with pytest.raises(WebfarmError, match=r"run 1 has ended: aborted. No run is unfinished"):
        control.abort(shop.context, 1)


def test_abort_after_a_crash_takes_the_run_up(shop: Shop) -> None:
    crash(shop, "webfarm_release.switch")
    assert control.abort(shop.context)["state"] == "aborted"
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}


# -- rollback --------------------------------------------------------------------------------------


def test_a_rollback_says_how_many_sessions_and_needs_consent(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1")
    calls = len(shop.cluster.changes())
    with pytest.raises(WebfarmError, match=r"40 of 100 in site1.*reset_sessions=True"):
        back.rollback(shop.context, 1)
    assert len(shop.cluster.changes()) == calls
    data = back.rollback(shop.context, 1, reset_sessions=True)
    assert data["state"] == "done"
    assert [one["farm"] for one in data["outcomes"]] == ["farm2", "farm1"]
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}


def test_a_rollback_before_anything_opened_needs_no_consent(shop: Shop) -> None:
    paused(shop)
    data = back.rollback(shop.context)
    assert (data["state"], data["result"]) == ("rolled_back", True)
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}
    assert "every farm" in back.rollback(shop.context, 1)["message"]


def test_a_rollback_of_a_run_that_goes_on_needs_consent_and_tells_its_process(shop: Shop) -> None:
    refused = during(shop, "webfarm_release.switch", lambda: back.rollback(shop.context))
    commands.upgrade(shop.context, "site1")
    assert "reset_sessions=True" in str(refused[0])
    told = during(
        shop,
        "webfarm_release.switch",
        lambda: back.rollback(shop.as_user("bob"), reset_sessions=True, reason="slow"),
    )
    data = commands.upgrade(shop.context, "site1", release="2026.11.10")
    assert told[0]["next"] == "salt-run upgrade.watch 2"
    assert data["state"] == "rolled_back"
    assert shop.releases() == {"farm1": NEW, "farm2": NEW}


def test_a_rollback_of_an_unfinished_run_ends_it(shop: Shop) -> None:
    pauses = 0

    def at_the_second_farm(asked: str) -> None:
        nonlocal pauses
        pauses += asked == "webfarm_release.switch"
        if pauses == 2 and asked == "webfarm_release.switch":
            control.pause(shop.as_user("bob"))

    shop.cluster.on_call = at_the_second_farm
    assert commands.upgrade(shop.context, "site1")["state"] == "paused"
    shop.cluster.on_call = lambda function: None
    with pytest.raises(WebfarmError, match="reset_sessions=True"):
        back.rollback(shop.context)
    data = back.rollback(shop.context, reset_sessions=True)
    assert (data["state"], data["result"]) == ("rolled_back", True)
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}


def test_a_rollback_that_was_cut_short_is_taken_up(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1")
    during(shop, "webfarm_release.switch", lambda: control.pause(shop.as_user("bob")))
    assert back.rollback(shop.context, 1, reset_sessions=True)["state"] == "paused"
    shop.cluster.on_call = lambda function: None
    data = back.rollback(shop.context, 1, reset_sessions=True)
    assert (data["run"], data["state"]) == (2, "done")
    assert shop.releases() == {"farm1": OLD, "farm2": OLD}


def test_a_rollback_of_one_farm_goes_to_what_it_had(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1")
    with pytest.raises(WebfarmError, match=r"site=site1 farm=farm2 reset_sessions=True"):
        back.rollback(shop.context, site="site1", farm="farm2")
    data = back.rollback(shop.context, site="site1", farm="farm2", reset_sessions=True)
    assert data["state"] == "done"
    assert shop.releases() == {"farm1": NEW, "farm2": OLD}


def test_a_rollback_past_a_later_run_is_refused(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1")
    commands.upgrade(shop.context, "site1", "farm1", "2026.11.10")
    with pytest.raises(WebfarmError, match=r"farm1 of site1 is on 2026\.11\.10; take those runs"):
        back.rollback(shop.context, 1, reset_sessions=True)


@pytest.mark.parametrize("sessions", [None, ["x"], {"a": "b"}, {"2026.11.2": -1}])
def test_a_count_without_sense_is_said_to_be_unknown(shop: Shop, sessions: Any) -> None:
    commands.upgrade(shop.context, "site1")
    shop.cluster.sessions = sessions
    with pytest.raises(WebfarmError, match=r"how many in site1 is not known \(site1-db1"):
        back.rollback(shop.context, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "site1"}, "either a run or one farm"),
        ({"id": 1, "site": "site1", "farm": "farm1"}, "either a run or one farm"),
        ({"id": 1, "release": OLD}, "release= is for one farm"),
        ({"site": "site1", "farm": "farm1"}, "which release farm1 of site1 had before"),
        ({"id": 99}, "there is no run 99"),
        ({}, "which run. No run is unfinished"),
        ({"id": "site1"}, "id is 'site1', expected a number"),
        ({"id": 1, "reset_sessions": "yes"}, "expected True or False"),
    ],
)
def test_what_cannot_be_taken_back_is_refused_in_words(
    shop: Shop, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(WebfarmError, match=message):
        back.rollback(shop.context, **arguments)
    assert shop.cluster.calls == []


# -- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [True, 1.0, "1", [1], {}, 0, -1])
@pytest.mark.parametrize(
    "command", [control.pause, control.resume, control.abort, back.rollback, status.watch]
)
def test_an_id_that_is_no_number_is_refused(shop: Shop, command: Any, id: Any) -> None:
    with pytest.raises(WebfarmError, match=r"id is .*, expected a number"):
        command(shop.context, id)


@pytest.mark.parametrize("command", [control.pause, control.resume, control.abort])
def test_without_an_id_several_unfinished_runs_are_listed(shop: Shop, command: Any) -> None:
    shop.stop = True
    commands.upgrade(shop.context, "site1")
    commands.upgrade(shop.context, "site2")
    shop.stop = False
    with pytest.raises(WebfarmError, match=r"which run\? Unfinished: 1 \(.*site1.*; 2 \(.*site2"):
        command(shop.context)
    assert command(shop.context, 2)["state"] in ("paused", "done", "aborted")


# -- unlock ----------------------------------------------------------------------------------------


def test_unlock_needs_a_reason_and_stops_the_holder(shop: Shop) -> None:
    with pytest.raises(WebfarmError, match="reason is missing"):
        control.unlock(shop.context, "site1")
    with pytest.raises(WebfarmError, match="nobody holds site1"):
        control.unlock(shop.context, "site1", "x")
    found = during(
        shop,
        "webfarm_release.switch",
        lambda: control.unlock(shop.as_user("bob"), "site1", "it hangs"),
    )
    with pytest.raises(Held, match="no longer held"):
        commands.upgrade(shop.context, "site1")
    assert found[0]["next"] == ["salt-run upgrade.resume 1"]
    assert "alice" in found[0]["message"]
    assert control.resume(shop.context)["state"] == "done"


# -- servers ---------------------------------------------------------------------------------------


def stale(shop: Shop, name: str) -> None:
    """The server slept through its farm's upgrade."""
    commands.upgrade(shop.context, "site1", "farm2")
    shop.cluster.servers[name] = replace(shop.cluster.servers[name], release=OLD)
    shop.cluster._check()
    shop.cluster.calls.clear()


def test_a_server_comes_back_on_its_farms_release_its_trees_verified_first(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")
    data = servers.server(shop.context, "site1", "farm2", "site1-farm2-ws1")
    assert data["state"] == "done"
    assert shop.cluster.servers["site1-farm2-ws1"].release == NEW
    stage = next(a for f, _, a in shop.cluster.calls if f == "webfarm_release.stage")
    assert stage["verify"] is True
    assert {t for _, targets, _ in shop.cluster.calls for t in targets} == {"site1-farm2-ws1"}


def test_a_server_of_a_farm_that_is_not_open_is_refused(shop: Shop) -> None:
    paused(shop, "webfarm_release.switch")
    with pytest.raises(WebfarmError, match="farm1 of site1 is not open"):
        servers.server(shop.context, "site1", "farm1", "site1-farm1-ws1")
    with pytest.raises(WebfarmError, match="has no server ws9"):
        servers.server(shop.context, "site1", "farm1", "ws9")
    assert servers.server(shop.context, "site1", "farm2", "site1-farm2-ws1")["result"]


def test_a_minion_that_starts_is_brought_back(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")
    assert servers.rejoin(shop.context, "site1-farm2-ws1")["state"] == "done"
    assert shop.cluster.servers["site1-farm2-ws1"].release == NEW
    assert shop.cluster.calls[0][:2] == ("saltutil.sync_all", ("site1-farm2-ws1",))


@pytest.mark.parametrize("minion", ["site1-lb1", "lb1", "nobody", "site1-farm2-ws1"])
def test_a_minion_for_which_there_is_nothing_to_do_is_no_error(shop: Shop, minion: str) -> None:
    data = servers.rejoin(shop.context, minion)
    assert (data["result"], data["state"]) == (True, "nothing")
    assert minion in data["message"]
    assert shop.cluster.calls == []
    assert not Path(shop.context.journal_path).exists()


def test_a_minion_whose_site_a_run_has_in_hand_is_left_alone(shop: Shop) -> None:
    found = during(
        shop, "webfarm_release.switch", lambda: servers.rejoin(shop.context, "site1-farm1-ws1")
    )
    assert commands.upgrade(shop.context, "site1")["state"] == "done"
    assert (found[0]["result"], found[0]["state"]) == (True, "nothing")
    assert "not open on one release" in found[0]["message"]

    def other() -> Any:
        name = "site1-farm2-ws1"
        shop.cluster.servers[name] = replace(shop.cluster.servers[name], ready=False)
        return servers.rejoin(shop.context, name)

    found = during(shop, "webfarm_release.switch", other)
    commands.upgrade(shop.context, "site1", "farm1", "2026.11.10")
    assert (found[0]["result"], found[0]["state"]) == (True, "nothing")
    assert "held by alice" in found[0]["message"]


def test_a_server_that_returned_during_a_run_is_brought_back_at_its_end(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")
    name = "site1-farm2-ws1"
    found = during(shop, "webfarm_release.switch", lambda: servers.rejoin(shop.context, name))
    data = commands.upgrade(shop.context, "site1", "farm1", policy={"min_capacity": 0.25})
    assert "held by alice" in found[0]["message"]
    assert data["state"] == "done"
    assert name in data["returned"]
    assert shop.cluster.servers[name].release == NEW
    again = commands.upgrade(shop.context, "site1", "farm1")
    assert again["state"] == "nothing" and "returned" not in again


def test_a_rack_returns_one_server_after_the_other(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")
    shop.cluster.servers["site1-farm2-ws2"] = replace(
        shop.cluster.servers["site1-farm2-ws2"], release=OLD
    )
    other: list[Any] = []

    def second(asked: str) -> None:  # while the first is at it; it waits by sleeping
        if asked == "webfarm_release.switch" and not other:
            other.append(None)
            late = replace(shop.context, interrupted=lambda: True)
            other[0] = servers.rejoin(late, "site1-farm2-ws2")

    shop.cluster.on_call = second
    assert servers.rejoin(shop.context, "site1-farm2-ws1")["state"] == "done"
    assert other[0]["state"] == "nothing" and "held by alice" in other[0]["message"]
    assert servers.rejoin(shop.context, "site1-farm2-ws2")["state"] == "done"


def test_a_return_that_was_cut_short_does_not_block_the_next(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")

    def kill(asked: str) -> None:
        if asked == "webfarm_release.switch":
            raise Killed

    shop.cluster.on_call = kill
    gone: Context = replace(shop.context, process=replace(this_process(), boot="older"))
    with pytest.raises(Killed):
        servers.rejoin(gone, "site1-farm2-ws1")
    shop.cluster.on_call = lambda function: None
    shop.cluster.servers["site1-farm2-ws2"] = replace(
        shop.cluster.servers["site1-farm2-ws2"], release=OLD
    )
    assert servers.rejoin(shop.context, "site1-farm2-ws2")["state"] == "done"
    assert shop.cluster.servers["site1-farm2-ws1"].release == NEW
    assert shop.cluster.servers["site1-farm2-ws2"].release == NEW


def test_a_return_waits_for_balancers_that_start_too(shop: Shop) -> None:
    stale(shop, "site1-farm2-ws1")
    shop.cluster.silent.add("site1-lb2")
    sleep = shop.cluster.sleep
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            shop.cluster.silent.clear()
        sleep(seconds)

    shop.cluster.sleep = nap  # type: ignore[method-assign]
    assert servers.rejoin(shop.context, "site1-farm2-ws1")["state"] == "done"
    shop.cluster.silent.add("site1-lb2")
    shop.cluster.servers["site1-farm2-ws1"] = replace(
        shop.cluster.servers["site1-farm2-ws1"], release=OLD
    )
    naps.clear()
    naps += [0.0] * 3
    data = servers.rejoin(shop.context, "site1-farm2-ws1")
    assert data["state"] == "nothing" and "site1-lb2" in data["message"]

"""What an operator sees: status, watch and history, from another shell and after a crash."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout import commands, control, status
from webfarm.rollout.lease import Lease, Process, this_process
from webfarm.rollout.lines import Lines
from webfarm.rollout.report import brief

from tests.unit.easy_cluster import Shop, pillar_of

OLD, NEW = "2026.11.1", "2026.11.2"


@pytest.fixture
def shop(tmp_path: Path, pillar: dict[str, Any]) -> Shop:
    return Shop(tmp_path, pillar_of(pillar))


def look_during(shop: Shop, function: str, look: Any) -> list[Any]:
    """What ``look`` shows, from another shell, while a run asks for ``function``."""
    seen: list[Any] = []

    def act(asked: str) -> None:
        if asked == function and not seen:
            seen.append(look())

    shop.cluster.on_call = act
    return seen


# -- status ----------------------------------------------------------------------------------------


def test_status_looks_once_at_each_site_and_at_no_server(shop: Shop) -> None:
    data = status.status(shop.context)
    assert shop.cluster.observed == [("site1", None, False), ("site2", None, False)]
    assert shop.cluster.calls == []
    assert "open on 2026.11.1" in data["sites"]["site2"]["farm1"]
    assert data["unfinished"] == data["held"] == []
    assert not Path(shop.context.journal_path).exists()


def test_status_of_a_run_that_goes_on_says_who_where_and_what(shop: Shop) -> None:
    seen = look_during(
        shop, "webfarm_release.switch", lambda: status.status(shop.as_user("bob"), "site1")
    )
    commands.upgrade(shop.context, "site1")
    (data,) = seen
    (held,) = data["held"]
    assert (held["site"], held["holder"], held["alive"]) == ("site1", "alice", True)
    assert held["expires"] > held["last_heartbeat"]
    (run,) = data["unfinished"]
    assert (run["id"], run["state"], run["conducted"]) == (1, "running", True)
    assert run["message"].startswith("now: site1 farm1: switch: to 2026.11.2")
    assert run["next"] == [
        f"salt-run upgrade.{what} 1" for what in ("watch", "pause", "abort", "rollback")
    ]
    json.dumps(data)
    said = brief(data)
    assert "quarantined" not in said
    assert said["unfinished"]["run 1"]["what"].endswith(f"by alice on {run['host']}")
    assert said["unfinished"]["run 1"]["next"] == run["next"]


def test_status_shows_a_wish_that_is_not_yet_done(shop: Shop) -> None:
    def look() -> Any:
        control.abort(shop.as_user("bob"), 1, "too slow")
        return status.status(shop.context)

    seen = look_during(shop, "webfarm_release.switch", look)
    commands.upgrade(shop.context, "site1")
    assert seen[0]["unfinished"][0]["wished"] == "to be aborted by bob (too slow)"


def test_status_of_a_run_whose_process_is_gone_says_how_to_go_on(shop: Shop) -> None:
    shop.stop = True
    commands.upgrade(shop.context, "site1")
    with shop.context.journal() as journal:
        journal.connection.execute("UPDATE runs SET state='running', outcome=NULL")
        gone = replace(this_process(), boot="an older boot")
        Lease(journal.connection, "site1", "alice", shop.cluster, gone).take("upgrade")
    data = status.status(shop.context)
    assert data["held"][0]["alive"] is False
    (run,) = data["unfinished"]
    assert (run["conducted"], run["next"][0]) == (False, "salt-run upgrade.resume 1")
    assert "its process is gone" in run["message"]


def test_status_drops_a_quarantined_server_once_it_is_in_service(shop: Shop) -> None:
    shop.cluster.silent.add("site1-farm2-ws1")
    commands.upgrade(shop.context, "site1", "farm2", policy={"min_capacity": 0.25})
    data = status.status(shop.context)
    assert list(data["quarantined"]) == ["site1 farm2 site1-farm2-ws1"]
    assert "does not answer" in data["quarantined"]["site1 farm2 site1-farm2-ws1"]
    assert data["next"] == ["salt-run upgrade.server site1 farm2 site1-farm2-ws1"]
    assert status.status(shop.context, "site2")["quarantined"] == {}
    shop.cluster.silent.clear()
    name = "site1-farm2-ws1"
    shop.cluster.servers[name] = replace(shop.cluster.servers[name], release=NEW)
    shop.cluster._check()
    assert status.status(shop.context)["quarantined"] == {}


def test_status_shows_bad_releases_and_closed_windows(
    tmp_path: Path, pillar: dict[str, Any]
) -> None:
    freeze = {
        **{"from": "2023-11-01T00:00", "to": "2023-12-01T00:00"},
        **{"timezone": "UTC", "reason": "the big sale"},
    }
    shop = Shop(tmp_path, pillar_of(pillar, freezes=[freeze]))
    control.bad(shop.context, NEW, "loses carts")
    data = status.status(shop.context)
    assert data["bad"] == {NEW: "loses carts (alice)"}
    assert "the big sale" in data["closed"]["site1"]


def test_status_of_a_site_whose_balancer_is_silent_says_so(shop: Shop) -> None:
    shop.cluster.silent.add("site1-lb1")
    assert "site1-lb1" in status.status(shop.context)["sites"]["site1"]["farm1"]
    with pytest.raises(WebfarmError, match="site1, site2"):
        status.status(shop.context, "site3")


# -- watch -----------------------------------------------------------------------------------------


def watched(shop: Shop, **arguments: Any) -> tuple[dict[str, Any], list[str]]:
    out = io.StringIO()
    data = status.watch(replace(shop.context, watcher=Lines(out)), **arguments)
    return data, [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]


def test_watch_ends_with_the_run_and_has_its_result(shop: Shop) -> None:
    done = commands.upgrade(shop.context, "site1")
    data, lines = watched(shop, id=1)
    assert data == done
    assert lines[0] == "run 1 starts: upgrade of site1 (farm1, farm2) to 2026.11.2"
    assert "done: farm2 is in service on 2026.11.2" in lines
    assert lines[-1].startswith("run 1 done: ")


def test_watch_shows_the_steps_as_they_come_and_a_pause_ends_it(shop: Shop) -> None:
    """The other process moves on whenever the one that watches sleeps."""
    first: dict[str, Any] = {}

    def look() -> None:
        def between_two_looks(seconds: float) -> None:
            with shop.context.journal() as journal:
                if first:
                    data = {"result": False, "state": "paused", "message": "paused by bob"}
                    journal.end_run(1, "paused", data, shop.cluster.now)
                first["seen"] = True
            shop.cluster.now += seconds

        shop.cluster.sleep = between_two_looks  # type: ignore[method-assign]
        first["data"], first["lines"] = watched(shop)

    def act(asked: str) -> None:
        if asked == "webfarm_release.switch" and not first:
            sleep = shop.cluster.sleep
            look()
            shop.cluster.sleep = sleep  # type: ignore[method-assign]

    shop.cluster.on_call = act
    shop.stop = False
    commands.upgrade(shop.context, "site1")
    assert first["data"]["result"] is False
    assert any(line.startswith("fence     done") for line in first["lines"])
    assert first["lines"][-1] == "run 1 paused: paused by bob"


def test_ctrl_c_leaves_only_the_watching(shop: Shop) -> None:
    seen = look_during(
        shop,
        "webfarm_release.switch",
        lambda: status.watch(replace(shop.context, interrupted=lambda: True)),
    )
    assert commands.upgrade(shop.context, "site1")["state"] == "done"
    assert (seen[0]["result"], seen[0]["message"]) == (True, "run 1 goes on")


def test_watch_of_a_run_that_nobody_conducts_says_how_to_go_on(shop: Shop) -> None:
    shop.stop = True
    commands.upgrade(shop.context, "site1")
    shop.stop = False
    with shop.context.journal() as journal:
        journal.connection.execute("UPDATE runs SET state='running', outcome=NULL")
    data, _ = watched(shop)
    assert data["result"] is False
    assert data["next"] == "salt-run upgrade.resume 1"
    with pytest.raises(WebfarmError, match="there is no run 9"):
        status.watch(shop.context, 9)


# -- history ---------------------------------------------------------------------------------------


def test_history_has_the_latest_runs_first_and_one_with_its_steps(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1", policy={"soak_seconds": 3}, override="now")
    commands.upgrade(shop.context, "site2", "farm1")
    runs = status.history(shop.context)["runs"]
    assert [(run["id"], run["state"], run["holder"]) for run in runs] == [
        *((2, "done", "alice"), (1, "done", "alice"))
    ]
    assert len(status.history(shop.context, limit=1)["runs"]) == 1
    whole = status.history(shop.context, id=1)
    assert whole["policy"] == {"soak_seconds": 3}
    assert [step["name"] for step in whole["steps"]] == ["stage"]
    assert [rollout["farm"] for rollout in whole["rollouts"]] == ["farm1", "farm2"]
    flush = next(s for s in whole["rollouts"][0]["steps"] if s["name"] == "flush")
    assert flush["state"] == "done"
    assert [(record["what"], record["why"]) for record in whole["records"]] == [("override", "now")]
    said = brief(whole)
    assert said["policy"] == {"soak_seconds": 3}
    assert said["decisions"][0].endswith("alice: override now")
    assert said["site1 farm2 (rollout 2)"]["steps"][0].startswith("preflight done ")
    number = whole["rollouts"][1]["id"]
    assert status.history(shop.context, rollout=number)["farm"] == "farm2"
    json.dumps([runs, whole])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": 99}, "there is no run 99"),
        ({"rollout": 99}, "there is no rollout 99"),
        ({"id": "7"}, "id is '7', expected a number"),
        ({"limit": True}, "limit is True, expected a number"),
        ({"rollout": 1.5}, "rollout is 1.5, expected a number"),
    ],
)
def test_what_is_not_in_the_history_is_said(
    shop: Shop, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(WebfarmError, match=message):
        status.history(shop.context, **arguments)


def test_another_host_is_never_known_to_be_dead(shop: Shop) -> None:
    with shop.context.journal(make=True) as journal:
        far = Process("master2", 7, "1", "boot")
        Lease(journal.connection, "site1", "bob", shop.cluster, far).take("upgrade")
    assert status.status(shop.context)["held"][0]["alive"] is True
    shop.cluster.now += 120
    held = status.status(shop.context)["held"][0]
    assert (held["alive"], held["next"]) == (
        False,
        "anybody may take over: salt-run upgrade.resume",
    )

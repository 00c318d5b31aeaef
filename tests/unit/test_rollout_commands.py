"""What an operator types, against a simulated site: plans, runs, stops, refusals, words."""

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import BadName, WebfarmError
from webfarm.rollout.commands import Context
from webfarm.rollout.journal import Journal, connect
from webfarm.rollout.lease import Held, Lease
from webfarm.rollout.model import Step
from webfarm.rollout.report import Lines, Screen, brief, show_plan, watcher_for
from webfarm.rollout.watcher import Watcher

from tests.conftest import EXAMPLE
from tests.simulation.drive import pillar_of
from tests.simulation.world import World


class Shop:
    """A simulated site and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1, pillar_of(EXAMPLE, 2))
        self.stop = False
        self.context = Context(
            topology=self.world.topology,
            cluster=self.world,
            clock=self.world,
            journal_path=folder / "webfarm" / "journal.sqlite",
            holder="tester",
            stopping=lambda: self.stop,
        )

    def changes(self) -> list[str]:
        return [line for line in self.world.trace if " call " in line]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_plan_shows_each_step_with_capacity_and_changes_nothing(shop: Shop) -> None:
    data = shop.context.plan("site1", "farm2")
    assert data["result"]
    (farm,) = data["farms"]
    steps = {step["step"].split()[1]: step for step in farm["steps"]}
    assert list(steps)[:4] == ["stage", "preflight", "drain", "close"]
    assert steps["stage"]["capacity"] == "100 %"
    assert steps["switch"]["capacity"] == "50 %"
    assert steps["open"]["capacity"] == "100 %"
    assert steps["drain"]["targets"] == "site1-lb1, site1-lb2"
    assert farm["lowest_capacity"] == "50 %"
    assert farm["command"] == "salt-run upgrade.farm site1 farm2 release=2026.11.2"
    assert shop.changes() == []
    assert not Path(shop.context.journal_path).exists()


def test_a_plan_of_a_site_takes_each_farm_as_the_one_before_leaves_the_site(shop: Shop) -> None:
    data = shop.context.plan("site1")
    first, second = data["farms"]
    why = {step["step"].split()[1]: step["why"] for step in second["steps"]}
    assert "generation 2" in why["ready"]
    assert why["close"] == "sessions go to farm1"
    assert first["end"] == second["end"] == "in service on 2026.11.2"


def test_a_plan_says_why_it_would_be_refused(shop: Shop) -> None:
    shop.world.kill("site1-farm1-ws1")
    shop.world.sleep(60)
    data = shop.context.plan("site1", "farm2")
    assert not data["result"]
    assert "keeps 25 %" in data["farms"][0]["refused"][0]


def test_the_second_run_finds_nothing_to_do(shop: Shop) -> None:
    first = shop.context.farm("site1", "farm2")
    assert (first["result"], first["state"]) == (True, "done")
    before = len(shop.changes())
    second = shop.context.farm("site1", "farm2")
    assert (second["result"], second["state"]) == (True, "nothing")
    assert "nothing to do" in second["message"]
    assert len(shop.changes()) == before
    json.dumps([first, second])


def test_a_whole_site_goes_farm_by_farm(shop: Shop) -> None:
    data = shop.context.farms("site1")
    assert data["result"]
    assert [outcome["farm"] for outcome in data["outcomes"]] == ["farm1", "farm2"]
    assert {web.release for web in shop.world.web.values()} == {"2026.11.2"}
    assert shop.world.excused == 0
    assert set(brief(data)["outcomes"]) == {"site1 farm1", "site1 farm2"}


def test_the_first_farm_that_fails_ends_the_site(shop: Shop) -> None:
    for web in shop.world.members("farm1"):
        web.bad.add("2026.11.2")
    data = shop.context.farms("site1")
    assert not data["result"]
    assert data["not_begun"] == ["site1 farm2"]


def test_s5_a_site_that_is_held_is_refused_and_the_holder_named(shop: Shop) -> None:
    path = Path(shop.context.journal_path)
    Lease(connect(path), "site1", "alice").take("farm1 to 2026.11.2", shop.world.time())
    with pytest.raises(Held, match="held by alice"):
        shop.context.farm("site1", "farm2")
    assert shop.changes() == []
    (held,) = shop.context.status("site1")["held"]
    assert (held["holder"], held["alive"]) == ("alice", True)


class StopAt(Watcher):
    """Types Ctrl-C while a step runs."""

    def __init__(self, shop: Shop, step: str) -> None:
        self.shop = shop
        self.step = step

    def step_started(self, step: Step, capacity: float) -> None:
        self.shop.stop = self.shop.stop or step.name == self.step


ORDER = [
    *("stage", "preflight", "drain", "close", "quiesce", "fence", "switch", "flush", "warm"),
    *("verify", "ready", "open", "soak"),
]


@pytest.mark.parametrize("step", ORDER)
def test_ctrl_c_stops_after_the_step_and_the_same_command_goes_on(shop: Shop, step: str) -> None:
    shop.context.watcher = StopAt(shop, step)
    stopped = shop.context.farm("site1", "farm2")
    assert (stopped["result"], stopped["state"]) == (False, "stopped")
    assert [done["step"] for done in stopped["steps"]] == ORDER[: ORDER.index(step) + 1]
    assert stopped["next"] == "salt-run upgrade.farm site1 farm2 release=2026.11.2"
    assert "farm2 of site1 is" in stopped["cluster"]
    if step != "soak":
        (unfinished,) = shop.context.status()["unfinished"]
        assert unfinished["state"] == "stopped"
    shop.context.watcher = Watcher()
    shop.stop = False
    outcome = shop.context.farm("site1", "farm2")
    assert outcome["result"]
    assert outcome["rollout"] == stopped["rollout"]
    assert shop.context.status()["unfinished"] == []


def test_history_has_the_steps_with_their_evidence(shop: Shop) -> None:
    rollout = shop.context.farm("site1", "farm2")["rollout"]
    (entry,) = shop.context.history()["rollouts"]
    assert (entry["id"], entry["state"], entry["holder"]) == (rollout, "done", "tester")
    whole = shop.context.history(rollout=rollout)
    flush = next(step for step in whole["steps"] if step["name"] == "flush")
    assert flush["state"] == "done"
    assert flush["evidence"]["pool"]["10.77.1.121:11211"] == {"flushed": True, "items": 0}
    with pytest.raises(WebfarmError, match="no rollout 99"):
        shop.context.history(rollout=99)


def test_hostile_names_go_nowhere(shop: Shop, hostile_name: Any) -> None:
    calls = [
        lambda: shop.context.farm(hostile_name, "farm2"),
        lambda: shop.context.farm("site1", hostile_name),
    ]
    if hostile_name is not None:
        calls.append(lambda: shop.context.farm("site1", "farm2", hostile_name))
        calls.append(lambda: shop.context.plan("site1", "farm2", hostile_name))
        calls.append(lambda: shop.context.status(hostile_name))
    for call in calls:
        with pytest.raises(BadName):
            call()
    assert shop.changes() == []


def test_unknown_names_are_answered_with_what_exists(shop: Shop) -> None:
    with pytest.raises(WebfarmError, match="site1, site2"):
        shop.context.farm("site3", "farm1")
    with pytest.raises(WebfarmError, match="farm1, farm2"):
        shop.context.farm("site1", "farm9")
    with pytest.raises(WebfarmError, match=r"2026\.11\.1, 2026\.11\.2, 2026\.11\.10"):
        shop.context.farm("site1", "farm1", "2027.1")


def test_a_journal_that_cannot_be_written_stops_the_rollout(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    intend = Journal.intend

    def full(self: Journal, rollout: int, step: Step, now: float) -> int:
        if step.name == "fence":
            raise sqlite3.OperationalError("database or disk is full")
        return intend(self, rollout, step, now)

    monkeypatch.setattr(Journal, "intend", full)
    with pytest.raises(WebfarmError, match="disk is full"):
        shop.context.farm("site1", "farm2")
    assert not any("'release'" in line and "set_farms" in line for line in shop.changes())
    monkeypatch.undo()
    assert shop.context.farm("site1", "farm2")["result"]


# -- what is shown ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_a_step_where_there_is_no_terminal(shop: Shop) -> None:
    out = io.StringIO()
    shop.context.watcher = watcher_for(out, quiet=False)
    assert isinstance(shop.context.watcher, Lines)
    shop.context.farm("site1", "farm2")
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines[1:-2]] == ORDER
    assert "done: farm2 is in service on 2026.11.2" in lines[-2]


def test_a_live_table_on_a_terminal(shop: Shop) -> None:
    out = Terminal()
    shop.context.watcher = watcher_for(out, quiet=False)
    assert isinstance(shop.context.watcher, Screen)
    shop.context.farm("site1", "farm2")
    assert "farm2 is in service on 2026.11.2" in out.getvalue()
    assert "quiesce" in out.getvalue()


def test_quiet_says_nothing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.context.watcher = watcher_for(io.StringIO(), quiet=True)
    shop.context.farm("site1", "farm2")
    assert capsys.readouterr() == ("", "")


def test_a_plan_as_a_table_and_its_brief(shop: Shop) -> None:
    data = shop.context.plan("site1")
    out = io.StringIO()
    show_plan(data, out)
    assert "7 switch" in out.getvalue()
    assert "site1-farm2-ws1, site1-farm2-ws2" in out.getvalue()
    assert brief(data)["farms"] == {
        "site1 farm1": "in service on 2026.11.2",
        "site1 farm2": "in service on 2026.11.2",
    }

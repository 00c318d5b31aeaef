"""The runner `rebalance`: what it shows, what it leaves for the engine, and how it says no."""

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rebalance_world import FARM, LB1, LB2, WS1, WS2, Keys, World
from webfarm.errors import BadName, WebfarmError
from webfarm.rebalance import commands, table
from webfarm.rebalance.simulate import simulate

ROOT = Path(__file__).parents[2]
SLOW = {"busy": 60.0, "active": 12.0}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def world(keys: Keys) -> World:
    return World(keys)


def shown(data: dict[str, Any]) -> str:
    stream = io.StringIO()
    table.show_status(data, stream)
    return stream.getvalue()


def status(world: World) -> dict[str, Any]:
    return commands.status(world.book, world.topology, *FARM, world.now)


# -- status, explain -------------------------------------------------------------------------------


def test_status_without_an_engine_says_so_and_fails(world: World) -> None:
    data = status(world)
    assert data["result"] is False
    assert "never ran on this master; add `engines:" in data["message"]
    assert "nothing was decided yet" in shown(data)
    assert WS1 in shown(data)
    world.settle(8)
    assert status(world)["result"] is True
    world.now += 60
    assert "has not decided for 6" in status(world)["message"]


def test_status_shows_target_and_what_each_balancer_has(world: World) -> None:
    world.settle(40, **{WS1: SLOW})
    world.answer(LB1)
    world.answer(LB2, applied={WS1: {"weight": 100, "state": "ready"}})
    world.settle(2, **{WS1: SLOW})
    world.turn(4)
    data = status(world)
    (farm,) = data["farms"]
    server = farm["servers"][WS1]
    weight = world.loop.vector.weights[WS1]
    assert server["weight"] == weight < 100
    assert server["applied"] == {
        LB1: {"weight": weight, "state": "ready"},
        LB2: {"weight": 100, "state": "ready"},
    }
    text = shown(data)
    line = next(line for line in text.splitlines() if WS1 in line)
    assert f" {weight} " in line
    assert " 100 " in line
    assert "share of new sessions" in text
    assert json.loads(json.dumps(data)) == data


def test_status_shows_drains_silence_and_who_holds_what(world: World) -> None:
    world.settle(8)
    world.report(WS1, critical=["php-fpm"])
    commands.freeze(world.book, world.topology, *FARM, WS2, "a test", "2h", "alice", world.now)
    world.turn(20)
    text = shown(status(world))
    assert "drain" in next(line for line in text.splitlines() if WS1 in line)
    assert "frozen by alice: a test" in text
    assert f"{LB1} has not answered" in text
    (line,) = table.brief(status(world))["freezes"]
    assert line == f"{WS2}: by alice, 2 h more: a test"


def test_explain_shows_the_last_changes_with_their_inputs(world: World) -> None:
    world.settle(40, **{WS1: SLOW})
    data = commands.explain(world.book, world.topology, WS1, world.now)
    assert data["result"] is True
    assert (data["site"], data["farm"]) == FARM
    last = data["changes"][0]
    assert last["to"] == data["now"]["weight"]
    assert last["why"]
    assert last["from_what"]["ratio"] < 1
    assert 0 <= last["ago"] < 40
    with pytest.raises(WebfarmError, match="no web server"):
        commands.explain(world.book, world.topology, LB1, world.now)


# -- freeze, thaw ----------------------------------------------------------------------------------


def test_a_freeze_needs_a_reason_and_a_thing_that_exists(world: World) -> None:
    def freeze(*thing: Any, reason: object = "a test", expires: object = None) -> dict[str, Any]:
        args = [*thing, *[None] * (3 - len(thing))]
        return commands.freeze(
            world.book, world.topology, *args, reason, expires, "root", world.now
        )

    for bad in (None, "", "  ", 7):
        with pytest.raises(WebfarmError, match="reason"):
            freeze("site1", reason=bad)
    for thing in (("site9",), ("site1", "farm9"), (*FARM, "site1-farm2-ws1"), ("site1", None, WS1)):
        with pytest.raises(WebfarmError):
            freeze(*thing)
    for length in (0, 60, "0s", "60", "1w", "-1h", "1.5h", "367d", True, "1h "):
        with pytest.raises(WebfarmError, match=r"expires is .*, expected a length"):
            freeze("site1", expires=length)
    assert world.book.freezes(world.now) == []
    assert freeze("site1", expires="90s")["freeze"]["left"] == 90


def test_a_thaw_takes_exactly_its_freeze_back_and_names_what_is_left(world: World) -> None:
    for thing in (("site1", None, None), (*FARM, WS1)):
        commands.freeze(world.book, world.topology, *thing, "a test", None, "root", world.now)

    def thaw(*thing: str | None) -> dict[str, Any]:
        return commands.thaw(world.book, world.topology, *thing, world.now)

    data = thaw(*FARM, WS2)
    assert data["message"] == f"{WS2} was not frozen itself; there is still: site1"
    data = thaw(*FARM, WS1)
    assert data["message"] == f"{WS1} is thawed; there is still: site1"
    assert thaw("site1", None, None)["message"] == "site1 is thawed"
    assert world.book.freezes(world.now) == []


# -- reconcile -------------------------------------------------------------------------------------


def reconcile(world: World, answering: tuple[str, ...]) -> dict[str, Any]:
    def sleep(seconds: float) -> None:
        sent = len(world.vectors())
        world.turn(1)
        if len(world.vectors()) > sent:
            for balancer in answering:
                world.answer(balancer)

    return commands.reconcile(world.book, world.topology, *FARM, lambda: world.now, sleep)


def test_reconcile_waits_for_every_balancers_answer(world: World) -> None:
    with pytest.raises(WebfarmError, match="nothing was sent: the engine"):
        reconcile(world, (LB1, LB2))
    world.settle(8)
    data = reconcile(world, (LB1, LB2))
    assert (data["result"], data["message"]) == (True, "every balancer has the farms' vectors")
    world.turn(2)
    data = reconcile(world, (LB1,))
    assert data["result"] is False
    assert data["silent"] == {"site1 farm1": [LB2]}
    assert "no answer in 15 s: site1 farm1: site1-lb2; see" in data["message"]


# -- simulate --------------------------------------------------------------------------------------


def test_simulate_shows_what_the_law_would_do(world: World) -> None:
    reports = [{"id": WS1, **SLOW}, {"id": WS2}]
    data = simulate(world.topology, reports, repeat=True)
    found = data["farms"]["site1 farm1"]
    assert found[-1]["weights"][WS1] < 100
    assert found[-1]["seconds"] == 40
    assert found[-1]["why"][WS1]
    assert world.book.views() == {}
    played = [{"id": WS1, "at": float(t), "up": float(t), **SLOW} for t in range(0, 60, 5)]
    found = simulate(world.topology, played)["farms"]["site1 farm1"]
    assert found[-1]["seconds"] == 56


ODD = [
    *(None, {}, [], [7], [{}], [{"id": 7}], [{"id": LB1}]),
    *([{"id": WS1, "busy": -1.0}], [{"id": WS1, "x": 1}]),
]


@pytest.mark.parametrize("reports", ODD, ids=repr)
def test_simulate_says_what_is_wrong_with_a_report(world: World, reports: Any) -> None:
    with pytest.raises(WebfarmError, match="reports"):
        simulate(world.topology, reports)


# -- the runner ------------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Any:
    spec = importlib.util.spec_from_file_location("runner", ROOT / "_runners" / "rebalance.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    opts = {"cachedir": str(tmp_path), "id": "master_master", "fun": "rebalance.status"}
    vars(module).update({"__opts__": opts})
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.salt_master, "topology", lambda opts: world.topology)
    return module


def test_the_runner_shows_tables_or_gives_one_document(
    runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = runner.status("site1")
    assert answer["outputter"] == "yaml"
    assert answer["data"]["retcode"] == 1  # no engine runs
    assert "site1 farm1" in capsys.readouterr().out
    runner.__opts__["output"] = "json"
    answer = runner.status("site1")
    assert len(answer["farms"]) == 2
    assert capsys.readouterr().out == ""


def test_the_runner_refuses_hostile_names(runner: Any, hostile_name: Any) -> None:
    if hostile_name is None:
        return
    for ask in (
        lambda: runner.status(hostile_name),
        lambda: runner.explain(hostile_name),
        lambda: runner.freeze("site1", hostile_name, reason="x"),
        lambda: runner.thaw("site1", "farm1", hostile_name),
        lambda: runner.reconcile(hostile_name),
    ):
        assert ask()["data"]["retcode"] == 1
    runner.__opts__["fun"] = "state.orchestrate"
    with pytest.raises(BadName):
        runner.freeze(hostile_name, reason="x")


def test_the_runner_freezes_on_the_masters_disk(runner: Any, tmp_path: Path) -> None:
    runner.__opts__["output"] = "json"
    data = runner.freeze("site1", "farm1", reason="load test", expires="1h")
    assert data["result"] is True
    assert "will be frozen, but the engine" in data["message"]
    assert runner.status("site1", "farm1")["freezes"][0]["reason"] == "load test"
    assert runner.status("site2")["freezes"] == []
    assert runner.thaw("site1", "farm1")["message"] == "site1 farm1 is thawed"
    assert (tmp_path / "webfarm/rebalance.sqlite").stat().st_mode & 0o777 == 0o600


def test_the_runner_simulates_from_a_file(runner: Any, tmp_path: Path) -> None:
    runner.__opts__["output"] = "json"
    path = tmp_path / "reports.json"
    path.write_text(json.dumps([{"id": WS1, "critical": ["nginx"]}]))
    data = runner.simulate(str(path))
    assert list(data["farms"]["site1 farm1"][-1]["drained"]) == [WS1]
    path.write_text("{")
    assert "cannot be read as JSON" in runner.simulate(str(path))["message"]

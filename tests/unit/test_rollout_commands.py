"""Plans, and the runs of a farm, a site and all: what is asked, what is refused, in which words."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout import commands, control
from webfarm.rollout.journal import Journal, Unfinished, connect
from webfarm.rollout.lease import Held, Lease
from webfarm.rollout.model import Step
from webfarm.rollout.watcher import Watcher

from tests.unit.easy_cluster import Shop, pillar_of

ORDER = [
    *("preflight", "drain", "close", "quiesce", "fence", "switch", "flush", "warm"),
    *("verify", "ready", "open", "soak"),
]


@pytest.fixture
def shop(tmp_path: Path, pillar: dict[str, Any]) -> Shop:
    return Shop(tmp_path, pillar_of(pillar))


def names_of(farm: dict[str, Any]) -> list[str]:
    return [step["step"].split()[1] for step in farm["steps"]]


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_shows_each_step_with_capacity_and_changes_nothing(shop: Shop) -> None:
    data = commands.plan(shop.context, "site1", "farm2")
    assert data["result"]
    (farm,) = data["farms"]
    steps = {step["step"].split()[1]: step for step in farm["steps"]}
    assert list(steps) == ["stage", *ORDER]
    assert steps["stage"]["capacity"] == "100 %"
    assert steps["switch"]["capacity"] == "50 %"
    assert steps["drain"]["targets"] == "site1-lb1, site1-lb2"
    assert (farm["lowest_capacity"], data["lowest_capacity"]) == ("50 %", "50 %")
    assert farm["load_without"] == "0 %"
    assert data["staging"] == "2 of 2 servers get the trees first, while all are in service"
    assert data["estimate"].startswith("about ")
    assert data["next"] == (
        f"salt-run upgrade.farm site1 farm2 release=2026.11.2 plan_id={data['plan_id']}"
    )
    assert shop.cluster.calls == []
    assert not Path(shop.context.journal_path).exists()


def test_a_plan_of_a_site_takes_each_farm_as_the_one_before_leaves_the_site(shop: Shop) -> None:
    data = commands.plan(shop.context, "site1", order="farm2,farm1")
    first, second = data["farms"]
    assert (first["farm"], second["farm"]) == ("farm2", "farm1")
    why = {step["step"].split()[1]: step["why"] for step in second["steps"]}
    assert "generation 2" in why["ready"]
    assert why["close"] == "sessions go to farm2"
    assert "order=site1/farm2,site1/farm1" in data["next"]


def test_a_plan_of_everything_looks_once_at_each_site(shop: Shop) -> None:
    commands.plan(shop.context)
    assert shop.cluster.observed == [("site1", None, True), ("site2", None, True)]


def test_a_plan_shows_the_policy_in_force_and_what_was_overridden(
    tmp_path: Path, pillar: dict[str, Any]
) -> None:
    shop = Shop(tmp_path, pillar_of(pillar, approve="site", approvers=["carol", "dave"]))
    data = commands.plan(shop.context, policy={"soak_seconds": 7, "gates": {"error_excess": 0.5}})
    policy = data["policy"]["site1"]
    assert (policy["in_force"]["soak_seconds"], policy["overridden"]["soak_seconds"]) == (7, 1)
    assert policy["in_force"]["gates"]["error_excess"] == 0.5
    assert policy["in_force"]["gates"]["min_requests"] == 0
    assert "min_capacity" not in policy["overridden"]
    assert [farm.get("approval") for farm in data["farms"]] == [
        *(None, "by carol or dave", None, None)
    ]
    assert "policy='{" in data["next"]
    soaks = [s for farm in data["farms"] for s in farm["steps"] if "soak" in s["step"]]
    assert [soak["at_most"] for soak in soaks] == ["7 s", "7 s", "7 s", "7 s"]


def test_the_first_farm_of_several_is_a_canary_with_a_longer_soak(shop: Shop) -> None:
    farms = commands.plan(shop.context, "site1")["farms"]
    soaks = [step["at_most"] for farm in farms for step in farm["steps"] if "soak" in step["step"]]
    assert soaks == ["2 s", "1 s"]


def test_a_plan_says_when_the_windows_are_closed(tmp_path: Path, pillar: dict[str, Any]) -> None:
    freeze = {
        **{"from": "2023-11-01T00:00", "to": "2023-12-01T00:00"},
        **{"timezone": "UTC", "reason": "the big sale"},
    }
    shop = Shop(tmp_path, pillar_of(pillar, freezes=[freeze]))
    data = commands.plan(shop.context, "site1")
    assert "frozen (the big sale)" in data["policy"]["site1"]["closed"]
    refused = commands.upgrade(shop.context, "site1")
    assert (refused["state"], refused["result"]) == ("refused", False)
    assert "the big sale" in refused["message"]
    assert shop.cluster.changes() == []
    done = commands.upgrade(shop.context, "site1", override="the sale itself is broken")
    assert done["state"] == "done"


def test_a_plan_says_why_it_would_be_refused(shop: Shop) -> None:
    shop.cluster.silent.add("site1-farm1-ws1")
    data = commands.plan(shop.context, "site1", "farm2")
    assert not data["result"]
    assert "keeps 25 %" in data["farms"][0]["refused"][0]


def test_a_plan_with_a_silent_balancer_is_refused_and_names_it(shop: Shop) -> None:
    shop.cluster.silent.add("site1-lb2")
    data = commands.plan(shop.context, "site1")
    assert not data["result"]
    assert "site1-lb2" in data["farms"][0]["refused"][0]


# -- a plan's id -----------------------------------------------------------------------------------


def test_a_plan_is_done_as_planned(shop: Shop) -> None:
    planned = commands.plan(shop.context, "site1")["plan_id"]
    assert planned == commands.plan(shop.context, "site1")["plan_id"]
    assert commands.upgrade(shop.context, "site1", plan_id=planned)["state"] == "done"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda shop: shop.cluster.silent.add("site1-farm1-ws1"), "what the servers run"),
        (lambda shop: shop.cluster.silent.add("site1-lb1"), "what the balancers have"),
    ],
)
def test_a_stale_plan_is_refused_and_says_what_changed(shop: Shop, change: Any, named: str) -> None:
    planned = commands.plan(shop.context, "site1")["plan_id"]
    change(shop)
    with pytest.raises(WebfarmError, match=f"is stale: changed since: .*{named}"):
        commands.upgrade(shop.context, "site1", plan_id=planned)
    assert shop.cluster.calls == []


def test_a_plan_of_something_else_is_refused(shop: Shop) -> None:
    planned = commands.plan(shop.context, "site1")["plan_id"]
    with pytest.raises(WebfarmError, match="the farms, their order"):
        commands.upgrade(shop.context, "site1", order="farm2,farm1", plan_id=planned)
    with pytest.raises(WebfarmError, match="the policy in force"):
        commands.upgrade(shop.context, "site1", policy={"soak_seconds": 9}, plan_id=planned)
    with pytest.raises(WebfarmError, match="it is no plan of this cluster"):
        commands.upgrade(shop.context, "site1", plan_id="p123")
    assert shop.cluster.calls == []


# -- runs ------------------------------------------------------------------------------------------


def test_the_second_run_finds_nothing_to_do(shop: Shop) -> None:
    first = commands.upgrade(shop.context, "site1", "farm2")
    assert (first["result"], first["state"]) == (True, "done")
    before = len(shop.cluster.calls)
    second = commands.upgrade(shop.context, "site1", "farm2")
    assert (second["result"], second["state"]) == (True, "nothing")
    assert len(shop.cluster.calls) == before


def test_all_goes_site_by_site_farm_by_farm(shop: Shop) -> None:
    data = commands.upgrade(shop.context, order="site2,site1")
    assert data["result"]
    assert [(one["site"], one["farm"]) for one in data["outcomes"]] == [
        *(("site2", "farm1"), ("site2", "farm2"), ("site1", "farm1"), ("site1", "farm2"))
    ]
    for site in ("site1", "site2"):
        assert shop.releases(site) == {"farm1": "2026.11.2", "farm2": "2026.11.2"}


def test_the_first_farm_that_fails_ends_the_site(shop: Shop) -> None:
    shop.cluster.broken.add("2026.11.2")
    data = commands.upgrade(shop.context, "site1")
    assert (data["result"], data["state"]) == (False, "failed")
    assert data["not_begun"] == ["site1 farm2"]
    assert shop.releases() == {"farm1": "2026.11.1", "farm2": "2026.11.1"}


def test_s5_a_site_that_is_held_is_refused_and_the_holder_named(shop: Shop) -> None:
    path = Path(shop.context.journal_path)
    Lease(connect(path), "site1", "bob", shop.cluster).take("farm1 to 2026.11.2")
    with pytest.raises(Held, match="held by bob"):
        commands.upgrade(shop.context, "site1", "farm2")
    assert shop.cluster.calls == []


def test_another_target_is_refused_while_a_run_is_unfinished(shop: Shop) -> None:
    shop.stop = True
    commands.upgrade(shop.context, "site1")
    shop.stop = False
    with pytest.raises(Unfinished, match=r"run 1 has not ended.*upgrade\.resume 1"):
        commands.upgrade(shop.context, "site1", release="2026.11.10")
    assert commands.upgrade(shop.context, "site1")["run"] == 1


def test_a_release_that_is_marked_bad_is_refused_with_who_and_why(shop: Shop) -> None:
    control.bad(shop.as_user("carol"), "2026.11.2", "loses carts")
    with pytest.raises(WebfarmError, match=r"2026\.11\.2 was marked bad by carol .*loses carts"):
        commands.upgrade(shop.context, "site1")
    planned = commands.plan(shop.context, "site1")
    assert not planned["result"] and "loses carts" in planned["message"]
    assert shop.cluster.calls == []
    control.good(shop.context, "2026.11.2", "it was the database")
    assert commands.upgrade(shop.context, "site1")["result"]


class StopAt(Watcher):
    """Types Ctrl-C while a step runs."""

    def __init__(self, shop: Shop, step: str) -> None:
        self.shop = shop
        self.step = step

    def step_started(self, step: Step, capacity: float) -> None:
        self.shop.stop = self.shop.stop or step.name == self.step


@pytest.mark.parametrize("step", ["stage", *ORDER[:-1]])
def test_ctrl_c_pauses_after_the_step_and_the_same_command_goes_on(shop: Shop, step: str) -> None:
    shop.context.watcher = StopAt(shop, step)
    paused = commands.upgrade(shop.context, "site1", "farm2")
    assert (paused["result"], paused["state"]) == (False, "paused")
    assert paused["next"] == "salt-run upgrade.resume 1"
    (outcome,) = paused["outcomes"]
    assert [done["step"] for done in outcome["steps"]][-1] == step
    shop.context.watcher = Watcher()
    shop.stop = False
    done = commands.upgrade(shop.context, "site1", "farm2")
    assert (done["result"], done["run"]) == (True, paused["run"])


def test_a_journal_that_cannot_be_written_stops_the_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    intend = Journal.intend

    def full(self: Journal, rollout: int, step: Step, now: float) -> int:
        if step.name == "fence":
            raise sqlite3.OperationalError("database or disk is full")
        return intend(self, rollout, step, now)

    monkeypatch.setattr(Journal, "intend", full)
    with pytest.raises(WebfarmError, match="disk is full"):
        commands.upgrade(shop.context, "site1", "farm2")
    assert "webfarm_release.switch" not in shop.cluster.changes()
    monkeypatch.undo()
    assert commands.upgrade(shop.context, "site1", "farm2")["result"]


# -- what is refused before anything is asked ------------------------------------------------------


def test_hostile_names_go_nowhere(shop: Shop, hostile_name: Any) -> None:
    calls = [
        lambda: commands.upgrade(shop.context, hostile_name, "farm2"),
        lambda: commands.upgrade(shop.context, "site1", order=[hostile_name, "farm2"]),
        lambda: commands.upgrade(shop.context, "site1", policy={str(hostile_name)[:99] + ";": 1}),
    ]
    if hostile_name is not None:  # which is the default of these
        calls += [
            lambda: commands.upgrade(shop.context, "site1", hostile_name),
            lambda: commands.upgrade(shop.context, "site1", "farm2", hostile_name),
            lambda: commands.upgrade(shop.context, "site1", plan_id=hostile_name),
            lambda: commands.plan(shop.context, "site1", "farm2", hostile_name),
        ]
    for call in calls:
        with pytest.raises(WebfarmError):
            call()
    assert shop.cluster.calls == shop.cluster.observed == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "site3"}, "site1, site2"),
        ({"site": "site1", "farm": "farm9"}, "farm1, farm2"),
        ({"farm": "farm1"}, "a farm needs its site"),
        ({"site": "site1", "release": "2027.1"}, r"2026\.11\.1, 2026\.11\.2, 2026\.11\.10"),
        ({"site": "site1", "order": "farm1"}, "missing: site1/farm2"),
        ({"site": "site1", "policy": "soak"}, "policy is 'soak', expected a mapping"),
        ({"site": "site1", "policy": {"soak_seconds": -1}}, r"policy\.soak_seconds"),
        ({"site": "site1", "policy": {"windows": []}}, r"policy\.windows"),
        ({"site": "site1", "override": 7}, "override is 7, expected a sentence"),
        ({"site": "site1", "reset_sessions": 1}, "expected True or False"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_asked(
    shop: Shop, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(WebfarmError, match=message):
        commands.upgrade(shop.context, **arguments)
    assert shop.cluster.calls == shop.cluster.observed == []


def test_a_tree_that_the_store_does_not_have_is_refused(shop: Shop) -> None:
    def digest(kind: str, version: str) -> str:
        raise WebfarmError(f"the store has no {kind} {version}")

    shop.context.digests = digest
    with pytest.raises(WebfarmError, match=r"the store has no php 8\.2\.36"):
        commands.upgrade(shop.context, "site1")
    assert shop.cluster.calls == []


# -- the order -------------------------------------------------------------------------------------


def test_a_farm_that_is_ahead_comes_last_unless_an_order_is_given(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1", "farm1")
    planned = commands.plan(shop.context, "site1", release="2026.11.10")
    assert [farm["farm"] for farm in planned["farms"]] == ["farm2", "farm1"]
    assert planned["result"]
    shop.cluster.observed.clear()
    data = commands.upgrade(shop.context, release="2026.11.10", plan_id=None)
    assert [one["farm"] for one in data["outcomes"]] == ["farm2", "farm1", "farm1", "farm2"]
    assert shop.cluster.observed[:2] == [("site1", None, False), ("site2", None, False)]
    assert shop.releases() == {"farm1": "2026.11.10", "farm2": "2026.11.10"}


def test_a_farm_that_is_there_comes_first_so_that_its_servers_are_back(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1", "farm2")
    name = "site1-farm2-ws1"
    shop.cluster.servers[name] = replace(shop.cluster.servers[name], release="2026.11.1")
    data = commands.upgrade(shop.context, "site1")
    assert [(one["farm"], one["state"]) for one in data["outcomes"]] == [
        *(("farm2", "done"), ("farm1", "done"))
    ]


def test_an_order_that_is_given_is_obeyed(shop: Shop) -> None:
    commands.upgrade(shop.context, "site1", "farm1")
    data = commands.upgrade(shop.context, "site1", None, "2026.11.10", order="farm1,farm2")
    assert (data["state"], data["outcomes"][0]["farm"]) == ("refused", "farm1")


def test_a_run_that_is_taken_up_keeps_its_order(shop: Shop) -> None:
    shop.context.watcher = StopAt(shop, "soak")
    first = commands.upgrade(shop.context, "site1", order="farm2,farm1")
    assert first["state"] == "paused"
    shop.context.watcher = Watcher()
    shop.stop = False
    assert [f["farm"] for f in commands.plan(shop.context, "site1")["farms"]] == ["farm2", "farm1"]
    done = commands.upgrade(shop.context, "site1")
    assert [one["farm"] for one in done["outcomes"]] == ["farm2", "farm1"]


# -- approvals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("approve", ["never", "canary", "farm", "site"])
def test_a_run_waits_exactly_where_its_plan_says(
    tmp_path: Path, pillar: dict[str, Any], approve: str
) -> None:
    shop = Shop(tmp_path, pillar_of(pillar, approve=approve))
    planned = commands.plan(shop.context)["farms"]
    expected = [number for number, farm in enumerate(planned) if "approval" in farm]
    waited = []
    data = commands.upgrade(shop.context)
    while data["state"] == "paused":
        waited.append(4 - len(data["not_begun"]) - 1)
        data = control.resume(shop.context)
    assert data["state"] == "done"
    assert waited == expected
    assert len(expected) == {"never": 0, "canary": 1, "farm": 3, "site": 1}[approve]

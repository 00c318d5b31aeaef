"""What the weights' loop does at the balancers is no rollout's trouble: drains, shares."""

from dataclasses import replace
from typing import Any

import pytest
from webfarm.rollout import opening, preflight, probe, views
from webfarm.rollout.model import (
    Goal,
    InService,
    Memory,
    Refused,
    Reply,
    Seen,
    ServerAtBalancer,
    Step,
)
from webfarm.rollout.plan_id import plan_id
from webfarm.rollout.planner import decide
from webfarm.rollout.situation import WITHHELD, Situation
from webfarm.topology import Site, parse

from tests.unit.test_rollout_planner import GOAL, NEW, OLD, seen_of

RESTED = ServerAtBalancer("DRAIN", "drain", rested=True)
HELD = ServerAtBalancer("DRAIN", "drain")


@pytest.fixture
def site(pillar: dict[str, Any]) -> Site:
    return parse(pillar).sites["site1"]


def with_server(seen: Seen, farm: str, server: str, at: ServerAtBalancer, only: str = "") -> Seen:
    """The server is so on every balancer, or on ``only`` one."""
    balancers = {}
    for name, view in seen.balancers.items():
        its = view.farms[farm]
        if only in ("", name):
            its = replace(its, servers={**its.servers, server: at})
        balancers[name] = replace(view, farms={**view.farms, farm: its})
    return Seen(balancers, seen.servers)


def with_shares(seen: Seen, only: str, **shares: int) -> Seen:
    view = replace(seen.balancers[only], pick=shares, pick_newest=shares)
    return Seen({**seen.balancers, only: view}, seen.servers)


def first(site: Site, farm: str = "farm2") -> str:
    return next(iter(site.farms[farm].servers))


def digest(site: Site, seen: Seen, goal: Goal = GOAL) -> str:
    return plan_id([goal], {"site1": site}, {("site1", goal.farm): seen})


def test_a_plan_stays_fresh_while_the_loop_works_and_not_when_a_hand_does(site: Site) -> None:
    seen, server = seen_of(site), first(site)
    lb = next(iter(site.balancers))
    before = digest(site, seen)
    shares = dict.fromkeys(seen.balancers[lb].pick, 100)
    assert digest(site, with_shares(seen, lb, **{**shares, "farm1": 7})) == before
    assert digest(site, with_server(seen, "farm2", server, RESTED, only=lb)) == before
    assert digest(site, with_server(seen, "farm2", server, HELD, only=lb)) != before
    assert digest(site, with_shares(seen, lb, farm1=256)) != before
    assert digest(site, with_shares(seen, lb, **{**shares, "farm2": 0})) != before


def test_balancers_with_other_shares_agree(site: Site) -> None:
    seen = seen_of(site)
    lb = next(iter(site.balancers))
    shares = {farm: 10 * number for number, farm in enumerate(site.farms, 1)}
    now = Situation(GOAL, site, with_shares(seen, lb, **shares), Memory())
    assert preflight.disagreements(now) == []


@pytest.mark.parametrize("at", [RESTED, HELD], ids=["loop", "hand"])
def test_a_server_that_the_loop_rests_is_in_service_to_a_rollout(
    site: Site, at: ServerAtBalancer
) -> None:
    server = first(site)
    seen = with_server(seen_of(site, release=NEW), "farm2", server, at)
    goal = replace(GOAL, server=server)
    now = Situation(GOAL, site, seen, Memory())
    verify = Step("verify", (server,), "", 60.0)
    if at is RESTED:
        assert now.out_of_service == {}
        assert isinstance(decide(goal, site, seen, Memory()), InService)
        assert probe.lacking(verify, GOAL, site, seen, Memory()) == {}
    else:
        assert now.out_of_service == {server: WITHHELD}
        assert isinstance(decide(goal, site, seen, Memory()), Refused)
    assert opening.stragglers(now) == []


def test_a_server_that_rests_and_whose_checks_fail_is_down(site: Site) -> None:
    server = first(site)
    dead = ServerAtBalancer("DOWN", "drain", rested=True)
    seen = with_server(seen_of(site, release=NEW), "farm2", server, dead)
    now = Situation(GOAL, site, seen, Memory())
    assert "is not UP on" in now.out_of_service[server]
    assert probe.lacking(Step("verify", (server,), "", 60.0), GOAL, site, seen, Memory())


def test_s4_nothing_is_counted_on_a_server_that_rests(site: Site) -> None:
    seen, server = seen_of(site), first(site, "farm1")
    lb = next(iter(site.balancers))
    whole = Situation(GOAL, site, seen, Memory()).capacity("farm2")
    rests = with_server(seen, "farm1", server, RESTED, only=lb)
    less = Situation(GOAL, site, rests, Memory()).capacity("farm2")
    weight = site.farms["farm1"].servers[server].weight
    total = sum(farm.weight for farm in site.farms.values())
    assert less == pytest.approx(whole - weight / total)


@pytest.mark.parametrize(
    ("admin", "by", "rested"),
    [
        ("drain", "weights", True),
        ("drain", None, False),
        ("drain", "somebody", False),
        ("maint", "weights", False),
        ("ready", "weights", False),
    ],
)
def test_a_balancer_says_whose_a_drain_is(admin: str, by: str | None, rested: bool) -> None:
    server = {"status": "DRAIN", "admin_state": admin, "drained_by": by}
    farm = {
        "state": "open",
        "generation": 1,
        "release": OLD,
        "in_flight": 0,
        "queued": 0,
        "servers": {"ws1": server},
    }
    answer = {"farms": {"farm1": farm}, "newest": 1, "pick": {}, "pick_newest": {}}
    view = views.balancer("lb1", Reply(True, answer))
    at = view.farms["farm1"].servers["ws1"]
    assert (at.rested, at.withheld) == (rested, admin != "ready" and not rested)

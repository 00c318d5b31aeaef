"""Servers taken out of service by a rollout, on a real HAProxy: owned, kept, never the last."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import WebfarmError

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import Haproxy, World, farms, world
from loopback import wait_for
from test_haproxy_runtime import held
from webfarm.haproxy import members, weights

FARM = "farm1"
WS1, WS2 = "site1-farm1-ws1", "site1-farm1-ws2"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.add_farms(count=2, servers=2)
        yield made


@pytest.fixture
def balancer(cluster: World) -> Haproxy:
    made = cluster.add_site_balancer()
    wait_for(
        lambda: all(f["up"] == 2 for f in farms.farms(made.balancer)["farms"].values()), "all up"
    )
    return made


def at(balancer: Haproxy, name: str = WS1) -> dict[str, Any]:
    found: dict[str, Any] = farms.farms(balancer.balancer)["farms"][FARM]["servers"][name]
    return found


def take(balancer: Haproxy, state: str, name: str = WS1, **given: Any) -> dict[str, Any]:
    return members.set_servers(balancer.balancer, {FARM: {name: state}}, **given)


def test_a_rollout_takes_a_server_and_gives_it_back(balancer: Haproxy) -> None:
    done = take(balancer, "drain")
    assert done == {"changed": {FARM: {WS1: {"old": "ready", "new": "drain"}}}, "left_alone": {}}
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("drain", "rollout")
    take(balancer, "maint")
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("maint", "rollout")
    take(balancer, "drain")  # its checks begin again before it gets a request
    wait_for(lambda: at(balancer)["status"] == "DRAIN", "its checks pass")
    take(balancer, "ready")
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("ready", None)
    assert take(balancer, "ready") == {"changed": {}, "left_alone": {}}


def test_what_it_took_is_its_own_over_a_reload_and_a_restart(balancer: Haproxy) -> None:
    take(balancer, "maint")
    balancer.help("reload")
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("maint", "rollout")
    balancer.stop()
    balancer.start()
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("maint", "rollout")
    take(balancer, "ready")
    assert at(balancer)["admin_state"] == "ready"


def test_w3_what_an_operator_holds_is_neither_taken_nor_given_back(balancer: Haproxy) -> None:
    weights.set_state(balancer.balancer, FARM, WS1, "drain")
    with pytest.raises(WebfarmError, match=r"farm1/site1-farm1-ws1 is held out .* by an operator"):
        members.set_servers(balancer.balancer, {FARM: {WS1: "maint"}, "farm2": {}})
    assert take(balancer, "ready")["left_alone"] == {f"{FARM}/{WS1}": "drain by another hand"}
    assert (at(balancer)["admin_state"], at(balancer)["drained_by"]) == ("drain", None)


def test_w3_a_hand_that_takes_over_has_it_from_then_on(balancer: Haproxy) -> None:
    take(balancer, "drain")
    weights.set_state(balancer.balancer, FARM, WS1, "maint")
    assert at(balancer)["drained_by"] is None
    take(balancer, "ready")
    assert at(balancer)["admin_state"] == "maint"


def test_s4_the_last_server_of_a_farm_stays_unless_forced(balancer: Haproxy) -> None:
    take(balancer, "drain")
    with pytest.raises(WebfarmError, match=r"no server of farm1 would be UP; nothing was changed"):
        take(balancer, "drain", WS2)
    assert at(balancer, WS2)["admin_state"] == "ready"
    take(balancer, "drain", WS2, force=True)
    assert at(balancer, WS2)["admin_state"] == "drain"


def test_s2_a_request_in_flight_is_seen_and_ends_well(cluster: World, balancer: Haproxy) -> None:
    running = [held(cluster, balancer, FARM) for _ in range(4)]
    wait_for(lambda: sum(at(balancer, n)["in_flight"] for n in (WS1, WS2)) == 4, "in flight")
    before = at(balancer)["in_flight"]
    take(balancer, "drain")
    take(balancer, "maint")
    assert at(balancer)["in_flight"] == before > 0
    cluster.let_go()
    assert [one.result(30) for one in running] == [200] * 4
    wait_for(lambda: at(balancer)["in_flight"] == 0, "none in flight")


@pytest.mark.parametrize(
    "states",
    [None, {}, [], {FARM: []}, {FARM: {WS1: "up"}}, {FARM: {"a b": "drain"}}, {"x;y": {}}],
)
def test_nothing_else_reaches_haproxy(balancer: Haproxy, states: Any) -> None:
    with pytest.raises(WebfarmError):
        members.set_servers(balancer.balancer, states)


def test_unknown_servers_are_refused_before_anything_changes(balancer: Haproxy) -> None:
    with pytest.raises(WebfarmError, match="nothing was changed"):
        members.set_servers(balancer.balancer, {FARM: {WS1: "drain", "nobody": "drain"}})
    assert at(balancer)["admin_state"] == "ready"


def test_a_damaged_record_stops_it(balancer: Haproxy) -> None:
    path = Path(balancer.settings.state_file).with_name(members.FILE)
    path.write_text("{", "utf-8")
    with pytest.raises(WebfarmError, match=r"members\.json cannot be read"):
        take(balancer, "drain")
    assert at(balancer)["admin_state"] == "ready"

"""The pillar: a valid one is understood, and each mistake is named with its path."""

from typing import Any

import pytest
from webfarm import topology
from webfarm.errors import BadTopology, WebfarmError


def mistakes(pillar: object) -> list[str]:
    with pytest.raises(BadTopology) as caught:
        topology.parse(pillar)
    return caught.value.mistakes


def test_a_valid_pillar_gives_every_node_its_place(pillar: dict[str, Any]) -> None:
    cluster = topology.parse(pillar)
    server = cluster.node("site1-farm2-ws1")
    assert (server.role, server.site, server.farm) == ("server", "site1", "farm2")
    assert cluster.node("lb1").role == "primary"
    assert cluster.node("site2-lb2").role == "balancer"
    assert cluster.node("site1-db1").role == "database"
    assert cluster.node("master").role == "store"
    assert len(list(cluster.nodes())) == 1 + 1 + 2 * (1 + 2 + 4)


def test_initial_defaults_to_the_target(pillar: dict[str, Any]) -> None:
    del pillar["initial"]
    assert topology.parse(pillar).initial == "2026.11.2"


def test_all_mistakes_are_reported_at_once_with_their_paths(pillar: dict[str, Any]) -> None:
    farm = pillar["sites"]["site1"]["farms"]["farm1"]
    farm["servers"]["site1-farm1-ws1"]["weight"] = 300
    farm["servers"]["site1-farm1-ws2"]["address"] = "10.77.1.300"
    pillar["sites"]["site1"]["polcy"] = {}
    pillar["releases"]["2026.11.2"]["php"] = 8.2
    pillar["target"] = "2026.11.9"
    del pillar["store"]["address"]
    found = "\n".join(mistakes(pillar))
    base = "webfarm.sites.site1"
    assert f"{base}.farms.farm1.servers.site1-farm1-ws1.weight: 300: " in found
    assert (
        f"{base}.farms.farm1.servers.site1-farm1-ws2.address: '10.77.1.300': is not an IP" in found
    )
    assert f"{base}.polcy: is not a known key" in found
    assert "webfarm.releases.2026.11.2.php: 8.2: is a number for YAML, put it in quotes" in found
    assert "webfarm.target: '2026.11.9': is not in webfarm.releases" in found
    assert "webfarm.store.address: is missing" in found
    assert len(mistakes(pillar)) == 6


def test_a_policys_mistakes_are_named_with_their_paths_beside_all_others(
    pillar: dict[str, Any],
) -> None:
    night = {"days": ["mon"], "from": 1320, "to": "05:00", "timezone": "Europe/Berlin"}
    pillar["sites"]["site1"]["policy"] = {"windows": [night], "max_failed": "25%"}
    pillar["sites"]["site2"]["policy"] = {"gates": {"min_requests": -1}, "aprove": "site"}
    pillar["target"] = "2026.11.9"
    found = mistakes(pillar)
    assert [line.split(": ")[0] for line in found] == [
        "webfarm.sites.site1.policy.max_failed",
        "webfarm.sites.site1.policy.windows.0.from",
        "webfarm.sites.site2.policy.gates.min_requests",
        "webfarm.sites.site2.policy.aprove",
        "webfarm.target",
    ]


def test_a_missing_target_is_named_once(pillar: dict[str, Any]) -> None:
    del pillar["target"], pillar["initial"]
    assert mistakes(pillar) == ["webfarm.target: is missing"]


@pytest.mark.parametrize("value", [None, [], "webfarm", 7])
def test_a_pillar_that_is_no_mapping_is_named_as_such(value: object) -> None:
    assert mistakes(value)[0].startswith("webfarm: is ")


def test_hostile_names_are_refused_wherever_a_name_is_a_key(
    pillar: dict[str, Any], hostile_name: object
) -> None:
    farms = pillar["sites"]["site1"]["farms"]
    key = tuple(hostile_name) if isinstance(hostile_name, list) else hostile_name
    farms[key] = farms.pop("farm1")
    assert any("webfarm.sites.site1.farms." in line for line in mistakes(pillar))


@pytest.mark.parametrize("name", ["newest", "webfarm", "webfarm-none"])
def test_names_that_the_balancers_need_themselves_are_reserved(
    pillar: dict[str, Any], name: str
) -> None:
    farms = pillar["sites"]["site1"]["farms"]
    farms[name] = farms.pop("farm1")
    assert "is reserved" in mistakes(pillar)[0]


def test_a_minion_id_or_address_used_twice_is_a_mistake(pillar: dict[str, Any]) -> None:
    one, two = (pillar["sites"][site]["farms"]["farm1"]["servers"] for site in ("site1", "site2"))
    two["site1-farm1-ws1"] = one["site1-farm1-ws1"]
    found = mistakes(pillar)
    assert any("the minion id 'site1-farm1-ws1' is used at" in line for line in found)
    assert any("the address '10.77.1.111' is used at" in line for line in found)


def test_a_memcached_shared_by_two_farms_is_a_mistake(pillar: dict[str, Any]) -> None:
    farms = pillar["sites"]["site1"]["farms"]
    farms["farm2"]["memcached"] = farms["farm1"]["memcached"]
    assert "each farm needs its own" in mistakes(pillar)[0]


def test_two_releases_of_one_pair_are_a_mistake(pillar: dict[str, Any]) -> None:
    pillar["releases"]["2026.11.3"] = pillar["releases"]["2026.11.2"]
    assert "is the same pair as 2026.11.2" in mistakes(pillar)[0]


def test_what_is_not_there_is_answered_with_what_is(pillar: dict[str, Any]) -> None:
    cluster = topology.parse(pillar)
    with pytest.raises(WebfarmError, match="no site site9; there are: site1, site2"):
        cluster.site("site9")
    with pytest.raises(WebfarmError, match="site site1 has no farm farm9; it has: farm1, farm2"):
        cluster.farm("site1", "farm9")
    with pytest.raises(WebfarmError, match=r"no release 7 in the pillar; it has: 2026.11.1"):
        cluster.release("7")
    with pytest.raises(WebfarmError, match="'stranger' is not in the pillar"):
        cluster.node("stranger")


def test_hostile_questions_are_refused(pillar: dict[str, Any], hostile_name: object) -> None:
    cluster = topology.parse(pillar)
    for ask in (cluster.site, cluster.release, lambda name: cluster.farm("site1", name)):
        with pytest.raises(WebfarmError):
            ask(hostile_name)  # type: ignore[arg-type]

"""What the lab makes of the pillar, of the host's apt settings and of Debian's versions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datacentre import mirror, php, source, topology
from datacentre.terminal import LabError


def test_nodes_are_those_of_the_pillar_the_master_first_and_the_client_last(
    pillar: dict[str, Any],
) -> None:
    plan = topology.parse("small", {"webfarm": pillar})
    names = [node.name for node in plan.nodes]
    assert (names[0], names[-1]) == ("master", "client")
    assert len(plan.of_role("server")) == 8
    assert plan.node("lb1").addresses == ("10.77.0.11", "10.77.100.11")
    assert plan.public == ("10.77.100.11",)
    assert [str(net) for net in plan.subnets] == [
        "10.77.0.0/24",
        "10.77.1.0/24",
        "10.77.2.0/24",
        "10.77.100.0/24",
    ]


def test_an_unknown_node_is_refused_with_the_known_ones(pillar: dict[str, Any]) -> None:
    plan = topology.parse("small", {"webfarm": pillar})
    with pytest.raises(LabError, match=r"nowhere.*site1-lb2"):
        plan.node("nowhere")


@pytest.mark.parametrize("size", topology.sizes())
def test_every_size_of_the_repository_is_a_plan_without_double_names(size: str) -> None:
    plan = topology.load(size)
    names = [node.name for node in plan.nodes]
    addresses = [address for node in plan.nodes for address in node.addresses]
    assert len(set(names)) == len(names)
    assert len(set(addresses)) == len(addresses)


def test_releases_get_the_php_versions_that_are_there_in_their_order(
    pillar: dict[str, Any],
) -> None:
    real = source.real_releases({"webfarm": pillar}, ["8.2.40", "8.2.101"])
    assert [release["php"] for release in real.values()] == ["8.2.40", "8.2.101"]


def test_releases_that_would_be_the_same_are_refused(pillar: dict[str, Any]) -> None:
    same = copy.deepcopy(pillar)
    for release in same["releases"].values():
        release["webapp"] = "1"
    with pytest.raises(LabError, match=r"8\.2\.40"):
        source.real_releases({"webfarm": same}, ["8.2.40"])


@pytest.mark.parametrize(
    ("package", "version"),
    [("8.2.36-1~deb12u1", "8.2.36"), ("1:8.2.4+dfsg-2", "8.2.4")],
)
def test_a_package_version_is_read_as_php_calls_itself(package: str, version: str) -> None:
    assert php.upstream(package) == version


def test_the_hosts_mirror_is_used_in_either_format(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(
        "Types: deb deb-src\n# a remark\nURIs: http://near.example/debian/\n"
        "Suites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb-src\nURIs: http://source.example\nSuites: bookworm-security\n"
    )
    (tmp_path / "sources.list").write_text(
        "# deb http://old.example bookworm-security main\n"
        "deb [arch=amd64 signed-by=/x] http://near.example/security bookworm-security main\n"
    )
    assert mirror.mirrors(tmp_path) == {
        "bookworm": "http://near.example/debian",
        "bookworm-security": "http://near.example/security",
    }


def test_without_settings_debians_own_mirror_is_used(tmp_path: Path) -> None:
    assert mirror.mirrors(tmp_path) == mirror.FALLBACK

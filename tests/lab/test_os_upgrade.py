"""Packages of the operating system, for real: certified, installed in service, in waves with boots.

All under traffic. The packages are a test's own, from an archive that only the lab has; the tests
follow one another from version to version.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import waves
from archive import BROKEN, LIBRARY, TOOL, Archive, archive
from lab_words import Lab
from runner import Runner, command
from shop import until
from waves import PREPRODUCTION, Cluster, finished, refused

pytestmark = pytest.mark.lab

CERTIFY = "salt-run upgrade.certify packages="
KEPT_DAYS = 90


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Cluster]:
    cluster = Cluster(lab)
    cluster.level()
    yield cluster
    cluster.level()


@pytest.fixture(scope="module")
def debs(cluster: Cluster) -> Iterator[Archive]:
    """The archive that preproduction and all web servers get their packages from."""
    with archive(cluster.lab, [PREPRODUCTION, *cluster.servers]) as debs:
        yield debs


# -- certificates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["online", "disruptive"])
def test_a_set_that_nobody_certified_is_refused_with_what_to_type(
    cluster: Cluster, debs: Archive, kind: str
) -> None:
    wanted = debs.tool("0.9")
    debs.refresh()
    before = cluster.untouched()
    ended = waves.upgraded(cluster.lab, "all", [wanted], kind)
    refused(ended, CERTIFY, wanted, "r640")
    assert cluster.untouched() == before


def test_a_certified_set_is_installed_in_service_on_every_web_server(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.tool("1.0")
    debs.refresh()
    certificate = waves.certified(cluster.lab, [wanted])
    assert debs.versions(TOOL, [PREPRODUCTION]) == {PREPRODUCTION: "1.0"}
    assert set(debs.versions(TOOL, cluster.servers).values()) == {""}
    [tested] = certificate["tested"].values()
    assert tested["server"] == PREPRODUCTION and set(tested["packages"]) == {TOOL}, certificate
    boots = waves.boots(cluster.lab, cluster.servers)
    with cluster.shop.traffic(), waves.sampled(cluster.lab, cluster.sites) as seen:
        finished(waves.upgraded(cluster.lab, "all", [wanted], "online"))
        cluster.shop.answers(300)
    cluster.verdict()
    assert set(debs.versions(TOOL).values()) == {"1.0"}
    assert seen.most == 0, seen
    assert waves.boots(cluster.lab, cluster.servers) == boots
    again = waves.upgraded(cluster.lab, "all", [wanted], "online")
    assert again.ok and again.data and again.data["state"] == "nothing", again


@pytest.mark.long
def test_what_a_running_service_maps_is_not_installed_in_service(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.library(1)
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    before = cluster.untouched()
    refused(
        waves.upgraded(cluster.lab, "all", [wanted], "online"), LIBRARY, "nginx", "kind=disruptive"
    )
    assert cluster.untouched() == before


def test_a_binary_that_changed_after_the_certificate_is_refused(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.tool("1.1")
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    debs.tool("1.1", "another content")
    debs.refresh()
    before = cluster.untouched()
    for kind in ("online", "disruptive"):
        refused(waves.upgraded(cluster.lab, "all", [wanted], kind), TOOL, CERTIFY)
    assert cluster.untouched() == before


@pytest.mark.long
@pytest.mark.parametrize("harm", ["corrupt", "withdraw"])
def test_a_binary_that_is_not_what_the_index_says_is_refused_by_name(
    cluster: Cluster, debs: Archive, harm: str
) -> None:
    wanted = debs.tool(f"1.2.{len(harm)}")
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    getattr(debs, harm)(wanted)
    before = cluster.untouched()
    ended = waves.upgraded(cluster.lab, "all", [wanted], "online")
    cluster.level()
    refused(ended, TOOL)
    assert cluster.untouched() == before
    if harm == "corrupt":
        debs.withdraw(wanted)
    debs.refresh()


@pytest.mark.long
def test_an_expired_certificate_is_refused(cluster: Cluster, debs: Archive) -> None:
    wanted = debs.tool("1.3")
    debs.refresh()
    certificate = waves.certified(cluster.lab, [wanted])
    waves.age(cluster.lab, certificate["id"], KEPT_DAYS + 1)
    before = cluster.untouched()
    refused(waves.upgraded(cluster.lab, "all", [wanted], "online"), "expired", CERTIFY)
    assert cluster.untouched() == before


@pytest.mark.long
def test_force_goes_ahead_and_is_recorded(cluster: Cluster, debs: Archive) -> None:
    wanted, reason = debs.tool("1.4"), "the certificate is late"
    debs.refresh()
    done = finished(waves.upgraded(cluster.lab, "site2", [wanted], "online", f"force='{reason}'"))
    assert reason in str(cluster.lab.run("upgrade.history", str(done["run"])))
    servers = [server for servers in cluster.shops["site2"].farms.values() for server in servers]
    assert set(debs.versions(TOOL, servers).values()) == {"1.4"}


# -- waves -----------------------------------------------------------------------------------------


def test_waves_over_both_sites_reboot_every_web_server_and_lose_nothing(
    cluster: Cluster, debs: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [debs.library(2), debs.tool("2.0")]
    debs.refresh()
    waves.certified(cluster.lab, wanted)
    before = cluster.untouched()
    asked = (waves.packages(wanted), "kind=disruptive", "reboot=yes", "plan=True")
    table = cluster.lab.exec("master", "salt-run", "upgrade.os", "all", *asked, timeout=600)
    with capsys.disabled():
        print(f"\n{table.stdout}\n{table.stderr}")
    shown = table.stdout + table.stderr
    assert "capacity" in shown and "50 %" in shown
    for server in cluster.servers:
        assert server in shown
    assert cluster.untouched() == before

    boots = waves.boots(cluster.lab, cluster.servers)
    with cluster.shop.traffic(sessions=160), waves.sampled(cluster.lab, cluster.sites) as seen:
        finished(waves.upgraded(cluster.lab, "all", wanted, "disruptive", "reboot=yes"))
        cluster.shop.answers(500)
    cluster.verdict()
    after = waves.boots(cluster.lab, cluster.servers)
    assert not [server for server in cluster.servers if after[server] == boots[server]]
    assert set(debs.versions(TOOL).values()) == {"2.0"}
    assert all(version.endswith("+lab2") for version in debs.versions(LIBRARY).values())
    assert seen.most == 1, seen
    for name, site in cluster.sites.items():
        members = {server for farm in cluster.shops[name].farms.values() for server in farm}
        for balancer in site["balancers"]:
            assert seen.ever(balancer) == members


@pytest.mark.long
def test_a_run_of_waves_that_is_killed_goes_on_where_it_was(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.tool("2.1")
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    boots = waves.boots(cluster.lab, cluster.servers)
    servers = [server for servers in cluster.shop.farms.values() for server in servers]
    with cluster.shop.traffic(), waves.sampled(cluster.lab, cluster.sites) as seen:
        runner = waves.started(cluster.lab, "site1", [wanted], "disruptive", "reboot=yes")
        for step in ("drain", "install", "reboot"):
            runner.at(step, signal.SIGKILL)
            assert runner.wait().data is None
            assert cluster.shop.unfinished()
            runner = Runner(cluster.lab, "upgrade.resume")
        finished(runner.wait(waves.RUN_SECONDS))
        cluster.shop.answers(300)
    cluster.verdict()
    assert seen.most == 1 and not cluster.shop.unfinished()
    assert set(debs.versions(TOOL, servers).values()) == {"2.1"}
    after = waves.boots(cluster.lab, cluster.servers)
    assert {server for server in after if after[server] != boots[server]} == set(servers)


def test_a_package_after_which_a_service_does_not_start_is_taken_back_on_the_first_server(
    cluster: Cluster, debs: Archive
) -> None:
    """It works in preproduction."""
    wanted = debs.broken("1.0", sparing=PREPRODUCTION)
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    before = cluster.untouched()
    boots = waves.boots(cluster.lab, cluster.servers)
    with cluster.shop.traffic(), waves.sampled(cluster.lab, cluster.sites) as seen:
        ended = waves.upgraded(cluster.lab, "all", [wanted], "disruptive", "reboot=yes")
        cluster.shop.answers(300)
    assert ended.exit == 1 and ended.data and ended.data["state"] == "paused", ended
    after = waves.boots(cluster.lab, cluster.servers)
    victims = [server for server in cluster.servers if after[server] != boots[server]]
    assert victims and set(victims) <= set(cluster.members(0, "site1/")), victims
    assert victims[0] in ended.data["message"] and "nginx" in ended.data["message"], ended
    others = [server for server in cluster.servers if server not in victims]
    assert cluster.untouched(others) == {server: before[server] for server in others}
    assert set(debs.versions(BROKEN, cluster.servers).values()) == {""}
    restored = cluster.lab.salt(victims, "webfarm_snapshot.restored")
    assert all(restored[victim] for victim in victims), restored
    cluster.verdict()
    for shop in cluster.shops.values():
        shop.healthy()
    assert seen.most == 1
    assert command(cluster.lab, "upgrade.abort", str(ended.data["run"])).ok
    cluster.level()


@pytest.mark.long
def test_a_server_that_does_not_come_back_stops_the_next_wave_and_is_named(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.tool("2.2")
    debs.refresh()
    waves.certified(cluster.lab, [wanted])
    first, second = (cluster.members(number, "site2/") for number in (0, 1))
    [lost, *_] = first
    before = cluster.untouched(second)
    cluster.lab.fault("strand", lost)
    with cluster.shop.traffic(), waves.sampled(cluster.lab, cluster.sites) as seen:
        ended = waves.upgraded(
            cluster.lab, "site2", [wanted], "disruptive", "reboot=yes", REBOOT_SOON
        )
        assert ended.exit == 1 and ended.data and ended.data["state"] == "paused", ended
        assert lost in ended.data["message"], ended
        assert cluster.untouched(second) == before
        cluster.lab.fault("start", lost)
        cluster.connected()
        finished(command(cluster.lab, "upgrade.resume", seconds=waves.RUN_SECONDS))
        cluster.shop.answers(300)
    cluster.verdict()
    assert seen.most == 1
    assert set(debs.versions(TOOL, first + second).values()) == {"2.2"}
    until(lambda: cluster.shops["site2"].up("farm1", "farm2"), "every server is UP")


REBOOT_SOON = "policy={reboot_seconds: 120}"
"""How long a server may take to come back; what the lab's take is under 20 s."""


# -- preproduction ---------------------------------------------------------------------------------


@pytest.mark.long
def test_what_does_not_pass_in_preproduction_is_not_certified(
    cluster: Cluster, debs: Archive
) -> None:
    wanted = debs.broken("1.1")
    debs.refresh()
    try:
        ended = command(
            cluster.lab, "upgrade.certify", waves.packages([wanted]), seconds=waves.RUN_SECONDS
        )
        assert ended.exit == 1 and ended.data and ended.data["state"] == "failed", ended
        assert "nginx" in ended.said or "smoke" in ended.said, ended
        refused(waves.upgraded(cluster.lab, "all", [wanted], "disruptive"), CERTIFY)
    finally:
        cluster.lab.sh(
            PREPRODUCTION,
            "sed -i /webfarm_lab_broken/d /etc/nginx/nginx.conf; "
            f"dpkg --purge {BROKEN}; systemctl restart nginx",
        )

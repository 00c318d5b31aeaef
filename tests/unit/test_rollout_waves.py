"""Waves on an easy cluster: one server of each farm at a time, a way back, nothing forgotten."""

import copy
from pathlib import Path
from typing import Any

import pytest
from webfarm.certificates.model import Uncertified
from webfarm.errors import WebfarmError
from webfarm.rollout import back, control, status
from webfarm.rollout.waves import commands

from tests.conftest import EXAMPLE
from tests.unit.easy_cluster import pillar_of
from tests.unit.easy_waves import DIGEST, NEW, OLD, OsShop


def pillar(servers: tuple[int, ...] = (2, 2), sites: int = 1, **policy: Any) -> dict[str, Any]:
    """These many servers in the farms of each site."""
    base = copy.deepcopy(pillar_of(EXAMPLE, **policy))
    names = list(base["sites"])[:sites]
    base["sites"] = {name: base["sites"][name] for name in names}
    for site, plan in base["sites"].items():
        s = site.removeprefix("site")
        plan["farms"] = {
            f"farm{f}": {
                "memcached": [f"10.77.{s}.{100 + 10 * f + 1}:11211"],
                "servers": {
                    f"{site}-farm{f}-ws{n}": {"address": f"10.77.{s}.{100 + 10 * f + n}"}
                    for n in range(1, count + 1)
                },
            }
            for f, count in enumerate(servers, 1)
        }
    return base


def shop_of(folder: Path, *args: Any, **given: Any) -> OsShop:
    return OsShop(folder, pillar(*args, **given))


@pytest.fixture
def shop(tmp_path: Path) -> OsShop:
    return shop_of(tmp_path)


def upgrade(shop: OsShop, site: str = "site1", **given: Any) -> dict[str, Any]:
    given = {"kind": "disruptive", **given}
    return commands.upgrade_os(shop.context, site, "tool", **given)


def versions(shop: OsShop) -> set[str]:
    return {shop.cluster.has(name) for name in shop.cluster.servers if name.startswith("site1")}


def asked(shop: OsShop, function: str) -> list[str]:
    return [n for f, targets, _ in shop.cluster.calls if f == function for n in targets]


# -- forward ---------------------------------------------------------------------------------------


def test_every_server_gets_the_packages_one_of_each_farm_at_a_time(shop: OsShop) -> None:
    data = upgrade(shop)
    assert data["state"] == "done", data
    assert versions(shop) == {NEW}
    assert shop.cluster.most_out == {"farm1": 1, "farm2": 1}
    assert shop.cluster.out() == set()
    steps = [step["step"] for step in data["outcomes"][0]["steps"]]
    assert steps == [
        *("preflight", "drain", "hold", "quiesce", "snapshot", "install", "reboot", "verify"),
        *("check", "open", "soak"),
    ]


def test_the_same_again_has_nothing_to_do(shop: OsShop) -> None:
    upgrade(shop)
    shop.cluster.calls.clear()
    assert upgrade(shop)["state"] == "nothing"
    assert not asked(shop, "haproxy_runtime.set_servers")


def test_both_sites_go_one_after_the_other(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, sites=2)
    data = upgrade(shop, "all")
    assert data["state"] == "done"
    places = [(one["site"], one["farm"]) for one in data["outcomes"]]
    assert places == [(s, w) for s in ("site1", "site2") for w in ("wave-1", "wave-2")]
    assert {shop.cluster.has(name) for name in shop.cluster.servers} == {NEW}


def test_a_smaller_farm_has_nobody_in_later_waves(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, (3, 2))
    data = upgrade(shop)
    assert data["state"] == "done"
    last = data["outcomes"][2]["steps"][1]["evidence"]["members"]
    assert last == ["site1-farm1-ws3"]


@pytest.mark.parametrize(
    ("reboot", "needs", "reboots"),
    [
        ("auto", True, 4),
        ("auto", False, 0),
        ("yes", False, 4),
        ("no", True, 0),
    ],
)
def test_it_reboots_as_the_packages_need_or_as_asked(
    shop: OsShop, reboot: str, needs: bool, reboots: int
) -> None:
    shop.cluster.needs_reboot = needs
    assert upgrade(shop, reboot=reboot)["state"] == "done"
    assert len(asked(shop, "webfarm_os.reboot")) == reboots
    assert len(asked(shop, "webfarm_os.restart")) == 4 - reboots


def test_without_a_provider_there_is_no_snapshot_and_the_step_says_so(shop: OsShop) -> None:
    shop.cluster.provider = "none"
    for name in shop.cluster.servers:
        shop.cluster._set(name)
    data = upgrade(shop)
    assert data["state"] == "done"
    assert not asked(shop, "webfarm_snapshot.take")
    with shop.context.journal() as journal:
        whys = [s["why"] for s in journal.steps(1) if s["name"] == "install"]
    assert "there is no provider" in whys[0]


def test_who_is_out_already_is_skipped_and_named(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, (3, 3), min_farm_capacity=0.3)
    shop.cluster.silent.add("site1-farm1-ws2")
    data = upgrade(shop)
    assert data["state"] == "done"
    assert "does not answer" in data["outcomes"][1]["quarantined"]["site1-farm1-ws2"]
    assert shop.cluster.has("site1-farm2-ws2") == NEW
    assert shop.cluster.has("site1-farm1-ws2") == OLD


# -- what keeps it from starting -------------------------------------------------------------------


def test_s4_a_farm_keeps_its_least_capacity_counting_who_is_out(shop: OsShop) -> None:
    shop.cluster.silent.add("site1-farm1-ws2")
    data = upgrade(shop)
    assert data["state"] == "refused"
    assert "without site1-farm1-ws1, farm1 keeps 0 %" in data["message"]
    assert "not UP: site1-farm1-ws2" in data["message"]
    assert versions(shop) == {OLD}


def test_s4_a_site_keeps_its_least_capacity(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, min_capacity=0.6)
    data = upgrade(shop)
    assert data["state"] == "refused" and "min_capacity is 60 %" in data["message"]
    assert not asked(shop, "haproxy_runtime.set_servers")


def test_a_farm_of_one_server_is_refused_unless_the_policy_allows(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, (1, 2), min_capacity=0.3)
    data = upgrade(shop)
    assert data["state"] == "refused"
    assert (
        "it is its only server" in data["message"] and "min_farm_capacity: 0.0" in data["message"]
    )
    data = upgrade(shop, policy={"min_farm_capacity": 0.0})
    assert data["state"] == "done", data
    forced = [a.get("force") for f, _, a in shop.cluster.calls if f.endswith("set_servers")]
    assert True in forced


def test_a_package_that_is_not_what_was_certified_is_refused_by_name(shop: OsShop) -> None:
    shop.cluster.digests["site1-farm2-ws1"] = "sha256:" + "b" * 64
    data = upgrade(shop)
    assert data["state"] == "refused"
    assert "site1-farm2-ws1: tool would be 2.0 (sha256:bbbb" in data["message"]
    assert versions(shop) == {OLD} and shop.cluster.out() == set()


def test_what_is_not_certified_is_not_asked_of_anybody(shop: OsShop) -> None:
    def uncertified(packages: Any, profiles: Any) -> Any:
        raise Uncertified(f"{packages} on {profiles}: salt-run upgrade.certify")

    shop.context.certified = uncertified
    with pytest.raises(WebfarmError, match=r"upgrade\.certify"):
        upgrade(shop)
    assert shop.cluster.calls == []
    done = upgrade(shop, force="the hole is open")
    assert done["state"] == "done"
    with shop.context.journal() as journal:
        (record,) = journal.records()
    assert (record["what"], record["why"]) == ("force", "the hole is open")
    assert record["data"]["run"] == done["run"] and "tool" in record["data"]["past"]


def test_a_certificate_decides_what_is_installed(shop: OsShop) -> None:
    entry = {"to": NEW, "digest": DIGEST}
    shop.context.certified = lambda packages, profiles: {p: {"tool": entry} for p in profiles}
    assert upgrade(shop)["state"] == "done"


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "fast"},
        {"reboot": "maybe"},
        {"policy": {"soak": 1}},
        {"force": ""},
        {"force": 3},
    ],
)
def test_arguments_are_checked_before_anything_is_asked(shop: OsShop, given: Any) -> None:
    with pytest.raises(WebfarmError):
        upgrade(shop, **given)
    assert not shop.cluster.changes() and not asked(shop, "haproxy_runtime.set_servers")


@pytest.mark.parametrize("site", ["nowhere", "a b", None])
def test_the_site_must_be_there(shop: OsShop, site: Any) -> None:
    with pytest.raises(WebfarmError):
        commands.upgrade_os(shop.context, site, "tool", "disruptive")


# -- what goes wrong under way ---------------------------------------------------------------------


def test_a_bad_package_is_taken_back_and_the_run_pauses(shop: OsShop) -> None:
    shop.cluster.bad.add("site1-farm1-ws1")
    data = upgrade(shop)
    assert data["state"] == "paused"
    assert "webfarm-php-fpm does not run" in data["message"]
    assert "in service again" in data["message"]
    assert shop.cluster.has("site1-farm1-ws1") == OLD
    assert shop.cluster.has("site1-farm2-ws1") == NEW  # it had succeeded
    assert shop.cluster.out() == set()
    untouched = {"site1-farm1-ws2", "site1-farm2-ws2"}
    assert not untouched & set(asked(shop, "webfarm_packages.install"))


def test_an_install_that_is_refused_is_taken_back_too(shop: OsShop) -> None:
    shop.cluster.refuses.add("site1-farm2-ws1")
    data = upgrade(shop)
    assert data["state"] == "paused" and "the digest differs" in data["message"]
    assert shop.cluster.out() == set()


def test_a_server_that_does_not_come_back_stops_the_next_wave_and_is_named(shop: OsShop) -> None:
    shop.cluster.never.add("site1-farm1-ws1")
    data = upgrade(shop)
    assert data["state"] == "paused"
    assert "site1-farm1-ws1 (reboot: does not answer" in data["message"]
    assert shop.cluster.out() == {"site1-farm1-ws1"}
    assert shop.cluster.has("site1-farm2-ws1") == NEW
    assert not asked(shop, "webfarm_packages.install").count("site1-farm1-ws2")
    shop.cluster.silent.clear()
    shop.cluster.never.clear()
    shop.cluster.servers["site1-farm1-ws1"] = shop.cluster.servers["site1-farm1-ws1"]
    resumed = control.resume(shop.context)
    assert resumed["state"] == "done", resumed
    assert versions(shop) == {NEW} and shop.cluster.out() == set()


def test_without_a_snapshot_a_bad_server_stays_out_and_is_named(shop: OsShop) -> None:
    shop.cluster.provider = "none"
    for name in shop.cluster.servers:
        shop.cluster._set(name)
    shop.cluster.bad.add("site1-farm1-ws1")
    data = upgrade(shop)
    assert data["state"] == "paused" and "no snapshot to go back to" in data["message"]
    assert shop.cluster.out() == {"site1-farm1-ws1"}


def test_after_a_failure_resume_tries_the_server_again(shop: OsShop) -> None:
    shop.cluster.bad.add("site1-farm1-ws1")
    upgrade(shop)
    shop.cluster.bad.clear()
    data = control.resume(shop.context)
    assert data["state"] == "done", data
    assert versions(shop) == {NEW}


def test_after_a_failure_abort_ends_the_run(shop: OsShop) -> None:
    shop.cluster.bad.add("site1-farm1-ws1")
    upgrade(shop)
    data = control.abort(shop.context)
    assert data["state"] == "aborted" and shop.cluster.out() == set()


def test_abort_in_the_middle_brings_the_wave_back_into_service(shop: OsShop) -> None:
    def stop(function: str) -> None:
        shop.stop = shop.stop or function == "webfarm_snapshot.take"

    shop.cluster.on_call = stop
    assert upgrade(shop)["state"] == "paused"
    assert shop.cluster.out() == {"site1-farm1-ws1", "site1-farm2-ws1"}
    shop.cluster.on_call = lambda function: None
    shop.stop = False
    data = control.abort(shop.context)
    assert data["state"] == "aborted" and shop.cluster.out() == set()
    assert versions(shop) == {OLD}


@pytest.mark.parametrize(
    "at",
    [
        "haproxy_runtime.set_servers",
        "webfarm_snapshot.take",
        "webfarm_packages.install",
        "webfarm_os.reboot",
    ],
)
def test_s6_paused_after_any_step_it_goes_on(shop: OsShop, at: str) -> None:
    def stop(function: str) -> None:
        shop.stop = shop.stop or function == at

    shop.cluster.on_call = stop
    assert upgrade(shop)["state"] == "paused"
    shop.cluster.on_call = lambda function: None
    shop.stop = False
    data = upgrade(shop)  # the same command again
    assert data["state"] == "done" and data["run"] == 1, data
    assert versions(shop) == {NEW} and shop.cluster.most_out == {"farm1": 1, "farm2": 1}


# -- back ------------------------------------------------------------------------------------------


def test_rollback_takes_every_server_back_in_reverse(shop: OsShop) -> None:
    upgrade(shop)
    data = back.rollback(shop.context, 1)
    assert data["state"] == "done", data
    assert versions(shop) == {OLD}
    assert [one["farm"] for one in data["outcomes"]] == ["wave-2", "wave-1"]
    assert shop.cluster.most_out == {"farm1": 1, "farm2": 1} and shop.cluster.out() == set()
    again = back.rollback(shop.context, 1)
    assert again["state"] in ("done", "nothing") and versions(shop) == {OLD}


def test_rollback_of_a_paused_run_takes_its_waves_back(shop: OsShop) -> None:
    shop.cluster.never.add("site1-farm2-ws2")
    assert upgrade(shop)["state"] == "paused"
    shop.cluster.silent.clear()
    shop.cluster.never.clear()
    data = back.rollback(shop.context, 1)
    assert data["state"] == "rolled_back", data
    assert versions(shop) == {OLD} and shop.cluster.out() == set()


def test_rollback_without_the_snapshots_takes_nobody_out(shop: OsShop) -> None:
    upgrade(shop)
    for name in shop.cluster.servers:
        shop.cluster._set(name, snapshots=frozenset())
    shop.cluster.calls.clear()
    data = back.rollback(shop.context, 1)
    assert data["state"] == "refused" and "is not there any more" in data["message"]
    assert not asked(shop, "haproxy_runtime.set_servers")


def test_an_online_run_has_no_way_back_and_says_what_to_type(shop: OsShop) -> None:
    upgrade(shop, kind="online")
    with pytest.raises(WebfarmError, match=r"other versions of tool; certify NAME=VERSION"):
        back.rollback(shop.context, 1)


def test_only_the_services_that_the_packages_touch_are_restarted(shop: OsShop) -> None:
    shop.cluster.needs_reboot = False
    shop.cluster.affects = {"nginx.service": ["tool"]}
    assert upgrade(shop)["state"] == "done"
    units = [a.get("units") for f, _, a in shop.cluster.calls if f == "webfarm_os.restart"]
    assert units == [["nginx.service"]] * 2


# -- plan and online -------------------------------------------------------------------------------


def test_the_plan_shows_waves_capacity_caches_and_changes_nothing(shop: OsShop) -> None:
    data = upgrade(shop, plan=True)
    assert data["result"] and data["packages"] == {"default": {"tool": NEW}}
    first = data["waves"][0]
    assert first["capacity"] == {
        "farm1 without site1-farm1-ws1": "50 %",
        "farm2 without site1-farm2-ws1": "50 %",
        "site1 without them": "50 %",
    }
    assert "come from the database" in first["memcached"]
    assert first["steps"][0] == "1 preflight" and data["next"].endswith(data["plan_id"])
    assert versions(shop) == {OLD} and not asked(shop, "haproxy_runtime.set_servers")
    assert upgrade(shop, plan_id=data["plan_id"])["state"] == "done"
    with pytest.raises(WebfarmError, match="stale"):
        upgrade(shop, plan_id=data["plan_id"])


def test_the_plan_says_what_would_be_refused(tmp_path: Path) -> None:
    shop = shop_of(tmp_path, (1, 2), min_capacity=0.3)
    data = upgrade(shop, plan=True)
    assert data["result"] is False and "only server" in data["waves"][0]["refused"][0]


def test_online_installs_while_everything_serves(shop: OsShop) -> None:
    data = upgrade(shop, kind="online")
    assert data["state"] == "done", data
    assert versions(shop) == {NEW} and shop.cluster.most_out == {}
    assert not asked(shop, "webfarm_os.reboot")
    assert data["deleted"]["site1-farm1-ws1"][0]["command"] == "cron"


def test_online_refuses_what_would_disturb_by_name(shop: OsShop) -> None:
    shop.cluster.disruptive = {"tool": "nginx maps /usr/lib/libtool.so"}
    with pytest.raises(WebfarmError, match="tool: nginx maps"):
        upgrade(shop, kind="online")
    assert versions(shop) == {OLD}


def test_online_stops_at_the_batch_that_fails(shop: OsShop) -> None:
    shop.cluster.refuses.add("site1-farm1-ws1")
    data = upgrade(shop, kind="online")
    assert data["state"] == "paused" and "in service as before" in data["message"]
    assert shop.cluster.has("site1-farm1-ws2") == OLD


def test_status_and_history_show_a_run_of_waves(shop: OsShop) -> None:
    shop.cluster.never.add("site1-farm1-ws1")
    upgrade(shop)
    data = status.status(shop.context)
    assert "os of tool (site1 wave-1, site1 wave-2)" in data["unfinished"][0]["what"]
    assert status.history(shop.context, id=1)["rollouts"][0]["farm"] == "wave-1"

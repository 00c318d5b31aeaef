"""Operations on a real HAProxy: read back, kept over reload, restart and kill."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import webfarm
from webfarm.errors import WebfarmError

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import RELEASES, ROOT, Haproxy, World, farms, world
from loopback import NET, PATIENCE, wait_for
from webfarm.haproxy import maps
from webfarm.haproxy.client import BalancerError
from webfarm.haproxy.runtime import FARM_MAPS
from webfarm.hold import StaleHold

OLD, NEW = RELEASES


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


def remembered(balancer: Haproxy) -> dict[str, Any]:
    """What must survive: weights, states, maps."""
    seen = farms.farms(balancer.balancer)
    assert seen["disk_agrees"]
    servers = balancer.balancer.servers()
    return {
        "weights": {s: a["uweight"] for group in servers.values() for s, a in group.items()},
        "states": {s: a["admin_state"] for group in servers.values() for s, a in group.items()},
        "maps": {name: balancer.balancer.get_map(name) for name in FARM_MAPS},
    }


def disturb(balancer: Haproxy) -> None:
    """Change everything that can be changed at run time."""
    api = balancer.balancer
    api.set_weights(
        {"farm1": {"site1-farm1-ws1": 7, "site1-farm1-ws2": 256}, "farm2": {"site1-farm2-ws1": 1}}
    )
    api.set_state("farm1", "site1-farm1-ws2", "drain")
    api.set_state("farm2", "site1-farm2-ws2", "maint")
    farms.set_farms(
        api,
        state={"farm2": "drain"},
        generation={"farm1": 4},
        newest=5,
        release={"farm2": NEW},
        pick={"farm1": 1},
        pick_newest={"farm1": 3, "farm2": 1},
    )


@pytest.mark.parametrize(
    "event", ["reload", "two reloads", "restart", "kill", "kill while reloading"]
)
def test_nothing_set_at_run_time_is_lost(cluster: World, balancer: Haproxy, event: str) -> None:
    disturb(balancer)
    before = remembered(balancer)
    assert (
        before["weights"]["site1-farm1-ws2"] == 256
        and before["states"]["site1-farm2-ws2"] == "maint"
    )
    if event.endswith("reload") or event.endswith("reloads"):
        for _ in range(1 + event.startswith("two")):
            balancer.help("reload")
    elif event == "restart":
        balancer.restart()
    else:
        if event == "kill while reloading":
            thread = threading.Thread(target=balancer.help, args=("reload", False))
            thread.start()
            time.sleep(0.15)
            balancer.kill()
            thread.join(60)
        else:
            balancer.kill()
        balancer.start()
    assert remembered(balancer) == before
    # the fence holds: farm2's servers run the old release, and HAProxy started with them up
    wait_for(lambda: farms.farms(balancer.balancer)["farms"]["farm2"]["up"] == 0, "fenced")


def test_servers_that_are_down_stay_down_over_a_reload(cluster: World, balancer: Haproxy) -> None:
    victim = cluster.servers["site1-farm1-ws1"]
    cluster.run(victim.stop())
    wait_for(lambda: farms.farms(balancer.balancer)["farms"]["farm1"]["up"] == 1, "noticed")
    balancer.help("reload")
    assert farms.farms(balancer.balancer)["farms"]["farm1"]["up"] == 1
    # it was told, and did not find out by losing requests or checks
    log = (balancer.folder / "haproxy.log").read_text()
    assert f"{victim.id} is DOWN, changed from server-state after a reload" in log


def test_a_changed_port_and_a_new_server_win_over_the_state_file(
    cluster: World, balancer: Haproxy
) -> None:
    balancer.balancer.set_weight("farm1", "site1-farm1-ws1", 50)
    moved = cluster.servers["site1-farm1-ws1"]
    cookies = {"FARMID": "site1:farm1:1"}
    for port, event in ((18081, "reload"), (18082, "kill"), (18080, "reload")):
        cluster.run(moved.stop())
        moved.port = port
        cluster.run(moved.start())
        balancer.context["farms"]["farm1"]["servers"][moved.id]["port"] = port
        balancer.write_config()
        if event == "kill":
            balancer.kill()
            balancer.start()
        else:
            balancer.help("reload")
        served = moved.answered["served"]
        wait_for(
            lambda n=served: (
                cluster.ask(balancer, cookies=cookies) and moved.answered["served"] > n
            ),
            f"it answers at port {port} after the {event}",
        )
        assert balancer.balancer.servers("farm1")["farm1"][moved.id]["uweight"] == 50


def test_a_broken_configuration_does_not_replace_the_running_one(balancer: Haproxy) -> None:
    good = balancer.config.read_text()
    pid = balancer.balancer.info()["pid"]
    balancer.config.write_text(good + "nonsense\n")
    done = balancer.help("reload", check=False)
    assert done.returncode != 0 and "goes on with the configuration that it has" in done.stderr
    assert balancer.balancer.info()["pid"] == pid
    balancer.config.write_text(good)
    balancer.help("reload")
    assert balancer.balancer.info()["pid"] != pid


def test_a_reload_waits_for_a_change_and_a_change_for_a_reload(balancer: Haproxy) -> None:
    with balancer.balancer.lock("test"):
        thread = threading.Thread(target=balancer.help, args=("reload",))
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        pid = balancer.balancer.info()["pid"]
    thread.join(30)
    assert balancer.balancer.info()["pid"] != pid


def test_a_start_waits_for_nobody(balancer: Haproxy) -> None:
    disturb(balancer)
    before = remembered(balancer)
    balancer.kill()
    with balancer.balancer.lock("a change that hangs"):
        balancer.start()
    assert remembered(balancer) == before
    balancer.stop()
    done = balancer.help("reload", check=False)
    assert done.returncode != 0 and "nothing was done" in done.stderr


def test_reload_says_what_came_of_it(balancer: Haproxy) -> None:
    result = balancer.balancer.reload(lambda: balancer.help("reload") and None)
    assert result["pid"] != result["old_pid"]


def test_concurrent_changes_do_not_lose_each_other(balancer: Haproxy) -> None:
    """Each changes the maps and the state file as a whole; the lock keeps them apart."""
    failures: list[Exception] = []

    def change(number: int) -> None:
        try:
            if number % 2:
                farms.set_farms(
                    balancer.balancer,
                    newest=100 + number,
                    generation={f"farm{1 + number % 4 // 2}": number + 2},
                )
            else:
                server = f"site1-farm{1 + number % 4 // 2}-ws1"
                balancer.balancer.set_weight(server.split("-")[1], server, 10 + number)
        except WebfarmError as error:
            if "never go down" not in str(error):
                failures.append(error)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    seen = farms.farms(balancer.balancer)
    assert seen["newest"] == 111 and seen["disk_agrees"]
    before = remembered(balancer)
    balancer.kill()
    balancer.start()
    assert remembered(balancer) == before


def test_weights_are_changed_read_back_and_reported(balancer: Haproxy) -> None:
    api = balancer.balancer
    changed = api.set_weights({"farm1": {"site1-farm1-ws1": 50, "site1-farm1-ws2": 100}})
    assert changed == {"farm1": {"site1-farm1-ws1": {"old": 100, "new": 50}}}
    assert api.set_weight("farm1", "site1-farm1-ws1", 50) == {}
    assert api.servers("farm1")["farm1"]["site1-farm1-ws1"]["uweight"] == 50
    with pytest.raises(WebfarmError, match="no server farm1/nobody"):
        api.set_weights({"farm1": {"site1-farm1-ws1": 60, "nobody": 5}})
    assert api.servers("farm1")["farm1"]["site1-farm1-ws1"]["uweight"] == 50
    with pytest.raises(WebfarmError, match="farm9"):
        api.servers("farm9")


def test_states_are_changed_read_back_and_reported(balancer: Haproxy) -> None:
    api = balancer.balancer
    assert api.set_state("farm1", "site1-farm1-ws1", "drain") == {"old": "ready", "new": "drain"}
    assert api.set_state("farm1", "site1-farm1-ws1", "drain") == {}
    assert api.set_state("farm1", "site1-farm1-ws1", "maint") == {"old": "drain", "new": "maint"}
    assert api.set_state("farm1", "site1-farm1-ws1", "ready") == {"old": "maint", "new": "ready"}


def test_set_farms_refuses_what_would_break_a_promise(balancer: Haproxy) -> None:
    api = balancer.balancer
    farms.set_farms(api, generation={"farm1": 3}, newest=3)
    before = remembered(balancer)
    for change, words in [
        ({"generation": {"farm1": 2}}, "never go down"),
        ({"newest": 2}, "never go down"),
        ({"generation": {"farm2": 4}}, "newest=4"),
        ({"state": {"farm9": "open"}}, "no farm farm9"),
        ({"pick": {"farm1": 1, "farm9": 1}}, "no farm farm9"),
        ({"state": {"webfarm_none": "open"}}, "no farm webfarm_none"),
    ]:
        with pytest.raises(WebfarmError, match=words):
            farms.set_farms(api, **change)  # type: ignore[arg-type]
    assert remembered(balancer) == before


def test_a_dead_farm_is_not_opened_unless_forced(cluster: World, balancer: Haproxy) -> None:
    api = balancer.balancer
    farms.set_farms(api, state={"farm2": "closed"}, release={"farm2": NEW}, pick={"farm1": 1})
    wait_for(lambda: farms.farms(api)["farms"]["farm2"]["up"] == 0, "fenced")
    with pytest.raises(WebfarmError, match=r"site1-farm2-ws1 DOWN.*Nothing was changed"):
        farms.set_farms(api, state={"farm2": "open"}, pick={"farm1": 1, "farm2": 1})
    assert farms.farms(api)["pick"] == {"farm1": 256}
    assert (
        farms.set_farms(api, state={"farm2": "open"}, force=True)["farms"]["farm2"]["state"]
        == "open"
    )


def test_set_farms_is_idempotent(balancer: Haproxy) -> None:
    change: dict[str, Any] = {
        "state": {"farm2": "drain"},
        "release": {"farm2": NEW},
        "pick": {"farm1": 1},
        "generation": {"farm1": 2},
        "newest": 2,
    }
    first = farms.set_farms(balancer.balancer, **change)
    stamps = {n: Path(balancer.settings.maps, f"{n}.map").stat().st_mtime_ns for n in FARM_MAPS}
    second = farms.set_farms(balancer.balancer, **change)
    assert {n: first[n] for n in ("newest", "pick")} == {n: second[n] for n in ("newest", "pick")}
    assert stamps == {
        n: Path(balancer.settings.maps, f"{n}.map").stat().st_mtime_ns for n in FARM_MAPS
    }


def test_reconcile_brings_haproxy_to_what_the_disk_says(balancer: Haproxy) -> None:
    """As after a death between the disk and the runtime API, or a change by somebody's hand."""
    api = balancer.balancer
    path = api.map_path("farm_release")
    maps.write(path, [("farm1", OLD), ("farm2", NEW)])
    api.client.one(f"set map {api.map_path('farm_state')} farm1 closed")
    api.client.one("set server farm1/site1-farm1-ws1 weight 9")
    assert not farms.farms(api)["disk_agrees"]
    changed = farms.reconcile(api)
    assert set(changed) == {"farm_release", "farm_state", "state_file"}
    seen = farms.farms(api)
    assert seen["disk_agrees"] and seen["farms"]["farm2"]["release"] == NEW
    assert seen["farms"]["farm1"]["state"] == "open"
    assert farms.reconcile(api) == {}
    balancer.kill()
    balancer.start()
    assert api.servers("farm1")["farm1"]["site1-farm1-ws1"]["uweight"] == 9


def held(cluster: World, balancer: Haproxy, farm: str) -> Future[int]:
    """A request to the farm that lasts until the cluster lets go; its result is the status."""

    async def ask() -> int:
        client = cluster.client(balancer)
        client.cookies = {"FARMID": f"site1:{farm}:1"}
        reply = await client.request("/?hold=1")
        client.close()
        return reply.status

    return cluster.submit(ask())


def test_evidence_counts_what_is_in_flight_in_old_workers_too(
    cluster: World, balancer: Haproxy
) -> None:
    api = balancer.balancer
    running = [held(cluster, balancer, "farm2") for _ in range(3)]
    wait_for(lambda: api.evidence("farm2")["in_flight"] == 3, "in flight")
    evidence = api.evidence("farm2")
    assert (evidence["workers"], evidence["queued"]) == (1, 0)
    assert sum(s["in_flight"] for s in evidence["servers"].values()) == 3
    balancer.help("reload")
    running.append(held(cluster, balancer, "farm2"))
    wait_for(lambda: api.evidence("farm2")["in_flight"] == 4, "both workers are counted")
    evidence = api.evidence("farm2")
    assert evidence["workers"] == 2
    assert sum(s["in_flight"] for s in evidence["servers"].values()) == 4
    assert farms.farms(api)["farms"]["farm2"]["in_flight"] == 4
    assert api.evidence("farm1")["in_flight"] == 0
    cluster.let_go()
    assert [r.result(PATIENCE) for r in running] == [200] * 4
    wait_for(lambda: api.evidence("farm2")["in_flight"] == 0, "done")
    wait_for(lambda: farms.farms(api)["old_workers"] == 0, "the old worker has gone")


def test_evidence_counts_the_queue(cluster: World) -> None:
    balancer = cluster.add_site_balancer(start=False)
    for server in balancer.context["farms"]["farm2"]["servers"].values():
        server["max_children"] = 1  # two requests per server, the rest waits
    balancer.write_config()
    balancer.start()
    wait_for(lambda: farms.farms(balancer.balancer)["farms"]["farm2"]["up"] == 2, "up")

    running = [held(cluster, balancer, "farm2") for _ in range(7)]
    wait_for(lambda: api_counts(balancer) == (4, 3), "4 in flight, 3 in the queue")
    cluster.let_go()
    assert [r.result(PATIENCE) for r in running] == [200] * 7
    wait_for(lambda: api_counts(balancer) == (0, 0), "done")


def api_counts(balancer: Haproxy) -> tuple[int, int]:
    evidence = balancer.balancer.evidence("farm2")
    return evidence["in_flight"], evidence["queued"]


def test_changes_of_maps_reach_the_old_workers(cluster: World, balancer: Haproxy) -> None:
    running = held(cluster, balancer, "farm1")
    wait_for(lambda: sum(f["in_flight"] for f in balancer.balancer.flights().values()), "in flight")
    balancer.help("reload")
    (old,) = balancer.balancer.old_workers()
    farms.set_farms(balancer.balancer, state={"farm2": "drain"}, pick={"farm1": 1})
    balancer.balancer.set_state("farm1", "site1-farm1-ws1", "drain")
    assert dict(maps.show(old, balancer.balancer.map_path("farm_state")))["farm2"] == "drain"
    cluster.let_go()
    assert running.result(PATIENCE) == 200


def test_a_stopped_haproxy_is_an_error_that_names_the_socket(balancer: Haproxy) -> None:
    balancer.stop()
    for call in (balancer.balancer.info, lambda: farms.farms(balancer.balancer)):
        with pytest.raises(BalancerError, match="systemctl status haproxy"):
            call()


def test_ensure_creates_the_maps_once_and_then_only_adds_and_drops_farms(tmp_path: Path) -> None:
    with world(tmp_path) as cluster:
        cluster.add_farms(count=2, servers=1)
        balancer = cluster.add_site_balancer()
        api = balancer.balancer
        assert farms.ensure(api, {"farm1": 1, "farm2": 1}, OLD) == {}
        farms.set_farms(
            api,
            state={"farm2": "drain"},
            generation={"farm2": 3},
            newest=3,
            release={"farm2": NEW},
            pick={"farm1": 1},
            pick_newest={"farm2": 1},
        )
        kept = remembered(balancer)
        assert farms.ensure(api, {"farm1": 9, "farm2": 1}, OLD) == {}
        assert remembered(balancer) == kept
        # a new farm: known, closed, of the lowest generation, in no pick
        assert set(farms.ensure(api, {"farm1": 1, "farm2": 1, "farm3": 1}, OLD, test=True)) == {
            "farm_state",
            "farm_generation",
            "farm_release",
        }
        assert remembered(balancer) == kept
        farms.ensure(api, {"farm1": 1, "farm2": 1, "farm3": 1}, OLD)
        assert api.get_map("farm_state") == {"farm1": "open", "farm2": "drain", "farm3": "closed"}
        assert api.get_map("farm_generation") == {
            "farm1": "1",
            "farm2": "3",
            "farm3": "1",
            "newest": "3",
        }
        assert api.get_map("farm_release")["farm3"] == OLD
        assert maps.shares(maps.show(api.client, api.map_path("farm_pick"))) == {"farm1": 256}
        # a farm that is gone leaves all maps; generations stay
        farms.ensure(api, {"farm1": 1}, OLD)
        assert api.get_map("farm_generation") == {"farm1": "1", "newest": "3"}
        assert api.get_map("farm_pick_newest") == {}
        # and all of that while HAProxy is down
        balancer.stop()
        farms.ensure(api, {"farm1": 1, "farm2": 1}, OLD)
        balancer.start()
        assert farms.farms(api)["farms"]["farm2"]["state"] == "closed"


def test_s1_a_reinstalled_balancer_takes_over_what_its_sibling_has(tmp_path: Path) -> None:
    with world(tmp_path) as cluster:
        cluster.add_farms(count=3, servers=1)
        first = cluster.add_site_balancer(start=False)
        first.context |= {"siblings": ["127.0.0.1"], "primaries": [f"{NET}.9.9"]}
        first.write_config()
        second = cluster.add_site_balancer(start=False)
        address = first.context["bind"]
        weights = {"farm1": 2, "farm2": 1, "farm3": 1, "farm4": 1}

        def reinstalled() -> dict[str, dict[str, str]]:
            for name in FARM_MAPS:
                second.balancer.map_path(name).unlink(missing_ok=True)
            farms.ensure(second.balancer, weights, OLD, [f"{NET}.9.8:1", address])
            return {name: dict(maps.read(second.balancer.map_path(name))) for name in FARM_MAPS}

        bare = reinstalled()  # nobody answers: the site is bare
        assert set(bare["farm_state"].values()) == {"open"}
        first.start()
        wait_for(lambda: all(f["up"] for f in farms.farms(first.balancer)["farms"].values()), "up")
        farms.set_farms(
            first.balancer,
            state={"farm1": "closed", "farm2": "drain"},
            newest=3,
            generation={"farm3": 3, "farm2": 2},
            release={"farm3": NEW},
        )
        learnt = reinstalled()
        assert learnt["farm_state"] == {
            "farm1": "closed",
            "farm2": "drain",
            "farm3": "open",
            "farm4": "closed",
        }
        assert learnt["farm_generation"] == {
            "farm1": "1",
            "farm2": "2",
            "farm3": "3",
            "farm4": "1",
            "newest": "3",
        }
        assert learnt["farm_release"]["farm3"] == NEW
        assert learnt["farm_pick"] == learnt["farm_pick_newest"] == {"0:255": "farm3"}
        # a sibling may ask for that, and for nothing else
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            cluster.ask(first)
        # one that does not know this one, and somebody else: then nobody knows
        other = cluster.servers["site1-farm1-ws1"]
        for name in FARM_MAPS:
            second.balancer.map_path(name).unlink()
        first.context["siblings"] = [f"{NET}.9.7"]
        first.write_config()
        first.help("reload")
        for deaf in (address, f"{other.address}:{other.port}"):
            with pytest.raises(WebfarmError, match="Nothing was changed"):
                farms.ensure(second.balancer, weights, OLD, [deaf])
        assert not second.balancer.map_path("farm_state").exists()


def test_a_farm_that_no_map_knows_gets_nothing(cluster: World, balancer: Haproxy) -> None:
    api = balancer.balancer
    for name in FARM_MAPS:
        maps.write(api.map_path(name), [])
    balancer.restart()
    assert cluster.ask(balancer).status == 503
    assert {f["state"] for f in farms.farms(api)["farms"].values()} == {"closed"}


# -- the loader-facing files ---------------------------------------------------------------------


class Loaded:
    """A module or state file with what Salt's loader injects."""

    def __init__(self, path: Path, **injected: Any) -> None:
        import importlib.util

        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        self.module = importlib.util.module_from_spec(spec)
        for name, value in injected.items():
            setattr(self.module, name, value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(webfarm, "renew", lambda _: None)  # one library, whoever edits it now
            spec.loader.exec_module(self.module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def loaded(balancer: Haproxy, test: bool = False) -> tuple[Loaded, Loaded, Loaded]:
    settings = {
        name: getattr(balancer.settings, name)
        for name in ("socket", "master_socket", "maps", "state_file", "lock")
    }
    module = Loaded(
        ROOT / "_modules" / "haproxy_runtime.py",
        __salt__={"config.get": lambda key, default=None: settings},
        __opts__={"webfarm_holds": str(balancer.folder / "holds")},
    )
    functions = {
        f"haproxy_runtime.{name}": getattr(module, name)
        for name in (
            "servers",
            "set_weight",
            "set_state",
            "evidence",
            "farms",
            "set_farms",
            "ensure_farms",
            "ensure_sites",
        )
    }
    injected = {"__salt__": functions, "__opts__": {"test": test}}
    return (
        module,
        Loaded(ROOT / "_states" / "haproxy_server.py", **injected),
        Loaded(ROOT / "_states" / "haproxy_farm.py", **injected),
    )


def test_the_module_returns_plain_data(balancer: Haproxy) -> None:
    module, _, _ = loaded(balancer)
    for result in (
        module.info(),
        module.servers(),
        module.servers("farm1"),
        module.farms(),
        module.evidence("farm1"),
        module.set_weight("farm1", "site1-farm1-ws1", 5),
        module.set_weights({"farm1": {"site1-farm1-ws2": 6}}),
        module.set_state("farm1", "site1-farm1-ws1", "drain"),
        module.get_map("farm_state"),
        module.set_farms(state={"farm2": "drain"}),
        module.reconcile(),
    ):
        assert json.loads(json.dumps(result)) == result


def test_what_an_older_rollout_sends_late_changes_nothing(balancer: Haproxy) -> None:
    module, _, _ = loaded(balancer)
    module.farms(hold="site1:1000.1")
    module.set_farms(state={"farm2": "drain"}, hold="site1:1000.2")
    module.farms(hold="site1:2000.1")
    before = remembered(balancer)
    for hold in ("site1:1000.3", "site1:2000.0", "site1:2000"):
        with pytest.raises(StaleHold, match="nothing was changed"):
            module.set_farms(state={"farm2": "open"}, hold=hold)
        with pytest.raises(StaleHold):
            module.farms(hold=hold)
    assert remembered(balancer) == before
    after = module.set_farms(state={"farm2": "open"}, hold="site1:2000.2")
    assert after["farms"]["farm2"]["state"] == "open"


def test_the_module_refuses_unknown_settings(balancer: Haproxy) -> None:
    module, _, _ = loaded(balancer)
    module.module.__salt__["config.get"] = lambda key, default=None: {"sockett": "/x"}
    with pytest.raises(WebfarmError, match="sockett"):
        module.info()


def test_server_states_change_once_and_show_old_and_new(cluster: World, balancer: Haproxy) -> None:
    server = "site1-farm1-ws1"
    _, dry, _ = loaded(balancer, test=True)
    _, wet, _ = loaded(balancer)
    for name, options, field, old, new in [
        ("weight", {"weight": 50}, "uweight", 100, 50),
        ("drained", {}, "admin_state", "ready", "drain"),
        ("maintenance", {}, "admin_state", "drain", "maint"),
        ("ready", {}, "admin_state", "maint", "ready"),
    ]:
        changes = {f"farm1/{server}": {"old": {field: old}, "new": {field: new}}}
        tried = getattr(dry, name)(server, "farm1", **options)
        assert (tried["result"], tried["changes"]) == (None, changes)
        done = getattr(wet, name)(server, "farm1", **options)
        assert (done["result"], done["changes"]) == (True, changes)
        for again in (dry, wet):
            same = getattr(again, name)(server, "farm1", **options)
            assert (same["result"], same["changes"]) == (True, {})
    assert wet.weight(server, "farm1", 0)["result"] is False
    assert wet.ready("nobody", "farm1")["result"] is False
    assert wet.ready("x;y", "farm1")["result"] is False


def test_drained_waits_for_what_is_in_flight(cluster: World, balancer: Haproxy) -> None:
    _, states, _ = loaded(balancer)

    def busy() -> list[str]:
        flight = balancer.balancer.evidence("farm1")["servers"]
        return [name for name, server in flight.items() if server["in_flight"]]

    running = held(cluster, balancer, "farm1")
    [server] = wait_for(busy, "a request in flight")
    early = states.drained(server, "farm1", wait=0.3)
    assert early["result"] is False and "1 requests in flight" in early["comment"]
    threading.Timer(0.5, cluster.let_go).start()
    late = states.drained(server, "farm1", wait=PATIENCE)
    assert late["result"] is True and "no request" in late["comment"]
    assert running.result(PATIENCE) == 200


def test_farm_states_change_once_and_show_old_and_new(cluster: World, balancer: Haproxy) -> None:
    _, _, dry = loaded(balancer, test=True)
    _, _, wet = loaded(balancer)
    for name, state, old_share, new_share in [
        ("draining", "drain", 128, 0),
        ("closed", "closed", 0, 0),
        ("open", "open", 0, 128),
    ]:
        tried = getattr(dry, name)("farm2")
        assert tried["result"] is None and tried["changes"]["farm2"]["old"]["share"] == old_share
        done = getattr(wet, name)("farm2")
        assert done["result"] is True
        assert done["changes"]["farm2"]["new"] == {"state": state, "share": new_share}
        for again in (dry, wet):
            same = getattr(again, name)("farm2")
            assert (same["result"], same["changes"]) == (True, {})
    assert wet.open("farm9")["result"] is False
    assert wet.maps("maps", {"farm1": 1, "farm2": 1}, OLD)["changes"] == {}
    tried = dry.maps("maps", {"farm1": 1, "farm2": 1, "farm3": 1}, OLD)
    assert tried["result"] is None and tried["changes"]["farm_state"]["new"]["farm3"] == "closed"

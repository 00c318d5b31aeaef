"""The main job, for real: farms upgraded on a live cluster, and what may go wrong meanwhile.

The tests follow one another from release to release: each begins by making the site whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab_words import Lab
from shop import CONFIG, Shop, told, until

pytestmark = pytest.mark.lab

CLEAN = {"S1": 0, "S2": 0, "S3": 0}


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Shop:
    """Site 1 of the lab."""
    return Shop(lab)


def breaches(data: dict[str, Any]) -> dict[str, int]:
    """Breaches by promise."""
    return {promise: found["breaches"] for promise, found in data["promises"].items()}


@contextmanager
def dead(shop: Shop, *nodes: str) -> Iterator[None]:
    """A power cut for some nodes while the block runs; afterwards all are in service again."""
    for node in nodes:
        shop.lab.fault("kill", node)
    try:
        yield
    finally:
        for node in nodes:
            shop.lab.fault("start", node)


# -- the main job


def test_a_plan_shows_steps_targets_and_capacity_and_changes_nothing(shop: Shop) -> None:
    shop.spare("farm2")
    release = shop.following()
    before = shop.views()
    plan = shop.lab.run("upgrade.plan", shop.site, "farm2", f"release={release}")
    [farm] = plan["farms"]
    names = [step["step"].split()[1] for step in farm["steps"]]
    order = ["drain", "close", "quiesce", "fence", "switch", "flush", "verify", "ready", "open"]
    assert [name for name in names if name in order] == order
    assert all(step["targets"] and step["capacity"].endswith("%") for step in farm["steps"])
    assert farm["lowest_capacity"] == "50 %"
    assert shop.views() == before


def test_a_farm_that_is_there_has_nothing_to_do(shop: Shop) -> None:
    before, release = shop.views(), shop.release("farm2")
    assert shop.upgrade("farm2", release)["state"] == "nothing"
    plan = shop.lab.run("upgrade.plan", shop.site, "farm2", f"release={release}")
    assert plan["farms"][0]["steps"] == []
    assert shop.views() == before


def test_sticky_requests_of_a_farm_are_shared_by_its_servers(shop: Shop) -> None:
    """Within 10 %; without slow requests, each of which sends all others elsewhere for a while."""
    with shop.traffic("--slow=0", rate=150, sessions=200):
        shop.answers(4500)
    data = shop.judge()
    assert breaches(data) == CLEAN, told(data)
    shared = [farm for farm in data["farms"].values() if sum(farm["sticky"].values()) > 700]
    assert len(shared) > 2 and all(farm["sticky_evenness"] < 1.1 for farm in shared), told(data)


# -- S1: the upgraded farm dies


def test_s1_no_older_farm_answers_for_an_upgraded_one_that_died(shop: Shop) -> None:
    """The floor `strict`: its sessions wait. The floor `available`: they begin anew elsewhere."""
    shop.ahead("farm2")
    try:
        with shop.traffic():
            with dead(shop, *shop.farms["farm2"]):
                with shop.phase("strict"):
                    shop.answers(700)
                data = shop.judge("--promises=S1,S3")
                assert data["verdict"] == "innocent", told(data)
                # the sessions of farm2 were told to come back later
                assert data["phases"]["strict"]["failures"].get("shed", 0) > 50, told(data)
                assert not any("farm2 -> " in move for move in data["moves"]["farms"]), told(data)
                shop.policy(floor="available")
                shop.apply(shop.balancers)
                with shop.phase("available"):
                    shop.answers(500)
            shop.healthy()
            shop.answers(300)
        data = shop.judge("--promises=S1,S3", "--allow-resets=1000000")
        assert data["verdict"] == "innocent", told(data)
        assert data["resets"] > 10, told(data)
        failed = {name: phase["failed"] for name, phase in data["phases"].items()}
        assert failed["available"] == failed["after"] == 0, told(data)
    finally:
        shop.policy(floor="strict")
        shop.apply(shop.balancers)


# -- S3: a cache that remembers the past


def test_s3_sessions_return_to_a_farm_that_remembers_their_past(shop: Shop) -> None:
    """Unplanned: farm2 dies, its memcached does not; then farm1 is upgraded."""
    shop.level()
    services = ("nginx", "webfarm-php-fpm")
    with shop.traffic("--parallel=0", sessions=160):
        with shop.phase("dead"):
            for server in shop.farms["farm2"]:
                shop.lab.fault("stop", server, *services)
            shop.answers(500)
            for server in shop.farms["farm2"]:
                shop.lab.fault("start", server, *reversed(services))
            shop.healthy()
        with shop.phase("upgrade"):
            shop.upgrade("farm1", shop.following())
        shop.answers(500)
    data = shop.judge("--promises=S1,S3")
    assert data["verdict"] == "innocent", told(data)
    assert data["phases"]["upgrade"]["failed"] == data["phases"]["after"]["failed"] == 0, told(data)
    moves = data["moves"]["farms"]
    assert moves[f"{shop.site}/farm2 -> {shop.site}/farm1"] > 20
    assert moves[f"{shop.site}/farm1 -> {shop.site}/farm2"] > 20


# -- S7: a server that slept through


def test_s7_a_server_that_slept_through_the_upgrade_gets_no_request(shop: Shop) -> None:
    """Not even with the master down; when the master is back, its reactor brings it along."""
    shop.spare("farm2")
    old, new = shop.release("farm2"), shop.following()
    sleeper = shop.farms["farm2"][1]
    with shop.traffic():
        shop.lab.fault("stop", sleeper)
        with shop.phase("upgrade"):
            shop.upgrade("farm2", new)
        shop.lab.fault("stop", "master", "salt-master")
        started = time.time()
        try:
            shop.lab.fault("start", sleeper)
            until(lambda: _runs(shop, sleeper) == old, "the sleeper serves its old release")
            shop.answers(700)
            assert not [a for a in shop.log() if a.server == sleeper and a.sent > started]
        finally:
            shop.lab.fault("start", "master", "salt-master")
        shop.healthy()
        shop.answers(300)
    data = shop.judge("--promises=S1,S3")
    assert data["verdict"] == "innocent", told(data)
    assert data["phases"]["upgrade"]["failed"] == data["phases"]["after"]["failed"] == 0, told(data)
    assert {a.release for a in shop.log() if a.server == sleeper and a.sent > started} == {new}


def _runs(shop: Shop, server: str) -> str:
    """What a server would serve, asked on its own loopback."""
    ask = "curl -s -m 2 -o /dev/null -D - http://127.0.0.1:8080/"
    for line in shop.lab.sh(server, ask, check=False).splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "x-webfarm-release":
            return value.strip()
    return ""


# -- two balancers, one of them slow


def test_a_balancer_that_is_slow_to_follow_sends_no_session_back(shop: Shop) -> None:
    shop.spare("farm1")
    slow, release = shop.balancers[-1], shop.following()
    with shop.traffic("--parallel=0.3"):
        shop.answers(300)
        with _sluggish(shop, slow, 3.0), shop.phase("upgrade"):
            shop.upgrade("farm1", release)
        shop.answers(700)
    data = shop.judge()
    assert breaches(data) == CLEAN, told(data)
    assert {a.farm for a in shop.log() if a.site == shop.site} == {"farm1", "farm2"}


@contextmanager
def _sluggish(shop: Shop, node: str, seconds: float) -> Iterator[None]:
    """The node's minion sleeps for so long, again and again."""
    over = threading.Event()

    def doze() -> None:
        while not over.is_set():
            _signal(shop, node, "STOP")
            over.wait(seconds)
            _signal(shop, node, "CONT")
            over.wait(1.0)

    thread = threading.Thread(target=doze)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _signal(shop: Shop, node: str, name: str) -> None:
    shop.lab.exec(node, "systemctl", "kill", "--kill-whom=all", f"--signal={name}", "salt-minion")


# -- what a balancer must not forget


def test_reload_restart_and_kill_of_a_balancer_lose_nothing_it_was_told(shop: Shop) -> None:
    shop.ahead("farm1")
    [node, *_] = shop.balancers
    server = shop.farms["farm2"][0]
    shop.lab.salt([node], "haproxy_runtime.set_weight", "farm2", server, "50")
    shop.set_farms([node], state={"farm2": "drain"}, pick=shop.pick("farm1"))
    before = _memory(shop, node)
    assert before["weights"][server] == 50 and before["farm_state"]["farm2"] == "drain"
    try:
        with shop.traffic():
            with shop.phase("reload"):
                for _ in range(3):
                    shop.lab.salt([node], "haproxy_runtime.reload")
                    shop.answers(150)
            assert _memory(shop, node) == before
            shop.answers(250)  # a restart may cut what is in flight, a reload may not: apart
            shop.lab.exec(node, "systemctl", "restart", "haproxy")
            until(lambda: _memory(shop, node) == before, "all is as before the restart", 20)
            shop.answers(100)
            shop.lab.fault("kill", node, "haproxy")
            until(lambda: _memory(shop, node) == before, "all is as before the kill", 30)
            shop.answers(200)
        data = shop.judge("--promises=S1,S3")
        assert data["verdict"] == "innocent", told(data)
        assert data["phases"]["reload"]["failed"] == 0, told(data)
        assert data["phases"]["reload"]["requests"] > 400
    finally:
        shop.lab.salt([node], "haproxy_runtime.set_weight", "farm2", server, "100")
        shop.set_farms([node], state={"farm2": "open"}, pick=shop.pick("farm1", "farm2"))


def _memory(shop: Shop, node: str) -> dict[str, Any]:
    """What a balancer was told: its maps, its servers' weights."""
    view = shop.view(node)
    return {key: view.get(key) for key in view if key != "servers"} | {
        "weights": {server: weight for (_, server), (_, weight) in view["servers"].items()}
    }


# -- highstate


def test_a_highstate_changes_nothing_and_repairs_what_a_hand_changed(shop: Shop) -> None:
    """Under traffic: not even a repair loses a request."""
    nodes = [shop.balancers[0], shop.farms["farm2"][0], "lb1"]
    files = {nodes[0]: CONFIG, nodes[1]: "/etc/webfarm/php-fpm.conf", nodes[2]: CONFIG}
    shop.apply(nodes)
    assert shop.apply(nodes) == {}
    whole = {node: shop.lab.sh(node, f"cat {path}") for node, path in files.items()}
    with shop.traffic():
        for node, path in files.items():
            shop.lab.sh(node, f"echo '# by hand' >> {path}")
        assert set(shop.apply(nodes)) == set(nodes)
        shop.answers(100)
    assert {node: shop.lab.sh(node, f"cat {path}") for node, path in files.items()} == whole
    data = shop.judge()
    assert breaches(data) == CLEAN, told(data)

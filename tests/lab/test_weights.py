"""The weights' loop for real: beacon, engine, reactor, balancers; no second of it is asserted.

`lab/weights` measures how long it all takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from lab_words import Lab
from runner import Runner
from shop import Shop, told, until
from weigher import BASE, Weigher, drained, in_service, looping, lowered, weighed

pytestmark = pytest.mark.lab

FARM = "farm1"
CLEAN = {"S1": 0, "S2": 0, "S3": 0}


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[Shop]:
    """Site 1, both farms open on one release, its weights in the loop's hands."""
    shop = Shop(lab)
    shop.level()
    with looping(lab):
        shop.connected()
        yield shop
    shop.connected()


@pytest.fixture
def weigher(lab: Lab, shop: Shop) -> Iterator[Weigher]:
    """A farm at its base weights, watched on both balancers."""
    shop.healthy()
    with weighed(lab, shop, FARM) as found:
        found.at_base()
        yield found


def test_a_burning_server_gets_less_everywhere_and_all_of_it_afterwards(
    shop: Shop, weigher: Weigher
) -> None:
    server = weigher.servers[0]
    with shop.traffic(rate=100):
        with weigher.burning(server, 25) as since:
            weigher.when(lowered(server), since, f"{server} has less than {BASE}")
            until(lambda: weigher.status()["servers"][server]["weight"] < BASE, "status says so")
            assert "stalled" in weigher.status()["servers"][server]["why"]
        weigher.at_base()
        shop.answers(200)
    data = shop.judge()
    found = {promise: one["breaches"] for promise, one in data["promises"].items()}
    assert found == CLEAN, told(data)
    changes = shop.lab.run("rebalance.explain", server)["changes"]
    assert min(change["to"] for change in changes) < BASE <= changes[0]["to"], changes


def test_a_server_whose_php_fpm_died_is_drained_everywhere_and_comes_back(
    shop: Shop, weigher: Weigher
) -> None:
    """Only what php-fpm had in its hands is lost: what it did not take is answered elsewhere."""
    server = weigher.servers[0]
    with shop.traffic(rate=100):
        since = weigher.kill_php(server)
        drain = weigher.when(drained(server), since, f"{server} is drained")
        until(lambda: "php-fpm" in explained(shop, server), "explain says why")
        back = since + drain
        weigher.when(in_service(server), back, f"{server} is in service again")
        weigher.at_base()
        shop.answers(200)
    lost = [answer for answer in shop.failed(since) if answer.kind]
    unexcused = [answer for answer in lost if answer.sent > since + 0.5]
    assert not unexcused, unexcused
    data = shop.judge("--promises=S1,S3")
    assert data["verdict"] == "innocent", told(data)


def explained(shop: Shop, server: str) -> str:
    """Why a server was drained lately, in `rebalance.explain`."""
    changes = shop.lab.run("rebalance.explain", server)["changes"]
    return " ".join(change["drained"] for change in changes)


def test_a_balancer_that_was_killed_or_cut_off_has_the_vector_again(
    shop: Shop, weigher: Weigher
) -> None:
    """One HAProxy is killed while a server is drained; the other balancer hears nothing of that."""
    server = weigher.servers[1]
    killed, cut = shop.balancers
    shop.lab.fault("cut", cut)
    try:
        with weigher.without_php(server) as since:
            weigher.when(drained(server), since, f"{server} is drained", on=[killed])
            [before] = [w.farm for w in weigher.watches if w.balancer == killed]
            shop.lab.fault("kill", killed, "haproxy")
            since = time.time()
            weigher.when(lambda farm: farm == before, since, "the same again", on=[killed])
            shop.lab.fault("heal", cut)
            weigher.when(drained(server), since, f"{server} is drained on {cut}")
            until(lambda: not owing(weigher), "every balancer has answered")
        weigher.at_base()
    finally:
        shop.lab.fault("heal", cut)


def owing(weigher: Weigher) -> list[str]:
    """The balancers that have not said that they carry the vector."""
    farm = weigher.status()
    return [
        name
        for name, said in farm["balancers"].items()
        if said["epoch"] != farm["epoch"] or said["owes_since"] is not None
    ]


def test_a_rollout_and_the_loop_do_not_undo_each_other(shop: Shop, weigher: Weigher) -> None:
    """A server burns all the while."""
    server, release = weigher.servers[0], shop.following()
    with shop.traffic(rate=80), weigher.burning(server, 45) as since:
        weigher.when(lowered(server), since, f"{server} has less than {BASE}")
        with shop.phase("both"):
            ended = Runner(shop.lab, "upgrade.site", shop.site, f"release={release}").wait(400)
        assert ended.ok, ended
        shop.answers(200)
    data = shop.judge()
    found = {promise: one["breaches"] for promise, one in data["promises"].items()}
    assert found == CLEAN, told(data)
    assert set(shop.releases().values()) == {release}
    assert not shop.quarantine()
    shop.healthy()
    weigher.at_base()
    assert weigher.status()["left_alone"] == ""


def test_an_operators_drain_is_not_the_loops(shop: Shop, weigher: Weigher) -> None:
    """W3: a sick server's drain ends with its sickness, an operator's by the operator."""
    sick = weigher.servers[1]
    other = shop.farms["farm2"][0]
    by_hand = ["haproxy_runtime.set_state", "farm2", other]
    with weighed(shop.lab, shop, "farm2") as second:
        second.at_base()
        shop.lab.salt(shop.balancers, *by_hand, "drain")
        try:
            since = weigher.kill_php(sick)
            drain = weigher.when(drained(sick), since, f"{sick} is drained")
            weigher.when(in_service(sick), since + drain, f"{sick} is in service again")
            since = second.kill_php(other)
            until(lambda: "hand" in second.status()["servers"][other]["absent"], "it is known")
            until(lambda: not second.status()["servers"][other]["critical"], "it is well again")
            assert all(watch.farm and watch.farm[other].drained for watch in second.watches)
        finally:
            shop.lab.salt(shop.balancers, *by_hand, "ready")
        second.at_base()
    weigher.at_base()

"""The weights' loop for real: beacon, engine, reactor, balancers; no second of it is asserted.

`lab/weights` measures how long it all takes.
"""

from __future__ import annotations

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
    """A farm whose servers are in service, watched on both balancers."""
    shop.healthy()
    with weighed(lab, shop, FARM) as found:
        yield found


def test_a_server_whose_php_fpm_died_is_drained_everywhere_and_comes_back(
    shop: Shop, weigher: Weigher
) -> None:
    """Only what php-fpm had in its hands is lost: what it did not take is answered elsewhere."""
    server = weigher.servers[0]
    with shop.traffic(rate=100):
        since = weigher.kill_php(server)
        drain = weigher.when(drained(server), since, f"{server} is drained")
        until(lambda: "php-fpm" in explained(shop, server), "explain says why")
        weigher.when(in_service(server), since + drain, f"{server} is in service again")
        shop.answers(100)
    unexcused = [one for one in shop.failed(since) if one.kind and one.sent > since + 0.5]
    assert not unexcused, unexcused
    data = shop.judge("--promises=S1,S3")
    assert data["verdict"] == "innocent", told(data)


def explained(shop: Shop, server: str) -> str:
    """Why a server was drained lately, in `rebalance.explain`."""
    changes = shop.lab.run("rebalance.explain", server)["changes"]
    return " ".join(change["drained"] for change in changes)


def test_a_rollout_and_the_loop_do_not_undo_each_other(shop: Shop, weigher: Weigher) -> None:
    """A server burns all the while: it gets less everywhere, and all of it afterwards."""
    server, release = weigher.servers[1], shop.following()
    with shop.traffic(rate=80):
        weigher.at_base()
        with weigher.burning(server, 45) as since:
            weigher.when(lowered(server), since, f"{server} has less than {BASE}")
            until(lambda: weigher.status()["servers"][server]["weight"] < BASE, "status says so")
            with shop.phase("both"):
                ended = Runner(shop.lab, "upgrade.site", shop.site, f"release={release}").wait(400)
            assert ended.ok, ended
        weigher.at_base()
    data = shop.judge()
    found = {promise: one["breaches"] for promise, one in data["promises"].items()}
    assert found == CLEAN, told(data)
    assert set(shop.releases().values()) == {release}
    assert not shop.quarantine()
    shop.healthy()
    assert weigher.status()["left_alone"] == ""
    changes = shop.lab.run("rebalance.explain", server)["changes"]
    assert min(change["to"] for change in changes) < BASE, changes

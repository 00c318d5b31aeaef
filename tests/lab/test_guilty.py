"""A cluster that is broken on purpose is found guilty, of the promise that was broken."""

from __future__ import annotations

import pytest
from lab_words import Lab
from shop import CONFIG, Shop, told, until

pytestmark = pytest.mark.lab

GUARD = "/usr/share/webfarm/php/guard.php"
HANDLER = "/usr/share/webfarm/php/src/SessionHandler.php"
DATABASE = "/usr/share/webfarm/php/src/SessionDatabase.php"
RELOAD = "haproxy -c -q -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy"
# php-fpm looks at changed files every two seconds
PHP = "sleep 2.1"


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Shop:
    """Site 1, both farms open on one release."""
    shop = Shop(lab)
    shop.level()
    return shop


def test_without_its_four_guards_sessions_go_back_in_time(shop: Shop) -> None:
    """S3's: the flush, the mark of a moved session, what the farm that answered last still has in
    its cache is taken out, and the database's version."""
    servers = shop.farms["farm1"] + shop.farms["farm2"]
    moved = "/set-header X-Webfarm-Moved/d"
    last = r"s/\|\| !isset\(\$this->caches\[\$last\]\)/|| true/"
    version = r"s/WHERE id = \? AND version = \?/WHERE id = ? AND version >= 0 * ?/"
    shop.settle()  # a cache that was just emptied is not read
    with (
        shop.altered(shop.balancers, CONFIG, moved, reload=RELOAD),
        shop.altered(servers, HANDLER, last, reload=PHP),
        shop.altered(servers, DATABASE, version, reload=PHP),
        shop.traffic("--parallel=0"),
    ):
        shop.set_farms(state={"farm2": "closed"}, pick=shop.pick("farm1"))
        shop.answers(500)
        shop.set_farms(state={"farm2": "open"}, pick=shop.pick("farm1", "farm2"))
        shop.set_farms(state={"farm1": "closed"}, pick=shop.pick("farm2"))
        shop.answers(300)
        shop.set_farms(state={"farm1": "open"}, pick=shop.pick("farm1", "farm2"))
    data = shop.judge()
    assert data["broken"] == ["S3"], told(data)
    assert data["promises"]["S3"]["kinds"].get("rewound", 0) > 10, told(data)


def test_servers_switched_under_traffic_lose_requests(shop: Shop) -> None:
    """No drain, no close, no wait: S2. Afterwards farm2 is on the next release."""
    release = shop.following()
    generation = 1 + shop.generation()
    with shop.traffic("--slow=0.1"):
        shop.set_farms(release={"farm2": release})
        shop.switch(shop.farms["farm2"], release)
        shop.set_farms(
            generation={"farm2": generation},
            newest=generation,
            pick_newest=shop.pick("farm2"),
            state={"farm2": "open"},
            pick=shop.pick("farm1", "farm2"),
            force=True,
        )
        shop.healthy()
        shop.answers(200)
    data = shop.judge()
    assert "S2" in data["broken"], told(data)
    assert "S3" not in data["broken"], told(data)


def test_without_the_fence_a_server_of_the_old_release_answers(shop: Shop) -> None:
    """S1 has three guards: the balancers' check, the server's, and what the session has seen."""
    old, new = shop.ahead("farm2")
    laggard = shop.farms["farm2"][1:]
    moved = r"s/if \(!.this->moved && time/if (false \&\& time/"
    try:
        with (
            shop.altered(laggard, GUARD, r"s/if \(.expected !==.*local\)/if (false)/", reload=PHP),
            shop.altered(laggard, HANDLER, moved, reload=PHP),
            shop.altered(shop.balancers, CONFIG, "/option httpchk|http-check/d", reload=RELOAD),
            shop.traffic(),
        ):
            shop.switch(laggard, old)
            until(lambda: shop.served(laggard[0], old) > 30, "the laggard has answered")
    finally:
        shop.switch(laggard, new)
    data = shop.judge()
    assert "S1" in data["broken"], told(data)
    wrong = data["promises"]["S1"]["examples"][0]["answer"]
    assert (wrong["server"], wrong["release"]) == (laggard[0], old)


def test_without_the_floor_sessions_fall_to_the_old_farm(shop: Shop) -> None:
    """S1: the upgraded farm closes, and nothing holds its sessions from the one that is not."""
    old, _ = shop.ahead("farm2")
    try:
        with (
            shop.altered(
                shop.balancers,
                CONFIG,
                r"/set-var\(txn\.floor\) +req\.cook/d",
                reload=RELOAD,
            ),
            shop.traffic(),
        ):
            shop.set_farms(state={"farm2": "closed"}, pick=shop.pick("farm1"))
            shop.answers(300)
    finally:
        shop.set_farms(state={"farm2": "open"}, pick=shop.pick("farm1", "farm2"))
    data = shop.judge()
    assert "S1" in data["broken"], told(data)
    wrong = data["promises"]["S1"]["examples"][0]["answer"]
    assert (wrong["farm"], wrong["release"]) == ("farm1", old)

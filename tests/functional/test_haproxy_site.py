"""The site balancer, with real HAProxy processes: stickiness, states, floor, fence, headers."""

import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import RELEASES, Haproxy, Reply, World, farms, world
from loopback import NET, PATIENCE, wait_for
from webfarm.errors import WebfarmError

OLD, NEW = RELEASES


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.add_farms(count=3, servers=2)
        yield made


def up(balancer: Haproxy, **expected: int) -> None:
    wait_for(
        lambda: all(
            about["up"] == expected.get(farm, 2)
            for farm, about in farms.farms(balancer.balancer)["farms"].items()
        ),
        f"servers up: {expected or 'all'}",
    )


def new_session(cluster: World, balancer: Haproxy, farm: str) -> dict[str, str]:
    """Cookies of a session that ``farm`` serves."""
    for _ in range(200):
        reply = cluster.ask(balancer)
        if reply.status == 200 and reply.json["farm"] == farm:
            return reply.cookies
    raise AssertionError(f"no new session came to {farm}")


def set_farms(*balancers: Haproxy, **change: Any) -> None:
    for balancer in balancers:
        farms.set_farms(balancer.balancer, **change)


def reopen(cluster: World, farm: str, generation: int, *balancers: Haproxy) -> None:
    """``farm`` comes back on the new release and opens in two phases."""
    set_farms(*balancers, state={farm: "closed"}, release={farm: NEW})
    cluster.upgrade(farm)
    for balancer in balancers:
        wait_for(lambda b=balancer: farms.farms(b.balancer)["farms"][farm]["up"] == 2, "upgraded")
    set_farms(
        *balancers,
        generation={farm: generation},
        newest=generation,
        pick_newest={farm: 1},
        state={farm: "ready"},
    )
    set_farms(*balancers, state={farm: "open"})


def test_servers_of_a_farm_share_its_sessions_evenly(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    cookies = new_session(cluster, balancer, "farm2")

    async def sticky() -> list[Reply]:
        async def one() -> list[Reply]:
            client = cluster.client(balancer)
            client.cookies = dict(cookies)
            replies = [await client.request("/?ms=2") for _ in range(50)]
            client.close()
            return replies

        return [
            reply for group in await asyncio.gather(*[one() for _ in range(8)]) for reply in group
        ]

    replies = cluster.run(sticky())
    assert {reply.json["farm"] for reply in replies} == {"farm2"}
    shares = Counter(reply.json["server"] for reply in replies)
    assert len(shares) == 2
    for count in shares.values():
        assert abs(count - len(replies) / 2) <= 0.1 * len(replies) / 2, shares


def test_new_sessions_follow_the_pick(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    set_farms(balancer, pick={"farm1": 3, "farm3": 1})
    seen = Counter(cluster.ask(balancer).json["farm"] for _ in range(400))
    assert set(seen) == {"farm1", "farm3"}
    assert 50 <= seen["farm3"] <= 150, seen


def test_draining_farm_keeps_its_sessions_and_takes_no_new_ones(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    session = new_session(cluster, balancer, "farm2")
    set_farms(balancer, state={"farm2": "drain"}, pick={"farm1": 1, "farm3": 1})
    for _ in range(20):
        reply = cluster.ask(balancer, cookies=session)
        assert reply.json["farm"] == "farm2" and not reply.cookies
    assert "farm2" not in {cluster.ask(balancer).json["farm"] for _ in range(60)}


@pytest.mark.parametrize("still_picked", [False, True])
def test_closed_farm_gets_nothing_and_its_sessions_move(cluster: World, still_picked: bool) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    session = new_session(cluster, balancer, "farm2")
    pick = {"farm1": 1, "farm2": 1, "farm3": 1} if still_picked else {"farm1": 1, "farm3": 1}
    set_farms(balancer, state={"farm2": "closed"}, pick=pick, pick_newest=pick)
    before = sum(server.answered["served"] for server in cluster.farm_servers("farm2"))
    moved = [cluster.ask(balancer, cookies=session) for _ in range(60)]
    assert {reply.json["farm"] for reply in moved} == {"farm1", "farm3"}
    for reply in moved:
        assert reply.cookies["FARMID"] == f"site1:{reply.json['farm']}:1"
        assert reply.json["headers"]["x-webfarm-moved"] == "1"
    assert {cluster.ask(balancer).json["farm"] for _ in range(60)} == {"farm1", "farm3"}
    assert sum(s.answered["served"] for s in cluster.farm_servers("farm2")) == before


def test_sessions_of_a_dead_farm_move_without_a_lost_request(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    session = new_session(cluster, balancer, "farm2")
    for server in cluster.farm_servers("farm2"):
        cluster.run(server.stop())
    replies = [cluster.ask(balancer, cookies=session) for _ in range(40)]
    late = [
        cluster.ask(balancer, cookies=session) for _ in range(60) if up(balancer, farm2=0) is None
    ]
    # undetected deaths are retried in the farm, then by the primary; with none left sessions move
    assert {reply.status for reply in late} == {200}
    assert {reply.status for reply in replies} <= {200, 425}
    assert sum(reply.status == 425 for reply in replies) <= 3
    assert {reply.json["farm"] for reply in late} == {"farm1", "farm3"}


@pytest.mark.parametrize(
    "cookie",
    [
        "x",
        "::",
        "site1",
        "site1:",
        "site1:farm9:1",
        "site1:webfarm_none:1",
        "site1:webfarm_management:1",
        "site2:farm1:1",
        "site1:farm1:99999999999999999999",
        "site1:farm1:-5",
        "site1:farm1:999999999",
        "site1:farm1:1:u:x",
        "site1:farm1",
        "farm1",
        "%00",
        "site1:farm1:1 x",
        "site1:" + "f" * 8000 + ":1",
        "site1:farm1:" + "9" * 8000,
        "\xe9\xff",
        "site1:../../x:1",
        "site1:site:1",
    ],
)
def test_a_forged_cookie_gets_an_ordinary_answer(cluster: World, cookie: str) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    for _ in range(3):
        reply = cluster.ask(balancer, cookies={"FARMID": cookie})
        assert reply.status == 200
        assert reply.cookies["FARMID"] == f"site1:{reply.json['farm']}:1"
        assert reply.json["headers"]["x-webfarm-moved"] == "1"


def test_an_oversized_cookie_is_refused_and_harms_nobody(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    assert cluster.ask(balancer, cookies={"FARMID": "x" * 40_000}).status in (400, 431)
    assert cluster.ask(balancer).status == 200


def test_headers_of_webfarm_are_the_balancers_own(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    forged = {
        f"X-Webfarm-{n}": "forged"
        for n in ("Release", "Generation", "Site", "Farm", "Moved", "Other")
    }
    reply = cluster.ask(balancer, headers=forged)
    headers = reply.json["headers"]
    assert "forged" not in str(headers)
    assert headers["x-webfarm-release"] == OLD
    assert headers["x-webfarm-generation"] == "1"
    assert headers["x-webfarm-site"] == "site1"
    assert headers["x-webfarm-farm"] == reply.json["farm"]
    assert headers["x-webfarm-moved"] == "1"
    again = cluster.ask(balancer, cookies=reply.cookies, headers=forged)
    assert "x-webfarm-moved" not in again.json["headers"]
    assert again.header("set-cookie") is None
    assert "Secure; HttpOnly; SameSite=Lax" in str(reply.header("set-cookie"))


def test_s3_a_session_that_is_not_in_the_cache_counts_as_moved_next_time(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    for server in cluster.servers.values():
        server.uncached = True
    first = cluster.ask(balancer)
    farm = first.json["farm"]
    assert first.cookies["FARMID"] == f"site1:{farm}:1:u"
    assert first.header("x-webfarm-uncached") is None
    for server in cluster.servers.values():
        server.uncached = False
    second = cluster.ask(balancer, cookies=first.cookies)
    assert second.json["farm"] == farm
    assert second.json["headers"]["x-webfarm-moved"] == "1"
    assert second.cookies["FARMID"] == f"site1:{farm}:1"
    third = cluster.ask(balancer, cookies=second.cookies)
    assert "x-webfarm-moved" not in third.json["headers"] and not third.cookies


def test_only_an_answer_of_the_guard_stamps_the_cookie(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    assert not cluster.ask(balancer, "/static").cookies
    assert "FARMID" in cluster.ask(balancer, "/?status=500+Error").cookies


def test_an_address_in_a_header_gives_no_rights(cluster: World) -> None:
    """Neither a sibling's nor anybody's, also not in the second request of a connection."""
    balancer = cluster.add_site_balancer(start=False)
    balancer.context["siblings"] = [f"{NET}.9.9"]
    balancer.write_config()
    balancer.start()
    up(balancer)

    async def twice() -> list[Reply]:
        client = cluster.client(balancer)
        claim = {"X-Forwarded-For": f"{NET}.9.9"}
        replies = [await client.request("/", headers=claim) for _ in range(2)]
        replies.append(await client.request("/.webfarm/farms", headers=claim))
        client.close()
        return replies

    assert [reply.status for reply in cluster.run(twice())] == [200, 200, 404]


def test_the_clients_address_comes_from_the_primary_and_from_nobody_else(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    reply = cluster.ask(balancer, headers={"X-Forwarded-For": "192.0.2.7"})
    assert reply.json["headers"]["x-forwarded-for"] == "192.0.2.7"

    async def stranger() -> None:
        host, _, port = balancer.context["bind"].rpartition(":")
        reader, writer = await asyncio.open_connection(
            host, int(port), local_addr=(f"{NET}.9.9", 0)
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
        assert await reader.read() == b""
        writer.close()

    with contextlib.suppress(ConnectionError):
        cluster.run(stranger())


@pytest.mark.parametrize(
    "path", ["/ready", "/.webfarm/fpm-status", "/%72eady", "/.webfarm%2Ffpm-status"]
)
def test_the_servers_own_pages_are_not_for_clients(cluster: World, path: str) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    assert cluster.ask(balancer, path).status == 404


def test_site_is_up_while_some_farm_is_open_and_alive(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    probe = "/.webfarm/site-up"
    assert cluster.ask(balancer, probe).status == 200
    set_farms(balancer, state={"farm1": "closed", "farm2": "drain"}, pick={"farm3": 1})
    assert cluster.ask(balancer, probe).status == 200
    for server in cluster.farm_servers("farm3"):
        cluster.run(server.stop())
    wait_for(lambda: cluster.ask(balancer, probe).status == 503, "the site is down")
    set_farms(balancer, state={"farm1": "ready"})
    assert cluster.ask(balancer, probe).status == 503
    set_farms(balancer, state={"farm1": "open"})
    assert cluster.ask(balancer, probe).status == 200


def test_sticky_servers_keep_a_session_on_its_server_until_it_is_gone(cluster: World) -> None:
    balancer = cluster.add_site_balancer(sticky_servers=True)
    up(balancer)
    first = cluster.ask(balancer)
    set_cookies = [value for name, value in first.headers if name == "set-cookie"]
    assert any(v.startswith("SRVID=") and "HttpOnly" in v and "Secure" in v for v in set_cookies)
    server = first.json["server"]
    assert {cluster.ask(balancer, cookies=first.cookies).json["server"] for _ in range(10)} == {
        server
    }
    farm = first.json["farm"]
    balancer.balancer.set_state(farm, server, "drain")
    assert cluster.ask(balancer, cookies=first.cookies).json["server"] == server
    balancer.balancer.set_state(farm, server, "maint")
    moved = cluster.ask(balancer, cookies=first.cookies)
    assert moved.json["farm"] == farm and moved.json["server"] != server


# -- the floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", ["strict", "available"])
def test_s1_no_farm_of_a_lower_generation_answers_a_session(cluster: World, floor: str) -> None:
    balancer = cluster.add_site_balancer(floor)
    up(balancer)
    set_farms(balancer, pick={"farm1": 1, "farm3": 1})
    reopen(cluster, "farm2", 2, balancer)
    set_farms(balancer, pick={"farm2": 1})
    session = new_session(cluster, balancer, "farm2")
    assert session["FARMID"] == "site1:farm2:2"
    for server in cluster.farm_servers("farm2"):
        cluster.run(server.stop())
    up(balancer, farm2=0)
    for _ in range(30):
        reply = cluster.ask(balancer, cookies=session)
        if floor == "strict":
            assert reply.status == 503 and reply.header("retry-after") and not reply.cookies
        else:
            assert reply.status == 200 and reply.json["release"] == OLD
            assert reply.json["headers"]["x-webfarm-moved"] == "1"
            assert reply.cookies["FARMID"] == f"site1:{reply.json['farm']}:1"
    assert cluster.ask(balancer).status == 200, "a new session is served by an older farm"


def test_with_an_amnesty_older_farms_share_the_sessions_that_lost_their_farm(
    cluster: World,
) -> None:
    """The way back of the only upgraded farm; sessions of a newer generation stay strict."""
    balancer = cluster.add_site_balancer()
    up(balancer)
    set_farms(balancer, pick={"farm1": 1, "farm3": 1})
    reopen(cluster, "farm2", 2, balancer)
    set_farms(balancer, pick={"farm2": 1})
    session = new_session(cluster, balancer, "farm2")
    set_farms(balancer, amnesty=2, pick={"farm1": 1, "farm3": 1}, pick_newest={})
    assert cluster.ask(balancer, cookies=session).json["farm"] == "farm2", "its farm is there"
    set_farms(balancer, state={"farm2": "closed"})
    replies = [cluster.ask(balancer, cookies=session) for _ in range(60)]
    assert {reply.json["farm"] for reply in replies} == {"farm1", "farm3"}
    for reply in replies:
        assert reply.json["headers"]["x-webfarm-moved"] == "1"
        assert reply.cookies["FARMID"] == f"site1:{reply.json['farm']}:1"
    set_farms(balancer, generation={"farm2": 3}, newest=3)
    assert cluster.ask(balancer, cookies={"FARMID": "site1:farm2:3"}).status == 503
    seen = farms.farms(balancer.balancer)
    assert (seen["amnesty"], seen["newest"]) == (2, 3)
    with pytest.raises(WebfarmError, match="never go down"):
        set_farms(balancer, amnesty=1)
    with pytest.raises(WebfarmError, match="newest"):
        set_farms(balancer, amnesty=4)


def test_s1_a_session_moves_from_an_upgraded_farm_to_an_upgraded_farm(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    set_farms(balancer, pick={"farm1": 1, "farm3": 1})
    reopen(cluster, "farm2", 2, balancer)
    reopen(cluster, "farm3", 2, balancer)
    set_farms(
        balancer, pick={"farm1": 1, "farm2": 1, "farm3": 1}, pick_newest={"farm2": 1, "farm3": 1}
    )
    session = new_session(cluster, balancer, "farm2")
    set_farms(balancer, state={"farm2": "closed"})  # still in both picks
    assert {cluster.ask(balancer, cookies=session).json["farm"] for _ in range(40)} == {"farm3"}


def test_s1_a_floor_below_the_newest_generation_holds_too(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    set_farms(balancer, generation={"farm2": 2, "farm3": 3}, newest=3)
    pick = {"farm1": 1, "farm2": 1, "farm3": 1}
    set_farms(balancer, pick=pick, pick_newest={"farm3": 1}, state={"farm2": "closed"})
    session = {"FARMID": "site1:farm2:2"}
    assert {cluster.ask(balancer, cookies=session).json["farm"] for _ in range(40)} == {"farm3"}
    # a cookie says more than the map of this balancer: the map may lag
    lagging = {"FARMID": "site1:farm1:2"}
    assert {cluster.ask(balancer, cookies=lagging).json["farm"] for _ in range(40)} == {"farm3"}


def test_ready_farm_serves_only_sessions_that_no_older_farm_may_serve(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    old = new_session(cluster, balancer, "farm1")
    set_farms(
        balancer, state={"farm2": "closed"}, release={"farm2": NEW}, pick={"farm1": 1, "farm3": 1}
    )
    cluster.upgrade("farm2")
    up(balancer)
    set_farms(
        balancer,
        generation={"farm2": 2},
        newest=2,
        pick_newest={"farm2": 1},
        state={"farm2": "ready"},
    )
    # a session that another balancer, where farm2 is open already, has given to it
    ahead = {"FARMID": "site1:farm2:2"}
    assert {cluster.ask(balancer, cookies=ahead).json["farm"] for _ in range(20)} == {"farm2"}
    assert "farm2" not in {cluster.ask(balancer).json["farm"] for _ in range(60)}
    assert {cluster.ask(balancer, cookies=old).json["farm"] for _ in range(20)} == {"farm1"}
    # its farm is dead, and the ready one is the only one that may serve it
    lost = {"FARMID": "site1:farm3:2"}
    assert {cluster.ask(balancer, cookies=lost).json["farm"] for _ in range(20)} == {"farm2"}


def test_s1_opening_is_monotone_although_one_balancer_is_slow_to_follow(cluster: World) -> None:
    first, second = cluster.add_site_balancer(), cluster.add_site_balancer()
    up(first)
    up(second)
    regressions: list[str] = []
    failures: list[object] = []
    count = Counter[str]()
    stop = asyncio.Event()

    async def session(number: int) -> None:
        clients = [cluster.client(first), cluster.client(second)]
        seen = OLD
        cookies: dict[str, str] = {}
        chance = random.Random(number)
        while not stop.is_set():
            client = chance.choice(clients)
            client.cookies = cookies
            try:
                reply = await client.request()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                failures.append(error)
                client.close()
                continue
            cookies = client.cookies
            if reply.status != 200:
                failures.append(reply.status)
                continue
            release = reply.json["release"]
            count[release] += 1
            if release < seen:
                regressions.append(f"{seen} -> {release} {cookies}")
            seen = max(seen, release)
            if chance.random() < 0.05:
                cookies, seen = {}, OLD  # a new client
            await asyncio.sleep(0.01)
        for client in clients:
            client.close()

    async def traffic() -> None:
        await asyncio.gather(*[session(number) for number in range(20)])

    running = cluster.submit(traffic())
    generation = 1
    for farm in ("farm2", "farm3", "farm1"):
        rest = {f: 1 for f in ("farm1", "farm2", "farm3") if f != farm}
        upgraded = {f: 1 for f in ("farm2", "farm3") if f < farm or farm == "farm1"}
        for balancer in (first, second):
            set_farms(balancer, pick=rest, state={farm: "drain"})
        for balancer in (first, second):
            newest_rest = {f: 1 for f in upgraded if f != farm} or rest
            set_farms(balancer, pick_newest=newest_rest, state={farm: "closed"})
        for balancer in (first, second):
            wait_for(lambda b=balancer, f=farm: _quiet(b, f), f"{farm} is quiet")
            set_farms(balancer, release={farm: NEW})
        cluster.upgrade(farm)
        for balancer in (first, second):
            wait_for(
                lambda b=balancer, f=farm: farms.farms(b.balancer)["farms"][f]["up"] == 2,
                "verified",
            )
        generation = 2
        opened = {**{f: 1 for f in upgraded if f != farm}, farm: 1}
        for balancer in (first, second):
            set_farms(
                balancer,
                generation={farm: generation},
                newest=generation,
                pick_newest=opened,
                state={farm: "ready"},
            )
        set_farms(first, state={farm: "open"}, pick={**rest, farm: 1})
        served = count.total()
        wait_for(lambda n=served: count.total() > n + 400, "traffic while one balancer lags")
        set_farms(second, state={farm: "open"}, pick={**rest, farm: 1})
    cluster.loop.call_soon_threadsafe(stop.set)
    running.result(PATIENCE)
    assert count[NEW] > 200 and count[OLD] > 200
    assert regressions == []
    assert failures == []


def _quiet(balancer: Haproxy, farm: str) -> bool:
    evidence = balancer.balancer.evidence(farm)
    return not evidence["in_flight"] and not evidence["queued"]


# -- the fence -----------------------------------------------------------------------------------


def test_s7_a_server_of_the_wrong_release_is_down_until_it_is_upgraded(cluster: World) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    sleeper, awake = cluster.farm_servers("farm2")
    cluster.run(sleeper.stop())
    up(balancer, farm2=1)
    set_farms(balancer, release={"farm2": NEW})
    awake.release = NEW
    cluster.run(sleeper.start())
    wait_for(lambda: sleeper_state(balancer, sleeper.id) == ("DOWN", "L7STS/503"), "fenced")
    before = sleeper.answered.total()
    for _ in range(100):
        reply = cluster.ask(balancer, cookies={"FARMID": "site1:farm2:1"})
        assert (reply.status, reply.json["release"]) == (200, NEW)
    assert sleeper.answered.total() == before
    sleeper.release = NEW
    up(balancer)


def sleeper_state(balancer: Haproxy, server: str) -> tuple[str, str]:
    about = balancer.balancer.servers("farm2")["farm2"][server]
    return about["status"], about["check"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_s7_right_after_a_kill_of_haproxy_no_wrong_server_answers(
    cluster: World, method: str
) -> None:
    balancer = cluster.add_site_balancer()
    up(balancer)
    set_farms(balancer, pick={"farm2": 1}, state={"farm1": "closed", "farm3": "closed"})
    set_farms(balancer, release={"farm2": NEW})
    wrong, right = cluster.farm_servers("farm2")
    right.release = NEW
    up(balancer, farm2=1)
    body = b"x" * 5000 if method == "POST" else b""

    async def burst() -> list[Reply]:
        async def one() -> Reply:
            client = cluster.client(balancer)
            try:
                return await client.request("/", method, body=body)
            finally:
                client.close()

        return list(await asyncio.gather(*[one() for _ in range(40)]))

    for turn in range(20):
        if turn > 2 and wrong.answered["refused"]:
            break
        balancer.kill()
        balancer.start()
        for reply in cluster.run(burst()):
            assert (reply.status, reply.json["release"]) == (200, NEW)
            assert reply.json["body"] == len(body)
    assert wrong.answered["served"] == 0
    assert wrong.answered["refused"], "no burst came before the checks: the guard was not needed"


def test_s7_a_farm_of_wrong_servers_only_serves_nothing(cluster: World) -> None:
    balancer = cluster.add_site_balancer(start=False)
    cluster.upgrade("farm2")
    balancer.start()
    for _ in range(20):
        reply = cluster.ask(balancer, cookies={"FARMID": "site1:farm2:1"})
        assert reply.status in (200, 425)
        if reply.status == 425:
            assert not reply.cookies and reply.header("x-webfarm-fence") is None
        else:
            assert reply.json["farm"] != "farm2"
    assert all(server.answered["served"] == 0 for server in cluster.farm_servers("farm2"))

"""Promise S3 where it is kept: the session handler on real php-fpm, memcached and MariaDB."""

import itertools
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from loopback import PATIENCE, listens, wait_for
from php_world import OTHER_FARM, WS1, WS2, Client, Site, running_site
from webfarm import sessions
from webfarm.errors import WebfarmError

HOLD = "/pages/hold.php"


@pytest.fixture(scope="module")
def world() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture
def site(world: Site) -> Site:
    world.heal()
    return world


def in_background(call: Callable[..., Any], *words: Any, **options: Any) -> Future[Any]:
    """Make a call in a thread of its own; its result is waited for."""
    pool = ThreadPoolExecutor(1)
    called = pool.submit(call, *words, **options)
    pool.shutdown(wait=False)
    return called


def locked(site: Site, *servers: str) -> bool:
    """A request holds its session's lock in a cache of these servers."""
    return any(site.cached_keys(site.servers[server], "lock") for server in servers)


def session_on(site: Site, cache: str) -> Client:
    """A session of one answer whose cache is on the server ``cache``."""
    deadline = time.monotonic() + PATIENCE  # php-fpm leaves a cache that failed alone for a second
    while time.monotonic() < deadline:
        client = Client(site)
        client.count()
        key = f"session%3A{client.cookies['PHPSESSID']}"
        if key in site.cached_keys(site.servers[cache], "session"):
            return client
    raise AssertionError(f"no session is cached on {cache}")


def row(site: Site, client: Client, column: str) -> str:
    session = client.cookies["PHPSESSID"]
    return site.sql(f"SELECT {column} FROM webfarm.sessions WHERE id = '{session}'")


def test_a_session_counts_on_across_the_servers_of_a_farm(site: Site) -> None:
    client = Client(site)
    servers = itertools.cycle((WS1, WS2))
    assert [client.count(next(servers)) for _ in range(20)] == list(range(1, 21))


def test_what_was_answered_is_in_the_database(site: Site) -> None:
    client = Client(site)
    for _ in range(3):
        client.count()
    assert "count|i:3" in row(site, client, "data")
    assert row(site, client, "version") == "3"


def test_a_session_that_stays_is_read_from_the_cache(site: Site) -> None:
    client = Client(site)
    client.count()
    client.count()
    site.database.stop()
    answer = client.ask(path="/pages/read.php")
    assert (answer.status, answer.json["count"]) == (200, 2)


def test_a_session_that_moves_to_another_farm_goes_on(site: Site) -> None:
    client = Client(site)
    assert [client.count() for _ in range(3)] == [1, 2, 3]
    assert [client.count(OTHER_FARM) for _ in range(3)] == [4, 5, 6]


def test_a_session_that_returns_does_not_meet_its_past_in_the_cache(site: Site) -> None:
    client = Client(site)
    places = [WS1, WS1, OTHER_FARM, OTHER_FARM, WS2, WS1, OTHER_FARM, WS1]
    assert [client.count(place) for place in places] == list(range(1, 9))


def test_a_stale_entry_is_refused_and_nothing_is_overwritten(site: Site) -> None:
    client = session_on(site, WS2)
    key, cache = f"session:{client.cookies['PHPSESSID']}", site.servers[WS2]
    _, _, entry = (
        site.cache_command(cache, f"get {key}").removesuffix("\r\nEND\r\n").partition("\r\n")
    )
    stays = client.farmid
    client.count(OTHER_FARM)
    site.cache_command(cache, f"set {key} 0 0 {len(entry)}\r\n{entry}")  # as if it had been cut off
    client.farmid = stays  # the mark is missing: farm1 believes its cache
    assert client.ask().status == 503
    assert "count|i:2" in row(site, client, "data")
    assert client.count() == 3  # the stale entry was thrown away with the refusal


@pytest.mark.parametrize("page", ["", "pages/read.php"])
@pytest.mark.parametrize("keeps", ["the-first", "the-second"])
@pytest.mark.parametrize("places", [(OTHER_FARM, WS1), (WS1, OTHER_FARM)], ids=str)
def test_when_two_balancers_differ_no_cache_keeps_the_past(
    site: Site, places: tuple[str, str], keeps: str, page: str
) -> None:
    """Two requests of one page load, one to each farm; the client keeps the cookie of either."""
    client, kept = Client(site), {}
    client.count(WS1)
    before = client.farmid
    for place in places:
        client.farmid = before
        assert client.ask(place, path=f"/{page}").status == 200
        kept[place] = client.farmid
    place = places[keeps == "the-second"]
    client.farmid = kept[place]
    count = 1 if page else 3
    assert client.ask(place, path="/pages/read.php").json["count"] == count
    assert client.count(place) == count + 1
    other = places[keeps == "the-first"]
    assert client.count(other) == count + 2


def test_requests_that_cross_between_two_farms_all_succeed(site: Site) -> None:
    """Each has the lock that the other one needs, were they to begin with their own."""
    client = Client(site)
    client.count(WS1)

    def ask(number: int) -> int:
        place = (WS1, OTHER_FARM)[number % 2]
        one = Client(site, cookies=dict(client.cookies), farmid=client.farmid)
        return one.count(place, path="/?ms=5")

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, range(60))) == list(range(2, 62))


def test_a_page_without_a_session_does_not_use_the_mark_up(site: Site) -> None:
    client = Client(site)
    client.count()
    client.count(OTHER_FARM)
    assert client.ask(path="/pages/stateless.php").status == 200
    assert client.farmid.endswith(":u")
    assert client.count() == 3
    assert not client.farmid.endswith(":u")


def test_a_moved_session_waits_for_the_request_that_its_old_farm_still_works_on(
    site: Site,
) -> None:
    client = Client(site)
    client.count()
    stays = Client(site, cookies=dict(client.cookies), farmid=client.farmid)
    first = in_background(stays.count, path=HOLD)
    wait_for(lambda: locked(site, WS1, WS2), "it began")
    second = in_background(client.count, OTHER_FARM)
    time.sleep(0.5)  # it could have been answered by now, and must not be
    assert not second.done()
    site.let_go()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (2, 3)


def test_two_requests_at_once_that_meet_in_two_farms_both_succeed(site: Site) -> None:
    client = Client(site)
    client.count()
    moved = Client(site, cookies=dict(client.cookies), farmid=client.farmid)
    first = in_background(moved.count, OTHER_FARM, path=HOLD)
    wait_for(
        lambda: locked(site, OTHER_FARM) and locked(site, WS1, WS2),
        "the moved one has both farms' locks",
    )
    # its balancer has not heard yet that the farm is closed
    second = in_background(client.count)
    time.sleep(0.5)  # it could have been answered by now, and must not be
    assert not second.done()
    site.let_go()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (2, 3)


def test_a_session_that_has_just_moved_on_is_sent_after_it_not_reset(site: Site) -> None:
    client = Client(site, release="2026.11.9")
    client.count(WS1)
    late = Client(site, cookies=dict(client.cookies), farmid=client.farmid, release="2026.11.9")
    site.servers[OTHER_FARM].switch_webapp("2")
    client.release = "2026.11.10"
    assert client.count(OTHER_FARM) == 2
    answer = late.ask(WS1)  # by a balancer on which the old farm is still open
    assert answer.status == 425
    assert late.cookies["PHPSESSID"] == client.cookies["PHPSESSID"]
    assert client.count(OTHER_FARM) == 3


def test_concurrent_requests_of_one_session_lose_nothing(site: Site) -> None:
    first = Client(site)
    first.count()

    def ask(number: int) -> int:
        client = Client(site, cookies=dict(first.cookies), farmid=first.farmid)
        return client.count(WS1 if number % 2 else WS2, path="/?ms=10")

    with ThreadPoolExecutor(6) as pool:
        counts = sorted(pool.map(ask, range(30)))
    assert counts == list(range(2, 32))
    assert first.count() == 32


@pytest.mark.parametrize("place", [WS2, OTHER_FARM], ids=["its-farm", "another-farm"])
def test_a_session_in_the_hands_of_a_php_fpm_that_was_killed_is_free_at_once(
    site: Site, place: str
) -> None:
    log = site.servers[place].home / "log/php.log"
    log.unlink(missing_ok=True)
    client = Client(site)
    client.count()
    lost = in_background(client.ask, path=HOLD)
    wait_for(lambda: locked(site, WS1, WS2), "it began")
    others = [Client(site, cookies=dict(client.cookies), farmid=client.farmid) for _ in range(3)]
    waiting = [in_background(other.count, place) for other in others]
    site.servers[WS1].restart_php(signal.SIGKILL)
    assert lost.result(PATIENCE).status == 502
    counts = sorted(future.result(PATIENCE) for future in waiting)
    assert counts == [2, 3, 4]  # one of them took the lock over, and one after another had it
    assert not log.exists() or "session lock" not in log.read_text()


def test_a_request_that_another_overtook_is_refused_and_overwrites_nothing(site: Site) -> None:
    client = Client(site)
    client.count()
    overtaken = in_background(client.ask, path=HOLD)
    wait_for(lambda: locked(site, WS1, WS2), "it began")
    site.sql("UPDATE webfarm.sessions SET version = 7, data = 'count|i:50;'")
    site.let_go()
    assert overtaken.result(PATIENCE).status == 503
    assert client.count() == 51


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_with_its_cache_gone_a_session_goes_on_and_is_marked_uncached(
    site: Site, fault: signal.Signals
) -> None:
    client = session_on(site, WS2)
    cache = site.servers[WS2].cache
    if fault == signal.SIGKILL:
        cache.stop(fault)
    else:
        cache.send(fault)
    for expected in range(2, 6):
        assert client.count(WS1) == expected
        assert client.farmid == "site1:farm1:1:u"


def test_a_cache_that_was_cut_off_and_returns_with_old_data_rewinds_nothing(site: Site) -> None:
    client = session_on(site, WS2)
    assert client.count() == 2
    cache = site.servers[WS2].cache
    cache.send(signal.SIGSTOP)
    assert [client.count(), client.count()] == [3, 4]
    cache.send(signal.SIGCONT)
    began = time.monotonic()
    counts = itertools.count(5)
    while client.farmid != "site1:farm1:1":
        assert client.count() == next(counts)
        assert time.monotonic() - began < PATIENCE, "not soon"
    assert client.count() == next(counts)


def test_a_cache_that_restarted_is_used_again_at_once(site: Site) -> None:
    client = session_on(site, WS2)
    cache = site.servers[WS2].cache
    cache.stop()
    cache.start()
    wait_for(lambda: listens(site.servers[WS2].address, site.cache_port), "memcached is back")
    assert client.count() == 2
    assert client.farmid == "site1:farm1:1"


def test_who_comes_while_the_cache_hangs_for_a_second_waits_for_the_lock(site: Site) -> None:
    client = session_on(site, WS2)
    cache = site.servers[WS2].cache
    first = in_background(client.count, path=HOLD)
    wait_for(lambda: locked(site, WS2), "it began")
    cache.send(signal.SIGSTOP)
    second = in_background(Client(site, cookies=dict(client.cookies), farmid=client.farmid).count)
    time.sleep(1)
    cache.send(signal.SIGCONT)
    site.let_go()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (2, 3)


def test_concurrent_requests_without_the_cache_lose_nothing(site: Site) -> None:
    first = session_on(site, WS2)
    site.servers[WS2].cache.stop()

    def ask(number: int) -> int:
        client = Client(site, cookies=dict(first.cookies), farmid=first.farmid)
        return client.count(WS1 if number % 2 else WS2)

    with ThreadPoolExecutor(4) as pool:
        counts = sorted(pool.map(ask, range(12)))
    assert counts == list(range(2, 14))


def test_with_the_database_gone_requests_fail_and_no_data_is_lost(site: Site) -> None:
    client = Client(site)
    assert [client.count(), client.count()] == [1, 2]
    site.database.stop(signal.SIGKILL)
    for path in ("/", "/pages/early.php"):  # stored at the request's end, and before it
        answer = client.ask(path=path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert b"count" not in answer.body
    assert Client(site).ask().headers["Set-Cookie"] is None
    site.start_database()
    assert client.count() == 3


def test_with_cache_and_database_gone_requests_fail(site: Site) -> None:
    client = session_on(site, WS2)
    site.servers[WS2].cache.stop()
    site.database.stop()
    assert client.ask().status == 503


def test_a_session_of_a_newer_release_is_never_answered_by_an_older_one(site: Site) -> None:
    client = Client(site, release="2026.11.10")
    site.servers[OTHER_FARM].switch_webapp("2")
    assert client.count(OTHER_FARM) == 1
    session = client.cookies["PHPSESSID"]
    client.release = "2026.11.9"
    assert client.count(WS1) == 1  # natural order: .9 is older than .10
    assert client.cookies["PHPSESSID"] != session
    # and the newer one still has its session
    client.cookies["PHPSESSID"] = session
    client.release = "2026.11.10"
    assert client.count(OTHER_FARM) == 2


def test_a_session_of_an_older_release_is_taken_over_and_stamped(site: Site) -> None:
    client = Client(site)
    client.count(WS1)
    site.servers[OTHER_FARM].switch_webapp("2")
    client.release = "2026.11.10"
    assert client.count(OTHER_FARM) == 2
    assert row(site, client, "`release`") == "2026.11.10"
    assert row(site, client, "farm") == "farm2"


@pytest.mark.parametrize("page", ["read.php", "abort.php"])
def test_a_newer_release_stamps_a_session_that_it_only_reads(site: Site, page: str) -> None:
    client = Client(site)
    client.count(WS1)
    site.servers[OTHER_FARM].switch_webapp("2")
    client.release = "2026.11.10"
    assert client.ask(OTHER_FARM, path=f"/pages/{page}").status == 200
    assert row(site, client, "`release`") == "2026.11.10"
    assert "count|i:1" in row(site, client, "data")
    client.release = "2026.11.9"
    session = client.cookies["PHPSESSID"]
    client.count(WS1)
    assert client.cookies["PHPSESSID"] != session


@pytest.mark.parametrize(
    "forged", ["a" * 32, "x", "' OR 1=1 --", "../../etc/passwd", "a" * 300, "é" * 20, "a b" * 8]
)
def test_a_session_id_that_was_not_given_out_is_replaced(site: Site, forged: str) -> None:
    client = Client(site)
    answer = client.ask(headers={"Cookie": f"PHPSESSID={forged}".encode().decode("latin-1")})
    assert answer.json["count"] == 1
    assert answer.json["session"] != forged


def test_reading_a_session_writes_nothing_to_the_database(site: Site) -> None:
    client = Client(site)
    client.count()
    for _ in range(3):
        assert client.ask(path="/pages/read.php").json["count"] == 1
    assert row(site, client, "version") == "1"


def test_a_session_in_use_is_refreshed_once_a_minute(site: Site) -> None:
    client = Client(site)
    client.count()
    site.sql("UPDATE webfarm.sessions SET updated = updated - 100")
    client.farmid = ""  # so that the record comes from the database
    client.ask(path="/pages/read.php")
    age = int(time.time()) - int(row(site, client, "updated"))
    assert age < 30
    assert row(site, client, "version") == "1"


def test_a_session_without_data_keeps_its_id(site: Site) -> None:
    client = Client(site)
    first = client.ask(path="/pages/read.php").json["session"]
    assert client.ask(path="/pages/read.php").json["session"] == first


def test_a_page_may_close_and_reopen_its_session(site: Site) -> None:
    client = Client(site)
    for expected in (2, 4):
        answer = client.ask(path="/pages/reopen.php")
        assert (answer.status, answer.json["count"]) == (200, expected)
        assert answer.json["session"] == client.cookies["PHPSESSID"]
    assert client.count() == 5


def test_what_a_page_aborts_is_not_stored(site: Site) -> None:
    client = Client(site)
    client.count()
    assert client.ask(path="/pages/abort.php").status == 200
    assert client.count() == 2


def test_a_session_goes_on_under_a_new_id_and_the_old_one_is_void(site: Site) -> None:
    client = Client(site)
    client.count()
    old = client.cookies["PHPSESSID"]
    answer = client.ask(path="/pages/regenerate.php")
    assert answer.json["count"] == 1
    assert client.cookies["PHPSESSID"] == answer.json["session"] != old
    assert client.count() == 2
    client.cookies["PHPSESSID"] = old
    assert client.count() == 1


def test_a_destroyed_session_is_gone_everywhere(site: Site) -> None:
    client = Client(site)
    client.count()
    session = client.cookies["PHPSESSID"]
    client.ask(path="/pages/destroy.php")
    assert site.sql("SELECT COUNT(*) FROM webfarm.sessions") == "0"
    client.cookies["PHPSESSID"] = session
    assert client.count() == 1


def test_a_session_that_the_cache_cannot_hold_goes_on(site: Site) -> None:
    client = Client(site)
    counts = [client.ask(path="/pages/big.php").json["count"] for _ in range(3)]
    assert counts == [1, 2, 3]


def test_a_request_that_was_killed_leaves_no_stale_cache(site: Site) -> None:
    client = session_on(site, WS2)
    server = site.servers[WS1]
    killed = in_background(client.ask, path=HOLD)
    wait_for(lambda: locked(site, WS2), "it began")
    wait_for(lambda: site.cached_keys(site.servers[WS2], "session") == [], "it has the entry")
    server.restart_php(signal.SIGKILL)
    assert killed.result(PATIENCE).status == 502
    site.cache_command(site.servers[WS2], f"delete lock:{client.cookies['PHPSESSID']}")
    assert client.count() == 2


def test_old_sessions_are_deleted_in_bounded_batches(site: Site) -> None:
    client = Client(site)
    client.count()
    site.sql(
        "INSERT INTO webfarm.sessions SELECT CONCAT('old', seq), 1, '', 0, 1, ''"
        " FROM webfarm.seq_1_to_3000"
    )
    answer = client.ask(path="/pages/collect.php")
    assert answer.json == {"deleted": 2000}
    assert site.sql("SELECT COUNT(*) FROM webfarm.sessions") == "1001"
    assert client.count() == 2


def test_the_webapps_user_may_do_nothing_but_use_sessions(site: Site) -> None:
    grants = site.sql("SHOW GRANTS FOR webfarm@127.0.0.1").splitlines()
    assert len(grants) == 2
    assert grants[0].startswith("GRANT USAGE ON *.*")
    assert grants[1].startswith("GRANT SELECT, INSERT, UPDATE, DELETE ON `webfarm`.`sessions`")


def test_a_reload_of_php_fpm_fails_no_request(site: Site) -> None:
    server = site.servers[WS1]
    assert server.fpm.process is not None
    reloaded = threading.Event()
    statuses: list[int] = []

    def keep_asking(path: str) -> None:
        client = Client(site)
        while not reloaded.is_set():
            statuses.append(client.ask(path=path).status)

    def starts() -> int:
        log = (server.home / "log/php-fpm-master.log").read_text()
        return log.count("ready to handle connections")

    askers = [in_background(keep_asking, path) for path in ("/", "/?ms=400", "/")]
    for _ in range(3):
        had, started = len(statuses), starts()
        os.kill(server.fpm.process.pid, signal.SIGUSR2)
        wait_for(lambda n=started: starts() > n, "php-fpm is reloaded")
        wait_for(lambda n=had: len(statuses) > n + 20, "requests around the reload")
    reloaded.set()
    for asker in askers:
        asker.result(PATIENCE)
    assert set(statuses) == {200}


def database_node(site: Site) -> dict[str, object]:
    return {"role": "database", "id": "site1-db1", "node": {"name": "webfarm"}}


def test_the_database_counts_its_sessions_by_the_release_that_answered_last(site: Site) -> None:
    opts = {"webfarm_database": {"socket": f"{site.home}/database/socket", "reader": "nobody"}}
    assert sessions.count(database_node(site), opts, 30) == {}
    clients = [Client(site) for _ in range(3)]
    for client in clients:
        client.count()
    assert sessions.count(database_node(site), opts, 30) == {"2026.11.9": 3}
    for server in site.servers.values():
        server.switch_webapp("2")
    clients[0].release = "2026.11.10"
    clients[0].count()
    counted = sessions.count(database_node(site), opts, 30)
    assert counted == {"2026.11.10": 1, "2026.11.9": 2}
    with pytest.raises(WebfarmError, match="SELECT command denied to user 'nobody'"):
        sessions._ask(
            "SELECT data FROM webfarm.sessions", opts["webfarm_database"]["socket"], "nobody", 30
        )


def test_a_database_that_cannot_count_says_why(site: Site) -> None:
    there = {"socket": f"{site.home}/database/socket", "reader": "nobody"}
    for changed, why in (
        ({"socket": "/nonexistent"}, "Can't connect"),
        ({"reader": "webfarm_nobody"}, "no user webfarm_nobody: apply the highstate"),
        ({"reader": "root; DROP"}, "no user"),
        ({"reader": "daemon"}, "Access denied"),
    ):
        with pytest.raises(WebfarmError, match=why):
            sessions.count(database_node(site), {"webfarm_database": {**there, **changed}}, 5)
    with pytest.raises(WebfarmError, match="is a server, not a site's database"):
        sessions.count({"role": "server", "id": WS1}, {}, 5)
    for deadline in (0, -1, 601, float("nan"), float("inf"), "5; DROP TABLE x", True, None):
        with pytest.raises(WebfarmError, match="deadline"):
            sessions.count(database_node(site), {"webfarm_database": there}, deadline)  # type: ignore[arg-type]


def test_while_caches_hang_die_and_return_no_request_fails_and_no_session_goes_back(
    site: Site,
) -> None:
    """Sessions that wander between servers and farms."""
    chance = random.Random(7)
    stop = threading.Event()
    faults: list[str] = []

    def wander(seed: int) -> int:
        pick = random.Random(seed)
        client, counted, place = Client(site), 0, WS1
        while not stop.is_set() and not faults:
            place = pick.choice((WS1, WS2, OTHER_FARM)) if pick.random() < 0.3 else place
            answer = client.ask(place)
            if answer.status != 200 or answer.json["count"] != counted + 1:
                faults.append(f"after {counted} at {place}: {answer.status} {answer.body!r}")
            counted += 1
        return counted

    wanderers = [in_background(wander, n) for n in range(6)]
    for turn in range(10):
        cache = site.servers[chance.choice((WS1, WS2, OTHER_FARM))].cache
        if turn % 2:
            cache.send(signal.SIGSTOP)
            time.sleep(chance.random())  # how long it hangs
            cache.send(signal.SIGCONT)
        else:
            cache.stop(signal.SIGKILL)
            time.sleep(chance.random())  # how long it is away
            cache.start()
        time.sleep(chance.random() / 2)  # how long all is well
    time.sleep(1.5)  # until php-fpm asks again a cache that it had given up
    stop.set()
    answers = sum(wanderer.result(PATIENCE) for wanderer in wanderers)
    assert faults == []
    assert answers > 100


def another(client: Client) -> Client:
    """The same browser, with one more request at the same time."""
    return Client(client.site, cookies=dict(client.cookies), farmid=client.farmid)


def locked_in_database(site: Site, client: Client) -> bool:
    name = f"CONCAT('webfarm:', SHA1('{client.cookies['PHPSESSID']}'))"
    return site.sql(f"SELECT IS_USED_LOCK({name}) IS NOT NULL") == "1"


def young(site: Site, server: str) -> str:
    """Why the member's locks are not enough: a key's value; empty: they are."""
    lines = site.cache_command(site.servers[server], "get young").splitlines()
    return lines[1] if len(lines) > 1 else ""


def test_requests_while_a_member_restarts_as_planned_follow_one_another(site: Site) -> None:
    """From the member's lock to the database's and back."""
    client, server = session_on(site, WS2), site.servers[WS2]
    first = in_background(another(client).count, path=f"{HOLD}?as=first")
    wait_for(lambda: locked(site, WS2), "the first has the member's lock")
    assert not locked_in_database(site, client)
    stopping = in_background(site.stop_cache, server)
    wait_for(lambda: young(site, WS2) == "retiring", "the member is about to stop")
    second = in_background(another(client).count, path=f"{HOLD}?as=second")
    time.sleep(2)  # the member could have stopped by now, and must not
    assert not stopping.done()
    site.let_go(name="first")
    assert first.result(PATIENCE) == 2
    stopping.result(PATIENCE)
    wait_for(lambda: locked_in_database(site, client), "the second is at work")
    third = in_background(another(client).count)  # the member is away
    time.sleep(2)  # until php-fpm asks again a cache that it had given up
    site.start_cache(server)
    fourth = in_background(another(client).count)  # the member is back, and empty
    wait_for(lambda: young(site, WS2), "the fourth has seen it")
    time.sleep(0.5)  # they could have been answered by now, and must not be
    assert not third.done() and not fourth.done()
    site.let_go(name="second")
    assert second.result(PATIENCE) == 3
    assert {third.result(PATIENCE), fourth.result(PATIENCE)} == {4, 5}


@pytest.mark.parametrize("place", [WS1, OTHER_FARM], ids=["its-farm", "another-farm"])
def test_a_member_that_comes_back_empty_does_not_let_in_a_second(site: Site, place: str) -> None:
    client, server = session_on(site, WS2), site.servers[WS2]
    server.cache.stop(signal.SIGKILL)
    first = in_background(another(client).count, path=HOLD)
    wait_for(lambda: locked_in_database(site, client), "the first has the database's lock only")
    site.start_cache(server)
    time.sleep(2)  # until php-fpm asks again a cache that it had given up
    second = in_background(another(client).count, place)
    wait_for(lambda: locked(site, WS2), "the second has the member's")
    time.sleep(0.5)  # it could have been answered by now, and must not be
    assert not second.done()
    site.let_go()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (2, 3)


def test_a_member_that_is_killed_costs_one_of_two_requests_and_no_data(site: Site) -> None:
    """What nobody can help: the first's lock died with the member."""
    client, server = session_on(site, WS2), site.servers[WS2]
    first = in_background(another(client).ask, path=HOLD)
    wait_for(lambda: locked(site, WS2), "the first has the member's lock")
    server.cache.stop(signal.SIGKILL)
    assert another(client).count() == 2
    site.let_go()
    assert first.result(PATIENCE).status == 503
    assert client.count() == 3


def test_a_member_settles_by_its_own_clock_and_then_costs_no_lock_in_the_database(
    site: Site,
) -> None:
    client, server = session_on(site, WS2), site.servers[WS2]
    site.cache_command(server, "flush_all")
    for expected in (True, False):
        held = in_background(another(client).count, path=HOLD)
        wait_for(lambda: locked(site, WS2), "it has the member's lock")
        if expected:
            wait_for(lambda: locked_in_database(site, client), "and the database's")
            listed = site.cache_command(server, "lru_crawler metadump all").splitlines()
            ends = {
                word.split()[0]: int(word.split()[1].removeprefix("exp="))
                for word in listed
                if word.startswith(("key=since ", "key=young "))
            }
            now = int(memcache_stat(site, WS2, "time"))
            assert ends["key=since"] == -1
            assert 60 < ends["key=young"] - now <= 70  # longer than a lock, within the test's time
        else:
            wait_for(lambda: site.cached_keys(server, "session") == [], "it is at work")
            assert not locked_in_database(site, client)
        site.let_go()
        held.result(PATIENCE)
        assert not locked_in_database(site, client)
        site.let_go(hold=True)
        site.cache_command(server, "delete young")  # its 70 s are over


def memcache_stat(site: Site, server: str, name: str) -> str:
    lines = site.cache_command(site.servers[server], "stats").splitlines()
    return dict(line.split(" ", 2)[1:] for line in lines if line != "END")[name]


def test_a_young_member_keeps_no_entry_and_is_not_believed(site: Site) -> None:
    """Who takes it for away has only the database's lock, and cannot take an entry out."""
    client, server = session_on(site, WS2), site.servers[WS2]
    key = f"session:{client.cookies['PHPSESSID']}"
    got = site.cache_command(server, f"get {key}")
    _, _, old = got.removesuffix("\r\nEND\r\n").partition("\r\n")
    site.cache_command(server, "set young 0 70 1\r\n1")
    assert client.count() == 2
    assert site.cached_keys(server, "session") == []
    site.cache_command(server, f"set {key} 0 0 {len(old)}\r\n{old}")
    assert client.count() == 3
    site.cache_command(server, "delete young")
    assert [client.count(), client.count()] == [4, 5]
    assert len(site.cached_keys(server, "session")) == 1


@pytest.mark.parametrize(
    "forged", ["since", "young", "since" + "0" * 20, "lock:since", "x\r\nset since 0 0 1\r\n9"]
)
def test_no_client_has_a_say_in_whether_a_member_is_settled(site: Site, forged: str) -> None:
    for name, server in site.servers.items():
        before = site.cache_command(server, "get since")
        for cookie in (f"PHPSESSID={forged}", f"PHPSESSID={forged}; FARMID=site1:farm1:1"):
            raw = cookie.replace("\r\n", "%0d%0a")
            assert Client(site).ask(name, headers={"Cookie": raw}).status == 200
        assert Client(site).ask(name, headers={"X-Since": "9", "Since": "9"}).status == 200
        assert site.cache_command(server, "get since") == before
        assert young(site, name) == ""


HOLDER = "0" * 32


def hold_by_hand(site: Site, token: str) -> None:
    site.cache_command(site.servers[WS2], f"set lock:abc,-{'0' * 16} 0 0 {len(token)}\r\n{token}")


def test_retiring_waits_for_whoever_came_before_and_for_nobody_else(site: Site) -> None:
    server = site.servers[WS2]
    hold_by_hand(site, f"{HOLDER}:1")
    retiring = site.retire(server)
    try:
        wait_for(lambda: young(site, WS2) == "retiring", "it has begun")
        names = wait_for(lambda: psutil.Process(retiring.pid).username(), "it runs")
        wait_for(lambda: psutil.Process(retiring.pid).username() == "memcache", names)
        with pytest.raises(subprocess.TimeoutExpired):
            retiring.wait(0.7)  # as long as the first is at work
        hold_by_hand(site, f"{HOLDER}:2")  # the next has it, and the database's
        assert retiring.wait(PATIENCE) == 0
    finally:
        retiring.kill()
        retiring.communicate()


def test_retiring_does_not_wait_for_a_php_fpm_that_has_ended(site: Site) -> None:
    hold_by_hand(site, f"{HOLDER}:1")
    site.cache_command(site.servers[WS2], f"set ended:{HOLDER} 0 0 1\r\n1")
    retiring = site.retire(site.servers[WS2])
    assert retiring.communicate(timeout=PATIENCE) == ("", None)
    assert retiring.returncode == 0


def test_retiring_finds_a_lock_among_many_entries(site: Site) -> None:
    server = site.servers[WS2]
    with socket.create_connection((server.address, site.cache_port), timeout=PATIENCE) as link:
        for kind in ("lock", "session"):
            text = "".join(f"set {kind}:{n:020} 0 0 1 noreply\r\nx\r\n" for n in range(20_000))
            link.sendall(text.encode())
        link.sendall(b"version\r\n")
        assert link.recv(100).startswith(b"VERSION")
    hold_by_hand(site, f"{HOLDER}:1")
    retiring = site.retire(server)
    wait_for(lambda: young(site, WS2) == "retiring", "it has begun")
    with socket.create_connection((server.address, site.cache_port), timeout=PATIENCE) as link:
        text = "".join(f"delete lock:{n:020} noreply\r\n" for n in range(20_000))
        link.sendall(text.encode())
        with pytest.raises(subprocess.TimeoutExpired):
            retiring.wait(1)
    site.cache_command(server, f"delete lock:abc,-{'0' * 16}")
    assert retiring.communicate(timeout=PATIENCE) == ("", None)


def test_retiring_waits_not_for_ever(site: Site) -> None:
    hold_by_hand(site, f"{HOLDER}:1")
    retiring = site.retire(site.servers[WS2], seconds="1.0")
    said, _ = retiring.communicate(timeout=PATIENCE)
    assert said == "sessions at work are not waited for: 1 of them after 1 s\n"


def test_retiring_does_not_need_the_database(site: Site) -> None:
    client = session_on(site, WS2)
    site.database.stop()
    first = in_background(another(client).ask, path=HOLD)
    wait_for(lambda: locked(site, WS2), "it began")
    stopping = in_background(site.stop_cache, site.servers[WS2])
    wait_for(lambda: young(site, WS2) == "retiring", "the member is about to stop")
    time.sleep(0.5)  # it could have stopped by now, and must not
    assert not stopping.done()
    site.let_go()
    stopping.result(PATIENCE)
    assert first.result(PATIENCE).status == 503  # it wanted to store
    site.start_database()
    assert client.count() == 2


def test_a_memcached_that_hangs_or_is_gone_or_a_missing_php_does_not_hold_up_its_stop(
    site: Site,
) -> None:
    server = site.servers[WS2]
    hold_by_hand(site, f"{HOLDER}:1")
    done = site.retire(server, php="/nonexistent/php")
    assert "/nonexistent/php" in done.communicate(timeout=PATIENCE)[0]
    server.cache.send(signal.SIGSTOP)
    done = site.retire(server)
    assert "memcached does not answer" in done.communicate(timeout=PATIENCE)[0]
    server.cache.send(signal.SIGCONT)
    server.cache.stop()
    done = site.retire(server)
    assert "Connection refused" in done.communicate(timeout=PATIENCE)[0]


def test_while_members_restart_as_planned_sessions_with_many_requests_at_once_lose_none(
    site: Site,
) -> None:
    """A wave of reboots: members settle, and restart under traffic."""
    clients = [session_on(site, cache) for cache in (WS1, WS2, WS2)]
    counts: list[list[int]] = [[] for _ in clients]
    faults: list[str] = []

    def keep_asking(which: int, place: str, stop: threading.Event) -> None:
        while not stop.is_set() and not faults:
            answer = another(clients[which]).ask(place, path="/?ms=150")
            if answer.status == 200:
                counts[which].append(answer.json["count"])
            else:
                faults.append(f"{place} at {time.strftime('%T')}: {answer.status} {answer.body!r}")

    for turn in range(6):
        stop, answered = threading.Event(), sum(map(len, counts))
        askers = [
            in_background(keep_asking, which, place, stop)
            for which in range(len(clients))
            for place in (WS1, WS1, WS2, OTHER_FARM)
        ]
        wait_for(lambda n=answered: faults or sum(map(len, counts)) > n + 6, "they are at work")
        server = site.servers[(WS2, WS1)[turn % 2]]
        site.stop_cache(server)
        time.sleep(0.1)  # how long it is away
        site.start_cache(server)
        time.sleep(2)  # until php-fpm asks again a cache that it had given up
        stop.set()
        for asker in askers:
            asker.result(PATIENCE)
        assert faults == [], f"turn {turn}"
        site.settle()  # nobody is at work who came before
    for counted in counts:
        assert sorted(counted) == list(range(2, len(counted) + 2))

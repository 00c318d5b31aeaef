"""The primary in front of real site balancers: TLS, sites, headers, retries, reloads under load."""

import asyncio
import contextlib
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import RELEASES, Haproxy, Http, Reply, Server, World, farms, sites, world
from loopback import NET, PATIENCE, wait_for

OLD, NEW = RELEASES


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.add_farms(count=2, servers=2)
        made.add_farms(count=1, servers=2, site=2)
        yield made


def build(cluster: World, balancers: int = 2) -> tuple[Haproxy, list[Haproxy], Haproxy]:
    """A primary, the balancers of site1, and the one of site2; all is up."""
    first = [cluster.add_site_balancer() for _ in range(balancers)]
    second = cluster.add_site_balancer(site="site2")
    primary = cluster.add_primary({"site1": first, "site2": [second]})
    for balancer in [*first, second]:
        wait_for(
            lambda b=balancer: all(f["up"] == 2 for f in farms.farms(b.balancer)["farms"].values()),
            "servers are up",
        )
    wait_for(
        lambda: (
            [s["up"] for s in sites.sites(primary.balancer)["sites"].values()] == [balancers, 1]
        ),
        "site balancers are up",
    )
    return primary, first, second


def session_of(cluster: World, primary: Haproxy, site: str) -> dict[str, str]:
    for _ in range(200):
        reply = cluster.ask(primary)
        if reply.json["site"] == site:
            return reply.cookies
    raise AssertionError(f"no new session came to {site}")


def test_sessions_stick_to_their_site_and_are_shared_by_its_balancers(cluster: World) -> None:
    primary, first, _ = build(cluster)
    reply = cluster.ask(primary)
    assert reply.cookies["SITEID"] == reply.json["site"]
    cookie = next(v for k, v in reply.headers if k == "set-cookie" and v.startswith("SITEID"))
    assert "Secure; HttpOnly; SameSite=Lax" in cookie
    cookies = session_of(cluster, primary, "site1")
    again = [cluster.ask(primary, cookies=cookies) for _ in range(40)]
    assert {r.json["site"] for r in again} == {"site1"} and not any(r.cookies for r in again)
    totals = [
        sum(
            int(row["stot"])
            for row in b.balancer.stat(b.balancer.client)
            if row["svname"] == "BACKEND"
        )
        for b in first
    ]
    assert min(totals) > 5, totals


def test_client_sent_headers_of_trust_are_removed(cluster: World) -> None:
    primary, _, _ = build(cluster)
    reply = cluster.ask(
        primary,
        headers={
            "X-Forwarded-For": "192.0.2.66",
            "X-Forwarded-Proto": "gopher",
            "Forwarded": "for=192.0.2.66",
            "X-Real-IP": "192.0.2.66",
            "X-Webfarm-Moved": "0",
            "X-Webfarm-Release": NEW,
            "X-Webfarm-Evil": "1",
        },
    )
    headers = reply.json["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"
    assert headers["x-webfarm-release"] == OLD and headers["x-webfarm-moved"] == "1"
    assert not {"forwarded", "x-real-ip", "x-webfarm-evil"} & set(headers)


def test_http_is_redirected_and_old_tls_is_refused(cluster: World) -> None:
    primary, _, _ = build(cluster)
    host = primary.context["bind_http"].split(":")[0]

    async def plain() -> Reply:
        return await Http(host, 18080).request("/cart?id=7")

    reply = cluster.run(plain())
    assert reply.status == 308 and reply.header("location") == "https://shop.example/cart?id=7"
    assert cluster.ask(primary, "/ready").status == 404
    assert cluster.ask(primary, "/.webfarm/site-up").status == 404


def test_drained_site_keeps_its_sessions_and_closed_site_loses_them(cluster: World) -> None:
    primary, _, _ = build(cluster)
    cookies = session_of(cluster, primary, "site1")
    sites.set_sites(primary.balancer, state={"site1": "drain"}, pick={"site2": 1})
    assert {cluster.ask(primary).json["site"] for _ in range(20)} == {"site2"}
    assert {cluster.ask(primary, cookies=cookies).json["site"] for _ in range(20)} == {"site1"}
    sites.set_sites(primary.balancer, state={"site1": "closed"})
    moved = cluster.ask(primary, cookies=cookies)
    assert moved.json["site"] == "site2" and moved.cookies["SITEID"] == "site2"
    assert moved.cookies["FARMID"] == "site2:farm1:1"
    assert moved.json["headers"]["x-webfarm-moved"] == "1"
    for forged in ("site9", "webfarm_none", "x" * 8000, "\xff", ""):
        reply = cluster.ask(primary, cookies={"SITEID": forged})
        assert (reply.status, reply.json["site"]) == (200, "site2")


def test_sessions_of_a_dead_site_are_answered_by_another(cluster: World) -> None:
    primary, first, _ = build(cluster)
    cookies = session_of(cluster, primary, "site1")
    first[0].kill()
    assert {cluster.ask(primary, cookies=cookies).json["site"] for _ in range(20)} == {"site1"}
    first[1].kill()
    wait_for(lambda: sites.sites(primary.balancer)["sites"]["site1"]["up"] == 0, "site1 is down")
    moved = cluster.ask(primary, cookies=cookies)
    assert moved.json["site"] == "site2" and moved.cookies["SITEID"] == "site2"


class Load:
    """Sessions with kept connections, GET and POST, some slow; each failure is kept."""

    def __init__(self, cluster: World, primary: Haproxy, sessions: int = 24) -> None:
        self.failures: list[str] = []
        self.count: Counter[str] = Counter()
        self.stopped = asyncio.Event()
        self.cluster = cluster
        self.running = cluster.submit(
            self._all([self._session(cluster.client(primary), n) for n in range(sessions)])
        )

    async def _all(self, work: list[Any]) -> None:
        await asyncio.gather(*work)

    async def _session(self, client: Http, number: int) -> None:
        turn = number
        while not self.stopped.is_set():
            turn += 1
            post = turn % 3 == 0
            path = "/?ms=300" if turn % 11 == 0 else "/?ms=3"
            try:
                reply = await client.request(
                    path, "POST" if post else "GET", body=b"x" * 900 * post
                )
                if reply.status != 200:
                    self.failures.append(f"{reply.status} {reply.body!r}")
                elif reply.json["body"] != 900 * post:
                    self.failures.append(f"body {reply.json['body']}")
                self.count[reply.json["server"] if reply.status == 200 else "failed"] += 1
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.failures.append(repr(error))
                client.close()
            if turn % 40 == 0:
                client.close()  # and a new connection
            await asyncio.sleep(0.005)
        client.close()

    def stop(self) -> None:
        self.cluster.loop.call_soon_threadsafe(self.stopped.set)
        self.running.result(2 * PATIENCE)

    def more(self, requests: int = 300) -> None:
        goal = self.count.total() + requests
        wait_for(lambda: self.count.total() >= goal, f"{requests} more requests")


@contextlib.contextmanager
def load(cluster: World, primary: Haproxy) -> Iterator[Load]:
    made = Load(cluster, primary)
    try:
        yield made
    finally:
        made.stop()


def test_s2_reloads_of_both_layers_under_load_lose_no_request(cluster: World) -> None:
    primary, first, second = build(cluster)
    with load(cluster, primary) as traffic:
        traffic.more()
        for _ in range(4):
            for balancer in (primary, first[0], second, first[1]):
                balancer.help("reload")
                traffic.more(100)
    assert traffic.failures == []
    assert traffic.count.total() > 1500


def test_s2_a_reload_in_the_middle_of_a_changed_farm_keeps_old_workers_in_line(
    cluster: World,
) -> None:
    """A kept connection's last request is routed by the old worker: it must know what changed."""
    primary, first, _ = build(cluster, balancers=1)
    sites.set_sites(primary.balancer, pick={"site1": 1})
    balancer = first[0]

    async def connected() -> list[Http]:
        clients = [cluster.client(balancer) for _ in range(40)]
        for client in clients:
            assert (await client.request()).status == 200
        return clients

    clients = cluster.run(connected())
    assert {":farm2:" in client.cookies["FARMID"] for client in clients[:20]} == {True, False}
    balancer.help("reload")
    seen = farms.farms(balancer.balancer)
    assert seen["old_workers"] == 1

    async def again(some: list[Http]) -> list[Reply]:
        return [await client.request() for client in some]

    # a reload moves no session
    assert not any(reply.cookies for reply in cluster.run(again(clients[:20])))
    farms.set_farms(
        balancer.balancer, state={"farm2": "closed"}, pick={"farm1": 1}, pick_newest={"farm1": 1}
    )

    assert {reply.json["farm"] for reply in cluster.run(again(clients[20:]))} == {"farm1"}


@pytest.mark.parametrize("fault", ["restart", "kill"])
def test_one_of_two_site_balancers_may_go_and_come(cluster: World, fault: str) -> None:
    """Requests in flight on a killed balancer are lost with it; none that comes later."""
    primary, first, _ = build(cluster)
    with load(cluster, primary) as traffic:
        traffic.more()
        {"restart": first[0].stop, "kill": first[0].kill}[fault]()
        lost = time.monotonic()
        traffic.more(200)
        first[0].start()
        traffic.more(200)
        wait_for(lambda: sites.sites(primary.balancer)["sites"]["site1"]["up"] == 2, "it is back")
        traffic.more(100)
    assert time.monotonic() > lost
    assert len(traffic.failures) <= 24, traffic.failures  # at most one per session


def test_s7_a_restarted_balancer_with_more_wrong_servers_than_retries_fails_nothing(
    tmp_path: Path,
) -> None:
    with world(tmp_path) as cluster:
        cluster.add_farms(count=1, servers=9)
        first = [cluster.add_site_balancer() for _ in range(2)]
        primary = cluster.add_primary({"site1": first})
        right = cluster.servers["site1-farm1-ws9"]
        right.release = NEW
        for balancer in first:
            farms.set_farms(balancer.balancer, release={"farm1": NEW})
        for balancer in first:
            wait_for(
                lambda b=balancer: farms.farms(b.balancer)["farms"]["farm1"]["up"] == 1, "fenced"
            )
        first[0].kill()
        first[0].start()

        async def burst() -> list[Reply]:
            async def one() -> Reply:
                client = cluster.client(primary)
                try:
                    return await client.request("/", "POST", body=b"x" * 3000)
                finally:
                    client.close()

            return list(await asyncio.gather(*[one() for _ in range(60)]))

        for reply in cluster.run(burst()):
            assert (reply.status, reply.json["server"]) == (200, right.id)
        assert sum(s.answered["served"] for s in cluster.servers.values()) == 60


def test_what_one_balancer_refuses_another_may_answer(tmp_path: Path) -> None:
    """A 425 says that nothing was processed: it is retried, for a POST too."""
    with world(tmp_path) as cluster:
        cluster.add_farms(count=1, servers=2)
        good = cluster.add_site_balancer()
        refuser = Server("refuser", "none", f"{NET}.99.1")
        cluster.run(refuser.start())
        primary = cluster.add_primary({"site1": [good]})
        primary.context["sites"]["site1"]["balancers"]["refuser"] = {
            "address": refuser.address,
            "port": refuser.port,
        }
        primary.write_config()
        primary.help("reload")
        wait_for(lambda: sites.sites(primary.balancer)["sites"]["site1"]["up"] == 2, "both are up")
        for number in range(30):
            method = "POST" if number % 2 else "GET"
            reply = cluster.ask(primary, method=method, body=b"x" * 3000 * (number % 2))
            assert (reply.status, reply.json["body"]) == (200, 3000 * (number % 2))
        assert refuser.answered["refused"] > 5
        cluster.run(refuser.stop())


def test_a_refusal_that_no_retry_could_lift_is_a_503_for_the_client(cluster: World) -> None:
    primary, _, _ = build(cluster)
    for server in cluster.servers.values():
        server.release = NEW
    reply = wait_for(
        lambda: next((r for r in [cluster.ask(primary)] if r.status != 200), None),
        "no server may answer",
    )
    assert reply.status == 503 and reply.header("retry-after")
    assert reply.header("x-webfarm-fence") is None and not reply.cookies


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")  # they are meant to be refused
def test_tls_is_1_2_or_newer_with_http_2_and_statistics_are_for_management_only(
    cluster: World,
) -> None:
    primary, first, _ = build(cluster)

    async def handshake(version: ssl.TLSVersion) -> str | None:
        trust = ssl.create_default_context(cafile=primary.context["certificate"])
        trust.minimum_version = ssl.TLSVersion.TLSv1
        trust.maximum_version = version
        trust.set_ciphers("ALL:@SECLEVEL=0")
        trust.set_alpn_protocols(["h2", "http/1.1"])
        host, _, port = primary.context["bind_https"].rpartition(":")
        _, writer = await asyncio.open_connection(
            host, int(port), ssl=trust, server_hostname="shop.example"
        )
        protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        return protocol

    assert cluster.run(handshake(ssl.TLSVersion.TLSv1_3)) == "h2"
    assert cluster.run(handshake(ssl.TLSVersion.TLSv1_2)) == "h2"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        cluster.run(handshake(ssl.TLSVersion.TLSv1_1))

    async def get(balancer: Haproxy, path: str) -> str:
        host, _, port = balancer.context["management"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text

    for balancer in (primary, first[0]):
        assert "haproxy_backend_active_servers" in cluster.run(get(balancer, "/metrics"))
        assert "Statistics Report" in cluster.run(get(balancer, "/"))
    assert "haproxy_" not in cluster.ask(primary, "/metrics").body.decode()

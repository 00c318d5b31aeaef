"""The gates over what a real HAProxy counts: slow answers, errors, refusals, reloads."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from webfarm.policy import Gates
from webfarm.rollout import gates
from webfarm.rollout.gates import Sample
from webfarm.rollout.model import BalancerView, Counters, FarmAtBalancer, Seen

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import Haproxy, Server, World, farms, wait_for, world


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.add_farms(count=2, servers=2)
        yield made


@pytest.fixture
def balancer(cluster: World) -> Haproxy:
    made = cluster.add_site_balancer()
    up(made)
    return made


def up(balancer: Haproxy) -> None:
    seen = farms.farms
    wait_for(lambda: all(f["up"] == 2 for f in seen(balancer.balancer)["farms"].values()), "all UP")


def observe(balancer: Haproxy) -> Seen:
    """What the balancer has counted for its farms."""
    found = {
        name: FarmAtBalancer("open", 1, about["release"], counters=Counters(**about["counters"]))
        for name, about in farms.farms(balancer.balancer)["farms"].items()
    }
    return Seen({"lb1": BalancerView("lb1", True, farms=found)}, {})


def ask(
    cluster: World, balancer: Haproxy, path: str, count: int, clients: int, farm: str = "farm1"
) -> tuple[Counter[int], float]:
    """``count`` requests of sessions of ``farm``: their statuses, and the longest in ms."""

    async def one(requests: int) -> list[tuple[int, float]]:
        client = cluster.client(balancer)
        client.cookies = {"FARMID": f"site1:{farm}:1"}
        answers = []
        for _ in range(requests):
            began = time.monotonic()
            reply = await client.request(path)
            answers.append((reply.status, 1000 * (time.monotonic() - began)))
        client.close()
        return answers

    async def all_of_them() -> list[list[tuple[int, float]]]:
        return await asyncio.gather(*[one(count // clients) for _ in range(clients)])

    answers = [answer for group in cluster.run(all_of_them()) for answer in group]
    return Counter(status for status, _ in answers), max(took for _, took in answers)


def counted(balancer: Haproxy, before: Seen, requests: int, farm: str = "farm1") -> Sample:
    """The window since ``before``, once HAProxy has booked all of its requests."""
    return wait_for(
        lambda: (
            (found := gates.sample(before, observe(balancer), [farm])).requests >= requests
            and found
        ),
        f"{requests} requests of {farm} are counted",
    )


@pytest.mark.parametrize("earlier", [0, 40, 1200])
def test_sixty_slow_requests_are_seen_however_many_fast_ones_came_before(
    cluster: World, balancer: Haproxy, earlier: int
) -> None:
    before = observe(balancer)
    if earlier:
        ask(cluster, balancer, "/", earlier, 8)
        counted(balancer, before, earlier)
        before = observe(balancer)
    _, longest = ask(cluster, balancer, "/?ms=300", 60, 20)

    def booked() -> Sample | None:
        """HAProxy counts a request when it comes, and its time a moment after it was answered."""
        found = gates.sample(before, observe(balancer), ["farm1"])
        assert found.response_ms is not None
        return found if found.response_ms >= 298 - found.rounding_ms else None

    found = wait_for(booked, "all times are counted")
    assert (found.requests, found.errors) == (60, 0)
    assert found.response_ms is not None
    assert found.rounding_ms < 20
    assert found.response_ms <= longest + found.rounding_ms
    assert gates.judge(Gates(), found, Sample(100, 0, 3.0)).state == "fail"


def test_errors_are_counted_whoever_made_them(cluster: World, balancer: Haproxy) -> None:
    before = observe(balancer)
    statuses, _ = ask(cluster, balancer, "/?status=500%20Broken", 20, 4)
    assert statuses == {500: 20}
    assert counted(balancer, before, 20).errors == 20

    before = observe(balancer)
    for server in cluster.farm_servers("farm1"):
        server.exchange = cut_off  # type: ignore[method-assign]
    # a connection for each: on a kept one HAProxy leaves it to the client to ask again
    statuses = sum((ask(cluster, balancer, "/", 1, 1)[0] for _ in range(20)), Counter())
    assert set(statuses) <= {200, 502} and statuses[502] >= 3  # HAProxy's own
    assert counted(balancer, before, statuses[502]).errors == statuses[502]


async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """A server that is ready, and ends every connection instead of answering."""
    if b" /ready " not in await reader.readuntil(b"\r\n\r\n"):
        return False
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    return True


def test_a_refusal_by_the_fence_is_no_error(cluster: World, balancer: Haproxy) -> None:
    """Another server of the farm, or the primary elsewhere, answers what was refused."""
    first, second = cluster.farm_servers("farm1")
    before = observe(balancer)
    refuse(first)
    statuses, _ = ask(cluster, balancer, "/", 40, 4)
    assert statuses[200] > 0 and first.answered["refused"] > 0
    refuse(second)
    statuses, _ = ask(cluster, balancer, "/", 8, 4)
    assert set(statuses) <= {200, 425} and statuses[425] > 0
    assert counted(balancer, before, 40).errors == 0


def refuse(server: Server) -> None:
    """It refuses every request, as before HAProxy has noticed that it runs another release."""

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        status = "200 OK"
        if b" /ready " not in await reader.readuntil(b"\r\n\r\n"):
            status = "425 Too Early\r\nX-Webfarm-Fence: 2026.10.1"
            server.answered["refused"] += 1
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True

    server.exchange = exchange  # type: ignore[method-assign]


def test_counters_begin_anew_after_a_reload(cluster: World, balancer: Haproxy) -> None:
    ask(cluster, balancer, "/", 100, 4)
    before = observe(balancer)
    balancer.help("reload")
    ask(cluster, balancer, "/?status=500%20Broken", 40, 4)
    found = counted(balancer, before, 40)
    assert (found.requests, found.errors) == (40, 40)


def test_a_farm_is_judged_beside_the_other(cluster: World, balancer: Haproxy) -> None:
    before = observe(balancer)
    ask(cluster, balancer, "/", 60, 4, "farm2")
    ask(cluster, balancer, "/", 48, 4, "farm1")
    farm, other = counted(balancer, before, 48), counted(balancer, before, 60, "farm2")
    assert gates.judge(Gates(), farm, other).state == "inconclusive"
    ask(cluster, balancer, "/?status=503%20Broken", 4, 4, "farm1")
    farm = counted(balancer, before, 52)
    verdict = gates.judge(Gates(), farm, other)
    assert verdict.state == "fail"
    assert "7.7% of its answers are 5xx (4 of 52), 2.0% are allowed" in verdict.why
    assert gates.judge(Gates(), other, farm).state == "pass"

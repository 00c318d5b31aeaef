"""A change rests on a look of a moment ago, and goes only to who answered it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from webfarm.hold import FRESH_SECONDS
from webfarm.rollout import commands
from webfarm.rollout.cluster import CHANGES
from webfarm.rollout.lease import Held
from webfarm.rollout.model import Goal, Memory, Reply, Step
from webfarm.rollout.pool import through_one
from webfarm.rollout.salt_cluster import SaltCluster
from webfarm.rollout.world import LOOK_SECONDS, LOOKS, World

from tests.unit.easy_cluster import Shop, pillar_of

GOAL = Goal("site1", "farm2", "2026.11.2", "8.2.36", "2")
WS1, WS2 = "site1-farm2-ws1", "site1-farm2-ws2"


@pytest.fixture
def shop(tmp_path: Path, pillar: dict[str, Any]) -> Shop:
    return Shop(tmp_path, pillar_of(pillar))


@pytest.fixture
def world(shop: Shop) -> World:
    easy = shop.cluster
    return World(GOAL, easy.topology.sites["site1"], easy, easy, Memory())


def test_it_looks_again_only_when_the_last_look_at_servers_is_old(shop: Shop, world: World) -> None:
    easy = shop.cluster
    world.look_again()
    world.look_again()
    assert len(easy.observed) == 1
    easy.sleep(LOOK_SECONDS + 1)
    world.observe(servers=False)
    world.look_again()
    assert [servers for *_, servers in easy.observed] == [True, False, True]


def test_looks_that_take_long_come_to_an_end(
    shop: Shop, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.cluster, "_check", lambda: shop.cluster.sleep(LOOK_SECONDS + 1))
    world.look_again()
    assert len(shop.cluster.observed) == LOOKS


def test_a_server_that_fell_silent_is_not_asked_to_flush(
    shop: Shop, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy, asked = shop.cluster, []

    def call(_: str, function: str, targets: Sequence[str], *__: Any) -> Mapping[str, Reply]:
        asked.extend(targets)
        easy.silent.add(WS2)
        easy.sleep(30)
        return {name: Reply(None, error="no answer in 30 s") for name in targets}

    monkeypatch.setattr(easy, "call", call)
    world.observe()
    arguments = {"servers": world.situation.to_flush()}
    flush = Step("flush", (WS1, WS2), "", 30.0, "farm_cache.flush", arguments)
    result = through_one(flush, world)
    assert result.state == "failed"
    assert set(asked) == {WS1}
    assert f"{WS2} says does not answer" in result.error


@pytest.mark.parametrize("silent", [False, True])
def test_who_takes_over_waits_only_for_who_does_not_answer(shop: Shop, silent: bool) -> None:
    easy = shop.cluster
    if silent:
        easy.silent.add(WS2)
    start, first = easy.now, []

    def changes(function: str) -> None:
        if function in CHANGES and not first:
            first.append(easy.now - start)

    easy.on_call = changes
    assert commands.upgrade(shop.context, "site1", "farm2")["state"] == "done"
    assert (first[0] > FRESH_SECONDS) is silent


def test_who_answers_meanwhile_ends_the_wait(shop: Shop) -> None:
    easy = shop.cluster
    easy.silent.add(WS2)
    start, first = easy.now, []
    sleep = easy.sleep

    def heals(seconds: float) -> None:
        sleep(seconds)
        if easy.now - start > FRESH_SECONDS / 2:
            easy.silent.clear()

    easy.sleep = heals  # type: ignore[method-assign]
    easy.on_call = lambda function: first.append(easy.now) if function in CHANGES else None
    assert commands.upgrade(shop.context, "site1", "farm2")["state"] == "done"
    assert first[0] - start < FRESH_SECONDS


def test_nothing_is_published_once_the_lease_is_lost(shop: Shop) -> None:
    class Client:
        def pub(self, *_: Any, **__: Any) -> None:
            raise AssertionError("published")

    class Lost:
        def confirm(self) -> None:
            raise Held("another took over")

    cluster = SaltCluster(Client(), shop.cluster.topology)
    cluster.hold = Lost()  # type: ignore[assignment]
    with pytest.raises(Held):
        cluster.observe("site1", "farm2")
    with pytest.raises(Held):
        cluster.call("site1", "webfarm_release.switch", [WS1], {}, 1.0)

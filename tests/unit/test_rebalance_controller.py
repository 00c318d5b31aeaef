"""When a farm is decided on, what its balancers are told, and what of it outlives the process."""

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
from rebalance_world import FARM, LB1, LB2, START, WS1, WS2, Keys, World
from webfarm import topology, weights
from webfarm.rebalance import controller
from webfarm.rebalance.book import KEPT, Book
from webfarm.rebalance.farm import ASSERT_SECONDS, PATIENCE_SECONDS
from webfarm.rebalance.freezes import Freeze

SLOW = {"busy": 60.0, "active": 12.0}
"""Six times as long for each request."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def world(keys: Keys) -> World:
    return World(keys)


def confirm(world: World) -> None:
    world.answer(LB1)
    world.answer(LB2)


# -- decisions -------------------------------------------------------------------------------------


def test_before_a_first_report_the_balancers_keep_what_they_have(world: World) -> None:
    assert world.turn(60) == []
    assert world.loop.vector is None


def test_the_first_reports_bring_the_base_weights(world: World) -> None:
    world.settle(4)
    first = world.vectors()[0]
    assert (first["weights"], first["drained"], first["share"]) == ({WS1: 100, WS2: 100}, {}, 200)
    assert (first["site"], first["farm"]) == FARM
    assert world.vectors("farm2") == []  # nobody has spoken there


def test_a_slow_server_gets_less_and_gets_it_back(world: World) -> None:
    world.settle(40, **{WS1: SLOW})
    slow = world.vectors()[-1]["weights"]
    assert slow[WS1] < 80 < slow[WS2] + 30
    world.settle(120)
    assert world.vectors()[-1]["weights"] == {WS1: 100, WS2: 100}


def test_a_farm_gets_at_most_one_vector_a_tick(world: World) -> None:
    for second in range(60):
        for server, load in ((WS1, SLOW if second % 7 < 3 else {}), (WS2, {})):
            for _ in range(3):
                world.report(server, **load)
        world.turn(1)
        confirm(world) if world.loop.vector else None
    times = [vector["at"] for vector in world.vectors()]
    assert len(times) > 3
    assert all(b - a >= world.loop.law.tick - 1.0 for a, b in itertools.pairwise(times))


def test_a_critical_report_drains_without_waiting_for_the_tick(world: World) -> None:
    world.settle(8)
    confirm(world)
    begin = len(world.vectors())
    world.report(WS1, critical=["php-fpm"])
    (vector,) = world.vectors()[begin:]
    assert list(vector["drained"]) == [WS1]
    assert "php-fpm" in vector["drained"][WS1]
    world.report(WS1, critical=["php-fpm"])  # once is enough
    assert len(world.vectors()) == begin + 1


def test_the_last_server_is_never_drained(world: World) -> None:
    world.settle(8)
    for server in (WS1, WS2, WS1, WS2):
        world.report(server, critical=["php-fpm", "disk-full"])
        world.turn(4)
    assert len(world.loop.vector.drained) == 1


def test_epochs_rise_also_when_the_clock_goes_back(world: World) -> None:
    world.settle(16, **{WS1: SLOW})
    world.now -= 20
    for server in (WS1, WS2):
        world.up[server] += 100
    for _ in range(30):
        world.report(WS1, critical=["nginx"])
        world.controller.turn(world.now, world.now + 100)
        world.now += 1
        world.turn(1)
    epochs = [vector["epoch"] for vector in world.vectors()]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 2


def test_farms_take_turns_within_a_tick(keys: Keys) -> None:
    world = World(keys)
    assert len(set(world.controller.due.values())) == len(world.controller.farms) == 4


def test_a_tick_that_came_late_is_not_made_up_for(world: World) -> None:
    world.settle(8)
    ticks = world.controller.counts["ticks"]
    world.now += 100
    world.fired += world.controller.turn(world.now, world.now)
    assert world.controller.counts["ticks"] == ticks + len(world.controller.farms)
    assert world.controller.latest >= 90
    world.turn(1)
    assert world.controller.counts["ticks"] == ticks + len(world.controller.farms)


def test_a_law_that_fails_on_one_farm_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.settle(8)
    real = weights.decide

    def broken(law: Any, base: Any, *rest: Any) -> Any:
        if WS1 in base:
            raise ZeroDivisionError
        return real(law, base, *rest)

    monkeypatch.setattr(weights, "decide", broken)
    vector = world.loop.vector
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            world.report("site1-farm2-ws1")
            world.turn(1)
    assert world.loop.vector == vector
    assert world.vectors("farm2")
    assert len(caplog.records) == 1
    assert world.controller.counts["mistakes"] > 1


# -- assertion -------------------------------------------------------------------------------------


def test_a_vector_is_sent_again_until_all_balancers_have_it(world: World) -> None:
    world.settle(8)
    begin = len(world.vectors())
    world.answer(LB1)
    world.settle(8)
    again = world.vectors()[begin:]
    assert len(again) == 8  # LB2 has said nothing for 8 s: it may be away
    assert {vector["epoch"] for vector in again} == {world.loop.vector.epoch}
    assert all(world.now - vector["at"] < 10 for vector in again)  # not too old for a balancer
    sent = [data["balancers"] for tag, data in world.fired if tag.startswith("webfarm/weights/")]
    assert sent[0] == [LB1, LB2]
    assert sent[-1] == [LB2]  # who has it is not asked again
    confirm(world)
    begin = len(world.vectors())
    world.settle(8)
    assert world.vectors()[begin:] == []


def test_a_vector_that_all_have_is_sent_again_every_half_minute(world: World) -> None:
    world.settle(8)
    begin = world.now
    for _ in range(60):
        confirm(world)
        world.settle(2)
    times = [vector["at"] for vector in world.vectors() if vector["at"] > begin]
    assert 3 <= len(times) <= 4
    assert times[1] - times[0] >= ASSERT_SECONDS


def test_a_balancer_that_stays_silent_does_not_cost_a_command_each_tick(world: World) -> None:
    world.settle(8)
    world.turn(PATIENCE_SECONDS)
    begin = len(world.vectors())
    world.turn(120)
    assert 3 <= len(world.vectors()) - begin <= 5
    # it is back: with the next tick, and until it has answered
    world.answer(LB1)
    assert set(world.loop.owing) == {LB2}


def test_an_old_epoch_confirms_nothing(world: World) -> None:
    world.settle(8)
    world.answer(LB1, epoch=world.loop.vector.epoch - 1)
    assert LB1 in world.loop.owing


def test_a_balancer_with_a_later_epoch_gets_a_still_later_one(world: World) -> None:
    """Of another master, or of before the clock was set right."""
    world.settle(8)
    later = world.loop.vector.epoch + 1_000_000
    world.answer(LB1, epoch=later, refused="epoch … is older")
    world.settle(8)
    assert world.vectors()[-1]["epoch"] == later + 1


def test_a_balancer_that_starts_is_told_at_once(world: World) -> None:
    world.settle(8)
    confirm(world)
    begin = len(world.vectors())
    world.event(f"salt/minion/{LB2}/start", {"id": LB2})
    assert len(world.vectors()) == begin + 1
    assert set(world.loop.owing) == {LB2}
    world.event(f"salt/minion/{WS1}/start", {"id": WS1})
    assert len(world.vectors()) == begin + 1


def test_a_wish_of_the_runner_is_obeyed_within_a_second(world: World) -> None:
    world.settle(8)
    confirm(world)
    begin = len(world.vectors())
    world.book.wish([FARM, ("site9", "gone")], world.now)
    world.turn(1)
    assert len(world.vectors()) == begin + 1
    assert world.book.wishes() == []


# -- what is sudden --------------------------------------------------------------------------------

STALLED = {"psi": {"cpu": 95.0, "memory": None, "io": None}}


def decided(world: World, begin: float) -> list[float]:
    """When the farm's vector changed, in seconds since ``begin``."""
    found = {v["epoch"] / 1000 - begin for v in world.vectors()}
    return sorted(at for at in found if at >= 0)


@pytest.mark.parametrize("passed", [0.5, 1.0, 2.5, 3.5])
def test_a_sudden_stall_is_decided_on_half_a_tick_after_the_last_decision(
    world: World, passed: float
) -> None:
    while not world.loop.ticked or world.loop.ticked < world.now - 0.4 or world.now < START + 20:
        for server in (WS1, WS2):
            world.report(server)
        world.turn(0.5)
    tick = world.loop.ticked
    world.now = tick + passed
    begin = world.now
    world.report(WS1, **STALLED)
    for _ in range(6):
        world.turn(0.5)
    assert decided(world, begin)[0] <= max(2.0 - passed, 0) + 0.5
    assert world.loop.vector.weights[WS1] < 90


def test_the_vector_changes_at_most_once_a_tick_however_sudden(world: World) -> None:
    world.settle(20)
    begin = world.now
    for number in range(80):
        stalled = (WS1, WS2)[number // 6 % 2]
        for server in world.loop.base:
            world.report(server, **(STALLED if server == stalled else {}))
        world.turn(0.5)
    times = decided(world, begin)
    assert len(times) >= 2
    assert all(later - earlier >= 4 - 0.01 for earlier, later in itertools.pairwise(times))


def test_a_stall_that_was_there_before_is_not_sudden(world: World) -> None:
    world.settle(40, **{WS1: STALLED})
    ticks = world.controller.counts["ticks"]
    world.settle(40, **{WS1: STALLED})
    assert world.controller.counts["ticks"] - ticks == 10 * len(world.controller.farms)


# -- balancers that are slow, and those that are away ----------------------------------------------


def asked(world: World, balancer: str, begin: float, farm: str = "farm1") -> list[float]:
    """When the balancer was sent a vector of the farm, in seconds since ``begin``."""
    return [v["at"] - begin for v in world.vectors(farm, balancer) if v["at"] >= begin]


def commands(world: World, balancer: str, begin: int) -> int:
    """To how many commands those led that were fired since number ``begin``."""
    tag = "webfarm/weights/site1"
    return sum(t.startswith(tag) and balancer in d["balancers"] for t, d in world.fired[begin:])


def behind(world: World, seconds: int, **loads: Any) -> None:
    """Time in which LB1 does all its work and LB2 answers only what is old."""
    for _ in range(seconds // 2):
        world.settle(2, **loads)
        world.answer(LB1)
        world.answer(LB2, epoch=1)


def test_a_slow_balancer_is_not_put_further_behind(world: World) -> None:
    world.settle(8)
    confirm(world)
    begin = world.now
    behind(world, 120, **{WS1: SLOW})
    slow = asked(world, LB2, begin)
    assert len(asked(world, LB1, begin)) > 5  # a weight goes down by steps
    gaps = [later - earlier for earlier, later in itertools.pairwise(slow)]
    assert [round(gap / 4) for gap in gaps[:4]] == [1, 2, 4, 8]
    assert len(slow) <= 7
    # it has caught up: from now on it is asked like any other
    confirm(world)
    begin = world.now
    world.settle(12)
    assert asked(world, LB2, begin)


def test_what_is_urgent_goes_to_a_slow_balancer_too(world: World) -> None:
    world.settle(8)
    confirm(world)
    behind(world, 60, **{WS1: SLOW})
    begin = world.now
    world.report(WS1, critical=["php-fpm"])
    assert asked(world, LB2, begin) == [0.0]


def away(world: World, seconds: float) -> float:
    """Time in which LB2 answers nothing and all servers report; the moment after."""
    farms = world.topology.sites["site1"].farms
    for _ in range(round(seconds)):
        for farm in farms.values():
            for server in farm.servers:
                world.report(server)
        world.turn(0.5)
        world.turn(0.5)
        world.answer(LB1)
    world.now += 0.1
    return world.now


def test_a_balancer_that_is_away_is_sent_all_that_it_owes_once_a_second(world: World) -> None:
    begin = away(world, 20)
    number = len(world.fired)
    now = away(world, 40)
    for farm in ("farm1", "farm2"):
        times = asked(world, LB2, begin, farm)
        assert len(times) >= 40
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 1.1
    assert commands(world, LB2, number) <= 45  # both in one, but for those that are new
    # it is back: what it has not got yet it gets at once, and then it is like any other
    world.answer(LB2)
    assert asked(world, LB2, now) == []
    assert asked(world, LB2, now, "farm2") == [0.0]
    number = len(world.fired)
    away(world, 5)
    assert commands(world, LB2, number) <= 3


def test_balancers_that_owe_the_same_are_told_in_one_event(world: World) -> None:
    world.settle(12)
    number = len(world.fired)
    world.turn(1)
    ((_, data),) = [one for one in world.fired[number:] if one[0] == "webfarm/weights/site1"]
    assert data["balancers"] == [LB1, LB2]


def test_many_farms_do_not_flood_a_balancer_that_is_away(keys: Keys) -> None:
    world = World(keys, tick=1)
    away(world, 20)
    number = len(world.fired)
    away(world, 20)
    assert commands(world, LB2, number) == 20


def test_a_balancer_that_had_nothing_to_answer_for_long_is_not_taken_for_away(
    world: World,
) -> None:
    world.settle(8)
    confirm(world)
    world.turn(20)
    number = len(world.fired)
    world.report(WS1, critical=["php-fpm"])
    world.turn(7)
    assert commands(world, LB2, number) <= 3


def test_a_vector_that_a_balancer_cannot_take_is_an_answer(world: World) -> None:
    """Its HAProxy has no such farm yet: it is not away, and not asked as if it were."""
    away(world, 2)
    number = len(world.fired)
    for _ in range(15):
        away(world, 4)
        world.answer(LB2, epoch=0, applied={}, refused="there is no farm farm1")
    assert commands(world, LB2, number) <= 30
    assert world.controller.farms[FARM].answers[LB2].refused
    assert world.controller.farms[FARM].answers[LB1].applied
    # what it says without a proof changes nothing, and is not asked for again and again
    world.job(LB2, [{"error": "there is no farm farm2"}])
    assert commands(world, LB2, len(world.fired)) == 0


def test_no_event_has_more_servers_than_a_balancer_answers_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for farm in ("farm1", "farm2"):
        world.report(f"site1-{farm}-ws1")
    world.turn(8)
    number = len(world.fired)
    world.event(f"salt/minion/{LB1}/start", {"id": LB1})
    assert commands(world, LB1, number) == 1
    monkeypatch.setattr(controller, "MOST_SERVERS", 3)
    number = len(world.fired)
    world.event(f"salt/minion/{LB2}/start", {"id": LB2})
    assert commands(world, LB2, number) == 2
    assert len(asked(world, LB2, world.now)) == len(asked(world, LB2, world.now, "farm2")) == 1


# -- hands off (W3) --------------------------------------------------------------------------------


def test_a_farm_that_is_being_upgraded_is_left_alone(world: World) -> None:
    world.settle(8)
    confirm(world)
    world.turn(1)
    world.answer(LB1, left="left alone: drain")
    before = world.loop.vector
    world.settle(24, **{WS1: {**SLOW, "critical": ["php-fpm"]}})
    assert world.loop.vector == before
    # once it is open again the loop goes on
    confirm(world)
    world.settle(8, **{WS1: {**SLOW, "critical": ["php-fpm"]}})
    assert world.loop.vector.epoch > before.epoch


def test_a_server_that_a_hand_has_taken_out_is_not_ejected_nor_compared_with(world: World) -> None:
    world.settle(8)
    world.answer(LB1, left_alone={WS1: "maint"})
    world.settle(20, **{WS1: {"errors": 100, "critical": ["nginx"]}})
    assert world.loop.vector.drained == {}
    assert world.loop.absent(world.now) == {WS1: f"{LB1}: maint"}


@pytest.mark.parametrize("level", [("site1", None, None), ("site1", "farm1", None), (*FARM, WS1)])
def test_what_is_frozen_stays_until_it_is_thawed_or_expires(
    world: World, level: tuple[str, str | None, str | None]
) -> None:
    world.settle(8)
    confirm(world)
    since = world.now
    world.book.freeze(Freeze(*level, "a test", "root", since, since + 60))
    world.turn(1)
    world.settle(40, **{WS1: {**SLOW, "critical": ["php-fpm"]}})
    assert world.loop.vector.weights[WS1] == 100
    assert world.loop.vector.drained == {}
    assert world.loop.held(world.now)[WS1] == "frozen by root: a test"
    world.settle(40, **{WS1: {**SLOW, "critical": ["php-fpm"]}})
    assert list(world.loop.vector.drained) == [WS1]
    assert not world.loop.frozen


def test_a_freeze_of_one_farm_holds_no_other(world: World) -> None:
    world.book.freeze(Freeze("site1", "farm2", None, "a test", "root", world.now))
    world.settle(30, **{WS1: SLOW})
    assert world.loop.vector.weights[WS1] < 100


def test_a_law_that_is_switched_off_gives_the_bases_back_and_then_says_nothing(
    world: World,
) -> None:
    world.settle(40, **{WS1: SLOW})
    assert world.loop.vector.weights[WS1] < 100
    from rebalance_world import pillar

    off = topology.parse(pillar(on=False))
    world.controller.plan(off, world.now, world.now)
    world.settle(8)
    assert world.vectors()[-1]["weights"] == {WS1: 100, WS2: 100}
    confirm(world)
    begin = len(world.vectors())
    world.settle(90)
    assert world.vectors()[begin:] == []


def test_a_law_that_was_never_on_says_nothing(keys: Keys) -> None:
    world = World(keys, on=False)
    world.settle(60)
    assert world.vectors() == []


# -- the pillar changes ----------------------------------------------------------------------------


def test_servers_and_farms_come_and_go_with_the_pillar(world: World) -> None:
    from rebalance_world import pillar

    world.settle(40, **{WS1: SLOW})
    weight, epoch = world.loop.vector.weights[WS1], world.loop.vector.epoch
    more = pillar(3)
    del more["sites"]["site1"]["farms"]["farm2"]
    del more["sites"]["site1"]["farms"]["farm1"]["servers"][WS2]
    world.controller.plan(topology.parse(more), world.now, world.now)
    assert ("site1", "farm2") not in world.controller.farms
    world.report(WS2)
    assert world.controller.intake.refused == {"stranger": 1}
    world.settle(4, **{WS1: SLOW})
    vector = world.vectors()[-1]
    assert set(vector["weights"]) == {WS1, "site1-farm1-ws3"}
    assert vector["weights"][WS1] <= weight + 1
    assert vector["epoch"] > epoch
    assert ("site1", "farm2") not in world.book.views()


# -- memory ----------------------------------------------------------------------------------------


def test_the_next_process_goes_on_where_this_one_was(keys: Keys, tmp_path: Path) -> None:
    world = World(keys, tmp_path / "rebalance.sqlite")
    world.settle(40, **{WS1: SLOW})
    before, state = world.loop.vector, world.loop.state
    world.book.close()
    world.book = Book(tmp_path / "rebalance.sqlite")
    world.begin()
    assert world.loop.vector == before
    assert weights.pack(world.loop.state) == weights.pack(state)
    begin = len(world.vectors())
    world.turn(5)
    assert world.vectors()[begin]["epoch"] == before.epoch
    assert world.vectors()[begin]["weights"] == dict(before.weights)


def test_a_memory_that_cannot_be_read_is_begun_anew_and_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for memory in (
        {},
        {"vector": {"weights": {WS1: 257}}, "state": {}},
        {"vector": 7},
        {"state": 7},
    ):
        world.book.keep({FARM: (memory, {})}, {})
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            world.begin()
        assert world.loop.vector is None
        assert "site1 farm1 begins anew" in caplog.text


def test_a_disk_that_fails_does_not_stop_the_loop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.settle(8)
    world.book.close()
    with caplog.at_level(logging.ERROR):
        world.settle(40, **{WS1: SLOW})
    assert world.vectors()[-1]["weights"][WS1] < 100
    assert len(caplog.records) == 1


def test_the_history_is_bounded_and_newest_first(world: World) -> None:
    changes = [{"server": WS1, "to": n} for n in range(3 * KEPT)]
    for change in changes:
        world.book.record(*FARM, world.now, [change, {**change, "server": WS2}])
    found = world.book.history(*FARM, WS1)
    assert [one["to"] for one in found] == list(range(3 * KEPT - 1, 2 * KEPT - 1, -1))
    rows = world.book.connection.execute("SELECT count(*) FROM history").fetchone()[0]
    assert rows == 2 * KEPT


def test_a_decision_is_in_the_history_with_what_it_was_made_from(world: World) -> None:
    world.settle(40, **{WS1: SLOW})
    last = world.book.history(*FARM, WS1)[0]
    assert last["to"] == world.loop.vector.weights[WS1]
    assert last["to"] < last["from"]
    assert last["why"]
    assert last["from_what"]["capacity"] < 100
    (tag, data) = [event for event in world.fired if "/decided/" in event[0]][-1]
    assert tag == "webfarm/rebalance/decided/site1/farm1"
    assert data["changes"][0]["server"] == WS1


def test_a_book_of_another_format_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    import sqlite3

    from webfarm.errors import WebfarmError

    path = tmp_path / "rebalance.sqlite"
    Book(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(WebfarmError, match="format 9"):
        Book(path)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no database" * 1000)
    with pytest.raises(WebfarmError, match="cannot be used"):
        Book(damaged)

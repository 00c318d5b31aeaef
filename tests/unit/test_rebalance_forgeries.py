"""W2, own voice: a forged, stale or malformed event changes nothing, and is counted and logged.

One test for each kind. The attacker is root on a web server: it has that server's key, may fire any
tag with any data, and sees what all minions are told.
"""

import logging
from typing import Any

import pytest
from rebalance_world import FARM, LB1, LB2, START, WS1, WS2, Keys, World
from webfarm import signed
from webfarm.signed import REPORT

HUGE = 1_048_576


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def world(keys: Keys) -> World:
    """A farm in service whose servers have spoken and whose balancers have answered."""
    world = World(keys)
    world.settle(8)
    world.answer(LB1)
    world.answer(LB2)
    return world


def refused(world: World, kind: str, forge: Any) -> None:
    """``forge`` changes nothing but the counter of ``kind``."""
    before, fired = world.seen(), len(world.fired)
    counted = world.controller.intake.refused[kind]
    forge()
    assert world.seen() == before
    assert world.fired[fired:] == []
    assert world.controller.intake.refused[kind] == counted + 1


def test_a_genuine_report_counts(world: World) -> None:
    before = world.controller.intake.accepted
    world.report(WS1)
    assert world.controller.intake.accepted == before + 1
    assert not world.controller.intake.refused


def test_another_servers_id_in_the_data_is_refused(world: World) -> None:
    """Signed with the attacker's own key, in its own tag, speaking of its neighbour."""
    refused(world, "identity", lambda: world.beacon(WS1, world.data(WS2, signer=WS1)))


def test_another_servers_tag_is_refused(world: World) -> None:
    """Signed with the attacker's own key, in its neighbour's tag."""
    refused(world, "signature", lambda: world.beacon(WS2, world.data(WS1)))
    refused(world, "signature", lambda: world.beacon(WS2, world.data(WS2, signer=WS1)))


def test_the_plain_id_of_an_event_counts_for_nothing(world: World) -> None:
    before = world.controller.intake.accepted
    world.beacon(WS1, {**world.data(WS1), "id": WS2})
    assert world.controller.intake.accepted == before + 1
    assert set(world.controller.intake.order()) == {WS1, WS2}
    refused(world, "signature", lambda: world.beacon(WS2, {**world.data(WS1), "id": WS2}))


def test_a_server_that_the_pillar_does_not_name_is_refused(world: World) -> None:
    world.keys.private("stranger")
    refused(world, "stranger", lambda: world.beacon("stranger", world.data("stranger")))
    # a balancer's and the database's keys are accepted too, and they are no servers
    refused(world, "stranger", lambda: world.beacon(LB1, world.data(LB1)))


@pytest.mark.parametrize("name", ["..", "../master", "a b", "x" * 150, "é", ".hidden"])
def test_no_name_from_a_tag_becomes_a_path(world: World, name: str) -> None:
    before = world.seen()
    world.beacon(name, world.data(WS1))
    assert world.seen() == before


NUMBERS = [
    *("at", "up", "seconds", "requests", "errors", "busy", "active", "children", "queue"),
    *("full", "disk"),
]


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_out_of_range_or_of_another_type_is_refused(world: World, field: str) -> None:
    kinds = ("fields", "clock")
    refused_of = world.controller.intake.refused
    for value in (-1, -0.5, 1e12, 10**30, "100", "NaN", True, [], {}, [1], {"n": 1}):
        before, count = world.seen(), sum(refused_of[kind] for kind in kinds)
        world.report(WS1, **{field: value})
        assert world.seen() == before, value
        assert sum(refused_of[kind] for kind in kinds) == count + 1, value


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 0},
        {"children": 0},
        {"children": 1e9},
        {"disk": 257},
        {"errors": 2, "requests": 1},
        {"psi": None},
        {"psi": {}},
        {"psi": {"cpu": 101.0, "memory": 0.0, "io": 0.0}},
        {"psi": {"cpu": "0", "memory": 0.0, "io": 0.0}},
        {"psi": {"cpu": 0.0, "memory": 0.0, "io": 0.0, "more": 1}},
        {"memcached": 1},
        {"memcached": "yes"},
        {"release": "a b"},
        {"release": "x" * 100},
        {"release": 7},
        {"critical": "php-fpm"},
        {"critical": ["php-fpm; drain all"]},
        {"critical": ["nginx"] * 5},
        {"critical": None},
        {"boot": ""},
        {"boot": "../.."},
        {"boot": None},
        {"v": 2},
        {"v": "1"},
        {"v": True},
        {"weight": 257},
        {"weights": {WS2: 0}},
    ],
    ids=repr,
)
def test_a_field_that_is_odd_or_unknown_is_refused(world: World, changes: dict[str, Any]) -> None:
    refused(world, "fields", lambda: world.report(WS1, **changes))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(world: World, text: str) -> None:
    """JSON as others write it, signed with the right key."""
    from test_signed import envelope_of

    sealed = signed.seal(world.body(WS1, busy=12345.5), world.keys.private(WS1), REPORT)
    forged = envelope_of(sealed["body"].replace("12345.5", text), world.keys.private(WS1))
    data = {"report": forged["body"], "signature": forged["signature"]}
    refused(world, "json", lambda: world.beacon(WS1, data))


@pytest.mark.parametrize("field", ["id", "requests", "critical", "psi", "boot", "release"])
def test_a_report_without_a_field_is_refused(world: World, field: str) -> None:
    body = world.body(WS1)
    del body[field]
    sealed = signed.seal(body, world.keys.private(WS1), REPORT)
    data = {"report": sealed["body"], "signature": sealed["signature"]}
    refused(world, "fields", lambda: world.beacon(WS1, data))


def test_a_payload_of_a_megabyte_is_refused_and_not_kept(world: World) -> None:
    refused(world, "size", lambda: world.report(WS1, release="x" * HUGE))
    refused(world, "size", lambda: world.beacon(WS1, {**world.data(WS1), "more": "x" * HUGE}))
    refused(world, "size", lambda: world.beacon(WS1, {"report": "{}", "signature": "A" * 7_000}))
    assert world.mailbox.bytes == 0


@pytest.mark.parametrize(
    "data",
    [None, 7, "text", [], ["report"], {}, {"report": {}}, {"report": "{}"}, {"signature": "AAAA"}],
    ids=repr,
)
def test_what_is_no_report_is_refused(world: World, data: Any) -> None:
    refused(world, "shape", lambda: world.beacon(WS1, data))


def test_bytes_that_are_no_event_are_refused(world: World) -> None:
    tag = f"salt/beacon/{WS1}/webfarm_health/".encode()
    for payload in (b"", b"\xc1", b"\x91" * 5000, b"\xff" * 100):
        letter = world.controller.post.letter(tag + b"\n\n" + payload, world.now)
        assert letter is not None
        before = world.seen()
        world.controller.hear(letter)
        assert world.seen() == before


def test_a_replay_is_refused(world: World) -> None:
    data = world.data(WS1)
    world.beacon(WS1, data)
    refused(world, "replay", lambda: world.beacon(WS1, data))


def test_an_older_report_after_a_newer_one_is_refused(world: World) -> None:
    older, newer = world.data(WS1), world.data(WS1)
    world.beacon(WS1, newer)
    refused(world, "replay", lambda: world.beacon(WS1, older))


def test_a_report_of_before_the_last_boot_is_refused(world: World) -> None:
    before_boot = world.data(WS1)
    world.turn(2)
    world.report(WS1, boot="second", up=3.0)
    refused(world, "replay", lambda: world.beacon(WS1, before_boot))
    # while the new boot goes on, from its small `up`
    accepted = world.controller.intake.accepted
    world.report(WS1, boot="second", up=4.0)
    assert world.controller.intake.accepted == accepted + 1


@pytest.mark.parametrize("seconds", [-31, -3600, 31, 3600])
def test_a_report_of_another_time_is_refused(world: World, seconds: float) -> None:
    refused(world, "clock", lambda: world.report(WS1, at=world.now + seconds))


def test_a_replay_over_a_restart_of_the_engine_is_refused(world: World) -> None:
    data = world.data(WS1)
    world.beacon(WS1, data)
    world.turn(4)
    world.begin()
    refused(world, "replay", lambda: world.beacon(WS1, data))


def test_a_report_is_no_vector_and_a_vector_no_report(world: World) -> None:
    _, data = next(e for e in world.fired if e[0] == "webfarm/weights/site1/farm1")
    (envelope,) = data["vectors"]
    data = {"report": envelope["body"], "signature": envelope["signature"]}
    refused(world, "signature", lambda: world.beacon(WS1, data))


def test_a_server_whose_key_was_taken_back_is_refused(tmp_path: Any) -> None:
    world = World(Keys(tmp_path))
    world.report(WS1)
    (world.keys.accepted / WS1).unlink()
    refused(world, "key", lambda: world.report(WS1))


def test_a_flood_of_one_displaces_nobody_elses_report(world: World) -> None:
    before = world.controller.intake.accepted
    for server in (*[WS1] * 5000, WS2):
        raw = world_raw(world, server)
        letter = world.controller.post.letter(raw, world.now)
        assert letter is not None
        world.mailbox.put(letter)
    assert world.mailbox.coalesced == 5000 - world.mailbox.per_sender
    world.open()
    # the newest of each are heard, and all that did not count are accounted for
    assert world.controller.intake.accepted == before + 2
    assert world.controller.intake.refused["replay"] == world.mailbox.per_sender - 1
    assert WS2 in world.controller.intake.order()


RAW: dict[tuple[int, str], bytes] = {}


def world_raw(world: World, server: str) -> bytes:
    import msgpack

    key = (id(world), server)
    if key not in RAW:
        data = msgpack.packb(world.data(server), use_bin_type=True)
        RAW[key] = f"salt/beacon/{server}/webfarm_health/".encode() + b"\n\n" + data
    return RAW[key]


def test_each_kind_is_logged_once_an_hour(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            world.report(WS1, requests=-1)
            world.beacon(WS2, world.data(WS1))
        assert len(caplog.records) == 2
        assert world.controller.intake.refused == {"fields": 50, "signature": 50}
        world.now += 3601
        world.report(WS1, requests=-1)
    assert len(caplog.records) == 3
    assert "50 of this kind before" in caplog.records[-1].getMessage()
    assert all(len(record.getMessage()) < 700 for record in caplog.records)


def test_what_is_refused_is_said_on_the_bus_at_most_every_ten_seconds(world: World) -> None:
    world.turn(12)
    begin = len(world.fired)
    for _ in range(20):
        world.report(WS1, requests=-1)
        world.turn(1)
    said = [
        data["kinds"] for tag, data in world.fired[begin:] if tag == "webfarm/rebalance/refused"
    ]
    assert 2 <= len(said) <= 3
    world.turn(12)
    total = [d["kinds"]["fields"] for t, d in world.fired if t == "webfarm/rebalance/refused"]
    assert sum(total) == 20


# -- what balancers say ----------------------------------------------------------------------------


def test_a_forged_confirmation_changes_nothing(world: World) -> None:
    world.settle(30, **{WS1: {"busy": 60.0}})
    assert world.loop.owing
    honest = {"site": "site1", "farm": "farm1", "epoch": world.loop.vector.epoch, "applied": {}}
    for one in (honest, {**honest, "proof": None}, {**honest, "proof": honest}, None, "text"):
        for returned in (one, [one], [{"error": "x"}, one]):
            refused(world, "shape", lambda returned=returned: world.job(LB1, returned))
    # a web server's key, the other balancer's key, another balancer's proof
    refused(world, "signature", lambda: world.answer(LB1, signer=WS1))
    refused(world, "signature", lambda: world.answer(LB1, signer=LB2))
    world.answer(LB1)
    assert set(world.loop.owing) == {LB2}


def test_a_forged_word_that_the_farm_is_upgraded_freezes_nothing(world: World) -> None:
    refused(world, "signature", lambda: world.answer(LB1, signer=WS1, left="left alone: drain"))
    assert not world.loop.held(world.now)


def test_a_balancers_old_answer_changes_nothing(world: World) -> None:
    from webfarm.rebalance import confirm

    result = {"site": "site1", "farm": "farm1", "epoch": 1, "left": "left alone: drain"}
    old = confirm.proven(result, LB1, world.keys.private(LB1), world.now)
    world.turn(1)
    world.answer(LB1)
    before = world.seen()
    world.job(LB1, [old])
    assert world.seen() == before
    world.turn(70)
    refused(world, "clock", lambda: world.job(LB1, [old]))


def test_a_balancer_speaks_for_its_own_site_only(world: World) -> None:
    before = world.seen()
    world.answer("site2-lb1", left="left alone: drain")
    assert world.seen() == before


@pytest.mark.parametrize(
    "changes",
    [{"epoch": "1"}, {"epoch": True}, {"epoch": -1}, {"site": None}, {"applied": [1]},
     {"applied": {WS1: "ready"}}, {"left_alone": {WS1: 7}}],
    ids=repr,
)  # fmt: skip
def test_a_balancers_odd_answer_changes_nothing(world: World, changes: dict[str, Any]) -> None:
    refused(world, "fields", lambda: world.answer(LB1, **changes))


def test_other_jobs_and_other_minions_returns_are_not_opened(world: World) -> None:
    put = world.mailbox.put_count
    world.job(LB1, {"x": 1}, fun="test.ping")
    world.job(WS1, {"x": 1})
    assert world.mailbox.put_count == put


# -- other events ----------------------------------------------------------------------------------


def test_a_vector_that_a_minion_fires_is_nothing_to_the_loop(world: World) -> None:
    put, before = world.mailbox.put_count, world.seen()
    for weight in (0, -1, 257, 1e9, float("nan"), "100"):
        body = {**world.loop.vector.body(world.now), "weights": {WS1: weight}}
        envelope = {"body": repr(body), "signature": "AAAA"}
        world.event("webfarm/weights/site1/farm1", {"vectors": [envelope]})
    assert world.mailbox.put_count == put
    assert world.seen() == before


def test_a_forged_start_of_a_balancer_only_says_again_what_holds(world: World) -> None:
    vector = world.loop.vector
    begin = len(world.vectors())
    for _ in range(100):
        world.event(f"salt/minion/{LB1}/start", {"id": LB1})
    assert [v["epoch"] for v in world.vectors()[begin:]] == [vector.epoch]
    assert world.loop.vector == vector


def test_the_world_of_these_tests_is_in_service(world: World) -> None:
    """Else "changes nothing" would be said of nothing."""
    assert world.now > START
    assert world.controller.farms[FARM].vector is not None
    assert set(world.controller.intake.order()) == {WS1, WS2}

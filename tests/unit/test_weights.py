"""The weights' law in single situations: what it does, and what it says."""

import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from webfarm import topology
from webfarm.errors import BadTopology, WebfarmError
from webfarm.weights import Decision, Farm, Law, Load, absorb, decide, pack, sudden, unpack, urgent

from tests.unit.weights_farm import Loop, farm, load

LAW = Law()


def loop(count: int = 4, **keys: object) -> Loop:
    return Loop(LAW, farm(count), rate=100.0 * count, **keys)  # type: ignore[arg-type]


def hear(state: Farm, now: float, **loads: Load) -> Farm:
    for name, said in loads.items():
        state = absorb(LAW, state, name, said, now)
    return state


def test_a_slow_server_gets_less_within_one_tick_and_its_base_back_when_it_is_well() -> None:
    it = loop()
    it.ticks(5)
    it.slow["ws2"] = 3.0
    assert it.tick().weights["ws2"] < 100
    decision = it.ticks(15)
    assert 50 <= decision.weights["ws2"] <= 65
    assert {decision.weights[name] for name in ("ws1", "ws3", "ws4")} == {100}
    del it.slow["ws2"]
    assert it.ticks(30).weights == it.base


def test_a_decision_says_what_it_was_made_from() -> None:
    it = loop()
    it.slow["ws2"], it.pressed["ws2"] = 4.0, 50.0
    decision = it.ticks(20)
    assert decision.why["ws2"] == "0.19 times the median (93.8 requests/s), stalled 50%"
    seen = decision.estimates["ws2"]
    assert (seen.age, round(seen.ratio, 2), seen.errors) == (0.0, 0.19, 0.0)
    assert seen.target == decision.weights["ws2"] == 43
    assert decision.estimates["ws1"].capacity == pytest.approx(500)


def test_weights_move_by_steps_and_stay_within_floor_and_ceiling() -> None:
    it = loop()
    it.slow = {"ws1": 100.0, "ws2": 0.05}
    first = it.tick()
    assert (first.weights["ws1"], first.weights["ws2"]) == (62, 125)
    last = it.ticks(30)
    assert last.weights["ws1"] == 10
    assert 188 <= last.weights["ws2"] <= 200  # to within the deadband


def test_what_equal_servers_differ_by_on_a_busy_machine_moves_no_weight() -> None:
    it = Loop(LAW, {"ws1": 100, "ws2": 100}, rate=400.0)
    for faster, slower in (("ws1", "ws2"), ("ws2", "ws1")):
        it.slow = {faster: 1.0, slower: 1.33}
        assert it.ticks(20).weights == {"ws1": 100, "ws2": 100}
    it.slow = {"ws1": 1.0, "ws2": 3.0}
    assert it.ticks(20).weights["ws2"] < 75
    it.slow = {"ws1": 1.0, "ws2": 1.33}
    assert it.ticks(40).weights == {"ws1": 100, "ws2": 100}


def test_a_target_that_wavers_about_the_edge_of_home_does_not_move_the_weight() -> None:
    it = Loop(LAW, {f"ws{n}": 100 for n in range(1, 6)}, rate=400.0)
    it.slow = {"ws1": 1.2}
    seen = set()
    for turn in range(60):
        it.slow["ws1"] = 1.2 + 0.12 * (turn // 3 % 2)  # targets of 91 and 87
        seen.add(it.tick().weights["ws1"])
    assert seen == {100}


def test_a_server_whose_work_waits_for_a_cpu_gets_less_though_its_pages_mostly_sleep() -> None:
    """In a farm of two, beside one that is busy too; and all of it again afterwards."""
    it = Loop(LAW, {"ws1": 100, "ws2": 100}, rate=400.0)
    it.pressed = {"ws1": 50.0, "ws2": 50.0}
    assert it.ticks(10).weights == {"ws1": 100, "ws2": 100}
    it.pressed["ws1"] = 95.0
    assert it.ticks(2).weights["ws1"] < 80
    it.pressed["ws1"] = 60.0
    assert it.ticks(30).weights == {"ws1": 100, "ws2": 100}
    it.pressed["ws1"] = 100.0
    assert it.ticks(10).weights["ws1"] < 60


@pytest.mark.parametrize("minutes", [1, 10, 120])
def test_a_hang_is_forgotten_as_soon_however_long_it_was(minutes: int) -> None:
    """php-fpm's children are all at work and nothing ends; its status page answers."""
    it = loop()
    it.ticks(5)
    state, now = it.state, it.now
    for tick in range(minutes * 15 + 45):
        now += LAW.tick
        for name, said in it.loads().items():
            if name == "ws1" and tick < minutes * 15:
                said = Load(seconds=LAW.tick, active=20.0, children=20)
            state = hear(state, now, **{name: said})
        decision, state = decide(LAW, it.base, state, now)
        if tick == minutes * 15 - 1:
            assert decision.weights["ws1"] == 10
    assert decision.weights == it.base


def test_a_frozen_weight_near_the_base_does_not_go_there() -> None:
    it = loop(2)
    it.ticks(5)
    servers = {name: replace(server, factor=1.05) for name, server in it.state.servers.items()}
    state = replace(it.state, servers=servers)
    decision, _ = decide(LAW, it.base, state, it.now + LAW.tick, frozen=("ws1",))
    assert decision.weights == {"ws1": 105, "ws2": 100}


def test_times_that_differ_much_move_a_weight_less() -> None:
    """One page in twenty takes two seconds: whether a server had one or three of them is chance."""
    chance = random.Random(1)
    seen: dict[bool, list[int]] = {True: [], False: []}
    for told, weights in seen.items():
        state = Farm()
        for tick in range(400):
            for server in ("ws1", "ws2"):
                times = [2.0 if chance.random() < 0.05 else 0.01 for _ in range(60)]
                said = Load(
                    seconds=4.0,
                    requests=60,
                    busy=sum(times),
                    squares=sum(t * t for t in times) if told else 0.0,
                    children=20,
                )
                state = absorb(LAW, state, server, said, 4.0 * tick)
            decision, state = decide(LAW, {"ws1": 100, "ws2": 100}, state, 4.0 * tick)
            weights.append(decision.weights["ws1"])
    away = {told: sum(weight != 100 for weight in weights) for told, weights in seen.items()}
    assert away[True] == 0 < away[False]


def test_weights_stay_in_the_range_of_haproxy() -> None:
    it = Loop(LAW, {"ws1": 1, "ws2": 256, "ws3": 100, "ws4": 100}, rate=400.0)
    it.slow = {"ws1": 50.0, "ws2": 0.01}
    weights = it.ticks(30).weights
    assert (weights["ws1"], weights["ws2"]) == (1, 256)


def test_a_hung_server_that_finishes_nothing_goes_to_the_floor() -> None:
    it = loop()
    it.ticks(3)
    for _ in range(12):
        it.now += LAW.tick
        loads = it.loads()
        loads["ws3"] = load(0.0, active=20.0)
        it.state = hear(it.state, it.now, **loads)
        decision, it.state = decide(LAW, it.base, it.state, it.now)
    assert decision.weights["ws3"] == 10


def test_with_little_load_the_mean_time_of_ten_requests_tells_the_speed() -> None:
    it = Loop(LAW, farm(4), rate=4.0)
    it.slow["ws1"] = 4.0
    assert it.ticks(2).weights["ws1"] == 100  # eight requests so far
    assert it.ticks(40).weights["ws1"] < 70


def test_without_requests_a_stall_alone_lowers_the_weight() -> None:
    it = Loop(LAW, farm(4), rate=0.0)
    it.pressed["ws1"] = 90.0
    assert it.ticks(6).weights == {"ws1": 50, "ws2": 100, "ws3": 100, "ws4": 100}
    it.pressed.clear()
    assert it.ticks(20).weights == it.base


def test_the_calm_before_a_stall_does_not_hide_it_within_a_tick() -> None:
    """Work that waits takes p / (1 - p) times longer: that is averaged, not p."""
    calm, stalled = (Load(seconds, 20, psi_cpu=cpu) for seconds, cpu in ((3.0, 60.0), (1.0, 95.0)))
    both = absorb(LAW, absorb(LAW, Farm(), "ws1", calm, 3.0), "ws1", stalled, 4.0)
    _, state = decide(LAW, farm(2), both, 4.0)
    assert state.servers["ws1"].stall == pytest.approx(5.875 / 6.875)  # (3 x 1.5 + 19) / 4


def test_only_a_stall_that_is_much_worse_than_known_is_sudden() -> None:
    _, state = decide(LAW, farm(2), hear(Farm(), 0.0, ws1=Load(2.0, psi_io=50.0)), 0.0)
    for stalled, expected in ((50.0, False), (70.0, False), (76.0, True), (100.0, True)):
        load = Load(2.0, psi_cpu=stalled)
        assert sudden(LAW, state, "ws1", load) is expected
        assert sudden(Law(on=False), state, "ws1", load) is False
    assert not sudden(LAW, Farm(), "ws1", Load(2.0, 9, errors=9, busy=99.0, active=1.0, queue=9))


def test_few_processes_at_work_by_chance_are_no_sign_of_a_slow_server() -> None:
    state = hear(Farm(), 0.0, ws1=load(20.0, active=2.0), ws2=load(20.0), ws3=load(20.0))
    assert decide(LAW, farm(3), state, 0.0)[0].weights == farm(3)


def test_all_slow_at_once_moves_nothing() -> None:
    it = loop()
    it.ticks(3)
    it.slow = dict.fromkeys(it.base, 30.0)
    it.pressed = dict.fromkeys(it.base, 99.0)
    decision = it.ticks(10)
    assert decision.weights == it.base
    assert (decision.drained, decision.share) == ({}, 1.0)


def test_all_hung_at_once_moves_nothing() -> None:
    state, now = Farm(), 0.0
    for _ in range(10):
        now += LAW.tick
        state = hear(state, now, **dict.fromkeys(farm(3), load(0.0, active=20.0)))
        decision, state = decide(LAW, farm(3), state, now)
    assert decision.weights == farm(3)


def test_a_critical_report_drains_at_once_and_the_server_comes_back_slowly() -> None:
    it = loop()
    it.ticks(3)
    broken = load(critical=frozenset({"disk-full", "php-fpm"}))
    state = absorb(LAW, it.state, "ws1", broken, it.now + 1)
    answer = urgent(LAW, it.base, state, "ws1", it.now + 1)
    assert answer
    decision, it.state = answer
    assert decision.drained == {"ws1": "critical: disk-full, php-fpm"}
    assert decision.weights == {"ws1": 10, "ws2": 100, "ws3": 100, "ws4": 100}
    assert urgent(LAW, it.base, it.state, "ws1", it.now + 1) is None  # once is enough
    it.decisions.append(decision)
    back = it.tick()
    assert back.drained == {"ws1": "critical: disk-full, php-fpm"}, "until a tick without it"
    weights = [it.tick().weights["ws1"] for _ in range(12)]
    assert not it.decisions[-1].drained
    assert weights[0] < 40 and weights[-1] == 100
    assert all(1 <= b - a <= 13 or a == b == 100 for a, b in pairwise(weights))


def test_a_critical_server_that_falls_silent_stays_out() -> None:
    it = loop()
    it.state = absorb(LAW, it.state, "ws1", load(critical=frozenset({"read-only"})), it.now)
    decision = it.ticks(300, silent=["ws1"])
    assert decision.drained == {"ws1": "critical: read-only"}
    assert decision.why["ws1"] == "drained: critical: read-only; silent for 1200 s"


@pytest.mark.parametrize(("count", "stay"), [(1, 1), (2, 1), (3, 2), (4, 2), (16, 8)])
def test_half_of_the_farm_stays_however_many_are_critical(count: int, stay: int) -> None:
    state, base = Farm(), farm(count)
    for name in base:
        state = absorb(LAW, state, name, load(critical=frozenset({"nginx"})), 0.0)
        if answer := urgent(LAW, base, state, name, 0.0):
            state = answer[1]
    decision, _ = decide(LAW, base, state, 0.0)
    assert count - len(decision.drained) == stay


def test_servers_that_a_hand_took_out_are_not_counted_upon() -> None:
    state, absent = Farm(), ["ws1", "ws2", "ws3"]
    state = absorb(LAW, state, "ws4", load(critical=frozenset({"nginx"})), 0.0)
    assert urgent(LAW, farm(4), state, "ws4", 0.0, absent=absent) is None
    assert decide(LAW, farm(4), state, 0.0, absent=absent)[0].drained == {}
    assert decide(LAW, farm(4), state, 0.0)[0].drained == {"ws4": "critical: nginx"}


def test_a_fast_failing_server_is_out_with_its_first_report() -> None:
    it = loop()
    it.ticks(10)
    state = absorb(LAW, it.state, "ws2", load(300.0, 1.0, 0.02, errors=1.0), it.now + 1)
    answer = urgent(LAW, it.base, state, "ws2", it.now + 1)
    assert answer and answer[0].drained == {"ws2": "errors"}
    assert answer[0].why["ws2"] == (
        "drained for the 1. time: 99% errors or more, the median has 0%; 30 s more"
    )


def test_a_few_errors_or_errors_that_all_have_drain_nobody() -> None:
    it = loop()
    it.failing = {"ws1": 0.15}
    assert it.ticks(20).drained == {}
    it.failing = dict.fromkeys(it.base, 0.4)
    assert it.ticks(30).drained == {}


def test_who_was_drained_for_an_error_that_all_have_comes_back_at_once() -> None:
    it = loop(5)
    it.ticks(3)
    it.failing = {"ws1": 0.5}
    assert it.tick().drained == {"ws1": "errors"}
    it.failing = dict.fromkeys(it.base, 0.5)
    assert it.ticks(2).drained == {}


def test_who_fails_again_stays_out_longer_each_time_up_to_the_longest() -> None:
    it = loop()
    it.failing = {"ws1": 1.0}
    outs: list[float] = []
    was = False
    for _ in range(800):
        out = "ws1" in it.tick().drained
        if out and not was:
            outs.append(0.0)
        if out:
            outs[-1] += LAW.tick
        was = out
    assert outs[:4] == [32.0, 60.0, 92.0, 120.0]  # in whole ticks
    assert outs[-2] == 300.0
    it.failing.clear()
    it.ticks(200)
    assert it.state.servers["ws1"].ejections == 0


def test_an_ejection_does_not_end_while_the_server_is_silent() -> None:
    it = loop()
    it.failing = {"ws1": 1.0}
    it.tick()
    assert it.ticks(40, silent=["ws1"]).drained == {"ws1": "errors"}
    assert "until it speaks, silent for 160 s" in it.decisions[-1].why["ws1"]
    it.failing.clear()
    assert it.tick().drained == {}


def test_a_silent_server_is_held_and_much_later_goes_back_to_its_base() -> None:
    it = loop()
    it.slow["ws1"] = 9.0
    held = it.ticks(20).weights["ws1"]
    assert it.ticks(40, silent=["ws1"]).weights["ws1"] == held < 50
    assert it.decisions[-1].why["ws1"] == "held: silent for 160 s"
    assert it.ticks(60, silent=["ws1"]).weights["ws1"] == 100


def test_a_blind_farm_is_held_and_then_goes_back_to_its_base() -> None:
    it = loop()
    it.slow = {"ws1": 9.0}
    held = it.ticks(20)
    everybody = list(it.base)
    for _ in range(9):  # 10 s until they count as silent, 30 s blind
        assert it.tick(silent=everybody).weights == held.weights
    assert it.decisions[-1].blind
    weights = [it.tick(silent=everybody).weights["ws1"] for _ in range(40)]
    assert weights == sorted(weights) and weights[-1] == 100
    assert weights[3] < 70, "gently"


def test_a_loop_that_has_just_begun_holds_the_bases() -> None:
    decision, _ = decide(LAW, farm(3), Farm(), 5.0)
    assert decision.blind and decision.weights == farm(3)
    assert decision.why["ws1"] == "held: most of the farm is silent; has not reported yet"


def test_frozen_weights_and_drains_stay() -> None:
    it = loop()
    it.slow["ws1"] = 9.0
    held = it.ticks(20).weights["ws1"]
    it.slow = {"ws2": 9.0}
    frozen = ["ws1", "ws2"]
    for _ in range(20):
        it.now += LAW.tick
        it.state = hear(it.state, it.now, **it.loads())
        decision, it.state = decide(LAW, it.base, it.state, it.now, frozen=frozen)
    assert (decision.weights["ws1"], decision.weights["ws2"]) == (held, 100)
    it.state = absorb(LAW, it.state, "ws2", load(critical=frozenset({"nginx"})), it.now)
    assert urgent(LAW, it.base, it.state, "ws2", it.now, frozen=frozen) is None


def test_nobody_is_compared_with_servers_that_are_out_of_service() -> None:
    it = loop(5)
    it.slow = dict.fromkeys(["ws1", "ws2", "ws3"], 9.0)
    decision = it.ticks(20, absent=["ws1", "ws2", "ws3"])
    assert decision.weights == it.base
    assert decision.why["ws1"] == "left alone: a hand or a rollout has it out of service"


def test_the_share_follows_what_the_servers_can_do_together() -> None:
    it = loop(5)
    assert it.ticks(3).share == 1.0
    it.slow = {"ws1": 2.0}
    assert it.ticks(20).share == pytest.approx(0.9, abs=0.02)
    it.slow = {"ws1": 2.0, "ws2": 0.3}
    assert it.ticks(20).share <= 0.92, "a fast server does not make up for a slow one"
    it.slow = {}
    assert it.ticks(40).share == 1.0
    assert it.ticks(20, absent=["ws1", "ws2"]).share == pytest.approx(0.6, rel=0.06)
    before = it.decisions[-1].share
    assert it.ticks(5, absent=list(it.base)).share == before, "a farm in a rollout is left alone"


def test_switched_off_the_weights_are_the_bases() -> None:
    it = loop()
    it.slow = {"ws1": 9.0}
    it.ticks(10)
    off = Law(on=False)
    decision, state = decide(off, it.base, it.state, it.now)
    assert (decision.weights, decision.drained, state) == (it.base, {}, Farm())
    assert urgent(off, it.base, it.state, "ws1", it.now) is None


def test_a_clock_that_goes_back_stops_nothing() -> None:
    it = loop()
    it.ticks(5)
    it.now -= 86_400
    it.slow = {"ws1": 9.0}
    assert it.ticks(5).weights["ws1"] < 60
    it.ticks(1, silent=["ws1"])
    assert it.ticks(5, silent=["ws1"]).why["ws1"].startswith("held: silent")


def test_deciding_twice_at_once_moves_nothing_twice() -> None:
    it = loop()
    it.slow = {"ws1": 50.0}
    first = it.tick()
    again, _ = decide(LAW, it.base, it.state, it.now)
    assert again.weights == first.weights


def test_servers_that_left_the_pillar_are_forgotten() -> None:
    it = loop()
    it.ticks(2)
    base = farm(3)
    decision, state = decide(LAW, base, it.state, it.now)
    assert set(decision.weights) == set(state.servers) == set(base)


def test_the_state_survives_json() -> None:
    it = loop(5)
    it.slow, it.failing = {"ws1": 3.0}, {"ws2": 1.0}
    it.ticks(7)
    it.state = absorb(LAW, it.state, "ws3", load(critical=frozenset({"nginx"})), it.now)
    assert unpack(json.loads(json.dumps(pack(it.state)))) == it.state


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"servers": {"ws1": {"factor": 0}}},
        {"servers": {"ws1": {"speed": float("nan")}}},
        {"servers": {"ws1": {"sped": float("inf")}}},
        {"servers": {"ws1": {"speed": -1}}},
        {"share": 2},
        {"version": 2},
    ],
)
def test_a_state_that_was_not_packed_is_refused(data: object) -> None:
    with pytest.raises(WebfarmError, match="begin with an empty state"):
        unpack(data)


def test_the_parameters_are_the_sites_and_mistakes_are_named(pillar: dict[str, dict]) -> None:  # type: ignore[type-arg]
    site = pillar["sites"]["site1"]
    site["weights"] = {"gamma": 1, "tick": 2.5, "on": False}
    law = topology.parse(pillar).sites["site1"].weights
    assert (law.gamma, law.tick, law.on, law.floor) == (1.0, 2.5, False, 0.1)
    site["weights"] = {"gamma": "1", "floor": 0, "eject_longest": 10, "gama": 1}
    with pytest.raises(BadTopology) as caught:
        topology.parse(pillar)
    assert [line.split(": ")[0] for line in caught.value.mistakes] == [
        "webfarm.sites.site1.weights.gamma",
        "webfarm.sites.site1.weights.floor",
        "webfarm.sites.site1.weights.gama",
    ]
    site["weights"] = {"eject_longest": 10}
    with pytest.raises(BadTopology, match="must not be less than `eject_seconds`"):
        topology.parse(pillar)


def test_a_decision_is_plain_data() -> None:
    decision = loop().tick()
    assert isinstance(decision, Decision)
    assert all(type(weight) is int for weight in decision.weights.values())

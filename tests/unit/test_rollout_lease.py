"""The lease: one hand per site (S5), also when a process is killed, suspended or forgotten."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webfarm.errors import WebfarmError
from webfarm.rollout import lease as lease_
from webfarm.rollout.journal import Journal, connect
from webfarm.rollout.lease import (
    Held,
    Hold,
    Lease,
    Process,
    alive,
    holders,
    is_dead,
    this_process,
    unlock,
)
from webfarm.rollout.model import Goal, Run


@dataclass
class Clock:
    """A machine's time: ``monotonic`` only goes on, the time of day may be set."""

    now: float = 1_763_870_400.0
    up: float = 5000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.up

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.up += seconds


@dataclass
class World:
    """A journal, its machine's clock, and which processes have ended."""

    clock: Clock = field(default_factory=Clock)
    ended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.connection = connect(":memory:")

    def lease(
        self, pid: int, site: str = "site1", host: str = "master", clock: Clock | None = None
    ) -> Lease:
        process = Process(host, pid, "5", f"boot of {host}")
        clock = clock or self.clock
        dead = lambda process: process.pid in self.ended  # noqa: E731
        return Lease(self.connection, site, f"user{pid}", clock, process, dead)


@pytest.fixture
def world() -> World:
    return World()


def test_s5_a_live_holder_is_named(world: World) -> None:
    world.lease(100).take("farm1 to 2026.11.2")
    world.clock.sleep(55)
    with pytest.raises(Held) as held:
        world.lease(200).take("farm2 to 2026.11.2")
    for part in (
        "site1 is held by user100 on master (pid 100) since 55 s: farm1 to 2026.11.2",
        "`salt-run upgrade.status`",
        "`salt-run upgrade.unlock site1 reason='…'`",
    ):
        assert part in str(held.value)


def test_s5_a_dead_holder_is_taken_over_at_once_and_does_nothing_more(world: World) -> None:
    first, second = world.lease(100), world.lease(200)
    first.take("farm1")
    first.confirm()
    world.ended.add(100)
    second.take("farm1")
    assert second.token == first.token + 1
    second.confirm()
    for refused in (first.confirm, first.renew):
        with pytest.raises(Held, match="no longer held by this rollout"):
            refused()
    first.release()  # must not take it from the second
    second.confirm()


def test_s5_an_expired_holder_stops_also_when_nobody_took_over(world: World) -> None:
    lease = world.lease(100)
    lease.take("farm1")
    world.clock.sleep(60)
    lease.confirm()
    world.clock.sleep(0.1)
    for refused in (lease.confirm, lease.renew, Hold([lease]).beat):
        with pytest.raises(Held, match=r"has expired.*60 s"):
            refused()


def test_s5_a_suspended_holder_is_taken_over_when_its_lease_has_expired(world: World) -> None:
    first, second = world.lease(100), world.lease(200)
    first.take("farm1")
    world.clock.sleep(60)
    with pytest.raises(Held):
        second.take("farm1")
    world.clock.sleep(0.1)
    second.take("farm1")
    with pytest.raises(Held, match="another took over"):
        first.confirm()


def test_a_holder_that_renews_keeps_the_site(world: World) -> None:
    first = world.lease(100)
    first.take("farm1")
    for _ in range(10):
        world.clock.sleep(59)
        first.renew()
        with pytest.raises(Held):
            world.lease(200).take("farm1")
    first.confirm()


@pytest.mark.parametrize("jump", [-86400.0, -61.0, 61.0, 86400.0])
def test_s5_setting_the_clock_gives_the_site_to_nobody(world: World, jump: float) -> None:
    first, second = world.lease(100), world.lease(200)
    first.take("farm1")
    world.clock.now += jump
    with pytest.raises(Held):
        second.take("farm1")
    first.renew()
    world.clock.sleep(60.1)
    second.take("farm1")
    assert second.token > first.token


def test_on_another_machine_the_time_of_day_counts(world: World) -> None:
    there = Clock(world.clock.now, up=7.0)
    first, second = world.lease(100), world.lease(200, host="standby", clock=there)
    first.take("farm1")
    there.sleep(60)
    with pytest.raises(Held):
        second.take("farm1")
    there.sleep(1)
    second.take("farm1")
    with pytest.raises(Held):
        first.confirm()


def test_a_lease_that_was_let_go_is_free_and_cannot_be_confirmed(world: World) -> None:
    first = world.lease(100)
    with pytest.raises(Held):
        first.confirm()  # was never taken
    first.take("farm1")
    first.release()
    assert holders(world.connection) == []
    with pytest.raises(Held):
        first.confirm()
    world.lease(200).take("farm2")


def test_tokens_grow_also_when_the_journal_was_lost(world: World) -> None:
    first = world.lease(100)
    first.take("farm1")
    assert first.token == int(world.clock.now)
    world.clock.sleep(2)
    lost = World(world.clock)
    second = lost.lease(200)
    second.take("farm1")
    assert second.token > first.token


def test_a_name_that_is_none_holds_nothing(world: World, hostile_name: str) -> None:
    with pytest.raises(WebfarmError):
        Lease(world.connection, hostile_name, "root", world.clock)
    with pytest.raises(WebfarmError):
        unlock(world.connection, hostile_name, "root", "test", world.clock)


# -- several sites -------------------------------------------------------------------------------


def test_s5_all_sites_are_held_or_none(world: World) -> None:
    world.lease(100, "site2").take("farm1")
    leases = [world.lease(200, site) for site in ("site3", "site1", "site2")]
    hold = Hold(leases)
    with pytest.raises(Held, match="site2"):
        hold.take("all to 2026.11.2")
    assert [row["site"] for row in holders(world.connection)] == ["site2"]
    other = world.lease(300)
    other.take("farm1")  # in the same second, so with the token that the first would have had
    for lease in leases:
        with pytest.raises(Held):
            lease.confirm()
    other.release()
    world.ended.add(100)
    hold.take("all to 2026.11.2")
    assert [row["pid"] for row in holders(world.connection)] == [200, 200, 200]
    hold.confirm()
    hold.release()
    assert holders(world.connection) == []


def test_every_message_bears_a_higher_proof(world: World) -> None:
    hold = Hold([world.lease(100, site) for site in ("site1", "site2")])
    hold.take("all")
    proofs = [hold.of("site1"), hold.of("site1"), hold.of("site2")]
    token = int(world.clock.now)
    assert proofs == [f"site1:{token}.1", f"site1:{token}.2", f"site2:{token}.1"]
    world.ended.add(100)
    later = Hold([world.lease(200, "site1")])
    later.take("farm1")
    assert later.of("site1") == f"site1:{token + 1}.1"


def test_a_beat_is_cheap_until_it_is_needed(world: World) -> None:
    hold = Hold([world.lease(100, site) for site in ("site1", "site2")])
    hold.take("all")
    statements: list[str] = []
    world.connection.set_trace_callback(statements.append)
    world.clock.sleep(9)
    hold.beat()
    assert statements == []
    world.clock.sleep(2)
    hold.beat()
    assert statements
    world.connection.set_trace_callback(None)
    world.clock.sleep(59)
    hold.confirm()
    assert {row["beat"] for row in holders(world.connection)} == {world.clock.up - 59}


def test_s5_who_has_lost_the_site_writes_nothing_more(world: World) -> None:
    goal = Goal("site1", "farm1", "2026.11.2", "8.2.36", "2")
    journal = Journal(world.connection)
    hold = Hold([world.lease(100)])
    hold.take("farm1")
    journal.guard = hold.confirm
    run, _ = journal.begin_run(Run("upgrade", (goal,)), "user100", 1.0)
    world.clock.sleep(61)  # it was suspended
    with pytest.raises(Held, match="expired"):
        journal.end_run(run, "paused", {}, 2.0)
    world.lease(200).take("farm1")
    with pytest.raises(Held, match="another took over"):
        journal.end_run(run, "paused", {}, 2.0)
    assert journal.run(run)["state"] == "running"
    assert not world.connection.in_transaction


# -- unlock --------------------------------------------------------------------------------------


def test_unlock_stops_the_holder_and_is_recorded(world: World) -> None:
    first = world.lease(100)
    first.take("farm1 to 2026.11.2")
    done = unlock(world.connection, "site1", "bob", "its terminal hangs", world.clock)
    assert (done["site"], done["was"]["holder"], done["was"]["pid"]) == ("site1", "user100", 100)
    for refused in (first.confirm, first.renew):
        with pytest.raises(Held, match="unlocked"):
            refused()
    (record,) = Journal(world.connection).records()
    assert (record["what"], record["who"], record["why"]) == (
        "unlock",
        "bob",
        "its terminal hangs",
    )
    assert record["data"]["was"]["holder"] == "user100"
    second = world.lease(200)
    second.take("farm1")
    assert second.token > done["token"] > first.token


def test_unlock_needs_a_holder_and_a_reason(world: World) -> None:
    with pytest.raises(WebfarmError, match="nobody holds site1"):
        unlock(world.connection, "site1", "bob", "why not", world.clock)
    first = world.lease(100)
    first.take("farm1")
    with pytest.raises(WebfarmError, match="reason"):
        unlock(world.connection, "site1", "bob", " \n", world.clock)
    first.confirm()
    assert Journal(world.connection).records() == []


def test_alive_tells_whom_a_wish_can_reach(world: World) -> None:
    lease = world.lease(100)
    lease.take("farm1")
    (row,) = holders(world.connection)
    asks = Process("master", 1, "1", "boot of master")
    assert alive(row, world.clock, asks, lambda _: False)
    assert not alive(row, world.clock, asks, lambda _: True)
    world.clock.sleep(61)
    assert not alive(row, world.clock, asks, lambda _: False)


# -- any order of events -------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.sampled_from(["take", "renew", "release", "kill"]), st.integers(0, 2)),
    st.tuples(st.just("sleep"), st.sampled_from([1, 10, 31, 60, 61, 200])),
    st.tuples(st.just("jump"), st.sampled_from([-100_000, -61, 61, 100_000])),
    st.tuples(st.just("unlock"), st.just(0)),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=40))
def test_s5_never_two_holders_and_tokens_only_grow(events: list[tuple[str, int]]) -> None:
    world = World()
    leases = [world.lease(pid) for pid in range(3)]
    highest = 0
    for what, n in events:
        if what == "sleep":
            world.clock.sleep(n)
        elif what == "jump":
            world.clock.now += n
        elif what == "unlock":
            try:
                highest = unlock(world.connection, "site1", "bob", "test", world.clock)["token"]
            except WebfarmError as nobody:
                assert "nobody" in str(nobody)
        elif what == "kill":  # and another process takes its place
            world.ended.add(leases[n].process.pid)
            leases[n] = world.lease(leases[n].process.pid + 3)
        else:
            before = leases[n].token
            try:
                getattr(leases[n], what)(*(["farm1"] if what == "take" else []))
            except Held:
                pass
            else:
                if what == "take":
                    assert leases[n].token > highest
                    highest = leases[n].token
                else:
                    assert leases[n].token == before
        assert sum(map(confirmed, leases)) <= 1


def confirmed(lease: Lease) -> bool:
    """The lease would let its holder act."""
    try:
        lease.confirm()
    except Held:
        return False
    return True


# -- processes -----------------------------------------------------------------------------------


def test_this_process_lives_and_an_ended_one_is_dead() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead(Process(me.host, me.pid, "1", me.boot))  # the pid is somebody else's now
    assert is_dead(Process(me.host, me.pid, me.started, "another boot"))
    assert not is_dead(Process("another host", 1, "1", "boot"))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = lease_._started(child.pid)
    assert started is not None
    process = Process(me.host, child.pid, started, me.boot)
    assert not is_dead(process)
    child.kill()
    child.wait()
    assert is_dead(process)

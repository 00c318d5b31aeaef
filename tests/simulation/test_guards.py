"""What must be refused, or waited for, before anything is changed."""

from typing import Any

import pytest
from webfarm.rollout import back, commands, control, servers

from tests.conftest import EXAMPLE

from .drive import SECOND, THIRD, Drive, Plan, pillar_of
from .sessions import Flaw
from .test_scenarios import fences, play, starts, states, until, upgrade
from .timeline import START


def untouched(world: Any) -> bool:
    """No balancer and no server was changed."""
    return not any("set_farms" in line or "switches" in line for line in world.trace)


def test_another_target_is_refused_while_a_run_is_unfinished() -> None:
    def work(drive: Drive) -> None:
        first = starts(drive)
        until(drive, lambda: "closed" in states(drive))
        first.interrupt = True
        drive.wait(first)
        assert first.result and first.result["state"] == "paused"
        second = upgrade(drive, "farm2", THIRD)
        assert "run 1 has not ended" in second["message"]
        assert "upgrade.resume 1" in second["message"]

    play(7, work)


def test_a_long_wait_keeps_the_lease() -> None:
    def work(drive: Drive) -> None:
        first = starts(drive)
        until(drive, lambda: states(drive) == {"open"} and fences(drive) == {SECOND})
        drive.world.sleep(100)
        assert not first.over
        assert "is held by op" in upgrade(drive, "farm1")["message"]
        drive.wait(first)
        assert first.result and first.result["state"] == "done", first.error

    play(8, work, soak_seconds=200)


def test_a_window_and_a_freeze_keep_farms_in_service_unless_overridden() -> None:
    freeze = {
        "from": "2026-01-01T00:00",
        "to": "2027-01-01T00:00",
        "timezone": "UTC",
        "reason": "the sale",
    }

    def work(drive: Drive) -> None:
        result = upgrade(drive)
        assert result["state"] == "refused" and "the sale" in result["message"]
        assert untouched(drive.world)
        overridden = drive.command(
            "upgrade",
            lambda c: commands.upgrade(c, "site1", "farm2", SECOND, override="a hole to close"),
        )
        assert overridden.result and overridden.result["state"] == "done"

    assert START < 1_798_000_000  # within the freeze
    play(9, work, freezes=[freeze])


@pytest.mark.parametrize("approve", ["canary", "farm"])
def test_it_waits_for_approval(approve: str) -> None:
    def work(drive: Drive) -> None:
        result = upgrade(drive, None)
        assert result["state"] == "paused" and "approval" in result["message"]
        assert fences(drive, "farm1") == {SECOND}
        assert fences(drive, "farm2") == {"2026.11.1"}
        resumed = drive.command("resume", control.resume).result
        assert resumed and resumed["state"] == ("paused" if approve == "farm" else "done")

    play(10, work, farms=3, approve=approve)


def test_a_run_ends_when_it_has_lost_more_servers_than_it_may() -> None:
    def work(drive: Drive) -> None:
        for name in ("site1-farm1-ws1", "site1-farm2-ws1"):
            drive.world.places["site1"].web[name].bad.add(SECOND)
        result = upgrade(drive, None)
        assert result["state"] == "failed" and "max_failed_run" in result["message"]
        assert fences(drive, "farm3") == {"2026.11.1"}

    play(11, work, farms=3, max_failed_run=1, min_capacity=0.3)


def test_a_farm_stays_when_the_others_could_not_carry_its_load() -> None:
    def work(drive: Drive) -> None:
        result = upgrade(drive)
        assert result["state"] == "refused" and "max_utilisation" in result["message"]
        assert untouched(drive.world)

    pillar = pillar_of(EXAMPLE, 2, gates={"max_utilisation": 0.01})
    Drive(Plan(12, pillar, ("site1",), frozenset())).run(work)


def test_a_pool_that_does_not_answer_keeps_its_farm_in_service() -> None:
    def work(drive: Drive) -> None:
        place = drive.world.places["site1"]
        cache_of = place.cache_of

        def unreachable(member: str) -> Any:
            web = cache_of(member)
            dead = type(web)(web.name, web.site, alive=False)
            return dead if web.name == "site1-farm2-ws1" else web

        place.cache_of = unreachable  # type: ignore[method-assign]
        result = upgrade(drive)
        assert result["state"] == "refused" and "memcached" in result["message"]
        assert untouched(drive.world)

    play(13, work)


def test_a_soak_that_was_cut_short_begins_again() -> None:
    """A broken release, and a conductor that is killed before it can tell."""

    def work(drive: Drive) -> None:
        drive.world.flaws[SECOND] = Flaw(errors=1.0)
        first = starts(drive, None)
        until(
            drive, lambda: states(drive, "farm1") == {"open"} and len(fences(drive, "farm1")) == 1
        )
        until(drive, lambda: fences(drive, "farm1") == {SECOND})
        until(drive, lambda: states(drive, "farm1") == {"open"})
        drive.world.sleep(4)
        drive.world.end(first.actor)
        drive.world.sleep(1)
        resumed = drive.command("resume", control.resume).result
        assert resumed and resumed["state"] == "failed", resumed
        assert fences(drive, "farm2") == {"2026.11.1"}

    play(14, work, gates={"min_requests": 30, "patience_seconds": 600, "latency_margin_ms": 9000})


def test_a_plan_that_the_world_has_left_behind_is_refused() -> None:
    def work(drive: Drive) -> None:
        planned = drive.command("plan", lambda c: commands.plan(c, "site1", "farm2", SECOND))
        assert planned.result
        number = planned.result["plan_id"]
        assert upgrade(drive, "farm1")["state"] == "done"
        asked = drive.command(
            "upgrade",
            lambda c: commands.upgrade(c, "site1", "farm2", SECOND, plan_id=number),
        )
        assert "plan" in asked.error, asked.result
        assert fences(drive) == {"2026.11.1"}

    play(15, work)


def test_s1_an_older_release_is_refused_while_sessions_may_have_seen_a_newer_one() -> None:
    def work(drive: Drive) -> None:
        assert upgrade(drive, None)["state"] == "done"
        drive.world.sleep(10)
        lines = len(drive.world.trace)
        result = upgrade(drive, "farm1", "2026.11.1")
        assert result["state"] == "refused" and "reset_sessions=True" in result["message"]
        assert not any("set_farms" in line for line in drive.world.trace[lines:])
        drive.world.sleep(30)

    play(16, work)


def test_going_back_needs_the_word_that_sessions_may_be_reset() -> None:
    def work(drive: Drive) -> None:
        assert upgrade(drive)["state"] == "done"
        asked = drive.command("rollback", lambda c: back.rollback(c, 1))
        assert "resets the sessions" in asked.error
        assert fences(drive) == {SECOND}

    play(17, work)


def test_a_release_that_was_marked_bad_is_refused() -> None:
    def work(drive: Drive) -> None:
        drive.command("bad", lambda c: control.bad(c, SECOND, "it fails"))
        assert "marked bad" in upgrade(drive)["message"]
        assert untouched(drive.world)
        drive.command("good", lambda c: control.good(c, SECOND, "it does not"))
        assert upgrade(drive)["state"] == "done"

    play(18, work)


def test_a_server_returns_to_its_farm_although_the_release_was_marked_bad() -> None:
    """Else the site would lack the capacity to leave that release."""

    def work(drive: Drive) -> None:
        web = drive.world.places["site1"].web["site1-farm2-ws2"]
        drive.world.kill(web)
        drive.world.sleep(5)
        assert upgrade(drive)["state"] == "done"
        drive.command("bad", lambda c: control.bad(c, SECOND, "it fails"))
        drive.world.revive(web)
        drive.world.sleep(5)
        returned = drive.command("rejoin", lambda c: servers.rejoin(c, web.name)).result
        assert returned and returned["state"] == "done", returned
        drive.world.sleep(3)
        assert all(balancer.up[web.name] for balancer in drive.world.balancers)

    play(19, work)

"""A release that is broken goes no further; one that was a mistake is taken back."""

import pytest
from webfarm.rollout import back

from .drive import SECOND, THIRD, Drive
from .sessions import Flaw
from .test_scenarios import fences, play, states, upgrade


@pytest.mark.parametrize("flaw", [Flaw(errors=1.0), Flaw(errors=0.4), Flaw(slow=8.0)], ids=str)
@pytest.mark.parametrize("on_failure", ["pause", "abort", "rollback"])
def test_a_broken_release_goes_no_further_than_the_first_farm(flaw: Flaw, on_failure: str) -> None:
    def work(drive: Drive) -> None:
        drive.world.flaws[SECOND] = flaw
        if on_failure == "rollback":
            drive.world.judge.resets_are_allowed()
        result = upgrade(drive, None)
        ended = {"pause": "paused", "abort": "failed", "rollback": "rolled_back"}[on_failure]
        assert result["state"] == ended, result["message"]
        assert fences(drive, "farm2") == fences(drive, "farm3") == {"2026.11.1"}
        first = "2026.11.1" if on_failure == "rollback" else SECOND
        assert fences(drive, "farm1") == {first}
        assert states(drive, "farm1") == {"open"}

    gates = {"min_requests": 30, "latency_margin_ms": 3000, "patience_seconds": 600}
    world = play(5, work, farms=3, on_failure=on_failure, gates=gates)
    assert world.excused == 0


def test_a_run_is_taken_back_in_reverse_when_its_sessions_may_be_reset() -> None:
    def work(drive: Drive) -> None:
        assert upgrade(drive, None)["state"] == "done"
        drive.world.sleep(10)
        asked = drive.command("rollback", lambda c: back.rollback(c, 1))
        assert "reset_sessions=True" in asked.error
        drive.world.judge.resets_are_allowed()
        undone = drive.command("rollback", lambda c: back.rollback(c, 1, reset_sessions=True))
        assert undone.result and undone.result["state"] in ("done", "rolled_back"), undone.result
        order = [outcome["farm"] for outcome in undone.result["outcomes"]]
        assert order == ["farm3", "farm2", "farm1"]
        assert all(web.release == "2026.11.1" for web in drive.world.web)
        drive.world.sleep(30)
        assert upgrade(drive, None, THIRD)["state"] == "done"
        drive.at_rest(THIRD)

    world = play(6, work, farms=3)
    assert world.excused == 0
    assert any(clients.resets for clients in world.clients.values())

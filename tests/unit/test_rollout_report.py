"""What is shown of a run: a line a step, a live table on a terminal, nothing when quiet."""

import io
from typing import Any

import pytest
from rich.console import Console
from webfarm.rollout.lines import PATIENCE, Lines
from webfarm.rollout.model import Goal, Run, Step
from webfarm.rollout.plan_table import show_plan
from webfarm.rollout.report import brief, run_line, watcher_for
from webfarm.rollout.run import describe
from webfarm.rollout.screen import Screen
from webfarm.rollout.watcher import Done, Outcome, RunOutcome, Watcher

GOALS = tuple(Goal("site1", f"farm{n}", "2026.11.2", "8.2.36", "2") for n in range(1, 9))
RUN = Run("upgrade", GOALS)
STEP = Step("close", ("lb1", "lb2"), "sessions go to farm1", 60.0)


END = RunOutcome("done", 7, "8 of 8 farms are done")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def outcome(goal: Goal, state: str = "done") -> Outcome:
    return Outcome(state, goal, f"{goal.farm} is in service", f"{goal.farm} is open", seconds=41.0)


def play(watcher: Watcher, farms: int = 2) -> None:
    """A run of ``farms`` farms of eight."""
    watcher.run_started(7, RUN, False)
    for goal in GOALS[:farms]:
        watcher.rollout_started(goal, 1, False)
        watcher.step_started(STEP, 0.5)
        watcher.step_waits(STEP, "lb2 does not answer", PATIENCE, 60.0)
        watcher.step_finished(STEP, Done("close", "done", 1.5, {}))
        watcher.rollout_finished(outcome(goal))


def test_a_line_a_step_with_what_it_waited_for_and_which_farm_of_how_many() -> None:
    out = io.StringIO()
    watcher = watcher_for(out, quiet=False)
    assert isinstance(watcher, Lines)
    play(watcher)
    watcher.run_finished(END)
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines[:6] == [
        f"run 7 starts: {describe(RUN)}",
        "site1 farm1 to 2026.11.2 starts (farm 1 of 8)",
        "close     … 10 s of 60 s: lb2 does not answer",
        "close     done      1.5 s  lb1, lb2: sessions go to farm1",
        "done: farm1 is in service",
        "farm1 is open",
    ]
    assert lines[6].endswith("(farm 2 of 8)")
    assert lines[-1] == "run 7 done: 8 of 8 farms are done"


def drawn(screen: Screen) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(screen)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_live_table_shows_the_farms_around_the_current_one_and_its_steps() -> None:
    screen = watcher_for(Terminal(), quiet=False)
    assert isinstance(screen, Screen)
    try:
        play(screen, 5)
        screen.rollout_started(GOALS[5], 6, False)
        screen.step_started(STEP, 0.5)
        screen.step_waits(STEP, "4 in flight", 3.0, 60.0)
        text = drawn(screen)
    finally:
        screen.close()
    assert f"run 7: {describe(RUN)}" in text
    assert "▸ 6/8 site1 farm6" in text
    assert "✓ 5/8 site1 farm5 41 s farm5 is in service" in text
    assert "1/8" not in text
    assert "close" in text and "4 in flight" in text and "50%" in text
    assert "salt-run upgrade.pause 7" in text


def test_the_live_table_ends_with_what_came_of_it() -> None:
    out = Terminal()
    screen = Screen(out)
    play(screen, 1)
    failed = outcome(GOALS[1], "failed")
    screen.rollout_finished(failed)
    screen.run_finished(RunOutcome("failed", 7, "farm2 failed", outcomes=(failed,)))
    text = drawn(screen)
    assert "✗ 2/8" in text
    assert "farm2 failed" in text and "farm2 is open" in text
    assert "Ctrl-C" not in text
    assert not screen.live.is_started


class Gone(Terminal):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("make", [Lines, Screen])
def test_a_terminal_that_is_gone_stops_nothing(make: Any) -> None:
    watcher = make(Gone())
    play(watcher)
    watcher.run_finished(END)
    watcher.close()


def test_the_live_table_says_where_the_run_waits_next() -> None:
    screen = Screen(Terminal())
    screen.expects({0: "by carol", 4: "by dave"})
    try:
        play(screen, 2)
        screen.step_started(STEP, 0.5)
        text = drawn(screen)
    finally:
        screen.close()
    assert "after site1 farm5 it waits for an approval by dave" in text


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    play(watcher_for(io.StringIO(), quiet=True))
    assert capsys.readouterr() == ("", "")


FARM: dict[str, Any] = {
    "site": "site1",
    "farm": "farm2",
    "release": "2026.11.2",
    "now": "farm2 is open [1]",
    "steps": [
        {"step": "1 close", "targets": "lb1", "why": "x", "at_most": "60 s", "capacity": "50 %"}
    ],
    "end": "in service on 2026.11.2",
    "approval": "by anybody",
    "left_out": {"ws1": "does not answer"},
}
PLAN: dict[str, Any] = {
    "result": True,
    "changes": "nothing: this is a plan",
    "plan_id": "pabc",
    "policy": {
        "site1": {
            "in_force": {"soak_seconds": 60, "approve": "canary", "gates": {"min_requests": 50}},
            "overridden": {"soak_seconds": 10},
            "closed": "until 22:00",
        }
    },
    "farms": [FARM],
}


def test_a_plan_as_tables_and_the_rest_in_brief() -> None:
    out = io.StringIO()
    show_plan(PLAN, out)
    text = out.getvalue()
    assert "soak_seconds 60 (pillar: 10), approve canary" in text
    assert "gates: min_requests 50" in text
    assert "closed now: until 22:00" in text
    assert "1 close" in text and "farm2 is open [1]" in text
    assert "waits for an approval by anybody" in text
    assert "left out: ws1 does not answer" in text
    assert brief(PLAN) == {
        "result": True,
        "changes": "nothing: this is a plan",
        "plan_id": "pabc",
        "farms": {"site1 farm2": "in service on 2026.11.2"},
    }


def test_what_is_no_plan_is_not_shown_as_one() -> None:
    out = io.StringIO()
    show_plan({"result": False, "message": "x"}, out)
    assert out.getvalue() == ""


def test_a_run_in_one_line_of_the_history() -> None:
    run = {
        **{"id": 7, "started": 1_700_000_000.0, "ended": 1_700_000_040.0, "what": "upgrade"},
        **{"state": "done", "holder": "alice", "message": "well"},
    }
    assert run_line(run) == "7 2023-11-14 22:13:20 UTC upgrade: done, 40 s, by alice. well"
    assert brief({"runs": [run]}) == {"runs": [run_line(run)]}


def test_a_message_of_several_lines_is_shown_as_lines() -> None:
    assert brief({"result": False, "message": "two:\n  a\n  b"})["message"] == ["two:", "a", "b"]

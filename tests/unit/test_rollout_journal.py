"""The journal: what a crash leaves behind, and how it is gone on from."""

import sqlite3
from collections.abc import Callable

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout.journal import Journal, Unfinished, connect
from webfarm.rollout.model import Before, Goal, Run, Step, Wish

FARM1 = Goal("site1", "farm1", "2026.11.2", "8.2.36", "2", {"php": "d1", "webapp": "d2"})
FARM2 = Goal("site1", "farm2", "2026.11.2", "8.2.36", "2")
THIRD = Goal("site1", "farm2", "2026.11.3", "8.2.36", "3")
SITE2 = Goal("site2", "farm1", "2026.11.2", "8.2.36", "2")
SERVER = Run("server", (Goal("site1", "farm1", "2026.11.2", "8", "2", server="site1-farm1-ws1"),))
RUN = Run("upgrade", (FARM1, FARM2), {"soak_seconds": 5, "windows": []}, "the shop is closed")
STEP = Step("drain", ("site1-lb1",), "no new sessions", 60.0)
R1 = Before("2026.11.1", 1)


@pytest.fixture
def journal() -> Journal:
    return Journal(connect(":memory:"))


# -- steps and rollouts --------------------------------------------------------------------------


def test_a_step_is_there_before_it_runs_and_after_with_evidence(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    rollout, _, _ = journal.begin(FARM2, "root", 1.0, run)
    entry = journal.intend(rollout, STEP, 2.0)
    assert journal.steps(rollout)[0]["state"] == "intended"
    journal.settle(entry, "done", {"read_back": {"site1-lb1": "drain"}}, 3.0)
    (step,) = journal.steps(rollout)
    assert step["state"] == "done"
    assert step["targets"] == ["site1-lb1"]
    assert step["evidence"] == {"read_back": {"site1-lb1": "drain"}}


def test_a_step_of_the_run_belongs_to_no_farm(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    entry = journal.intend_run(run, STEP, 2.0)
    journal.settle(entry, "done", {}, 3.0)
    (step,) = journal.run_steps(run)
    assert (step["run"], step["rollout"], step["state"]) == (run, None, "done")


def test_s6_the_same_run_takes_the_rollout_up_and_knows_how_the_farm_was(
    journal: Journal,
) -> None:
    run, resumed = journal.begin_run(RUN, "root", 1.0)
    assert not resumed
    rollout, before, resumed = journal.begin(FARM2, "root", 1.0, run)
    assert (before, resumed) == (None, False)
    journal.remember(rollout, R1)
    journal.intend(rollout, STEP, 2.0)
    journal.intend_run(run, STEP, 2.0)  # and the power is gone
    assert journal.begin_run(RUN, "root", 9.0) == (run, True)
    assert journal.steps(rollout)[0]["state"] == "unknown"
    assert journal.run_steps(run)[0]["state"] == "unknown"
    assert journal.begin(FARM2, "root", 9.0, run) == (rollout, R1, True)


@pytest.mark.parametrize("state", ["running", "paused", "failed", "aborted"])
def test_what_the_run_knew_of_a_farm_is_handed_on_within_it(journal: Journal, state: str) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    first, _, _ = journal.begin(FARM2, "root", 1.0, run)
    journal.remember(first, R1)
    if state != "running":
        journal.end(first, state, {}, 1.5)
    second, before, resumed = journal.begin(THIRD, "root", 2.0, run)
    assert second != first
    assert (before, resumed) == (R1, False)
    left = "superseded" if state in ("running", "paused") else state
    assert [r["state"] for r in journal.rollouts(run=run)] == ["running", left]


@pytest.mark.parametrize("state", ["done", "nothing"])
def test_after_a_rollout_that_ended_well_nothing_is_inherited(journal: Journal, state: str) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    first, _, _ = journal.begin(FARM2, "root", 1.0, run)
    journal.remember(first, R1)
    journal.end(first, state, {"message": "in service"}, 2.0)
    second, before, _ = journal.begin(FARM2, "root", 3.0, run)
    assert second != first
    assert before is None
    assert journal.rollouts()[1]["outcome"] == {"message": "in service"}


def test_what_another_run_knew_of_a_farm_is_out_of_date(journal: Journal) -> None:
    first, _ = journal.begin_run(RUN, "root", 1.0)
    rollout, _, _ = journal.begin(FARM2, "root", 1.0, first)
    journal.remember(rollout, R1)
    journal.end(rollout, "failed", {}, 2.0)
    journal.end_run(first, "failed", {}, 2.0)
    second, _ = journal.begin_run(RUN, "root", 3.0)
    assert second != first
    assert journal.begin(FARM2, "root", 3.0, second)[1] is None


def test_bringing_back_a_server_does_not_hide_the_farms_rollout(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    rollout, _, _ = journal.begin(FARM2, "root", 1.0, run)
    journal.remember(rollout, R1)
    server = Goal("site1", "farm2", "2026.11.2", "8.2.36", "2", server="site1-farm2-ws1")
    other, before, _ = journal.begin(server, "root", 2.0, run)
    journal.end(other, "done", {}, 3.0)
    assert before is None
    assert journal.begin(FARM2, "root", 4.0, run) == (rollout, R1, True)


def test_a_run_knows_the_farms_that_it_touched_as_they_were_first(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    for goal, state in ((FARM1, "failed"), (FARM2, "done"), (FARM1, "done")):
        rollout, before, _ = journal.begin(goal, "root", 2.0, run)
        journal.remember(rollout, before or R1)
        if before:
            journal.remember(rollout, Before("2026.11.1", 2))
        journal.end(rollout, state, {}, 3.0)
    journal.begin(FARM2, "root", 4.0, run)  # looked at once more: nothing to do
    assert journal.finished(run) == [("site1", "farm1", R1), ("site1", "farm2", R1)]


# -- runs ----------------------------------------------------------------------------------------


def test_a_run_is_rebuilt_as_it_was_asked_for(journal: Journal) -> None:
    first, _ = journal.begin_run(RUN, "alice", 1.0)
    assert journal.run(first)["run"] == RUN
    journal.end_run(first, "done", {"message": "all in service"}, 2.0)
    back = Run("rollback", (Goal("site1", "farm2", "2026.11.1", "8.2.32", "1", None, True),), {})
    back = Run(back.kind, back.goals, undoes=first)
    second, _ = journal.begin_run(back, "bob", 3.0)
    data = journal.run(second)
    assert data["run"] == back
    assert (data["state"], data["holder"], data["kind"]) == ("running", "bob", "rollback")
    assert journal.run(first)["outcome"] == {"message": "all in service"}
    assert [d["id"] for d in journal.runs()] == [second, first]
    assert [d["id"] for d in journal.runs(limit=1)] == [second]


@pytest.mark.parametrize("state", ["running", "paused"])
def test_the_same_run_is_taken_up_whatever_its_order_and_policy(
    journal: Journal, state: str
) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    if state == "paused":
        journal.end_run(run, "paused", {"message": "Ctrl-C"}, 2.0)
    again = Run("upgrade", (FARM2, FARM1), {"soak_seconds": 60})
    assert journal.begin_run(again, "bob", 3.0) == (run, True)
    data = journal.run(run)
    assert data["run"] == again
    assert (data["state"], data["holder"], data["ended"], data["outcome"]) == (
        "running",
        "bob",
        None,
        None,
    )


@pytest.mark.parametrize("state", ["done", "nothing", "refused", "aborted", "failed"])
def test_a_run_that_ended_is_not_taken_up(journal: Journal, state: str) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    journal.end_run(run, state, {}, 2.0)
    assert journal.unfinished() == []
    assert journal.begin_run(RUN, "root", 3.0) == (run + 1, False)


@pytest.mark.parametrize(
    "other",
    [
        Run("upgrade", (THIRD,)),
        Run("upgrade", (FARM2,)),
        Run("upgrade", (SITE2, THIRD)),
        Run("rollback", (FARM1, FARM2), undoes=1),
    ],
)
@pytest.mark.parametrize("state", ["running", "paused"])
def test_s5_another_target_is_refused_and_the_run_in_the_way_is_named(
    journal: Journal, other: Run, state: str
) -> None:
    run, _ = journal.begin_run(RUN, "alice", 10.0)
    if state == "paused":
        journal.end_run(run, "paused", {}, 70.0)
    with pytest.raises(Unfinished) as refused:
        journal.begin_run(other, "bob", 250.0)
    since = "3 min" if state == "paused" else "4 min"
    for part in (
        f"run {run} ",
        "upgrade of site1 (farm1, farm2) to 2026.11.2",
        f"{state} since {since}",
        "alice",
        f"`salt-run upgrade.resume {run}`",
        f"`salt-run upgrade.abort {run}`",
        f"`salt-run upgrade.rollback {run}`",
    ):
        assert part in str(refused.value)
    assert refused.value.run == run
    assert len(journal.runs()) == 1


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_server_is_brought_back_while_an_upgrade_is_unfinished(
    journal: Journal, state: str
) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    if state == "paused":
        journal.end_run(run, "paused", {}, 2.0)
    assert journal.begin_run(SERVER, "reactor", 3.0) == (run + 1, False)
    assert journal.run(run)["state"] == state
    journal.wish(run + 1, Wish("abort", "bob"), 3.0)
    assert journal.begin_run(SERVER, "reactor", 4.0) == (run + 1, True)
    assert journal.wished(run + 1) == Wish("abort", "bob")
    assert journal.begin_run(RUN, "alice", 5.0) == (run, True)
    left = journal.run(run + 1)
    assert (left["state"], left["ended"]) == ("failed", 5.0)
    assert left["outcome"] == {"message": "its process ended"}


def test_a_servers_run_that_was_left_is_in_nobodys_way(journal: Journal) -> None:
    server, _ = journal.begin_run(SERVER, "reactor", 1.0)
    step = journal.intend_run(server, STEP, 1.0)
    assert step
    other = Run("server", (Goal("site2", "farm1", "2026.11.2", "8", "2", server="ws9"),))
    elsewhere, _ = journal.begin_run(other, "reactor", 2.0)
    run, resumed = journal.begin_run(RUN, "alice", 3.0)
    assert not resumed
    assert [d["id"] for d in journal.unfinished()] == [elsewhere, run]
    assert journal.run_steps(server)[0]["state"] == "unknown"


def test_another_site_may_be_upgraded_at_the_same_time(journal: Journal) -> None:
    first, _ = journal.begin_run(RUN, "alice", 1.0)
    second, _ = journal.begin_run(Run("upgrade", (SITE2,)), "bob", 2.0)
    assert [d["id"] for d in journal.unfinished()] == [first, second]
    assert [d["id"] for d in journal.unfinished("site2")] == [second]


@pytest.mark.parametrize("number", [0, -1, 99, 2**70, "1", True, None, 1.0, [1]])
def test_a_run_that_is_not_there_is_refused_with_a_message(
    journal: Journal, number: object
) -> None:
    journal.begin_run(RUN, "root", 1.0)
    calls: list[Callable[[], object]] = [
        lambda: journal.run(number),  # type: ignore[arg-type]
        lambda: journal.end_run(number, "done", {}, 2.0),  # type: ignore[arg-type]
        lambda: journal.wish(number, Wish("pause", "bob"), 2.0),  # type: ignore[arg-type]
        lambda: journal.approve(number, "bob", 2.0),  # type: ignore[arg-type]
        lambda: journal.clear_wish(number),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(WebfarmError, match="run"):
            call()
    assert journal.run(1)["state"] == "running"


def test_a_run_of_names_that_are_none_is_not_begun(journal: Journal, hostile_name: str) -> None:
    for goal in (
        Goal(hostile_name, "farm1", "2026.11.2", "8", "2"),
        Goal("site1", hostile_name, "2026.11.2", "8", "2"),
        Goal("site1", "farm1", hostile_name, "8", "2"),
    ):
        with pytest.raises(WebfarmError):
            journal.begin_run(Run("upgrade", (goal,)), "root", 1.0)
    with pytest.raises(WebfarmError, match="no farm"):
        journal.begin_run(Run("upgrade", ()), "root", 1.0)
    assert journal.runs() == []


def test_a_state_that_no_run_has_is_not_written(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    with pytest.raises(sqlite3.IntegrityError):
        journal.end_run(run, "stopped", {}, 2.0)
    assert journal.run(run)["state"] == "running"


# -- wishes --------------------------------------------------------------------------------------


def test_a_wish_reaches_the_process_and_is_recorded(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    assert journal.wished(run) is None
    assert journal.wish(run, Wish("pause", "bob", "lunch\nbreak\x1b[31m"), 2.0)
    assert journal.wished(run) == Wish("pause", "bob", "lunch break [31m")
    record = journal.records(1)[0]
    assert (record["what"], record["who"], record["at"]) == ("pause", "bob", 2.0)
    assert record["data"] == {"run": run}
    journal.clear_wish(run)
    assert journal.wished(run) is None


def test_a_run_that_nobody_conducts_has_nobody_to_wish_from(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    journal.end_run(run, "paused", {}, 2.0)
    assert not journal.wish(run, Wish("abort", "bob"), 3.0)
    journal.begin_run(RUN, "alice", 4.0)
    journal.end_run(run, "done", {}, 5.0)
    assert not journal.wish(run, Wish("abort", "bob"), 6.0)
    assert [r for r in journal.records() if r["what"] == "abort"] == []


def test_a_wish_to_end_is_not_put_off_by_one_to_pause(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    journal.wish(run, Wish("pause", "bob"), 2.0)
    journal.wish(run, Wish("abort", "carol", "wrong release"), 3.0)
    with pytest.raises(WebfarmError, match="carol has asked for its abort"):
        journal.wish(run, Wish("pause", "bob"), 4.0)
    journal.wish(run, Wish("rollback", "carol"), 5.0)
    assert journal.wished(run) == Wish("rollback", "carol")


@pytest.mark.parametrize("kind", ["pause", "abort", "rollback"])
def test_only_a_wish_to_pause_is_fulfilled_by_a_pause(journal: Journal, kind: str) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    journal.wish(run, Wish(kind, "bob"), 2.0)
    journal.end_run(run, "paused", {}, 3.0)
    assert journal.wished(run) == (None if kind == "pause" else Wish(kind, "bob"))
    journal.begin_run(RUN, "alice", 4.0)
    assert journal.wished(run) == (None if kind == "pause" else Wish(kind, "bob"))
    journal.end_run(run, "aborted", {}, 5.0)
    assert journal.wished(run) is None


def test_a_pause_that_a_crash_forestalled_does_not_stop_the_next(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    journal.wish(run, Wish("pause", "bob"), 2.0)  # and the process is killed
    journal.begin_run(RUN, "alice", 3.0)
    assert journal.wished(run) is None


@pytest.mark.parametrize("kind", ["", "stop", "pause; --", None, 7])
def test_a_wish_of_another_kind_is_refused(journal: Journal, kind: str) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    with pytest.raises(WebfarmError, match="pause, abort, rollback"):
        journal.wish(run, Wish(kind, "bob"), 2.0)
    assert journal.wished(run) is None


# -- approvals -----------------------------------------------------------------------------------


def test_a_point_is_passed_when_it_was_approved_and_who_did_is_recorded(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "alice", 1.0)
    assert journal.approved(run) == 0
    with pytest.raises(WebfarmError, match="waits for no approval"):
        journal.approve(run, "bob", 2.0)
    journal.wait_for_approval(run, 1, 3.0)
    journal.end_run(run, "paused", {}, 3.0)
    assert journal.run(run)["waits"] == 1
    assert journal.approve(run, "bob", 4.0) == 1
    assert (journal.approved(run), journal.run(run)["waits"]) == (1, None)
    with pytest.raises(WebfarmError, match="waits for no approval"):
        journal.approve(run, "bob", 5.0)
    record = journal.records(1)[0]
    assert (record["what"], record["who"], record["data"]) == (
        "approve",
        "bob",
        {"run": run, "point": 1},
    )


# -- crashes -------------------------------------------------------------------------------------


class Crash(BaseException):
    """The power is gone."""


class Dying(sqlite3.Connection):
    """Dies before the statement number ``left``."""

    left = 0

    def execute(self, sql: str, parameters: object = ()) -> sqlite3.Cursor:  # type: ignore[override]
        self.left -= 1
        if self.left == 0 and sql != "ROLLBACK":
            raise Crash
        return super().execute(sql, parameters)  # type: ignore[arg-type]


def _whole_run(journal: Journal) -> None:
    run, _ = journal.begin_run(RUN, "root", 1.0)
    journal.settle(journal.intend_run(run, STEP, 1.0), "done", {}, 1.0)
    for goal in RUN.goals:
        rollout, before, _ = journal.begin(goal, "root", 2.0, run)
        assert before in (None, R1)
        journal.remember(rollout, R1)
        for _ in range(2):
            journal.settle(journal.intend(rollout, STEP, 3.0), "done", {}, 3.0)
        journal.quarantine(goal.site, goal.farm, {"ws1": "sick"}, 3.0)
        journal.end(rollout, "done", {"message": "in service"}, 4.0)
    journal.end_run(run, "done", {"message": "in service"}, 5.0)


def test_s6_a_crash_at_any_statement_leaves_what_the_same_run_goes_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, factory=Dying, **k))
    for crash in range(1, 10_000):
        connection = connect(":memory:")
        assert isinstance(connection, Dying)
        connection.left = crash
        try:
            _whole_run(Journal(connection))
        except Crash:
            connection.left = 0
        else:
            break
        _whole_run(Journal(connection))
        journal = Journal(connection)
        assert journal.unfinished() == []
        assert {d["state"] for d in journal.runs()} == {"done"}
        assert {r["state"] for r in journal.rollouts()} == {"done"}
        states = {step["state"] for r in journal.rollouts() for step in journal.steps(r["id"])}
        assert "intended" not in states
        for run in journal.runs():
            assert len(journal.finished(run["id"])) <= len(RUN.goals)
    assert crash > 50

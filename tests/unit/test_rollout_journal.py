"""The journal and the lease: what a crash leaves behind, and one hand per site (S5)."""

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from webfarm.rollout import lease as lease_
from webfarm.rollout.journal import BadJournal, Journal, connect
from webfarm.rollout.lease import Held, Lease, Process, is_dead, this_process
from webfarm.rollout.model import Before, Goal, Step

GOAL = Goal("site1", "farm2", "2026.11.2", "8.2.36", "2")
OTHER = Goal("site1", "farm2", "2026.11.3", "8.2.36", "3")
STEP = Step("drain", ("site1-lb1",), "no new sessions", 60.0)


@pytest.fixture
def connection() -> sqlite3.Connection:
    return connect(":memory:")


def test_the_file_is_for_its_owner_only_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "webfarm" / "journal.sqlite"
    connection = connect(path)
    Journal(connection).begin(GOAL, "root", 1.0)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_journal_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection = connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(BadJournal, match="format 99"):
        connect(path)


def test_a_symlink_in_the_place_of_the_journal_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        connect(tmp_path / "journal.sqlite")


def test_a_step_is_there_before_it_runs_and_after_with_evidence(
    connection: sqlite3.Connection,
) -> None:
    journal = Journal(connection)
    rollout, _, _ = journal.begin(GOAL, "root", 1.0)
    entry = journal.intend(rollout, STEP, 2.0)
    assert journal.steps(rollout)[0]["state"] == "intended"
    journal.settle(entry, "done", {"read_back": {"site1-lb1": "drain"}}, 3.0)
    (step,) = journal.steps(rollout)
    assert step["state"] == "done"
    assert step["targets"] == ["site1-lb1"]
    assert step["evidence"] == {"read_back": {"site1-lb1": "drain"}}


def test_s6_the_same_goal_takes_the_rollout_up_and_knows_how_the_farm_was(
    connection: sqlite3.Connection,
) -> None:
    journal = Journal(connection)
    rollout, before, resumed = journal.begin(GOAL, "root", 1.0)
    assert (before, resumed) == (None, False)
    journal.remember(rollout, Before("2026.11.1", 1))
    journal.intend(rollout, STEP, 2.0)  # and the power is gone
    again, before, resumed = journal.begin(GOAL, "root", 9.0)
    assert (again, before, resumed) == (rollout, Before("2026.11.1", 1), True)
    assert journal.steps(rollout)[0]["state"] == "unknown"


@pytest.mark.parametrize("stopped", [False, True])
def test_another_goal_supersedes_and_inherits_how_the_farm_was(
    connection: sqlite3.Connection, stopped: bool
) -> None:
    journal = Journal(connection)
    first, _, _ = journal.begin(GOAL, "root", 1.0)
    journal.remember(first, Before("2026.11.1", 1))
    if stopped:
        journal.end(first, "stopped", {}, 1.5)
    second, before, resumed = journal.begin(OTHER, "root", 2.0)
    assert second != first
    assert (before, resumed) == (Before("2026.11.1", 1), False)
    assert [r["state"] for r in journal.rollouts()] == ["running", "superseded"]


def test_after_a_rollout_that_ended_well_nothing_is_inherited(
    connection: sqlite3.Connection,
) -> None:
    journal = Journal(connection)
    first, _, _ = journal.begin(GOAL, "root", 1.0)
    journal.remember(first, Before("2026.11.1", 1))
    journal.end(first, "done", {"message": "in service"}, 2.0)
    second, before, _ = journal.begin(OTHER, "root", 3.0)
    assert second != first
    assert before is None
    assert journal.rollouts()[1]["outcome"] == {"message": "in service"}


# -- lease ---------------------------------------------------------------------------------------

ALIVE = Process("master", 100, "5", "boot")


def lease(connection: sqlite3.Connection, dead: bool = False, pid: int = 200) -> Lease:
    process = Process("master", pid, "6", "boot")
    return Lease(connection, "site1", f"user{pid}", process, lambda _: dead)


def test_s5_a_live_holder_is_named(connection: sqlite3.Connection) -> None:
    lease(connection, pid=100).take("farm1 to 2026.11.2", 10.0)
    with pytest.raises(Held) as held:
        lease(connection).take("farm2 to 2026.11.2", 75.0)
    for part in ("site1", "user100", "master", "pid 100", "since 65 s", "farm1 to 2026.11.2"):
        assert part in str(held.value)


def test_s5_a_dead_holder_is_taken_over_and_does_nothing_more(
    connection: sqlite3.Connection,
) -> None:
    first = lease(connection, pid=100)
    first.take("farm1", 10.0)
    first.confirm()
    second = lease(connection, dead=True)
    second.take("farm1", 20.0)
    assert second.token == first.token + 1
    second.confirm()
    with pytest.raises(Held, match="another took over"):
        first.confirm()
    first.release()  # must not take it from the second
    second.confirm()


def test_a_lease_that_was_let_go_is_free(connection: sqlite3.Connection) -> None:
    first = lease(connection, pid=100)
    first.take("farm1", 10.0)
    first.release()
    lease(connection).take("farm2", 20.0)


def test_sites_are_held_apart(connection: sqlite3.Connection) -> None:
    lease(connection, pid=100).take("farm1", 10.0)
    Lease(connection, "site2", "user", ALIVE, lambda _: False).take("farm1", 10.0)


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


RACE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from webfarm.rollout.journal import connect
from webfarm.rollout.lease import Held, Lease
lease = Lease(connect(sys.argv[1]), "site1", "racer")
try:
    lease.take("farm1", time.time())
    print("runs", flush=True)
    sys.stdin.read()
except Held:
    print("held", flush=True)
"""


def test_s5_of_two_that_start_at_once_exactly_one_runs(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connect(path).close()
    library = str(Path(lease_.__file__).parents[2])
    racers: list[Any] = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate(timeout=30)
    assert sorted(said) == ["held", "held", "runs"]

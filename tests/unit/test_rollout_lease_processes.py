"""The journal and its leases between real processes that start, write, hang and die at will."""

import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from webfarm.rollout import lease as lease_
from webfarm.rollout.journal import Journal, connect
from webfarm.rollout.lease import Held, Lease, holders
from webfarm.rollout.model import Goal, Run, Step

LIBRARY = str(Path(lease_.__file__).parents[2])
GENEROUS = 120.0  # seconds; nothing is measured here

PRELUDE = """
import itertools, sys, time
sys.path.insert(0, sys.argv[2])
from webfarm.errors import WebfarmError
from webfarm.rollout.journal import Journal, connect
from webfarm.rollout.lease import Held, Lease
from webfarm.rollout.model import Goal, Run, Step, Wish

def say(what):
    print(what, flush=True)

say("ready")
sys.stdin.readline()
"""

# takes the site, then does what it is told, and says what came of it
RACER = (
    PRELUDE
    + """
lease = Lease(connect(sys.argv[1]), "site1", "racer", seconds=float(sys.argv[3]))
for order in itertools.chain(["take"], sys.stdin):
    order = order.strip()
    try:
        getattr(lease, order)(*(["farm1"] if order == "take" else []))
        say("runs")
    except Held as error:
        say("held" if order == "take" else f"lost: {error}")
"""
)

# what a rollout writes, and what other shells read and write meanwhile
WRITER = (
    PRELUDE
    + """
journal, me = Journal(connect(sys.argv[1])), sys.argv[3]
goal = Goal("site" + me, "farm1", "2026.11.2", "8.2.36", "2")
run, _ = journal.begin_run(Run("upgrade", (goal,)), me, time.time())
lease = Lease(journal.connection, goal.site, me)
lease.take("farm1")
rollout, _, _ = journal.begin(goal, me, time.time(), run)
for n in range(25):
    entry = journal.intend(rollout, Step("drain", ("lb1",), "test", 1.0), time.time())
    journal.settle(entry, "done", {"n": n}, time.time())
    journal.wish(run, Wish("pause", me), time.time())
    lease.renew()
    journal.unfinished(), journal.rollouts(), journal.records(), journal.quarantined()
    Journal(connect(sys.argv[1])).runs()
    time.sleep(0.05)
journal.end(rollout, "done", {}, time.time())
journal.end_run(run, "done", {}, time.time())
lease.release()
say("done")
"""
)

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "webfarm" / "journal.sqlite"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start a process that waits for its first line before it touches the journal."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, argument: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path), LIBRARY, str(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert said(process) == "ready"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], GENEROUS)[0]:
        raise AssertionError("the process says nothing")
    return process.stdout.readline().strip()  # it says one line for each order


def tell(process: subprocess.Popen[str], order: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()


def took_over(connection: sqlite3.Connection, seconds: float) -> Lease:
    """Try until the site is free."""
    lease = Lease(connection, "site1", "second", seconds=seconds)
    end = time.monotonic() + GENEROUS
    while time.monotonic() < end:
        try:
            lease.take("farm1")
        except Held:
            time.sleep(0.1)
        else:
            return lease
    raise AssertionError("the site did not become free")


@pytest.mark.parametrize("there", [True, False], ids=["journal there", "journal made"])
def test_s5_of_several_that_start_at_once_exactly_one_runs(
    start: Start, path: Path, there: bool
) -> None:
    if there:
        connect(path).close()
    racers = [start(RACER, 60) for _ in range(4)]
    for racer in racers:
        tell(racer)
    assert sorted(said(racer) for racer in racers) == ["held", "held", "held", "runs"]


def test_s5_a_suspended_process_does_nothing_after_its_lease(start: Start, path: Path) -> None:
    forgotten = start(RACER, 1)
    tell(forgotten)
    assert said(forgotten) == "runs"
    forgotten.send_signal(signal.SIGSTOP)
    connection = connect(path)
    second = took_over(connection, seconds=600)
    forgotten.send_signal(signal.SIGCONT)
    for order in ("confirm", "renew"):
        tell(forgotten, order)
        assert "another took over" in said(forgotten)
    tell(forgotten, "release")
    assert said(forgotten) == "runs"
    second.confirm()
    assert [row["holder"] for row in holders(connection)] == ["second"]


def test_s6_a_killed_process_is_taken_over_without_waiting(start: Start, path: Path) -> None:
    killed = start(RACER, 1_000_000)
    tell(killed)
    assert said(killed) == "runs"
    killed.send_signal(signal.SIGKILL)
    took_over(connect(path), seconds=60).confirm()


def test_several_shells_write_and_read_without_an_error(start: Start, path: Path) -> None:
    writers = [start(WRITER, n) for n in range(1, 4)]
    for writer in writers:
        tell(writer)
    for writer in writers:
        out, errors = writer.communicate(timeout=GENEROUS)
        assert out.strip() == "done", errors
    journal = Journal(connect(path))
    assert {run["state"] for run in journal.runs()} == {"done"}
    assert [len(journal.steps(r["id"])) for r in journal.rollouts()] == [25, 25, 25]
    assert len(journal.records(1000)) == 75


def test_who_looks_does_not_wait_for_who_writes(path: Path) -> None:
    writer, reader = Journal(connect(path)), Journal(connect(path))
    goal = Goal("site1", "farm1", "2026.11.2", "8.2.36", "2")
    run, _ = writer.begin_run(Run("upgrade", (goal,)), "root", 1.0)
    with writer.write():
        writer.connection.execute("UPDATE runs SET state='paused'")
        assert reader.run(run)["state"] == "running"
        Journal(connect(path)).runs()
    assert reader.run(run)["state"] == "paused"


def test_s6_what_a_killed_process_wrote_is_there(start: Start, path: Path) -> None:
    writer = start(WRITER, 1)
    tell(writer)
    deadline = time.monotonic() + GENEROUS
    while True:  # until it is in the middle of its steps
        assert time.monotonic() < deadline
        if path.exists() and Path(f"{path}-wal").exists():
            rollouts = Journal(connect(path)).rollouts()
            if rollouts and Journal(connect(path)).steps(rollouts[0]["id"]):
                break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    journal = Journal(connect(path))
    goal = Goal("site1", "farm1", "2026.11.2", "8.2.36", "2")
    (run,) = journal.runs()
    if run["state"] == "running":  # it may have been quicker than we
        assert journal.begin_run(Run("upgrade", (goal,)), "root", 9.0) == (run["id"], True)
        rollout, _, resumed = journal.begin(goal, "root", 9.0, run["id"])
        assert resumed or journal.rollouts()[0]["state"] == "done"
        assert {s["state"] for s in journal.steps(rollout)} <= {"done", "unknown"}
    step = journal.intend_run(run["id"], Step("stage", (), "test", 1.0), 10.0)
    journal.settle(step, "done", {}, 11.0)

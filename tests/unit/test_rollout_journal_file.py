"""The journal's file: who may read it, what is gone on from, and what is refused as it is."""

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout.journal import FORMAT, BadJournal, Journal, Unfinished, connect
from webfarm.rollout.lease import Lease, holders
from webfarm.rollout.model import Before, Goal, Run, Wish

FIXTURE = Path(__file__).parents[1] / "fixtures" / "journal-2.sqlite"
GOAL = Goal("site1", "farm2", "2026.11.2", "8.2.36", "2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "webfarm" / "journal.sqlite"


def test_the_file_is_for_its_owner_only_and_durable(path: Path) -> None:
    with closing(connect(path)) as connection:
        Journal(connection).begin_run(Run("upgrade", (GOAL,)), "root", 1.0)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_what_was_written_is_there_when_it_is_opened_again(path: Path) -> None:
    with closing(connect(path)) as connection:
        Journal(connection).begin_run(Run("upgrade", (GOAL,)), "root", 1.0)
    path.chmod(0o644)  # as a careless copy leaves it
    with closing(connect(path)) as connection:
        assert Journal(connection).runs()[0]["run"] == Run("upgrade", (GOAL,))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_to_open_it_once_more_does_not_unlock_it_for_others(path: Path) -> None:
    first = Journal(connect(path))
    with first.write():
        connect_again = sqlite3.connect(path, timeout=0.0)
        connect(path).close()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connect_again.execute("BEGIN IMMEDIATE")


# -- what is refused -----------------------------------------------------------------------------


def refused(path: Path) -> str:
    """Why the journal is refused; every byte of it stays as it was."""
    before = path.read_bytes()
    with pytest.raises(BadJournal) as error:
        connect(path)
    assert path.read_bytes() == before
    assert str(path) in str(error.value)
    assert "nothing was changed" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.parametrize("version", [1, FORMAT + 1, 99, -1])
def test_a_journal_of_another_format_is_refused_with_what_to_do(
    path: Path, version: int, journal_mode: str
) -> None:
    connect(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute(f"PRAGMA user_version={version}")
    message = refused(path)
    assert f"has format {version}, this version of Webfarm knows {FORMAT}" in message
    remedy = "use the version of Webfarm that wrote it" if version > FORMAT else "move the file"
    assert remedy in message


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE contacts (name TEXT)")
    assert "has format 0" in refused(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"rollout 7 was fine\n" * 500)
    assert "damaged or not a journal (file is not a database)" in refused(path)


@pytest.mark.parametrize("damage", ["cut", "zeroes", "noise"])
def test_a_damaged_journal_is_refused(path: Path, damage: str) -> None:
    path.parent.mkdir()
    whole = FIXTURE.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "zeroes": whole[:4096] + bytes(len(whole) - 4096),
            "noise": whole[:middle] + bytes(range(256)) * 16 + whole[middle + 4096 :],
        }[damage]
    )
    message = refused(path)
    assert "is damaged" in message
    assert "-wal" in message


def test_what_is_not_a_file_is_not_followed(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(BadJournal, match="not a regular file"):
        connect(path)
    assert not (path.parent / "elsewhere").exists()
    path.unlink()
    path.mkdir()
    with pytest.raises(BadJournal, match="not a regular file"):
        connect(path)


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.parent.mkdir()
    path.touch()  # the power went between making it and its first page
    with closing(connect(path)) as connection:
        assert Journal(connection).runs() == []


# -- a journal of this format that was kept ------------------------------------------------------


class Later:
    """The time years after the journal was written."""

    def time(self) -> float:
        return 2e9

    def monotonic(self) -> float:
        return 100.0


@pytest.fixture
def kept(path: Path) -> Journal:
    path.parent.mkdir()
    shutil.copyfile(FIXTURE, path)
    return Journal(connect(path))


def test_s6_the_kept_journal_is_resumed(kept: Journal) -> None:
    (unfinished,) = kept.unfinished()
    run = unfinished["run"]
    lease = Lease(kept.connection, "site1", "carol", Later())
    (held,) = holders(kept.connection)
    lease.take("again")  # it has expired
    assert lease.token > held["token"]
    assert kept.begin_run(run, "carol", 2e9) == (3, True)
    farm1, farm2 = run.goals
    assert [s["name"] for s in kept.run_steps(3)] == ["stage"]
    rollout, before, resumed = kept.begin(farm2, "carol", 2e9, 3)
    assert (before, resumed) == (Before("2026.11.1", 1), True)
    assert [(s["name"], s["state"]) for s in kept.steps(rollout)] == [
        ("drain", "done"),
        ("close", "done"),
        ("quiesce", "unknown"),
    ]
    assert kept.finished(3) == [
        ("site1", "farm1", Before("2026.11.1", 1)),
        ("site1", "farm2", Before("2026.11.1", 1)),
    ]
    assert not kept.begin(farm1, "carol", 2e9, 3)[2]
    kept.end_run(3, "done", {}, 2e9)
    assert kept.unfinished("site1") == []


def test_s5_the_kept_journal_lets_no_other_run_pass(kept: Journal) -> None:
    with pytest.raises(Unfinished, match=r"run 3 .*site1 \(farm1, farm2\) to 2026\.11\.2.*alice"):
        kept.begin_run(Run("upgrade", (GOAL,)), "carol", 2e9)


def test_the_kept_journal_is_listed(kept: Journal) -> None:
    assert [(d["id"], d["kind"], d["state"]) for d in kept.runs()] == [
        (3, "upgrade", "running"),
        (2, "rollback", "done"),
        (1, "upgrade", "done"),
    ]
    digests = {"php": "sha256:" + "1f" * 32, "webapp": "sha256:" + "2e" * 32}
    assert kept.run(3)["run"] == Run(
        "upgrade",
        tuple(
            Goal("site1", farm, "2026.11.2", "8.2.36", "2", digests) for farm in ("farm1", "farm2")
        ),
        {"soak_seconds": 60, "windows": []},
        "the security fix cannot wait",
    )
    assert kept.run(2)["run"].undoes == 1
    assert kept.run(2)["run"].goals[0].reset_sessions
    assert kept.run(1)["outcome"] == {"message": "2 farms are in service"}
    assert len(kept.rollouts()) == 5
    assert kept.wished(3) == Wish("abort", "bob", "the shop is slow")
    assert kept.approved(3) == 1
    assert kept.bad()["2026.11.0"]["why"] == "answers 500 under load"
    assert [(q["server"], q["why"]) for q in kept.quarantined("site1")] == [
        ("site1-farm1-ws2", "php-fpm does not start")
    ]
    assert [r["what"] for r in kept.records()] == ["abort", "approve", "override", "bad"]


def test_the_kept_journal_is_small_and_whole() -> None:
    assert FIXTURE.stat().st_size < 100_000
    assert not Path(f"{FIXTURE}-wal").exists()


def test_a_journal_that_may_not_be_read_is_an_error_with_a_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(path).close()

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(WebfarmError, match="account of the Salt master"):
        connect(path)

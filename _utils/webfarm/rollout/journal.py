"""The journal: every step is written before and after it runs, so that a crash leaves a trace.

SQLite, one file ``journal.sqlite`` (mode 0600) in the master's cache directory; WAL and
``synchronous=FULL``, so that what was written survives a power cut. ``PRAGMA user_version`` is the
format's version.
"""

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rollout.model import Before, Goal, Step

FORMAT = 1
_TABLES = """
CREATE TABLE rollouts (
  id INTEGER PRIMARY KEY, site TEXT NOT NULL, farm TEXT NOT NULL, release TEXT NOT NULL,
  state TEXT NOT NULL, holder TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  before TEXT, outcome TEXT);
CREATE TABLE steps (
  id INTEGER PRIMARY KEY, rollout INTEGER NOT NULL REFERENCES rollouts(id), name TEXT NOT NULL,
  targets TEXT NOT NULL, why TEXT NOT NULL, state TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  evidence TEXT);
CREATE INDEX steps_of ON steps(rollout);
CREATE TABLE leases (
  site TEXT PRIMARY KEY, holder TEXT, host TEXT, pid INTEGER, started TEXT, boot TEXT,
  since REAL, doing TEXT, token INTEGER NOT NULL);
"""


class BadJournal(WebfarmError):
    """The journal is of a format that this version does not know."""


def connect(path: Path | str) -> sqlite3.Connection:
    """Open the journal's database, made if missing; ``:memory:`` for tests.

    Raises :class:`BadJournal` for a format that this version cannot read.
    """
    if str(path) != ":memory:":
        path = Path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    with _transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")
        elif version != FORMAT:
            raise BadJournal(
                f"the journal {path} has format {version}, this version of Webfarm knows {FORMAT}; "
                "finish or abort its rollouts with the version that wrote it"
            )
    return connection


class _transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block raises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self.connection.execute("COMMIT" if kind is None else "ROLLBACK")


class Journal:
    """The rollouts and their steps."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def begin(self, goal: Goal, holder: str, now: float) -> tuple[int, Before | None, bool]:
        """Start a rollout, or take up the farm's last one if it has the goal and did not end.

        Returns its id, how the farm was before it, and whether it was taken up. Steps that a crash
        left ``intended`` become ``unknown``; an unfinished rollout of another goal becomes
        ``superseded``, and what it knew of the farm before is handed on.
        """
        with _transaction(self.connection):
            last = self.connection.execute(
                "SELECT * FROM rollouts WHERE site=? AND farm=? ORDER BY id DESC LIMIT 1",
                (goal.site, goal.farm),
            ).fetchone()
            before = None
            if last is not None and last["state"] != "done":
                self._orphans(last["id"], now)
                before = Before(**json.loads(last["before"])) if last["before"] else None
                unfinished = last["state"] in ("running", "stopped")
                if unfinished and last["release"] == goal.release:
                    self.connection.execute(
                        "UPDATE rollouts SET state='running', holder=?, ended=NULL WHERE id=?",
                        (holder, last["id"]),
                    )
                    return last["id"], before, True
                if unfinished:
                    self._state(last["id"], "superseded", now, None)
            cursor = self.connection.execute(
                "INSERT INTO rollouts (site, farm, release, state, holder, started, before)"
                " VALUES (?, ?, ?, 'running', ?, ?, ?)",
                (
                    goal.site,
                    goal.farm,
                    goal.release,
                    holder,
                    now,
                    json.dumps(asdict(before)) if before else None,
                ),
            )
            return int(cursor.lastrowid or 0), before, False

    def remember(self, rollout: int, before: Before) -> None:
        """Write how the farm was in service."""
        self.connection.execute(
            "UPDATE rollouts SET before=? WHERE id=?", (json.dumps(asdict(before)), rollout)
        )

    def intend(self, rollout: int, step: Step, now: float) -> int:
        """Write that the step is about to run; returns the step's id."""
        cursor = self.connection.execute(
            "INSERT INTO steps (rollout, name, targets, why, state, started)"
            " VALUES (?, ?, ?, ?, 'intended', ?)",
            (rollout, step.name, json.dumps(list(step.targets)), step.why, now),
        )
        return int(cursor.lastrowid or 0)

    def settle(self, step: int, state: str, evidence: Mapping[str, Any], now: float) -> None:
        """Write how the step ended: ``done``, ``failed`` or ``unknown``."""
        self.connection.execute(
            "UPDATE steps SET state=?, evidence=?, ended=? WHERE id=?",
            (state, json.dumps(evidence, default=str), now, step),
        )

    def end(self, rollout: int, state: str, outcome: Mapping[str, Any], now: float) -> None:
        """Write how the rollout ended: ``done``, ``failed``, ``stopped`` or ``refused``."""
        with _transaction(self.connection):
            self._orphans(rollout, now)
            self._state(rollout, state, now, json.dumps(outcome, default=str))

    def rollouts(self, limit: int = 20) -> list[dict[str, Any]]:
        """The latest rollouts, newest first, with their outcome."""
        rows = self.connection.execute(
            "SELECT * FROM rollouts ORDER BY id DESC LIMIT ?", (limit,)
        ).fetchall()
        return [_plain(row, "before", "outcome") for row in rows]

    def steps(self, rollout: int) -> list[dict[str, Any]]:
        """A rollout's steps in the order in which they ran."""
        rows = self.connection.execute(
            "SELECT * FROM steps WHERE rollout=? ORDER BY id", (rollout,)
        ).fetchall()
        return [_plain(row, "targets", "evidence") for row in rows]

    def _orphans(self, rollout: int, now: float) -> None:
        self.connection.execute(
            "UPDATE steps SET state='unknown', ended=? WHERE rollout=? AND state='intended'",
            (now, rollout),
        )

    def _state(self, rollout: int, state: str, now: float, outcome: str | None) -> None:
        self.connection.execute(
            "UPDATE rollouts SET state=?, ended=?, outcome=? WHERE id=?",
            (state, now, outcome, rollout),
        )


def _plain(row: sqlite3.Row, *packed: str) -> dict[str, Any]:
    plain = dict(row)
    for key in packed:
        plain[key] = json.loads(plain[key]) if plain[key] else None
    return plain

"""What the loop keeps on the master's disk: memory, views, history, freezes, wishes.

SQLite, one file ``rebalance.sqlite`` (mode 0600) in the master's cache directory, written by the
engine and by ``salt-run rebalance``. WAL and ``synchronous=NORMAL``: a power cut may take the last
seconds, never the file; weights are decided again, and epochs come from the clock. It is bounded:
a row for each farm, and :data:`KEPT` changes of each server.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rebalance.freezes import Freeze
from webfarm.rollout.journal_file import transaction

FORMAT = 1
KEPT = 40
BUSY_SECONDS = 5.0
TABLES = """
CREATE TABLE engine (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE farms (
  site TEXT NOT NULL, farm TEXT NOT NULL, memory TEXT NOT NULL, view TEXT NOT NULL,
  PRIMARY KEY (site, farm));
CREATE TABLE history (
  id INTEGER PRIMARY KEY, site TEXT NOT NULL, farm TEXT NOT NULL, server TEXT NOT NULL,
  at REAL NOT NULL, change TEXT NOT NULL);
CREATE INDEX history_of ON history(site, farm, server, id);
CREATE TABLE freezes (
  site TEXT NOT NULL, farm TEXT NOT NULL, server TEXT NOT NULL, reason TEXT NOT NULL,
  holder TEXT NOT NULL, since REAL NOT NULL, expires REAL, PRIMARY KEY (site, farm, server));
CREATE TABLE wishes (
  id INTEGER PRIMARY KEY, site TEXT NOT NULL, farm TEXT NOT NULL, at REAL NOT NULL);
"""

Place = tuple[str, str]


class Book:
    """The file; each method is one transaction. ``:memory:`` for tests."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.connection = _open(path)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> "Book":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the engine's ----------------------------------------------------------------------------

    def keep(
        self,
        farms: Mapping[Place, tuple[Mapping[str, Any], Mapping[str, Any]]],
        engine: Mapping[str, Any],
    ) -> None:
        """Write the memory and the view of these farms, and what the engine says of itself."""
        with transaction(self.connection):
            self.connection.executemany(
                "INSERT OR REPLACE INTO farms VALUES (?, ?, ?, ?)",
                [(*place, json.dumps(memory), json.dumps(view))
                 for place, (memory, view) in farms.items()],
            )  # fmt: skip
            self.connection.executemany(
                "INSERT OR REPLACE INTO engine VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in engine.items()],
            )

    def prune(self, farms: Iterable[Place]) -> None:
        """Forget farms that the pillar no longer has, and all of theirs but their freezes."""
        known = set(farms)
        with transaction(self.connection):
            rows = self.connection.execute(
                "SELECT site, farm FROM farms UNION SELECT site, farm FROM history"
            ).fetchall()
            for row in rows:
                if tuple(row) not in known:
                    for table in ("farms", "history"):
                        self.connection.execute(
                            f"DELETE FROM {table} WHERE site=? AND farm=?", tuple(row)
                        )

    def memories(self) -> dict[Place, dict[str, Any]]:
        """The memory of each farm."""
        rows = self.connection.execute("SELECT site, farm, memory FROM farms").fetchall()
        return {(row["site"], row["farm"]): json.loads(row["memory"]) for row in rows}

    def record(self, site: str, farm: str, at: float, changes: Iterable[Mapping[str, Any]]) -> None:
        """Add servers' changes to the history; the oldest go."""
        with transaction(self.connection):
            for change in changes:
                place = (site, farm, str(change["server"]))
                self.connection.execute(
                    "INSERT INTO history (site, farm, server, at, change) VALUES (?, ?, ?, ?, ?)",
                    (*place, at, json.dumps(change)),
                )
                self.connection.execute(
                    "DELETE FROM history WHERE site=?1 AND farm=?2 AND server=?3 AND id <= (SELECT"
                    " id FROM history WHERE site=?1 AND farm=?2 AND server=?3"
                    " ORDER BY id DESC LIMIT 1 OFFSET ?4)",
                    (*place, KEPT),
                )

    def wishes(self) -> list[Place]:
        """Take out the wishes to send a farm's vector again."""
        with transaction(self.connection):
            rows = self.connection.execute("DELETE FROM wishes RETURNING site, farm").fetchall()
        return [(row["site"], row["farm"]) for row in rows]

    # -- the runner's ----------------------------------------------------------------------------

    def engine(self) -> dict[str, Any]:
        """What the engine said of itself with its last tick; empty when it never ran."""
        rows = self.connection.execute("SELECT key, value FROM engine").fetchall()
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def views(self) -> dict[Place, dict[str, Any]]:
        """Each farm as the engine saw it with its last tick."""
        rows = self.connection.execute("SELECT site, farm, view FROM farms").fetchall()
        return {(row["site"], row["farm"]): json.loads(row["view"]) for row in rows}

    def history(self, site: str, farm: str, server: str, limit: int = KEPT) -> list[dict[str, Any]]:
        """A server's last changes, newest first, each with ``at``."""
        rows = self.connection.execute(
            "SELECT at, change FROM history WHERE site=? AND farm=? AND server=?"
            " ORDER BY id DESC LIMIT ?",
            (site, farm, server, limit),
        ).fetchall()
        return [{"at": row["at"], **json.loads(row["change"])} for row in rows]

    def wish(self, places: Iterable[Place], now: float) -> None:
        """Ask the engine to send these farms' vectors again."""
        with transaction(self.connection):
            self.connection.executemany(
                "INSERT INTO wishes (site, farm, at) VALUES (?, ?, ?)",
                [(site, farm, now) for site, farm in places],
            )

    def freeze(self, freeze: Freeze) -> None:
        """Write a freeze; one of the same thing is replaced."""
        with transaction(self.connection):
            self.connection.execute(
                "INSERT OR REPLACE INTO freezes VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    freeze.site,
                    freeze.farm or "",
                    freeze.server or "",
                    freeze.reason,
                    freeze.holder,
                    freeze.since,
                    freeze.expires,
                ),
            )

    def thaw(self, site: str, farm: str | None, server: str | None) -> bool:
        """Delete exactly that freeze; whether there was one."""
        with transaction(self.connection):
            cursor = self.connection.execute(
                "DELETE FROM freezes WHERE site=? AND farm=? AND server=?",
                (site, farm or "", server or ""),
            )
            return cursor.rowcount > 0

    def freezes(self, now: float) -> list[Freeze]:
        """Those that have not expired."""
        rows = self.connection.execute("SELECT * FROM freezes ORDER BY since").fetchall()
        found = [
            Freeze(
                row["site"],
                row["farm"] or None,
                row["server"] or None,
                row["reason"],
                row["holder"],
                row["since"],
                row["expires"],
            )
            for row in rows
        ]
        return [freeze for freeze in found if freeze.lasts(now)]


def _open(path: Path | str) -> sqlite3.Connection:
    if str(path) != ":memory:":
        folder = Path(path).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, flags, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        with transaction(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={FORMAT}")
        if version not in (0, FORMAT):
            raise WebfarmError(
                f"{path} has format {version}, this version of Webfarm knows {FORMAT}; move it "
                "away: only freezes and history are lost with it"
            )
    except sqlite3.Error as error:
        connection.close()
        raise WebfarmError(
            f"{path} cannot be used ({error}); look at the disk, or move the file away together "
            "with its -wal and -shm: only freezes and history are lost with it"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection

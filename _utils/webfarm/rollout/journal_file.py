"""The journal's file: its format, how it is opened or refused, and its transactions.

SQLite, one file ``journal.sqlite`` (mode 0600) in the master's cache directory; WAL and
``synchronous=FULL``, so that what was written survives a power cut. ``PRAGMA user_version`` is the
format's version.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from webfarm.errors import WebfarmError

FORMAT = 2
BUSY_SECONDS = 10.0
TABLES = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, goals TEXT NOT NULL, policy TEXT NOT NULL,
  override TEXT NOT NULL, undoes INTEGER REFERENCES runs(id),
  state TEXT NOT NULL CHECK (state IN ('running', 'paused',
    'done', 'nothing', 'refused', 'aborted', 'failed', 'rolled_back')),
  holder TEXT NOT NULL, host TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  wish TEXT CHECK (wish IN ('pause', 'abort', 'rollback')),
  wish_by TEXT, wish_why TEXT, wish_at REAL,
  waits INTEGER, approved INTEGER NOT NULL DEFAULT 0, outcome TEXT);
CREATE TABLE rollouts (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs(id),
  site TEXT NOT NULL, farm TEXT NOT NULL, server TEXT, release TEXT NOT NULL,
  state TEXT NOT NULL, holder TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  before TEXT, outcome TEXT);
CREATE INDEX rollouts_of ON rollouts(run);
CREATE INDEX rollouts_at ON rollouts(site, farm);
CREATE TABLE steps (
  id INTEGER PRIMARY KEY, rollout INTEGER REFERENCES rollouts(id),
  run INTEGER REFERENCES runs(id), name TEXT NOT NULL, targets TEXT NOT NULL, why TEXT NOT NULL,
  state TEXT NOT NULL, started REAL NOT NULL, ended REAL, evidence TEXT,
  CHECK ((rollout IS NULL) <> (run IS NULL)));
CREATE INDEX steps_of ON steps(rollout);
CREATE INDEX steps_of_run ON steps(run);
CREATE TABLE leases (
  site TEXT PRIMARY KEY, holder TEXT, host TEXT, pid INTEGER, started TEXT, boot TEXT,
  since REAL, doing TEXT, beat REAL, expires REAL, seconds REAL, token INTEGER NOT NULL);
CREATE TABLE records (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
  why TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE bad_releases (
  release TEXT PRIMARY KEY, who TEXT NOT NULL, why TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE quarantine (
  site TEXT NOT NULL, farm TEXT NOT NULL, server TEXT NOT NULL, why TEXT NOT NULL,
  since REAL NOT NULL, PRIMARY KEY (site, farm, server));
"""


class BadJournal(WebfarmError):
    """The journal is damaged, or of a format that this version does not know."""


def connect(path: Path | str) -> sqlite3.Connection:
    """Open the journal's database, made if missing; ``:memory:`` for tests.

    Raises :class:`BadJournal` for a file that this version cannot go on from; it is left as it is.
    """
    if str(path) != ":memory:":
        path = Path(path)
        _make(path)
        _check(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        if _version(connection) == 0:  # who only looks does not wait for who writes
            _make_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


class transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK when the block raises or cannot be committed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:  # a full disk may have rolled it back already
                self.connection.execute("ROLLBACK")


class Book:
    """What is kept in the journal's database; each write is one transaction of :meth:`write`.

    guard
        Called within each transaction before anything is written; what it raises, such as
        :class:`lease.Held` by ``Hold.confirm``, forbids the write. None: nothing does.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.guard: Callable[[], None] | None = None

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction; whoever else writes waits for its end."""
        with transaction(self.connection):
            if self.guard is not None:
                self.guard()
            yield


def _make(path: Path) -> None:
    """Create the file for its owner only; one that is there is not opened.

    To close any descriptor of a database gives up the locks that SQLite has on it for a connection
    of the same process (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadJournal(
                f"the journal {path} is not a regular file; find out who put it there, move it away"
            ) from None


def _check(path: Path) -> None:
    """Raise for a file that is not a whole journal of this format, before anything is written."""
    if path.stat().st_size == 0 or Path(f"{path}-journal").exists():
        return  # just made, or whoever made it was killed at it: SQLite repairs that when it opens
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            connection.execute("BEGIN")  # one moment: another process may be making the tables
            version = _version(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise WebfarmError(
            f"the journal {path} cannot be read ({error}); use the account of the Salt master, and "
            "look at the disk"
        ) from error
    except sqlite3.DatabaseError as error:
        raise BadJournal(_damaged(path, str(error))) from error
    if damage != "ok":
        raise BadJournal(_damaged(path, damage))
    if version != FORMAT and not (version == 0 and tables == 0):
        raise BadJournal(_unknown(path, version))
    with suppress(PermissionError):
        path.chmod(0o600)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite does not wait for another process that does the same just now."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _make_tables(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        if _version(connection) == 0:
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={FORMAT}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _unknown(path: Path | str, version: int) -> str:
    if version > FORMAT:
        remedy = "use the version of Webfarm that wrote it, or a later one"
    else:
        remedy = (
            "no release of Webfarm wrote that. Finish its rollouts with the version that did, then "
            "move the file away; without it a farm that is out of service can only go forward"
        )
    return (
        f"the journal {path} has format {version}, this version of Webfarm knows {FORMAT}; "
        f"nothing was changed; {remedy}"
    )


def _damaged(path: Path, error: str) -> str:
    return (
        f"the journal {path} is damaged or not a journal ({error.splitlines()[0]:.200}); nothing "
        "was changed. Restore it from a copy, or move it away together with its -wal and -shm: "
        "rollouts go on from what the cluster shows, but a farm that is out of service can then "
        "only go forward"
    )

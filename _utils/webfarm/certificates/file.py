"""The certificates' file: its format, how it is opened or refused.

SQLite, one file ``webfarm_certificates.sqlite`` (mode 0600) beside the journal, with
``synchronous=EXTRA``: what was signed survives a power cut. ``PRAGMA user_version`` is the
format's version.
"""

import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path

from webfarm.errors import WebfarmError
from webfarm.rollout.journal_file import BUSY_SECONDS, transaction

NAME = "webfarm_certificates.sqlite"
FORMAT = 1
SMALLEST = 512  # bytes of a database's smallest page
TABLES = """
CREATE TABLE certificates (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('packages', 'release')),
  words TEXT NOT NULL, profiles TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('running', 'passed', 'failed')),
  who TEXT NOT NULL, host TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  message TEXT NOT NULL DEFAULT '',
  revoked_at REAL, revoked_by TEXT, revoked_why TEXT);
CREATE INDEX certificates_of ON certificates(kind, words);
CREATE TABLE tested (
  certificate INTEGER NOT NULL REFERENCES certificates(id), profile TEXT NOT NULL,
  server TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('running', 'passed', 'failed')),
  started REAL NOT NULL, ended REAL, boots TEXT NOT NULL, packages TEXT NOT NULL,
  release TEXT NOT NULL, evidence TEXT NOT NULL, message TEXT NOT NULL,
  PRIMARY KEY (certificate, profile));
CREATE TABLE installs (
  id INTEGER PRIMARY KEY, certificate INTEGER NOT NULL REFERENCES certificates(id),
  server TEXT NOT NULL, at REAL NOT NULL, expected TEXT NOT NULL,
  active INTEGER NOT NULL DEFAULT 0 CHECK (active IN (0, 1)));
CREATE INDEX installs_of ON installs(server)
"""


class BadFile(WebfarmError):
    """The file is damaged, or of a format that this version does not know."""


def connect(path: Path | str) -> sqlite3.Connection:
    """Open the file, made if missing; ``:memory:`` for an empty one.

    Raises :class:`BadFile` for one that cannot be relied on; it is left as it is.
    """
    if str(path) != ":memory:":
        _make(Path(path))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        _check(connection, path)
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA foreign_keys=ON")
        if _version(connection) == 0:
            with transaction(connection):
                if _version(connection) == 0:  # nobody else was faster
                    for statement in TABLES.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version={FORMAT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadFile(
                f"{path} is not a regular file; find out who put it there, and move it away. "
                "Nothing was changed"
            ) from None
        with suppress(PermissionError):
            path.chmod(0o600)


def _check(connection: sqlite3.Connection, path: Path | str) -> None:
    try:
        if str(path) != ":memory:" and 0 < Path(path).stat().st_size < SMALLEST:
            raise sqlite3.DatabaseError("it is too small")  # SQLite would write over it
        connection.execute("BEGIN")  # one moment: another process may be making the tables
        try:
            version = _version(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise WebfarmError(
            f"the certificates {path} cannot be read ({error}); use the account of the Salt "
            "master, and look at the disk. Nothing was changed"
        ) from error
    except sqlite3.DatabaseError as error:
        damage, version, tables = str(error), FORMAT, 1
    if damage != "ok":
        raise BadFile(
            f"the certificates {path} are damaged ({str(damage).splitlines()[0]:.200}); nothing "
            "was changed. Restore the file from a copy, or move it away and certify again what "
            "production shall take"
        )
    if version != FORMAT and (version or tables):
        raise BadFile(
            f"the certificates {path} have format {version}, this version of Webfarm knows "
            f"{FORMAT}; nothing was changed. Use the version of Webfarm that wrote the file, or "
            "move it away and certify again what production shall take"
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])

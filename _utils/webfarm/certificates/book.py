"""The certificates as they are kept: begun, tested, ended, revoked, read back with suspicion."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from webfarm.certificates import file, shapes
from webfarm.certificates.model import PACKAGES, Certificate, Subject, Tested
from webfarm.errors import WebfarmError
from webfarm.packages.wanted import is_wanted
from webfarm.rollout.journal_file import transaction
from webfarm.rollout.ledger import line

ENDED = "its process ended before its tests did"


class Book:
    """The certificates in one file.

    guard
        Called within each write; what it raises, such as a lost lease, forbids the write.
    """

    def __init__(
        self, connection: sqlite3.Connection, guard: Callable[[], None] | None = None
    ) -> None:
        self.connection = connection
        self.guard = guard

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with transaction(self.connection):
            if self.guard is not None:
                self.guard()
            yield self.connection

    # -- a certification -----------------------------------------------------------------------

    def begin(
        self, subject: Subject, servers: Mapping[str, str], who: str, host: str, now: float
    ) -> int:
        """Start one; ``servers`` has a server for each profile, which the caller holds.

        Whatever was left ``running`` on these servers has no process any more, and has failed.
        """
        with self._write() as connection:
            for name in servers.values():
                left = connection.execute(
                    "SELECT certificate FROM tested JOIN certificates ON id=certificate"
                    " WHERE server=? AND certificates.state='running'",
                    (name,),
                ).fetchall()
                for row in left:
                    self._end(row["certificate"], "failed", ENDED, now)
            number = connection.execute(
                "INSERT INTO certificates (kind, words, profiles, state, who, host, started)"
                " VALUES (?, ?, ?, 'running', ?, ?, ?)",
                (
                    subject.kind,
                    json.dumps(subject.words),
                    json.dumps(sorted(servers)),
                    line(who),
                    line(host),
                    now,
                ),
            ).lastrowid
            for profile, server in servers.items():
                self._put(int(number or 0), Tested(profile, server, "running", now))
        return int(number or 0)

    def install(self, certificate: int, server: str, expected: shapes.Expected, now: float) -> int:
        """Write which binaries are about to be installed on a server; gives the entry's id."""
        with self._write() as connection:
            cursor = connection.execute(
                "INSERT INTO installs (certificate, server, at, expected) VALUES (?, ?, ?, ?)",
                (certificate, server, now, json.dumps(expected)),
            )
        return int(cursor.lastrowid or 0)

    def activated(self, server: str) -> None:
        """Write that what is installed on the server also runs."""
        with self._write() as connection:
            connection.execute("UPDATE installs SET active=1 WHERE server=?", (server,))

    def tested(self, certificate: int, tested: Tested) -> None:
        """Write how the tests of a profile went."""
        with self._write():
            self._put(certificate, tested)

    def end(self, certificate: int, state: str, message: str, now: float) -> None:
        """Write how it ended: ``passed`` or ``failed``."""
        with self._write():
            self._end(certificate, state, message, now)

    def installs(self, server: str) -> tuple[shapes.Expected, bool]:
        """The binaries that were last meant for the server, and whether all of them were activated.

        An entry that is damaged knows nothing, and counts as not activated.
        """
        known: shapes.Expected = {}
        active = True
        rows = self.connection.execute(
            "SELECT expected, active FROM installs WHERE server=? ORDER BY id", (server,)
        )
        for row in rows:
            try:
                known |= shapes.expected(json.loads(row["expected"]), "installs")
                active = active and row["active"] == 1
            except (ValueError, TypeError, RecursionError, WebfarmError):
                active = False
        return known, active

    def installed_by(self, certificate: int, server: str) -> shapes.Expected:
        """The binaries that this certification meant for the server."""
        known: shapes.Expected = {}
        rows = self.connection.execute(
            "SELECT expected FROM installs WHERE certificate=? AND server=? ORDER BY id",
            (certificate, server),
        )
        for row in rows:
            with suppress(ValueError, TypeError, RecursionError, WebfarmError):
                known |= shapes.expected(json.loads(row["expected"]), "installs")
        return known

    # -- afterwards ----------------------------------------------------------------------------

    def revoke(self, certificate: int, who: str, why: str, now: float) -> Certificate:
        """Let a certificate count no more; raises when it does not count anyway."""
        found = self.get(certificate)
        if found.revoked_at is not None or found.state != "passed":
            state = "revoked already" if found.revoked_at is not None else found.state
            raise WebfarmError(f"certificate {certificate} is {state}; nothing was changed")
        with self._write() as connection:
            connection.execute(
                "UPDATE certificates SET revoked_at=?, revoked_by=?, revoked_why=?"
                " WHERE id=? AND revoked_at IS NULL",
                (now, line(who), line(why), certificate),
            )
        return self.get(certificate)

    def get(self, certificate: int) -> Certificate:
        """The certificate of this number."""
        row = self.connection.execute(
            "SELECT * FROM certificates WHERE id=?", (certificate,)
        ).fetchone()
        if row is None:
            raise WebfarmError(
                f"there is no certificate {certificate}; see `salt-run upgrade.certificates`"
            )
        return self._read(row)

    def latest(self, limit: int) -> list[Certificate]:
        """The latest, newest first."""
        rows = self.connection.execute(
            "SELECT * FROM certificates ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [self._read(row) for row in rows.fetchall()]

    def of(self, subject: Subject) -> list[Certificate]:
        """Those of the very same subject, newest first."""
        rows = self.connection.execute(
            "SELECT * FROM certificates WHERE kind=? AND words=? ORDER BY id DESC",
            (subject.kind, json.dumps(subject.words)),
        )
        return [self._read(row) for row in rows.fetchall()]

    # -- shared --------------------------------------------------------------------------------

    def _put(self, certificate: int, tested: Tested) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO tested VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                certificate,
                tested.profile,
                tested.server,
                tested.state,
                tested.started,
                tested.ended,
                json.dumps(tested.boots),
                json.dumps(tested.packages),
                json.dumps(tested.release),
                json.dumps(tested.evidence, default=str),
                tested.message,
            ),
        )

    def _end(self, certificate: int, state: str, message: str, now: float) -> None:
        self.connection.execute(
            "UPDATE certificates SET state=?, message=?, ended=? WHERE id=? AND state='running'",
            (state, message, now, certificate),
        )
        self.connection.execute(
            "UPDATE tested SET state='failed', ended=?, message=? WHERE certificate=?"
            " AND state='running'",
            (now, message, certificate),
        )

    def _read(self, row: sqlite3.Row) -> Certificate:
        try:
            rows = self.connection.execute(
                "SELECT * FROM tested WHERE certificate=? ORDER BY profile", (row["id"],)
            )
            return _certificate(row, rows.fetchall())
        except (ValueError, TypeError, RecursionError, OverflowError, WebfarmError) as error:
            nothing = Subject(PACKAGES if row["kind"] == PACKAGES else "release", ("?",))
            why = line(f"what is kept of it cannot be relied on: {error}")
            return Certificate(row["id"], nothing, (), "damaged", "?", "?", 0.0, None, why)


@contextmanager
def opened(path: Path | str, make: bool = False) -> Iterator[Book]:
    """The book in the file; an empty one where there is none, unless it is to be made."""
    there = make or Path(path).exists() or Path(path).is_symlink()
    try:
        with closing(file.connect(path if there else ":memory:")) as connection:
            yield Book(connection)
    except sqlite3.Error as error:
        raise WebfarmError(
            f"the certificates {path} cannot be used ({error}), so nothing was signed; make room "
            "on the master's disk, then type the command again"
        ) from error


# -- reading ---------------------------------------------------------------------------------------


def _certificate(row: sqlite3.Row, tested: Sequence[sqlite3.Row]) -> Certificate:
    profiles = tuple(shapes.name(name, "profile") for name in _list(row["profiles"], "profiles"))
    subject = Subject(row["kind"], _words(row["kind"], row["words"]))
    found = {shapes.name(one["profile"], "profile"): _tested(one, subject) for one in tested}
    if row["state"] == "passed" and (
        not profiles
        or set(found) != set(profiles)
        or any(one.state != "passed" for one in found.values())
    ):
        raise shapes.BadShape("it says that it passed, its tests say otherwise")
    return Certificate(
        id=int(row["id"]),
        subject=subject,
        profiles=profiles,
        state=_text(row["state"]),
        who=_text(row["who"]),
        host=_text(row["host"]),
        started=_number(row["started"]),
        ended=_number(row["ended"]) if row["state"] != "running" else None,
        message=_text(row["message"]),
        revoked_at=None if row["revoked_at"] is None else _number(row["revoked_at"]),
        revoked_by=_text(row["revoked_by"] or ""),
        revoked_why=_text(row["revoked_why"] or ""),
        tested=found,
    )


def _tested(row: sqlite3.Row, subject: Subject) -> Tested:
    release = shapes.mapping(json.loads(row["release"]), "release")
    packages = shapes.expected(json.loads(row["packages"]), "packages")
    if row["state"] == "passed":
        if subject.kind == PACKAGES and not packages:
            raise shapes.BadShape("it names no package that was tested")
        if subject.kind != PACKAGES:
            for key in ("php", "webapp"):
                shapes.name(release.get(key), key)
                shapes.tree(shapes.mapping(release.get("digests"), "digests").get(key))
    return Tested(
        profile=row["profile"],
        server=shapes.name(row["server"], "server"),
        state=_text(row["state"]),
        started=_number(row["started"]),
        ended=None if row["ended"] is None else _number(row["ended"]),
        boots=tuple(shapes.boot(one) for one in _list(row["boots"], "boots")),
        packages=packages,
        release=release,
        evidence=tuple(shapes.mapping(e, "evidence") for e in _list(row["evidence"], "evidence")),
        message=_text(row["message"]),
    )


def _words(kind: str, packed: str) -> tuple[str, ...]:
    words = tuple(_list(packed, "words"))
    if kind == PACKAGES:
        if not words or not all(is_wanted(word) for word in words):
            raise shapes.BadShape(f"its packages are {packed!a:.80}")
        return words
    if len(words) != 1:
        raise shapes.BadShape(f"its release is {packed!a:.80}")
    return (shapes.name(words[0], "release"),)


def _list(packed: str, what: str) -> list[Any]:
    value = json.loads(packed)
    if not isinstance(value, list) or len(value) > shapes.MOST:
        raise shapes.BadShape(f"{what} is {packed!a:.80}, expected a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise shapes.BadShape(f"{value!a:.60} is not text")
    return line(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise shapes.BadShape(f"{value!a:.60} is not a time")
    return float(value)

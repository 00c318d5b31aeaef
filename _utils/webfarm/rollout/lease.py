"""One rollout per site: a row in the journal's database says who holds it, since when, where.

A lease that is not renewed expires, for its holder as for all others. On the machine that holds it
the time is counted by the monotonic clock, which no correction of the time of day moves; another
machine has only the time of day. Neither can stop a message that is already under way: for that
each holder has a higher token, which every message of a rollout bears (:class:`Hold`) and which the
minions compare.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments
from webfarm.rollout.journal_file import transaction
from webfarm.rollout.journal_runs import age
from webfarm.rollout.ledger import line, note

LEASE_SECONDS = 60.0


class Held(WebfarmError):
    """Another rollout holds the site, or this one has lost it."""


class Clock(Protocol):
    """The part of a rollout's clock that a lease reads."""

    def time(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, the same for every process since the machine's start."""
        ...


@dataclass(frozen=True)
class Process:
    """One process for good: a pid is used again, but not with its start time in the same boot."""

    host: str
    pid: int
    started: str
    boot: str


def this_process() -> Process:
    """The process that runs this code."""
    pid = os.getpid()
    return Process(socket.gethostname(), pid, _started(pid) or "", _boot())


def is_dead(process: Process) -> bool:
    """The process has certainly ended; one on another host is never known to be dead."""
    if process.host != socket.gethostname():
        return False
    return process.boot != _boot() or _started(process.pid) != process.started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> str | None:
    """Field 22 of proc(5)'s stat: ticks between boot and the start of the process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


class Lease:
    """The hold of one process on one site; ``token`` grows with each holder.

    seconds
        How long it lasts without :meth:`renew`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        site: str,
        holder: str,
        clock: Clock = time,
        process: Process | None = None,
        dead: Callable[[Process], bool] = is_dead,
        seconds: float = LEASE_SECONDS,
    ) -> None:
        self.connection = connection
        self.site = names.check(site, "site")
        self.holder = line(holder)
        self.clock = clock
        self.process = process or this_process()
        self.dead = dead
        self.seconds = seconds
        self.token = 0
        self.taken = 0.0
        self.beaten = 0.0

    def take(self, doing: str) -> None:
        """Hold the site; raises :class:`Held` that names who does, unless it is dead or expired."""
        Hold([self]).take(doing)

    def renew(self) -> None:
        """Hold it for ``seconds`` more; raises :class:`Held` when it was lost or has expired."""
        with transaction(self.connection):
            self.confirm()
            self._beat()

    def confirm(self) -> None:
        """Raise :class:`Held` when it was lost or has expired: this holder must do nothing more."""
        row = self.connection.execute(
            "SELECT token FROM leases WHERE site=? AND host IS NOT NULL", (self.site,)
        ).fetchone()
        if not self.token or row is None or row["token"] != self.token:
            raise Held(
                f"the lease of {self.site} is no longer held by this rollout: another took over, "
                "or it was unlocked; nothing more is done here. See `salt-run upgrade.status`"
            )
        silent = self.clock.monotonic() - self.beaten
        if silent > self.seconds:
            raise Held(
                f"the lease of {self.site} has expired: this process did not renew it for "
                f"{silent:.0f} s, at most {self.seconds:.0f} s are allowed (was it suspended?); "
                "nothing more is done here. See `salt-run upgrade.status`, then "
                "`salt-run upgrade.resume` the run"
            )

    def release(self) -> None:
        """Let go; nothing happens when another holds the site by now."""
        Hold([self]).release()

    def _take(self, doing: str) -> None:
        """Within a transaction."""
        row = _row(self.connection, self.site)
        if row is not None and alive(row, self.clock, self.process, self.dead):
            raise Held(held_by(row, self.clock.time()))
        now = self.clock.time()
        # counted from the time of day, so that it also grows when the journal was lost
        self.token = max((row["token"] if row is not None else 0) + 1, int(now))
        at = self.process
        self.connection.execute(
            "INSERT OR REPLACE INTO leases (site, holder, host, pid, started, boot, since, doing,"
            " token) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self.site,
                self.holder,
                at.host,
                at.pid,
                at.started,
                at.boot,
                now,
                line(doing),
                self.token,
            ),
        )
        self._beat()
        self.taken = self.beaten

    def _beat(self) -> None:
        self.beaten = self.clock.monotonic()
        self.connection.execute(
            "UPDATE leases SET beat=?, expires=?, seconds=? WHERE site=?",
            (self.beaten, self.clock.time() + self.seconds, self.seconds, self.site),
        )


class Hold:
    """The leases of all sites of a run; its proof ``SITE:TOKEN.N`` goes with every message.

    N counts the messages, so that one which was given up on, and arrives late, is older than all
    that was sent since.
    """

    def __init__(self, leases: Iterable[Lease]) -> None:
        self.leases = {lease.site: lease for lease in sorted(leases, key=lambda x: x.site)}
        self.sent = dict.fromkeys(self.leases, 0)

    def take(self, doing: str) -> None:
        """Hold every site or, when :class:`Held` is raised, none."""
        leases = list(self.leases.values())
        try:
            with transaction(leases[0].connection):
                for lease in leases:
                    lease._take(doing)
        except BaseException:
            for lease in leases:
                lease.token = 0
            raise
        self.sent = dict.fromkeys(self.leases, 0)

    def beat(self) -> None:
        """Renew what is older than a sixth of its time; raises :class:`Held` when one is lost."""
        for lease in self.leases.values():
            if lease.clock.monotonic() - lease.beaten > lease.seconds / 6:
                lease.renew()

    def confirm(self) -> None:
        """Raise :class:`Held` when any is lost or has expired."""
        for lease in self.leases.values():
            lease.confirm()

    def of(self, site: str) -> str:
        """The proof for the next message to the site's nodes, the same for all of them."""
        self.sent[site] += 1
        return f"{site}:{self.leases[site].token}.{self.sent[site]}"

    def held_seconds(self, site: str) -> float:
        """For how long the site is held."""
        lease = self.leases[site]
        return lease.clock.monotonic() - lease.taken

    def release(self) -> None:
        """Let go of all that is still held."""
        leases = list(self.leases.values())
        with transaction(leases[0].connection):
            for lease in leases:
                lease.connection.execute(
                    f"{_FREE} WHERE site=? AND token=?", (lease.site, lease.token)
                )


_FREE = "UPDATE leases SET host=NULL, holder=NULL, doing=NULL, beat=NULL, expires=NULL"


def unlock(
    connection: sqlite3.Connection, site: str, who: str, why: str, clock: Clock
) -> dict[str, Any]:
    """Take the site from its holder, whoever it is; who did it and why is recorded.

    The token is raised: the old holder does nothing more, and a minion that has heard of the next
    one refuses it. Returns the site, the new token and who held it; raises when nobody does.
    """
    names.check(site, "site")
    who, why = arguments.reason(who, "user", True), arguments.reason(why, "reason", True)
    with transaction(connection):
        row = _row(connection, site)
        if row is None or row["host"] is None:
            raise WebfarmError(f"nobody holds {site}: there is nothing to unlock")
        kept = ("holder", "host", "pid", "since", "doing", "token")
        was = {key: row[key] for key in kept}
        token = max(row["token"] + 1, int(clock.time()))
        connection.execute(f"{_FREE}, token=? WHERE site=?", (token, site))
        note(connection, "unlock", who, why, {"site": site, "was": was}, clock.time())
    return {"site": site, "token": token, "was": was}


def alive(
    row: sqlite3.Row | Mapping[str, Any],
    clock: Clock,
    process: Process | None = None,
    dead: Callable[[Process], bool] = is_dead,
) -> bool:
    """The row of ``leases`` is held: its process may live and has renewed it in time.

    process
        The one that asks; default: this one.
    """
    if row["host"] is None:
        return False
    holder = Process(row["host"], row["pid"], row["started"], row["boot"])
    if dead(holder):
        return False
    process = process or this_process()
    if (holder.host, holder.boot) == (process.host, process.boot):
        return bool(clock.monotonic() - row["beat"] <= row["seconds"])
    return bool(clock.time() <= row["expires"])


def held_by(row: sqlite3.Row, now: float) -> str:
    """Who holds the site, for a message."""
    return (
        f"{row['site']} is held by {row['holder']} on {row['host']} (pid {row['pid']}) since "
        f"{age(now - row['since'])}: {row['doing']}. See `salt-run upgrade.status`; "
        f"wait for it, or `salt-run upgrade.pause` it; if its process can never go on, "
        f"`salt-run upgrade.unlock {row['site']} reason='…'`"
    )


def holders(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """The leases that are held now, by live processes or dead ones."""
    return list(connection.execute("SELECT * FROM leases WHERE host IS NOT NULL ORDER BY site"))


def _row(connection: sqlite3.Connection, site: str) -> sqlite3.Row | None:
    row = connection.execute("SELECT * FROM leases WHERE site=?", (site,)).fetchone()
    return row if isinstance(row, sqlite3.Row) else None

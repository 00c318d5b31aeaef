"""One rollout per site: a row in the journal's database says who holds it, since when, where."""

import os
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from webfarm.errors import WebfarmError


class Held(WebfarmError):
    """Another rollout holds the site."""


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
    """The hold of one process on one site; ``token`` grows with each holder."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        site: str,
        holder: str,
        process: Process | None = None,
        dead: Callable[[Process], bool] = is_dead,
    ) -> None:
        self.connection = connection
        self.site = site
        self.holder = holder
        self.process = process or this_process()
        self.dead = dead
        self.token = 0

    def take(self, doing: str, now: float) -> None:
        """Hold the site; raises :class:`Held` that names who does, unless that process is dead."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            row = self.connection.execute(
                "SELECT * FROM leases WHERE site=?", (self.site,)
            ).fetchone()
            if row is not None and row["host"] is not None:
                process = Process(row["host"], row["pid"], row["started"], row["boot"])
                if not self.dead(process):
                    raise Held(held_by(row, now))
            self.token = (row["token"] if row is not None else 0) + 1
            self.connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self.site,
                    self.holder,
                    self.process.host,
                    self.process.pid,
                    self.process.started,
                    self.process.boot,
                    now,
                    doing,
                    self.token,
                ),
            )
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def confirm(self) -> None:
        """Raise :class:`Held` when another holder took over: this one must do nothing more."""
        row = self.connection.execute(
            "SELECT token FROM leases WHERE site=? AND host IS NOT NULL", (self.site,)
        ).fetchone()
        if row is None or row["token"] != self.token:
            raise Held(
                f"the lease of {self.site} is no longer held by this rollout; another took over. "
                "See `salt-run upgrade.status`"
            )

    def release(self) -> None:
        """Let go; nothing happens when another holds the site by now."""
        self.connection.execute(
            "UPDATE leases SET host=NULL, holder=NULL, doing=NULL WHERE site=? AND token=?",
            (self.site, self.token),
        )


def held_by(row: sqlite3.Row, now: float) -> str:
    """Who holds the site, for a message."""
    return (
        f"{row['site']} is held by {row['holder']} on {row['host']} (pid {row['pid']}) since "
        f"{max(0, int(now - row['since']))} s: {row['doing']}. See `salt-run upgrade.status`; "
        "wait for it, or stop it with Ctrl-C where it runs"
    )


def holders(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """The leases that are held now, by live processes or dead ones."""
    return list(connection.execute("SELECT * FROM leases WHERE host IS NOT NULL ORDER BY site"))

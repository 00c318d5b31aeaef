"""A `salt-run` on the simulated master: the real commands, conductor, journal and Salt adapter.

Each controller is an actor with its own connection to the journal's file, so it can be killed
before or after any statement, find the disk full, or be suspended.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rollout import journal as journal_
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Process
from webfarm.rollout.salt_cluster import SaltCluster

from .network import Client
from .timeline import START, Actor, Killed
from .world import World

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "COMMIT")


class Master:
    """The machine of the controllers: its disk, its clocks, which of its processes live.

    knows_the_dead
        False: that a holder has died is not known for certain, its lease must expire.
    """

    def __init__(self, world: World, journal: Path) -> None:
        self.world = world
        self.journal = journal
        self.disk_full = False
        self.wall = 0.0  # how far the wall clock is off
        self.boot = 1
        self.booted = START - 1000.0
        self.knows_the_dead = True
        self.controllers: list[Controller] = []
        journal_.connect(journal).close()

    def dead(self, process: Process) -> bool:
        """``lease.is_dead``: certainly ended."""
        if process.boot != str(self.boot):
            return True
        mine = self.controllers[process.pid]
        return self.knows_the_dead and (mine.actor.over or mine.actor.killed)

    def reboot(self) -> None:
        """Every process is gone, and the monotonic clock begins anew."""
        self.world.log("-- the master reboots")
        for controller in self.controllers:
            self.world.end(controller.actor)
        self.boot += 1
        self.booted = self.world.now

    @contextmanager
    def journal_of_now(self) -> Iterator[journal_.Journal]:
        """The journal as a test reads it."""
        with closing(sqlite3.connect(self.journal, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            yield journal_.Journal(connection)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Journals that the library opens meanwhile go through :class:`Disk`."""
        connect = journal_.connect

        def faulty(path: Path | str) -> Any:
            mine = self.controllers[int(self.world.current.name.rpartition("#")[2])]
            mine.disk = Disk(connect(path), mine)
            return mine.disk

        journal_.connect = faulty  # type: ignore[assignment]
        try:
            yield
        finally:
            self.world.close()
            journal_.connect = connect


class Disk:
    """One controller's connection to the journal."""

    def __init__(self, connection: sqlite3.Connection, controller: "Controller") -> None:
        self.connection = connection
        self.controller = controller

    def __getattr__(self, name: str) -> Any:
        if self.controller.actor.killed:
            raise Killed
        return getattr(self.connection, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        """Runs it, or dies before or after; a full disk refuses what would grow the file."""
        controller = self.controller
        if controller.actor.killed:
            raise Killed
        if not statement.lstrip().upper().startswith(WRITES):
            return self.connection.execute(statement, *parameters)
        if controller.master.disk_full:
            raise sqlite3.OperationalError("database or disk is full")
        controller.writes += 1
        if controller.writes == controller.crash_at and not controller.crash_after:
            controller.die()
        result = self.connection.execute(statement, *parameters)
        if controller.writes == controller.crash_at:
            controller.die()
        return result

    def executemany(self, statement: str, parameters: Any) -> Any:
        """As :meth:`execute`."""
        self.execute("UPDATE leases SET site=site WHERE 0")
        return self.connection.executemany(statement, parameters)

    def close(self) -> None:
        """What is not committed is rolled back."""
        self.connection.close()


class Controller:
    """One process; ``result`` is what its command gave, ``error`` the message that it raised.

    crash_at, crash_after
        The number of the write to the journal before or after which it is killed; 0: none.
    """

    def __init__(
        self,
        master: Master,
        what: str,
        command: Callable[[Context], dict[str, Any]],
        user: str = "op",
        crash_at: int = 0,
        crash_after: bool = False,
    ) -> None:
        self.master = master
        self.world = master.world
        self.what = what
        self.crash_at = crash_at
        self.crash_after = crash_after
        self.writes = 0
        self.interrupt = False
        self.result: dict[str, Any] | None = None
        self.error = ""
        self.disk: Disk | None = None
        self.pid = len(master.controllers)
        self.process = Process("master", self.pid, "0", str(master.boot))
        self.booted = master.booted
        self.context = Context(
            topology=self.world.topology,
            cluster=SaltCluster(Client(self.world), self.world.topology, self.monotonic),
            clock=self,
            journal_path=master.journal,
            holder=user,
            interrupted=lambda: self.interrupt,
            process=self.process,
            dead=master.dead,
        )
        master.controllers.append(self)
        self.command = command
        self.world.log(f"-- [{self.pid}] {what}" + (f" crash at {crash_at}" if crash_at else ""))
        self.actor: Actor = self.world.start(f"{what} #{self.pid}", self._body)

    # -- its clock --------------------------------------------------------------------------------

    def time(self) -> float:
        """The wall clock of the master."""
        return self.world.now + self.master.wall

    def monotonic(self) -> float:
        """Seconds since the master's boot."""
        return self.world.now - self.booted

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.world.sleep(seconds)

    # -- its life ---------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """It has ended, by itself or not."""
        return self.actor.over

    def die(self) -> None:
        """Killed here and now, in the middle of a statement."""
        self.world.log(f"-- [{self.pid}] CRASH")
        self.actor.killed = True
        raise Killed

    def _body(self) -> None:
        try:
            self.result = self.command(self.context)
            said = self.result.get("state", ""), self.result.get("message", "")
            self.world.log(f"-- [{self.pid}] {said[0]}: {said[1]}"[:300])
        except WebfarmError as error:
            self.error = str(error)
            self.world.log(f"-- [{self.pid}] raised {type(error).__name__}: {error}"[:300])
        finally:
            if self.disk is not None:
                self.disk.close()

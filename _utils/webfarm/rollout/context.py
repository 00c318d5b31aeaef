"""What every command needs: the world, the journal, and goals from names."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.rollout import arguments
from webfarm.rollout import journal as journal_
from webfarm.rollout.approvals import approvals
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import LEASE_SECONDS, Process, is_dead
from webfarm.rollout.model import Goal, Run, Wish
from webfarm.rollout.run import Conductor, in_force
from webfarm.rollout.watcher import Watcher
from webfarm.topology import Topology


@dataclass
class Context:
    """The world, handed in.

    journal_path
        The journal's database; made when a run starts.
    holder
        The user who types.
    interrupted
        True once the user has typed Ctrl-C.
    digests
        ``(kind, version)`` to the digest of the tree in the release store; raises
        :class:`WebfarmError` when the store does not have it. None: the servers check against the
        store's manifest alone.
    certified
        Packages and profiles to what was certified for each; raises :class:`WebfarmError` for what
        was not, and returns None where production needs no certificates for packages.
    process, dead
        Who holds a lease, and how to know that such a process is gone.
    """

    topology: Topology
    cluster: Cluster
    clock: Clock
    journal_path: Path | str
    holder: str
    watcher: Watcher = field(default_factory=Watcher)
    interrupted: Callable[[], bool] = lambda: False
    digests: Callable[[str, str], str] | None = None
    certified: Callable[[Sequence[str], Sequence[str]], Mapping[str, Any] | None] | None = None
    lease_seconds: float = LEASE_SECONDS
    process: Process | None = None
    dead: Callable[[Process], bool] = is_dead

    @contextmanager
    def journal(self, make: bool = False) -> Iterator[Journal]:
        """The journal; an empty one in memory where there is none, unless it is to be made."""
        there = make or Path(self.journal_path).exists()
        try:
            path = self.journal_path if there else ":memory:"
            with closing(journal_.connect(path)) as connection:
                yield Journal(connection)
        except sqlite3.Error as error:
            raise WebfarmError(
                f"the journal {self.journal_path} cannot be used ({error}), so nothing more was "
                "done; make room on the master's disk, then type the command again"
            ) from error

    def conduct(self, run: Run, wish: Wish | None = None) -> dict[str, Any]:
        """Hold the run's sites in this process and bring the run to its end, or to a pause."""
        self.watcher.expects(approvals(run, in_force(self.topology, run, strict=wish is None)))
        with self.journal(make=True) as journal:
            conductor = Conductor(
                self.topology,
                self.cluster,
                journal,
                self.clock,
                self.holder,
                self.goal_for,
                self.watcher,
                self.interrupted,
                self.process,
                self.dead,
                self.lease_seconds,
            )
            return conductor.conduct(run, wish).plain()

    def known(self, goal: Goal) -> None:
        """Raise unless the pillar still has the farm of a goal, or the servers of its wave."""
        if goal.wave is None:
            self.topology.farm(goal.site, goal.farm)
            return
        for server, farm in goal.wave.members.items():
            if server not in self.topology.farm(goal.site, farm).servers:
                raise WebfarmError(
                    f"{farm} of {goal.site} has no server {server} any more: the pillar has "
                    "changed since; end the run with `salt-run upgrade.abort`"
                )

    # -- scope and goals -----------------------------------------------------------------------

    def scope(self, site: str | None, farm: str | None) -> list[arguments.Place]:
        """Site and farm of each farm in the scope, in the pillar's order; the names are checked."""
        if site is None:
            if farm is not None:
                raise WebfarmError("a farm needs its site: salt-run upgrade.plan SITE FARM")
            return [(s, f) for s, plan in self.topology.sites.items() for f in plan.farms]
        if farm is None:
            return [(site, name) for name in self.topology.site(site).farms]
        self.topology.farm(site, farm)
        return [(site, farm)]

    def goals(
        self, places: Sequence[arguments.Place], release: str | None, reset_sessions: bool = False
    ) -> tuple[Goal, ...]:
        """A goal for each farm; raises before anything is asked or changed."""
        reset = arguments.switch(reset_sessions, "reset_sessions")
        name = self.topology.target if release is None else release
        pair = self.topology.release(name)
        digests = self._digests(pair.php, pair.webapp)
        return tuple(
            Goal(site, farm, name, pair.php, pair.webapp, digests, reset) for site, farm in places
        )

    def goal_for(self, site: str, farm: str, release: str) -> Goal | None:
        """The farm on another release, to put it back; None when the pillar does not have it."""
        pair = self.topology.releases.get(release)
        if pair is None:
            return None
        return Goal(site, farm, release, pair.php, pair.webapp)

    def _digests(self, php: str, webapp: str) -> dict[str, str] | None:
        if self.digests is None:
            return None
        return {"php": self.digests("php", php), "webapp": self.digests("webapp", webapp)}

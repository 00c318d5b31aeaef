"""Conduct runs: hold their sites, carry them out under the policies in force."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress

from webfarm.errors import WebfarmError
from webfarm.policy import Policy
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.course import Course, GoalFor, Means, again, describe
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import LEASE_SECONDS, Hold, Lease, Process, is_dead
from webfarm.rollout.model import Run, Wish
from webfarm.rollout.watcher import RunOutcome, Watcher
from webfarm.topology import Site, Topology

__all__ = ["Conductor", "again", "describe", "in_force"]


class Conductor:
    """Carries out runs; killed at any instant, the same run can be conducted again.

    goal_for, interrupted
        See :class:`webfarm.rollout.course.Means`.
    lease_seconds
        How long the sites stay held when this process is not heard of.
    """

    def __init__(
        self,
        topology: Topology,
        cluster: Cluster,
        journal: Journal,
        clock: Clock,
        holder: str,
        goal_for: GoalFor,
        watcher: Watcher | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        process: Process | None = None,
        dead: Callable[[Process], bool] = is_dead,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.topology = topology
        self.cluster = cluster
        self.journal = journal
        self.means = Means(
            cluster, journal, clock, holder, goal_for, watcher or Watcher(), interrupted
        )
        self.process = process
        self.dead = dead
        self.lease_seconds = lease_seconds

    def conduct(self, run: Run, wish: Wish | None = None) -> RunOutcome:
        """Carry out the run, or take it up where it was left.

        wish
            What to do with a run that nobody conducts any more: abort it or roll it back.

        Raises :class:`lease.Held` when another holds a site, or took over meanwhile;
        :class:`journal.Unfinished` when another run is in the way; :class:`WebfarmError` when the
        journal cannot be written. What happens in the cluster is a :class:`RunOutcome`.
        """
        sites = in_force(self.topology, run, strict=wish is None)
        leases = [
            Lease(
                self.journal.connection,
                site,
                self.means.holder,
                self.means.clock,
                self.process,
                self.dead,
                self.lease_seconds,
            )
            for site in run.sites
        ]
        hold = Hold(leases)
        try:
            hold.take(describe(run))
            self.cluster.hold = hold
            self.journal.guard = hold.confirm
            return Course(self.means, run, sites, hold).conduct(wish)
        except sqlite3.Error as error:
            raise WebfarmError(
                f"the journal cannot be written ({error}), so nothing more was done; make room in "
                "the master's cache directory, then `salt-run upgrade.resume` goes on from there"
            ) from error
        finally:
            self.cluster.hold = None
            self.journal.guard = None
            with suppress(sqlite3.Error):
                hold.release()


def in_force(topology: Topology, run: Run, strict: bool = True) -> dict[str, Site]:
    """The run's sites, each with its policy as the run overrides it.

    strict
        False, to look at a run or to end it: where the pillar has since forbidden what the run
        overrides, the pillar's own policy. Otherwise that raises :class:`WebfarmError`.
    """
    sites = {name: topology.site(name) for name in run.sites}
    return {
        name: site.model_copy(update={"policy": _policy(site, run, strict)})
        for name, site in sites.items()
    }


def _policy(site: Site, run: Run, strict: bool) -> Policy:
    try:
        return site.policy.overridden(run.policy)
    except WebfarmError:
        if strict:
            raise
        return site.policy

"""Stage a run's releases on all its servers, before the first farm leaves service."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from webfarm.policy import budget
from webfarm.rollout import steps
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Goal, Step, listed
from webfarm.rollout.watcher import Done, Watcher
from webfarm.topology import Site


class Staging:
    """A few servers at a time (``stage_parallel``); what an earlier process did is not repeated.

    sites
        Name to the site with the policy in force.
    stopping
        True as soon as an operator wants something else; asked between two batches.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        cluster: Cluster,
        journal: Journal,
        clock: Clock,
        watcher: Watcher,
        stopping: Callable[[], bool],
    ) -> None:
        self.sites = sites
        self.cluster = cluster
        self.journal = journal
        self.clock = clock
        self.watcher = watcher
        self.stopping = stopping

    def run(self, number: int, goals: Sequence[Goal]) -> str:
        """Stage them as part of the run ``number``; returns why it must not go on, or nothing.

        A server that fails is no reason as long as its farm may do without it: the farm's own
        rollout tries again.
        """
        there = self._staged(number)
        failed: dict[str, str] = {}
        for site, group in groupby(goals, key=lambda goal: goal.site):
            for batch, goal in self._batches(site, list(group), there):
                if self.stopping():
                    return ""
                failed |= self._stage(number, goal, batch)
        reasons = []
        for goal in goals:
            farm = self.sites[goal.site].farms[goal.farm]
            bad = {name: failed[name] for name in farm.servers if name in failed}
            if len(bad) > budget(self.sites[goal.site].policy.max_failed, len(farm.servers)):
                shown = listed([f"{name}: {why}" for name, why in bad.items()])
                reasons.append(
                    f"{goal.release} could not be staged on {len(bad)} of the "
                    f"{len(farm.servers)} servers of {goal.site} {goal.farm}: {shown}"
                )
        return "; ".join(reasons)

    def _staged(self, number: int) -> frozenset[str]:
        return frozenset(
            server
            for step in self.journal.run_steps(number)
            if step["name"] == "stage"
            for server in (step["evidence"] or {}).get("servers", ())
        )

    def _batches(
        self, site: str, goals: list[Goal], there: frozenset[str]
    ) -> Iterator[tuple[tuple[str, ...], Goal]]:
        """Servers of the farms that are not on the release yet, ``stage_parallel`` at a time."""
        plan = self.sites[site]
        seen = self.cluster.observe(site, None, servers=False)
        wanted = []
        for goal in goals:
            fences = {
                view.farms[goal.farm].release
                for view in seen.balancers.values()
                if goal.farm in view.farms
            }
            if fences != {goal.release}:
                wanted += [name for name in plan.farms[goal.farm].servers if name not in there]
        size = plan.policy.stage_parallel
        for first in range(0, len(wanted), size):
            yield tuple(wanted[first : first + size]), goals[0]

    def _stage(self, number: int, goal: Goal, batch: tuple[str, ...]) -> dict[str, str]:
        arguments = steps.staging(goal, self.sites[goal.site].policy)
        step = Step(
            "stage",
            batch,
            f"{goal.release} is installed everywhere before the first farm leaves service",
            steps.STAGE_SECONDS,
            "webfarm_release.stage",
            arguments,
        )
        entry = self.journal.intend_run(number, step, self.clock.time())
        self.watcher.step_started(step, 1.0)
        start = self.clock.monotonic()
        replies = self.cluster.call(
            goal.site, "webfarm_release.stage", batch, arguments, steps.STAGE_SECONDS
        )
        failed = {
            name: replies[name].error or "no answer"
            for name in batch
            if name not in replies or not replies[name].ok
        }
        evidence = {"servers": [name for name in batch if name not in failed]}
        if failed:
            evidence["failed"] = dict(failed)  # type: ignore[assignment]
        self.journal.settle(entry, "done", evidence, self.clock.time())
        done = Done("stage", "done", self.clock.monotonic() - start, evidence)
        self.watcher.step_finished(step, done)
        return failed

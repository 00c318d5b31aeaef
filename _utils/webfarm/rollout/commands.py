"""The commands that an operator types, as data in and data out; the world is handed in."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import journal as journal_
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.engine import Engine, command, describe
from webfarm.rollout.lease import Lease, Process, holders, is_dead
from webfarm.rollout.model import BalancerView, Goal, InService, Memory, Seen, listed
from webfarm.rollout.outline import Foreseen, outline
from webfarm.rollout.situation import Situation
from webfarm.rollout.watcher import Watcher
from webfarm.topology import Topology


@dataclass
class Context:
    """What the commands need.

    journal_path
        The journal's database; made when a rollout starts.
    digests
        ``(kind, version)`` to the digest of the tree in the release store; raises
        :class:`WebfarmError` when the store does not have it. None: the servers check against the
        store's manifest alone.
    """

    topology: Topology
    cluster: Cluster
    clock: Clock
    journal_path: Path | str
    holder: str
    watcher: Watcher = field(default_factory=Watcher)
    stopping: Callable[[], bool] = lambda: False
    digests: Callable[[str, str], str] | None = None

    # -- commands ------------------------------------------------------------------------------

    def plan(
        self,
        site: str | None = None,
        farm: str | None = None,
        release: str | None = None,
        reset_sessions: bool = False,
    ) -> dict[str, Any]:
        """The steps of every farm in the scope, each farm as the one before it leaves the site."""
        goals = [
            self.goal(site_name, farm_name, release, reset_sessions)
            for site_name, farm_name in self.scope(site, farm)
        ]
        plans = []
        balancers: dict[str, dict[str, BalancerView]] = {}
        for goal in goals:
            seen = self.cluster.observe(goal.site, goal.farm)
            if goal.site in balancers:
                seen = Seen(balancers[goal.site], seen.servers)
            foreseen, end, after = outline(goal, self.topology.site(goal.site), seen)
            balancers[goal.site] = dict(after.balancers)
            plans.append(self._planned(goal, seen, foreseen, end))
        ok = all("refused" not in planned for planned in plans)
        return {"result": ok, "changes": "nothing: this is a plan", "farms": plans}

    def farm(
        self, site: str, farm: str, release: str | None = None, reset_sessions: bool = False
    ) -> dict[str, Any]:
        """Take one farm to a release."""
        goal = self.goal(site, farm, release, reset_sessions)
        with self._journal(make=True) as connection:
            assert connection is not None
            engine = Engine(
                self.topology.site(goal.site),
                self.cluster,
                journal_.Journal(connection),
                Lease(connection, goal.site, self.holder),
                self.clock,
                lambda name: self._goal_or_none(goal, name),
                self.watcher,
                self.stopping,
            )
            return engine.run(goal).plain()

    def farms(
        self, site: str | None = None, release: str | None = None, reset_sessions: bool = False
    ) -> dict[str, Any]:
        """Take the farms of a site, or of all, to a release; stops at the first that fails."""
        goals = [self.goal(s, f, release, reset_sessions) for s, f in self.scope(site, None)]
        outcomes: list[dict[str, Any]] = []
        for goal in goals:
            if self.stopping():
                break
            outcomes.append(self.farm(goal.site, goal.farm, goal.release, reset_sessions))
            if not outcomes[-1]["result"]:
                break
        ok = len(outcomes) == len(goals) and all(o["result"] for o in outcomes)
        left = [f"{g.site} {g.farm}" for g in goals[len(outcomes) :]]
        return {"result": ok, "outcomes": outcomes, **({"not_begun": left} if left else {})}

    def status(self, site: str | None = None) -> dict[str, Any]:
        """The farms now, the leases, and the rollouts that have not ended."""
        sites = [names.check(site, "site")] if site is not None else list(self.topology.sites)
        farms = {name: self._site_status(name) for name in sites}
        with self._journal() as connection:
            leases = [] if connection is None else [_lease(row) for row in holders(connection)]
            rollouts = [] if connection is None else journal_.Journal(connection).rollouts(limit=50)
        open_ones = [_short(r) for r in rollouts if r["state"] in ("running", "stopped")]
        return {
            "target": self.topology.target,
            "sites": farms,
            "held": [lease for lease in leases if lease["site"] in sites],
            "unfinished": [r for r in open_ones if r["site"] in sites],
        }

    def history(self, limit: int = 20, rollout: int | None = None) -> dict[str, Any]:
        """The latest rollouts, or one with its steps."""
        for what, number in (("limit", limit), ("rollout", rollout)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
                raise WebfarmError(f"{what} is {number!a:.40}, expected a number")
        with self._journal() as connection:
            if connection is None:
                return {"rollouts": []}
            journal = journal_.Journal(connection)
            if rollout is None:
                return {"rollouts": [_short(r) for r in journal.rollouts(max(1, limit))]}
            found = [r for r in journal.rollouts(1_000_000) if r["id"] == rollout]
            if not found:
                raise WebfarmError(f"there is no rollout {rollout}; see `salt-run upgrade.history`")
            return {**found[0], "steps": journal.steps(rollout)}

    # -- scope and goals -----------------------------------------------------------------------

    def scope(self, site: str | None, farm: str | None) -> list[tuple[str, str]]:
        """Site and farm of each farm in the scope, in the pillar's order; the names are checked."""
        if site is None:
            if farm is not None:
                raise WebfarmError("a farm needs its site: salt-run upgrade.plan SITE FARM")
            return [(s, f) for s, plan in self.topology.sites.items() for f in plan.farms]
        if farm is None:
            return [(site, name) for name in self.topology.site(site).farms]
        self.topology.farm(site, farm)
        return [(site, farm)]

    def goal(self, site: str, farm: str, release: str | None, reset_sessions: bool = False) -> Goal:
        """The goal that the arguments name; raises before anything is asked or changed."""
        if not isinstance(reset_sessions, bool):
            raise WebfarmError(f"reset_sessions is {reset_sessions!a:.40}, expected True or False")
        self.topology.farm(site, farm)
        name = self.topology.target if release is None else release
        pair = self.topology.release(name)
        digests = None
        if self.digests is not None:
            digests = {
                kind: self.digests(kind, version)
                for kind, version in (("php", pair.php), ("webapp", pair.webapp))
            }
        return Goal(site, farm, name, pair.php, pair.webapp, digests, reset_sessions)

    def _goal_or_none(self, goal: Goal, release: str) -> Goal | None:
        """The same farm on another release, to put it back."""
        pair = self.topology.releases.get(release)
        if pair is None:
            return None
        return replace(goal, release=release, php=pair.php, webapp=pair.webapp, digests=None)

    # -- data ------------------------------------------------------------------------------------

    def _planned(
        self, goal: Goal, seen: Seen, foreseen: tuple[Foreseen, ...], end: Any
    ) -> dict[str, Any]:
        data: dict[str, Any] = {"site": goal.site, "farm": goal.farm, "release": goal.release}
        data["now"] = self._farm_status(goal.site, goal.farm, seen)
        if isinstance(end, InService) and not foreseen:
            data["steps"] = []
            data["end"] = "nothing to do"
        elif isinstance(end, InService):
            lowest = min(step.capacity for step in foreseen)
            data["steps"] = [_foreseen(number, step) for number, step in enumerate(foreseen, 1)]
            data["lowest_capacity"] = f"{int(lowest * 100)} %"
            data["end"] = f"in service on {goal.release}"
            data["command"] = command(goal)
        else:
            data["refused"] = list(end.reasons)
        if isinstance(end, InService) and end.left_out:
            data["left_out"] = dict(end.left_out)
        return data

    def _site_status(self, site: str) -> dict[str, Any]:
        farms = list(self.topology.site(site).farms)
        seen = self.cluster.observe(site, farms[0], servers=False)
        return {farm: self._farm_status(site, farm, seen) for farm in farms}

    def _farm_status(self, site: str, farm: str, seen: Seen) -> str:
        goal = Goal(site, farm, self.topology.target, "", "")
        return describe(Situation(goal, self.topology.site(site), seen, Memory()))

    @contextmanager
    def _journal(self, make: bool = False) -> Iterator[sqlite3.Connection | None]:
        if not make and not Path(self.journal_path).exists():
            yield None
            return
        with closing(journal_.connect(self.journal_path)) as connection:
            yield connection


def _foreseen(number: int, foreseen: Foreseen) -> dict[str, Any]:
    step = foreseen.step
    return {
        "step": f"{number} {step.name}",
        "targets": listed(step.targets),
        "why": step.why,
        "at_most": "without end" if step.deadline is None else f"{step.deadline:g} s",
        "capacity": f"{int(foreseen.capacity * 100)} %",
    }


def _short(rollout: dict[str, Any]) -> dict[str, Any]:
    outcome = rollout["outcome"] or {}
    kept = ("id", "site", "farm", "release", "state", "holder", "started", "ended")
    return {**{k: rollout[k] for k in kept}, "message": outcome.get("message", "")}


def _lease(row: sqlite3.Row) -> dict[str, Any]:
    process = Process(row["host"], row["pid"], row["started"], row["boot"])
    kept = ("site", "holder", "host", "pid", "since", "doing", "token")
    return {**{k: row[k] for k in kept}, "alive": not is_dead(process)}

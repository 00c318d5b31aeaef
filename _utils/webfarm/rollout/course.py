"""The course of a run: stage, take farm after farm, do what is wished, take back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from webfarm.policy import budget
from webfarm.rollout import windows
from webfarm.rollout.approvals import approvals
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.engine import Engine, command
from webfarm.rollout.journal import Journal
from webfarm.rollout.journal_runs import releases, scope
from webfarm.rollout.lease import Hold
from webfarm.rollout.ledger import line
from webfarm.rollout.model import Goal, Run, Seen, Wish
from webfarm.rollout.situation import WITHHELD
from webfarm.rollout.staging import Staging
from webfarm.rollout.watcher import Outcome, RunOutcome, Watcher
from webfarm.rollout.waves.back import goals_back
from webfarm.rollout.waves.engine import WaveEngine
from webfarm.rollout.waves.engine import command as wave_command
from webfarm.topology import Site

GoalFor = Callable[[str, str, str], Goal | None]


@dataclass
class Means:
    """What a run is conducted with.

    goal_for
        Gives the goal for a site, a farm and a release; None when the pillar does not have it.
    interrupted
        True as soon as the operator wants this process to stop.
    """

    cluster: Cluster
    journal: Journal
    clock: Clock
    holder: str
    goal_for: GoalFor
    watcher: Watcher
    interrupted: Callable[[], bool]


class Course:
    """One run while this process conducts it.

    sites
        Name to the site with the policy in force.
    """

    def __init__(self, means: Means, run: Run, sites: Mapping[str, Site], hold: Hold) -> None:
        self.all = means
        self.journal = means.journal
        self.clock = means.clock
        self.run = run
        self.sites = sites
        self.hold = hold
        self.outcomes: list[Outcome] = []

    def conduct(self, wish: Wish | None) -> RunOutcome:
        """See :meth:`webfarm.rollout.run.Conductor.conduct`."""
        start = self.clock.time()
        began = self.clock.monotonic()
        self.cut_off = self.journal.cut_off(self.run)
        self.number, self.resumed = self.journal.begin_run(self.run, self.all.holder, start)
        if wish is not None:
            self.journal.wish(self.number, wish, start)
        self.all.watcher.run_started(self.number, self.run, self.resumed)
        outcome = replace(
            self._turned_away() or self._on_the_way(), seconds=self.clock.monotonic() - began
        )
        self.journal.end_run(self.number, outcome.state, outcome.plain(), self.clock.time())
        self.all.watcher.run_finished(outcome)
        return outcome

    # -- what an operator wishes ---------------------------------------------------------------

    def _wished(self) -> Wish | None:
        if self.all.interrupted():
            return Wish("pause", self.all.holder, "Ctrl-C")
        return self.journal.wished(self.number)

    def _only_pause(self) -> Wish | None:
        wish = self._wished()
        return wish if wish and wish.kind == "pause" else None

    # -- before the first farm -----------------------------------------------------------------

    def _turned_away(self) -> RunOutcome | None:
        """Why the run must not touch anything; None when it may, or did already."""
        bad = self.journal.bad()
        marked = {goal.release: bad[goal.release] for goal in self.run.goals if goal.release in bad}
        serves = self.run.kind == "server"  # its farm has that release already
        if marked and not serves and not self._wished():
            return self._end(
                "paused" if self.resumed else "refused",
                "; ".join(
                    f"release {release} was marked bad by {mark['who']}: {mark['why']}"
                    for release, mark in marked.items()
                )
                + "; `salt-run upgrade.good RELEASE` takes the mark away",
            )
        if self.resumed:
            return None
        closed = {name: self._closed(name) for name in self.sites}
        if any(closed.values()):
            return self._end(
                "refused", "; ".join(f"{n}: {why}" for n, why in closed.items() if why)
            )
        return None

    def _closed(self, site: str) -> str:
        """Windows and freezes are for upgrades; the way back is open at any time."""
        if self.run.override or self.run.kind not in ("upgrade", "os"):
            return ""
        return windows.closed(self.sites[site].policy, self.clock.time())

    def _stage(self) -> str:
        if len(self.run.goals) == 1 or self.run.kind != "upgrade":
            return ""  # the farm's own rollout stages it
        staging = Staging(
            self.sites,
            self.all.cluster,
            self.journal,
            self.clock,
            self.all.watcher,
            lambda: self._wished() is not None,
        )
        return staging.run(self.number, self.run.goals)

    # -- farm by farm ----------------------------------------------------------------------------

    def _on_the_way(self) -> RunOutcome:
        wish = self._wished()
        if wish and wish.kind != "pause":
            return self._leave(wish)
        if owed := self._owed():
            return owed
        if why := self._stage():
            return self._end("paused" if self.resumed else "refused", why)
        for number, goal in enumerate(self.run.goals):
            if wish := self._wished():
                return self._leave(wish)
            if by := self._waits_for_approval(number):
                return self._end(
                    "paused",
                    f"waits for approval before {goal.site} {goal.farm}: `salt-run upgrade.resume "
                    f"{self.number}` {by}",
                )
            outcome = self._farm(goal, self._is_canary(number))
            stop = self._after(outcome)
            if stop is not None:
                return stop
        nothing = all(outcome.state == "nothing" for outcome in self.outcomes)
        if nothing and not self.resumed:
            what = "every farm is in service on its release"
            if self.run.goals[0].wave:
                what = "every server that is in service has the packages"
            return self._end("nothing", f"{what}: nothing to do")
        parts = "waves" if self.run.goals[0].wave else "farms"
        return self._end("done", f"{len(self.outcomes)} of {len(self.run.goals)} {parts} are done")

    def _owed(self) -> RunOutcome | None:
        """What follows from a farm's failure, if the process ended before it came to that."""
        latest = self.journal.rollouts(1, self.number)
        if not self.cut_off or self.run.kind != "upgrade" or not latest:
            return None
        if latest[0]["state"] != "failed":
            return None
        return self._failed(latest[0]["site"], str(latest[0]["outcome"]["message"]))

    def _is_canary(self, number: int) -> bool:
        """The first farm that this run changes, when others follow."""
        follows = number + 1 < len(self.run.goals) and not (self.resumed and number)
        return follows and all(outcome.state == "nothing" for outcome in self.outcomes)

    def _farm(
        self, goal: Goal, canary: bool = False, wished: Callable[[], Wish | None] | None = None
    ) -> Outcome:
        site = self.sites[goal.site]
        policy = site.policy.model_copy(update={"soak_seconds": site.policy.soak(canary)})
        kind = Engine if goal.wave is None else WaveEngine
        engine = kind(
            site.model_copy(update={"policy": policy}),
            self.all.cluster,
            self.journal,
            self.hold,
            self.clock,
            lambda release: self._same_farm(goal, release),
            self.all.watcher,
            wished or self._wished,
            lambda: self._closed(goal.site),
            self.all.holder,
        )
        staged = len(self.run.goals) > 1 and self.run.kind == "upgrade"
        outcome = engine.run(goal, self.number, staged)
        self.outcomes.append(outcome)
        return outcome

    def _same_farm(self, goal: Goal, release: str) -> Goal | None:
        found = self.all.goal_for(goal.site, goal.farm, release)
        return found and replace(found, reset_sessions=goal.reset_sessions)

    def _after(self, outcome: Outcome) -> RunOutcome | None:
        """What a farm's outcome means for the run; None to go on with the next."""
        if outcome.ok:
            spent = self._over_budget(outcome.goal)
            return self._failed(outcome.goal.site, spent) if spent else None
        if outcome.state == "paused":
            wish = self._wished()
            if wish and wish.kind != "pause":
                return self._end("paused", f"{wish}, but: {outcome.message}")
            return self._end("paused", outcome.message)
        if outcome.state == "aborted":
            wish = self._wished()
            return self._leave(wish) if wish else self._end("aborted", outcome.message)
        if outcome.state == "refused":
            changed = any(before.state != "nothing" for before in self.outcomes[:-1])
            return self._end("paused" if changed or self.resumed else "refused", outcome.message)
        return self._failed(outcome.goal.site, outcome.message)

    def _over_budget(self, goal: Goal) -> str:
        limit = self.sites[goal.site].policy.max_failed_run
        if limit is None:
            return ""
        left_out = [
            name
            for outcome in self.outcomes
            for name, why in outcome.left_out.items()
            if why != WITHHELD
        ]
        count = sum(
            len(one.wave.members if one.wave else self.sites[one.site].farms[one.farm].servers)
            for one in self.run.goals
        )
        allowed = budget(limit, count)
        if len(left_out) <= allowed:
            return ""
        return (
            f"{len(left_out)} servers of this run are left out ({', '.join(left_out[:6])}), "
            f"max_failed_run allows {allowed}"
        )

    def _failed(self, site: str, why: str) -> RunOutcome:
        on_failure = self.sites[site].policy.on_failure
        if on_failure == "pause":
            return self._end("paused", why)
        if on_failure == "rollback" and self.run.kind in ("upgrade", "os"):
            wish = Wish("rollback", "the policy (on_failure)", line(why))
            self.journal.wish(self.number, wish, self.clock.time())  # a resume must know it
            return self._leave(wish)
        if in_hand := self._in_hand():  # a farm that an earlier process left, further on
            wish = Wish("abort", "the policy (on_failure)", line(why))
            self.journal.wish(self.number, wish, self.clock.time())
            stop = self._into_service(wish, in_hand)
            if stop is not None:
                return stop
        return self._end("failed", why)

    # -- approval ----------------------------------------------------------------------------------

    def _waits_for_approval(self, number: int) -> str:
        """Who has to say yes before the farm with this number; then it is noted that it waits."""
        by = approvals(self.run, self.sites).get(number - 1, "")
        kinds = ("upgrade", "os")
        if self.run.kind not in kinds or self.journal.approved(self.number) >= number:
            return ""
        if by:
            self.journal.wait_for_approval(self.number, number, self.clock.time())
        return by

    # -- the ways out ------------------------------------------------------------------------------

    def _leave(self, wish: Wish) -> RunOutcome:
        """Pause at once; abort and rollback first bring the farm under way into service."""
        if wish.kind == "pause":
            return self._end("paused", str(wish))
        stop = self._into_service(wish, self._in_hand())
        if stop is not None:
            return stop
        if wish.kind == "rollback":
            return self._roll_back(wish)
        return self._end("aborted", f"{wish}; every farm is in service")

    def _into_service(
        self, wish: Wish, in_hand: Sequence[tuple[str, str, str]]
    ) -> RunOutcome | None:
        """These farms, as is safe; why the run is paused when that does not succeed."""
        for site, farm, release in in_hand:
            goal = self._goal(site, farm, release)
            outcome = self._farm(goal) if goal else None
            if outcome is None or outcome.state == "paused":
                why = outcome.message if outcome else f"{release} is not in the pillar any more"
                return self._end("paused", f"{wish}, but {farm} of {site}: {why}")
        return None

    def _in_hand(self) -> list[tuple[str, str, str]]:
        """Site, farm and release of each farm that this run has not brought into service again.

        As the journal says, and beyond that as the balancers say.
        """
        found = self.journal.under_way(self.number)
        wanted = {(goal.site, goal.farm): goal.release for goal in self.run.goals}
        known = {at[:2] for at in found} | {(o.goal.site, o.goal.farm) for o in self.outcomes}
        seen: dict[str, Seen] = {}
        for site, farm, before in self.journal.finished(self.number):
            if (site, farm) in known:
                continue
            if site not in seen:
                seen[site] = self.all.cluster.observe(site, None, servers=False)
            if _is_out(seen[site], farm):
                found.append((site, farm, wanted.get((site, farm), before.release)))
        return found

    def _goal(self, site: str, farm: str, release: str) -> Goal | None:
        for goal in self.run.goals:
            if (goal.site, goal.farm, goal.release) == (site, farm, release):
                return goal
        found = self.all.goal_for(site, farm, release)
        return found and replace(found, reset_sessions=True)

    def _roll_back(self, wish: Wish) -> RunOutcome:
        """The farms of the run in reverse, each to the release that it had before the run."""
        if self.run.kind == "os":
            return self._waves_back(wish)
        had: dict[tuple[str, str], str] = {}
        for site, farm, before in self.journal.finished(self.number):
            had.setdefault((site, farm), before.release)
        for (site, farm), release in reversed(had.items()):
            goal = self._goal_back(site, farm, release)
            if goal is None:
                return self._end(
                    "paused",
                    f"{wish}, but {farm} of {site} was on {release}, which is not in "
                    "the pillar any more",
                )
            outcome = self._farm(goal, wished=self._only_pause)
            if not outcome.ok:
                return self._end("paused", f"{wish}, but {farm} of {site}: {outcome.message}")
        return self._end("rolled_back", f"{wish}; every farm is on the release that it had")

    def _waves_back(self, wish: Wish) -> RunOutcome:
        """The waves of the run in reverse, each server from its snapshot of before the run."""
        for goal in goals_back(self.run, self.journal.finished(self.number)):
            outcome = self._farm(goal, wished=self._only_pause)
            if not outcome.ok:
                return self._end(
                    "paused", f"{wish}, but {goal.farm} of {goal.site}: {outcome.message}"
                )
        return self._end("rolled_back", f"{wish}; every server has the packages that it had")

    def _goal_back(self, site: str, farm: str, release: str) -> Goal | None:
        found = self.all.goal_for(site, farm, release)
        return found and replace(found, reset_sessions=True)

    def _end(self, state: str, message: str) -> RunOutcome:
        came_to = {(outcome.goal.site, outcome.goal.farm) for outcome in self.outcomes}
        todo = {
            "paused": f"salt-run upgrade.resume {self.number}",
            "refused": again(self.run),
            "failed": again(self.run),
        }
        return RunOutcome(
            state,
            self.number,
            message,
            self.run.kind,
            releases(self.run),
            tuple(self.outcomes),
            tuple(g for g in self.run.goals if (g.site, g.farm) not in came_to),
            todo.get(state, ""),
        )


def describe(run: Run) -> str:
    """A run in a few words: for the lease, a message, a list."""
    wave = run.goals[0].wave
    if wave is not None:
        waves = ", ".join(f"{goal.site} {goal.farm}" for goal in run.goals)
        return f"{run.kind} of {', '.join(wave.packages)[:200]} ({waves})"
    return f"{run.kind} of {scope(run)} to {releases(run)}"


def again(run: Run) -> str:
    """The command that asks for the run once more."""
    if run.goals[0].wave is not None:
        typed = wave_command(run.goals[0])
        return typed if len(run.sites) == 1 else typed.replace(f" {run.sites[0]} ", " all ", 1)
    if len(run.goals) == 1:
        return command(run.goals[0])
    scope = f"site {run.sites[0]}" if len(run.sites) == 1 else "all"
    return f"salt-run upgrade.{scope} release={run.goals[0].release}"


def _is_out(seen: Seen, farm: str) -> bool:
    """Some balancer says that the farm is not open, or may come not to be."""
    return any(
        view.answered
        and farm in view.farms
        and (view.farms[farm].state != "open" or not view.disk_agrees)
        for view in seen.balancers.values()
    )

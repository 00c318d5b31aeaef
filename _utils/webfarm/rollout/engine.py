"""Run a rollout: observe, plan, write what is intended, act, write what came of it, look again."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace

from webfarm.errors import WebfarmError
from webfarm.rollout.act import Stopping, perform
from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import Lease
from webfarm.rollout.model import Goal, InService, Memory, Refused, Step, Stuck, listed
from webfarm.rollout.outline import before
from webfarm.rollout.situation import Situation
from webfarm.rollout.watcher import Done, Outcome, Watcher
from webfarm.rollout.world import Result, World
from webfarm.topology import Site

STUCK_SECONDS = 60.0  # how long a balancer may be silent in the middle of a rollout


class Engine:
    """Takes one farm to a goal; whatever happens, it can be started again with the same goal.

    goal_for
        Gives the goal for another release of the same farm, or None when the pillar does not have
        it; needed to put a farm back in service on the release that it had.
    """

    def __init__(
        self,
        site: Site,
        cluster: Cluster,
        journal: Journal,
        lease: Lease,
        clock: Clock,
        goal_for: Callable[[str], Goal | None],
        watcher: Watcher | None = None,
        stopping: Stopping = lambda: False,
    ) -> None:
        self.site = site
        self.cluster = cluster
        self.journal = journal
        self.lease = lease
        self.clock = clock
        self.goal_for = goal_for
        self.watcher = watcher or Watcher()
        self.stopping = stopping

    def run(self, goal: Goal) -> Outcome:
        """Take the farm to ``goal``; raises :class:`Held` when another holds the site.

        Every other trouble of the cluster is an :class:`Outcome`. An error of the journal is
        raised: what cannot be written is not done.
        """
        self.lease.take(f"{goal.farm} to {goal.release}", self.clock.time())
        try:
            return self._run(goal)
        except sqlite3.Error as error:
            raise WebfarmError(
                f"the journal cannot be written ({error}), so nothing more was done; make room in "
                f"the master's cache directory, then `{command(goal)}` goes on from there"
            ) from error
        finally:
            self.lease.release()

    def _run(self, goal: Goal) -> Outcome:
        start = self.clock.time()
        self.rollout, known, resumed = self.journal.begin(goal, self.lease.holder, start)
        self.watcher.rollout_started(goal, self.rollout, resumed)
        self.asked = goal
        self.resumed = resumed
        self.done: list[Done] = []
        self.world = World(goal, self.site, self.cluster, self.clock, Memory(before=known))
        self.world.observe()
        outcome = None
        while outcome is None:
            outcome = self._turn()
        outcome = replace(
            outcome,
            rollout=self.rollout,
            seconds=self.clock.time() - start,
            steps=tuple(self.done),
        )
        state = "done" if outcome.ok else outcome.state
        self.journal.end(self.rollout, state, outcome.plain(), self.clock.time())
        self.watcher.rollout_finished(outcome)
        return outcome

    def _turn(self) -> Outcome | None:
        """One decision and what follows from it; None while the rollout goes on."""
        if self.stopping() and self.done:
            return self._outcome("stopped", "stopped by the operator between two steps")
        decision = self.world.next()
        if isinstance(decision, Stuck) and not self._recovers(decision):
            return self._fail(listed(decision.reasons))
        if isinstance(decision, Stuck):
            return None
        if isinstance(decision, InService):
            return self._arrived(decision)
        if isinstance(decision, Refused):
            return self._fail("; ".join(decision.reasons))
        return self._step(decision)

    # -- one step -----------------------------------------------------------------------------

    def _step(self, step: Step) -> Outcome | None:
        self.lease.confirm()
        self._note(step)
        entry = self.journal.intend(self.rollout, step, self.clock.time())
        self.watcher.step_started(step, self.world.situation.capacity())
        start = self.clock.monotonic()

        def waits(what: str, seconds: float) -> None:
            self.watcher.step_waits(step, what, seconds, step.deadline)

        result = perform(step, self.world, waits, self.stopping)
        state = "unknown" if result.state == "stopped" else result.state
        self.journal.settle(entry, state, _evidence(result), self.clock.time())
        done = Done(step.name, state, self.clock.monotonic() - start, _evidence(result))
        self.done.append(done)
        self.watcher.step_finished(step, done)
        if result.state == "stopped":
            return self._outcome(
                "stopped", f"stopped by the operator while it waited in {step.name}"
            )
        if result.state != "done":
            return self._fail(f"{step.name}: {result.error}", retreat=step.name != "flush")
        if step.name == "open":  # a server that only was silent may join now
            kept = self.world.memory.quarantined
            kept = {n: why for n, why in kept.items() if not why.startswith("does not answer")}
            self.world.memory = replace(self.world.memory, quarantined=kept)
            self.world.observe()
        return None

    def _note(self, step: Step) -> None:
        """Before the farm leaves service: how it was, and who cannot take part."""
        now = self.world.situation
        memory = self.world.memory
        if not memory.retreat:
            was = before(now)
            if was is not None and was != memory.before and was.release != self.asked.release:
                self.journal.remember(self.rollout, was)
                memory = replace(memory, before=was)
        if step.name not in ("stage", "preflight", "soak", "rejoin"):
            memory = replace(memory, quarantined={**memory.quarantined, **now.left_out})
        self.world.memory = memory

    def _recovers(self, stuck: Stuck) -> bool:
        """Wait for a balancer that fell silent under way; true to decide again."""
        if not self.done:
            return False
        start = self.clock.monotonic()
        patience = max(STUCK_SECONDS, 3 * self.site.policy.answer_seconds)
        wait = Step("wait", tuple(self.site.balancers), listed(stuck.reasons), patience)
        while self.clock.monotonic() - start < patience:
            if self.stopping():
                return False
            self.watcher.step_waits(wait, wait.why, self.clock.monotonic() - start, patience)
            self.clock.sleep(2.0)
            self.world.observe(servers=False)
            if not isinstance(self.world.next(), Stuck):
                return True
        return False

    # -- ends ---------------------------------------------------------------------------------

    def _arrived(self, arrived: InService) -> Outcome:
        goal, memory = self.asked, self.world.memory
        left_out = dict(arrived.left_out)
        if memory.retreat:
            return self._outcome(
                "failed",
                f"{memory.retreat}. So {goal.farm} was put back in service on "
                f"{self.world.goal.release}, the release that it had: no session has seen "
                "the other one",
                left_out,
            )
        if any(done.step == "rejoin" and "failed" in done.evidence for done in self.done):
            return self._outcome(
                "failed",
                f"not every server of {goal.farm} could be brought to {goal.release}",
                left_out,
            )
        if not self.done and not self.resumed:
            return self._outcome(
                "nothing", f"{goal.farm} is in service on {goal.release}: nothing to do", left_out
            )
        return self._outcome("done", f"{goal.farm} is in service on {goal.release}", left_out)

    def _fail(self, reason: str, retreat: bool = True) -> Outcome | None:
        """Leave the farm in service as it was when that is safe, else as it is; say which."""
        world = self.world
        now = world.situation
        if now.blind:
            return self._outcome(
                "failed" if self.done or self.resumed else "refused",
                f"{reason}. Nothing is changed while a balancer may not have followed",
            )
        if now.states == {"open"} and not (now.fenced and self.done):
            return self._outcome("refused" if not self._changed() else "failed", reason)
        if world.memory.retreat:
            return self._outcome(
                "failed",
                f"{world.memory.retreat}. On the way back to {world.goal.release}: {reason}. "
                f"{world.goal.farm} stays as it is, out of service",
            )
        if world.memory.before is None:
            world.memory = replace(world.memory, before=before(now))
        why_not = self._no_way_back() if retreat else "its sessions' cache cannot be trusted"
        if why_not:
            return self._outcome(
                "failed", f"{reason}. {world.goal.farm} is left as it is: {why_not}"
            )
        old = self.goal_for(world.memory.before.release if world.memory.before else "")
        assert old is not None
        self.watcher.turned_back(old.release, reason)
        world.goal = old
        world.memory = Memory(before=world.memory.before, retreat=reason)
        world.observe()
        return None

    def _changed(self) -> bool:
        return any(done.step not in ("stage", "preflight") for done in self.done)

    def _no_way_back(self) -> str:
        """Why the farm cannot be put back on the release that it had; empty when it can."""
        now = self.world.situation
        was = self.world.memory.before
        if now.states & {"ready", "open"} and now.fenced:
            return (
                f"on some balancer it is ready or open on {now.goal.release}, only forward is safe"
            )
        if was is None:
            return "which release it had is not known"
        if {at.generation for at in now.at.values()} != {was.generation}:
            return f"its generation was raised since {was.release}, a session may have seen more"
        if self.goal_for(was.release) is None:
            return f"the release {was.release} that it had is not in the pillar"
        return ""

    def _outcome(self, state: str, message: str, left_out: dict[str, str] | None = None) -> Outcome:
        goal = self.asked
        if left_out is None:
            left_out = {} if self.world.situation.blind else self.world.situation.left_out
        return Outcome(
            state=state,
            goal=goal,
            message=message,
            cluster=describe(self.world.situation),
            command="" if state in ("done", "nothing") else command(goal),
            left_out=left_out,
        )


def command(goal: Goal) -> str:
    """What to type to go on."""
    reset = " reset_sessions=True" if goal.reset_sessions else ""
    return f"salt-run upgrade.farm {goal.site} {goal.farm} release={goal.release}{reset}"


def describe(now: Situation) -> str:
    """The farm as the balancers have it, in one line."""
    if now.blind:
        return f"{now.goal.farm}: not known ({'; '.join(now.blind)})"
    per = {
        name: f"{at.state} on {at.release} (generation {at.generation})"
        for name, at in now.at.items()
    }
    same = set(per.values())
    shown = same.pop() if len(same) == 1 else listed([f"{n}: {text}" for n, text in per.items()])
    count = len(now.farm.servers)
    down = [name for name in now.farm.servers if not now.up(name)]
    missing = f" (not UP: {listed(down)})" if down else ""
    return (
        f"{now.goal.farm} of {now.goal.site} is {shown}; {count - len(down)} of {count} servers "
        f"UP{missing}; {int(now.capacity() * 100)} % of the site's capacity in service"
    )


def _evidence(result: Result) -> dict[str, object]:
    return {**result.evidence, **({"error": result.error} if result.error else {})}

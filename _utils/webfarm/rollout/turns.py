"""Take turns: observe, plan, write what is intended, act, write what came of it, look again.

What is planned and what a failure means is the subclass's: :class:`webfarm.rollout.engine.Engine`
takes a farm to a release, :class:`webfarm.rollout.waves.engine.WaveEngine` a wave through a set of
packages.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from webfarm.hold import FRESH_SECONDS
from webfarm.rollout.cluster import CHANGES, SERVER_CHANGES, Clock, Cluster
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import Hold
from webfarm.rollout.model import Goal, InService, Refused, Step, Stuck, Wish, listed
from webfarm.rollout.watcher import Done, Outcome, Watcher
from webfarm.rollout.world import Result
from webfarm.topology import Site

STUCK_SECONDS = 60.0  # how long a balancer may be silent in the middle of a rollout
IN_SERVICE = ("done", "nothing", "failed", "aborted")  # outcomes that leave all in service


class Turns:
    """Goes to a goal; whatever happens, it can be started again with the same goal.

    A farm that is not in service at the end makes the outcome ``paused``: somebody has to decide.

    goal_for
        Gives the goal for another release of the same farm, or None when the pillar does not have
        it; needed to put a farm back in service on the release that it had.
    wished
        What an operator wants meanwhile; asked between steps and while one waits.
    closed
        Why no farm may leave service now, empty when it may.
    """

    def __init__(
        self,
        site: Site,
        cluster: Cluster,
        journal: Journal,
        hold: Hold,
        clock: Clock,
        goal_for: Callable[[str], Goal | None],
        watcher: Watcher | None = None,
        wished: Callable[[], Wish | None] = lambda: None,
        closed: Callable[[], str] = lambda: "",
        holder: str = "",
    ) -> None:
        self.site = site
        self.cluster = cluster
        self.journal = journal
        self.hold = hold
        self.clock = clock
        self.goal_for = goal_for
        self.watcher = watcher or Watcher()
        self.wished = wished
        self.closed = closed
        self.holder = holder

    def run(self, goal: Goal, run: int, staged: bool = False) -> Outcome:
        """Go to ``goal`` as part of the run with this number.

        staged
            The run has staged the release on every server of its scope: it is one of several farms,
            and goes on without a server that cannot be brought back, if ``max_failed`` allows.

        Every trouble of the cluster is an :class:`Outcome`. An error of the journal is raised,
        since what cannot be written is not done; and so is :class:`lease.Held`.
        """
        start = self.clock.monotonic()
        self.number, self.staged = run, staged
        self.rollout, known, self.resumed = self.journal.begin(
            goal, self.holder, self.clock.time(), run
        )
        self.watcher.rollout_started(goal, self.rollout, self.resumed)
        self.asked = goal
        self.aborting: Wish | None = None
        self.done: list[Done] = []
        self.world = self._world(goal, known)
        self.world.observe()
        outcome = None
        while outcome is None:
            outcome = self._turn()
        outcome = replace(
            outcome,
            rollout=self.rollout,
            seconds=self.clock.monotonic() - start,
            steps=tuple(self.done),
        )
        state = "done" if outcome.ok else outcome.state
        if outcome.state in IN_SERVICE:
            self._quarantine(outcome)
        self.journal.end(self.rollout, state, outcome.plain(), self.clock.time())
        self.watcher.rollout_finished(outcome)
        return outcome

    def _turn(self) -> Outcome | None:
        """One decision and what follows from it; None while the rollout goes on."""
        wish = self._wish()
        if wish and wish.kind == "pause":
            return self._outcome("paused", str(wish))
        if wish and not self.world.situation.blind:
            return self._abort(wish)
        decision = self.world.next()
        if isinstance(decision, Step) and decision.function in CHANGES and self._older_may_act():
            return None
        if isinstance(decision, Step) and decision.function in SERVER_CHANGES:
            self.world.look_again()  # a wait looks at the balancers only
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

    def _wish(self) -> Wish | None:
        """What the operator wants and did not get yet."""
        wish = self.wished()
        return None if wish and wish.kind != "pause" and self.aborting else wish

    # -- one step -----------------------------------------------------------------------------

    def _step(self, step: Step) -> Outcome | None:
        now = self.world.situation
        if self._untouched(step) and (why := self.closed()):
            return self._fail(why)
        self._note(step)
        self.hold.confirm()
        entry = self.journal.intend(self.rollout, step, self.clock.time())
        self.watcher.step_started(step, now.capacity())
        start = self.clock.monotonic()

        def waits(what: str, seconds: float) -> None:
            self.watcher.step_waits(step, what, seconds, step.deadline)

        result = self._perform(step, waits)
        state = "unknown" if result.state == "stopped" else result.state
        self.journal.settle(entry, state, _evidence(result), self.clock.time())
        done = Done(step.name, state, self.clock.monotonic() - start, _evidence(result))
        self.done.append(done)
        self.watcher.step_finished(step, done)
        if result.state == "stopped":
            return None  # the next turn does what was wished
        if result.state == "inconclusive":
            return self._outcome("paused", f"{step.name} is inconclusive: {result.error}")
        if result.state != "done":
            return self._fail(f"{step.name}: {result.error}", retreat=step.name != "flush")
        self._after(step)
        return None

    def _older_may_act(self) -> bool:
        """Wait a little for nodes that may still do what an older holder asked; false: none may.

        Who answered refuses the older one, who is silent does from ``FRESH_SECONDS`` after this
        one took the site.
        """
        silent, held = self.world.unheard, self.hold.held_seconds(self.asked.site)
        if not silent or held > FRESH_SECONDS:
            return False
        why = f"what was asked of {listed(silent)} before may still be done"
        wait = Step("wait", tuple(silent), why, FRESH_SECONDS)
        self.watcher.step_waits(wait, why, held, FRESH_SECONDS)
        self.clock.sleep(2.0)
        self.world.observe()
        return True

    def _recovers(self, stuck: Stuck) -> bool:
        """Wait for a balancer that fell silent under way; true to decide again."""
        if not self.done:
            return False
        start = self.clock.monotonic()
        patience = max(STUCK_SECONDS, 3 * self.site.policy.answer_seconds)
        wait = Step("wait", tuple(self.site.balancers), listed(stuck.reasons), patience)
        while self.clock.monotonic() - start < patience:
            wish = self._wish()
            if wish and wish.kind == "pause":
                return True
            self.watcher.step_waits(wait, wait.why, self.clock.monotonic() - start, patience)
            self.clock.sleep(2.0)
            self.world.observe(servers=False)
            if not isinstance(self.world.next(), Stuck):
                return True
        return False

    def _outcome(self, state: str, message: str, left_out: dict[str, str] | None = None) -> Outcome:
        goal = self.asked
        if left_out is None:
            left_out = self._left_out()
        todo = f"salt-run upgrade.resume {self.number}" if state == "paused" else self._command()
        return Outcome(
            state=state,
            goal=goal,
            message=message,
            cluster=self._describe(),
            command="" if state in ("done", "nothing", "aborted") else todo,
            left_out=left_out,
        )

    # -- what the subclass decides -----------------------------------------------------------------

    world: Any

    def _world(self, goal: Goal, known: Any) -> Any:
        """The world of the goal; ``known`` is what the journal says of how it was before."""
        raise NotImplementedError

    def _perform(self, step: Step, waits: Callable[[str, float], None]) -> Result:
        """Carry out the step."""
        raise NotImplementedError

    def _note(self, step: Step) -> None:
        """Before a step: what must be known afterwards."""

    def _untouched(self, step: Step) -> bool:
        """Nothing has left service, and this step may change that."""
        raise NotImplementedError

    def _after(self, step: Step) -> None:
        """After a step that is done."""

    def _arrived(self, arrived: InService) -> Outcome:
        """The goal is reached."""
        raise NotImplementedError

    def _abort(self, wish: Wish) -> Outcome | None:
        """Into service as soon as that is safe."""
        raise NotImplementedError

    def _fail(self, reason: str, retreat: bool = True) -> Outcome | None:
        """What a failure means; None when there is a way to go on."""
        raise NotImplementedError

    def _left_out(self) -> dict[str, str]:
        """Who is not in service, and why."""
        raise NotImplementedError

    def _quarantine(self, outcome: Outcome) -> None:
        """Write who is left out."""
        raise NotImplementedError

    def _describe(self) -> str:
        """The state that it is in now, in one line."""
        raise NotImplementedError

    def _command(self) -> str:
        """What to type to try again."""
        raise NotImplementedError


def _evidence(result: Result) -> dict[str, object]:
    return {**result.evidence, **({"error": result.error} if result.error else {})}

"""Run a rollout: observe, plan, write what is intended, act, write what came of it, look again."""

from collections.abc import Callable
from dataclasses import replace

from webfarm.hold import FRESH_SECONDS
from webfarm.rollout import opening
from webfarm.rollout.act import perform
from webfarm.rollout.cluster import CHANGES, SERVER_CHANGES, Clock, Cluster
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import Hold
from webfarm.rollout.model import Goal, InService, Memory, Refused, Step, Stuck, Wish, listed
from webfarm.rollout.outline import before
from webfarm.rollout.situation import Situation
from webfarm.rollout.watcher import Done, Outcome, Watcher
from webfarm.rollout.world import Result, World
from webfarm.topology import Site

STUCK_SECONDS = 60.0  # how long a balancer may be silent in the middle of a rollout
IN_SERVICE = ("done", "nothing", "failed", "aborted")  # outcomes that leave the farm in service


class Engine:
    """Takes one farm to a goal; whatever happens, it can be started again with the same goal.

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
        """Take the farm to ``goal`` as part of the run with this number.

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
        memory = Memory(before=known, done=self._already_done(staged))
        self.world = World(goal, self.site, self.cluster, self.clock, memory)
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
            self.journal.quarantine(goal.site, goal.farm, outcome.left_out, self.clock.time())
        self.journal.end(self.rollout, state, outcome.plain(), self.clock.time())
        self.watcher.rollout_finished(outcome)
        return outcome

    def _already_done(self, staged: bool) -> frozenset[str]:
        """What the journal says of steps that no observation shows."""
        done = {"stage"} if staged else set()
        if self.resumed:  # a soak that was cut short begins again
            names = [(step["name"], step["state"]) for step in self.journal.steps(self.rollout)]
            opened = any(name == "open" for name, _ in names)
            if opened and ("soak", "done") not in names:
                done.add("open")
        return frozenset(done)

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
        untouched = now.states == {"open"} and not now.fenced
        if untouched and step.name != "stage" and (why := self.closed()):
            return self._fail(why)
        self._note(step)
        self.hold.confirm()
        entry = self.journal.intend(self.rollout, step, self.clock.time())
        self.watcher.step_started(step, now.capacity())
        start = self.clock.monotonic()

        def waits(what: str, seconds: float) -> None:
            self.watcher.step_waits(step, what, seconds, step.deadline)

        result = perform(step, self.world, waits, lambda: self._wish() is not None)
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

    # -- ends ---------------------------------------------------------------------------------

    def _arrived(self, arrived: InService) -> Outcome:
        goal, memory = self.asked, self.world.memory
        left_out = dict(arrived.left_out)
        if self.aborting:
            message = f"{self.aborting}: {goal.farm} is in service on {self.world.goal.release}" + (
                ", no session has seen the other release"
                if memory.retreat
                else "; it had begun to open, so only forward was safe"
            )
            return self._outcome("aborted", message, left_out)
        if memory.retreat:
            return self._outcome(
                "failed",
                f"{memory.retreat}. So {goal.farm} was put back in service on "
                f"{self.world.goal.release}, the release that it had: no session has seen "
                "the other one",
                left_out,
            )
        rejoined = not any(
            done.step == "rejoin" and "failed" in done.evidence for done in self.done
        )
        spared = self.staged and self.world.situation.may_do_without(memory.quarantined)
        if not (rejoined or spared) or (goal.server and goal.server in left_out):
            what = (
                f"{goal.server}: {left_out[goal.server]}"
                if goal.server in left_out
                else (f"not every server of {goal.farm} could be brought to {goal.release}")
            )
            return self._outcome("failed", what, left_out)
        what = f"{goal.server} of {goal.farm}" if goal.server else goal.farm
        if not self.done and not self.resumed:
            return self._outcome(
                "nothing", f"{what} is in service on {goal.release}: nothing to do", left_out
            )
        cut = sum(int(str(done.evidence.get("cut", 0))) for done in self.done)
        lost = f"; {cut} requests were cut (on_deadline: force)" if cut else ""
        return self._outcome("done", f"{what} is in service on {goal.release}{lost}", left_out)

    def _abort(self, wish: Wish) -> Outcome | None:
        """Into service as soon as that is safe: back when no session can have seen the release."""
        self.aborting = wish
        now, memory = self.world.situation, self.world.memory
        if now.states == {"open"} and now.whole and not (now.fenced and opening.lacking(now)):
            return self._outcome("aborted", f"{wish}: {self.asked.farm} is in service")
        if memory.retreat:
            return None
        if self._no_way_back():
            self.world.memory = replace(memory, done=memory.done | {"soak"})
        else:
            self._turn_back(str(wish))
        return None

    def _fail(self, reason: str, retreat: bool = True) -> Outcome | None:
        """Leave the farm in service as it was when that is safe, else as it is; say which."""
        world = self.world
        now = world.situation
        if now.blind:
            state = "paused" if self._changed() or self.resumed else "refused"
            return self._outcome(
                state, f"{reason}. Nothing is changed while a balancer may not have followed"
            )
        pauses = self.site.policy.on_failure == "pause" and not self.aborting
        if now.states == {"open"} and not self._changed():
            # of a change that was cut short, one balancer may still make what is on its disk
            state = "paused" if self.resumed and not now.whole else "refused"
            return self._outcome(state, reason)
        if now.states == {"open"} and not now.fenced and now.whole:
            return self._outcome("failed", reason)
        if now.states == {"open"} and now.fenced:
            return self._outcome(
                "paused" if pauses else "failed",
                f"{reason}. {now.goal.farm} is in service on {now.goal.release}: going back from "
                "there resets the sessions that have seen it",
            )
        if world.memory.retreat:
            return self._outcome(
                "paused",
                f"{world.memory.retreat}. On the way back to {world.goal.release}: {reason}. "
                f"{world.goal.farm} stays as it is, out of service",
            )
        if pauses:
            return self._outcome("paused", f"{reason}. {now.goal.farm} is left as it is")
        why_not = self._no_way_back() if retreat else "its sessions' cache cannot be trusted"
        if why_not:
            return self._outcome(
                "paused", f"{reason}. {world.goal.farm} is left as it is: {why_not}"
            )
        self._turn_back(reason)
        return None

    def _turn_back(self, reason: str) -> None:
        world = self.world
        was = world.memory.before
        old = self.goal_for(was.release) if was else None
        assert old is not None  # _no_way_back has looked
        self.watcher.turned_back(old.release, reason)
        world.goal = old
        world.memory = Memory(before=was, retreat=reason)
        world.observe()

    def _changed(self) -> bool:
        return any(done.step not in ("stage", "preflight") for done in self.done)

    def _no_way_back(self) -> str:
        """Why the farm cannot be put back on the release that it had; empty when it can."""
        now = self.world.situation
        if self.world.memory.before is None:
            self.world.memory = replace(self.world.memory, before=before(now))
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
            known = self.world.situation
            self.world.observe()  # a wait looks at the balancers only
            left_out = _left_out(known if self.world.situation.blind else self.world.situation)
        now = self.world.situation
        todo = f"salt-run upgrade.resume {self.number}" if state == "paused" else command(goal)
        return Outcome(
            state=state,
            goal=goal,
            message=message,
            cluster=describe(now),
            command="" if state in ("done", "nothing", "aborted") else todo,
            left_out=left_out,
        )


def command(goal: Goal) -> str:
    """What to type to try again."""
    if goal.server:
        return f"salt-run upgrade.server {goal.site} {goal.farm} {goal.server}"
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


def _left_out(now: Situation) -> dict[str, str]:
    """Who is not in service of a farm that is; who does not take part of one that is not."""
    if now.blind:
        return {}
    in_service = now.states == {"open"} and len(now.fences) == 1
    return now.out_of_service if in_service else now.left_out


def _evidence(result: Result) -> dict[str, object]:
    return {**result.evidence, **({"error": result.error} if result.error else {})}

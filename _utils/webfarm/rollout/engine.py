"""Take one farm to a release: what its turns remember, when it goes back, how it ends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from webfarm.rollout import opening
from webfarm.rollout.act import perform
from webfarm.rollout.model import Goal, InService, Memory, Step, Wish, listed
from webfarm.rollout.outline import before
from webfarm.rollout.situation import Situation
from webfarm.rollout.turns import Turns
from webfarm.rollout.watcher import Outcome
from webfarm.rollout.world import Result, World


class Engine(Turns):
    """Takes one farm to a goal. A farm that is not in service at the end makes it ``paused``."""

    def _world(self, goal: Goal, known: Any) -> World:
        memory = Memory(before=known, done=self._already_done(self.staged))
        return World(goal, self.site, self.cluster, self.clock, memory)

    def _perform(self, step: Step, waits: Callable[[str, float], None]) -> Result:
        return perform(step, self.world, waits, lambda: self._wish() is not None)

    def _untouched(self, step: Step) -> bool:
        now = self.world.situation
        return now.states == {"open"} and not now.fenced and step.name != "stage"

    def _after(self, step: Step) -> None:
        if step.name == "open":  # a server that only was silent may join now
            kept = self.world.memory.quarantined
            kept = {n: why for n, why in kept.items() if not why.startswith("does not answer")}
            self.world.memory = replace(self.world.memory, quarantined=kept)
            self.world.observe()

    def _left_out(self) -> dict[str, str]:
        known = self.world.situation
        self.world.observe()  # a wait looks at the balancers only
        return _left_out(known if self.world.situation.blind else self.world.situation)

    def _quarantine(self, outcome: Outcome) -> None:
        goal = self.asked
        self.journal.quarantine(goal.site, goal.farm, outcome.left_out, self.clock.time())

    def _describe(self) -> str:
        return describe(self.world.situation)

    def _command(self) -> str:
        return command(self.asked)

    def _already_done(self, staged: bool) -> frozenset[str]:
        """What the journal says of steps that no observation shows."""
        done = {"stage"} if staged else set()
        if self.resumed:  # a soak that was cut short begins again
            names = [(step["name"], step["state"]) for step in self.journal.steps(self.rollout)]
            opened = any(name == "open" for name, _ in names)
            if opened and ("soak", "done") not in names:
                done.add("open")
        return frozenset(done)

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

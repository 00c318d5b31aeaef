"""What removes a guard: each function patches one rule out of the rollout."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from webfarm.rollout import act, engine, lease, opening, outline, planner, probe, watch_over, world
from webfarm.rollout.gates import Verdict
from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Step
from webfarm.rollout.situation import Situation
from webfarm.rollout.world import Result

Patch = pytest.MonkeyPatch


def put(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def seen_idle_once(patch: Patch) -> None:
    remember = world.remember

    def hasty(*args: Any) -> Any:
        memory = remember(*args)
        return memory if memory.idle != 1 else replace(memory, idle=2)

    patch.setattr(world, "remember", hasty)


def one_balancer_speaks_for_all(patch: Patch) -> None:
    def answering(self: Situation) -> dict[str, Any]:
        answered = {n: v for n, v in self.seen.balancers.items() if v.answered}
        return dict(list(answered.items())[:1])

    patch.setattr(Situation, "balancers", property(answering))
    patch.setattr(Situation, "blind", property(lambda self: not answering(self)))


def open_in_one_phase(patch: Patch) -> None:
    ready = opening.ready

    def at_once(now: Situation) -> Any:
        step = ready(now)
        if not isinstance(step, Step) or step.name != "ready":
            return step
        farm = now.goal.farm
        pick = now.shares([*now.others(), farm])
        return replace(step, arguments={**step.arguments, "state": {farm: "open"}, "pick": pick})

    def is_ready(now: Situation, name: str, *_: Any) -> bool:
        return now.at[name].state == "open" and now.at[name].generation == now.generation

    patch.setattr(opening, "ready", at_once)
    patch.setattr(opening, "_is_ready", is_ready)


def fence_first(patch: Patch) -> None:
    """Straight from closing to what follows it, however many balancers have closed."""
    patch.setattr(planner, "_close", lambda now: planner._closed(now))


def half_open_goes_back(patch: Patch) -> None:
    patch.setattr(opening, "half_open", lambda now: planner._out_of_service(now))


def up_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Situation, "not_up_on", lambda self, name: [])
    lacking = probe.lacking

    def without(*args: Any) -> dict[str, str]:
        return {n: why for n, why in lacking(*args).items() if not why.startswith("is not UP")}

    patch.setattr(act, "lacking", without)


def replies_are_believed(patch: Patch) -> None:
    def called(step: Step, now: world.World, waits: Any) -> Result:
        now.cluster.call(now.goal.site, str(step.function), step.targets, step.arguments, 10.0)
        view = dict(now.seen.balancers)
        now.seen = outline.expected(step, now.goal, replace(now.seen, balancers=view))
        now.observe = lambda servers=True: None  # type: ignore[method-assign]
        return Result("done", {})

    patch.setattr(act, "_balancers", called)


def stragglers_are_switched_while_up(patch: Patch) -> None:
    def all_behind(now: Situation) -> list[str]:
        return [n for n in now.members if "rejoin" not in now.memory.done and now.up(n)]

    patch.setattr(opening, "stragglers", all_behind)
    patch.setattr(outline, "WAITS", (*outline.WAITS, "rejoin"))


def a_gate_that(state: str) -> Callable[[Patch], None]:
    """The gate never says ``state`` but passes."""

    def remove(patch: Patch) -> None:
        judge = watch_over.gates.judge

        def lenient(*args: Any) -> Verdict:
            verdict = judge(*args)
            return replace(verdict, state="pass") if verdict.state == state else verdict

        patch.setattr(watch_over.gates, "judge", lenient)

    return remove


def numbers_stand_still(patch: Patch) -> None:
    patch.setattr(lease.Hold, "of", lambda self, site: f"{site}:{self.leases[site].token}.1")


def soak_only_once(patch: Patch) -> None:
    patch.setattr(
        engine.Engine,
        "_already_done",
        lambda self, staged: frozenset({"stage"} if staged else ()),
    )


def no_before(patch: Patch) -> None:
    patch.setattr(Journal, "remember", lambda self, rollout, before: None)

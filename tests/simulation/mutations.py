"""The rollout's guards, each with what removes it and what then is expected to find it.

``trials`` are tried first: a seed of the campaign, or a scenario; then more seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from webfarm import hold
from webfarm.rollout import (
    act,
    back,
    engine,
    lease,
    opening,
    outline,
    plan_id,
    planner,
    pool,
    preflight,
    probe,
    run,
    steps,
    watch_over,
    windows,
    world,
)
from webfarm.rollout.gates import Verdict
from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Step
from webfarm.rollout.situation import Situation
from webfarm.rollout.world import Result

from . import test_guards, test_scenarios

Patch = pytest.MonkeyPatch
Trial = int | Callable[[], Any]


@dataclass(frozen=True)
class Mutation:
    """One guard: ``where`` it is, what it does in words, how to remove it, who finds that."""

    name: str
    where: str
    remove: Callable[[Patch], None]
    trials: tuple[Trial, ...]


def _set(owner: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def _seen_idle_once(patch: Patch) -> None:
    remember = world.remember

    def hasty(*args: Any) -> Any:
        memory = remember(*args)
        return memory if memory.idle != 1 else replace(memory, idle=2)

    patch.setattr(world, "remember", hasty)


def _one_balancer_speaks_for_all(patch: Patch) -> None:
    def answering(self: Situation) -> dict[str, Any]:
        answered = {n: v for n, v in self.seen.balancers.items() if v.answered}
        return dict(list(answered.items())[:1])

    patch.setattr(Situation, "balancers", property(answering))
    patch.setattr(Situation, "blind", property(lambda self: not answering(self)))


def _open_in_one_phase(patch: Patch) -> None:
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


def _fence_first(patch: Patch) -> None:
    """Straight from closing to what follows it, however many balancers have closed."""
    patch.setattr(planner, "_close", lambda now: planner._closed(now))


def _half_open_goes_back(patch: Patch) -> None:
    patch.setattr(opening, "half_open", lambda now: planner._out_of_service(now))


def _up_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Situation, "not_up_on", lambda self, name: [])
    lacking = probe.lacking

    def without(*args: Any) -> dict[str, str]:
        return {n: why for n, why in lacking(*args).items() if not why.startswith("is not UP")}

    patch.setattr(act, "lacking", without)


def _replies_are_believed(patch: Patch) -> None:
    def called(step: Step, now: world.World, waits: Any) -> Result:
        now.cluster.call(now.goal.site, str(step.function), step.targets, step.arguments, 10.0)
        view = dict(now.seen.balancers)
        now.seen = outline.expected(step, now.goal, replace(now.seen, balancers=view))
        now.observe = lambda servers=True: None  # type: ignore[method-assign]
        return Result("done", {})

    patch.setattr(act, "_balancers", called)


def _stragglers_are_switched_while_up(patch: Patch) -> None:
    def all_behind(now: Situation) -> list[str]:
        return [n for n in now.members if "rejoin" not in now.memory.done and now.up(n)]

    patch.setattr(opening, "stragglers", all_behind)
    patch.setattr(outline, "WAITS", (*outline.WAITS, "rejoin"))


def _a_gate_that(state: str) -> Callable[[Patch], None]:
    """The gate never says ``state`` but passes."""

    def remove(patch: Patch) -> None:
        judge = watch_over.gates.judge

        def lenient(*args: Any) -> Verdict:
            verdict = judge(*args)
            return replace(verdict, state="pass") if verdict.state == state else verdict

        patch.setattr(watch_over.gates, "judge", lenient)

    return remove


def _numbers_stand_still(patch: Patch) -> None:
    patch.setattr(lease.Hold, "of", lambda self, site: f"{site}:{self.leases[site].token}.1")


def _soak_only_once(patch: Patch) -> None:
    patch.setattr(
        engine.Engine,
        "_already_done",
        lambda self, staged: frozenset({"stage"} if staged else ()),
    )


def _no_before(patch: Patch) -> None:
    patch.setattr(Journal, "remember", lambda self, rollout, before: None)


broken = test_scenarios.test_a_broken_release_goes_no_further_than_the_first_farm
errors, slow = (
    partial(broken, test_scenarios.Flaw(errors=1.0), "abort"),
    partial(broken, test_scenarios.Flaw(slow=8.0), "abort"),
)
frozen = partial(
    test_scenarios.test_s5_who_was_suspended_past_the_lease_does_nothing_more, "closed", True
)

GUARDS: tuple[Mutation, ...] = (
    Mutation(
        "requests in flight are waited for",
        "act._quiesce",
        _set(act, "_quiesce", lambda *_: Result("done", {})),
        (0,),
    ),
    Mutation("idle must be seen twice", "planner.remember", _seen_idle_once, (1,)),
    Mutation("the pool is flushed", "steps.flush", _set(steps, "flush", lambda _: None), ()),
    Mutation("the flush is proven", "pool.unproven", _set(pool, "unproven", lambda *_: {}), ()),
    Mutation("every balancer is asked", "Situation.blind", _one_balancer_speaks_for_all, (0,)),
    Mutation("ready on all before open", "opening.ready", _open_in_one_phase, ()),
    Mutation("closed before the fence moves", "planner._close", _fence_first, (0,)),
    Mutation("half open goes forward only", "opening.half_open", _half_open_goes_back, ()),
    Mutation(
        "a new generation for a release",
        "Situation.generation",
        _set(Situation, "generation", property(lambda self: self.newest)),
        (0,),
    ),
    Mutation(
        "no way back after it opened",
        "engine._no_way_back",
        _set(engine.Engine, "_no_way_back", lambda self: ""),
        (),
    ),
    Mutation("changes are read back", "act._balancers", _replies_are_believed, (0,)),
    Mutation("servers are seen UP before open", "probe.lacking", _up_is_not_looked_at, ()),
    Mutation(
        "only a server that is DOWN is switched",
        "opening.stragglers",
        _stragglers_are_switched_while_up,
        (0,),
    ),
    Mutation(
        "min_capacity",
        "preflight.refusals",
        _set(Situation, "capacity", lambda *_: 1.0),
        (test_scenarios.test_s4_too_little_capacity_is_refused_before_anything_changes,),
    ),
    Mutation(
        "max_failed",
        "Situation.may_do_without",
        _set(Situation, "may_do_without", lambda *_: True),
        (
            test_scenarios.test_a_release_that_does_not_start_leaves_the_farm_in_service_on_the_old_one,
        ),
    ),
    Mutation(
        "max_failed_run",
        "run._over_budget",
        _set(run._Conducted, "_over_budget", lambda *_: ""),
        (test_guards.test_a_run_ends_when_it_has_lost_more_servers_than_it_may,),
    ),
    Mutation(
        "another farm takes the sessions over",
        "preflight._takes_over",
        _set(preflight, "_takes_over", lambda *_: True),
        (),
    ),
    Mutation(
        "the balancers agree",
        "preflight.disagreements",
        _set(preflight, "disagreements", lambda _: []),
        (),
    ),
    Mutation(
        "no release older than sessions have seen",
        "Situation.regression",
        _set(Situation, "regression", ""),
        (test_guards.test_s1_an_older_release_is_refused_while_sessions_may_have_seen_a_newer_one,),
    ),
    Mutation(
        "max_utilisation",
        "act.load",
        _set(act, "load", lambda _, result: result),
        (test_guards.test_a_farm_stays_when_the_others_could_not_carry_its_load,),
    ),
    Mutation(
        "the pool answers before the farm closes",
        "pool.through_one",
        lambda patch: patch.setattr(
            act,
            "through_one",
            lambda step, now: (
                Result("done", {}) if step.name == "preflight" else pool.through_one(step, now)
            ),
        ),
        (test_guards.test_a_pool_that_does_not_answer_keeps_its_farm_in_service,),
    ),
    Mutation(
        "the soak",
        "watch_over.soak",
        _set(act, "soak", lambda *_: Result("done", {})),
        (errors,),
    ),
    Mutation("the gate fails a release", "gates.judge", _a_gate_that("fail"), (errors, slow)),
    Mutation("an inconclusive gate pauses", "gates.judge", _a_gate_that("inconclusive"), (errors,)),
    Mutation(
        "a soak that was cut short begins again",
        "engine._already_done",
        _soak_only_once,
        (test_guards.test_a_soak_that_was_cut_short_begins_again,),
    ),
    Mutation(
        "how the farm was outlives a crash",
        "Journal.remember",
        _no_before,
        (partial(test_scenarios.killed, 30, 30, True, test_scenarios.control.abort),),
    ),
    Mutation(
        "who is left out is written down",
        "Journal.quarantine",
        _set(Journal, "quarantine", lambda *_: None),
        (),
    ),
    Mutation(
        "one holder of a site",
        "lease.alive",
        _set(lease, "alive", lambda *_: False),
        (test_scenarios.test_s5_of_two_started_at_the_same_instant_exactly_one_runs,),
    ),
    Mutation(
        "a lease that is lost ends its holder",
        "lease.confirm",
        _set(lease.Lease, "confirm", lambda _: None),
        (frozen,),
    ),
    Mutation(
        "the lease is renewed while it waits",
        "lease.beat",
        _set(lease.Hold, "beat", lambda _: None),
        (test_guards.test_a_long_wait_keeps_the_lease,),
    ),
    Mutation(
        "a node refuses what is older",
        "hold.check",
        _set(hold, "check", lambda *_: None),
        (test_scenarios.test_s5_a_command_that_comes_late_undoes_nothing,),
    ),
    Mutation(
        "messages are numbered",
        "Hold.of",
        _numbers_stand_still,
        (test_scenarios.test_s5_a_command_that_comes_late_undoes_nothing,),
    ),
    Mutation(
        "one unfinished run a site",
        "Journal.unfinished",
        _set(Journal, "unfinished", lambda *_: []),
        (test_guards.test_another_target_is_refused_while_a_run_is_unfinished,),
    ),
    Mutation(
        "windows and freezes",
        "windows.closed",
        _set(windows, "closed", lambda *_: ""),
        (test_guards.test_a_window_and_a_freeze_keep_farms_in_service_unless_overridden,),
    ),
    Mutation(
        "approvals",
        "run._waits_for_approval",
        _set(run._Conducted, "_waits_for_approval", lambda *_: False),
        (partial(test_guards.test_it_waits_for_approval, "canary"),),
    ),
    Mutation(
        "bad releases",
        "Journal.bad",
        _set(Journal, "bad", lambda _: {}),
        (test_guards.test_a_release_that_was_marked_bad_is_refused,),
    ),
    Mutation(
        "a stale plan",
        "plan_id.confirm",
        _set(plan_id, "confirm", lambda *_: None),
        (test_guards.test_a_plan_that_the_world_has_left_behind_is_refused,),
    ),
    Mutation(
        "sessions are reset only when asked for",
        "back._agreed",
        _set(back, "_agreed", lambda *_: None),
        (test_guards.test_going_back_needs_the_word_that_sessions_may_be_reset,),
    ),
)

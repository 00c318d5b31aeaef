"""The rollout's guards, each with what removes it and what then is expected to find it.

``trials`` are tried first: a seed of the campaign, or a scenario; then more seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from webfarm import hold
from webfarm.rollout import (
    act,
    back,
    course,
    engine,
    lease,
    plan_id,
    pool,
    preflight,
    steps,
    windows,
)
from webfarm.rollout.journal import Journal
from webfarm.rollout.situation import Situation
from webfarm.rollout.waves import act as wave_act
from webfarm.rollout.waves import refusals
from webfarm.rollout.waves.engine import WaveEngine
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.world import Result, World

from . import (
    mutants,
    test_cut_off,
    test_cut_short,
    test_guards,
    test_openings,
    test_releases,
    test_scenarios,
    test_waves,
)

Patch = pytest.MonkeyPatch
Trial = int | Callable[[], Any]


@dataclass(frozen=True)
class Mutation:
    """One guard: ``where`` it is, what it does in words, how to remove it, who finds that."""

    name: str
    where: str
    remove: Callable[[Patch], None]
    trials: tuple[Trial, ...]


broken = test_releases.test_a_broken_release_goes_no_further_than_the_first_farm
errors, slow = (
    partial(broken, test_releases.Flaw(errors=1.0), "abort"),
    partial(broken, test_releases.Flaw(slow=8.0), "abort"),
)
frozen = partial(
    test_scenarios.test_s5_who_was_suspended_past_the_lease_does_nothing_more, "closed", True
)

GUARDS: tuple[Mutation, ...] = (
    Mutation(
        "requests in flight are waited for",
        "act._quiesce",
        mutants.put(act, "_quiesce", lambda *_: Result("done", {})),
        (0,),
    ),
    Mutation("idle must be seen twice", "planner.remember", mutants.seen_idle_once, (4,)),
    Mutation(
        "the pool is flushed", "steps.flush", mutants.put(steps, "flush", lambda _: None), (8,)
    ),
    Mutation(
        "the flush is proven",
        "pool.unproven",
        mutants.put(pool, "unproven", lambda *_: {}),
        (test_openings.test_s3_a_pool_that_cannot_be_emptied_keeps_its_farm_closed,),
    ),
    Mutation(
        "every balancer is asked", "Situation.blind", mutants.one_balancer_speaks_for_all, (0,)
    ),
    Mutation(
        "ready on all before open",
        "opening.ready",
        mutants.open_in_one_phase,
        (test_openings.test_s1_a_balancer_that_lags_at_the_opening_lets_no_session_go_back,),
    ),
    Mutation("closed before the fence moves", "planner._close", mutants.fence_first, (0,)),
    Mutation("half open goes forward only", "opening.half_open", mutants.half_open_goes_back, ()),
    Mutation(
        "a new generation for a release",
        "Situation.generation",
        mutants.put(Situation, "generation", property(lambda self: self.newest)),
        (0,),
    ),
    Mutation(
        "no way back after it opened",
        "engine._no_way_back",
        mutants.put(engine.Engine, "_no_way_back", lambda self: ""),
        (test_openings.test_s1_aborted_with_one_balancer_open_it_goes_forward,),
    ),
    Mutation("changes are read back", "act._balancers", mutants.replies_are_believed, (0,)),
    Mutation(
        "servers are seen UP before open",
        "probe.lacking",
        mutants.up_is_not_looked_at,
        (test_openings.test_s4_servers_that_a_balancer_finds_down_keep_their_farm_out,),
    ),
    Mutation(
        "only a server that is DOWN is switched",
        "opening.stragglers",
        mutants.stragglers_are_switched_while_up,
        (1,),
    ),
    Mutation(
        "min_capacity",
        "preflight.refusals",
        mutants.put(Situation, "capacity", lambda *_: 1.0),
        (test_scenarios.test_s4_too_little_capacity_is_refused_before_anything_changes,),
    ),
    Mutation(
        "max_failed",
        "Situation.may_do_without",
        mutants.put(Situation, "may_do_without", lambda *_: True),
        (
            test_scenarios.test_a_release_that_does_not_start_leaves_the_farm_in_service_on_the_old_one,
        ),
    ),
    Mutation(
        "max_failed_run",
        "course._over_budget",
        mutants.put(course.Course, "_over_budget", lambda *_: ""),
        (test_guards.test_a_run_ends_when_it_has_lost_more_servers_than_it_may,),
    ),
    Mutation(
        "another farm takes the sessions over",
        "preflight._takes_over",
        mutants.put(preflight, "_takes_over", lambda *_: True),
        (test_openings.test_s2_a_farm_stays_while_no_other_may_answer_its_sessions,),
    ),
    Mutation(
        "the balancers agree",
        "preflight.disagreements",
        mutants.put(preflight, "disagreements", lambda _: []),
        (test_openings.test_a_balancer_with_another_state_on_disk_is_reconciled_first,),
    ),
    Mutation(
        "no release older than sessions have seen",
        "Situation.regression",
        mutants.put(Situation, "regression", ""),
        (test_guards.test_s1_an_older_release_is_refused_while_sessions_may_have_seen_a_newer_one,),
    ),
    Mutation(
        "max_utilisation",
        "act.load",
        mutants.put(act, "load", lambda _, result: result),
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
        mutants.put(act, "soak", lambda *_: Result("done", {})),
        (errors,),
    ),
    Mutation(
        "the gate fails a release", "gates.judge", mutants.a_gate_that("fail"), (errors, slow)
    ),
    Mutation(
        "an inconclusive gate pauses", "gates.judge", mutants.a_gate_that("inconclusive"), (errors,)
    ),
    Mutation(
        "a soak that was cut short begins again",
        "engine._already_done",
        mutants.soak_only_once,
        (test_guards.test_a_soak_that_was_cut_short_begins_again,),
    ),
    Mutation(
        "a failure is heeded after a crash",
        "Course._owed",
        mutants.put(course.Course, "_owed", lambda _: None),
        (
            partial(
                test_cut_short.test_killed_after_the_gate_has_failed_nobody_else_gets_the_release,
                "abort",
            ),
        ),
    ),
    Mutation(
        "no farm in hand is left behind",
        "Course._in_hand",
        mutants.put(course.Course, "_in_hand", lambda _: []),
        (test_cut_short.test_a_change_that_was_cut_short_is_not_forgotten,),
    ),
    Mutation(
        "the way back has an amnesty",
        "Situation.amnesty",
        mutants.put(Situation, "amnesty", lambda *_: {}),
        (partial(broken, test_releases.Flaw(errors=1.0), "rollback"),),
    ),
    Mutation(
        "how the farm was outlives a crash",
        "Journal.remember",
        mutants.no_before,
        (test_openings.test_s6_killed_while_it_was_closed_it_can_still_go_back,),
    ),
    Mutation(
        "who is left out is written down",
        "Journal.quarantine",
        mutants.put(Journal, "quarantine", lambda *_: None),
        (test_scenarios.test_s8_a_server_that_slept_is_named_and_brought_back_by_upgrade_server,),
    ),
    Mutation(
        "one holder of a site",
        "lease.alive",
        mutants.put(lease, "alive", lambda *_: False),
        (test_scenarios.test_s5_of_two_started_at_the_same_instant_exactly_one_runs,),
    ),
    Mutation(
        "a lease that is lost ends its holder",
        "lease.confirm",
        mutants.put(lease.Lease, "confirm", lambda _: None),
        (frozen,),
    ),
    Mutation(
        "the lease is renewed while it waits",
        "lease.beat",
        mutants.put(lease.Hold, "beat", lambda _: None),
        (test_guards.test_a_long_wait_keeps_the_lease,),
    ),
    Mutation(
        "a node refuses what is older",
        "hold.check",
        mutants.put(hold, "check", lambda *_: None),
        (test_scenarios.test_s5_a_command_that_comes_late_undoes_nothing,),
    ),
    Mutation(
        "messages are numbered",
        "Hold.of",
        mutants.numbers_stand_still,
        (test_scenarios.test_s5_a_command_that_comes_late_undoes_nothing,),
    ),
    Mutation(
        "a change follows a look at once",
        "hold.check_look",
        mutants.put(hold, "check_look", lambda *_: None),
        (test_cut_off.test_s5_what_the_network_kept_for_long_is_not_done,),
    ),
    Mutation(
        "before a change servers are looked at",
        "World.look_again",
        mutants.put(World, "look_again", lambda _: None),
        (partial(test_scenarios.test_requests_that_do_not_end, "force"),),
    ),
    Mutation(
        "what was asked before is waited for",
        "engine._older_may_act",
        mutants.put(engine.Engine, "_older_may_act", lambda _: False),
        (test_cut_off.test_s5_what_may_still_be_done_is_waited_for_by_who_takes_over,),
    ),
    Mutation(
        "one unfinished run a site",
        "Journal.unfinished",
        mutants.put(Journal, "unfinished", lambda *_: []),
        (test_guards.test_another_target_is_refused_while_a_run_is_unfinished,),
    ),
    Mutation(
        "windows and freezes",
        "windows.closed",
        mutants.put(windows, "closed", lambda *_: ""),
        (test_guards.test_a_window_and_a_freeze_keep_farms_in_service_unless_overridden,),
    ),
    Mutation(
        "approvals",
        "course._waits_for_approval",
        mutants.put(course.Course, "_waits_for_approval", lambda *_: ""),
        (partial(test_guards.test_it_waits_for_approval, "canary"),),
    ),
    Mutation(
        "bad releases",
        "Journal.bad",
        mutants.put(Journal, "bad", lambda _: {}),
        (test_guards.test_a_release_that_was_marked_bad_is_refused,),
    ),
    Mutation(
        "a stale plan",
        "plan_id.confirm",
        mutants.put(plan_id, "confirm", lambda *_: None),
        (test_guards.test_a_plan_that_the_world_has_left_behind_is_refused,),
    ),
    Mutation(
        "sessions are reset only when asked for",
        "back._agreed",
        mutants.put(back, "_agreed", lambda *_: None),
        (test_guards.test_going_back_needs_the_word_that_sessions_may_be_reset,),
    ),
    Mutation(
        "waves: requests in flight are waited for",
        "waves.act._quiesce",
        mutants.put(wave_act, "_quiesce", lambda *_: Result("done", {})),
        (test_waves.test_s2_requests_in_flight_are_waited_for,),
    ),
    Mutation(
        "waves: out on every balancer",
        "WaveSituation.everywhere",
        mutants.put(WaveSituation, "everywhere", lambda self, name, test: any(test)),
        (test_waves.test_s2_a_balancer_that_lags_keeps_a_server_from_being_changed,),
    ),
    Mutation(
        "waves: one server of a farm",
        "waves.refusals._others_out",
        mutants.put(refusals, "_others_out", lambda *_: []),
        (test_waves.test_s4_no_second_server_of_a_farm_while_one_is_still_out,),
    ),
    Mutation(
        "waves: the farm's capacity",
        "WaveSituation.keeps",
        mutants.put(WaveSituation, "keeps", lambda *_: 1.0),
        (test_waves.test_s4_capacity_counts_who_is_out_already,),
    ),
    Mutation(
        "waves: the load without the members",
        "WaveSituation.load_without",
        mutants.put(WaveSituation, "load_without", lambda *_: 0.0),
        (test_waves.test_s4_the_load_must_be_bearable_without_the_members,),
    ),
    Mutation(
        "waves: a boot id proves the reboot",
        "WaveSituation.rebooted",
        mutants.put(WaveSituation, "rebooted", lambda *_: True),
        (test_waves.test_s2_requests_in_flight_are_waited_for,),
    ),
    Mutation(
        "waves: a snapshot before the install",
        "WaveSituation.has_snapshot",
        mutants.put(WaveSituation, "has_snapshot", lambda *_: True),
        (test_waves.test_s2_requests_in_flight_are_waited_for,),
    ),
    Mutation(
        "waves: a failure stops the next wave",
        "WaveEngine._stops",
        mutants.put(WaveEngine, "_stops", lambda _: False),
        (test_waves.test_bad_packages_are_found_on_the_first_wave_and_taken_back,),
    ),
    Mutation(
        "waves: members are verified",
        "WaveSituation.trouble",
        mutants.put(WaveSituation, "trouble", lambda *_: ""),
        (test_waves.test_bad_packages_are_found_on_the_first_wave_and_taken_back,),
    ),
)

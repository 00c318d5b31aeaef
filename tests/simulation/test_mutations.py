"""Remove one guard at a time: the simulation must find the cluster guilty."""

from collections.abc import Callable
from typing import Any

import pytest
from webfarm.rollout import act, planner, world
from webfarm.rollout.model import Step
from webfarm.rollout.situation import Situation
from webfarm.rollout.world import Result

from tests.conftest import EXAMPLE

from .drive import run, weakened

SEEDS = range(60)  # a mutation that lives longer is not caught

Patch = pytest.MonkeyPatch


def no_drain_wait(patch: Patch) -> None:
    patch.setattr(act, "_quiesce", lambda *_: Result("done", {}))


def seen_idle_once(patch: Patch) -> None:
    remember = world.remember

    def hasty(*args: Any) -> Any:
        memory = remember(*args)
        return memory if memory.idle != 1 else type(memory)(**{**vars(memory), "idle": 2})

    patch.setattr(world, "remember", hasty)


def no_flush(patch: Patch) -> None:
    patch.setattr(planner, "_flush", lambda _: None)


def one_balancer_speaks_for_all(patch: Patch) -> None:
    first = property(lambda self: dict(list(_balancers(self).items())[:1]))

    def _balancers(self: Situation) -> Any:
        return {n: v for n, v in self.seen.balancers.items() if v.answered}

    patch.setattr(Situation, "balancers", first)
    patch.setattr(Situation, "blind", property(lambda self: not _balancers(self)))


def open_in_one_phase(patch: Patch) -> None:
    def ready(now: Situation) -> Any:
        generation = now.generation
        targets = [
            name
            for name in now.balancers
            if now.at[name].state != "open" or now.at[name].generation != generation
        ]
        if not targets:
            return planner._open(now)
        newest = max(now.newest, generation)
        return Step(
            "ready",
            tuple(targets),
            "",
            60.0,
            "haproxy_runtime.set_farms",
            {
                "state": {now.goal.farm: "open"},
                "generation": {now.goal.farm: generation},
                "newest": newest,
                "pick": now.shares([*now.others(), now.goal.farm]),
                "pick_newest": planner._newest_shares(now, generation, newest),
            },
        )

    patch.setattr(planner, "_ready", ready)


def no_capacity_guard(patch: Patch) -> None:
    patch.setattr(planner, "refusals", lambda _: [])


def no_budget(patch: Patch) -> None:
    patch.setattr(Situation, "may_do_without", lambda *_: True)


def switch_before_it_is_closed(patch: Patch) -> None:
    patch.setattr(planner, "_close", lambda now: planner._closed(now))


def generation_is_not_raised(patch: Patch) -> None:
    patch.setattr(Situation, "generation", property(lambda self: self.newest))


GUARDS: list[Callable[[Patch], None]] = [
    no_drain_wait,
    seen_idle_once,
    no_flush,
    one_balancer_speaks_for_all,
    open_in_one_phase,
    no_capacity_guard,
    no_budget,
    switch_before_it_is_closed,
    generation_is_not_raised,
]


@pytest.mark.parametrize("mutation", GUARDS, ids=lambda guard: guard.__name__)
def test_a_removed_guard_is_found(mutation: Callable[[Patch], None], capsys: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        for seed in SEEDS:
            try:
                if seed == 0:
                    weakened(seed, EXAMPLE)
                run(seed, EXAMPLE)
            except AssertionError as guilty:
                verdict = str(guilty).splitlines()[0]
                with capsys.disabled():
                    print(f"\n{mutation.__name__:<28} {verdict[:110]}", end=" ")
                return
    pytest.fail(f"{mutation.__name__} was not found in {len(SEEDS)} seeds")

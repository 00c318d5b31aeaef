"""Remove one guard at a time: the simulation must find the cluster guilty."""

from typing import Any

import pytest

from tests.conftest import EXAMPLE

from .drive import run
from .mutations import GUARDS, Mutation, Trial

SEEDS = range(60)  # a mutation that lives longer is not caught


def verdict_of(trial: Trial) -> str:
    """What is wrong with the cluster in this trial, or nothing."""
    try:
        if isinstance(trial, int):
            run(trial, EXAMPLE)
        else:
            trial()
    except AssertionError as guilty:
        lines = str(guilty).splitlines() or ["a scenario that should not hold does"]
        return lines[0]
    return ""


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "_"))
def test_a_removed_guard_is_found(guard: Mutation, record_property: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        guard.remove(patch)
        for trial in (*guard.trials, *SEEDS):
            verdict = verdict_of(trial)
            if verdict:
                record_property("simulation", f"{guard.name:<42}{guard.where:<28}{verdict[:100]}")
                return
    pytest.fail(f"nothing misses the guard '{guard.name}' of {guard.where}", pytrace=False)

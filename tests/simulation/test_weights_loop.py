"""A rollout and the weights' loop at once: whatever goes wrong, neither undoes the other.

The loop changes shares in the pick maps, on disk first, and drains and lifts servers of open farms,
on each balancer at another moment. All promises are judged as ever, and every run comes to its end.
"""

from dataclasses import replace
from typing import Any

import pytest
from webfarm.rollout import commands

from tests.conftest import EXAMPLE

from .drive import SECOND, Drive, Plan, campaign, pillar_of, plan_of
from .faults import WEIGHTS


def with_loop(plan: Plan) -> Plan:
    return replace(plan, kinds=plan.kinds | {WEIGHTS})


@pytest.mark.parametrize("seed", range(8))
def test_every_promise_holds_while_the_loop_runs(seed: int) -> None:
    Drive(with_loop(plan_of(seed, EXAMPLE))).run(campaign)


def test_the_loop_alone_never_stops_a_rollout_in_the_middle() -> None:
    """No refusal, no pause, no disagreement: the loop's work is nobody's fault."""
    pillar = pillar_of(EXAMPLE, farms=3, servers=4, min_capacity=0.4)
    drive = Drive(with_loop(Plan(1, pillar, ("site1",), frozenset())))

    def upgrade(drive: Drive) -> None:
        done: Any = drive.command("upgrade all", lambda c: commands.upgrade(c, release=SECOND))
        assert done.result is not None, done.error
        assert done.result["result"] is True, done.result
        drive.at_rest(SECOND)

    drive.run(upgrade)

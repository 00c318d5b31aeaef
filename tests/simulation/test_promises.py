"""The promises S1 to S8 over seeds: the real engine in a cluster with faults and operators.

``WEBFARM_SEEDS=FIRST-LAST`` runs other seeds; `python -m tests.simulation.long FIRST-LAST` runs
many, in several processes. A failure prints its seed, and the kinds of trouble that it takes.
"""

import os

import pytest

from tests.conftest import EXAMPLE

from .drive import KINDS, run
from .shrink import shortened

FIRST, LAST = (int(n) for n in os.environ.get("WEBFARM_SEEDS", "0-59").split("-"))


@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_promises_hold_under_faults_and_operators(seed: int) -> None:
    try:
        world = run(seed, EXAMPLE)
    except AssertionError as guilty:
        pytest.fail(shortened(seed, EXAMPLE, guilty), pytrace=False)
    assert world.requests > 500


@pytest.mark.parametrize("seed", range(3))
def test_without_trouble_no_request_is_lost(seed: int) -> None:
    world = run(seed, EXAMPLE, without=frozenset(KINDS))
    assert world.excused == 0


def test_same_seed_same_run() -> None:
    assert run(5, EXAMPLE).trace == run(5, EXAMPLE).trace

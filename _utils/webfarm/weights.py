"""The law by which the weights of a farm follow the health of its servers: pure, no clock, no I/O.

Call :func:`absorb` for each report that was found genuine and in order, :func:`urgent` right after
it, and :func:`decide` once in a tick. ``now`` is any clock in seconds that goes on over a restart
(wall time); where it goes back, what lies ahead of it counts as now.
"""

from collections.abc import Collection, Mapping

from webfarm.weighing.law import Law
from webfarm.weighing.state import Decision, Estimate, Farm, Load, Server, pack, unpack

__all__ = [
    "Decision",
    "Estimate",
    "Farm",
    "Law",
    "Load",
    "Server",
    "absorb",
    "decide",
    "pack",
    "unpack",
    "urgent",
]


def absorb(law: Law, state: Farm, server: str, load: Load, now: float) -> Farm:
    """``state`` with one more report of ``server``.

    The order of the reports between two decisions does not matter. The caller has checked that the
    server belongs to the farm, and that the report is genuine, in range and not an old one.
    """
    raise NotImplementedError


def decide(
    law: Law,
    base: Mapping[str, int],
    state: Farm,
    now: float,
    frozen: Collection[str] = (),
    absent: Collection[str] = (),
) -> tuple[Decision, Farm]:
    """The farm's next weights, and the state for the next call; once in a tick.

    base
        The weights of the pillar, 1 to 256, for all of the farm's servers. Others are forgotten.
    frozen
        Servers whose weight, and whose drain, stay as they are.
    absent
        Servers that a hand or a rollout took out of service: the law compares nobody with them,
        does not drain them, and does not count on them.
    """
    raise NotImplementedError


def urgent(
    law: Law,
    base: Mapping[str, int],
    state: Farm,
    server: str,
    now: float,
    frozen: Collection[str] = (),
    absent: Collection[str] = (),
) -> tuple[Decision, Farm] | None:
    """Drain ``server`` now, before the tick; None when there is no need, or no right, to.

    Ask after each absorbed report of ``server``; it is cheap. It answers for a critical report, and
    for errors that need no more evidence. All other weights stay what they are.
    """
    raise NotImplementedError

"""Make a failing seed short: leave out every kind of trouble that the failure does not need."""

from typing import Any

from .drive import plan_of, run


def failure(seed: int, base: dict[str, Any], without: frozenset[str] = frozenset()) -> str:
    """What is wrong with the seed, or nothing."""
    try:
        run(seed, base, without)
    except AssertionError as guilty:
        return str(guilty)
    return ""


def shortened(seed: int, base: dict[str, Any], guilty: AssertionError) -> str:
    """The failure with the fewest kinds of trouble, and how to repeat it."""
    shortest, without = str(guilty), frozenset[str]()
    for kind in sorted(plan_of(seed, base).kinds):
        tried = failure(seed, base, without | {kind})
        if tried:
            shortest, without = tried, without | {kind}
    kinds = sorted(plan_of(seed, base, without).kinds)
    return (
        f"{shortest}\n\nseed {seed} fails with these kinds of trouble: "
        f"{', '.join(kinds) or 'none'}. To repeat it:\n"
        f"  python -m tests.simulation.long --show {seed} {' '.join(sorted(without))}"
    )

"""Where a run waits for somebody to say yes; pure."""

from collections.abc import Mapping
from itertools import pairwise

from webfarm.rollout.model import Run
from webfarm.topology import Site


def approvals(run: Run, sites: Mapping[str, Site]) -> dict[int, str]:
    """After which of the run's farms it waits for somebody, and for whom."""
    points = {}
    for number, (goal, after) in enumerate(pairwise(run.goals)):
        policy = sites[goal.site].policy
        if (
            policy.approve == "farm"
            or (policy.approve == "canary" and number == 0)
            or (policy.approve == "site" and goal.site != after.site)
        ):
            points[number] = f"by {' or '.join(policy.approvers) or 'anybody'}"
    return points

"""The steps that a farm's servers are asked to do: stage, switch, flush."""

from typing import Any

from webfarm.policy import Policy
from webfarm.rollout.model import Goal, Step, listed
from webfarm.rollout.situation import Situation

STAGE_SECONDS = 3600.0
SWITCH_SECONDS = 90.0
FLUSH_SECONDS = 10.0


def stage(now: Situation, servers: list[str]) -> Step | None:
    """Install both trees where they lack; nothing that runs is touched."""
    goal = now.goal
    lacking = [name for name in servers if not now.server(name).has(goal.php, goal.webapp)]
    if now.states == {"open"} and not now.fenced and "stage" not in now.memory.done:
        lacking = servers  # also where the trees are: it enters the pair in releases.php
    if not lacking:
        return None
    return Step(
        "stage",
        tuple(lacking),
        f"php {goal.php} and webapp {goal.webapp} must be installed, and known as {goal.release}",
        STAGE_SECONDS,
        "webfarm_release.stage",
        staging(goal, now.site.policy),
    )


def stage_again(now: Situation, name: str) -> Step:
    """Hash both trees anew: a power cut may have left files that were never written."""
    return Step(
        "stage",
        (name,),
        f"the trees of {now.goal.release} are verified before anything is switched",
        STAGE_SECONDS,
        "webfarm_release.stage",
        {**staging(now.goal, now.site.policy), "verify": True},
    )


def staging(goal: Goal, policy: Policy) -> dict[str, Any]:
    """The arguments of ``webfarm_release.stage``."""
    return {
        "release": goal.release,
        "php": goal.php,
        "webapp": goal.webapp,
        "digests": dict(goal.digests) if goal.digests else None,
        "bwlimit": policy.stage_kib,
    }


def switch(now: Situation, servers: list[str], name: str) -> Step:
    """Both symlinks and one restart of php-fpm."""
    goal = now.goal
    return Step(
        name,
        tuple(servers),
        f"to {goal.release}, all at once",
        SWITCH_SECONDS,
        "webfarm_release.switch",
        {"release": goal.release, "php": goal.php, "webapp": goal.webapp},
    )


def flush(now: Situation) -> Step | None:
    """Sessions that left the farm went on elsewhere: what its pool remembers is the past (S3)."""
    wanted = [m for m in now.to_flush() if m not in now.memory.flushed]
    if not wanted:
        return None
    return Step(
        "flush",
        tuple(now.members),
        f"the pool must not remember what moved away: {listed(wanted)}",
        FLUSH_SECONDS + now.site.policy.answer_seconds,
        "farm_cache.flush",
        {"servers": wanted, "deadline": FLUSH_SECONDS},
    )

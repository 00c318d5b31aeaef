"""What takes the waves of a run back: each server that it touched, from its snapshot of before."""

from collections.abc import Iterable
from dataclasses import replace

from webfarm.rollout.model import Before, Goal, Run
from webfarm.rollout.waves.values import MemberBefore

Finished = Iterable[tuple[str, str, Before]]


def goals_back(run: Run, finished: Finished) -> tuple[Goal, ...]:
    """The waves that were begun, the last one first.

    finished
        As :meth:`webfarm.rollout.journal.Journal.finished`: site, wave, how its servers were.
    """
    had = {
        (site, name): {
            server: MemberBefore(**one)
            for server, one in before.members.items()
            if one.get("attempted")
        }
        for site, name, before in finished
    }
    goals = []
    for goal in reversed(run.goals):
        touched = had.get((goal.site, goal.farm))
        if goal.wave is None or not touched:
            continue
        members = {name: farm for name, farm in goal.wave.members.items() if name in touched}
        wave = replace(goal.wave, members=members, back=touched, online=False)
        goals.append(replace(goal, release=wave.label, wave=wave))
    return tuple(goals)

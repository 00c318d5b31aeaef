"""Follow a run that another process conducts: its journal, played to a watcher as it grows."""

import math
from collections.abc import Mapping
from typing import Any

from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Goal, Run, Step
from webfarm.rollout.watcher import Done, Outcome, RunOutcome, Watcher

Row = Mapping[str, Any]


class Follower:
    """Tells a watcher what is new in the journal of one run.

    The steps of farms that had ended before the first look are not told again.
    """

    def __init__(self, journal: Journal, number: int, watcher: Watcher) -> None:
        self.journal = journal
        self.number = number
        self.watcher = watcher
        self.run: Run = journal.run(number)["run"]
        self.begun: set[int] = set()
        self.ended: set[int] = set()
        self.steps: dict[int, tuple[Step, str]] = {}
        watcher.run_started(number, self.run, False)

    def look(self, now: float) -> None:
        """Tell what has happened since the last look."""
        rollouts = self.journal.rollouts(10_000, self.number)[::-1]
        if not rollouts:
            self._steps(self.journal.run_steps(self.number), now)
        for row in rollouts:
            if row["id"] in self.ended:
                continue
            first = row["id"] not in self.begun
            if first:
                self.begun.add(row["id"])
                self.watcher.rollout_started(self._goal(row), row["id"], False)
            if not (first and row["ended"] is not None):
                self._steps(self.journal.steps(row["id"]), now)
            if row["ended"] is not None and row["outcome"]:
                self.ended.add(row["id"])
                self.watcher.rollout_finished(self._outcome(row["outcome"], self._goal(row)))

    def finish(self, row: Row) -> None:
        """Tell how the run ended, or that it waits."""
        data = row["outcome"] or {}
        goals = {(goal.site, goal.farm): goal for goal in self.run.goals}
        outcomes = [
            self._outcome(one, goals[one["site"], one["farm"]])
            for one in data.get("outcomes", ())
            if (one["site"], one["farm"]) in goals
        ]
        self.watcher.run_finished(
            RunOutcome(row["state"], self.number, data.get("message", ""), outcomes=tuple(outcomes))
        )

    def _steps(self, rows: list[dict[str, Any]], now: float) -> None:
        for row in rows:
            step, told = self.steps.get(row["id"], (None, ""))
            if step is None:
                step = Step(row["name"], tuple(row["targets"]), row["why"], None)
                self.watcher.step_started(step, math.nan)
            if row["state"] == "intended":
                self.watcher.step_waits(step, step.why, now - row["started"], None)
            elif told != row["state"]:
                seconds = (row["ended"] or now) - row["started"]
                done = Done(step.name, row["state"], seconds, row["evidence"] or {})
                self.watcher.step_finished(step, done)
            self.steps[row["id"]] = (step, row["state"])

    @staticmethod
    def _goal(row: Row) -> Goal:
        return Goal(row["site"], row["farm"], row["release"], "", "", server=row["server"])

    @staticmethod
    def _outcome(data: Row, goal: Goal) -> Outcome:
        return Outcome(
            data["state"],
            goal,
            data["message"],
            data["cluster"],
            seconds=data["seconds"],
            left_out=data["quarantined"],
        )

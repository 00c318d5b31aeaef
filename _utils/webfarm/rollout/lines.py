"""Show a run as one line a step: for a log, a pipe, a terminal that is none."""

import time
from contextlib import suppress
from typing import TextIO

from webfarm.rollout.model import Goal, Run, Step, listed
from webfarm.rollout.run import describe
from webfarm.rollout.watcher import Done, Outcome, RunOutcome, Watcher

PATIENCE = 10.0  # seconds between two lines that say what a step waits for


class Lines(Watcher):
    """One line a step, and one now and then while a step waits."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.said = 0.0
        self.run: Run | None = None

    def _say(self, text: str) -> None:
        with suppress(OSError):  # a terminal that is gone is no reason to stop a run
            self.stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
            self.stream.flush()

    def run_started(self, number: int, run: Run, resumed: bool) -> None:
        self.run = run
        self._say(f"run {number} {'goes on' if resumed else 'starts'}: {describe(run)}")

    def rollout_started(self, goal: Goal, rollout: int, resumed: bool) -> None:
        what = "goes on" if resumed else "starts"
        self._say(f"{goal.site} {goal.farm} to {goal.release} {what}{position(self.run, goal)}")

    def step_started(self, step: Step, capacity: float) -> None:
        self.said = 0.0

    def step_waits(self, step: Step, what: str, seconds: float, deadline: float | None) -> None:
        if seconds - self.said >= PATIENCE:
            self.said = seconds
            self._say(f"{step.name:<9} … {seconds:.0f} s{at_most(deadline)}: {what}")

    def step_finished(self, step: Step, done: Done) -> None:
        self._say(
            f"{step.name:<9} {done.state:<7} {done.seconds:5.1f} s  {listed(step.targets)}: "
            f"{told(step, done)}"
        )

    def turned_back(self, release: str, reason: str) -> None:
        self._say(f"going back to {release}: {reason}")

    def rollout_finished(self, outcome: Outcome) -> None:
        self._say(f"{outcome.state}: {outcome.message}")
        self._say(outcome.cluster)

    def run_finished(self, outcome: RunOutcome) -> None:
        if self.run is None or len(self.run.goals) > 1:
            self._say(f"run {outcome.run} {outcome.state}: {outcome.message}")

    def told(self, text: str) -> None:
        self._say(text)


# -- words that the live table shares --------------------------------------------------------------


def position(run: Run | None, goal: Goal) -> str:
    """Which farm of how many, where there are several: `` (farm 2 of 8)``."""
    number = number_of(run, goal) if run and len(run.goals) > 1 else None
    return "" if run is None or number is None else f" (farm {number + 1} of {len(run.goals)})"


def number_of(run: Run, goal: Goal) -> int | None:
    """Which of the run's farms it is, from 0."""
    places = [(one.site, one.farm) for one in run.goals]
    place = (goal.site, goal.farm)
    return places.index(place) if place in places else None


def at_most(deadline: float | None) -> str:
    """`` of 60 s``, or nothing for a step that waits without end."""
    return "" if deadline is None else f" of {deadline:.0f} s"


def told(step: Step, done: Done) -> str:
    """Why a step was taken or what went wrong, and which servers it left out."""
    text = str(done.evidence.get("error") or step.why)
    failed = done.evidence.get("failed")
    if not failed or done.state != "done":
        return text
    return f"{text}; left out: " + listed([f"{name} ({why})" for name, why in failed.items()])

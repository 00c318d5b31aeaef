"""Show a run on a terminal: its farms, and the steps of the current one as they go."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from webfarm.rollout.lines import at_most, number_of, told
from webfarm.rollout.model import Goal, Run, Step, listed
from webfarm.rollout.run import describe
from webfarm.rollout.watcher import Done, Outcome, RunOutcome, Watcher

MARKS = {"done": ("✓", "green"), "nothing": ("✓", "green"), "failed": ("✗", "red")}
MARKS |= {"refused": ("✗", "red"), "aborted": ("✗", "red"), "paused": ("…", "yellow")}
UNKNOWN = ("?", "yellow")
AROUND = 3  # farms that are shown before and after the current one


class Screen(Watcher):
    """The farms of the run, and the current one's steps with what is waited for."""

    def __init__(self, stream: TextIO, watching: bool = False) -> None:
        self.watching = watching
        self.console = Console(file=stream)
        self.live = Live(console=self.console)
        self.hint = ""
        self.approvals: Mapping[int, str] = {}
        self.title = ""
        self.run: Run | None = None
        self.goal: Goal | None = None
        self.ends: dict[tuple[str, str], Outcome] = {}
        self.rows: list[tuple[Step, Done, float]] = []
        self.current: tuple[Step, float, float] | None = None
        self.waits = ""
        self.end: RunOutcome | None = None

    # -- what is drawn ---------------------------------------------------------------------------

    def __rich__(self) -> Any:
        parts: list[Any] = [Text(self.title, "bold")]
        if self.run is not None and len(self.run.goals) > 1:
            parts.append(self._farms(self.run.goals))
        parts.append(self._steps())
        if self.end is not None:
            parts.append(Text(self.end.message, "green" if self.end.ok else "red"))
            parts += [Text(outcome.cluster) for outcome in self.end.outcomes[-1:]]
        elif self.current is not None:
            parts += [Text(line, "dim") for line in (self._approval(), self.hint) if line]
        return Group(*parts)

    def _farms(self, goals: Sequence[Goal]) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        at = self._at()
        for number, goal in enumerate(goals):
            if abs(number - at) > AROUND:
                continue
            end = self.ends.get((goal.site, goal.farm))
            mark, colour = MARKS.get(end.state, UNKNOWN) if end else ("", "")
            if end is None and number == at:
                mark, colour = "▸", "cyan"
            took = f"{end.seconds:.0f} s" if end else ""
            said = end.message if end else ""
            name = f"{number + 1}/{len(goals)} {goal.site} {goal.farm}"
            table.add_row(Text(mark, colour), name, took, Text(said, colour))
        return table

    def _at(self) -> int:
        """The number of the current farm."""
        if self.run is None or self.goal is None:
            return 0
        return number_of(self.run, self.goal) or 0

    def _approval(self) -> str:
        """Where the run waits next, and for whom."""
        ahead = [number for number in self.approvals if number >= self._at()]
        if self.run is None or not ahead:
            return ""
        goal = self.run.goals[min(ahead)]
        return (
            f"after {goal.site} {goal.farm} it waits for an approval {self.approvals[min(ahead)]}"
        )

    def _steps(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "step", "time", "capacity", "where", "why"):
            table.add_column(heading, overflow="fold" if heading == "why" else "ellipsis")
        for step, done, capacity in self.rows:
            mark, colour = MARKS.get(done.state, UNKNOWN)
            table.add_row(
                Text(mark, colour),
                step.name,
                f"{done.seconds:.1f} s",
                _share(capacity),
                listed(step.targets),
                Text(told(step, done), "" if done.state == "done" else colour),
            )
        if self.current:
            step, since, capacity = self.current
            table.add_row(
                Text("…", "cyan"),
                Text(step.name, "bold"),
                f"{time.monotonic() - since:.0f} s{at_most(step.deadline)}",
                _share(capacity),
                listed(step.targets),
                Text(self.waits or step.why, "cyan"),
            )
        return table

    # -- what happens ----------------------------------------------------------------------------

    def expects(self, approvals: Mapping[int, str]) -> None:
        self.approvals = approvals

    def run_started(self, number: int, run: Run, resumed: bool) -> None:
        self.run = run
        again = ", taken up again" if resumed else ""
        self.title = f"run {number}: {describe(run)}{again}"
        pause = f"salt-run upgrade.pause {number}"
        self.hint = (
            f"Ctrl-C leaves only the watching; {pause} pauses the run"
            if self.watching
            else f"Ctrl-C pauses after this step; so does {pause} elsewhere"
        )
        self.ends.clear()
        self.rows, self.current, self.goal, self.end = [], None, None, None
        self.close()
        self.live = Live(self, console=self.console, refresh_per_second=4)
        with suppress(OSError):
            self.live.start()

    def rollout_started(self, goal: Goal, rollout: int, resumed: bool) -> None:
        self.goal = goal
        self.rows, self.current = [], None

    def step_started(self, step: Step, capacity: float) -> None:
        self.current = (step, time.monotonic(), capacity)
        self.waits = ""

    def step_waits(self, step: Step, what: str, seconds: float, deadline: float | None) -> None:
        self.waits = what
        known = self.current is not None and self.current[0] is step
        capacity = self.current[2] if self.current and known else math.nan
        self.current = (step, time.monotonic() - seconds, capacity)

    def step_finished(self, step: Step, done: Done) -> None:
        capacity = self.current[2] if self.current else math.nan
        self.rows.append((step, done, capacity))
        self.current = None

    def turned_back(self, release: str, reason: str) -> None:
        self.title += f", going back to {release}"

    def rollout_finished(self, outcome: Outcome) -> None:
        self.ends[outcome.goal.site, outcome.goal.farm] = outcome

    def run_finished(self, outcome: RunOutcome) -> None:
        self.end = outcome
        self.current = None
        self.close()

    def told(self, text: str) -> None:
        with suppress(OSError):
            self.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was; one that is gone is no reason to stop a run."""
        with suppress(OSError):
            self.live.stop()


def _share(capacity: float) -> str:
    return "" if math.isnan(capacity) else f"{capacity:.0%}"

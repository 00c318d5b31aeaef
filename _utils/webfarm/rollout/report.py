"""Show a rollout while it runs: a live table on a terminal, elsewhere one line a step."""

import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from webfarm.rollout.model import Goal, Step, listed
from webfarm.rollout.watcher import Done, Outcome, Watcher

PATIENCE = 10.0  # seconds between two lines that say what a step waits for
_MARKS = {"done": ("✓", "green"), "failed": ("✗", "red"), "unknown": ("?", "yellow")}


def watcher_for(stream: TextIO, quiet: bool) -> Watcher:
    """The watcher that suits where the output goes."""
    if quiet:
        return Watcher()
    return Screen(stream) if stream.isatty() else Lines(stream)


class Lines(Watcher):
    """One line a step, and one now and then while a step waits."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.said = 0.0

    def _say(self, text: str) -> None:
        self.stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.stream.flush()

    def rollout_started(self, goal: Goal, rollout: int, resumed: bool) -> None:
        what = "goes on" if resumed else "starts"
        self._say(f"rollout {rollout} {what}: {goal.site} {goal.farm} to {goal.release}")

    def step_started(self, step: Step, capacity: float) -> None:
        self.said = 0.0

    def step_waits(self, step: Step, what: str, seconds: float, deadline: float | None) -> None:
        if seconds - self.said >= PATIENCE:
            self.said = seconds
            self._say(f"{step.name:<9} … {seconds:.0f} s{_of(deadline)}: {what}")

    def step_finished(self, step: Step, done: Done) -> None:
        self._say(
            f"{step.name:<9} {done.state:<7} {done.seconds:5.1f} s  {listed(step.targets)}: "
            f"{done.evidence.get('error') or step.why}{_failed(done)}"
        )

    def turned_back(self, release: str, reason: str) -> None:
        self._say(f"going back to {release}: nothing that was begun is in service yet")

    def rollout_finished(self, outcome: Outcome) -> None:
        self._say(f"{outcome.state}: {outcome.message}")
        self._say(outcome.cluster)


class Screen(Watcher):
    """The steps as a table that follows the rollout, with what the current one waits for."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream)
        self.live = Live(console=self.console)
        self.title = ""
        self.rows: list[tuple[Step, Done, float]] = []
        self.current: tuple[Step, float, float] | None = None
        self.waits = ""
        self.end: Outcome | None = None

    def __rich__(self) -> Any:
        table = Table(title=self.title, title_justify="left", box=None, pad_edge=False)
        for heading in ("", "step", "time", "capacity", "where", "why"):
            table.add_column(heading, overflow="fold" if heading == "why" else "ellipsis")
        for step, done, capacity in self.rows:
            mark, colour = _MARKS.get(done.state, ("?", "yellow"))
            why = f"{done.evidence.get('error') or step.why}{_failed(done)}"
            table.add_row(
                Text(mark, colour),
                step.name,
                f"{done.seconds:.1f} s",
                f"{capacity:.0%}",
                listed(step.targets),
                Text(why, "" if done.state == "done" else colour),
            )
        if self.current:
            step, since, capacity = self.current
            spent = time.monotonic() - since
            table.add_row(
                Text("…", "cyan"),
                Text(step.name, "bold"),
                f"{spent:.0f} s{_of(step.deadline)}",
                f"{capacity:.0%}",
                listed(step.targets),
                Text(self.waits or step.why, "cyan"),
            )
        if self.end is None:
            return Group(table, Text("Ctrl-C stops after this step", "dim"))
        colour = "green" if self.end.ok else "red"
        return Group(table, Text(self.end.message, colour), Text(self.end.cluster))

    def rollout_started(self, goal: Goal, rollout: int, resumed: bool) -> None:
        again = ", taken up again" if resumed else ""
        self.title = f"{goal.site} {goal.farm} to {goal.release} (rollout {rollout}{again})"
        self.rows, self.current, self.end = [], None, None
        self.live = Live(self, console=self.console, refresh_per_second=8)
        self.live.start()

    def step_started(self, step: Step, capacity: float) -> None:
        self.current = (step, time.monotonic(), capacity)
        self.waits = ""

    def step_waits(self, step: Step, what: str, seconds: float, deadline: float | None) -> None:
        self.waits = what
        if self.current is None or self.current[0] is not step:
            self.current = (step, time.monotonic() - seconds, 0.0)

    def step_finished(self, step: Step, done: Done) -> None:
        capacity = self.current[2] if self.current else 0.0
        self.rows.append((step, done, capacity))
        self.current = None

    def turned_back(self, release: str, reason: str) -> None:
        self.title += f", going back to {release}"

    def rollout_finished(self, outcome: Outcome) -> None:
        self.end = outcome
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.live.stop()


def _of(deadline: float | None) -> str:
    return "" if deadline is None else f" of {deadline:.0f} s"


def _failed(done: Done) -> str:
    failed = done.evidence.get("failed")
    if not failed or done.state != "done":
        return ""
    return "; left out: " + listed([f"{name} ({why})" for name, why in failed.items()])


def show_plan(data: Mapping[str, Any], stream: TextIO) -> None:
    """A plan as tables, one a farm."""
    wide = None if stream.isatty() else 160
    console = Console(file=stream, width=wide, highlight=False)
    for farm in data.get("farms", ()):  # nothing, unless the data is a plan
        console.print(Text(f"{farm['site']} {farm['farm']} to {farm['release']}", "bold"))
        console.print(f"  now: {farm['now']}")
        for reason in farm.get("refused", ()):
            console.print(Text(f"  refused: {reason}", "red"))
        if farm.get("steps"):
            table = Table(box=None, pad_edge=False, padding=(0, 2))
            for heading in ("  step", "capacity", "at most", "where", "why"):
                table.add_column(heading, overflow="fold")
            for step in farm["steps"]:
                table.add_row(
                    f"  {step['step']}",
                    step["capacity"],
                    step["at_most"],
                    step["targets"],
                    step["why"],
                )
            console.print(table)
        if "end" in farm:
            console.print(f"  then: {farm['end']}")
        for name, why in farm.get("left_out", {}).items():
            console.print(Text(f"  left out: {name} {why}", "yellow"))
        console.print()


def brief(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is left to say on a terminal when the steps or the plan were shown already."""
    if "farms" in data:
        ends = {
            f"{farm['site']} {farm['farm']}": farm.get("end") or farm.get("refused")
            for farm in data["farms"]
        }
        return {"result": data["result"], "changed": "nothing, this is a plan", "farms": ends}
    if "outcomes" in data:
        short = {
            f"{one['site']} {one['farm']}": {k: v for k, v in brief(one).items() if k != "result"}
            for one in data["outcomes"]
        }
        return {**data, "outcomes": short}
    if "rollouts" in data:
        return {"rollouts": [_history_line(rollout) for rollout in data["rollouts"]]}
    if "rollout" in data and "cluster" in data:
        kept = (
            "result",
            "state",
            "message",
            "cluster",
            "next",
            "quarantined",
            "rollout",
            "seconds",
        )
        return {key: data[key] for key in kept if data.get(key) not in (None, {}, "")}
    return dict(data)


def _history_line(rollout: Mapping[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(rollout["started"]))
    took = "" if rollout["ended"] is None else f", {rollout['ended'] - rollout['started']:.0f} s"
    return (
        f"{rollout['id']} {when} UTC {rollout['site']} {rollout['farm']} to {rollout['release']}: "
        f"{rollout['state']}{took}, by {rollout['holder']}. {rollout['message']}"
    )

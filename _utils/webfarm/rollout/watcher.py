"""What happens in a rollout, as hooks: a terminal, a log or a metric each implement them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webfarm.rollout.model import Goal, Run, Step


@dataclass(frozen=True)
class Done:
    """A step that ended: ``state`` is done, failed, inconclusive or unknown."""

    step: str
    state: str
    seconds: float
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended.

    state
        ``done``, ``nothing`` (it was there already), ``refused`` (nothing was changed),
        ``paused`` (it waits for somebody, the farm may be out of service), ``aborted`` (by the
        operator; the farm is in service) or ``failed`` (the farm is in service, see ``cluster``).
    message
        What happened; for a failure what failed where.
    cluster
        The state that the farm is in now.
    command
        What to type next; empty when there is nothing to type.
    """

    state: str
    goal: Goal
    message: str
    cluster: str
    command: str = ""
    rollout: int = 0
    seconds: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Done, ...] = ()

    @property
    def ok(self) -> bool:
        """The farm is where the operator wanted it."""
        return self.state in ("done", "nothing")

    def plain(self) -> dict[str, Any]:
        """As data, for ``--out=json`` and the journal."""
        data: dict[str, Any] = {
            "result": self.ok,
            "state": self.state,
            "site": self.goal.site,
            "farm": self.goal.farm,
            "release": self.goal.release,
            "rollout": self.rollout,
            "message": self.message,
            "cluster": self.cluster,
            "seconds": round(self.seconds, 3),
            "quarantined": dict(self.left_out),
            "steps": [
                {
                    "step": done.step,
                    "state": done.state,
                    "seconds": round(done.seconds, 3),
                    "evidence": dict(done.evidence),
                }
                for done in self.steps
            ],
        }
        if self.command:
            data["next"] = self.command
        return data


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended, or why it waits.

    state
        ``done``, ``nothing``, ``refused``, ``aborted``, ``failed`` or ``rolled_back``: it has
        ended, every farm is in service. ``paused``: it has not.
    outcomes
        Of the farms that it came to, in order.
    not_begun
        The farms that it did not come to.
    command
        What to type next; empty when there is nothing to type.
    """

    state: str
    run: int
    message: str
    kind: str = "upgrade"
    release: str = ""
    outcomes: tuple[Outcome, ...] = ()
    not_begun: tuple[Goal, ...] = ()
    command: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """The farms are where the operator wanted them."""
        return self.state in ("done", "nothing")

    def plain(self) -> dict[str, Any]:
        """As data, for ``--out=json`` and the journal."""
        data: dict[str, Any] = {
            "result": self.ok,
            "state": self.state,
            "run": self.run,
            "kind": self.kind,
            "release": self.release,
            "message": self.message,
            "seconds": round(self.seconds, 3),
            "outcomes": [outcome.plain() for outcome in self.outcomes],
        }
        if self.not_begun:
            data["not_begun"] = [f"{goal.site} {goal.farm}" for goal in self.not_begun]
        if self.command:
            data["next"] = self.command
        return data


class Watcher:
    """Every hook does nothing; a subclass overrides what it needs."""

    def expects(self, approvals: Mapping[int, str]) -> None:
        """Before the run: after which of its farms (0, 1, …) somebody must say yes, and who."""

    def run_started(self, number: int, run: Run, resumed: bool) -> None:
        """The leases are held, the run is in the journal."""

    def run_finished(self, outcome: RunOutcome) -> None:
        """The run has ended, or waits."""

    def rollout_started(self, goal: Goal, rollout: int, resumed: bool) -> None:
        """The lease is held and the journal open."""

    def step_started(self, step: Step, capacity: float) -> None:
        """The step is in the journal and runs now."""

    def step_waits(self, step: Step, what: str, seconds: float, deadline: float | None) -> None:
        """The step is not done yet; ``what`` it waits for, since ``seconds``."""

    def step_finished(self, step: Step, done: Done) -> None:
        """The step is settled in the journal."""

    def turned_back(self, release: str, reason: str) -> None:
        """The farm goes back to the release that it had, because of ``reason``."""

    def rollout_finished(self, outcome: Outcome) -> None:
        """The rollout has ended."""

    def told(self, text: str) -> None:
        """Something that goes on beside runs, such as a certification, in one line."""

    def close(self) -> None:
        """Nothing more will come, also after an error."""

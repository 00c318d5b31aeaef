"""What happens in a rollout, as hooks: a terminal, a log or a metric each implement them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webfarm.rollout.model import Goal, Step


@dataclass(frozen=True)
class Done:
    """A step that ended: ``state`` is done, failed or unknown."""

    step: str
    state: str
    seconds: float
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended.

    state
        ``done``, ``nothing`` (it was there already), ``refused`` (nothing was changed),
        ``stopped`` (by the operator) or ``failed``.
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


class Watcher:
    """Every hook does nothing; a subclass overrides what it needs."""

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

    def close(self) -> None:
        """Nothing more will come, also after an error."""

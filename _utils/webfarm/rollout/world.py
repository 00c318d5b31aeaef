"""What one run of the engine holds: the goal, the last observation, and what it remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.model import Goal, Memory, Next, Seen
from webfarm.rollout.planner import decide, remember
from webfarm.rollout.situation import Situation
from webfarm.topology import Site


@dataclass
class World:
    """The last observation, what is remembered, and what is wanted; the engine's only state."""

    goal: Goal
    site: Site
    cluster: Cluster
    clock: Clock
    memory: Memory
    seen: Seen = field(default_factory=lambda: Seen({}, {}))

    def observe(self, servers: bool = True) -> None:
        """Look again; without ``servers`` what they said last is kept."""
        fresh = self.cluster.observe(self.goal.site, self.goal.farm, servers)
        self.seen = fresh if servers else replace(fresh, servers=self.seen.servers)
        self.memory = remember(self.memory, self.goal, self.site, self.seen)

    def next(self) -> Next:
        """The planner's next step."""
        return decide(self.goal, self.site, self.seen, self.memory)

    @property
    def situation(self) -> Situation:
        """Questions on the last observation."""
        return Situation(self.goal, self.site, self.seen, self.memory)


@dataclass(frozen=True)
class Result:
    """``state`` done, failed, unknown or stopped; ``error`` says what failed where."""

    state: str
    evidence: Mapping[str, Any]
    error: str = ""

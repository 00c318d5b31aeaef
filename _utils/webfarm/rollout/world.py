"""What one run of the engine holds: the goal, the last observation, and what it remembers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.model import BalancerView, Goal, Memory, Next, Seen, ServerView
from webfarm.rollout.planner import decide, remember
from webfarm.rollout.situation import Situation
from webfarm.topology import Site

LOOK_SECONDS = 5.0  # a change rests on no older look: the nodes refuse it after 20 s
LOOKS = 3  # the first one waits for who fell silent, the next ones hardly do


@dataclass
class World:
    """The last observation, what is remembered, and what is wanted; the engine's only state.

    heard
        The nodes that have answered a look.
    looked
        When the last look at balancers and servers began, by the clock.
    """

    goal: Goal
    site: Site
    cluster: Cluster
    clock: Clock
    memory: Memory
    seen: Seen = field(default_factory=lambda: Seen({}, {}))
    heard: set[str] = field(default_factory=set)
    looked: float = -math.inf

    def observe(self, servers: bool = True) -> None:
        """Look again; without ``servers`` what they said last is kept."""
        start = self.clock.monotonic()
        fresh = self.cluster.observe(self.goal.site, self.goal.farm, servers)
        self.seen = fresh if servers else replace(fresh, servers=self.seen.servers)
        self.memory = remember(self.memory, self.goal, self.site, self.seen)
        self.heard |= {name for name, view in self._views.items() if view.answered}
        if servers:
            self.looked = start

    def look_again(self) -> None:
        """Look at balancers and servers, unless that was done a moment ago."""
        for _ in range(LOOKS):
            if self.clock.monotonic() - self.looked <= LOOK_SECONDS:
                return
            self.observe()

    @property
    def unheard(self) -> list[str]:
        """Nodes that have answered no look: they know nothing of this rollout."""
        return sorted(self._views.keys() - self.heard)

    @property
    def _views(self) -> Mapping[str, BalancerView | ServerView]:
        return {**self.seen.balancers, **self.seen.servers}

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

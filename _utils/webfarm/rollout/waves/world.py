"""What one run of the engine holds of a wave: the same as of a farm, with the members' systems."""

from dataclasses import replace

from webfarm.rollout.cluster import Clock, Cluster
from webfarm.rollout.model import Goal, Next
from webfarm.rollout.waves.planner import decide, remember
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.values import WaveMemory
from webfarm.rollout.world import World
from webfarm.topology import Site


class WaveWorld(World):
    """The last observation of a wave's site and members, and what is remembered."""

    memory: WaveMemory  # type: ignore[assignment]

    def __init__(
        self, goal: Goal, site: Site, cluster: Cluster, clock: Clock, memory: WaveMemory
    ) -> None:
        super().__init__(goal, site, cluster, clock, memory)  # type: ignore[arg-type]

    def observe(self, servers: bool = True) -> None:
        """Look again; without ``servers`` what they said last is kept."""
        wave = self.goal.wave
        assert wave is not None
        start = self.clock.monotonic()
        members = list(wave.members) if servers else []
        names = sorted({name for one in wave.expected.values() for name in one})
        names = sorted({*names, *(n for one in wave.back.values() for n in one.installed)})
        fresh = self.cluster.observe_members(self.goal.site, members, {"packages": names})
        self.seen = fresh if servers else replace(fresh, servers=self.seen.servers)
        self.memory = remember(self.memory, self.goal, self.site, self.seen)
        self.heard |= {name for name, view in self._views.items() if view.answered}
        if servers:
            self.looked = start

    def next(self) -> Next:
        """The planner's next step."""
        return decide(self.goal, self.site, self.seen, self.memory)

    @property
    def situation(self) -> WaveSituation:  # type: ignore[override]
        """Questions on the last observation."""
        return WaveSituation(self.goal, self.site, self.seen, self.memory)

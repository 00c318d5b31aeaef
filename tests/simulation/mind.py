"""The conductor of the exhaustive model: the real planner, asked about one look at the model."""

from dataclasses import replace
from functools import cache
from typing import Any

from webfarm.rollout.engine import Engine
from webfarm.rollout.model import (
    BalancerView,
    FarmAtBalancer,
    Goal,
    InService,
    Memory,
    Seen,
    ServerAtBalancer,
    ServerView,
    Step,
)
from webfarm.rollout.outline import before, learn
from webfarm.rollout.planner import decide, remember
from webfarm.rollout.situation import Situation
from webfarm.rollout.world import World
from webfarm.topology import Topology

from .sessions import Broken
from .values import FARMS, Conductor, Kept, Maps

LOCAL = ("stage", "preflight", "warm", "verify", "soak")  # nothing changes while they run
Thought = tuple[Conductor | None, tuple[tuple[Any, ...], ...], int]


class Mind:
    """Thinks of a site with the names of the pillar, speaks in the model's numbers."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.site = topology.sites["site1"]
        self.farms = list(self.site.farms)
        self.names = sorted(topology.releases)[:2]
        self.balancers = list(self.site.balancers)
        self.web = [list(farm.servers) for farm in self.site.farms.values()]
        self.think = cache(self._think)

    def _think(
        self,
        maps: tuple[Maps, ...],
        servers: tuple[int, ...],
        flying: tuple[int, ...],
        me: Conductor,
    ) -> tuple[tuple[Conductor | None, tuple[tuple[Any, ...], ...], int], ...]:
        """What the conductor may do after this look: itself, what it sends, the farm it flushed."""
        seen = self._seen(maps, servers, flying, me.farm)
        goal = self._goal(me.farm, me.release)
        memory = remember(Memory(*me.memory[:3], {}, *me.memory[3:]), goal, self.site, seen)
        if me.aborting and not memory.retreat and me.release == 1:
            memory, goal = self._abort(seen, goal, memory)
            if goal is None:
                return ((None, (), -1),)
        me = me._replace(release=self.names.index(goal.release))
        while True:
            now = Situation(goal, self.site, seen, memory)
            step = decide(goal, self.site, seen, memory)
            if isinstance(step, InService):
                ended = me.farm == FARMS - 1 or me.aborting
                following = Conductor(me.farm + 1, 1, Kept(), False, None)
                return ((None if ended else following, (), -1),)
            if not isinstance(step, Step):
                raise Broken(f"S6: {goal.farm}: {step}")
            was = before(now)
            if not memory.retreat and was and was.release != self.names[1]:
                memory, me = replace(memory, before=was), me._replace(before=was)
            if step.name == "quiesce" and memory.idle < 2:
                return ((me._replace(memory=_kept(memory)), (), -1),)
            if step.name not in (*LOCAL, "quiesce"):
                return self._sends(me._replace(memory=_kept(memory)), step, memory)
            memory = learn(step, memory)

    def _sends(
        self, me: Conductor, step: Step, memory: Memory
    ) -> tuple[tuple[Conductor | None, tuple[tuple[Any, ...], ...], int], ...]:
        learnt = me._replace(memory=_kept(learn(step, memory)))
        if step.name == "flush":
            return ((learnt, (), me.farm), (me, (), me.farm), (me, (), -1))
        if step.name == "switch":
            web = [2 * me.farm + self.web[me.farm].index(name) for name in step.targets]
            return ((me, tuple(("switch", server, me.release) for server in web), -1),)
        what = self._packed(step.arguments)
        sent = tuple(("set", self.balancers.index(name), what) for name in step.targets)
        # drain and close are learnt when they are read back; what they forget was not there before
        return ((learnt if step.name in ("drain", "close", "open") else me, sent, -1),)

    def _abort(self, seen: Seen, goal: Goal, memory: Memory) -> tuple[Memory, Any]:
        """As :meth:`Engine._abort`, with the engine's own answer to whether there is a way back."""
        engine = Engine.__new__(Engine)
        engine.world = World(goal, self.site, None, None, memory, seen)  # type: ignore[arg-type]
        engine.goal_for = lambda release: self._goal(0, self.names.index(release))
        if engine.world.situation.states == {"open"}:
            return memory, None
        if engine._no_way_back():
            return replace(engine.world.memory, done=memory.done | {"soak"}), goal
        was = engine.world.memory.before
        assert was is not None
        farm = self.farms.index(goal.farm)
        return Memory(before=was, retreat="wished"), self._goal(farm, 0)

    # -- values ------------------------------------------------------------------------------------

    def _goal(self, farm: int, release: int) -> Goal:
        pair = self.topology.releases[self.names[release]]
        return Goal("site1", self.farms[farm], self.names[release], pair.php, pair.webapp)

    def _packed(self, arguments: Any) -> tuple[Any, ...]:
        """A change of the maps as a hashable value, farms and releases by number."""
        out = []
        for what, value in sorted(arguments.items()):
            if what == "newest":
                out.append((what, value))
            elif what.startswith("pick"):
                out.append((what, tuple(bool(value.get(farm)) for farm in self.farms)))
            else:
                ((farm, new),) = value.items()
                new = self.names.index(new) if what == "release" else new
                out.append((what, (self.farms.index(farm), new)))
        return tuple(out)

    def _seen(
        self, maps: tuple[Maps, ...], servers: tuple[int, ...], flying: tuple[int, ...], farm: int
    ) -> Seen:
        views = {}
        for number, (name, at) in enumerate(zip(self.balancers, maps, strict=True)):
            views[name] = BalancerView(
                name,
                True,
                farms={
                    own: FarmAtBalancer(
                        at.state[f],
                        at.generation[f],
                        self.names[at.fence[f]],
                        flying[number] if f == farm else 0,
                        servers={
                            web: ServerAtBalancer(
                                "UP" if servers[2 * f + n] == at.fence[f] else "DOWN"
                            )
                            for n, web in enumerate(self.web[f])
                        },
                    )
                    for f, own in enumerate(self.farms)
                },
                newest=at.newest,
                pick={own: 100 for f, own in enumerate(self.farms) if at.pick[f]},
                pick_newest={own: 100 for f, own in enumerate(self.farms) if at.pick_newest[f]},
            )
        pairs = [self.topology.releases[name] for name in self.names]
        said = {
            web: ServerView(
                web,
                True,
                release=self.names[servers[2 * farm + n]],
                ready=True,
                php_versions=frozenset(pair.php for pair in pairs),
                webapp_versions=frozenset(pair.webapp for pair in pairs),
            )
            for n, web in enumerate(self.web[farm])
        }
        return Seen(views, said)


def _kept(memory: Memory) -> Kept:
    idle = min(memory.idle, 2)  # more is the same
    return Kept(memory.done, idle, memory.flushed, memory.before, memory.retreat)

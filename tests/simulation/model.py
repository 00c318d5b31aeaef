"""A model small enough to visit every state of it: the real planner, and every interleaving.

Two balancers, three farms of two servers, two sessions, one release to the next, at most one crash
of the conductor after which the run is resumed or aborted.

What may happen in each state, in any order:

- the conductor looks: both balancers answer, or only one does; a look may miss (never twice in a
  row at one balancer) what an old worker still has in flight. Then the real
  :func:`webfarm.rollout.planner.decide` and :func:`~webfarm.rollout.outline.learn` decide;
- a command that was sent is executed by its node, or never: the next look at the node closes the
  door behind it (the hold's number), as it does on a real node;
- the flush is executed, or not, and its reply comes, or not;
- a session asks any balancer and is given any farm that the maps allow; a request to the farm that
  is upgraded may stay in flight for as long as it likes. Requests to other farms end at once:
  nothing looks at them while they are in flight, so the order makes no difference;
- the conductor is killed.

Not in the model, but in the campaign: servers and balancers that die, health checks that lag,
hands, clocks, other policies than the default.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from webfarm.rollout.engine import Engine
from webfarm.rollout.model import (
    BalancerView,
    Before,
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
from webfarm.topology import Topology, parse

from .sessions import Broken

FARMS = 3
BALANCERS = 2
LOCAL = ("stage", "preflight", "warm", "verify", "soak")  # nothing changes while they run


class Maps(NamedTuple):
    """One balancer: per farm its state, generation, fence, and whether the pick maps hold it."""

    state: tuple[str, ...]
    generation: tuple[int, ...]
    fence: tuple[int, ...]
    newest: int
    pick: tuple[bool, ...]
    pick_newest: tuple[bool, ...]


class Session(NamedTuple):
    """What its cookie says, the newest release it saw, its request in flight, its caches.

    cached
        Per farm: 0 nothing, 1 what the database has, 2 the past.
    flight
        Balancer, generation and release of the request in flight in the farm that is upgraded.
    """

    farm: int = -1
    generation: int = 0
    seen: int = 0
    cached: tuple[int, ...] = (0,) * FARMS
    flight: tuple[int, int, int] | None = None


class Kept(NamedTuple):
    """:class:`Memory` as a value that can be hashed; nobody is in quarantine here."""

    done: frozenset[str] = frozenset()
    idle: int = 0
    flushed: frozenset[str] = frozenset()
    before: Before | None = None
    retreat: str = ""


class Conductor(NamedTuple):
    """Which farm it is at, to which release, what it remembers, what it wishes."""

    farm: int
    release: int
    memory: Kept
    aborting: bool
    before: Before | None  # in the journal
    blinked: tuple[bool, ...] = (False,) * BALANCERS


class State(NamedTuple):
    """The whole model; two states that are equal have the same future."""

    maps: tuple[Maps, ...]
    servers: tuple[int, ...]  # two for each farm: their release
    sent: tuple[tuple[Any, ...], ...]  # commands that were not executed yet
    conductor: Conductor | None  # None: the run has ended
    crashes: int
    sessions: tuple[Session, ...]


@dataclass
class Model:
    """Its pillar, and what follows from a state."""

    topology: Topology

    def __post_init__(self) -> None:
        self.site = self.topology.sites["site1"]
        self.farms = list(self.site.farms)
        self.names = sorted(self.topology.releases)[:2]
        self.balancers = list(self.site.balancers)
        self.web = [list(farm.servers) for farm in self.site.farms.values()]
        self.think = cache(self._think)

    def start(self) -> State:
        """A bare site, and a run that begins."""
        maps = Maps(("open",) * 3, (1,) * 3, (0,) * 3, 1, (True,) * 3, (True,) * 3)
        return State(
            (maps,) * BALANCERS,
            (0,) * 6,
            (),
            Conductor(0, 1, Kept(), False, None),
            1,
            (Session(),) * 2,
        )

    def after(self, state: State) -> Iterator[State]:
        """Every state that may follow."""
        yield from self._requests(state)
        yield from self._executed(state)
        if state.conductor is None:
            return
        yield from self._looks(state, state.conductor)
        if state.crashes:
            for aborting in (False, True):
                known = state.conductor
                fresh = Conductor(known.farm, 1, Kept(before=known.before), aborting, known.before)
                yield state._replace(conductor=fresh, crashes=state.crashes - 1)

    def undisturbed(self, state: State) -> State:
        """The next state when every node does what it is told, and the conductor is not killed."""
        if state.sent:
            return next(self._executed(state))
        assert state.conductor is not None
        thought = self.think(state.maps, state.servers, (0,) * BALANCERS, state.conductor)
        return self._thought(state, *thought[0])

    # -- sessions ----------------------------------------------------------------------------------

    def _requests(self, state: State) -> Iterator[State]:
        for number, session in enumerate(state.sessions):
            if number and session == state.sessions[0]:
                continue  # the same again
            if session.flight is not None:
                assert state.conductor is not None
                done = self._answered(session, state.conductor.farm, *session.flight[1:])
                yield _with_session(state, number, done)
                continue
            for balancer, maps in enumerate(state.maps):
                for farm in self._routes(state, maps, session):
                    yield from self._asked(state, number, session, balancer, farm)

    def _routes(self, state: State, maps: Maps, session: Session) -> list[int]:
        """The farms that the balancer may choose; as in :meth:`.sessions.Clients.route`."""

        def alive(farm: int) -> bool:
            return maps.fence[farm] in state.servers[2 * farm : 2 * farm + 2]

        def serves(farm: int) -> bool:
            return maps.state[farm] == "open" and maps.generation[farm] >= floor and alive(farm)

        floor = min(session.generation, maps.newest)
        bound = floor >= maps.newest
        own = session.farm
        if own >= 0 and alive(own) and maps.generation[own] >= floor:
            if maps.state[own] in ("open", "drain"):
                return [own]
            if bound and maps.state[own] == "ready":
                return [own]
        found: set[int] = set()
        for picks in (maps.pick_newest if floor and bound else maps.pick, maps.pick):
            picked = {farm for farm in range(FARMS) if picks[farm]}
            found |= {farm for farm in picked if serves(farm)}
            if picked and picked <= found:
                return sorted(found)
        # a pick may not serve: the newest, then the first that serves, then one that is ready
        found |= {farm for farm in range(FARMS) if maps.pick_newest[farm] and serves(farm)}
        found |= set([farm for farm in range(FARMS) if serves(farm)][:1])
        if not found and floor and bound:
            near = [f for f in range(FARMS) if maps.state[f] == "ready" and alive(f)]
            found |= set([farm for farm in near if maps.generation[farm] >= floor][:1])
        if not found:
            raise Broken(f"S2: a session {session} gets 503 from {maps}")
        return sorted(found)

    def _asked(
        self, state: State, number: int, session: Session, balancer: int, farm: int
    ) -> Iterator[State]:
        maps = state.maps[balancer]
        release = maps.fence[farm]
        if release < session.seen:
            raise Broken(f"S1: {session} is answered by an older release in {self.farms[farm]}")
        if session.cached[farm] == 2:
            raise Broken(f"S3: {session} reads the past in {self.farms[farm]}")
        generation = maps.generation[farm]
        done = self._answered(session, farm, generation, release)
        yield _with_session(state, number, done)
        if state.conductor is not None and farm == state.conductor.farm:
            flying = session._replace(flight=(balancer, generation, release))
            yield _with_session(state, number, flying)

    def _answered(self, session: Session, farm: int, generation: int, release: int) -> Session:
        cached = tuple(
            1 if other == farm else (2 if was else 0) for other, was in enumerate(session.cached)
        )
        return Session(farm, generation, max(session.seen, release), cached)

    # -- nodes -------------------------------------------------------------------------------------

    def _executed(self, state: State) -> Iterator[State]:
        for number, (kind, target, what) in enumerate(state.sent):
            rest = state.sent[:number] + state.sent[number + 1 :]
            if kind == "switch":
                farm = target // 2
                if self._flying(state, farm):
                    raise Broken(f"S2: a server of {self.farms[farm]} is switched under a request")
                servers = (*state.servers[:target], what, *state.servers[target + 1 :])
                yield state._replace(servers=servers, sent=rest)
            else:
                maps = _applied(state.maps[target], what)
                self._capacity(state.maps[target], maps)
                changed = (*state.maps[:target], maps, *state.maps[target + 1 :])
                yield state._replace(maps=changed, sent=rest)

    def _flying(self, state: State, farm: int) -> bool:
        at = state.conductor.farm if state.conductor else -1
        return farm == at and any(session.flight for session in state.sessions)

    def _capacity(self, old: Maps, new: Maps) -> None:
        if new.state.count("open") < min(2, old.state.count("open")):
            raise Broken(f"S4: {new.state}")

    # -- the conductor -----------------------------------------------------------------------------

    def _looks(self, state: State, me: Conductor) -> Iterator[State]:
        for only in range(BALANCERS):  # one answers: nothing is decided, but its door is closed
            rest = tuple(s for s in state.sent if s[0] == "switch" or s[1] != only)
            idle = me._replace(memory=me.memory._replace(idle=0))
            yield state._replace(sent=rest, conductor=idle)
        flying = [
            sum(s.flight is not None and s.flight[0] == b for s in state.sessions)
            for b in range(BALANCERS)
        ]
        for missed in self._misses(flying, me.blinked):
            seen = tuple(0 if missed[b] else flying[b] for b in range(BALANCERS))
            looked = me._replace(blinked=missed)
            for thought in self.think(state.maps, state.servers, seen, looked):
                yield self._thought(state, *thought)

    def _misses(self, flying: list[int], blinked: tuple[bool, ...]) -> Iterator[tuple[bool, ...]]:
        may = [bool(count) and not was for count, was in zip(flying, blinked, strict=True)]
        for first in {False, may[0]}:
            for second in {False, may[1]}:
                yield (first, second)

    def _thought(
        self,
        state: State,
        me: Conductor | None,
        sent: tuple[tuple[Any, ...], ...],
        flushed: int,
    ) -> State:
        sessions = state.sessions
        if flushed >= 0:
            sessions = tuple(
                s._replace(cached=(*s.cached[:flushed], 0, *s.cached[flushed + 1 :]))
                for s in sessions
            )
        moved = state.conductor is None or me is None or me.farm != state.conductor.farm
        if moved and any(s.flight for s in sessions):  # they end now: see the module
            at = state.conductor.farm if state.conductor else -1
            sessions = tuple(
                self._answered(s, at, *s.flight[1:]) if s.flight else s for s in sessions
            )
        return State(state.maps, state.servers, sent, me, state.crashes, _sorted(sessions))

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


def _with_session(state: State, number: int, session: Session) -> State:
    sessions = (*state.sessions[:number], session, *state.sessions[number + 1 :])
    return state._replace(sessions=_sorted(sessions))


def _sorted(sessions: tuple[Session, ...]) -> tuple[Session, ...]:
    """Sessions have no names: the same two in another order are the same."""
    return tuple(sorted(sessions, key=lambda s: (s[:4], s.flight or ())))


def _applied(maps: Maps, what: tuple[Any, ...]) -> Maps:
    for name, value in what:
        if name == "newest":
            maps = maps._replace(newest=max(maps.newest, value))
        elif name.startswith("pick"):
            maps = maps._replace(**{name: value})
        else:
            field = "fence" if name == "release" else name
            farm, new = value
            old = getattr(maps, field)
            if name == "generation" and new < old[farm]:
                raise Broken("a generation goes down")
            maps = maps._replace(**{field: (*old[:farm], new, *old[farm + 1 :])})
    return maps


def model_of(pillar: dict[str, Any]) -> Model:
    """The model of this pillar's first site."""
    return Model(parse(pillar))

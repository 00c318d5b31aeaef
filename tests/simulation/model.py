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
from typing import Any

from webfarm.topology import Topology, parse

from .mind import Mind
from .sessions import Broken
from .values import BALANCERS, FARMS, Conductor, Kept, Maps, Session, State


class Model:
    """What follows from a state of the site in this pillar."""

    def __init__(self, topology: Topology) -> None:
        self.mind = Mind(topology)
        self.farms = self.mind.farms

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
        thought = self.mind.think(state.maps, state.servers, (0,) * BALANCERS, state.conductor)
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
            for thought in self.mind.think(state.maps, state.servers, seen, looked):
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

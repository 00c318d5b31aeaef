"""Visit every state of the model: each is judged, and from each the run must be able to end."""

from collections.abc import Hashable
from dataclasses import dataclass

from .model import Model
from .sessions import Broken
from .values import FARMS, State

LONGEST = 300  # looks until a run must have ended, when nothing is in its way


@dataclass(frozen=True)
class Summary:
    """What was visited."""

    states: int
    transitions: int
    ends: int

    def __str__(self) -> str:
        return f"{self.states} states, {self.transitions} transitions, {self.ends} ends of a run"


def explore(model: Model, most: int = 1_000_000) -> Summary:
    """All states that can be reached; raises :class:`Broken` with the way to a bad one."""
    first = model.start()
    came_from: dict[State, State | None] = {first: None}
    stack = [first]
    transitions = ends = 0
    proven: set[Hashable] = set()
    while stack:
        state = stack.pop()
        try:
            if state.conductor is None:
                ends += 1
                _at_rest(state)
            _can_end(model, state, proven)
            for following in model.after(state):
                transitions += 1
                if following not in came_from:
                    came_from[following] = state
                    stack.append(following)
        except Broken as broken:
            raise Broken(f"{broken}\n{_way(came_from, state)}") from broken
        if len(came_from) > most:
            raise AssertionError(f"more than {most} states: the model does not end")
    return Summary(len(came_from), transitions, ends)


def _at_rest(state: State) -> None:
    """S8: every farm is open everywhere, on the release that its servers run."""
    for maps in state.maps:
        if maps.state != ("open",) * FARMS or not all(maps.pick):
            raise Broken(f"S8: the run has ended, but the farms are {maps}")
        for farm, fence in enumerate(maps.fence):
            if state.servers[2 * farm : 2 * farm + 2] != (fence, fence):
                raise Broken(f"S8: farm {farm} expects {fence}, its servers run {state.servers}")


def _can_end(model: Model, state: State, proven: set[Hashable]) -> None:
    """S6: when nothing more goes wrong, the run ends."""
    quiet = tuple(session._replace(flight=None) for session in state.sessions)
    state = state._replace(sessions=quiet, crashes=0)
    met = []
    for _ in range(LONGEST):
        known = (state.maps, state.servers, state.sent, state.conductor)
        if state.conductor is None or known in proven:
            proven.update(met)
            return
        met.append(known)
        state = model.undisturbed(state)
    raise Broken("S6: the run does not end")


def _way(came_from: dict[State, State | None], state: State) -> str:
    """The last states on the shortest known way, for a person."""
    way: list[State] = []
    at: State | None = state
    while at is not None and len(way) < 12:
        way.append(at)
        at = came_from[at]
    return "\n".join(
        f"{one.maps}\n  servers {one.servers} sent {one.sent}\n  {one.conductor}\n  {one.sessions}"
        for one in reversed(way)
    )

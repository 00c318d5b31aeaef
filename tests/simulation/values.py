"""The values of the exhaustive model: what a state is made of."""

from typing import Any, NamedTuple

from webfarm.rollout.model import Before

FARMS = 3
BALANCERS = 2


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

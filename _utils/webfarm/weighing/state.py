"""What the law hears and what it remembers, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from webfarm import shape
from webfarm.errors import WebfarmError
from webfarm.shape import Share

Positive = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Load:
    """What one report says of the time since the one before it.

    seconds
        Length of that time, more than 0.
    requests, errors
        Requests that ended in it, and those of them that ended with 5xx.
    busy
        Seconds that php-fpm spent on those requests, added up.
    squares
        The squares of those seconds, added up; 0: unknown.
    active, children, queue
        Mean of the busy php-fpm processes, how many there may be (at least 1), and the listen
        queue.
    psi_cpu, psi_memory, psi_io
        The part of the time in which something waited for it, 0 to 100; None: unknown.
    critical
        What makes the server unfit: out of ``php-fpm``, ``nginx``, ``disk-full``, ``read-only``.
    """

    seconds: float
    requests: int = 0
    errors: int = 0
    busy: float = 0.0
    squares: float = 0.0
    active: float = 0.0
    children: int = 1
    queue: int = 0
    psi_cpu: float | None = None
    psi_memory: float | None = None
    psi_io: float | None = None
    critical: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sums:
    """Reports added up until the next decision.

    All in integers (times in microseconds): their sum is exact, so it does not depend on the order
    in which the reports came.
    """

    reports: int = 0
    micros: int = 0
    requests: int = 0
    errors: int = 0
    busy: int = 0
    squares: int = 0  # seconds² x 1,000,000
    active: int = 0  # processes x microseconds
    children: int = 0  # processes x microseconds
    queue: int = 0  # requests x microseconds
    stall: int = 0  # odds, waiting to not waiting, x microseconds
    worst: float = 0.0  # the share of errors that one of the reports proves
    critical: frozenset[str] = frozenset()

    def plus(self, other: "Sums") -> "Sums":
        """Both together; the same whichever comes first."""
        return Sums(
            reports=self.reports + other.reports,
            micros=self.micros + other.micros,
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            busy=self.busy + other.busy,
            squares=self.squares + other.squares,
            active=self.active + other.active,
            children=self.children + other.children,
            queue=self.queue + other.queue,
            stall=self.stall + other.stall,
            worst=max(self.worst, other.worst),
            critical=self.critical | other.critical,
        )


@dataclass(frozen=True)
class Server:
    """What the law remembers of a server. Times are those of ``now``; None: never.

    at
        When the last report came.
    fresh, work
        Reports since the last decision; ``work``: older ones that did not tell a speed yet.
    heard, sped
        When the estimates, and when the speed among them, were last fed.
    speed
        Estimate of what it could serve, in requests/s, errors and stalls not taken off.
    queue, stall
        Estimates of its listen queue as a part of its processes, and of the share of time that it
        is stalled; 0 to 1.
    requests, errors
        How many there were lately: sums of which half is forgotten in ``half_life_down``.
    factor
        Its weight as a part of its base.
    drained
        Why the law takes it out: ``errors``, ``critical: …``, or empty.
    since
        When that began, or when it came back into service.
    ejections, failed
        How often in a row it was drained for errors, and which share of 5xx was proven then.
    critical
        What its last reports called critical.
    """

    at: float | None = None
    fresh: Sums = Sums()
    work: Sums = Sums()
    heard: float | None = None
    sped: float | None = None
    speed: Positive | None = None
    queue: Share = 0.0
    stall: Share = 0.0
    requests: Positive = 0.0
    errors: Positive = 0.0
    factor: Annotated[float, Field(ge=0.01, le=10)] = 1.0
    drained: str = ""
    since: float | None = None
    ejections: Annotated[int, Field(ge=0)] = 0
    failed: Share = 0.0
    critical: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Farm:
    """What the law remembers of a farm: servers, share, since when it is blind, last decision."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False, extra="forbid")

    servers: Mapping[str, Server] = field(default_factory=dict)
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    blind: float | None = None
    decided: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a decision knew of a server, for people.

    age
        Seconds since its last report; None: there was none.
    capacity
        What it could serve, in requests/s, errors and stalls taken off; None: unknown.
    ratio
        That over its base weight, compared with the farm's median (1.0: as the others).
    errors
        Its share of 5xx; None: too few requests to tell.
    stall
        The share of time that it is stalled.
    target
        The weight that it is on the way to.
    """

    age: float | None
    capacity: float | None
    ratio: float
    errors: float | None
    stall: float
    target: int


@dataclass(frozen=True)
class Decision:
    """What a farm's balancers shall carry.

    weights
        For each server of the farm 1 to 256; also for one that is drained (for when it is back).
    drained
        Servers that the law takes out of service, with the reason.
    why
        For each server one line: what it is given and from what.
    blind
        Whether more servers are silent than the law allows.
    share
        What the servers can do together, as a part of their bases: 0.1 (the law's floor) to 1.0.
    estimates
        For each server what the decision was made from.
    """

    weights: dict[str, int]
    drained: dict[str, str]
    why: dict[str, str]
    blind: bool
    share: float
    estimates: dict[str, Estimate] = field(default_factory=dict)


_FARM: TypeAdapter[Farm] = TypeAdapter(Farm)


def pack(state: Farm) -> dict[str, Any]:
    """``state`` as what JSON can carry."""
    packed: dict[str, Any] = _FARM.dump_python(state, mode="json")
    return packed


def unpack(data: object) -> Farm:
    """The state that :func:`pack` made; :class:`WebfarmError` when it is not one."""
    try:
        return _FARM.validate_python(data)
    except ValidationError as error:
        raise WebfarmError(
            "what was kept of the farm's weights cannot be read; begin with an empty state:\n"
            + "\n".join(f"  {line}" for line in shape.lines(error, "state")[:5])
        ) from None

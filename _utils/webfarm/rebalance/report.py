"""A web server's report of itself: its fields, their types and ranges."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from webfarm import names, shape
from webfarm.shape import Model
from webfarm.signed import Forged
from webfarm.weights import Load

MAX_BYTES = 4_096
"""A body is some 500 bytes."""


def _name(value: str) -> str:
    if fault := names.problem(value):
        raise ValueError(fault)
    return value


Name = Annotated[str, AfterValidator(_name)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0, le=100_000_000)]


class Psi(Model):
    """The part of the time in which something waited for it, in percent; None: unknown."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    cpu: Percent | None
    memory: Percent | None
    io: Percent | None


class Report(Model):
    """What a server says of the time since its last report.

    id, boot
        Its minion id, and the kernel's boot id.
    at, up
        Seconds: its wall clock, and CLOCK_BOOTTIME. ``(boot, up)`` orders its reports.
    seconds
        The time that the sums cover.
    requests, errors, busy, squares
        Requests that ended in it, those with 5xx, the upstream's seconds of all, added up, and the
        squares of those seconds.
    active, children
        Mean of php-fpm's active processes, and ``pm.max_children``.
    queue, full
        Listen queue, and how often "max children reached" went up.
    disk
        Free share of the fullest of the watched file systems; None: unknown.
    memcached, release
        Whether its member answers, what the server runs; None: unknown.
    critical
        What makes it unfit for requests.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    v: Annotated[int, Field(ge=1, le=1)]  # a Literal takes True for 1
    id: Name
    boot: Name
    at: Annotated[float, Field(ge=0, le=1e11)]
    up: Annotated[float, Field(ge=0, le=1e10)]
    seconds: Annotated[float, Field(gt=0, le=86_400)]
    requests: Count
    errors: Count
    busy: Annotated[float, Field(ge=0, le=1e8)]
    squares: Annotated[float, Field(ge=0, le=1e12)]
    active: Annotated[float, Field(ge=0, le=100_000)]
    children: Annotated[int, Field(ge=1, le=100_000)]
    queue: Annotated[int, Field(ge=0, le=1_000_000)]
    full: Count
    psi: Psi
    disk: Annotated[float, Field(ge=0, le=1)] | None
    memcached: bool | None
    release: Name | None
    critical: Annotated[
        list[Literal["php-fpm", "nginx", "disk-full", "read-only"]], Field(max_length=4)
    ]

    @model_validator(mode="after")
    def _adds_up(self) -> "Report":
        if self.errors > self.requests:
            raise ValueError(f"{self.errors} errors in {self.requests} requests")
        return self

    def load(self) -> Load:
        """What the weights' law is told of it."""
        return Load(
            seconds=self.seconds,
            requests=self.requests,
            errors=self.errors,
            busy=self.busy,
            squares=self.squares,
            active=self.active,
            children=self.children,
            queue=self.queue,
            psi_cpu=self.psi.cpu,
            psi_memory=self.psi.memory,
            psi_io=self.psi.io,
            critical=frozenset(self.critical),
        )


def parse(body: object) -> Report:
    """The report; :class:`webfarm.signed.Forged` of the kind ``fields`` when it is none."""
    try:
        return Report.model_validate(body)
    except ValidationError as error:
        raise Forged("fields", "; ".join(shape.lines(error, "report")[:3])) from None


def example(**changes: Any) -> dict[str, Any]:
    """The body of a calm server's report, for tests and benchmarks; ``changes`` are its fields."""
    return {
        "v": 1,
        "id": "site1-farm1-ws1",
        "boot": "00000000-0000-4000-8000-000000000001",
        "at": 1_800_000_000.0,
        "up": 1000.0,
        "seconds": 5.0,
        "requests": 100,
        "errors": 0,
        "busy": 10.0,
        "squares": 2.0,
        "active": 2.0,
        "children": 20,
        "queue": 0,
        "full": 0,
        "psi": {"cpu": 1.0, "memory": 0.0, "io": 0.0},
        "disk": 0.5,
        "memcached": True,
        "release": "2026.11.1",
        "critical": [],
        **changes,
    }

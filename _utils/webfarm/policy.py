"""What a rollout may do in a site, and what it does when something is wrong."""

import math
import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)

from webfarm import shape
from webfarm.errors import WebfarmError
from webfarm.shape import Model, Seconds, Share

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MIDNIGHT = timedelta(days=1)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", re.ASCII)
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}", re.ASCII)


def _number(value: object) -> object:
    # YAML 1.1 reads an unquoted 22:00 as the number 1320
    if isinstance(value, (int, float)):
        raise ValueError("is a number for YAML, put it in quotes")
    return value


def _time(value: object) -> object:
    if not (isinstance(_number(value), str) and _TIME.fullmatch(str(value))):
        raise ValueError("must be a time of day, '00:00' to '24:00'")
    return value


def _moment(value: object) -> object:
    """A local time; YAML itself makes a :class:`datetime` of one that has seconds."""
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"is not a moment: {error}") from None
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise ValueError("must be a local time, YYYY-MM-DDTHH:MM, without an offset")
    if not 1971 <= value.year <= 2999:
        raise ValueError("must be of a year from 1971 to 2999")
    return value


def _zone(value: object) -> object:
    fault = "is not a time zone that is known here; expected one like Europe/Berlin or UTC"
    if not (isinstance(value, str) and _ZONE.fullmatch(value)):
        raise ValueError(fault)
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown, not a zone's file, a folder
        raise ValueError(f"{fault} (from the package tzdata)") from None
    return value


def _limit(value: object) -> int | float:
    if type(value) is int and 0 <= value <= 100_000:
        return value
    if type(value) is float and 0 <= value <= 1:
        return value
    raise ValueError("must be a number of servers (0, 1, 2 …) or a share (0.0 to 1.0)")


TimeOfDay = Annotated[str, BeforeValidator(_time)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Zone = Annotated[str, BeforeValidator(_zone)]
Limit = Annotated[int | float, PlainValidator(_limit)]
User = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@\\$-]{0,63}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class _Strict(Model):
    """A number is no text and a truth is no number: these values decide what may be lost."""

    model_config = ConfigDict(strict=True, serialize_by_alias=True)


class Window(_Strict):
    """When rollouts may run: from a time of each of these days; it may end on the next day."""

    days: Annotated[tuple[Day, ...], Field(strict=False, min_length=1)] = DAYS
    begin: TimeOfDay = Field(alias="from")
    end: TimeOfDay = Field(alias="to")
    timezone: Zone

    @model_validator(mode="after")
    def _has_length(self) -> "Window":
        if self.begin in (self.end, "24:00"):
            raise ValueError("`from` must be another time than `to`; a whole day is 00:00 to 24:00")
        return self

    @property
    def hours(self) -> tuple[timedelta, timedelta]:
        """Begin and end, counted from the day's midnight; the end may lie in the next day."""
        begin, end = _since_midnight(self.begin), _since_midnight(self.end)
        return begin, end if end > begin else end + MIDNIGHT


class Freeze(_Strict):
    """When no rollout may run."""

    begin: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    timezone: Zone
    reason: Reason

    @model_validator(mode="after")
    def _has_length(self) -> "Freeze":
        if self.begin >= self.end:
            raise ValueError("`from` must be before `to`")
        return self


class Gates(_Strict):
    """When an opened farm is good enough to go on.

    min_requests
        So many must have been seen, of the farm and of those that it is compared with; with fewer
        the verdict is inconclusive. 0: judge what there is.
    error_excess
        How much higher its share of 5xx answers may be.
    latency_factor, latency_margin_ms
        Its mean time to answer may be so many times as long, and it may be so much longer.
    patience_seconds
        How long to wait for enough requests, after the soak.
    max_utilisation
        In flight and queued requests of the site over the php-fpm processes of the farms that
        would remain.
    """

    min_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    error_excess: Share = 0.02
    latency_factor: Annotated[float, Field(ge=1, le=1000)] = 2.0
    latency_margin_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 200
    patience_seconds: Seconds = 60
    max_utilisation: Annotated[float, Field(gt=0, le=10)] = 0.8


class Policy(_Strict):
    """What a rollout may do in a site.

    min_capacity
        Share of the site's weight that must stay in service.
    floor
        What happens to a session that only an older farm could answer: ``strict`` 503,
        ``available`` reset.
    min_farm_capacity
        Share of a farm's weight that must stay in service while a wave has one of its servers.
    max_failed, max_failed_run
        How many of a farm's servers, and of all that a run touches, may be left out: see
        :func:`budget`. ``max_failed_run`` None: as each farm allows.
    drain_seconds
        How long sessions may end by themselves before the farm is closed.
    quiesce_seconds, on_deadline
        How long to wait for requests in flight, and what then: ``fail``, ``force`` or ``wait``.
    soak_seconds, canary_soak_seconds
        How long the opened farm is watched, and the first of a run of several.
    answer_seconds
        How long a minion may take to answer.
    install_seconds, reboot_seconds
        How long a server of a wave may take to install its packages, and to come back.
    on_failure
        ``pause`` leaves everything as it is, ``abort`` brings the farm back into service,
        ``rollback`` takes the run's other farms back too.
    approve, approvers
        After which of its parts a run waits for one of these users; without names for anybody.
    windows, freezes
        When it may run, in local time.
    stage_parallel, stage_kib
        Servers that copy at once, and KiB/s for each; 0 without a limit.
    """

    min_capacity: Share = 0.5
    min_farm_capacity: Share = 0.5
    floor: Literal["strict", "available"] = "strict"
    max_failed: Limit = 0.25
    max_failed_run: Limit | None = None
    drain_seconds: Seconds = 0
    quiesce_seconds: Annotated[float, Field(gt=0, le=86400)] = 60
    on_deadline: Literal["fail", "force", "wait"] = "fail"
    soak_seconds: Seconds = 10
    canary_soak_seconds: Seconds = 30
    answer_seconds: Annotated[float, Field(ge=1, le=600)] = 20
    install_seconds: Annotated[float, Field(ge=1, le=86400)] = 3600
    reboot_seconds: Annotated[float, Field(ge=1, le=86400)] = 600
    on_failure: Literal["pause", "rollback", "abort"] = "abort"
    approve: Literal["never", "canary", "farm", "site"] = "never"
    approvers: Annotated[tuple[User, ...], Field(strict=False)] = ()
    windows: Annotated[tuple[Window, ...], Field(strict=False, max_length=100)] = ()
    freezes: Annotated[tuple[Freeze, ...], Field(strict=False, max_length=100)] = ()
    stage_parallel: Annotated[int, Field(ge=1, le=1000)] = 16
    stage_kib: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    gates: Gates = Gates()

    def soak(self, canary: bool) -> float:
        """Seconds for which an opened farm is watched; a canary never less than the others."""
        return max(self.soak_seconds, self.canary_soak_seconds if canary else 0)

    def overridden(self, changes: object) -> "Policy":
        """The policy with what a run asks for; ``gates`` may name some of its keys.

        A run may not lift what protects the site from it: windows and freezes (they have their
        own recorded override), approvals, and ``floor``, which HAProxy's configuration holds.

        Raises :class:`WebfarmError` with all mistakes at once.
        """
        if not isinstance(changes, Mapping):
            raise WebfarmError(
                f"policy: {shape.shown(changes)}: expected a mapping such as "
                "policy='{soak_seconds: 60}'; nothing was changed"
            )
        mistakes = list(self._forbidden(changes))
        known = self.model_dump(by_alias=True)
        merged: dict[Any, Any] = {**known, **changes}
        if isinstance(changes.get("gates"), Mapping):
            merged["gates"] = {**known["gates"], **changes["gates"]}
        try:
            policy = Policy.model_validate(merged)
        except ValidationError as error:
            mistakes += shape.lines(error, "policy")
        if mistakes:
            raise WebfarmError(
                "the run's policy is not possible; nothing was changed:\n"
                + "\n".join(f"  {line}" for line in mistakes)
            )
        return policy

    def _forbidden(self, changes: Mapping[Any, Any]) -> list[str]:
        remedy = {
            "windows": "is the pillar's alone; override='REASON' goes ahead and is recorded",
            "freezes": "is the pillar's alone; override='REASON' goes ahead and is recorded",
            "approvers": "is the pillar's alone",
            "floor": "is the pillar's alone: it is part of the balancers' configuration",
        }
        if self.approve != "never" and changes.get("approve") != self.approve:
            remedy["approve"] = f"the pillar demands {self.approve}; a run cannot change that"
        return [f"policy.{key}: {remedy[key]}" for key in remedy if key in changes]


def budget(limit: int | float, count: int) -> int:
    """How many of ``count`` servers may be left out, never all of them.

    An int is that number. A float is a share, rounded down, but at least one server unless the
    share is 0.0.
    """
    if count < 1:
        return 0
    if isinstance(limit, float) and limit > 0:
        # 0.29 * 100 is 28.999… for a computer
        limit = max(1, math.floor(limit * count + 1e-9))
    return min(int(limit), count - 1)


def _since_midnight(text: str) -> timedelta:
    if text == "24:00":
        return MIDNIGHT
    clock = time.fromisoformat(text)
    return timedelta(hours=clock.hour, minutes=clock.minute)

"""Say whether a site's maintenance windows and freezes let a rollout run now, and when they will.

Both are local times. A time that the clocks skip in spring is taken as the one an hour later; of an
hour that comes twice in autumn, a window begins and ends in the first, and a freeze covers both.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from webfarm.policy import DAYS, Freeze, Policy, Window

DAY = timedelta(days=1)


def closed(policy: Policy, now: float) -> str:
    """Why a rollout may not run now, since when, and when it may; empty when it may.

    now
        Seconds since the epoch.
    """
    if not policy.windows and not policy.freezes:
        return ""
    moment = datetime.fromtimestamp(now, UTC)
    frozen = _freeze(policy, moment)
    if frozen:
        zone = frozen.timezone
        why = f"frozen ({frozen.reason}) since {_shown(_span(frozen)[0], zone)}"
    elif policy.windows and not any(_around(window, moment) for window in policy.windows):
        zone, since = _last_end(policy, moment)
        shown = ", ".join(_named(window) for window in policy.windows)
        why = f"outside the maintenance windows ({shown}) since {_shown(since, zone)}"
    else:
        return ""
    opens, zone = _opens(policy, moment, zone)
    return (
        f"{why}; it may run from {_shown(opens, zone)}; "
        "override='REASON' goes ahead and is recorded"
    )


def _opens(policy: Policy, moment: datetime, zone: str) -> tuple[datetime, str]:
    """The next moment that is in a window and not in a freeze, and the time zone that says so."""
    while True:
        # ends: a freeze is left once, and a window that is entered is left only for a freeze
        if frozen := _freeze(policy, moment):
            moment, zone = _span(frozen)[1], frozen.timezone
        elif policy.windows and not any(_around(window, moment) for window in policy.windows):
            moment, zone = min(
                (_next_begin(window, moment), window.timezone) for window in policy.windows
            )
        else:
            return moment, zone


def _freeze(policy: Policy, moment: datetime) -> Freeze | None:
    """The freeze of this moment that lasts longest."""
    active = [f for f in policy.freezes if _span(f)[0] <= moment < _span(f)[1]]
    return max(active, key=lambda freeze: _span(freeze)[1], default=None)


def _span(freeze: Freeze) -> tuple[datetime, datetime]:
    zone = ZoneInfo(freeze.timezone)
    begins, ends = (
        [at.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        for at in (freeze.begin, freeze.end)
    )
    return min(begins), max(ends)


def _around(window: Window, moment: datetime) -> bool:
    return any(begin <= moment < end for begin, end in _spans(window, moment, -2, 2))


def _next_begin(window: Window, moment: datetime) -> datetime:
    # a week ahead there is always one, but the clocks may skip a short one altogether
    return min(begin for begin, _ in _spans(window, moment, -1, 16) if begin > moment)


def _last_end(policy: Policy, moment: datetime) -> tuple[str, datetime]:
    end, zone = max(
        (end, window.timezone)
        for window in policy.windows
        for _, end in _spans(window, moment, -16, 2)
        if end <= moment
    )
    return zone, end


def _spans(
    window: Window, moment: datetime, first: int, last: int
) -> Iterator[tuple[datetime, datetime]]:
    """The window on the days from ``first`` to ``last``, counted from the day of ``moment``."""
    zone = ZoneInfo(window.timezone)
    begin, end = window.hours
    today = moment.astimezone(zone).date()
    for day in (today + count * DAY for count in range(first, last + 1)):
        if DAYS[day.weekday()] in window.days:
            span = _at(day, begin, zone), _at(day, end, zone)
            if span[0] < span[1]:
                yield span


def _at(day: date, clock: timedelta, zone: ZoneInfo) -> datetime:
    # plain arithmetic on the local clock, then the zone: 05:00 is 05:00 also after a change
    return (datetime(day.year, day.month, day.day) + clock).replace(tzinfo=zone).astimezone(UTC)


def _shown(moment: datetime, zone: str) -> str:
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M %Z}"


def _named(window: Window) -> str:
    """``mon-fri 22:00-05:00 Europe/Berlin``: days in a row are drawn together."""
    days = [day for day in DAYS if day in window.days]
    rows: list[list[str]] = []
    for day in days:
        if rows and DAYS.index(day) == DAYS.index(rows[-1][-1]) + 1:
            rows[-1].append(day)
        else:
            rows.append([day])
    shown = ",".join(row[0] if len(row) == 1 else f"{row[0]}-{row[-1]}" for row in rows)
    return f"{shown} {window.begin}-{window.end} {window.timezone}"

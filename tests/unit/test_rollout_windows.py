"""Windows and freezes: when a rollout may run, over midnight and over changes of the clocks."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webfarm.policy import DAYS, Policy
from webfarm.rollout.windows import closed

BERLIN = ZoneInfo("Europe/Berlin")
END = "; override='REASON' goes ahead and is recorded"


def window(begin: str, end: str, *days: str, zone: str = "Europe/Berlin") -> dict[str, Any]:
    return {"days": list(days or DAYS), "from": begin, "to": end, "timezone": zone}


def freeze(begin: str, end: str, zone: str = "Europe/Berlin", reason: str = "sales") -> Any:
    return {"from": begin, "to": end, "timezone": zone, "reason": reason}


def policy(*windows: dict[str, Any], freezes: list[Any] | None = None) -> Policy:
    return Policy.model_validate({"windows": list(windows), "freezes": freezes or []})


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


NIGHTS = policy(window("22:00", "05:00", "mon", "tue", "wed", "thu", "fri"))


def test_without_windows_and_freezes_every_moment_is_good() -> None:
    assert closed(Policy(), 0) == ""
    assert closed(Policy(), 1e18) == ""


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("2026-11-23 21:59", False),  # Monday
        ("2026-11-23 22:00", True),
        ("2026-11-24 04:59", True),
        ("2026-11-24 05:00", False),
        ("2026-11-28 04:59", True),  # Saturday, it is Friday's window
        ("2026-11-28 05:00", False),
        ("2026-11-28 23:00", False),
        ("2026-11-23 03:00", False),  # Monday, Sunday has no window
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(
    moment: str, open_: bool
) -> None:
    assert (closed(NIGHTS, at(moment)) == "") == open_


def test_the_answer_says_why_since_when_and_when_it_may_run() -> None:
    assert closed(NIGHTS, at("2026-11-28 12:00")) == (
        "outside the maintenance windows (mon-fri 22:00-05:00 Europe/Berlin) since 2026-11-28 "
        "05:00 CET; it may run from 2026-11-30 22:00 CET" + END
    )
    christmas = policy(freezes=[freeze("2026-12-20T00:00", "2027-01-06T00:00", reason="Christmas")])
    assert closed(christmas, at("2026-12-24 18:00")) == (
        "frozen (Christmas) since 2026-12-20 00:00 CET; it may run from 2027-01-06 00:00 CET" + END
    )


def test_a_freeze_begins_with_its_first_second_and_ends_before_its_last() -> None:
    frozen = policy(freezes=[freeze("2026-12-20T00:00", "2026-12-21T00:00")])
    assert closed(frozen, at("2026-12-19 23:59:59")) == ""
    assert closed(frozen, at("2026-12-20 00:00"))
    assert closed(frozen, at("2026-12-20 23:59:59"))
    assert closed(frozen, at("2026-12-21 00:00")) == ""


def test_the_next_time_is_in_a_window_and_after_every_freeze() -> None:
    busy = policy(
        window("22:00", "05:00", "mon"),
        freezes=[
            freeze("2026-11-30T12:00", "2026-12-04T00:00"),
            freeze("2026-12-03T00:00", "2026-12-07T23:00"),
        ],
    )
    assert "it may run from 2026-12-07 23:00 CET" in closed(busy, at("2026-11-24 05:00"))
    assert "it may run from 2026-12-07 23:00 CET" in closed(busy, at("2026-12-01 00:00"))


def test_the_earliest_of_several_windows_is_named_in_its_own_zone() -> None:
    two = policy(
        window("22:00", "23:00", "sat", "sun"),
        window("09:00", "10:00", "mon", "wed", "thu", "fri", zone="America/New_York"),
    )
    assert closed(two, at("2026-11-25 12:00")) == (
        "outside the maintenance windows (sat-sun 22:00-23:00 Europe/Berlin, mon,wed-fri "
        "09:00-10:00 America/New_York) since 2026-11-23 10:00 EST; it may run from "
        "2026-11-25 09:00 EST" + END
    )


def test_a_whole_day_leaves_no_gap_to_the_next() -> None:
    always = policy(window("00:00", "24:00"))
    for moment in ("2026-03-29 00:00", "2026-03-29 23:59:59", "2026-10-25 02:30"):
        assert closed(always, at(moment)) == ""
        assert closed(always, at(moment, fold=1)) == ""


# In Berlin the clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2026-10-25.


def test_a_night_in_march_is_an_hour_shorter_and_ends_at_its_local_time() -> None:
    assert closed(NIGHTS, at("2026-03-28 04:59")) == ""
    saturday = policy(window("22:00", "05:00", "sat"))
    began = at("2026-03-28 22:00")
    assert [closed(saturday, began + hours * 3600) == "" for hours in (0, 5.99, 6)] == [
        *(True, True, False)
    ]
    assert "since 2026-03-29 05:00 CEST" in closed(saturday, at("2026-03-29 05:00"))


def test_a_night_in_october_is_an_hour_longer_and_ends_at_its_local_time() -> None:
    saturday = policy(window("22:00", "05:00", "sat"))
    began = at("2026-10-24 22:00")
    assert [closed(saturday, began + hours * 3600) == "" for hours in (0, 7.99, 8)] == [
        *(True, True, False)
    ]
    assert "since 2026-10-25 05:00 CET" in closed(saturday, at("2026-10-25 05:00"))


def test_a_window_that_the_clocks_skip_is_taken_an_hour_later() -> None:
    early = policy(window("02:15", "02:45", "sun"))
    assert "it may run from 2026-03-29 03:15 CEST" in closed(early, at("2026-03-28 12:00"))
    assert closed(early, at("2026-03-29 03:20")) == ""
    assert closed(early, at("2026-03-29 03:45"))


def test_a_window_that_the_clocks_leave_no_length_is_left_out_that_day() -> None:
    short = policy(window("02:30", "03:15", "sun"))
    assert "it may run from 2026-04-05 02:30 CEST" in closed(short, at("2026-03-28 12:00"))
    assert "since 2026-03-22 03:15 CET" in closed(short, at("2026-03-29 12:00"))


def test_an_hour_that_comes_twice_is_open_once_and_frozen_twice() -> None:
    early = policy(window("02:00", "02:30", "sun"))
    assert closed(early, at("2026-10-25 02:10", fold=0)) == ""
    assert closed(early, at("2026-10-25 02:10", fold=1))
    frozen = policy(freezes=[freeze("2026-10-25T02:00", "2026-10-25T02:30")])
    assert closed(frozen, at("2026-10-25 02:10", fold=0))
    assert closed(frozen, at("2026-10-25 02:10", fold=1))
    assert "from 2026-10-25 02:30 CET" in closed(frozen, at("2026-10-25 02:10", fold=0))


TIMES = st.integers(0, 24 * 60 - 1).map(lambda m: f"{m // 60:02}:{m % 60:02}")
ZONES = st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"])
WINDOWS = st.builds(
    lambda begin, end, days, zone: window(begin, end, *days, zone=zone),
    TIMES,
    TIMES,
    st.sets(st.sampled_from(DAYS), min_size=1),
    ZONES,
).filter(lambda made: made["from"] != made["to"])
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(
    lambda moment: moment.replace(second=0, microsecond=0)
)
FREEZES = st.builds(
    lambda begin, hours, zone: freeze(
        begin.isoformat(), (begin + timedelta(hours=hours)).isoformat(), zone
    ),
    MOMENTS,
    st.integers(1, 2000),
    ZONES,
)


@settings(deadline=None)
@given(
    st.lists(WINDOWS, max_size=3), st.lists(FREEZES, max_size=3), MOMENTS.map(datetime.timestamp)
)
def test_at_the_time_that_is_named_it_may_run_and_not_a_minute_before(
    windows: list[Any], freezes: list[Any], now: float
) -> None:
    made = policy(*windows, freezes=freezes)
    why = closed(made, now)
    if not why:
        return
    day, clock, zone = why.partition("may run from ")[2].split(";")[0].split(" ")
    moment = datetime.fromisoformat(f"{day} {clock}")
    opens = [
        found
        for name in ("Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC")
        for fold in (0, 1)
        if (local := moment.replace(tzinfo=ZoneInfo(name), fold=fold)).strftime("%Z") == zone
        and (found := local.timestamp()) > now
    ]
    assert any(closed(made, found) == "" and closed(made, found - 60) for found in opens), why

"""The policy: what a run may change in it, and what it says to a mistake."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webfarm.errors import BadTopology, WebfarmError
from webfarm.policy import Policy, budget
from webfarm.topology import parse

NIGHT = {"days": ["mon", "tue"], "from": "22:00", "to": "05:00", "timezone": "Europe/Berlin"}
FREEZE = {
    "from": "2026-12-20T00:00",
    "to": "2027-01-06 12:30:00",
    "timezone": "Europe/Berlin",
    "reason": "Christmas",
}


def policy(**keys: Any) -> Policy:
    return Policy.model_validate(keys)


def refused(changes: object, base: Policy = Policy()) -> list[str]:  # noqa: B008 it is frozen
    with pytest.raises(WebfarmError) as caught:
        base.overridden(changes)
    return str(caught.value).splitlines()


def test_a_run_overrides_only_what_it_names() -> None:
    base = policy(soak_seconds=5, gates={"min_requests": 10, "error_excess": 0.1})
    changed = base.overridden({"max_failed": 0, "gates": {"min_requests": 7}})
    assert (changed.soak_seconds, changed.max_failed) == (5, 0)
    assert (changed.gates.min_requests, changed.gates.error_excess) == (7, 0.1)
    assert base.overridden({}) == base


def test_a_run_keeps_the_windows_and_freezes_of_the_pillar() -> None:
    base = policy(windows=[NIGHT], freezes=[FREEZE])
    changed = base.overridden({"soak_seconds": 3})
    assert changed == base.model_copy(update={"soak_seconds": 3.0})


def test_all_mistakes_of_a_run_are_reported_at_once_with_their_paths() -> None:
    lines = refused(
        {
            "soak_seconds": float("nan"),
            "drain_seconds": float("inf"),
            "quiesce_seconds": 10**400,
            "min_capacity": "0.5",
            "canary_soak_seconds": True,
            "stage_parallel": 10**5000,
            "stage_kib": 1.5,
            "max_failed": True,
            "max_failed_run": -1,
            "on_failure": "pray",
            "answer_seconds": None,
            "nope": 1,
            3: 4,
            "x" * 5000: 1,
            "gates": {"min_requests": False, "latency_factor": -1, "x": 1},
        }
    )
    assert lines[0] == "the run's policy is not possible; nothing was changed:"
    limit = "must be a number of servers (0, 1, 2 …) or a share (0.0 to 1.0)"
    assert sorted(lines[1:], key=str.strip) == sorted(
        [
            "  policy.soak_seconds: nan: input should be a finite number",
            "  policy.drain_seconds: inf: input should be a finite number",
            f"  policy.quiesce_seconds: 1{'0' * 56}...: input should be a valid number",
            "  policy.min_capacity: '0.5': input should be a valid number",
            "  policy.canary_soak_seconds: True: input should be a valid number",
            "  policy.stage_parallel: a huge int: input should be less than or equal to 1000",
            "  policy.stage_kib: 1.5: input should be a valid integer",
            f"  policy.max_failed: True: {limit}",
            f"  policy.max_failed_run: -1: {limit}",
            "  policy.on_failure: 'pray': input should be 'pause', 'rollback' or 'abort'",
            "  policy.answer_seconds: None: input should be a valid number",
            "  policy.nope: is not a known key",
            "  policy.3: is not a known key",
            f"  policy.{'x' * 153}: is not a known key",
            "  policy.gates.min_requests: False: input should be a valid integer",
            "  policy.gates.latency_factor: -1: input should be greater than or equal to 1",
            "  policy.gates.x: is not a known key",
        ],
        key=str.strip,
    )


@pytest.mark.parametrize("value", [None, [], "soak_seconds=3", 7, True])
def test_an_override_that_is_no_mapping_is_refused(value: object) -> None:
    assert "expected a mapping such as policy='{soak_seconds: 60}'" in refused(value)[0]
    assert "policy.gates: " in refused({"gates": value})[1]


def test_a_run_cannot_lift_what_protects_the_site_from_it() -> None:
    base = policy(windows=[NIGHT], approve="site", approvers=["alice"])
    lines = refused(
        {"windows": [], "freezes": [], "approvers": [], "approve": "never", "floor": "available"},
        base,
    )
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "policy.windows",
        "policy.freezes",
        "policy.approvers",
        "policy.floor",
        "policy.approve",
    ]
    assert "override='REASON'" in lines[1]
    assert base.overridden({"approve": "site"}) == base
    assert policy().overridden({"approve": "canary"}).approve == "canary"


# whatever a command line can say
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


KEYS = st.sampled_from(list(Policy.model_fields)) | st.text(max_size=9) | st.integers() | st.none()


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_every_override_is_a_valid_policy_or_a_named_mistake(changes: dict[Any, Any]) -> None:
    try:
        changed = Policy().overridden(changes)
    except WebfarmError as error:
        assert "policy" in str(error) and "Traceback (most recent" not in str(error)
    else:
        json.dumps(changed.model_dump(mode="json"), allow_nan=False)
        assert Policy.model_validate(changed.model_dump(by_alias=True)) == changed


# -- how many servers may be left out --------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "count", "allowed"),
    [
        (0, 16, 0),
        (1, 16, 1),
        (3, 16, 3),
        (99, 16, 15),
        (1, 1, 0),
        (2, 0, 0),
        (0.25, 16, 4),
        (0.25, 7, 1),
        (0.25, 2, 1),
        (0.25, 1, 0),
        (0.01, 2, 1),
        (0.0, 16, 0),
        (1.0, 16, 15),
        (0.29, 100, 29),
    ],
)
def test_a_number_is_exact_and_a_share_allows_one_but_never_all(
    limit: int | float, count: int, allowed: int
) -> None:
    assert budget(limit, count) == allowed


def test_a_number_and_a_share_stay_apart_on_their_way_through_json() -> None:
    for limit in (1, 1.0, 0, 0.0):
        text = json.dumps(policy(max_failed=limit).model_dump(mode="json"))
        kept = Policy.model_validate_json(text).max_failed
        assert (type(kept), kept) == (type(limit), limit)


def test_a_canary_is_never_watched_for_less_than_the_others() -> None:
    assert policy(soak_seconds=10, canary_soak_seconds=30).soak(canary=True) == 30
    assert policy(soak_seconds=10, canary_soak_seconds=30).soak(canary=False) == 10
    assert policy(soak_seconds=90, canary_soak_seconds=30).soak(canary=True) == 90


# -- mistakes in the pillar ------------------------------------------------------------------------


def mistakes(pillar: dict[str, Any], **policy: Any) -> list[str]:
    pillar["sites"]["site1"]["policy"] = policy
    with pytest.raises(BadTopology) as caught:
        parse(pillar)
    return [line.removeprefix("webfarm.sites.site1.") for line in caught.value.mistakes]


UNKNOWN = "is not a time zone that is known here; expected one like Europe/Berlin or UTC"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("from", 1320, "from: 1320: is a number for YAML, put it in quotes"),
        ("from", "25:00", "from: '25:00': must be a time of day, '00:00' to '24:00'"),
        ("to", "5:00", "to: '5:00': must be a time of day"),
        ("to", "٠٥:٠٠", "must be a time of day"),
        ("to", None, "to: None: must be a time of day"),
        ("to", "22:00", "`from` must be another time than `to`"),
        ("days", ["Mon"], "days.0: 'Mon': input should be 'mon', 'tue'"),
        ("days", [], "days: []: tuple should have at least 1 item"),
        ("days", "mon", "days: 'mon': input should be a valid tuple"),
        ("timezone", "Europe", f"timezone: 'Europe': {UNKNOWN}"),
        ("timezone", "Europe/Atlantis", f"timezone: 'Europe/Atlantis': {UNKNOWN}"),
        ("timezone", "../../../etc/passwd", UNKNOWN),
        ("timezone", "/etc/localtime", UNKNOWN),
        ("timezone", "x" * 9999, UNKNOWN),
        ("timezone", "UTC\0", UNKNOWN),
        ("timezone", 7, f"timezone: 7: {UNKNOWN}"),
        ("until", "05:00", "until: is not a known key"),
    ],
)
def test_a_mistake_in_a_window_is_named_with_its_path(
    pillar: dict[str, Any], key: str, value: object, said: str
) -> None:
    found = mistakes(pillar, windows=[NIGHT, {**NIGHT, key: value}])
    assert said in found[0]
    assert found[0].startswith("policy.windows.1")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("from", "2026-12-20", "from: '2026-12-20': must be a local time, YYYY-MM-DDTHH:MM"),
        ("from", "2026-12-20T00:00+01:00", "must be a local time"),
        ("from", "2027-02-29T00:00", "is not a moment: day is out of range for month"),
        ("from", "0001-01-01T00:00", "must be of a year from 1971 to 2999"),
        ("from", "2027-01-06T12:30", "`from` must be before `to`"),
        ("to", "9999-01-01T00:00", "must be of a year from 1971 to 2999"),
        ("to", 20261220, "to: 20261220: must be a local time"),
        ("reason", "", "reason: '': string should have at least 1 character"),
        ("reason", "  ", "string should have at least 1 character"),
        ("timezone", "Mars", f"timezone: 'Mars': {UNKNOWN}"),
    ],
)
def test_a_mistake_in_a_freeze_is_named_with_its_path(
    pillar: dict[str, Any], key: str, value: object, said: str
) -> None:
    found = mistakes(pillar, freezes=[{**FREEZE, key: value}])
    assert said in found[0]
    assert found[0].startswith("policy.freezes.0")


def test_what_is_missing_in_a_window_or_a_freeze_is_named(pillar: dict[str, Any]) -> None:
    assert mistakes(pillar, windows=[{}], freezes=[{}], approvers="alice") == [
        "policy.approvers: 'alice': input should be a valid tuple",
        "policy.windows.0.from: is missing",
        "policy.windows.0.to: is missing",
        "policy.windows.0.timezone: is missing",
        "policy.freezes.0.from: is missing",
        "policy.freezes.0.to: is missing",
        "policy.freezes.0.timezone: is missing",
        "policy.freezes.0.reason: is missing",
    ]


def test_a_moment_that_yaml_understood_by_itself_is_taken(pillar: dict[str, Any]) -> None:
    by_yaml = {**FREEZE, "from": datetime(2026, 12, 20)}
    pillar["sites"]["site1"]["policy"] = {"freezes": [by_yaml], "windows": [NIGHT]}
    found = parse(pillar).sites["site1"].policy
    assert found == policy(freezes=[FREEZE], windows=[NIGHT])
    shown = json.loads(json.dumps(found.model_dump(mode="json", by_alias=True)))
    assert shown["windows"] == [NIGHT] and shown["freezes"][0]["reason"] == "Christmas"

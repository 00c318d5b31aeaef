"""What an operator typed: whatever YAML made of it, it is right or it is refused in words."""

from typing import Any

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments

ONE = [("site1", "farm1"), ("site1", "farm2"), ("site1", "farm3")]
TWO = [("site1", "farm1"), ("site1", "farm2"), ("site2", "farm1")]


@pytest.mark.parametrize(
    ("value", "scope", "expected"),
    [
        (None, ONE, ONE),
        ("farm2,farm1, farm3", ONE, [ONE[1], ONE[0], ONE[2]]),
        (["farm3", "farm2", "farm1"], ONE, ONE[::-1]),
        ("site1/farm3,farm2,farm1", ONE, ONE[::-1]),
        ("site2,site1", TWO, [TWO[2], TWO[0], TWO[1]]),
        ("site2/farm1,site1/farm2,site1/farm1", TWO, TWO[::-1]),
    ],
)
def test_an_order_is_a_permutation_of_the_scope(value: Any, scope: Any, expected: Any) -> None:
    assert arguments.ordered(value, scope) == expected


@pytest.mark.parametrize(
    ("value", "scope", "message"),
    [
        ("farm1,farm2", ONE, "missing: site1/farm3"),
        ("farm1,farm2,farm2,farm3", ONE, "there twice: site1/farm2"),
        ("farm1,farm2,farm9", ONE, "unknown: site1/farm9; missing: site1/farm3"),
        ("site2/farm1,farm2,farm3", ONE, "unknown: site2/farm1"),
        ("site1", TWO, "missing: site2"),
        ("site1,site2/farm1", TWO, "write it as SITE/FARM"),
        ("site1,site3", TWO, "unknown: site3"),
        ("", ONE, "is empty"),
        (7, ONE, "order is 7"),
        (True, ONE, "order is True"),
        ({"farm1": 1}, ONE, "expected names"),
        ([1, 2, 3], ONE, "order name 1 is int"),
        (["farm1"] * 10_001, ONE, "expected names"),
        ("farm1,fa;rm2,farm3", ONE, "must match"),
        ("a/b/c,farm2,farm3", ONE, "must match"),
    ],
)
def test_any_other_order_is_refused_and_what_is_wrong_is_named(
    value: Any, scope: Any, message: str
) -> None:
    with pytest.raises(WebfarmError, match=message):
        arguments.ordered(value, scope)


@pytest.mark.parametrize("value", [True, False, 7.0, "7", [7], None, 0, -1, 2**60, {}])
def test_an_id_is_a_whole_number_and_nothing_else(value: Any) -> None:
    with pytest.raises(WebfarmError, match=r"id is .*, expected a number"):
        arguments.number(value, "id")


def test_an_id() -> None:
    assert arguments.number(7, "id") == 7


@pytest.mark.parametrize("value", [0, 1, "True", None, []])
def test_a_switch_is_true_or_false(value: Any) -> None:
    with pytest.raises(WebfarmError, match=r"reset_sessions is .*, expected True or False"):
        arguments.switch(value, "reset_sessions")


def test_a_reason_is_one_printable_line() -> None:
    assert arguments.reason("a\nb\x1b[31m  c ") == "a b [31m c"
    assert arguments.reason(None) == ""


@pytest.mark.parametrize("value", [None, "", " \n", 7, True, ["a"], "x" * 501])
def test_a_reason_that_is_needed_must_be_there(value: Any) -> None:
    with pytest.raises(WebfarmError, match="reason"):
        arguments.reason(value, needed=True)


@pytest.mark.parametrize("value", ["soak", 7, True, ["a"], {"a;b": 1}, {7: 1}])
def test_overrides_are_a_mapping_of_names(value: Any) -> None:
    with pytest.raises(WebfarmError):
        arguments.overrides(value)
    assert arguments.overrides(None) == {}
    assert arguments.overrides({"soak_seconds": 5}) == {"soak_seconds": 5}

"""Names and the order of releases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm import names, releases
from webfarm.errors import BadName


@pytest.mark.parametrize("name", ["farm1", "8.2.36", "site1-farm2-ws1.example.org", "a_b", "1"])
def test_ordinary_names_pass_unchanged(name: str) -> None:
    assert names.check(name, "farm") == name


def test_hostile_names_are_refused_with_the_thing_named(hostile_name: object) -> None:
    with pytest.raises(BadName, match="farm name") as caught:
        names.check(hostile_name, "farm")
    assert len(str(caught.value)) < 250
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)


@given(st.text())
def test_whatever_passes_is_harmless_in_a_command_a_path_and_a_map(text: str) -> None:
    if names.problem(text) is None:
        assert text.isascii() and text[0].isalnum() and ".." not in text
        assert not set(text) & set(" ;\n\r\t/\\'\"`$&|<>(){}[]*?!#:,=@%\0")


def test_releases_are_ordered_by_number_not_by_letter() -> None:
    ordered = ["2026.9.1", "2026.11.1", "2026.11.2", "2026.11.10", "2027.1.1"]
    assert sorted(reversed(ordered), key=releases.order_key) == ordered


@given(st.permutations(["1.10", "1.9", "a", "1", "1-rc2", "b2", "b10", "2026.11.1"]))
def test_the_order_does_not_depend_on_where_one_begins(found: list[str]) -> None:
    expected = ["1", "1-rc2", "1.9", "1.10", "2026.11.1", "a", "b2", "b10"]
    assert sorted(found, key=releases.order_key) == expected

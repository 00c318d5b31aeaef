"""Shares become ranges of 256 slots; map files survive; only names and numbers come in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm.errors import WebfarmError
from webfarm.haproxy import maps

WEIGHTS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), st.integers(0, 1_000_000), max_size=256
)


@given(WEIGHTS)
def test_ranges_cover_all_slots_once_and_give_each_name_its_share(weights: dict[str, int]) -> None:
    entries = maps.ranges(weights)
    positive = {name: weight for name, weight in weights.items() if weight}
    if not positive:
        assert entries == []
        return
    covered: list[int] = []
    for key, _ in entries:
        first, last = map(int, key.split(":"))
        covered.extend(range(first, last + 1))
    assert covered == list(range(256))
    shares = maps.shares(entries)
    assert set(shares) == set(positive) and min(shares.values()) >= 1
    total = sum(positive.values())
    if all(weight * 256 >= total for weight in positive.values()):
        for name, weight in positive.items():
            assert abs(shares[name] - weight * 256 / total) <= 1


@given(WEIGHTS, st.randoms())
def test_ranges_do_not_depend_on_the_order(weights: dict[str, int], random: object) -> None:
    items = list(weights.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert maps.ranges(dict(items)) == maps.ranges(weights)


@given(WEIGHTS)
def test_shares_as_weights_give_the_same_ranges(weights: dict[str, int]) -> None:
    entries = maps.ranges(weights)
    assert maps.ranges(maps.shares(entries)) == entries


@pytest.mark.parametrize("weight", [-1, 1.5, "7", True, None, 10**9])
def test_a_share_is_a_whole_number(weight: object) -> None:
    with pytest.raises(WebfarmError, match="farm1"):
        maps.ranges({"farm1": weight})  # type: ignore[dict-item]


def test_more_names_than_slots_are_refused() -> None:
    with pytest.raises(WebfarmError, match="257"):
        maps.ranges({f"farm{n}": 1 for n in range(257)})


def test_the_disk_copy_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "farm_pick.map"
    entries = maps.ranges({"farm1": 2, "farm2": 1})
    maps.write(path, entries)
    assert maps.read(path) == entries
    maps.write(path, [])
    assert maps.read(path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["farm_pick.map"]


def test_comments_and_blanks_of_a_hand_edited_map_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "farm_state.map"
    path.write_text("# by hand\n\n  farm1   open  \nfarm2 drain\n")
    assert maps.read(path) == [("farm1", "open"), ("farm2", "drain")]


def test_a_missing_map_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(WebfarmError, match="highstate"):
        maps.read(tmp_path / "farm_state.map")

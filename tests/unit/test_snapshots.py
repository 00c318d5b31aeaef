"""Snapshots, what needs no disk: the pillar's part, what expires, what btrfs prints, and none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm import topology
from webfarm.errors import BadName, BadTopology
from webfarm.snapshots import btrfs_text, model
from webfarm.snapshots.model import Snapshot, SnapshotError
from webfarm.snapshots.none import NoSnapshots
from webfarm.snapshots.service import provider
from webfarm.snapshots.settings import Snapshots

DAY = 86400
ENTRIES = st.builds(Snapshot, st.text("abc", min_size=1, max_size=3), st.integers(0, 100 * DAY))


def mistakes(pillar: object) -> str:
    with pytest.raises(BadTopology) as caught:
        topology.parse(pillar)
    return "\n".join(caught.value.mistakes)


# -- the pillar ------------------------------------------------------------------------------------


def test_without_a_word_in_the_pillar_there_are_no_snapshots(pillar: dict[str, Any]) -> None:
    found = topology.parse(pillar).snapshots_of("site1-farm1-ws1")
    assert found.provider == "none"
    assert isinstance(provider(found), NoSnapshots)


def test_a_sites_own_settings_go_before_everybodys(pillar: dict[str, Any]) -> None:
    pillar["snapshots"] = {"provider": "btrfs", "keep": 3}
    pillar["sites"]["site2"]["snapshots"] = {"provider": "none"}
    pillar["preproduction"] = {"servers": {"preprod-ws1": {"address": "10.77.9.1"}}}
    cluster = topology.parse(pillar)
    assert cluster.snapshots_of("site1-farm1-ws1").keep == 3
    assert cluster.snapshots_of("site2-farm1-ws1").provider == "none"
    assert cluster.snapshots_of("preprod-ws1").provider == "btrfs"


@pytest.mark.parametrize(
    "setting",
    [
        {"provider": "zfs"},
        {"keep": 0},
        {"keep_aside": -1},
        {"max_age_days": 0},
        {"max_age_days": float("nan")},
        {"min_free_percent": 91},
        {"mount": "/"},
        {"mount": "relative"},
        {"mount": "/a/../b"},
        {"mount": "/a//b"},
        {"mount": "/a/"},
        {"mount": "//a"},
        {"mount": "/a\nb"},
        {"mount": "/" + "a" * 2000},
        {"subvolume": "../@"},
        {"subvolume": "a/b"},
        {"subvolume": "-r"},
        {"subvolume": "a.b"},
        {"subvolume": ""},
        {"preserve": ["/"]},
        {"preserve": ["/var", "/var/lib"]},
        {"preserve": ["/var/lib", "/var/lib"]},
        {"preserve": ["/.webfarm/x"]},
        {"mount": "/var/btrfs", "preserve": ["/var"]},
        {"unknown": 1},
    ],
    ids=ascii,
)
def test_a_bad_setting_is_a_mistake_with_its_path(
    pillar: dict[str, Any], setting: dict[str, Any]
) -> None:
    pillar["snapshots"] = setting
    assert "webfarm.snapshots" in mistakes(pillar)
    pillar["snapshots"] = {}
    pillar["sites"]["site2"]["snapshots"] = setting
    assert "webfarm.sites.site2.snapshots" in mistakes(pillar)


# -- what expires ----------------------------------------------------------------------------------


@given(
    st.lists(ENTRIES, unique_by=lambda one: one.name),
    st.integers(1, 5),
    st.floats(0.1, 50),
    st.integers(0, 200 * DAY),
    st.one_of(st.none(), st.text("abc", min_size=1, max_size=3)),
)
def test_the_newest_and_the_needed_never_expire_and_no_more_than_asked_stay(
    entries: list[Snapshot], keep: int, days: float, now: int, needed: str | None
) -> None:
    rules = Snapshots(keep=keep, max_age_days=days)
    gone = model.expired(entries, rules, now, [needed])
    stay = [one for one in entries if one.name not in gone]
    assert needed not in gone
    if entries:
        newest = max(one.at for one in entries)
        assert any(one.at == newest for one in stay)
    assert len(stay) <= keep + 1
    for one in stay:
        spared = one.name == needed or one.at == newest
        assert spared or now - one.at <= days * DAY
    kept_for_age = sorted((one.at for one in stay), reverse=True)[:keep]
    for one in entries:  # an old one goes for its age, or since enough newer ones are there
        if one.name in gone and now - one.at <= days * DAY:
            assert len(kept_for_age) == keep and all(at >= one.at for at in kept_for_age)


def test_roots_put_aside_expire_too_but_not_the_one_that_runs() -> None:
    entries = [Snapshot(f"aside-{at}.1", at) for at in (10, 20, 30)]
    rules = Snapshots(keep_aside=1, max_age_days=1)
    assert model.expired_aside(entries, rules, 40, []) == ["aside-20.1", "aside-10.1"]
    assert model.expired_aside(entries, rules, 40, ["aside-10.1"]) == ["aside-20.1"]
    assert model.expired_aside(entries, rules, 9 * DAY, ["aside-30.1"]) == [
        "aside-20.1",
        "aside-10.1",
    ]


def test_what_was_made_in_the_future_is_not_old() -> None:
    assert model.expired([Snapshot("a", 5), Snapshot("b", 9 * DAY)], Snapshots(), 0, []) == []


def test_the_name_of_a_root_put_aside_says_when_and_is_never_taken_twice() -> None:
    first = model.aside_name(1700000000, [])
    second = model.aside_name(1700000000, [first])
    assert first != second
    assert model.aside_at(first) == model.aside_at(second) == 1700000000
    for other in ("before", "aside-", "aside-1", "aside-x.1", "aside-1.x", "aside-²1.1", "1.1"):
        assert model.aside_at(other) is None


@pytest.mark.parametrize(("free", "whole"), [(0, 100), (14, 100), (0, 0), (5, -1)])
def test_too_little_room_says_how_much_is_needed_and_what_to_do(free: int, whole: int) -> None:
    found = model.judge_space("btrfs", free, whole, Snapshots())
    assert not found["ok"] and "15 %" in found["why"] and "webfarm_snapshot.expire" in found["why"]


def test_enough_room_needs_no_words() -> None:
    found = model.judge_space("btrfs", 15, 100, Snapshots())
    assert found == {"provider": "btrfs", "ok": True, "free_percent": 15.0, "why": ""}


# -- none ------------------------------------------------------------------------------------------


def test_none_takes_nothing_and_a_restore_says_what_to_do(hostile_name: object) -> None:
    here = NoSnapshots()
    assert here.take("before") == {"provider": "none"}
    assert here.space()["ok"] and here.snapshots() == [] and here.restored() is None
    assert here.expire() == {"dropped": []}
    with pytest.raises(SnapshotError, match=r"no snapshots here.*nothing was changed.*provider"):
        here.restore("before")
    for function in (here.take, here.restore, here.drop):
        with pytest.raises(BadName):
            function(hostile_name)  # type: ignore[arg-type]


# -- what btrfs prints -----------------------------------------------------------------------------

SHOWN = """lab/node1/@
\tName: \t\t\t@
\tUUID: \t\t\t1045451c-7b8f-1247-ac2a-a314992ff2dd
\tParent UUID: \t\tfdeefe4b-5d43-3041-9398-120e332cec05
\tReceived UUID: \t\t-
\tCreation time: \t\t2026-11-23 23:52:25 +0000
\tSubvolume ID: \t\t258
\tFlags: \t\t\treadonly
\tSnapshot(s):
\t\t\t\tlab/UUID: x
"""


def test_a_subvolume_is_read() -> None:
    found = btrfs_text.show(SHOWN)
    assert found.uuid == "1045451c-7b8f-1247-ac2a-a314992ff2dd"
    assert found.parent == "fdeefe4b-5d43-3041-9398-120e332cec05"
    assert (found.path, found.at, found.readonly) == ("lab/node1/@", 1795477945, True)
    plain = SHOWN.replace("fdeefe4b-5d43-3041-9398-120e332cec05", "-").replace("readonly", "-")
    assert (btrfs_text.show(plain).parent, btrfs_text.show(plain).readonly) == (None, False)


@given(st.text(max_size=400))
def test_anything_else_is_refused_and_never_believed(text: str) -> None:
    with pytest.raises(SnapshotError, match="expected UUID"):
        btrfs_text.show(text)


def test_subvolumes_in_the_root_are_named_by_their_path_in_it() -> None:
    text = (
        "ID 260 gen 9 top level 256 path lab/@/var/a b\nID 261 gen 9 top level 256 path lab/@/x\n"
    )
    assert btrfs_text.below(text, "lab/@") == ["var/a b", "x"]
    assert btrfs_text.below("", "lab/@") == []


@pytest.mark.parametrize(
    "line",
    [
        "ID 260 gen 9 top level 256 path lab/other/x",
        "ID 260 gen 9 top level 256 path lab/@/../x",
        "ID 260 gen 9 top level 256 path lab/@/x\x1b[31m",
        "ID 260 gen 9 top level 256 path lab/@/",
        "something else",
    ],
)
def test_a_path_that_leads_out_or_is_not_plain_is_refused(line: str) -> None:
    with pytest.raises(SnapshotError):
        btrfs_text.below(line + "\n", "lab/@")


@pytest.mark.parametrize(
    ("cmdline", "why"),
    [
        ("root=UUID=1 ro rootflags=subvol=@ quiet", None),
        ("root=UUID=1 rootflags=noatime,subvol=/@", None),
        ("root=UUID=1 ro", "no rootflags=subvol="),
        ("rootflags=noatime", "no rootflags=subvol="),
        ("rootflags=subvolid=256", "subvolid"),
        ("rootflags=subvol=@,subvolid=256", "subvolid"),
        ("rootflags=subvol=@old", "subvol=@old"),
        ("rootflags=subvol=@ rootflags=subvol=other", "subvol=other"),
    ],
)
def test_a_boot_that_does_not_go_by_the_roots_path_is_found(cmdline: str, why: str | None) -> None:
    found = btrfs_text.boots_by_path(cmdline, "@")
    assert found is None if why is None else why in (found or "")


def test_mount_points_are_read_with_their_escapes() -> None:
    line = b"29 1 0:26 / /a\\040b rw,noatime - btrfs /dev/sda rw\n30 1 0:1 / /proc rw - proc p rw\n"
    assert btrfs_text.mount_points(line) == {"/a b", "/proc"}

"""LVM's reports are read, and what they mean for a snapshot is decided; no disk is needed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm.snapshots.lvm_text import Group, group, listed
from webfarm.snapshots.model import SnapshotError
from webfarm.snapshots.settings import Snapshots

MIB = 1 << 20


def row(name: str, **more: str) -> dict[str, str]:
    plain = {
        "lv_name": name,
        "lv_uuid": f"uuid-of-{name}",
        "lv_size": str(64 * MIB),
        "origin": "",
        "lv_time": "1795478716",
        "lv_attr": "-wi-a-----",
        "pool_lv": "",
        "lv_merging": "0",
        "lv_snapshot_invalid": "0",
        "lv_tags": "",
        "data_percent": "",
        "metadata_percent": "",
    }
    return {**plain, **more}


def read(*rows: dict[str, str], free: int = 100 * MIB, root: str = "root") -> Group:
    lvs = json.dumps({"report": [{"lv": list(rows)}]})
    vgs = json.dumps({"report": [{"vg": [{"vg_free": str(free), "vg_size": str(400 * MIB)}]}]})
    return group(lvs, vgs, root)


def snapshot(name: str, **more: str) -> dict[str, str]:
    return row(f"webfarm.{name}", **{"origin": "root", "lv_attr": "swi-a-s---", **more})


def rules(**more: Any) -> Snapshots:
    return Snapshots.model_validate({"provider": "lvm", "volume": "vg/root", **more})


def test_our_snapshots_of_the_root_are_found_and_nobody_elses() -> None:
    here = read(
        row("root", lv_attr="owi-aos---"),
        snapshot("b", lv_time="20"),
        snapshot("a", lv_time="10"),
        snapshot("data", origin="data"),
        row("mine", origin="root", lv_attr="swi-a-s---"),
        snapshot("aside-1700000000.1", lv_time="30"),
    )
    assert [one.name for one in listed(here.snapshots)] == ["a", "b"]
    assert [one.name for one in listed(here.aside)] == ["aside-1700000000.1"]
    assert not here.root.thin and here.pool is None and here.merging() is None


def test_a_snapshot_that_becomes_the_root_is_found_though_lvm_hides_it() -> None:
    hidden = snapshot("before", lv_attr="Swi-a-s---", lv_merging="1")
    hidden["lv_name"] = "[webfarm.before]"
    root = row("root", lv_attr="Owi-aos---", lv_merging="1")
    assert read(root, hidden).merging() == "before"


def test_a_full_snapshot_is_not_restored() -> None:
    here = read(row("root"), snapshot("before", lv_attr="swi-I-s---", lv_snapshot_invalid="1"))
    with pytest.raises(SnapshotError, match=r"before is full.*size_percent.*Nothing was changed"):
        here.snapshot("before")
    with pytest.raises(SnapshotError, match="no snapshot other here; there are: before"):
        here.snapshot("other")


@pytest.mark.parametrize(
    ("free", "percent", "ok"), [(13 * MIB, 20, True), (12 * MIB, 20, False), (0, 1, False)]
)
def test_a_thick_snapshot_needs_its_share_of_the_root_free_in_the_group(
    free: int, percent: int, ok: bool
) -> None:
    found = read(row("root"), free=free).space(rules(size_percent=percent))
    assert found["ok"] is ok and bool(found["why"]) is not ok
    assert ok or "a snapshot needs" in found["why"]


@pytest.mark.parametrize(
    ("data", "metadata", "ok"),
    [("10.00", "20.00", True), ("86.00", "1.00", False), ("1.00", "99.00", False)],
)
def test_a_thin_snapshot_needs_room_in_both_parts_of_the_pool(
    data: str, metadata: str, ok: bool
) -> None:
    pool = row("pool", lv_attr="twi-aotz--", data_percent=data, metadata_percent=metadata)
    here = read(row("root", pool_lv="pool", lv_attr="Vwi-aotz--"), pool, free=0)
    assert here.root.thin
    assert here.space(rules())["ok"] is ok


def test_a_root_that_is_not_in_the_group_is_named() -> None:
    with pytest.raises(SnapshotError, match=r"no logical volume other.*webfarm:snapshots:volume"):
        read(row("root"), root="other")


@given(st.text(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_any_other_report_is_refused(text: str) -> None:
    with pytest.raises(SnapshotError, match="something else than expected"):
        group(text, text, "root")


@pytest.mark.parametrize("missing", ["lv_attr", "lv_size", "lv_time", "origin"])
def test_a_report_that_lacks_a_field_is_refused(missing: str) -> None:
    bad = row("root")
    del bad[missing]
    with pytest.raises(SnapshotError, match=missing):
        read(bad)


@pytest.mark.parametrize(
    "volume", ["root", "/dev/vg/root", "vg/-root", "-vg/root", "vg/a/b", "vg/ro ot", "vg/", ""]
)
def test_a_volume_is_a_group_and_a_name(volume: str) -> None:
    with pytest.raises(ValueError, match="volume"):
        rules(volume=volume)


def test_lvm_needs_a_volume() -> None:
    with pytest.raises(ValueError, match="GROUP/NAME"):
        rules(volume=None)

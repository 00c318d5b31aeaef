"""Snapshots on a real btrfs: taken, restored by a boot, expired; a killed call is finished."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from btrfs_world import BtrfsMachine, btrfs, run
from mortal import Mortal, killed
from webfarm.errors import BadName
from webfarm.snapshots.model import SnapshotError
from webfarm.snapshots.tools import Tools

DAY = 86400


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[BtrfsMachine]:
    with btrfs(tmp_path) as device:
        yield BtrfsMachine(tmp_path, device)


def break_it(machine: BtrfsMachine) -> None:
    """What a bad package does; and what went on meanwhile, and must not be forgotten."""
    machine.file("usr/lib/libssl").write_text("broken")
    machine.file("usr/lib/new").write_text("broken")
    machine.file("var/lib/webfarm/holds/site1").write_text("200\n")
    machine.file("var/log/journal/system").write_text("it broke")


def is_good(machine: BtrfsMachine) -> bool:
    return (
        machine.file("usr/lib/libssl").read_text() == "good"
        and not machine.file("usr/lib/new").exists()
    )


def is_preserved(machine: BtrfsMachine) -> bool:
    return (
        machine.file("var/lib/webfarm/holds/site1").read_text() == "200\n"
        and machine.file("var/log/journal/system").read_text() == "it broke"
        and machine.file("etc/salt/pki/minion/minion.pem").read_text() == "key"
        and not list(machine.root.rglob("*.webfarm-carried"))
    )


# -- there and back --------------------------------------------------------------------------------


def test_a_broken_root_is_good_after_the_restore_and_a_boot(machine: BtrfsMachine) -> None:
    here = machine.provider()
    assert here.restored() is None
    taken = here.take("before")
    assert taken["taken"] and abs(taken["at"] - os.stat(machine.node).st_mtime) < 60
    break_it(machine)
    restored = here.restore("before")
    assert (restored["name"], restored["reboot"], restored["left"]) == ("before", True, [])
    assert machine.file("usr/lib/libssl").read_text() == "broken", "it runs until the boot"
    assert (here.restored(), here.waiting()) == (None, "before")
    machine.boot()
    assert is_good(machine) and is_preserved(machine)
    assert (here.restored(), here.waiting()) == ("before", None)
    assert machine.file("usr/lib/new2").write_text("x"), "the restored root can be written"


def test_the_broken_root_is_kept_aside_whole(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    break_it(machine)
    here.restore("before")
    machine.boot()
    (aside,) = here.aside()
    assert (machine.node / f"@.{aside['name']}/usr/lib/libssl").read_text() == "broken"
    assert machine.beside() == ["aside"]


def test_one_snapshot_can_be_restored_again_and_again(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    for _ in range(3):
        break_it(machine)
        here.restore("before")
        machine.boot()
        assert is_good(machine) and is_preserved(machine)
        assert here.restored() == "before"
    assert len(here.aside()) == 3


def test_what_is_preserved_is_carried_again_until_the_boot(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    break_it(machine)
    here.restore("before")
    machine.file("var/lib/webfarm/holds/site1").write_text("300\n")
    assert here.carry() == {
        "carried": ["/var/lib/webfarm/holds", "/etc/salt/pki/minion", "/var/log/journal"],
        "waiting": True,
    }
    machine.boot()
    assert machine.file("var/lib/webfarm/holds/site1").read_text() == "300\n"
    assert here.carry() == {"carried": [], "waiting": False}


def test_a_restore_called_twice_is_one(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    break_it(machine)
    here.restore("before")
    here.restore("before")
    machine.boot()
    assert is_good(machine) and is_preserved(machine)
    assert machine.beside() == ["aside"]


def test_another_snapshot_can_be_chosen_before_the_boot(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("first")
    machine.file("usr/lib/libssl").write_text("second")
    here.take("second")
    break_it(machine)
    here.restore("second")
    here.restore("first")
    assert here.waiting() == "first"
    machine.boot()
    assert is_good(machine) and is_preserved(machine)
    assert here.restored() == "first"


def test_a_root_that_is_read_only_is_restored_too(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    break_it(machine)
    run("btrfs", "property", "set", "-ts", machine.at, "ro", "true")
    here.restore("before")
    machine.boot()
    assert is_good(machine) and is_preserved(machine)


def test_a_folder_that_the_snapshot_lacks_is_carried_with_its_parents(
    machine: BtrfsMachine,
) -> None:
    here = machine.provider(preserve=["/srv/deep/er/state"])
    here.take("before")
    deep = machine.file("srv/deep/er/state")
    deep.mkdir(parents=True)
    os.chmod(deep.parent, 0o711)
    os.chown(deep.parent, 33, 33)
    (deep / "f").write_text("kept")
    here.restore("before")
    machine.boot()
    found = deep.parent.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o711, 33, 33)
    assert (deep / "f").read_text() == "kept"


# -- killed at any step ----------------------------------------------------------------------------


@pytest.mark.parametrize("power_cut", [False, True], ids=["same boot", "power cut"])
def test_a_restore_killed_at_any_step_leaves_a_whole_root_and_is_finished_by_the_same_call(
    machine: BtrfsMachine, power_cut: bool
) -> None:
    machine.provider().take("before")
    deaths = 0
    for after in (False, True):
        for step in range(1, 60):
            break_it(machine)
            asides = len(machine.provider().aside())
            if not killed(machine.provider(Mortal(step, after)).restore, "before"):
                break
            deaths += 1
            whole = machine.at / "usr/lib/libssl"
            assert whole.read_text() in ("good", "broken"), "every moment has a root that boots"
            if power_cut:
                machine.boot()
                assert machine.provider(keep_aside=99).expire()["dropped"] == []
                if is_good(machine):  # it was done, but for the tidying
                    assert is_preserved(machine)
            machine.provider(keep_aside=99).restore("before")
            machine.boot()
            assert is_good(machine) and is_preserved(machine)
            assert machine.provider().restored() == "before"
            assert set(machine.beside()) == {"aside"}
            assert asides < len(machine.provider().aside()) <= asides + 2
            contents = {
                (machine.node / f"@.{one['name']}/usr/lib/libssl").read_text()
                for one in machine.provider().aside()[asides:]
            }
            assert "broken" in contents, "the root that was left is kept"
        else:
            raise AssertionError("the restore never ended")
        machine.boot()
    assert deaths > 20


def test_a_take_killed_at_any_step_is_finished_by_the_same_call(machine: BtrfsMachine) -> None:
    deaths = 0
    for after in (False, True):
        for step in range(1, 20):
            name = f"s{step}.{after:d}"
            if not killed(machine.provider(Mortal(step, after)).take, name):
                break
            deaths += 1
            assert machine.provider().take(name)["taken"]
            assert (machine.node / "snapshots" / name / "usr/lib/libssl").read_text() == "good"
        else:
            raise AssertionError("the take never ended")
    assert deaths >= 4
    assert machine.beside() == []


def test_a_take_of_a_name_that_is_there_leaves_it_as_it_is(machine: BtrfsMachine) -> None:
    here = machine.provider()
    first = here.take("before")
    break_it(machine)
    assert here.take("before") == first
    assert (machine.node / "snapshots/before/usr/lib/libssl").read_text() == "good"


def test_two_at_once_follow_each_other(machine: BtrfsMachine) -> None:
    machine.provider().take("before")
    break_it(machine)
    errors: list[BaseException] = []

    def restore() -> None:
        try:
            machine.provider().restore("before")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=restore) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    machine.boot()
    assert is_good(machine) and is_preserved(machine)
    assert machine.beside() == ["aside"]


# -- what is refused -------------------------------------------------------------------------------


def test_no_hostile_name_reaches_a_command(machine: BtrfsMachine, hostile_name: object) -> None:
    here = machine.provider()
    for function in (here.take, here.restore, here.drop):
        with pytest.raises((BadName, SnapshotError)):
            function(hostile_name)  # type: ignore[operator]
    assert machine.beside() == [] and machine.names() == []


@pytest.mark.parametrize("name", ["aside-1.1", "aside-x", "x" * 49, "x."])
def test_names_that_would_be_mistaken_are_refused(machine: BtrfsMachine, name: str) -> None:
    with pytest.raises(SnapshotError, match="nothing was changed"):
        machine.provider().take(name)
    assert machine.names() == []


def test_without_room_no_snapshot_is_taken(machine: BtrfsMachine) -> None:
    with open(machine.file("big"), "wb") as big:
        big.write(os.urandom(120 << 20))
    run("btrfs", "filesystem", "sync", machine.node)
    here = machine.provider(min_free_percent=60)
    room = here.space()
    assert not room["ok"] and room["free_percent"] < 60 and "60 % must be" in room["why"]
    with pytest.raises(SnapshotError, match=r"must be.*webfarm_snapshot\.expire"):
        here.take("before")
    assert machine.names() == []
    assert machine.provider(min_free_percent=5).space()["ok"]


def test_a_snapshot_that_is_not_there_changes_nothing(machine: BtrfsMachine) -> None:
    machine.provider().take("before")
    with pytest.raises(SnapshotError, match="no snapshot other here; there are: before"):
        machine.provider().restore("other")
    assert machine.provider().waiting() is None
    assert machine.beside() == []


def test_a_folder_or_a_writable_subvolume_is_no_snapshot(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    run("btrfs", "property", "set", "-ts", machine.node / "snapshots/before", "ro", "false")
    with pytest.raises(SnapshotError, match="is not read-only"):
        here.restore("before")
    (machine.node / "snapshots/folder").mkdir()
    os.symlink(machine.node / "snapshots/before", machine.node / "snapshots/link")
    for name in ("folder", "link"):
        with pytest.raises(SnapshotError, match=f"no snapshot {name} here"):
            here.restore(name)
        with pytest.raises(SnapshotError, match=f"no snapshot {name} here"):
            here.take(name)
    assert machine.names() == ["before"]


def test_no_snapshot_while_a_restored_root_waits(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    here.restore("before")
    with pytest.raises(SnapshotError, match="waits for the next boot"):
        here.take("after")


def test_a_machine_that_would_boot_something_else_is_refused(machine: BtrfsMachine) -> None:
    machine.provider().take("before")
    elsewhere = machine.provider(boot=lambda path: f"something boots, not {path}")
    with pytest.raises(SnapshotError, match=r"something boots, not lab/node1/@.*rootflags=subvol="):
        elsewhere.take("other")
    with pytest.raises(SnapshotError, match="rootflags=subvol=lab/node1/@"):
        elsewhere.restore("before")


def test_a_root_that_is_elsewhere_is_refused(machine: BtrfsMachine) -> None:
    run("umount", machine.root)
    run("btrfs", "subvolume", "create", machine.top / "other")
    run("mount", "-o", "subvol=other", machine.device, machine.root)
    for function in (machine.provider().space, machine.provider().expire):
        with pytest.raises(SnapshotError, match="the root that runs is not"):
            function()
    with pytest.raises(SnapshotError, match="is not a btrfs subvolume"):
        machine.provider(mount=str(machine.top)).space()


def test_a_symlink_on_the_way_to_what_is_preserved_is_refused(machine: BtrfsMachine) -> None:
    here = machine.provider()
    here.take("before")
    os.rename(machine.file("var/lib"), machine.file("var/lib2"))
    os.symlink("/etc", machine.file("var/lib"))
    with pytest.raises(SnapshotError, match="passes the symlink"):
        here.take("after")
    with pytest.raises(SnapshotError, match="passes the symlink"):
        here.restore("before")
    assert here.waiting() is None and machine.beside() == []


# -- subvolumes in the root ------------------------------------------------------------------------


def nest(machine: BtrfsMachine, path: str) -> Path:
    machine.file(path).parent.mkdir(parents=True, exist_ok=True)
    run("btrfs", "subvolume", "create", machine.file(path))
    return machine.file(path)


def test_a_subvolume_in_the_root_with_files_is_refused_by_name(machine: BtrfsMachine) -> None:
    here = machine.provider()
    (nest(machine, "srv/data") / "f").write_text("x")
    with pytest.raises(SnapshotError, match=r"/srv/data is a subvolume of its own"):
        here.take("before")
    assert machine.provider(disposable=["/srv"]).take("before")["taken"]


def test_an_empty_one_and_temporary_ones_do_no_harm_and_go_with_the_root(
    machine: BtrfsMachine,
) -> None:
    nest(machine, "var/lib/machines")
    (nest(machine, "tmp/one") / "f").write_text("x")
    nest(machine, "tmp/one/deep/inner")
    here = machine.provider()
    here.take("before")
    break_it(machine)
    assert sorted(here.restore("before")["left"]) == ["tmp/one", "var/lib/machines"]
    machine.boot()
    assert is_good(machine)
    assert machine.provider(keep_aside=0).expire()["dropped"] != []
    assert machine.beside() == []


def test_one_that_is_preserved_is_carried_over(machine: BtrfsMachine) -> None:
    run("rmdir", machine.file("var/log/journal"))
    nest(machine, "var/log/journal")
    here = machine.provider()
    here.take("before")
    break_it(machine)
    here.restore("before")
    machine.boot()
    assert is_good(machine) and is_preserved(machine)


def test_the_name_of_a_subvolume_cannot_lead_out_of_the_root(machine: BtrfsMachine) -> None:
    nest(machine, "srv/a\nID 5 gen 1 top level 5 path lab/node1/@/usr")
    with pytest.raises(SnapshotError, match=r"not understood|not the subvolume"):
        machine.provider().take("before")
    assert machine.names() == []


# -- what goes, and what never does ----------------------------------------------------------------


def test_expire_drops_what_is_too_many_or_too_old_and_never_the_newest_nor_the_origin(
    machine: BtrfsMachine,
) -> None:
    here = machine.provider()
    here.take("a")
    here.restore("a")
    machine.boot()
    for name in ("b", "c", "d"):
        machine.provider().take(name)
    at = machine.provider().snapshots()[-1]["at"]
    assert machine.provider(keep=3).expire()["dropped"] == []
    assert machine.provider(keep=2).expire()["dropped"] == ["b"]
    later = machine.provider(now=lambda: at + 20 * DAY, keep_aside=5)
    assert len(later.expire()["dropped"]) == 2
    assert machine.names() == ["a", "d"]
    assert machine.provider().restored() == "a"
    assert machine.beside() == []


def test_what_the_next_boot_runs_is_never_dropped(machine: BtrfsMachine) -> None:
    machine.provider().take("a")
    for name in ("b", "c"):
        machine.provider().take(name)
    machine.provider().restore("a")
    assert machine.provider(keep=1, keep_aside=0).expire()["dropped"] == ["b"]
    with pytest.raises(SnapshotError, match="next boot will run"):
        machine.provider().drop("a")
    (aside,) = machine.provider().aside()
    with pytest.raises(SnapshotError, match="the root that runs now"):
        machine.provider().drop(aside["name"])
    machine.boot()
    assert machine.provider().drop(aside["name"])["dropped"]
    assert machine.provider().drop("a") == {"name": "a", "dropped": True}
    assert machine.provider().drop("a") == {"name": "a", "dropped": False}


def test_an_orphan_of_a_killed_call_keeps_the_lock_until_it_ends(machine: BtrfsMachine) -> None:
    """Else it would still write into what the next call has just made."""
    tools = Tools()
    here = machine.provider(tools)
    with here._changing():
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(tools.lock,))
    try:
        blocked = threading.Thread(target=machine.provider().take, args=("before",))
        blocked.start()
        blocked.join(1.0)
        assert blocked.is_alive() and not (machine.node / "snapshots/before").exists()
    finally:
        orphan.kill()
        orphan.wait()
    blocked.join(60)
    assert machine.names() == ["before"]

"""A version is installed whole and verified, or it is not there; the symlinks are never missing."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import PATIENCE, wait_for
from versions_world import (
    add_php,
    contents,
    php_tree,
    rsync_daemon,
    write,
)
from webfarm import manifest, transfer
from webfarm.files import Locked
from webfarm.manifest import BadTree
from webfarm.store import Store
from webfarm.transfer import NotInStore, TransferError
from webfarm.trees import Damaged, Links, OtherContent, VersionError
from webfarm.versions import DiskFull, Installed, Reserve, Versions

LIBRARY = Path(__file__).parents[2] / "_utils"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for version in ("8.2.32", "8.2.36"):
        add_php(store, tmp_path / "sources", version, megabytes=4)
    return store


@pytest.fixture
def source(store: Store, tmp_path: Path) -> Iterator[str]:
    with rsync_daemon(tmp_path / "rsync", store.root) as url:
        yield url


@pytest.fixture
def php(tmp_path: Path) -> Versions:
    return Versions("php", tmp_path / "srv", Reserve(0.0, 0))


def leftovers(php: Versions) -> list[str]:
    return sorted(p.name for p in php.trees.iterdir() if p.name.startswith("."))


# -- install -----------------------------------------------------------------------------------


def test_an_installed_tree_is_what_the_store_published(
    php: Versions, store: Store, source: str
) -> None:
    done = php.install("8.2.32", source)
    assert done.result == "installed"
    assert done.digest == store.digest("php", "8.2.32") == php.verify("8.2.32")
    assert php.list() == ["8.2.32"]
    assert leftovers(php) == []
    assert php.links() == Links(None, None)


def test_installed_again_nothing_is_fetched(php: Versions, source: str) -> None:
    digest = php.install("8.2.32", source).digest
    nowhere = "rsync://127.0.0.1:1/webfarm"
    assert php.install("8.2.32", nowhere) == Installed("8.2.32", "present", digest, 0)
    assert php.install("8.2.32", nowhere, digest) == Installed("8.2.32", "present", digest, 0)


def test_unchanged_files_are_shared_between_versions(php: Versions, source: str) -> None:
    first = php.install("8.2.32", source)
    second = php.install("8.2.36", source)
    assert second.bytes < first.bytes * 0.6

    def inodes(path: str) -> set[int]:
        return {(php.trees / version / path).stat().st_ino for version in php.list()}

    assert len(inodes("share/licence")) == len(inodes("share/data/0")) == 1
    assert len(inodes("share/data/1")) == len(inodes("lib/opcache.so")) == 2
    used = subprocess.run(["du", "-sk", php.trees], capture_output=True, text=True, check=True)
    assert int(used.stdout.split()[0]) < 6.5 * 1024  # two trees of 4 MiB, half of it shared


def test_shared_files_are_not_writable(php: Versions, source: str) -> None:
    php.install("8.2.32", source)
    modes = {
        path.stat().st_mode & 0o222
        for path in php.trees.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    assert modes == {0}


def test_modes_do_not_depend_on_the_umask(php: Versions, source: str) -> None:
    before = os.umask(0o077)
    try:
        php.install("8.2.32", source)
    finally:
        os.umask(before)
    for path in (php.root, php.trees, php.trees / "8.2.32", php.trees / "8.2.32/sbin"):
        assert path.stat().st_mode & 0o7777 == 0o755


def test_another_digest_is_refused_before_anything_is_fetched(
    php: Versions, store: Store, source: str
) -> None:
    wrong = "0" * 64
    with pytest.raises(Damaged, match=f"with digest {store.digest('php', '8.2.32')}, {wrong}"):
        php.install("8.2.32", source, wrong)
    assert php.list() == leftovers(php) == []


def test_an_installed_version_of_another_digest_is_refused(php: Versions, source: str) -> None:
    php.install("8.2.32", source)
    with pytest.raises(Damaged, match="one name must mean one content"):
        php.install("8.2.32", source, "0" * 64)


def test_a_version_that_the_store_does_not_have(php: Versions, source: str) -> None:
    with pytest.raises(NotInStore, match=r"php/8.2.99.manifest"):
        php.install("8.2.99", source)
    assert php.list() == leftovers(php) == []


def test_a_store_that_does_not_answer(php: Versions) -> None:
    with pytest.raises(TransferError, match="the connection failed"):
        php.install("8.2.32", "rsync://127.0.0.1:1/webfarm")


@pytest.mark.parametrize(
    "source",
    [
        "",
        None,
        7,
        "/srv/webfarm/store",
        "host:/path",
        "host::webfarm",
        "http://host/webfarm",
        "rsync://host",
        "rsync://host/",
        "rsync://-host/webfarm",
        "rsync://host/web farm",
        "rsync://host/webfarm/../etc",
        "rsync://host/webfarm\n",
        "rsync://user:password@host/webfarm",
        "rsync://host/;id",
        "rsync://" + "x" * 10_000 + "/webfarm",
    ],
)
def test_only_a_plain_rsync_source_is_taken(php: Versions, source: object) -> None:
    with pytest.raises(TransferError, match="nothing was changed"):
        php.install("8.2.32", source)  # type: ignore[arg-type]
    assert not php.root.exists()


def test_the_default_source_takes_both_address_families() -> None:
    assert transfer.default_source("10.77.0.2") == "rsync://10.77.0.2/webfarm"
    assert transfer.default_source("fd00::2") == "rsync://[fd00::2]/webfarm"


# -- corruption --------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    """Change the content and keep size and time, as a bad disk does."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_file_damaged_in_the_store_never_becomes_a_version(
    php: Versions, store: Store, source: str
) -> None:
    corrupt(store.root / "php/8.2.32/lib/opcache.so")
    with pytest.raises(Damaged, match=r"lib/opcache\.so: content differs; nothing was installed"):
        php.install("8.2.32", source)
    assert php.list() == leftovers(php) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "share/licence").unlink(),
        lambda tree: write(tree, "share/extra", "x"),
        lambda tree: (tree / "lib/opcache.so").chmod(0o666),
        lambda tree: (tree / "bin/out").symlink_to("/etc"),
    ],
)
def test_a_tree_that_is_not_the_published_one_never_becomes_a_version(
    php: Versions, store: Store, source: str, change
) -> None:  # type: ignore[no-untyped-def]
    change(store.root / "php/8.2.32")
    with pytest.raises((Damaged, BadTree)):
        php.install("8.2.32", source)
    assert php.list() == []


def test_a_manifest_from_a_hostile_store_is_refused(
    php: Versions, store: Store, source: str
) -> None:
    published = store.root / "php/8.2.32.manifest"
    published.write_text(f"f {'0' * 64} 644 ../../../etc/passwd\n")
    with pytest.raises(manifest.BadManifest, match="line 1"):
        php.install("8.2.32", source)
    published.write_bytes(b"\xff\n")
    with pytest.raises(manifest.BadManifest, match="not UTF-8"):
        php.install("8.2.32", source)
    published.unlink()
    published.symlink_to("/etc/passwd")
    with pytest.raises(TransferError):
        php.install("8.2.32", source)
    assert php.list() == leftovers(php) == []


def test_a_damaged_partial_is_repaired(php: Versions, store: Store, source: str) -> None:
    partial = php.trees / ".partial-8.2.32"
    shutil.copytree(store.root / "php/8.2.32", partial, symlinks=True)
    corrupt(partial / "lib/opcache.so")
    write(partial, "lib/junk", "left by somebody")
    (partial / "share/licence").unlink()
    done = php.install("8.2.32", source)
    assert done.digest == store.digest("php", "8.2.32") == php.verify("8.2.32")


def test_a_damaged_version_is_not_linked_to(php: Versions, store: Store, source: str) -> None:
    php.install("8.2.32", source)
    shared = php.trees / "8.2.32/share/licence"
    corrupt(shared)
    damaged = shared.read_bytes()
    done = php.install("8.2.36", source)
    assert done.digest == store.digest("php", "8.2.36") == php.verify("8.2.36")
    assert shared.read_bytes() == damaged  # the repair was not written through the hard link
    with pytest.raises(Damaged, match="share/licence: content differs"):
        php.verify("8.2.32")


def test_a_changed_version_is_found_by_verify_and_by_install(php: Versions, source: str) -> None:
    php.install("8.2.32", source)
    write(php.trees / "8.2.32", "lib/extra.ini", "changed by hand")
    for call in (lambda: php.verify("8.2.32"), lambda: php.install("8.2.32", source)):
        with pytest.raises(Damaged, match=r"lib/extra\.ini: unexpected"):
            call()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: corrupt(tree / "lib/opcache.so"),
        lambda tree: (tree / "share/licence").unlink(),
        lambda tree: write(tree, "lib/extra.ini", "x"),
        lambda tree: os.truncate(tree / "sbin/php-fpm", 0),  # as a power cut leaves a file
        lambda tree: shutil.rmtree(tree / "bin"),
        lambda tree: (tree / "bin/out").symlink_to("/etc"),
    ],
)
@pytest.mark.parametrize("given", [False, True], ids=["by the record", "by the digest"])
def test_a_damaged_version_is_replaced_when_that_is_asked_for(
    php: Versions,
    store: Store,
    source: str,
    damage,  # type: ignore[no-untyped-def]
    given: bool,
) -> None:
    digest = store.digest("php", "8.2.32")
    wanted = digest if given else None
    php.install("8.2.36", source)
    php.install("8.2.32", source)
    php.activate("8.2.32")
    damage(php.trees / "8.2.32")
    done = php.install("8.2.32", source, wanted, replace=True)
    assert (done.result, done.digest) == ("replaced", digest)
    assert php.verify("8.2.32") == digest
    assert (php.links(), leftovers(php)) == (Links("8.2.32", None), [])
    again = php.install("8.2.32", "rsync://127.0.0.1:1/webfarm", wanted, replace=True)
    assert again == Installed("8.2.32", "present", digest, 0)


def test_a_version_whose_record_is_lost_is_compared_with_the_store(
    php: Versions, store: Store, source: str
) -> None:
    php.install("8.2.32", source)
    for sound in (True, False):
        (php.manifests / "8.2.32.manifest").write_text("torn")
        if not sound:
            corrupt(php.trees / "8.2.32/lib/opcache.so")
        done = php.install("8.2.32", source, replace=True)
        assert done.result == ("present" if sound else "replaced")
        assert php.verify("8.2.32") == store.digest("php", "8.2.32")


def test_nothing_replaces_a_damaged_version_but_a_whole_one(
    php: Versions, store: Store, source: str
) -> None:
    php.install("8.2.32", source)
    os.truncate(php.trees / "8.2.32/sbin/php-fpm", 0)
    before = contents(php.trees / "8.2.32")
    corrupt(store.root / "php/8.2.32/lib/opcache.so")
    with pytest.raises(Damaged, match="is not what it published"):
        php.install("8.2.32", source, replace=True)
    assert contents(php.trees / "8.2.32") == before
    with pytest.raises(Damaged, match="is wanted; nothing was installed"):
        php.install("8.2.32", source, "0" * 64, replace=True)
    with pytest.raises(TransferError):
        php.install("8.2.32", "rsync://127.0.0.1:1/webfarm", replace=True)
    assert contents(php.trees / "8.2.32") == before


def test_another_content_of_the_same_name_is_not_replaced(php: Versions, source: str) -> None:
    php.install("8.2.32", source)
    with pytest.raises(OtherContent, match="one name must mean one content"):
        php.install("8.2.32", source, "0" * 64, replace=True)


def test_killed_between_the_two_trees_the_next_install_finishes(
    php: Versions, store: Store, source: str
) -> None:
    php.install("8.2.32", source)
    php.activate("8.2.32")
    (php.trees / "8.2.32").rename(php.trees / ".removed-8.2.32")
    shutil.copytree(store.root / "php/8.2.32", php.trees / ".partial-8.2.32", symlinks=True)
    assert php.install("8.2.32", source, replace=True).result == "installed"
    assert (php.list(), leftovers(php)) == (["8.2.32"], [])
    assert php.verify("8.2.32") == store.digest("php", "8.2.32")


# -- interruption ------------------------------------------------------------------------------


def installer(php: Versions, source: str, version: str, bwlimit: int) -> subprocess.Popen[bytes]:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from webfarm.versions import Versions, Reserve; "
        "Versions('php', sys.argv[2], Reserve(0.0, 0))"
        ".install(sys.argv[4], sys.argv[3], bwlimit=int(sys.argv[5]))"
    )
    where = [str(LIBRARY), str(php.root.parent), source, version, str(bwlimit)]
    return subprocess.Popen([sys.executable, "-c", program, *where])


def test_an_install_killed_in_the_middle_is_no_version_and_goes_on_later(
    php: Versions, store: Store, source: str
) -> None:
    killed = installer(php, source, "8.2.32", bwlimit=1000)
    partial = php.trees / ".partial-8.2.32"
    wait_for(lambda: (partial / "share/data/1").is_file(), "some files have come")
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE)
    assert php.list() == []
    arrived = (partial / "share/data/0").stat()
    done = php.install("8.2.32", source)  # waits for the orphaned rsync, which holds the lock
    assert done.digest == store.digest("php", "8.2.32")
    assert (php.trees / "8.2.32/share/data/0").stat().st_ino == arrived.st_ino  # not fetched again
    assert leftovers(php) == []


def test_an_orphaned_rsync_keeps_others_from_its_partial(php: Versions, source: str) -> None:
    killed = installer(php, source, "8.2.32", bwlimit=100)
    wait_for(lambda: list(php.trees.glob(".partial-8.2.32/*")), "the transfer runs")
    killed.kill()
    killed.wait(PATIENCE)
    with pytest.raises(Locked, match="still locked by another process"):
        php.install("8.2.32", source, deadline=1)


def test_leftovers_of_other_versions_are_cleaned(php: Versions, source: str) -> None:
    php_tree(php.trees / ".partial-8.2.31", "8.2.31")
    php_tree(php.trees / ".removed-8.2.30", "8.2.30")
    write(php.trees, ".partial-8.2.29.manifest", "cut o")
    assert php.list() == []
    php.install("8.2.32", source)
    assert leftovers(php) == []


def test_the_deadline_ends_a_slow_transfer_and_its_rsync(php: Versions, source: str) -> None:
    start = time.monotonic()
    with pytest.raises(TransferError, match="stopped at its deadline"):
        php.install("8.2.32", source, bwlimit=100, deadline=2)  # 40 s if it were let
    assert time.monotonic() - start < 30
    assert php.list() == []
    running = subprocess.run(["pgrep", "-f", str(php.trees)], capture_output=True, text=True)
    assert running.stdout == ""


def test_concurrent_installs_of_one_version_both_succeed(
    php: Versions, store: Store, source: str
) -> None:
    both = [installer(php, source, "8.2.32", bwlimit=4000) for _ in range(2)]
    assert [one.wait(PATIENCE) for one in both] == [0, 0]
    assert php.verify("8.2.32") == store.digest("php", "8.2.32")
    assert leftovers(php) == []


def test_an_install_waits_for_another_no_longer_than_its_deadline(
    php: Versions, source: str
) -> None:
    slow = installer(php, source, "8.2.32", bwlimit=100)
    wait_for(lambda: (php.trees / ".partial-8.2.32").exists(), "the other install runs")
    with pytest.raises(Locked, match="still locked"):
        php.install("8.2.36", source, deadline=1)
    slow.kill()
    slow.wait(PATIENCE)


# -- a small disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-o", "size=12m,nr_inodes=60"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def test_a_full_disk_is_refused_before_it_is_full(small_disk: Path, source: str) -> None:
    php = Versions("php", small_disk, Reserve(0.0, 9 * 1024 * 1024))
    before = free(small_disk)
    with pytest.raises(DiskFull, match=r"php 8.2.32 needs 4\.\d MiB .* 9\.0 MiB must stay free"):
        php.install("8.2.32", source)
    assert php.list() == []
    assert before - free(small_disk) < 100_000


def test_what_is_shared_with_another_version_needs_no_space(small_disk: Path, source: str) -> None:
    php = Versions("php", small_disk, Reserve(0.0, 5 * 1024 * 1024))
    php.install("8.2.32", source)  # 4 of 12 MiB; the next brings 2 new MiB
    php.install("8.2.36", source)
    assert free(small_disk) > 5 * 1024 * 1024


def test_a_disk_without_inodes_is_refused(small_disk: Path, source: str) -> None:
    php = Versions("php", small_disk, Reserve(0.0, 0))
    write(small_disk, "filler/x", "")
    for number in range(40):
        write(small_disk, f"filler/{number}", "")
    with pytest.raises(DiskFull, match=r"needs \d+ inodes .* has \d+ free"):
        php.install("8.2.32", source)
    assert php.list() == []


def test_the_default_reserve_is_the_larger_of_a_share_and_a_floor(
    small_disk: Path, source: str
) -> None:
    with pytest.raises(DiskFull, match=re.escape("256.0 MiB must stay free")):
        Versions("php", small_disk).install("8.2.32", source)


def test_a_disk_that_fills_up_during_the_transfer_gives_no_version(
    small_disk: Path, store: Store, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Versions, "_check_space", lambda *_: None)
    write(small_disk, "other", b"x" * (10 * 1024 * 1024))
    php = Versions("php", small_disk)
    with pytest.raises(TransferError, match="No space left"):
        php.install("8.2.32", source)
    assert php.list() == []
    (small_disk / "other").unlink()
    assert php.install("8.2.32", source).digest == store.digest("php", "8.2.32")


# -- the symlinks ------------------------------------------------------------------------------


@pytest.fixture
def two(php: Versions) -> Versions:
    """Two versions, without a store."""
    for version in ("8.2.32", "8.2.36"):
        php_tree(php.trees / version, version)
    return php


def test_activating_keeps_the_previous_version(two: Versions) -> None:
    assert two.activate("8.2.32") == Links(None, None)
    assert two.activate("8.2.36") == Links("8.2.32", None)
    assert two.links() == Links("8.2.36", "8.2.32")
    assert os.readlink(two.root / "current") == "versions/8.2.36"
    assert two.rollback_target() == "8.2.32"
    two.activate("8.2.36")
    assert two.links() == Links("8.2.36", "8.2.32")


def test_restored_links_are_as_they_were(two: Versions) -> None:
    nothing = two.activate("8.2.32")
    first = two.activate("8.2.36")
    two.restore(first)
    assert two.links() == Links("8.2.32", None)
    two.restore(nothing)
    assert two.links() == Links(None, None)
    assert not (two.root / "current").is_symlink()


def test_only_an_installed_version_is_activated(two: Versions) -> None:
    php_tree(two.trees / ".partial-8.2.40", "8.2.40")
    with pytest.raises(VersionError, match=r"not installed here; there are: 8.2.32, 8.2.36"):
        two.activate("8.2.40")
    assert two.links() == Links(None, None)


def test_there_is_nothing_to_roll_back_to_at_first(two: Versions) -> None:
    two.activate("8.2.32")
    with pytest.raises(VersionError, match="no previous version"):
        two.rollback_target()


def test_a_link_that_leads_elsewhere_is_no_version(two: Versions) -> None:
    for target in ("/etc", "versions/../../etc", "versions/.partial-8.2.40", "versions"):
        (two.root / "current").symlink_to(target)
        assert two.links().current is None
        (two.root / "current").unlink()


def test_the_link_is_never_missing_and_always_whole_under_a_reader(two: Versions) -> None:
    two.activate("8.2.32")
    stop = threading.Event()
    seen: set[str] = set()
    faults: list[BaseException] = []

    def read() -> None:
        path = two.root / "current/sbin/php-fpm"
        try:
            while not stop.is_set():
                seen.add(path.read_text())
        except BaseException as error:
            faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(300):
        two.activate(("8.2.36", "8.2.32")[turn % 2])
    stop.set()
    for reader in readers:
        reader.join(10)
    assert faults == []
    assert seen == {f"#!/bin/sh\necho fpm {v}\n" for v in ("8.2.32", "8.2.36")}


def test_concurrent_activations_leave_a_pair_of_links_that_one_of_them_made(two: Versions) -> None:
    two.activate("8.2.32")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from webfarm.versions import Versions\n"
        "for _ in range(50): Versions('php', sys.argv[2]).activate(sys.argv[3])"
    )
    command = [sys.executable, "-c", program, str(LIBRARY), str(two.root.parent)]
    both = [subprocess.Popen([*command, version]) for version in ("8.2.32", "8.2.36")]
    assert [one.wait(PATIENCE) for one in both] == [0, 0]
    links = two.links()
    assert {links.current, links.previous} == {"8.2.32", "8.2.36"}


def test_the_active_version_is_never_removed(two: Versions) -> None:
    two.activate("8.2.32")
    for force in (False, True):
        with pytest.raises(VersionError, match="in use"):
            two.remove("8.2.32", force)
    assert two.list() == ["8.2.32", "8.2.36"]


def test_the_previous_version_is_removed_only_by_force(two: Versions) -> None:
    two.activate("8.2.32")
    two.activate("8.2.36")
    with pytest.raises(VersionError, match="force=True"):
        two.remove("8.2.32")
    assert two.remove("8.2.32", force=True) is True
    assert two.links() == Links("8.2.36", None)
    assert two.list() == ["8.2.36"]
    assert two.remove("8.2.32") is False


def test_a_removed_version_can_be_installed_again(php: Versions, source: str) -> None:
    php.install("8.2.32", source)
    assert php.remove("8.2.32") is True
    assert contents(php.manifests) == {}
    assert php.install("8.2.32", source).result == "installed"

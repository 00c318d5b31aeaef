"""The release store publishes whole trees or nothing, and never replaces one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import PATIENCE
from versions_world import add_php, add_webapp, contents, php_tree, webapp_tree, write
from webfarm import manifest
from webfarm.manifest import BadTree
from webfarm.store import Store, StoreError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_version_is_published_with_its_manifest(store: Store, tmp_path: Path) -> None:
    digest = add_php(store, tmp_path, "8.2.32")
    published = store.root / "php/8.2.32.manifest"
    assert manifest.parse(published.read_text()).digest == digest
    assert manifest.of(store.root / "php/8.2.32").digest == digest
    assert store.digest("php", "8.2.32") == digest
    assert store.list() == {"php": {"8.2.32": digest}, "webapp": {}}
    assert store.verify("php", "8.2.32") == []


def test_modes_are_uniform_and_readable_whatever_the_umask_is(store: Store, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        add_php(store, tmp_path, "8.2.32")
    finally:
        os.umask(before)
    tree = store.root / "php/8.2.32"
    assert (tree / "sbin/php-fpm").stat().st_mode & 0o7777 == 0o555
    assert (tree / "lib/opcache.so").stat().st_mode & 0o7777 == 0o444
    folders = [store.root, tree.parent, tree, tree / "lib"]
    assert [folder.stat().st_mode & 0o7777 for folder in folders] == [0o755] * 4
    assert (store.root / "php/8.2.32.manifest").stat().st_mode & 0o7777 == 0o644


def test_the_same_tree_again_is_fine(store: Store, tmp_path: Path) -> None:
    add_php(store, tmp_path, "8.2.32")
    before = contents(store.root)
    assert store.add("php", "8.2.32", tmp_path / "php-8.2.32").result == "present"
    assert contents(store.root) == before


def test_a_published_version_is_never_replaced(store: Store, tmp_path: Path) -> None:
    add_php(store, tmp_path, "8.2.32")
    before = contents(store.root)
    write(tmp_path / "php-8.2.32", "lib/opcache.so", "another build")
    with pytest.raises(StoreError, match=r"lib/opcache.so: content differs.*new version"):
        store.add("php", "8.2.32", tmp_path / "php-8.2.32")
    assert contents(store.root) == before


def test_an_unchanged_file_keeps_its_time_in_the_next_version(store: Store, tmp_path: Path) -> None:
    add_php(store, tmp_path, "8.2.32")
    source = php_tree(tmp_path / "php-8.2.36", "8.2.36")
    for path in ("share/licence", "lib/opcache.so"):
        os.utime(source / path, (1, 1))
    store.add("php", "8.2.36", source)

    def times(path: str) -> list[float]:
        return [(store.root / "php" / v / path).stat().st_mtime for v in ("8.2.32", "8.2.36")]

    assert times("share/licence")[0] == times("share/licence")[1]
    assert times("lib/opcache.so")[1] == 1


def test_damage_is_named(store: Store, tmp_path: Path) -> None:
    add_php(store, tmp_path, "8.2.32")
    damaged = store.root / "php/8.2.32/lib/opcache.so"
    damaged.chmod(0o644)
    damaged.write_text("x")
    (store.root / "php/8.2.32/share/licence").unlink()
    assert store.verify("php", "8.2.32") == [
        "lib/opcache.so: content differs, mode 444, found 644",
        "share/licence: missing",
    ]


def test_a_version_that_is_not_there_is_said_with_those_that_are(
    store: Store, tmp_path: Path
) -> None:
    add_webapp(store, tmp_path, "2")
    with pytest.raises(StoreError, match="no webapp version 3; it has: 2"):
        store.digest("webapp", "3")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("php", "sbin/php-fpm"), ("php", "bin/php"), ("webapp", "public/index.php")],
)
def test_a_tree_that_cannot_work_is_refused(
    store: Store, tmp_path: Path, kind: str, missing: str
) -> None:
    build = php_tree if kind == "php" else webapp_tree
    tree = build(tmp_path / "tree", "1")
    (tree / missing).unlink()
    with pytest.raises(BadTree, match=missing):
        store.add(kind, "1", tree)
    assert not store.root.exists()


def test_a_php_that_is_not_executable_is_refused(store: Store, tmp_path: Path) -> None:
    tree = php_tree(tmp_path / "tree", "1")
    (tree / "bin/php").chmod(0o644)
    with pytest.raises(BadTree, match="bin/php of a php tree must be executable"):
        store.add("php", "1", tree)


def test_a_tree_with_an_escape_is_refused_before_a_byte_is_copied(
    store: Store, tmp_path: Path
) -> None:
    tree = webapp_tree(tmp_path / "tree", "1")
    (tree / "secrets").symlink_to("/etc")
    with pytest.raises(BadTree, match="secrets"):
        store.add("webapp", "1", tree)
    assert not store.root.exists()


def test_removed_from_the_store(store: Store, tmp_path: Path) -> None:
    add_webapp(store, tmp_path, "2")
    assert store.remove("webapp", "2") is True
    assert store.remove("webapp", "2") is False
    assert store.list()["webapp"] == {}
    add_webapp(store, tmp_path, "2")


KILLED = """
import os, shutil, signal, sys
sys.path.insert(0, sys.argv[1])
from webfarm.store import Store
copy, copied = shutil.copyfileobj, 0
def dies(*args):
    global copied
    copied += 1
    if copied == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    copy(*args)
shutil.copyfileobj = dies
Store(sys.argv[2]).add("php", "8.2.36", sys.argv[3])
"""


def test_an_add_that_was_killed_is_not_published_and_can_be_repeated(
    store: Store, tmp_path: Path
) -> None:
    source = php_tree(tmp_path / "tree", "8.2.36", megabytes=8)
    partial = store.root / "php/.partial-8.2.36"
    places = [str(ROOT / "_utils"), str(store.root), str(source)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *places], timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    assert 0 < len(list(partial.glob("share/data/*"))) < 8
    assert store.list()["php"] == {}
    assert store.add("php", "8.2.36", source).result == "added"
    assert store.verify("php", "8.2.36") == []
    assert not partial.exists()


def test_a_tree_without_its_manifest_was_never_published(store: Store, tmp_path: Path) -> None:
    add_webapp(store, tmp_path, "2")
    (store.root / "webapp/2.manifest").unlink()  # as a power cut before the last rename leaves it
    write(store.root, "webapp/2/public/junk", "")
    add_webapp(store, tmp_path, "2")
    assert store.verify("webapp", "2") == []

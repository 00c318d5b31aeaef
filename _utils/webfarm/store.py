"""The release store: a folder of versioned trees with their manifests, served by rsync.

``<root>/<kind>/<version>/`` is a tree and ``<root>/<kind>/<version>.manifest`` its manifest,
written last: a version without one was never published. Nothing that is published is ever replaced.
"""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, manifest, names
from webfarm.errors import BadName, WebfarmError

ROOT = "/srv/webfarm/store"
KINDS = ("php", "webapp")
SUFFIX = ".manifest"
# What each kind's tree must hold: (path, executable)
REQUIRED = {
    "php": (("sbin/php-fpm", True), ("bin/php", True)),
    "webapp": (("public/index.php", False),),
}
_LOCK_SECONDS = 600.0
Lines = list[str]  # in the class, `list` is the method


class StoreError(WebfarmError):
    """The store could not do it; what it has published is unchanged."""


@dataclass(frozen=True)
class Added:
    """The outcome of :meth:`Store.add`: ``result`` is ``added`` or ``present``."""

    kind: str
    version: str
    digest: str
    result: str


def check_kind(value: object) -> str:
    """Return ``value`` when it is ``php`` or ``webapp``."""
    if value not in KINDS:
        names.check(value, "kind")
        raise StoreError(f"there is no kind {value} in the store; it has: {', '.join(KINDS)}")
    assert isinstance(value, str)
    return value


def check_version(value: object) -> str:
    """Return ``value`` when it can be a version.

    ``1.manifest`` cannot: it would be taken for the manifest of ``1``.
    """
    if isinstance(value, (int, float)):
        raise BadName(
            f"version name {value} is a number, expected text: quote it twice for Salt's command"
            f" line, \"'{value}'\"; nothing was changed"
        )
    version = names.check(value, "version")
    if version.endswith(SUFFIX):
        raise BadName(
            f"version name {version} ends in {SUFFIX}, which is kept for manifests; nothing was"
            " changed"
        )
    return version


def check_shape(kind: str, tree: manifest.Manifest) -> None:
    """Raise :class:`manifest.BadTree` when the tree cannot work as a version of its kind."""
    entries = {entry.path: entry for entry in tree.entries}
    for path, executable in REQUIRED[kind]:
        entry = entries.get(path)
        if entry is None or entry.kind == "d":
            raise manifest.BadTree(f"a {kind} tree must have a file {path}, this one has none")
        if executable and entry.kind == "f" and not entry.mode & 0o111:
            raise manifest.BadTree(
                f"{path} of a {kind} tree must be executable, its mode is {entry.mode:o}"
            )


class Store:
    """The store under ``root``."""

    def __init__(self, root: str | Path = ROOT) -> None:
        self.root = Path(root)

    def add(self, kind: str, version: str, path: str | Path) -> Added:
        """Publish a copy of the tree at ``path``.

        Modes become 755 (folders), 555 (executables) and 444, so that servers can share files
        between versions by hard links. A file that a published version has too, at the same path,
        gets that file's time: that is what lets rsync link it.

        Raises :class:`StoreError` when the version exists with another content,
        :class:`manifest.BadTree` for a tree that no server would accept. The same content again is
        fine.
        """
        check_kind(kind)
        check_version(version)
        source = Path(path)
        if not source.is_absolute():
            raise StoreError(f"the tree's path must be absolute, it is {str(path)[:80]!a}")
        tree = manifest.of(source, normalise=True)
        check_shape(kind, tree)
        folder = self.root / kind
        files.make_folder(folder)
        with files.locked(folder / ".lock", _LOCK_SECONDS, f"the {kind} store"):
            if self._is_published(kind, version):
                return self._already(kind, version, tree)
            self._copy(kind, version, source, tree)
        return Added(kind, version, tree.digest, "added")

    def list(self) -> dict[str, dict[str, str]]:
        """The published versions' digests: ``{"php": {"8.2.36": digest}, "webapp": {…}}``."""
        return {
            kind: {
                found.name.removesuffix(SUFFIX): self.digest(kind, found.name.removesuffix(SUFFIX))
                for found in sorted((self.root / kind).glob(f"*{SUFFIX}"))
                if not found.name.startswith(".")
            }
            for kind in KINDS
        }

    def published(self, kind: str, version: str) -> manifest.Manifest:
        """The published manifest of a version."""
        check_kind(kind)
        check_version(version)
        try:
            text = self._manifest_path(kind, version).read_bytes().decode("utf-8")
        except FileNotFoundError:
            known = (
                ", ".join(sorted(p.stem for p in (self.root / kind).glob(f"[!.]*{SUFFIX}")))
                or "none"
            )
            raise StoreError(
                f"the store {self.root} has no {kind} version {version}; it has: {known}; "
                f"publish one with `salt-run store.add {kind} {version} /path/of/the/tree`"
            ) from None
        except UnicodeDecodeError:
            raise manifest.BadManifest(
                f"{self._manifest_path(kind, version)} is not UTF-8: restore it"
            ) from None
        return manifest.parse(text)

    def digest(self, kind: str, version: str) -> str:
        """The digest of a published version."""
        return self.published(kind, version).digest

    def verify(self, kind: str, version: str) -> Lines:
        """Read a whole tree and name what differs from its manifest: nothing when it is sound."""
        published = self.published(kind, version)
        tree = self.root / kind / version
        if not tree.is_dir():
            return [f"{tree}: missing"]
        return manifest.diff(published, manifest.of(tree))

    def remove(self, kind: str, version: str) -> bool:
        """Take a version out of the store; True when there was one.

        Servers keep what they have installed.
        """
        check_kind(kind)
        check_version(version)
        folder = self.root / kind
        if not folder.is_dir():
            return False
        with files.locked(folder / ".lock", _LOCK_SECONDS, f"the {kind} store"):
            existed = self._is_published(kind, version)
            # the manifest first: from here on the version is not published
            self._manifest_path(kind, version).unlink(missing_ok=True)
            files.sync_dir(folder)
            if (folder / version).exists():
                shutil.rmtree(folder / version)
        return existed

    def _manifest_path(self, kind: str, version: str) -> Path:
        return self.root / kind / f"{version}{SUFFIX}"

    def _is_published(self, kind: str, version: str) -> bool:
        return self._manifest_path(kind, version).exists()

    def _already(self, kind: str, version: str, tree: manifest.Manifest) -> Added:
        differences = manifest.diff(self.published(kind, version), tree)
        if differences:
            raise StoreError(
                f"the store has {kind} {version} already, with another content"
                f" ({manifest.summary(differences)}); a published version is never replaced:"
                " publish this tree under a new version"
            )
        return Added(kind, version, tree.digest, "present")

    def _copy(self, kind: str, version: str, source: Path, tree: manifest.Manifest) -> None:
        folder = self.root / kind
        final = folder / version
        partial = folder / f".partial-{version}"
        for leftover in (partial, final):  # of an add that was killed: never published
            if leftover.exists():
                shutil.rmtree(leftover)
        self._check_space(source, tree)
        partial.mkdir(mode=0o755)
        times = _Times(self, kind)
        for entry in tree.entries:
            _copy_entry(source / entry.path, partial / entry.path, entry, times)
        differences = manifest.diff(tree, manifest.of(partial))
        if differences:
            shutil.rmtree(partial)
            raise StoreError(
                f"{source} changed while it was copied ({manifest.summary(differences)}); "
                "add it again when nobody writes to it"
            )
        partial.chmod(0o755)
        files.sync_tree(partial)
        os.rename(partial, final)
        files.sync_dir(folder)
        files.write_atomic(self._manifest_path(kind, version), tree.text)

    def _check_space(self, source: Path, tree: manifest.Manifest) -> None:
        size = sum((source / e.path).lstat().st_size + 4096 for e in tree.entries)
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise StoreError(
                f"{self.root} has {free >> 20} MiB free, {source} needs {size >> 20} MiB; free some"
                " space"
            )


class _Times:
    """The modification times of files in published versions, by content."""

    def __init__(self, store: Store, kind: str) -> None:
        self._known: dict[manifest.Entry, int] = {}
        for version in store.list()[kind]:
            for entry in store.published(kind, version).entries:
                path = store.root / kind / version / entry.path
                if entry.kind == "f" and path.exists():
                    self._known[entry] = path.stat().st_mtime_ns

    def of(self, entry: manifest.Entry, source: Path) -> int:
        """In whole seconds: rsync daemons of different ages do not agree on fractions."""
        known = self._known.get(entry, source.stat().st_mtime_ns)
        return known // 1_000_000_000 * 1_000_000_000


def _copy_entry(source: Path, target: Path, entry: manifest.Entry, times: _Times) -> None:
    if entry.kind == "l":
        os.symlink(entry.value, target)
        return
    if entry.kind == "d":
        target.mkdir(mode=0o755)
        target.chmod(0o755)
        return
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with open(reader, "rb") as original, open(target, "xb") as copy:
        if not stat.S_ISREG(os.fstat(original.fileno()).st_mode):
            raise StoreError(
                f"{source} changed while it was copied; add it again when nobody writes to it"
            )
        shutil.copyfileobj(original, copy, 1024 * 1024)
        os.fchmod(copy.fileno(), entry.mode)
    moment = times.of(entry, source)
    os.utime(target, ns=(moment, moment))

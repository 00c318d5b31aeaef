"""Versioned trees on a web server: install them from the store, and say which one is in use.

Under ``<root>/<kind>/``: ``versions/<v>/`` are complete, verified trees; ``versions/.partial-<v>/``
one that is being fetched; ``manifests/<v>.manifest`` what each tree was when it was installed;
``current`` and ``previous`` are symlinks to ``versions/<v>``, only ever replaced by rename(2).
"""

import builtins
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, manifest, names, releases
from webfarm.errors import WebfarmError
from webfarm.store import SUFFIX, check_kind, check_shape, check_version
from webfarm.transfer import Rsync, check_source

ROOT = "/srv/webfarm"
INSTALL_SECONDS = 900.0
_LINK_SECONDS = 30.0
_LINK_TO = 4  # rsync takes up to 20 trees to link to; each one costs a look-up per file
_BLOCK = 4096


class VersionError(WebfarmError):
    """A version could not be installed, activated or removed; what is in use was not changed."""


class Damaged(VersionError):
    """A tree is not what it must be; the message names the files."""


class DiskFull(VersionError):
    """The version would not leave the reserve free."""


@dataclass(frozen=True)
class Reserve:
    """What must stay free on the disk: the larger of a share of its size and a number of bytes."""

    share: float = 0.05
    floor: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class Installed:
    """The outcome of an install: ``result`` is ``installed`` or ``present``."""

    version: str
    result: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Links:
    """The versions that the symlinks ``current`` and ``previous`` name."""

    current: str | None
    previous: str | None


class Versions:
    """The versions of one kind (``php`` or ``webapp``) on this server."""

    def __init__(self, kind: str, root: str | Path = ROOT, reserve: Reserve | None = None) -> None:
        self.kind = check_kind(kind)
        self.root = Path(root) / kind
        self.trees = self.root / "versions"
        self.manifests = self.root / "manifests"
        self.reserve = reserve or Reserve()

    # ---------------------------------------------------------------- what is there

    def list(self) -> builtins.list[str]:
        """The complete versions, oldest name first."""
        if not self.trees.is_dir():
            return []
        found = [
            item.name
            for item in os.scandir(self.trees)
            if names.problem(item.name) is None and item.is_dir(follow_symlinks=False)
        ]
        return sorted(found, key=releases.order_key)

    def links(self) -> Links:
        """What ``current`` and ``previous`` name now."""
        return Links(self._linked("current"), self._linked("previous"))

    def tree(self, version: str) -> Path:
        """The folder of an installed version; raises :class:`VersionError` when there is none."""
        check_version(version)
        if version not in self.list():
            raise VersionError(
                f"{self.kind} {version} is not installed here; there are:"
                f" {', '.join(self.list()) or 'none'}; install it first"
            )
        return self.trees / version

    def verify(self, version: str, digest: str | None = None) -> str:
        """Read a whole tree and return its digest; raises :class:`Damaged` naming what differs.

        digest
            What the tree must be; default: what it was when it was installed.
        """
        wanted = None if digest is None else manifest.check_digest(digest)
        seen = manifest.of(self.tree(version))
        record = self._record(version)
        if record is None and wanted is None:
            raise Damaged(
                f"there is no record of what {self.kind} {version} was when it was installed"
                f" ({self.manifests / (version + SUFFIX)} is missing); install it again"
            )
        if record is not None and record.digest != seen.digest:
            raise Damaged(
                f"{self.kind} {version} was changed after it was installed:"
                f" {manifest.summary(manifest.diff(record, seen))}; remove it (activate another"
                " version before, when it is in use) and install it again"
            )
        if wanted is not None and wanted != seen.digest:
            raise Damaged(
                f"{self.kind} {version} is installed with digest {seen.digest}, {wanted} is wanted;"
                " one name must mean one content: use a new version"
            )
        return seen.digest

    # ---------------------------------------------------------------- install and remove

    def install(
        self,
        version: str,
        source: str,
        digest: str | None = None,
        bwlimit: int = 0,
        deadline: float = INSTALL_SECONDS,
    ) -> Installed:
        """Fetch a version, verify all of it, and only then give it its name.

        source
            The store: ``rsync://HOST[:PORT]/MODULE``.
        digest
            What the tree must be; default: what the store published.
        bwlimit
            KiB per second, 0 for no limit.
        deadline
            Seconds for everything, the wait for another install included.

        A version that is there already is verified and left as it is.
        """
        check_version(version)
        check_source(source)
        if digest is not None:
            manifest.check_digest(digest)
        if isinstance(bwlimit, bool) or not isinstance(bwlimit, int) or bwlimit < 0:
            raise VersionError(f"bwlimit {bwlimit!a} must be a number of KiB per second, 0 or more")
        end = time.monotonic() + deadline
        for folder in (self.trees, self.manifests):
            files.make_folder(folder)
        lock = self.root / ".install.lock"
        with files.locked(lock, deadline, f"installing {self.kind} {version}") as descriptor:
            if version in self.list() and (digest or self._record(version)):
                return Installed(version, "present", self.verify(version, digest), 0)
            store = Rsync(source, end, bwlimit, (descriptor,))
            published = self._published(store, version, digest)
            if version in self.list():
                self._write_record(version, published)
                return Installed(version, "present", self.verify(version, digest), 0)
            self._clean(version)
            return self._fetch(store, version, published)

    def remove(self, version: str, force: bool = False) -> bool:
        """Delete a version; True when there was one.

        force
            Also when it is ``previous``, that is, what a rollback would go back to.
        """
        check_version(version)
        if not self.root.is_dir():
            return False
        with files.locked(self._link_lock(), _LINK_SECONDS, f"removing {self.kind} {version}"):
            links = self.links()
            if version == links.current:
                raise VersionError(
                    f"{self.kind} {version} is in use; activate another version before removing it"
                )
            if version == links.previous:
                if not force:
                    raise VersionError(
                        f"{self.kind} {version} is what a rollback would go back to; remove it with"
                        " force=True"
                    )
                (self.root / "previous").unlink()
            existed = version in self.list()
            if existed:
                doomed = self.trees / f".removed-{version}"
                shutil.rmtree(doomed, ignore_errors=True)
                os.rename(self.trees / version, doomed)
                files.sync_dir(self.trees)
                shutil.rmtree(doomed, ignore_errors=True)  # the next install deletes what is left
            (self.manifests / f"{version}{SUFFIX}").unlink(missing_ok=True)
            return existed

    # ---------------------------------------------------------------- the symlinks

    def activate(self, version: str) -> Links:
        """Point ``current`` at a version and ``previous`` at what it named; returns what was.

        What runs does not change by this: see :mod:`webfarm.switch`.
        """
        self.tree(version)
        with files.locked(self._link_lock(), _LINK_SECONDS, f"activating {self.kind} {version}"):
            self.tree(version)  # again: a removal may have come first
            before = self.links()
            if before.current != version:
                # in this order a kill in between leaves a `previous` that is merely not useful
                if before.current is not None:
                    self._link("previous", before.current)
                self._link("current", version)
            return before

    def restore(self, links: Links) -> None:
        """Put both symlinks back to what :meth:`activate` returned."""
        with files.locked(self._link_lock(), _LINK_SECONDS, f"restoring {self.kind}"):
            for name, version in (("current", links.current), ("previous", links.previous)):
                if version is None:
                    (self.root / name).unlink(missing_ok=True)
                else:
                    self._link(name, version)

    def rollback_target(self) -> str:
        """The version that a rollback goes to; raises :class:`VersionError` when there is none."""
        links = self.links()
        if links.previous is None or links.previous == links.current:
            raise VersionError(f"there is no previous version of {self.kind} to go back to")
        self.tree(links.previous)
        return links.previous

    # ---------------------------------------------------------------- inside

    def _linked(self, name: str) -> str | None:
        try:
            target = os.readlink(self.root / name)
        except (FileNotFoundError, OSError):
            return None
        path = os.path.normpath(self.root / target)
        version = os.path.basename(path)
        is_ours = os.path.dirname(path) == str(self.trees) and names.problem(version) is None
        return version if is_ours else None

    def _link(self, name: str, version: str) -> None:
        files.replace_link(self.root / name, f"versions/{version}")

    def _link_lock(self) -> Path:
        return self.root / ".links.lock"

    def _record(self, version: str) -> manifest.Manifest | None:
        path = self.manifests / f"{version}{SUFFIX}"
        try:
            return manifest.parse(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError, manifest.BadManifest):
            return None

    def _write_record(self, version: str, tree: manifest.Manifest) -> None:
        files.write_atomic(self.manifests / f"{version}{SUFFIX}", tree.text)

    def _published(self, store: Rsync, version: str, digest: str | None) -> manifest.Manifest:
        """The store's manifest; one of another digest is refused before anything is fetched."""
        path = self.trees / f".partial-{version}{SUFFIX}"
        try:
            store.fetch_file(f"{self.kind}/{version}{SUFFIX}", path)
            published = manifest.parse(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            raise manifest.BadManifest(
                f"the manifest of {self.kind} {version} in {store.source} is not UTF-8"
            ) from None
        finally:
            path.unlink(missing_ok=True)
        if digest is not None and published.digest != digest:
            raise Damaged(
                f"{store.source} publishes {self.kind} {version} with digest {published.digest},"
                f" {digest} is wanted; nothing was installed"
            )
        check_shape(self.kind, published)
        return published

    def _clean(self, keep: str) -> None:
        """Delete what killed installs and removals of other versions have left."""
        wanted = {f".partial-{keep}"}
        for item in self.trees.iterdir():
            if item.name.startswith((".partial-", ".removed-")) and item.name not in wanted:
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item, ignore_errors=True)  # a removal may be at it as well
                else:
                    item.unlink()

    def _fetch(self, store: Rsync, version: str, published: manifest.Manifest) -> Installed:
        partial = self.trees / f".partial-{version}"
        partial.mkdir(mode=0o755, exist_ok=True)
        path, link_to = f"{self.kind}/{version}", self._link_candidates()
        self._check_space(store, version, path, partial, link_to)
        total = store.fetch_tree(path, partial, link_to)
        differences = manifest.diff(published, manifest.of(partial))
        if differences:
            # A file here had the right size and time but another content: fetch by content.
            total += store.fetch_tree(path, partial, link_to, compare_content=True)
            differences = manifest.diff(published, manifest.of(partial))
        if differences:
            shutil.rmtree(partial)
            raise Damaged(
                f"{self.kind} {version} in {store.source} is not what it published:"
                f" {manifest.summary(differences)}; nothing was installed; look at the store with"
                f" `salt-run store.verify {self.kind} {version}`"
            )
        partial.chmod(0o755)
        files.sync_tree(partial)
        self._write_record(version, published)
        os.rename(partial, self.trees / version)
        files.sync_dir(self.trees)
        return Installed(version, "installed", published.digest, total)

    def _link_candidates(self) -> builtins.list[Path]:
        links = self.links()
        order = [links.current, links.previous, *reversed(self.list())]
        unique = dict.fromkeys(v for v in order if v is not None and v in self.list())
        return [self.trees / version for version in builtins.list(unique)[:_LINK_TO]]

    def _check_space(
        self, store: Rsync, version: str, path: str, partial: Path, link_to: builtins.list[Path]
    ) -> None:
        size = store.size(path, partial, link_to)
        disk = os.statvfs(self.trees)
        needed = size.content + size.entries * _BLOCK
        reserve = max(int(self.reserve.share * disk.f_blocks * disk.f_frsize), self.reserve.floor)
        free = disk.f_bavail * disk.f_frsize
        if needed + reserve > free:
            raise DiskFull(
                f"{self.kind} {version} needs {_mib(needed)} on the disk of {self.trees}, which has"
                f" {_mib(free)} free, of which {_mib(reserve)} must stay free; nothing was"
                f" installed. Remove a version ({', '.join(self.list()) or 'there is none'}) or"
                " make room"
            )
        inodes = int(self.reserve.share * disk.f_files)
        # a file system without a fixed number of inodes says 0
        if disk.f_files and size.entries + inodes > disk.f_favail:
            raise DiskFull(
                f"{self.kind} {version} needs {size.entries} inodes on the disk of {self.trees},"
                f" which has {disk.f_favail} free, of which {inodes} must stay free; nothing was"
                " installed"
            )


def _mib(size: int) -> str:
    return f"{size / 1048576:.1f} MiB"

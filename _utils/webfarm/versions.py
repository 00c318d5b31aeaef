"""Install versioned trees from the release store onto a web server, whole or not at all.

``<root>/<kind>/versions/.partial-<v>/`` is a tree that is being fetched; see :mod:`webfarm.trees`
for the others.
"""

import builtins
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, manifest
from webfarm.store import SUFFIX, check_shape, check_version
from webfarm.transfer import Rsync, check_source
from webfarm.trees import LINK_SECONDS, ROOT, Damaged, OtherContent, Trees, VersionError

INSTALL_SECONDS = 900.0
_LINK_TO = 4  # rsync takes up to 20 trees to link to; each one costs a look-up per file
_BLOCK = 4096


class DiskFull(VersionError):
    """The version would not leave the reserve free."""


@dataclass(frozen=True)
class Reserve:
    """What must stay free on the disk: the larger of a share of its size and a number of bytes."""

    share: float = 0.05
    floor: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class Installed:
    """The outcome of an install: ``result`` is ``installed``, ``present`` or ``replaced``."""

    version: str
    result: str
    digest: str
    bytes: int


class Versions(Trees):
    """The versions of one kind (``php`` or ``webapp``) on this server."""

    def __init__(self, kind: str, root: str | Path = ROOT, reserve: Reserve | None = None) -> None:
        super().__init__(kind, root)
        self.reserve = reserve or Reserve()

    def install(
        self,
        version: str,
        source: str,
        digest: str | None = None,
        bwlimit: int = 0,
        deadline: float = INSTALL_SECONDS,
        replace: bool = False,
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
        replace
            Put a whole tree in the place of one that is damaged, as after a power cut; that one
            stays until the other is complete and verified.

        A version that is there already is verified and left as it is; a damaged one is an error.
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
            if version in self.list() and (digest or self.record(version)):
                present = self._present(version, digest, replace)
                if present:
                    return present
            store = Rsync(source, end, bwlimit, (descriptor,))
            published = self._published(store, version, digest)
            if version in self.list() and self.record(version) is None:
                self.write_record(version, published)
                present = self._present(version, digest, replace)
                if present:
                    return present
            self._clean(version)
            return self._fetch(store, version, published)

    def _present(self, version: str, digest: str | None, replace: bool) -> Installed | None:
        """A version that is there and whole; None for one that is to be replaced."""
        try:
            return Installed(version, "present", self.verify(version, digest), 0)
        except OtherContent:
            raise
        except (Damaged, manifest.BadTree, OSError):
            if not replace:
                raise
        return None

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
        path, link_to = f"{self.kind}/{version}", self._link_candidates(version)
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
        self.write_record(version, published)
        result = "replaced" if version in self.list() else "installed"
        with files.locked(self.link_lock(), LINK_SECONDS, f"replacing {self.kind} {version}"):
            doomed = self.set_aside(version) if result == "replaced" else None
            os.rename(partial, self.trees / version)
            files.sync_dir(self.trees)
        if doomed:
            shutil.rmtree(doomed, ignore_errors=True)
        return Installed(version, result, published.digest, total)

    def _link_candidates(self, wanted: str) -> builtins.list[Path]:
        links = self.links()
        others = [version for version in self.list() if version != wanted]
        order = [links.current, links.previous, *reversed(others)]
        unique = dict.fromkeys(version for version in order if version in others)
        return [self.trees / str(version) for version in builtins.list(unique)[:_LINK_TO]]

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

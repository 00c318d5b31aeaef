"""The versioned trees on a web server: which are there, whether they are whole, which is in use.

Under ``<root>/<kind>/``: ``versions/<v>/`` are complete, verified trees; ``manifests/<v>.manifest``
what each was when it was installed; ``current`` and ``previous`` are symlinks to ``versions/<v>``,
only ever replaced by rename(2).
"""

import builtins
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, manifest, names, releases
from webfarm.errors import WebfarmError
from webfarm.store import SUFFIX, check_kind, check_version

ROOT = "/srv/webfarm"
LINK_SECONDS = 30.0


class VersionError(WebfarmError):
    """A version could not be installed, activated or removed; what is in use was not changed."""


class Damaged(VersionError):
    """A tree is not what it must be; the message names the files."""


class OtherContent(Damaged):
    """A tree is what it was when it was installed, and that is not what is wanted."""


@dataclass(frozen=True)
class Links:
    """The versions that the symlinks ``current`` and ``previous`` name."""

    current: str | None
    previous: str | None


class Trees:
    """The trees of one kind (``php`` or ``webapp``) on this server."""

    def __init__(self, kind: str, root: str | Path = ROOT) -> None:
        self.kind = check_kind(kind)
        self.root = Path(root) / kind
        self.trees = self.root / "versions"
        self.manifests = self.root / "manifests"

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
        record = self.record(version)
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
            kind = Damaged if record is None else OtherContent
            raise kind(
                f"{self.kind} {version} is installed with digest {seen.digest}, {wanted} is wanted;"
                " one name must mean one content: use a new version"
            )
        return seen.digest

    def remove(self, version: str, force: bool = False) -> bool:
        """Delete a version; True when there was one.

        force
            Also when it is ``previous``, that is, what a rollback would go back to.
        """
        check_version(version)
        if not self.root.is_dir():
            return False
        with files.locked(self.link_lock(), LINK_SECONDS, f"removing {self.kind} {version}"):
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
                doomed = self.set_aside(version)
                files.sync_dir(self.trees)
                shutil.rmtree(doomed, ignore_errors=True)
            (self.manifests / f"{version}{SUFFIX}").unlink(missing_ok=True)
            return existed

    # ---------------------------------------------------------------- the symlinks

    def activate(self, version: str) -> Links:
        """Point ``current`` at a version and ``previous`` at what it named; returns what was.

        What runs does not change by this: see :mod:`webfarm.switch`.
        """
        self.tree(version)
        with files.locked(self.link_lock(), LINK_SECONDS, f"activating {self.kind} {version}"):
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
        with files.locked(self.link_lock(), LINK_SECONDS, f"restoring {self.kind}"):
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

    # ---------------------------------------------------------------- for what installs trees

    def record(self, version: str) -> manifest.Manifest | None:
        """What a tree was when it was installed; None when nobody knows."""
        path = self.manifests / f"{version}{SUFFIX}"
        try:
            return manifest.parse(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, UnicodeDecodeError, manifest.BadManifest):
            return None

    def write_record(self, version: str, tree: manifest.Manifest) -> None:
        """Note what a tree is when it is installed."""
        files.write_atomic(self.manifests / f"{version}{SUFFIX}", tree.text)

    def set_aside(self, version: str) -> Path:
        """Take a tree's name away; the next install deletes what is left of it."""
        doomed = self.trees / f".removed-{version}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(self.trees / version, doomed)
        return doomed

    def link_lock(self) -> Path:
        """What a change of the names of trees and symlinks is made under."""
        return self.root / ".links.lock"

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

"""Where a btrfs has the root, its snapshots and the roots put aside; nothing is changed here."""

import os
from pathlib import Path

from webfarm import names
from webfarm.snapshots import carry, model
from webfarm.snapshots.btrfs_text import Subvolume, below, show
from webfarm.snapshots.model import Snapshot, SnapshotError
from webfarm.snapshots.settings import Snapshots, covers
from webfarm.snapshots.tools import Tools

_SUBVOLUME_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the root folder of every subvolume


class Place:
    """The folder ``mount`` of the settings, with all that a machine's root ever was.

    root
        Where the running root is seen.
    """

    def __init__(self, settings: Snapshots, tools: Tools, root: Path) -> None:
        self._settings = settings
        self._tools = tools
        self._root = root
        self.mount = Path(settings.mount)
        self.at = self.mount / settings.subvolume
        self.next = self.beside("next")
        self.intent = self.mount / ".restoring"
        self.folder = self.mount / "snapshots"

    def layout(self) -> None:
        """Raise :class:`SnapshotError` when the disk is not laid out as described above."""
        for path, good in ((self.mount, self.mount.is_dir()), (self.at, _is_root(self.at))):
            if not good or path.is_symlink():
                raise SnapshotError(
                    f"{path} is not {'a folder' if path == self.mount else 'a btrfs subvolume'}:"
                    " mount there the folder of the btrfs that has the root's subvolume"
                    f" {self._settings.subvolume}, see docs/snapshots.md. Nothing was changed"
                )
        self.running()

    def running(self) -> Path:
        """Where the running root is in ``mount``."""
        places = [self.at, self.next, *(self.beside(one) for one in self.names_aside())]
        for place in places:
            if self.runs(place):
                return place
        raise SnapshotError(
            f"the root that runs is not {self.at}, nor a root put aside in {self.mount}: is this"
            " the btrfs that was booted? see docs/snapshots.md. Nothing was changed"
        )

    def runs(self, place: Path) -> bool:
        """Each subvolume has a device number of its own."""
        return _is_root(place) and os.stat(place).st_dev == os.stat(self._root).st_dev

    def snapshot(self, name: str) -> Subvolume:
        """The snapshot ``name``; raises :class:`SnapshotError` when there is none to trust."""
        place = self.folder / name
        if not _is_root(place):
            known = ", ".join(one.name for one in self.all()) or "none"
            raise SnapshotError(
                f"there is no snapshot {name} here; there are: {known}. Nothing was changed"
            )
        found = self.show(place)
        if not found.readonly:
            raise SnapshotError(
                f"{place} is not read-only, so nobody knows what it is by now; delete it with"
                f" `btrfs subvolume delete {place}`. Nothing was changed"
            )
        return found

    def came_from(self, root: Subvolume) -> str | None:
        """The snapshot that ``root`` was made of."""
        for one in self.all():
            if root.parent and self.show(self.folder / one.name).uuid == root.parent:
                return one.name
        return None

    def all(self) -> list[Snapshot]:
        """The snapshots, oldest first."""
        if not self.folder.is_dir() or self.folder.is_symlink():
            return []
        found = [
            Snapshot(one, self.show(self.folder / one).at)
            for one in os.listdir(self.folder)
            if names.problem(one) is None and _is_root(self.folder / one)
        ]
        return sorted(found, key=lambda one: (one.at, one.name))

    def names_aside(self) -> list[str]:
        prefix = self.beside("").name
        found = [one for one in os.listdir(self.mount) if one.startswith(prefix)]
        asides = [one.removeprefix(prefix) for one in found]
        return [one for one in asides if model.aside_at(one) is not None]

    def all_aside(self) -> list[Snapshot]:
        found = [
            Snapshot(one, model.aside_at(one) or 0)
            for one in self.names_aside()
            if _is_root(self.beside(one))
        ]
        return sorted(found, key=lambda one: (one.at, one.name))

    def beside(self, name: str) -> Path:
        return self.mount / f"{self._settings.subvolume}.{name}"

    def show(self, place: Path) -> Subvolume:
        return show(self._tools.ask(["btrfs", "subvolume", "show", "--", str(place)]))

    def nested(self, place: Path) -> list[str]:
        """The subvolumes right in ``place``, as paths below it."""
        text = self._tools.ask(["btrfs", "subvolume", "list", "-o", "--", str(place)])
        return below(text, self.show(place).path)

    def refuse_nested(self) -> None:
        """A snapshot has an empty folder where the root has another subvolume."""
        harmless = [*self._settings.preserve, *self._settings.disposable]
        for inner in self.nested(self.at):
            if any(covers(one, f"/{inner}") for one in harmless):
                continue
            if os.listdir(real_folder(self.at, inner)):
                raise SnapshotError(
                    f"/{ascii(inner)[1:-1][:200]} is a subvolume of its own in the root, so it"
                    " would not be in the snapshot: mount it from outside of the root, name it in"
                    " webfarm:snapshots:preserve, or in webfarm:snapshots:disposable if a restore"
                    " may empty it. Nothing was changed"
                )


def _is_root(place: Path) -> bool:
    """The root folder of a subvolume; not a symlink to one."""
    try:
        found = os.lstat(place)
        outside = os.lstat(place.parent)
    except OSError:
        return False
    return found.st_ino == _SUBVOLUME_INODE and found.st_dev != outside.st_dev


def real_folder(root: Path, inner: str) -> Path:
    """The subvolume ``inner`` below ``root``, and nothing that a symlink leads to."""
    place = carry.inside(root, inner)
    if not _is_root(place):
        raise SnapshotError(f"{place} is not the subvolume that btrfs names; nothing was changed")
    return place

"""Snapshots of a root that is a btrfs subvolume, found at boot by its path.

In the folder ``mount``, which is on the same btrfs: ``@`` is the root, ``snapshots/NAME`` are
read-only snapshots of it, ``@.aside-AT.N`` are the roots that a restore has replaced. A restore
prepares a writable snapshot as ``@.next`` and exchanges it with ``@`` by one renameat2(2), so that
every moment has a whole root at ``@``. The file ``.restoring`` has the uuid of the root that is
left, until that root has its name: so whoever comes after a killed call knows which one
``@.next`` is.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from webfarm import files
from webfarm.snapshots import carry, model
from webfarm.snapshots.btrfs_place import Place, real_folder
from webfarm.snapshots.btrfs_text import Subvolume, boots_by_path, mount_points
from webfarm.snapshots.model import SnapshotError
from webfarm.snapshots.settings import Snapshots
from webfarm.snapshots.tools import Tools

LOCK_SECONDS = 60.0


def boot_problem(path: str) -> str | None:
    """Why this machine would not boot what is at ``path``; a container boots its folder."""
    container = ("/run/systemd/container", "/run/host/container-manager")
    if any(os.path.exists(mark) for mark in container):
        return None
    return boots_by_path(Path("/proc/cmdline").read_text(encoding="utf-8"), path)


class Btrfs:
    """The provider ``btrfs``.

    root
        Where the running root is seen.
    boot
        Says why what is at a path below the filesystem's top would not be booted; or None.
    """

    def __init__(
        self,
        settings: Snapshots,
        tools: Tools | None = None,
        root: Path = Path("/"),
        boot: Callable[[str], str | None] = boot_problem,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._tools = tools or Tools()
        self._boot = boot
        self._now = now
        self._here = Place(settings, self._tools, root)

    # ---------------------------------------------------------------- what is there

    def space(self) -> dict[str, Any]:
        self._here.layout()
        room = os.statvfs(self._here.mount)
        free, whole = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
        return model.judge_space("btrfs", free, whole, self._settings)

    def snapshots(self) -> list[dict[str, Any]]:
        self._here.layout()
        return [one.plain() for one in self._here.all()]

    def aside(self) -> list[dict[str, Any]]:
        self._here.layout()
        return [one.plain() for one in self._here.all_aside()]

    def restored(self) -> str | None:
        self._here.layout()
        return self._here.came_from(self._here.show(self._here.running()))

    def waiting(self) -> str | None:
        self._here.layout()
        here = self._here
        return None if here.runs(here.at) else here.came_from(here.show(here.at))

    # ---------------------------------------------------------------- changes

    def take(self, name: str) -> dict[str, Any]:
        model.check_new_name(name)
        with self._changing():
            place = self._here.folder / name
            if os.path.lexists(place):
                return {"name": name, "taken": True, "at": self._here.snapshot(name).at}
            self._must_run(f"{name} cannot be taken")
            self._must_boot(f"{name} cannot be taken")
            why = self.space()["why"]
            if why:
                raise SnapshotError(f"snapshot {name}: {why}. Nothing was changed")
            carry.check(self._here.at, self._settings.preserve)
            self._here.refuse_nested()
            self._tools.make(self._here.folder, 0o700)
            # one transaction of btrfs: it is there and whole, or not
            self._tools.run(
                ["btrfs", "subvolume", "snapshot", "-r", "--", str(self._here.at), str(place)]
            )
            self._sync()
            return {"name": name, "taken": True, "at": self._here.snapshot(name).at}

    def restore(self, name: str) -> dict[str, Any]:
        model.check_name(name)
        with self._changing():
            wanted = self._here.snapshot(name)
            self._must_boot(f"{name} cannot be restored")
            carry.check(self._here.running(), self._settings.preserve)
            root = self._here.show(self._here.at)
            if self._here.runs(self._here.at) or root.parent != wanted.uuid:
                carried = self._exchange(name, root)
            else:
                carried = self._carry()
            return {
                "name": name,
                "reboot": True,
                "carried": carried,
                "left": self._here.nested(self._here.running()),
            }

    def carry(self) -> dict[str, Any]:
        with self._changing():
            waits = not self._here.runs(self._here.at)
            return {"carried": self._carry() if waits else [], "waiting": waits}

    def drop(self, name: str) -> dict[str, Any]:
        model.check_name(name)
        with self._changing():
            is_aside = model.aside_at(name) is not None
            place = self._here.beside(name) if is_aside else self._here.folder / name
            if not os.path.lexists(place):
                return {"name": name, "dropped": False}
            if self._here.runs(place):
                raise SnapshotError(
                    f"{name} is the root that runs now; reboot first. Nothing was dropped"
                )
            if not is_aside and not self._here.runs(self._here.at):
                found = self._here.show(self._here.at).parent == self._here.snapshot(name).uuid
                if found:
                    raise SnapshotError(
                        f"{name} is what the next boot will run; reboot first. Nothing was dropped"
                    )
            self._delete(place)
            return {"name": name, "dropped": True}

    def expire(self) -> dict[str, Any]:
        with self._changing():
            now, rules = self._now(), self._settings
            needed = [
                self._here.came_from(self._here.show(path))
                for path in (self._here.running(), self._here.at)
            ]
            old = model.expired(self._here.all(), rules, now, needed)
            running = [
                one.name
                for one in self._here.all_aside()
                if self._here.runs(self._here.beside(one.name))
            ]
            aside = model.expired_aside(self._here.all_aside(), rules, now, running)
            for place in [
                *(self._here.folder / name for name in old),
                *(self._here.beside(name) for name in aside),
            ]:
                self._delete(place)
            return {"dropped": [*old, *aside]}

    # ---------------------------------------------------------------- steps

    def _exchange(self, name: str, root: Subvolume) -> list[str]:
        """Put a writable snapshot of ``name`` where the next boot looks, ``root`` aside."""
        self._tools.write(self._here.intent, f"{root.uuid}\n")
        self._tools.run(
            [
                *("btrfs", "subvolume", "snapshot", "--"),
                *(str(self._here.folder / name), str(self._here.next)),
            ]
        )
        kept = self._settings.preserve
        carried = carry.carry(self._here.running(), self._here.next, kept, self._tools)
        self._sync()
        self._tools.exchange(self._here.next, self._here.at)
        self._finish()
        return carried

    def _finish(self) -> None:
        """End a restore that was killed: the root that was left gets its name; a half goes."""
        here = self._here
        if os.path.lexists(here.next):
            left = here.intent.read_text(encoding="ascii") if here.intent.exists() else ""
            if here.runs(here.next) or here.show(here.next).uuid == left.strip():
                name = model.aside_name(int(self._now()), here.names_aside())
                self._tools.rename(here.next, here.beside(name))
            else:
                self._delete(here.next)
        if here.intent.exists():
            self._sync()
            self._tools.remove(here.intent)
        carry.tidy(here.at, self._settings.preserve, self._tools)

    def _carry(self) -> list[str]:
        """What the running root has now goes into the one that waits for the next boot."""
        done = carry.carry(
            self._here.running(), self._here.at, self._settings.preserve, self._tools
        )
        self._sync()
        return done

    def _delete(self, place: Path) -> None:
        """Delete a subvolume and, before it, those in it."""
        for inner in self._here.nested(place):
            self._delete(real_folder(place, inner))
        self._tools.run(["btrfs", "subvolume", "delete", "--commit-after", "--", str(place)])

    def _sync(self) -> None:
        self._tools.run(["btrfs", "filesystem", "sync", str(self._here.mount)])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._here.layout()
        path = self._here.mount / ".webfarm.lock"
        with files.locked(path, LOCK_SECONDS, "a change of the snapshots") as lock:
            self._tools.lock = lock
            try:
                self._finish()
                yield
            finally:
                self._tools.lock = None

    def _must_run(self, what: str) -> None:
        if not self._here.runs(self._here.at):
            raise SnapshotError(
                f"{what}: {self._here.at} waits for the next boot, another root runs; reboot first."
                " Nothing was changed"
            )

    def _must_boot(self, what: str) -> None:
        if str(self._here.at) in mount_points(Path("/proc/self/mountinfo").read_bytes()):
            raise SnapshotError(
                f"{what}: {self._here.at} is a mount point, so it cannot be renamed: mount"
                f" {self._here.mount} without what is mounted below it (systemd-nspawn:"
                " --bind=…:norbind). Nothing was changed"
            )
        path = self._here.show(self._here.at).path
        why = self._boot(path)
        if why:
            raise SnapshotError(
                f"{what}: {self._here.at} would not be what the next boot runs: {why}; set"
                f" rootflags=subvol={path}, see docs/snapshots.md. Nothing was changed"
            )

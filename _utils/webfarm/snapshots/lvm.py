"""Snapshots of a root that is a logical volume, thick or thin.

``webfarm.NAME`` in the root's volume group are the snapshots. A restore writes what is preserved
into the snapshot and has LVM merge it: as the root is in use, LVM does that when the root is next
activated, at boot. The root keeps its name, and the snapshot is used up. Of a thin root
``webfarm.aside-AT.N`` is a snapshot of what was left; of a thick one nothing is kept.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from webfarm import files, names
from webfarm.snapshots import carry, model
from webfarm.snapshots.btrfs_text import mount_points
from webfarm.snapshots.lvm_text import FIELDS, PREFIX, REPORT, Group, Volume, group, listed
from webfarm.snapshots.model import SnapshotError
from webfarm.snapshots.settings import Snapshots
from webfarm.snapshots.tools import Tools

LOCK_SECONDS = 60.0
MARK = ".webfarm-restored"  # in the root: the name of the snapshot that it came from
STATE = Path("/run/webfarm-snapshots")


class Lvm:
    """The provider ``lvm``.

    root
        Where the running root is seen.
    state
        A folder for the lock and for the mount of a snapshot that is prepared.
    """

    def __init__(
        self,
        settings: Snapshots,
        tools: Tools | None = None,
        root: Path = Path("/"),
        state: Path = STATE,
        now: Callable[[], float] = time.time,
    ) -> None:
        assert settings.volume is not None
        self._settings = settings
        self._tools = tools or Tools()
        self._root = root
        self._state = state
        self._now = now
        self._group, self._name = settings.volume.split("/")
        self._prepared = state / "root"

    # ---------------------------------------------------------------- what is there

    def space(self) -> dict[str, Any]:
        return self._look().space(self._settings)

    def snapshots(self) -> list[dict[str, Any]]:
        return [one.plain() for one in listed(self._look().snapshots)]

    def aside(self) -> list[dict[str, Any]]:
        return [one.plain() for one in listed(self._look().aside)]

    def restored(self) -> str | None:
        mark = self._root / MARK
        if mark.is_symlink() or not mark.is_file():
            return None
        text = mark.read_bytes()[:200].decode("ascii", "replace").split("\n")[0]
        return text if names.problem(text) is None else None

    def waiting(self) -> str | None:
        merging = self._look().merging()
        return None if merging == self.restored() else merging

    # ---------------------------------------------------------------- changes

    def take(self, name: str) -> dict[str, Any]:
        model.check_new_name(name)
        with self._changing():
            here = self._look()
            found = here.snapshots.get(name)
            if found is not None and not found.thin and not found.active and not found.merging:
                self._remove(name)  # a killed call: it was never begun to be kept
                here, found = self._look(), None
            if found is None:
                self._must_not_merge(here, name)
                why = here.space(self._settings)["why"]
                if why:
                    raise SnapshotError(f"snapshot {name}: {why}. Nothing was changed")
                carry.check(self._root, self._settings.preserve)
                self._create(name, here.root)
            return {"name": name, "taken": True, "at": self._look().snapshot(name).at}

    def restore(self, name: str) -> dict[str, Any]:
        model.check_name(name)
        with self._changing():
            here = self._look()
            if here.merging() == name:
                return {"name": name, "reboot": True, "carried": []}
            wanted = here.snapshot(name)
            self._must_not_merge(here, name)
            carry.check(self._root, self._settings.preserve)
            if wanted.thin:
                self._put_aside(here, wanted)
            carried = self._prepare(name, wanted)
            self._tools.run(["lvconvert", "--yes", "--merge", self._path(name)])
            return {"name": name, "reboot": True, "carried": carried}

    def carry(self) -> dict[str, Any]:
        """LVM hides a snapshot that is to be merged: what it has is what ``restore`` gave it."""
        return {"carried": [], "waiting": self.waiting() is not None}

    def drop(self, name: str) -> dict[str, Any]:
        model.check_name(name)
        with self._changing():
            here = self._look()
            if name not in {**here.snapshots, **here.aside}:
                return {"name": name, "dropped": False}
            if here.merging() == name:
                raise SnapshotError(
                    f"{name} is becoming the root; reboot first, or wait until `lvs` no longer"
                    " shows it. Nothing was dropped"
                )
            self._remove(name)
            return {"name": name, "dropped": True}

    def expire(self) -> dict[str, Any]:
        with self._changing():
            here, now = self._look(), self._now()
            kept = [here.merging(), self.restored()]
            old = model.expired(listed(here.snapshots), self._settings, now, kept)
            aside = model.expired_aside(listed(here.aside), self._settings, now, [])
            for name in [*old, *aside]:
                self._remove(name)
            return {"dropped": [*old, *aside]}

    # ---------------------------------------------------------------- steps

    def _create(self, name: str, root: Volume, *more: str) -> None:
        room = () if root.thin else ("--extents", f"{self._settings.size_percent}%ORIGIN")
        # a thin one is made without being activated, since two filesystems of one uuid confuse
        thin = ("--setactivationskip", "y") if root.thin else ()
        volume = f"{self._group}/{self._name}"
        command = ["lvcreate", "--yes", "--snapshot", "--name", f"{PREFIX}{name}"]
        self._tools.run([*command, *room, *thin, *more, volume])

    def _put_aside(self, here: Group, wanted: Volume) -> None:
        """Keep the root that is left; one that a killed call has put aside is too old."""
        tag = f"webfarm.left.{wanted.uuid}"
        for name, one in here.aside.items():
            if tag in one.tags:
                self._remove(name)
        name = model.aside_name(int(self._now()), list(here.aside))
        self._create(name, here.root, "--addtag", tag)

    def _prepare(self, name: str, wanted: Volume) -> list[str]:
        """Write what is preserved, and where it comes from, into the snapshot."""
        device = os.stat(self._root).st_dev
        own = [
            path
            for path in self._settings.preserve
            if (place := carry.inside(self._root, path)).exists()
            and place.stat().st_dev == device  # another filesystem does not go back
        ]
        if wanted.thin:
            activate = ["lvchange", "--activate", "y", "--ignoreactivationskip"]
            self._tools.run([*activate, self._path(name)])
        options = "rw,nosuid,nodev,noexec"
        if self._filesystem() == "xfs":
            options += ",nouuid"
        self._tools.make(self._prepared, 0o700)
        device_file = f"/dev/{self._group}/{PREFIX}{name}"
        self._tools.run(["mount", "-o", options, "--", device_file, str(self._prepared)])
        try:
            carried = carry.carry(self._root, self._prepared, own, self._tools)
            self._tools.write(self._prepared / MARK, f"{name}\n")
        finally:
            self._tools.run(["umount", "--", str(self._prepared)])
        if wanted.thin:
            self._tools.run(["lvchange", "--activate", "n", self._path(name)])
        return carried

    def _remove(self, name: str) -> None:
        self._tools.run(["lvremove", "--yes", self._path(name)])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._tools.make(self._state, 0o700)
        with files.locked(self._state / "lock", LOCK_SECONDS, "a change of the snapshots") as lock:
            self._tools.lock = lock
            try:
                if str(self._prepared) in mount_points(Path("/proc/self/mountinfo").read_bytes()):
                    self._tools.run(["umount", "--", str(self._prepared)])  # of a killed call
                yield
            finally:
                self._tools.lock = None

    # ---------------------------------------------------------------- looks

    def _path(self, name: str) -> str:
        return f"{self._group}/{PREFIX}{name}"

    def _look(self) -> Group:
        try:
            device = os.stat(f"/dev/{self._group}/{self._name}").st_rdev
        except OSError:
            device = None
        if device != os.stat(self._root).st_dev:
            raise SnapshotError(
                f"the root that runs is not /dev/{self._group}/{self._name}: correct"
                " webfarm:snapshots:volume, see docs/snapshots.md. Nothing was changed"
            )
        seconds = ("--config", 'report{time_format="%s"}')
        lvs = self._tools.ask(["lvs", "-a", *REPORT, *seconds, "-o", FIELDS, self._group])
        vgs = self._tools.ask(["vgs", *REPORT, "-o", "vg_free,vg_size", self._group])
        return group(lvs, vgs, self._name)

    def _filesystem(self) -> str:
        """The type of the running root's filesystem, see proc(5)."""
        device = os.stat(self._root).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            words = line.split()
            if words[2] == number and "-" in words:
                return words[words.index("-") + 1]
        return ""

    def _must_not_merge(self, here: Group, name: str) -> None:
        other = here.merging()
        if other is not None:
            raise SnapshotError(
                f"{name}: snapshot {other} is to become the root, or is becoming it; reboot first,"
                " or wait until `lvs` no longer shows it. Nothing was changed"
            )

"""The machine below the services: pressure and disks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESOURCES = ("cpu", "memory", "io")
PRESSURE_SECONDS = 2.0  # the kernel renews its averages every two seconds
DISK_SECONDS = 1.0
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc/pressure")
CONTAINER = Path("/run/systemd/container")
_MIB = 1024 * 1024

Psi = dict[str, float | None]


def avg10(text: str) -> float:
    """``some avg10`` of a pressure file, 0 to 100; raises ValueError."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["some"]:
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name == "avg10":
                    return min(max(float(value), 0.0), 100.0)
    raise ValueError("no `some avg10`")


class Pressure:
    """Reads PSI (Linux, Documentation/accounting/psi.rst) every two seconds.

    The machine's own control group comes first. In a container, that is, where systemd has written
    the file ``container``, ``/proc/pressure`` speaks of the whole host and is not read. A resource
    without a pressure file is None.
    """

    def __init__(
        self, cgroup: Path = CGROUP, proc: Path = PROC, container: Path = CONTAINER
    ) -> None:
        self.psi: Psi = dict.fromkeys(RESOURCES)
        self._places = [{name: cgroup / f"{name}.pressure" for name in RESOURCES}]
        if not container.exists():
            self._places.append({name: proc / name for name in RESOURCES})

    def look(self) -> float:
        """Read them all; returns the seconds to wait until the next look."""
        self.psi = {name: self._of(name) for name in RESOURCES}
        return PRESSURE_SECONDS

    def _of(self, resource: str) -> float | None:
        for place in self._places:
            try:
                return avg10(place[resource].read_text())
            except (OSError, ValueError):
                continue
        return None


@dataclass(frozen=True)
class Disk:
    """One file system. ``free``: share of its bytes that are left for a service, 0 to 1."""

    free: float
    free_bytes: int
    inodes_left: bool
    read_only: bool


def disk(path: str) -> Disk:
    """The file system that ``path`` is in; raises OSError. A dead disk may make this hang."""
    found = os.statvfs(path)
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    return Disk(
        free=min(max(found.f_bavail / usable, 0.0), 1.0) if usable > 0 else 0.0,
        free_bytes=found.f_bavail * found.f_frsize,
        # some file systems (btrfs) do not count inodes
        inodes_left=found.f_files == 0 or found.f_favail > 0,
        read_only=bool(found.f_flag & os.ST_RDONLY),
    )


class Disks:
    """Looks once a second at the file systems that a web server must be able to write to.

    ``full``
        One has fewer than ``full_mib`` MiB or no inode left for a service; not any longer when all
        have twice as much.
    ``read_only``
        One cannot be written to, as the kernel does after errors of the disk.
    ``free``
        The least free share; None when none of the paths is there.
    """

    def __init__(self, paths: Sequence[str], full_mib: int) -> None:
        self.full = False
        self.read_only = False
        self.free: float | None = None
        self._paths = paths
        self._full_bytes = full_mib * _MIB

    def look(self) -> float:
        """Ask them all; returns the seconds to wait until the next look."""
        found = []
        for path in self._paths:
            try:
                found.append(disk(path))
            except OSError:  # a path that this server does not have
                continue
        needed = self._full_bytes * (2 if self.full else 1)
        self.full = any(one.free_bytes < needed or not one.inodes_left for one in found)
        self.read_only = any(one.read_only for one in found)
        self.free = min((one.free for one in found), default=None)
        return DISK_SECONDS

"""The machine below the services: pressure and disks."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESOURCES = ("cpu", "memory", "io")
PRESSURE_SECONDS = 0.5
LATELY_LOOKS = 2
LATELY_SECONDS = 1.5  # a look that came late does not tell of the last second
LEAST_WANTED = 0.01  # seconds of CPU: less says nothing
DISK_SECONDS = 1.0
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc/pressure")
CONTAINER = Path("/run/systemd/container")
_MIB = 1024 * 1024

Psi = dict[str, float | None]


def total(text: str) -> float:
    """Seconds of ``some`` in a pressure file, ever; raises ValueError."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["some"]:
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name == "total":
                    return int(value) / 1e6
    raise ValueError("no `some … total`")


class RunDelay:
    """How long php-fpm's children ran, and how long they waited for a CPU: seconds, ever.

    From ``/proc/PID/schedstat`` (Linux, Documentation/scheduler/sched-stats.rst), which counts
    within a container too, and also the time in which a quota holds a process up.

    listener
        The process id of php-fpm's master, 0 while it is unknown.
    """

    def __init__(self, listener: Callable[[], int], proc: Path = Path("/proc")) -> None:
        self.ran = self.waited = 0.0
        self._listener = listener
        self._proc = proc
        self._known: dict[str, tuple[int, int]] = {}
        self._master = 0

    def look(self) -> bool:
        """Add what is new; whether there was anything to see."""
        master = self._listener()
        try:
            children = (self._proc / f"{master}/task/{master}/children").read_text().split()
        except OSError:
            self._master = 0
            return False
        found: dict[str, tuple[int, int]] = {}
        for child in children:
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                ran, waited, _ = map(int, (self._proc / child / "schedstat").read_text().split())
                found[child] = ran, waited
        if master == self._master:
            for child, (ran, waited) in found.items():
                before = self._known.get(child, (0, 0))
                self.ran += max(0, ran - before[0]) / 1e9
                self.waited += max(0, waited - before[1]) / 1e9
        self._known, self._master = found, master
        return True


@dataclass(frozen=True)
class Stalls:
    """What the kernel has counted until a moment, in seconds; None: unknown."""

    at: float
    totals: Mapping[str, float | None]
    ran: float | None = None
    waited: float = 0.0

    def since(self, before: "Stalls") -> Psi:
        """The shares of the time from ``before``, in percent."""
        seconds = self.at - before.at
        psi: Psi = {}
        for name in RESOURCES:
            now, then = self.totals.get(name), before.totals.get(name)
            known = now is not None and then is not None and seconds > 0
            psi[name] = _percent(now - then, seconds) if known else None  # type: ignore[operator]
        if self.totals.get("cpu") is None and self.ran is not None and before.ran is not None:
            waited = self.waited - before.waited
            wanted = self.ran - before.ran + waited
            psi["cpu"] = _percent(waited, wanted) if wanted >= LEAST_WANTED else None
        return psi


def _percent(part: float, whole: float) -> float:
    return round(min(max(100 * part / whole, 0.0), 100.0), 2)


def _greater(one: float | None, other: float | None) -> float | None:
    return max((share for share in (one, other) if share is not None), default=None)


class Pressure:
    """Reads PSI (Linux, Documentation/accounting/psi.rst) twice a second.

    The machine's own control group comes first. In a container, that is, where systemd has written
    the file ``container``, ``/proc/pressure`` speaks of the whole host and is not read. Where there
    is none for the CPU, it is the part of the time for which php-fpm's children waited for one.
    A resource about which nothing is known is None.
    """

    def __init__(
        self,
        delay: RunDelay,
        cgroup: Path = CGROUP,
        proc: Path = PROC,
        container: Path = CONTAINER,
    ) -> None:
        self._delay = delay
        self._places = [{name: cgroup / f"{name}.pressure" for name in RESOURCES}]
        if not container.exists():
            self._places.append({name: proc / name for name in RESOURCES})
        self._begin = Stalls(0.0, {})
        self._seen: tuple[Stalls, ...] = ()  # of the last second; replaced, for threads read it
        self._last: Psi = dict.fromkeys(RESOURCES)

    def look(self) -> float:
        """Read them all; returns the seconds to wait until the next look."""
        totals = {name: self._of(name) for name in RESOURCES}
        at = time.monotonic()
        if totals["cpu"] is None and self._delay.look():
            newest = Stalls(at, totals, self._delay.ran, self._delay.waited)
        else:
            newest = Stalls(at, totals)
        self._seen = (*self._seen[-LATELY_LOOKS:], newest)
        return PRESSURE_SECONDS

    def peek(self) -> Psi:
        """Percent of the time since the last :meth:`take`, or of the last second if that is more.

        A stall that has just begun must not be hidden by the calm before it.
        """
        return self._of_period(self._seen)

    def take(self) -> Psi:
        """The same, and a new period begins with what it tells of."""
        seen = self._seen
        self._last = self._of_period(seen)
        if seen:
            self._begin = seen[-1]
        return self._last

    def _of_period(self, seen: Sequence[Stalls]) -> Psi:
        if not seen or seen[-1].at <= self._begin.at:
            return self._last
        lately, newest = seen[0], seen[-1]
        psi = newest.since(self._begin)
        if newest.at - lately.at > LATELY_SECONDS:
            return psi
        now = newest.since(lately)
        return {name: _greater(psi[name], now[name]) for name in RESOURCES}

    def _of(self, resource: str) -> float | None:
        for place in self._places:
            try:
                return total(place[resource].read_text())
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

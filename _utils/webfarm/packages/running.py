"""Which files the processes of this machine run from: their units, and what is deleted already.

From ``/proc/PID/maps`` and ``/proc/PID/cgroup`` (proc(5)).
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAP = re.compile(r"[0-9a-f]+-[0-9a-f]+ (\S{4}) [0-9a-f]+ \S+ ([0-9]+) +(/.*)")
_DELETED = " (deleted)"
# memory that looks like a file, and files that are deleted as soon as they are open
_NO_PROGRAM = ("/dev/", "/memfd:", "/SYSV", "/tmp/", "/var/tmp/", "/run/", "/proc/")


@dataclass(frozen=True)
class Process:
    """A process and the programs and libraries that it executes.

    unit
        The systemd unit, "" where there is none.
    files
        Paths that are mapped with the right to execute, and its program.
    deleted
        Those that were deleted or replaced since.
    """

    pid: int
    command: str
    unit: str
    files: frozenset[str]
    deleted: frozenset[str]


def processes(proc: Path = Path("/proc")) -> Iterator[Process]:
    """Every process that can be looked at; one that ends meanwhile is left out."""
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                yield _process(folder)


def unit(cgroups: str) -> str:
    """The unit in the text of ``/proc/PID/cgroup``: the innermost service or scope."""
    for line in cgroups.splitlines():
        parts = line.partition(":")[2].partition(":")
        if parts[0] not in ("", "name=systemd"):
            continue
        for name in reversed(parts[2].split("/")):
            if name.endswith((".service", ".scope")):
                return name
    return ""


def mapped(maps: str) -> tuple[frozenset[str], frozenset[str]]:
    """The executable files in the text of ``/proc/PID/maps``: all, and those that are deleted."""
    every, deleted = set(), set()
    for line in maps.splitlines():
        found = _MAP.fullmatch(line)
        if not found or "x" not in found[1] or found[3].startswith(_NO_PROGRAM):
            continue
        path = found[3].removesuffix(_DELETED)
        every.add(path)
        if path != found[3]:
            deleted.add(path)
    return frozenset(every), frozenset(deleted)


def _process(folder: Path) -> Process:
    every, deleted = mapped((folder / "maps").read_text(errors="surrogateescape"))
    with contextlib.suppress(OSError):  # a thread of the kernel has none
        program = os.readlink(folder / "exe")
        if program.startswith("/") and not program.startswith(_NO_PROGRAM):
            every |= {program.removesuffix(_DELETED)}
            if program.endswith(_DELETED):
                deleted |= {program.removesuffix(_DELETED)}
    return Process(
        pid=int(folder.name),
        command=(folder / "comm").read_text(errors="replace").strip(),
        unit=unit((folder / "cgroup").read_text(errors="replace")),
        files=every,
        deleted=deleted,
    )

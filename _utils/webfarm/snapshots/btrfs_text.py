"""Read what the command ``btrfs`` prints; pure."""

import re
from dataclasses import dataclass
from datetime import datetime

from webfarm.snapshots.model import SnapshotError

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_OCTAL = re.compile(rb"\\([0-7]{3})")
_BELOW = re.compile(r"ID [0-9]+ gen [0-9]+ top level [0-9]+ path (.+)", re.ASCII)


@dataclass(frozen=True)
class Subvolume:
    """A subvolume: ``parent`` is the uuid of what it is a snapshot of, ``path`` where it is below
    the filesystem's top, ``at`` when it was made."""

    uuid: str
    parent: str | None
    path: str
    at: int
    readonly: bool


def show(text: str) -> Subvolume:
    """What ``btrfs subvolume show`` printed, in UTC."""
    path, _, rest = text.partition("\n")
    facts: dict[str, str] = {}
    for line in rest.split("\n"):
        key, colon, value = line.strip().partition(":")
        if colon:
            facts.setdefault(key, value.strip())
    uuid, parent = facts.get("UUID", ""), facts.get("Parent UUID", "")
    try:
        at = datetime.strptime(facts.get("Creation time", ""), "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        at = None
    if at is None or not _UUID.fullmatch(uuid) or "Flags" not in facts:
        raise SnapshotError(
            f"`btrfs subvolume show` printed {ascii(text)[:200]}, expected UUID, Creation time and"
            " Flags; nothing was changed"
        )
    return Subvolume(
        uuid=uuid,
        parent=parent if _UUID.fullmatch(parent) else None,
        path=path.strip("/"),
        at=int(at.timestamp()),
        readonly="readonly" in facts["Flags"].split(),
    )


def below(text: str, path: str) -> list[str]:
    """The paths, relative to ``path``, of what ``btrfs subvolume list -o`` printed for it.

    Whoever may write in a root can make a subvolume in it, and gives it its name: names that are
    not plain are refused.
    """
    found = []
    for line in text.split("\n"):
        if not line:
            continue
        matched = _BELOW.fullmatch(line)
        name = matched[1] if matched else line
        if not matched or not name.startswith(f"{path}/") or not name.isprintable():
            raise SnapshotError(
                f"the subvolume {ascii(name)[:200]} in {path} has a name that is not understood;"
                " delete or rename it. Nothing was changed"
            )
        relative = name.removeprefix(f"{path}/")
        if {"", ".", ".."} & set(relative.split("/")):
            raise SnapshotError(f"the subvolume {ascii(name)[:200]} is not in {path}")
        found.append(relative)
    return found


def boots_by_path(cmdline: str, path: str) -> str | None:
    """Why a machine with this kernel command line would not boot what is at ``path``; or None.

    path
        The root's place below the filesystem's top, ``@``.
    """
    flags = [
        flag
        for word in cmdline.split()
        if word.startswith("rootflags=")
        for flag in word.removeprefix("rootflags=").split(",")
    ]
    volumes = [flag.removeprefix("subvol=").strip("/") for flag in flags if "subvol=" in flag]
    if any(flag.startswith("subvolid=") for flag in flags):
        return "the kernel's command line has rootflags=subvolid=…, which is no path"
    if not volumes:
        return "the kernel's command line has no rootflags=subvol=…, so the default one is booted"
    if volumes[-1] != path:
        return f"the kernel's command line has rootflags=subvol={ascii(volumes[-1])[1:-1][:80]}"
    return None


def mount_points(mountinfo: bytes) -> set[str]:
    """The mount points in ``/proc/self/mountinfo``, see proc(5)."""
    found = set()
    for line in mountinfo.split(b"\n"):
        words = line.split(b" ")
        if len(words) > 4:
            plain = _OCTAL.sub(lambda octal: bytes([int(octal[1], 8) & 255]), words[4])
            found.add(plain.decode("utf-8", "surrogateescape"))
    return found

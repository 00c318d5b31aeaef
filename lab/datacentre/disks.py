"""The nodes' disks: one btrfs in a sparse file; a node's root is a snapshot of the base image.

A root is always found by its path DISKS/NODE/@, as a machine's boot loader finds it by
`rootflags=subvol=@`: what the node puts there is what it boots next.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from .places import DISKS, PREFIX, STATE, SUBVOLUME, root
from .terminal import LabError, run

FILE = STATE / "backing" / "disks.btrfs"
BASE = DISKS / ".base"
"""No node's name begins with a dot."""

MOST_GIB = 40
LEAST_GIB = 8
MEMORY_FOR_TMPFS_GIB = 12
MOUNT_OPTIONS = "loop,noatime,discard=async"


def _kernel_can() -> bool:
    systems = Path("/proc/filesystems").read_text().split()
    return "btrfs" in systems and Path("/dev/loop-control").exists()


def make_store(image: Path) -> None:
    """The btrfs, mounted on DISKS, with the base image in it.

    Raises :class:`LabError` where the kernel or the space for it is missing; the caller removes
    what was begun (:func:`remove_store`).
    """
    if not _kernel_can() and shutil.which("modprobe"):
        run(["modprobe", "--all", "--quiet", "btrfs", "loop"], check=False)
    if not _kernel_can():
        raise LabError(
            "this kernel has no btrfs or no loop devices: the nodes' disks need both. "
            "Load them (modprobe btrfs loop), or run the lab on a kernel that has them"
        )
    FILE.parent.mkdir(parents=True, exist_ok=True)
    if _available_gib() > MEMORY_FOR_TMPFS_GIB:
        run(["mount", "-t", "tmpfs", "-o", "size=75%,mode=700", f"{PREFIX}disks", FILE.parent])
    size = min(MOST_GIB, shutil.disk_usage(FILE.parent).free * 9 // 10 // 2**30)
    if size < LEAST_GIB:
        raise LabError(f"{FILE.parent} has room for {size} GiB: the disks need {LEAST_GIB}")
    with FILE.open("wb") as file:
        os.truncate(file.fileno(), size * 2**30)
    run(["mkfs.btrfs", "--quiet", "--metadata", "single", FILE])
    DISKS.mkdir(mode=0o700, exist_ok=True)
    run(["mount", "-t", "btrfs", "-o", MOUNT_OPTIONS, FILE, DISKS])
    DISKS.chmod(0o700)
    run(["btrfs", "subvolume", "create", BASE])
    run(["cp", "-a", f"{image}/.", BASE])


def _available_gib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 2**20
    return 0


def there() -> bool:
    """Whether the store is mounted: a host that was rebooted has lost it."""
    return os.path.ismount(DISKS)


def make(node: str) -> None:
    """A fresh snapshot of the base image, with the machine's identity."""
    root(node).parent.mkdir(mode=0o700)
    run(["btrfs", "subvolume", "snapshot", BASE, root(node)])
    (root(node) / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (root(node) / "etc/hostname").write_text(f"{node}\n")


def inside(node: str) -> list[str]:
    """systemd-nspawn's options: the root by its path, and the folder above it within the node.

    Not with the mounts below it: a root that is a mount point there could not be renamed.
    """
    above = f"{root(node).parent}:{SUBVOLUME['mount']}:norbind"
    return [f"--directory={root(node)}", f"--bind={above}"]


def remove_store() -> None:
    """Unmount all that lies in the lab's state folder, the deepest first, and free its devices.

    Subvolumes go with their file system. Also after a crash: nothing need be whole.
    """
    points = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point = (word.encode().decode("unicode_escape") for word in line.split()[:2])
        if device.startswith(PREFIX) or point.startswith(f"{STATE}/"):
            points.append(point)
    for point in sorted(points, key=len, reverse=True):
        if run(["umount", point], check=False).returncode:
            run(["umount", "-l", point])
    table = run(["losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"])
    for line in table.stdout.splitlines():
        device, _, file = line.partition(" ")
        if file.startswith(f"{STATE}/"):  # its mount freed it already, unless that never came
            run(["losetup", "--detach", device], check=False)

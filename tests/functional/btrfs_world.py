"""A machine whose root is a btrfs subvolume, on a loop device: it can be broken and rebooted."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from webfarm.snapshots.btrfs import Btrfs
from webfarm.snapshots.settings import Snapshots
from webfarm.snapshots.tools import Tools

_CLONE_NEWNS = 0x20000
PRESERVE = ["/var/lib/webfarm/holds", "/etc/salt/pki/minion", "/var/log/journal"]


def run(*command: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class BtrfsMachine:
    """``folder/NODE`` of the btrfs has the subvolume ``@``; ``root`` is where it is booted."""

    def __init__(self, place: Path, device: str) -> None:
        self.top = place / "top"
        self.node = self.top / "lab/node1"
        self.root = place / "root"
        self.device = device
        self.node.mkdir(parents=True)
        self.root.mkdir()
        run("btrfs", "subvolume", "create", self.at)
        for name in ("usr/lib", "var/lib/webfarm/holds", "etc/salt/pki/minion", "var/log/journal"):
            (self.at / name).mkdir(parents=True)
        (self.at / "usr/lib/libssl").write_text("good")
        (self.at / "var/lib/webfarm/holds/site1").write_text("100\n")
        (self.at / "etc/salt/pki/minion/minion.pem").write_text("key")
        self.boot()

    @property
    def at(self) -> Path:
        return self.node / "@"

    def boot(self) -> None:
        """As the kernel does it with rootflags=subvol=lab/node1/@."""
        with contextlib.suppress(AssertionError):
            run("umount", self.root)
        run("mount", "-o", "subvol=lab/node1/@", self.device, self.root)

    def file(self, name: str) -> Path:
        """A file as the running machine sees it."""
        return self.root / name

    def settings(self, **more: object) -> Snapshots:
        given = {"provider": "btrfs", "mount": str(self.node), "preserve": PRESERVE, **more}
        return Snapshots.model_validate(given)

    def provider(
        self,
        tools: Tools | None = None,
        now: Callable[[], float] | None = None,
        boot: Callable[[str], str | None] = lambda path: None,
        **more: object,
    ) -> Btrfs:
        clock = {} if now is None else {"now": now}
        return Btrfs(self.settings(**more), tools, self.root, boot, **clock)

    def names(self) -> list[str]:
        return [one["name"] for one in self.provider().snapshots()]

    def beside(self) -> list[str]:
        """What is in the machine's folder beside the root and the snapshots, without numbers."""
        found = [one.name for one in self.node.iterdir()]
        known = {"@", "snapshots", ".webfarm.lock"}
        return sorted("aside" if "aside" in one else one for one in found if one not in known)


@contextlib.contextmanager
def own_mounts() -> Iterator[None]:
    """Nobody else sees the mounts made meanwhile, so nobody keeps them either: a container that
    starts meanwhile would. They end with this process at the latest.
    """
    folder = os.getcwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    try:
        run("mount", "--make-rprivate", "/")
        yield
    finally:
        assert libc.setns(before, _CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        os.close(before)
        os.chdir(folder)


@contextlib.contextmanager
def btrfs(place: Path, mebibytes: int = 256) -> Iterator[str]:
    """A new btrfs, mounted at ``place/top``; yields its device. All its mounts end with it."""
    image, top = place / "disk", place / "top"
    with open(image, "wb") as disk:
        disk.truncate(mebibytes << 20)
    run("mkfs.btrfs", "--quiet", image)
    top.mkdir()
    with own_mounts():
        device = run("losetup", "--find", "--show", image).strip()
        try:
            run("mount", device, top)
        finally:
            run("losetup", "--detach", device)  # it goes when the last mount goes
        yield device
    image.unlink()

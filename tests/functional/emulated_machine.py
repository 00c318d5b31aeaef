"""A machine in qemu with Debian's kernel, whose files are this machine's own, read-only.

It has what this machine's kernel may lack, device-mapper. Everything is emulated in software.
"""

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

KERNELS = Path("/var/cache/webfarm-tests/kernel")
BOOT_SECONDS = 900  # a busy machine is slow; quiet, a boot of the test takes about a minute
MODULES = (
    *("virtio_pci", "virtio_blk", "9pnet_virtio", "9p", "crc32c_generic", "ext4"),
    *("dm_mod", "dm_snapshot", "dm_thin_pool"),
)
INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host
for folder in proc sys dev; do busybox mount -o bind /$folder /host/$folder; done
busybox mount -t tmpfs run /host/run
busybox mkdir -p /host/run/lock
busybox mount -t tmpfs lvm /host/etc/lvm
busybox cp /lvm.conf /host/etc/lvm/lvm.conf
busybox chroot /host /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run \
    PYTHONDONTWRITEBYTECODE=1 sh -c "$(busybox cat /command)"
busybox echo "GUEST ended with $?"
busybox reboot -f
"""
LVM = """
activation { udev_sync=0 udev_rules=0 monitoring=0 }
backup { backup=0 archive=0 }
devices { use_devicesfile=0 filter=["a|/dev/vd|", "r|.*|"] }
"""


def kernel() -> tuple[Path, list[Path]]:
    """Debian's kernel and the modules in the order of their loading; fetched once, by apt."""
    done = KERNELS / "done"
    if not done.exists():
        shutil.rmtree(KERNELS, ignore_errors=True)
        KERNELS.mkdir(parents=True)
        said = _run("apt-cache", "depends", "linux-image-amd64")
        (package,) = re.findall(r"Depends: (linux-image-[0-9][a-z0-9.+-]*)", said)[:1]
        _run("apt-get", "download", package, where=KERNELS)
        (archive,) = KERNELS.glob("*.deb")
        _unpack(archive)
        archive.unlink()
        done.touch()
    (image,) = KERNELS.glob("vmlinuz-*")
    return image, [KERNELS / name for name in (KERNELS / "order").read_text().split()]


def _unpack(archive: Path) -> None:
    unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    found: dict[str, bytes] = {}
    with unpacked, tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and (name.endswith(".ko") or name.startswith("vmlinuz-")):
                content = tar.extractfile(member)
                assert content is not None
                found[name.replace("-", "_") if name.endswith(".ko") else name] = content.read()
    assert unpacked.returncode == 0
    order = list(dict.fromkeys(one for name in MODULES for one in _with_needed(name, found)))
    for name, content in found.items():
        if name in order or name.startswith("vmlinuz-"):
            (KERNELS / name).write_bytes(content)
    (KERNELS / "order").write_text("\n".join(order))


def _with_needed(module: str, found: dict[str, bytes]) -> Iterator[str]:
    """The files of a module and, before it, of those that it needs."""
    needs = re.search(rb"\0depends=([^\0]*)\0", found[f"{module}.ko"])
    for need in needs[1].decode().split(",") if needs else []:
        if need:
            yield from _with_needed(need.replace("-", "_"), found)
    yield f"{module}.ko"


class EmulatedMachine:
    """``place`` gets its disks of 256 MiB each and its initramfs."""

    def __init__(self, place: Path, disks: int) -> None:
        self.place = place
        self.disks = [place / f"disk{number}" for number in range(disks)]
        for disk in self.disks:
            with open(disk, "wb") as stream:
                stream.truncate(256 << 20)
        self.image, self.modules = kernel()

    def boot(self, command: str) -> str:
        """Run a command of the shell as all that the machine does; what its console said."""
        initramfs = self.place / "initramfs"
        initramfs.write_bytes(self._initramfs(command))
        drives = [f"file={disk},format=raw,if=virtio,cache=unsafe" for disk in self.disks]
        shared = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
        done = subprocess.run(
            [
                *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max"),
                *("-m", "640", "-smp", "2", "-nodefaults", "-no-user-config", "-no-reboot"),
                *("-display", "none", "-serial", "stdio", "-kernel", self.image),
                *("-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1"),
                *(word for drive in drives for word in ("-drive", drive)),
                *("-virtfs", shared),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BOOT_SECONDS,
        )
        return done.stdout.decode("utf-8", "replace")

    def _initramfs(self, command: str) -> bytes:
        busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
        order = "\n".join(path.name for path in self.modules)
        folders = ("bin", "modules", "proc", "sys", "dev", "host")
        entries: list[tuple[str, int, bytes]] = [
            *((folder, 0o040755, b"") for folder in folders),
            ("init", 0o100755, INIT.encode()),
            ("bin/busybox", 0o100755, busybox),
            ("command", 0o100644, command.encode()),
            ("lvm.conf", 0o100644, LVM.encode()),
            ("modules/order", 0o100644, order.encode()),
            *((f"modules/{one.name}", 0o100644, one.read_bytes()) for one in self.modules),
        ]
        return cpio(entries)


def cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format "newc", as Documentation/driver-api/early-userspace says."""
    out = io.BytesIO()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields))
        out.write(name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(content)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def _run(*command: str, where: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=where)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout

"""What runs inside the emulated machine: real LVM, thick and thin, before and after a reboot.

    lvm_guest.py REPOSITORY BOOT

The first boot breaks two roots and asks for the way back, killed at some steps; the second boot
finds them good. The disks are /dev/vda and /dev/vdb; the roots are not this machine's own, but each
is in use when it is restored, as a root is.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(sys.argv[1])
sys.path[:0] = [str(REPOSITORY / "_utils"), str(REPOSITORY / "tests/functional")]

from mortal import Mortal, killed  # noqa: E402
from webfarm.snapshots.lvm import Lvm  # noqa: E402
from webfarm.snapshots.model import SnapshotError  # noqa: E402
from webfarm.snapshots.settings import Snapshots  # noqa: E402
from webfarm.snapshots.tools import Tools  # noqa: E402

KINDS = ("thick", "thin")
HOLDS, LOGS = "var/lib/webfarm/holds", "var/log/journal"


def run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


def say(text: str) -> None:
    print(f"GUEST {time.monotonic():.0f} s: {text}", flush=True)


def root(kind: str) -> Path:
    return Path("/run") / kind


def provider(kind: str, tools: Tools | None = None, **more: object) -> Lvm:
    given = {"provider": "lvm", "volume": f"vg{kind}/root", **more}
    settings = Snapshots.model_validate(given)
    return Lvm(settings, tools, root(kind), Path(f"/run/state-{kind}"))


def refused(act: object, *words: str) -> None:
    try:
        act()  # type: ignore[operator]
    except SnapshotError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"it was not refused: {words}")


def boot(kind: str) -> None:
    """What an initramfs does with root=/dev/vgKIND/root."""
    run(f"lvchange --activate y vg{kind}/root")
    root(kind).mkdir()
    run(f"mount /dev/vg{kind}/root {root(kind)}")


def install(kind: str, disk: str) -> None:
    run(f"vgcreate --quiet vg{kind} {disk}")
    if kind == "thin":
        run("lvcreate --quiet --yes --type thin-pool --size 160M --name pool vgthin")
        run("lvcreate --quiet --yes --virtualsize 64M --thin --name root vgthin/pool")
    else:
        run("lvcreate --quiet --yes --size 128M --name root vgthick")
    run(f"mkfs.ext4 -q /dev/vg{kind}/root")
    boot(kind)
    for folder in ("usr/lib", HOLDS, LOGS, "etc/salt/pki/minion"):
        (root(kind) / folder).mkdir(parents=True)
    (root(kind) / "usr/lib/libssl").write_text("good")
    (root(kind) / HOLDS / "site1").write_text("100\n")
    (root(kind) / "etc/salt/pki/minion/minion.pem").write_text("key")


def first_boot(kind: str) -> None:
    install(kind, "/dev/vda" if kind == "thick" else "/dev/vdb")
    here = provider(kind)
    assert here.space()["ok"], here.space()
    assert (here.restored(), here.waiting(), here.snapshots()) == (None, None, [])
    deaths = 0
    while killed(provider(kind, Mortal(1, bool(deaths))).take, "before"):
        deaths += 1
        assert deaths < 3
    taken = here.take("before")
    assert here.take("before") == taken and abs(taken["at"] - time.time()) < 600
    say(f"{kind}: taken")
    (root(kind) / "usr/lib/libssl").write_text("broken")
    (root(kind) / "usr/lib/new").write_text("broken")
    (root(kind) / HOLDS / "site1").write_text("200\n")
    (root(kind) / LOGS / "system").write_text("it broke")
    refused(lambda: here.restore("other"), "no snapshot other here; there are: before")
    deaths = 0
    for step in (2, 5, 11, 17) if kind == "thick" else (1, 2, 20):
        deaths += killed(provider(kind, Mortal(step, step % 2 == 0)).restore, "before")
    assert deaths >= 2, deaths
    assert here.restore("before")["reboot"]
    assert (root(kind) / "usr/lib/libssl").read_text() == "broken", "it runs until the boot"
    assert (here.restored(), here.waiting()) == (None, "before")
    refused(lambda: here.take("after"), "before is to become the root", "reboot first")
    refused(lambda: here.drop("before"), "reboot first")
    say(f"{kind}: the restore was killed {deaths} times, and waits for the boot")


def second_boot(kind: str) -> None:
    boot(kind)
    here = provider(kind)
    assert (root(kind) / "usr/lib/libssl").read_text() == "good"
    assert not (root(kind) / "usr/lib/new").exists()
    assert (root(kind) / HOLDS / "site1").read_text() == "200\n"
    assert (root(kind) / LOGS / "system").read_text() == "it broke"
    assert (root(kind) / "etc/salt/pki/minion/minion.pem").read_text() == "key"
    assert not list(root(kind).rglob("*.webfarm-carried"))
    assert (here.restored(), here.waiting()) == ("before", None)
    say(f"{kind}: good after the boot")
    end = time.monotonic() + 60
    while here.snapshots():  # a thick one is merged while the root is in use
        assert time.monotonic() < end, run("lvs -a")
        time.sleep(0.5)
    assert here.take("next")["taken"]
    assert [one["name"] for one in here.snapshots()] == ["next"]
    if kind == "thin":
        (aside,) = here.aside()
        run(f"lvchange --activate y --ignoreactivationskip vgthin/webfarm.{aside['name']}")
        Path("/run/aside").mkdir()
        run(f"mount /dev/vgthin/webfarm.{aside['name']} /run/aside")
        assert Path("/run/aside/usr/lib/libssl").read_text() == "broken"
        run("umount /run/aside")
        assert provider(kind, keep_aside=0).expire()["dropped"] == [aside["name"]]
        (root(kind) / "big").write_bytes(os.urandom(32 << 20))
        os.sync()
        refused(lambda: provider(kind, min_free_percent=90).take("more"), "% are free")
    else:
        refused(lambda: provider(kind, size_percent=100).take("more"), "a snapshot needs")
        here.drop("next")
        small = provider(kind, size_percent=1)
        small.take("small")
        (root(kind) / "big").write_bytes(os.urandom(16 << 20))
        os.sync()
        refused(lambda: small.restore("small"), "small is full", "size_percent")
        assert small.drop("small")["dropped"]
        here.take("next")
    assert here.drop("next") == {"name": "next", "dropped": True}
    assert here.drop("next") == {"name": "next", "dropped": False}
    assert here.snapshots() == here.aside() == []
    say(f"{kind}: done")


for one in KINDS:
    (first_boot if sys.argv[2] == "1" else second_boot)(one)
os.sync()
say(f"all done in boot {sys.argv[2]}")

"""The base image: one Debian with everything a node may need, built once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from . import mirror
from .places import CACHE
from .terminal import LabError, phase, run, run_logged

SALT = "salt>=3008.3,<3009"
PORTAGE = "portage>=3.0.83,<3.1"
"""Gentoo's package manager; in a virtual environment it is a prefix of its own, on any system."""

PACKAGES = [
    *("systemd", "systemd-sysv", "dbus", "iproute2", "iputils-ping", "procps", "psmisc", "less"),
    *("python3-minimal", "python3-venv", "python3-distutils", "ca-certificates", "curl"),
    *("openssl", "haproxy", "socat", "nginx-light", "memcached", "rsync", "mariadb-server"),
    *("keepalived", "nftables"),
    # What Debian's PHP packages need; PHP itself comes from the release store.
    *("libmagic1", "media-types", "tzdata", "libacl1", "libapparmor1", "libargon2-1"),
    *("libedit2", "libpcre2-8-0", "libsodium23", "libssl3", "libsystemd0", "libxml2", "zlib1g"),
    *("libffi8", "libmemcached11", "libsasl2-2", "libgcc-s1"),
    "btrfs-progs",  # the nodes take snapshots of their own roots
    # What Portage calls when it builds and unpacks.
    *("bzip2", "xz-utils", "zstd", "patch", "make", "file", "pax-utils", "gnupg"),
]

SERVICES = [
    *("haproxy", "nginx", "memcached", "rsync", "mariadb", "keepalived", "nftables"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap", "fstrim.timer", "remote-fs.target", "getty@tty1"),
]
"""Disabled, not masked: the states enable what a node's role needs."""

MASKED = ["console-getty.service", "systemd-networkd-wait-online.service"]

FILES = {
    "etc/dpkg/dpkg.cfg.d/lab": """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
""",
    "etc/systemd/journald.conf.d/size.conf": "[Journal]\nSystemMaxUse=64M\nRuntimeMaxUse=32M\n",
    "etc/systemd/system/salt-minion.service": """\
[Unit]
Description=The Salt Minion
After=network.target

[Service]
Type=notify
NotifyAccess=all
KillMode=process
LimitNOFILE=8192
ExecStart=/opt/salt/bin/salt-minion
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
""",
    "etc/systemd/system/salt-master.service": """\
[Unit]
Description=The Salt Master
After=network.target

[Service]
Type=notify
NotifyAccess=all
LimitNOFILE=100000
ExecStart=/opt/salt/bin/salt-master
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
""",
}

SALT_WORDS = (
    *("salt", "salt-call", "salt-cp", "salt-key", "salt-master", "salt-minion", "salt-run"),
)
EMERGE = ("ebuild", "emaint", "emerge", "gpkg-sign", "portageq", "quickpkg")

RECIPE = 2
"""Raise it when this file changes what an image holds in a way that the lists above do not show."""


def digest() -> str:
    """What went into the image, as a short name."""
    recipe = [RECIPE, mirror.SUITE, PACKAGES, SERVICES, MASKED, sorted(FILES.items())]
    recipe += [SALT, PORTAGE]
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]


def path() -> Path:
    return CACHE / f"base-{digest()}"


def build() -> Path:
    """The base image's folder; built when it is not there (some minutes), else at once."""
    image = path()
    if image.exists():
        return image
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"base-{digest()}.log"
    partial = CACHE / f"base-{digest()}.partial"
    _remove(partial)
    salt, portage = _wheels(SALT, log), _wheels(PORTAGE, log)
    with phase("base image: debootstrap"):
        address = mirror.mirrors()[mirror.SUITE]
        run_logged(["debootstrap", "--variant=minbase", mirror.SUITE, partial, address], log)
    for name, text in FILES.items():
        file = partial / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    with phase("base image: packages"):
        _packages(partial, log)
    with phase("base image: Salt"):
        _environment(partial, "salt", salt, SALT_WORDS, log)
    with phase("base image: Portage"):
        _environment(partial, "portage", portage, EMERGE, log)
    _clean(partial)
    partial.rename(image)
    for old in CACHE.glob("base-*"):
        if old.is_dir() and old != image and not _mounted(old):
            _remove(old)
    return image


def _wheels(wanted: str, log: Path) -> Path:
    wheels = CACHE / f"wheels-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if not wheels.exists():
        with phase(f"base image: wheels of {wanted}"):
            partial = wheels.with_suffix(".partial")
            _remove(partial)
            python = CACHE / "python"
            if not (python / "bin" / "pip").exists():
                run_logged(["python3", "-m", "venv", python], log)
            run_logged([python / "bin" / "pip", "wheel", "-q", "-w", partial, wanted], log)
            partial.rename(wheels)
    return wheels


def _chroot(root: Path, command: list[str], log: Path) -> None:
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    # /proc lives in a mount namespace of its own, so nothing stays mounted when this is killed.
    inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    run_logged(["unshare", "--mount", "sh", "-c", inside, root, *command], log, env)


def _packages(root: Path, log: Path) -> None:
    (root / "etc/apt/sources.list").write_text(mirror.sources_list())
    proxy = root / "etc/apt/apt.conf.d/00host-proxy"
    proxy.write_text(mirror.proxy_configuration())
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    _chroot(root, ["apt-get", "update", "-q"], log)
    _chroot(root, ["apt-get", "dist-upgrade", "-q", "-y"], log)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES]
    _chroot(root, install, log)
    policy.unlink()
    proxy.unlink()
    for service in SERVICES:
        # Not every service of the list has a unit in every patch level.
        run(["systemctl", "--root", root, "disable", service], check=False)
    run(["systemctl", "--root", root, "mask", *MASKED])
    run(["systemctl", "--root", root, "set-default", "multi-user.target"])


def _environment(root: Path, name: str, wheels: Path, words: tuple[str, ...], log: Path) -> None:
    """A Python environment /opt/NAME with its package from wheels, its commands on the PATH."""
    inside = root / "tmp" / "wheels"
    shutil.copytree(wheels, inside)
    _chroot(root, ["python3", "-m", "venv", f"/opt/{name}"], log)
    offline = ["-q", "--no-index", "--find-links", "/tmp/wheels"]
    _chroot(root, [f"/opt/{name}/bin/pip", "install", *offline, name], log)
    shutil.rmtree(inside)
    for word in words:
        os.symlink(f"/opt/{name}/bin/{word}", root / "usr/local/bin" / word)


def _clean(root: Path) -> None:
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/cache/apt/*.bin"):
        for file in root.glob(pattern):
            file.unlink()
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").unlink(missing_ok=True)


def _mounted(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/mounts").read_text()


def _remove(folder: Path) -> None:
    if folder.exists():
        if _mounted(folder):
            raise LabError(f"{folder} is mounted; run lab/lab down first")
        shutil.rmtree(folder)

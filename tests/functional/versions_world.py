"""A release store served by a real rsync daemon on the loopback, and small trees to publish."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from loopback import NET, free_port, listens, wait_for
from webfarm.store import Store

HOST = f"{NET}.1.2"


@contextlib.contextmanager
def rsync_daemon(home: Path, module_path: Path) -> Iterator[str]:
    """Serve ``module_path`` as the store's module; yields the source URL."""
    port = free_port(HOST)
    home.mkdir(parents=True, exist_ok=True)
    config = home / "rsyncd.conf"
    config.write_text(
        f"address = {HOST}\nport = {port}\nuse chroot = no\nlog file = {home}/rsyncd.log\n"
        f"reverse lookup = no\n[webfarm]\npath = {module_path}\nread only = yes\n"
        "uid = root\ngid = root\n"
    )
    daemon = subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", f"--config={config}"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: listens(HOST, port), "the rsync daemon answers")
        yield f"rsync://{HOST}:{port}/webfarm"
    finally:
        os.killpg(daemon.pid, signal.SIGTERM)  # and its children, who serve orphaned clients
        daemon.wait(10)


def write(root: Path, path: str, content: str | bytes, executable: bool = False) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(0o755 if executable else 0o644)


def php_tree(root: Path, version: str, megabytes: int = 0) -> Path:
    """A tree of the shape of PHP; half of its bulk is the same in each version."""
    write(root, "sbin/php-fpm", f"#!/bin/sh\necho fpm {version}\n", executable=True)
    write(root, "bin/php", f"#!/bin/sh\necho php {version}\n", executable=True)
    write(root, "lib/opcache.so", f"opcache of {version}\n" * 100)
    write(root, "share/licence", "the same in all versions\n" * 1000)
    (root / "bin/php-fpm").symlink_to("../sbin/php-fpm")
    for number in range(megabytes):
        shared = number % 2 == 0
        seed = b"shared" if shared else version.encode()
        block = seed + bytes([number % 256]) * 1024
        write(root, f"share/data/{number}", (block * 1024)[: 1024 * 1024])
    return root


def webapp_tree(root: Path, version: str) -> Path:
    write(root, "public/index.php", f"<?php echo '{version}';\n")
    write(root, "public/css/shop site.css", "body {}\n")
    return root


def add_php(store: Store, sources: Path, version: str, megabytes: int = 0) -> str:
    return store.add(
        "php", version, php_tree(sources / f"php-{version}", version, megabytes)
    ).digest


def add_webapp(store: Store, sources: Path, version: str) -> str:
    tree = webapp_tree(sources / f"webapp-{version}", version)
    return store.add("webapp", version, tree).digest


def contents(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Everything under ``root``, to see that a call touched nothing."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder) / name
            status = path.lstat()
            held = (
                os.readlink(path)
                if path.is_symlink()
                else path.read_bytes()
                if path.is_file()
                else None
            )
            found[str(path.relative_to(root))] = (status.st_mode, held)
    return found

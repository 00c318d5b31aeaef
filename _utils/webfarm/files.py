"""Files that survive a crash: atomic replacement, fsync and locks that end with their holder."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from webfarm.errors import WebfarmError


class Locked(WebfarmError):
    """Somebody else holds the lock and did not let go in time."""


def sync_dir(path: Path) -> None:
    """Make the names in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create ``path`` and what is missing above it, 0755 whatever the umask is."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def sync_tree(root: Path) -> None:
    """Make every file and every name under ``root`` durable; symlinks are part of their folders."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_dir(Path(folder))


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` by rename(2): readers see the old text or the new one, also after a power
    cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_dir(path.parent)


def replace_link(path: Path, target: str) -> None:
    """Point the symlink ``path`` at ``target`` by rename(2) of a new link: it is never missing."""
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, path)
    sync_dir(path.parent)


@contextlib.contextmanager
def locked(path: Path, deadline: float, what: str) -> Iterator[int]:
    """Hold an exclusive flock on ``path``; yields its descriptor.

    deadline
        Seconds to wait for another holder before :class:`Locked` is raised.
    what
        What the lock guards, for the message.

    The kernel drops the lock when the last process that has the descriptor ends, so a killed holder
    blocks nobody.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = time.monotonic() + deadline
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Locked(
                        f"{what}: {path} is still locked by another process after {deadline:g} s;"
                        f" see who holds it with `fuser -v {path}`, then try again"
                    ) from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)

"""The effects of the snapshots' providers: commands, renames, and small files that survive."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from webfarm import files
from webfarm.snapshots.model import SnapshotError

COMMAND_SECONDS = 600.0
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "LVM_SUPPRESS_FD_WARNINGS": "1",  # the lock is inherited on purpose
}
_PACKAGES = {"btrfs": "btrfs-progs", "lvs": "lvm2"}


class Tools:
    """What changes this machine.

    ``lock`` is inherited by every command, so that what a killed call has left running ends before
    another call begins.
    """

    def __init__(self) -> None:
        self.lock: int | None = None

    def ask(self, command: Sequence[str]) -> str:
        """What a command prints that changes nothing; raises when it fails."""
        return self._run(command)

    def run(self, command: Sequence[str]) -> str:
        """What a command prints that changes something; raises when it fails."""
        return self._run(command)

    def exchange(self, one: Path, other: Path) -> None:
        """renameat2(2) with RENAME_EXCHANGE: there is never a moment with one of them missing."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(one), None, str(other))

    def rename(self, old: Path, new: Path) -> None:
        """rename(2)."""
        os.rename(old, new)

    def write(self, path: Path, text: str) -> None:
        """Replace a small file, durably; only root reads it."""
        files.write_atomic(path, text, 0o600)

    def remove(self, path: Path) -> None:
        """Remove a file or a folder that may be there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def make(self, path: Path, mode: int) -> None:
        """Make a folder that may be there."""
        if not path.is_dir():
            path.mkdir(mode=mode)

    def _run(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=() if self.lock is None else (self.lock,),
            )
        except FileNotFoundError:
            package = _PACKAGES.get(command[0], command[0])
            raise SnapshotError(
                f"there is no command {command[0]} here; install the package {package}"
            ) from None
        except subprocess.TimeoutExpired:
            raise SnapshotError(
                f"`{' '.join(command)[:200]}` did not end within {COMMAND_SECONDS:.0f} s"
            ) from None
        if done.returncode:
            said = ascii((done.stderr or done.stdout).decode("utf-8", "replace").strip())
            raise SnapshotError(
                f"`{' '.join(command)[:200]}` failed with {done.returncode}: {said[1:-1][-400:]}"
            )
        return done.stdout.decode("utf-8", "surrogateescape")

"""Fetch files from the release store's rsync daemon, with a deadline on everything."""

import contextlib
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from webfarm.errors import WebfarmError

CONNECT_SECONDS = 10
IDLE_SECONDS = 30
MODULE = "webfarm"
_SOURCE = re.compile(
    r"rsync://([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?"
    r"/[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
)
_STATISTIC = re.compile(r"^(Total transferred file size|Number of created files): (\d+)", re.M)
_REASONS = {
    5: "the daemon refused the request",
    10: "the connection failed",
    11: "a file could not be written",
    12: "the connection broke",
    20: "rsync was stopped",
    23: "not everything was transferred",
    24: "files vanished during the transfer",
    30: "nothing came for too long",
    35: "the daemon did not answer",
}


class TransferError(WebfarmError):
    """The store could not be read; the message has rsync's own words."""


class NotInStore(TransferError):
    """The store answered, and does not have what was asked for."""


@dataclass(frozen=True)
class Size:
    """What a transfer would write: bytes of content, and files, folders and links to create."""

    content: int
    entries: int


def check_source(value: object) -> str:
    """Return ``value`` when it is ``rsync://HOST[:PORT]/MODULE``; raises :class:`TransferError`."""
    if not isinstance(value, str) or not _SOURCE.fullmatch(value):
        shown = ascii(value)
        raise TransferError(
            f"source {shown if len(shown) < 80 else shown[:77] + '...'} must be"
            " rsync://HOST[:PORT]/MODULE; nothing was changed"
        )
    return value


def default_source(address: str) -> str:
    """The store at ``address``, an IP address."""
    host = f"[{address}]" if ":" in address else address
    return check_source(f"rsync://{host}/{MODULE}")


@dataclass(frozen=True)
class Rsync:
    """A client of one store.

    source
        ``rsync://HOST[:PORT]/MODULE``.
    end
        The ``time.monotonic()`` at which everything must be over.
    bwlimit
        KiB per second, 0 for no limit.
    keep
        Descriptors that rsync holds too: the lock's, so that the lock outlives a killed caller for
        as long as its rsync still writes.
    """

    source: str
    end: float
    bwlimit: int = 0
    keep: tuple[int, ...] = field(default=())

    def fetch_file(self, path: str, target: Path) -> None:
        """Fetch one regular file of at most 64 MiB."""
        self._run(["--times", "--max-size=64m"], path, str(target))
        if not target.is_file() or target.is_symlink():
            raise NotInStore(f"{self.source}/{path} is not a file, or has more than 64 MiB")

    def size(self, path: str, target: Path, link_to: list[Path]) -> Size:
        """Ask what :meth:`fetch_tree` would write, and write nothing."""
        text = self._run([*_tree_options(link_to), "--dry-run"], f"{path}/", f"{target}/")
        found = {name: int(number) for name, number in _STATISTIC.findall(text)}
        if len(found) != 2:
            raise TransferError(f"rsync's statistics were not understood: {text[-400:]!a}")
        return Size(found["Total transferred file size"], found["Number of created files"])

    def fetch_tree(
        self, path: str, target: Path, link_to: list[Path], compare_content: bool = False
    ) -> int:
        """Make the folder ``target`` like the store's folder ``path``; returns the bytes that came.

        link_to
            Trees whose equal files are hard-linked instead of fetched.
        compare_content
            Trust no file by its size and time: read it.

        Files are written beside and renamed, never in place, so that a file shared by a hard link
        is not changed in the other tree. Interrupted, it goes on where it was at the next call.
        """
        options = _tree_options(link_to) + (["--checksum"] if compare_content else [])
        found = dict(_STATISTIC.findall(self._run(options, f"{path}/", f"{target}/")))
        return int(found.get("Total transferred file size", 0))

    def _run(self, options: list[str], path: str, target: str) -> str:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TransferError(f"{self.source}/{path}: no time is left for the transfer")
        command = [
            "rsync",
            f"--timeout={IDLE_SECONDS}",
            f"--contimeout={CONNECT_SECONDS}",
            *([f"--bwlimit={self.bwlimit}"] if self.bwlimit else []),
            *options,
            "--",
            f"{self.source}/{path}",
            target,
        ]
        # a bare environment: RSYNC_CONNECT_PROG and RSYNC_PROXY would send us elsewhere
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
                pass_fds=self.keep,
            )
        except FileNotFoundError:
            raise TransferError("rsync is not installed on this server") from None
        try:
            output, complaint = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            raise TransferError(
                f"{self.source}/{path}: the transfer was stopped at its deadline; what came is kept"
                " and the next install goes on from there"
            ) from None
        finally:
            _end(process)
        if process.returncode:
            words = " / ".join(complaint.split("\n")[:6]).strip(" /")[:600]
            reason = _REASONS.get(process.returncode, f"rsync ended with {process.returncode}")
            error = NotInStore if "No such file or directory" in complaint else TransferError
            raise error(f"{self.source}/{path}: {reason}: {words}")
        return output


def _tree_options(link_to: list[Path]) -> list[str]:
    return [
        "--recursive",
        "--links",
        "--perms",
        "--times",
        "--delete",
        "--stats",
        "--no-human-readable",
        *(f"--link-dest={tree}" for tree in link_to),
    ]


def _end(process: subprocess.Popen[str]) -> None:
    """No rsync of ours outlives the call, whatever ended it."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=3)
                return

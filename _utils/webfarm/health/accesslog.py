"""Count the requests that nginx has logged: how many, how many failed, how long php-fpm took.

The log's lines end with ``$status "$upstream_response_time"``; what stands before comes from
clients, and is not looked at.
"""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from webfarm.health.period import Period

LOOK_SECONDS = 0.5
CHUNK_BYTES = 64 * 1024
LAG_BYTES = 8 * 1024 * 1024
LINE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Counted:
    """Requests that php-fpm was asked for.

    ``busy`` are the seconds that it took for them, ``squares`` the squares of those seconds.
    """

    requests: int = 0
    errors: int = 0
    busy: float = 0.0
    squares: float = 0.0


def count(lines: Iterable[bytes]) -> Counted:
    """Add up log lines; a line that is not of this format counts for nothing.

    A request counts when php-fpm was asked, or when it failed with 5xx: a static file says nothing
    of how fast a server is. Neither does a 425: nothing was processed, another server was asked. A
    request that was passed on again within nginx has several times, for example
    ``0.012 : 0.003`` or ``0.100, -``.
    """
    requests = errors = 0
    busy = squares = 0.0
    for line in lines:
        parts = line.rsplit(b'"', 2)
        if len(parts) != 3 or parts[2].strip():
            continue
        status = parts[0][-4:-1]
        if len(status) != 3 or not status.isdigit() or status == b"425":
            continue
        failed = status >= b"500"
        times = parts[1]
        try:
            taken = float(times)
            asked = True
        except ValueError:
            known = [_seconds(word) for word in times.replace(b",", b" ").split()]
            taken = sum(seconds for seconds in known if seconds is not None)
            asked = any(seconds is not None for seconds in known)
        if asked or failed:
            requests += 1
            errors += failed
            busy += taken
            squares += taken * taken
    return Counted(requests, errors, busy, squares)


def _seconds(word: bytes) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


class Tail:
    """Reads what is appended to a file, over its rotation, truncation, loss and return.

    What is there when the file is first seen is skipped; a file that takes its place later is read
    from its beginning. When more than 8 MiB have come since the last look, only the newest are
    read: late numbers are of no use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._inode = (0, 0)
        self._at = 0
        self._rest = b""
        self._seen = False

    def lines(self) -> Iterable[bytes]:
        """Whole lines that have come, without their ends; raises OSError when it cannot be read."""
        if self._file is None:
            self._open()
        yield from self._read()
        if self._moved():
            yield from self._read()  # what the other workers wrote to the old file meanwhile
            self.close()
            self._open()
            yield from self._read()

    def close(self) -> None:
        """Let go of the file; what is appended until the next look is then still read."""
        descriptor, self._file = self._file, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> None:
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            # What comes from now on is new.
            self._seen = True
            raise
        status = os.fstat(self._file)
        self._inode = (status.st_dev, status.st_ino)
        self._at = 0 if self._seen else status.st_size
        self._rest = b""
        self._seen = True

    def _moved(self) -> bool:
        """Whether nginx writes to another file now: until it is told to, it writes to the old."""
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self._path)
            return (status.st_dev, status.st_ino) != self._inode and status.st_size > 0
        return False

    def _read(self) -> Iterable[bytes]:
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size < self._at:
            self._at, self._rest = 0, b""
        if size - self._at > LAG_BYTES:
            self._at, self._rest = size - LAG_BYTES, b""
        while self._at < size:
            chunk = os.pread(self._file, min(CHUNK_BYTES, size - self._at), self._at)
            if not chunk:
                break
            self._at += len(chunk)
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > LINE_BYTES:
                self._rest = b""
            yield from whole


class AccessLog:
    """Counts twice a second what nginx has logged; ``readable`` says whether it could."""

    def __init__(self, path: Path, period: Period) -> None:
        self.readable = False
        self._tail = Tail(path)
        self._period = period

    def look(self) -> float:
        """Read what has come; returns the seconds to wait until the next look."""
        try:
            counted = count(self._tail.lines())
        except OSError:
            self.readable = False
            self._tail.close()
            return LOOK_SECONDS
        self.readable = True
        if counted.requests:
            self._period.add_requests(
                counted.requests,
                counted.errors,
                counted.busy,
                counted.squares,
                time.monotonic(),
            )
        return LOOK_SECONDS

    def close(self) -> None:
        """Let go of the file."""
        self._tail.close()

"""The referee's folder: the log, and who is writing it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .answer import Entry, Mark, decode_all, encode

DEFAULT = Path("/var/lib/referee")


class Log:
    """Appends whole lines, so that marks of another process fall between them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting: list[str] = []

    def write(self, entry: Entry) -> None:
        """Take an entry; it is on the file after :meth:`flush`."""
        self._waiting.append(encode(entry))

    def flush(self) -> None:
        """Write what waits."""
        data, self._waiting = "".join(self._waiting).encode(), []
        while data:
            data = data[os.write(self._file, data) :]


class Folder:
    """Where one traffic keeps its log, its process id and its complaints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "answers.jsonl"
        self.errors = path / "stderr.log"
        self._pid = path / "pid"

    def create(self) -> None:
        """Make the folder and begin a new log; the one before is kept as ``answers.1.jsonl``."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.path / "answers.1.jsonl")
        self.log.touch()

    def running(self) -> int | None:
        """The process id of the traffic that runs, or None."""
        try:
            pid = int(self._pid.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if b"referee" in words or any(b"referee" in w for w in words) else None

    def claim(self) -> None:
        """This process is the one that runs."""
        self._pid.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        """It runs no more."""
        self._pid.unlink(missing_ok=True)

    def stop(self, seconds: float) -> bool:
        """Ask the traffic to end and wait for it; False when it did not in time."""
        deadline = time.monotonic() + seconds
        pid = self.running()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
        while self.running() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def mark(self, name: str) -> Mark:
        """Record a moment in the log."""
        mark = Mark(name, time.time())
        log = Log(self.log)
        log.write(mark)
        log.flush()
        return mark

    def entries(self) -> Iterator[Entry]:
        """The log from its beginning."""
        with self.log.open(encoding="utf-8") as lines:
            yield from decode_all(lines)

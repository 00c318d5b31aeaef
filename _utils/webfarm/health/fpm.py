"""php-fpm: how busy it is, and whether it lives.

Its status page is asked on a socket of its own (``pm.status_listen``), which answers when every
child is busy. The death of its master process is not found by asking: a pidfd tells it at once.
"""

import json
import os
import select
import time
from dataclasses import dataclass
from typing import Any

from webfarm.health import fastcgi
from webfarm.health.fastcgi import NoFastCgi
from webfarm.health.life import Life
from webfarm.health.period import Period

STATUS_PATH = "/.webfarm/fpm-status"
STATUS_SECONDS = 1.0
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 0.1
UNIX_SOCKETS = "/proc/net/unix"
_CONNECTING = "02"  # SS_CONNECTING in <linux/net.h>: connected, and not yet accepted


@dataclass(frozen=True)
class Status:
    """What the status page says. ``full``: times that all children were busy, since ``started``."""

    started: int
    active: int
    full: int


def parse_status(text: bytes) -> Status:
    """The status page in JSON; raises :class:`NoFastCgi` when it is none."""
    try:
        data: dict[str, Any] = json.loads(text)
        return Status(
            started=int(data["start time"]),
            active=int(data["active processes"]),
            full=int(data["max children reached"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise NoFastCgi(f"no status page of php-fpm ({error!r}): {text[:60]!a}") from None


def queue_length(path: str, table: str = UNIX_SOCKETS) -> int:
    """How many connections to the UNIX socket ``path`` wait to be accepted.

    php-fpm itself knows this of TCP sockets only: its ``listen queue`` of a UNIX socket is always
    0. In the kernel's table, a connection that waits has the listener's path and this state.
    """
    ending = f" {path}\n"
    with open(table, encoding="utf-8", errors="replace") as lines:
        return sum(
            line.endswith(ending) and line.split(None, 6)[5] == _CONNECTING for line in lines
        )


class PhpFpm:
    """Looks at php-fpm once a second; ``look`` and ``wait`` are for one thread.

    ``queue`` is the last length of the listen queue; ``listener`` the master's process id (0 before
    the first answer), which changes when php-fpm is started anew.
    """

    def __init__(self, status_socket: str, www_socket: str, period: Period) -> None:
        self.life = Life()
        self.queue = 0
        self.listener = 0
        self._status_socket = status_socket
        self._www_socket = www_socket
        self._period = period
        self._last: Status | None = None
        self._pidfd: int | None = None

    def look(self) -> float:
        """Ask for the status, once; returns the seconds to wait until the next look."""
        try:
            self.queue = queue_length(self._www_socket)
            answer = fastcgi.get(self._status_socket, STATUS_PATH, "json", STATUS_SECONDS)
            status = parse_status(answer.body)
        except (ConnectionRefusedError, FileNotFoundError):
            self.life.refused()
            return AGAIN_SECONDS
        except (OSError, NoFastCgi):
            self.life.silent(time.monotonic(), self._period.served)
            return LOOK_SECONDS
        if not self._watch(answer.listener):
            self.life.ended()  # orphaned children still answer; nobody replaces them
            return AGAIN_SECONDS
        self.life.answered(time.monotonic())
        last, self._last = self._last, status
        if last is None:
            full = 0
        elif last.started != status.started or status.full < last.full:
            full = status.full
        else:
            full = status.full - last.full
        self._period.add_status(status.active, full)
        return LOOK_SECONDS

    def wait(self, seconds: float) -> None:
        """Sleep; not any longer when the master process ends, which is noted."""
        if self._pidfd is None:
            time.sleep(seconds)
            return
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.life.ended()
            self.close()

    def close(self) -> None:
        """Let go of what is open."""
        descriptor, self._pidfd = self._pidfd, None
        if descriptor is not None:
            os.close(descriptor)

    def _watch(self, listener: int) -> bool:
        """Have the death of the master told; whether it lives."""
        if self._pidfd is None or listener != self.listener:
            self.close()
            try:
                self._pidfd = os.pidfd_open(listener) if listener else None
            except ProcessLookupError:
                return False
            except (OSError, AttributeError):
                pass  # a kernel without pidfds: then only the status tells
        self.listener = listener
        return True

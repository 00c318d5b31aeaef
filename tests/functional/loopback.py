"""Addresses and ports of this test process alone, and waiting for what is to come.

Tests run in several processes at once, and two runs may meet on one machine: each process claims a
network of its own on the loopback and binds its servers there.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from webfarm.errors import WebfarmError

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds: only a test that fails ever waits as long."""


def _claim() -> tuple[int, socket.socket]:
    """The number of a network, and the socket that marks it as taken until this process ends."""
    for number in range(70, 250):
        with contextlib.suppress(OSError):
            return number, socket.create_server((f"127.{number}.255.254", 1))
    raise AssertionError("all of 127.70 to 127.249 is taken by other tests")


_number, _claimed = _claim()
NET = f"127.{_number}"
"""The first two numbers of this process's own addresses."""
SHARED_PORTS = range(20_000 + 10 * _number, 20_010 + 10 * _number)
"""This process's own ports of 127.0.0.1, which no client's end of a connection is given."""


def free_port(address: str) -> int:
    """A port of an own address that nothing listens on; nobody else can take it meanwhile."""
    with socket.create_server((address, 0)) as held:
        return int(held.getsockname()[1])


def listens(address: str, port: int) -> bool:
    """Whether a connection is taken."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def wait_for(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Wait until ``condition`` is true and return it; what it raises meanwhile means: not yet."""
    end = time.monotonic() + seconds
    while True:
        error: Exception | None = None
        try:
            if value := condition():
                return value
        except (OSError, WebfarmError) as raised:
            error = raised
        assert time.monotonic() < end, f"not within {seconds} s: {what}; {error or 'no error'}"
        time.sleep(0.02)

"""Empty memcached servers and prove that they are empty; memcached's text protocol, with deadlines.

The answer ``OK`` to ``flush_all`` proves nothing: what becomes of items of the current second is
different between versions and options of memcached (with CAS numbers, the default, 1.6.18 is
exact; with ``-C`` it also drops what is stored in the rest of that second; the protocol promises
whole seconds only). So the flush is repeated until the server lists no item.
"""

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from webfarm import names
from webfarm.errors import BadName, WebfarmError

_LINE_BYTES = 64 * 1024
_PAUSE = 0.25
_THREADS = 32


class CacheError(WebfarmError):
    """A memcached server did not answer, or was not proved empty; the message names each."""


@dataclass(frozen=True)
class Flushed:
    """The proof for one server: ``items`` are listed after ``flushes`` flushes in ``took`` s."""

    flushed: bool
    items: int
    flushes: int
    took: float


def check_endpoint(value: object) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[IPv6]:PORT``); raises :class:`webfarm.errors.BadName`."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            names.check(value, "memcached server")
    else:
        names.check(host if host else value, "memcached server")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise BadName(f"memcached server {value!a:.80} must be HOST:PORT; nothing was sent")
    return host, int(port)


class Memcached:
    """A connection to one memcached server; every exchange ends before ``end`` (monotonic)."""

    def __init__(self, host: str, port: int, end: float) -> None:
        self._end = end
        self._buffer = b""
        self._socket = socket.create_connection((host, port), timeout=self._left())

    def __enter__(self) -> "Memcached":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def flush(self) -> None:
        """``flush_all``: what was stored before this second is gone."""
        self._send("flush_all")
        self._expect(self._line(), "OK", "flush_all")

    def items(self) -> int:
        """Count the items that could still be read (``lru_crawler metadump all``)."""
        while True:
            self._send("lru_crawler metadump all")
            line = self._line()
            if not line.startswith("BUSY"):  # memcached's own crawler is at work
                break
            time.sleep(min(_PAUSE, self._left()))
        count = 0
        while line != "END":
            if not line.startswith("key="):
                raise CacheError(
                    f"lru_crawler metadump answered {line[:80]!a}; memcached needs its lru_crawler"
                    " (it is on by default)"
                )
            count += 1
            line = self._line()
        return count

    def stats(self) -> dict[str, str]:
        """The answer to ``stats``."""
        self._send("stats")
        found = {}
        while (line := self._line()) != "END":
            word, _, rest = line.partition(" ")
            self._expect(word, "STAT", "stats")
            name, _, value = rest.partition(" ")
            found[name] = value
        return found

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left

    def _send(self, command: str) -> None:
        self._socket.settimeout(self._left())
        self._socket.sendall(command.encode("ascii") + b"\r\n")

    def _line(self) -> str:
        while b"\n" not in self._buffer:
            self._socket.settimeout(self._left())
            received = self._socket.recv(_LINE_BYTES)
            if not received:
                raise ConnectionError("the connection was closed")
            self._buffer += received
            if len(self._buffer) > 2 * _LINE_BYTES and b"\n" not in self._buffer:
                raise CacheError("an answer without an end of line: this is no memcached")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")

    @staticmethod
    def _expect(seen: str, wanted: str, command: str) -> None:
        if seen != wanted:
            raise CacheError(f"{command} answered {seen[:80]!a}, expected {wanted}")


def flush(servers: Sequence[str], deadline: float = 10.0) -> dict[str, dict[str, Any]]:
    """Empty each server and prove it; all at once, all within ``deadline`` seconds.

    Raises :class:`CacheError` that names each server which was not proved empty, and why: while
    clients still write to a server it does not become empty.
    """

    def empty(host: str, port: int, end: float) -> dict[str, Any]:
        start = time.monotonic()
        flushes = 0
        items = -1
        try:
            with Memcached(host, port, end) as server:
                while True:
                    server.flush()
                    flushes += 1
                    items = server.items()
                    if items == 0:
                        return asdict(Flushed(True, 0, flushes, round(time.monotonic() - start, 3)))
                    time.sleep(min(_PAUSE, max(end - time.monotonic(), 0.0)))
        except TimeoutError:
            if items < 0:
                raise
            raise CacheError(
                f"still lists {items} items after {flushes} flushes; does something write to it?"
            ) from None

    return _each(servers, deadline, empty)


def stats(servers: Sequence[str], deadline: float = 10.0) -> dict[str, dict[str, Any]]:
    """``stats`` of each server; numbers as integers where they are."""

    def ask(host: str, port: int, end: float) -> dict[str, Any]:
        with Memcached(host, port, end) as server:
            return {n: int(v) if v.isdecimal() else v for n, v in server.stats().items()}

    return _each(servers, deadline, ask)


def _each(
    servers: Sequence[str], deadline: float, work: Callable[[str, int, float], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    if isinstance(servers, str) or not isinstance(servers, Sequence) or not servers:
        raise CacheError(f"servers must be a list of HOST:PORT, it is {servers!a:.80}")
    endpoints = {server: check_endpoint(server) for server in servers}
    end = time.monotonic() + deadline
    done: dict[str, dict[str, Any]] = {}
    failed = []
    with ThreadPoolExecutor(min(len(endpoints), _THREADS)) as pool:
        jobs = {server: pool.submit(work, *at, end) for server, at in endpoints.items()}
        for server, job in jobs.items():
            try:
                done[server] = job.result()
            except (OSError, CacheError) as error:
                failed.append(f"memcached {server}: {error}")
    if failed:
        proved = ", ".join(done) or "none"
        raise CacheError(f"{'; '.join(failed)} (deadline {deadline:g} s; done: {proved})")
    return done

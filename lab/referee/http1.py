"""Send one HTTP/1.1 request at a time over one TLS connection, and never a second time.

A ready-made client would send a request again when a kept connection turns out to be closed; here
that is a failure that must be seen.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

MAX_HEAD = 65536


class Malformed(Exception):
    """What came is not an HTTP answer."""


class Disconnected(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Reply:
    """An answer; header names are in lower case, in the order in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first value, or an empty one."""
        return next(self.all(name), "")

    def all(self, name: str) -> Iterator[str]:
        """All values of a header."""
        return (value for key, value in self.headers if key == name)


class Connection:
    """One connection; it may be used again while :meth:`usable`."""

    def __init__(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer
        self._ended = False
        self.idle_since = asyncio.get_running_loop().time()

    @classmethod
    async def open(
        cls, host: str, port: int, context: ssl.SSLContext, name: str, deadline: float
    ) -> Connection:
        """Connect and shake hands. Raises OSError (ssl.SSLError among them) or TimeoutError."""
        async with asyncio.timeout(deadline):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=name, limit=MAX_HEAD
            )
        return cls(host, reader, writer)

    def usable(self, idle_limit: float) -> bool:
        """Whether another request may be sent: open, not told to close, not idle for too long."""
        idle = asyncio.get_running_loop().time() - self.idle_since
        if self._ended or idle >= idle_limit or self._reader.at_eof() or self._writer.is_closing():
            return False
        # what waits to be read from an idle connection is its end, seen by the event loop or not
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    async def exchange(self, request: bytes) -> Reply:
        """Send the request and read its answer. Raises Disconnected, Malformed or OSError."""
        self._ended = True  # until the answer says otherwise
        try:
            self._writer.write(request)
            await self._writer.drain()
            reply, keep = await self._read()
        except asyncio.IncompleteReadError as error:
            raise Disconnected(f"closed after {len(error.partial)} more bytes") from error
        except asyncio.LimitOverrunError as error:
            raise Malformed(str(error)) from error
        self._ended = not keep
        self.idle_since = asyncio.get_running_loop().time()
        return reply

    def close(self) -> None:
        """Close, without waiting for the other side."""
        self._ended = True
        self._writer.close()

    async def _read(self) -> tuple[Reply, bool]:
        version, status, headers = await self._head()
        while 100 <= status < 200:
            version, status, headers = await self._head()
        plain = Reply(status, headers, b"")
        keep = version == "HTTP/1.1" and "close" not in plain.header("connection").lower()
        if status in (204, 304):
            return plain, keep
        if "chunked" in plain.header("transfer-encoding").lower():
            body = await self._chunks()
        elif length := plain.header("content-length"):
            if not length.isdecimal():
                raise Malformed(f"content-length {length!r}")
            body = await self._reader.readexactly(int(length))
        else:
            body, keep = await self._reader.read(), False
        return Reply(status, headers, body), keep

    async def _head(self) -> tuple[str, int, tuple[tuple[str, str], ...]]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, _, rest = first.partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not status.isdecimal():
            raise Malformed(f"status line {first[:80]!r}")
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise Malformed(f"header line {line[:80]!r}")
            headers.append((name.strip().lower(), value.strip()))
        return version, int(status), tuple(headers)

    async def _chunks(self) -> bytes:
        body = b""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError as error:
                raise Malformed(f"chunk size {line[:40]!r}") from error
            if size == 0:
                while await self._reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return body
            body += await self._reader.readexactly(size)
            if await self._reader.readexactly(2) != b"\r\n":
                raise Malformed("a chunk does not end where it should")

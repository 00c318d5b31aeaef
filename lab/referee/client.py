"""A browser, as far as sessions go: a cookie jar, kept connections, and no second try."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .answer import Answer
from .http1 import Connection, Disconnected, Malformed, Reply

CONNECT_SECONDS = 5.0
TEXT = ("session", "release", "site", "farm", "server", "php", "webapp")


@dataclass(frozen=True)
class Target:
    """Where clients go: ``addresses`` are (host, port) of the public balancers, as of DNS."""

    domain: str
    addresses: Sequence[tuple[str, int]]
    context: ssl.SSLContext
    timeout: float = 20.0
    idle_limit: float = 5.0


class Failed(Exception):
    """A request that came to nothing; ``kind`` as in :class:`referee.answer.Answer`."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


@dataclass
class Client:
    """One client; it does what it is told and remembers only its cookies and connections.

    addresses
        In this client's own order; the next is tried only while nothing has been sent.
    """

    id: str
    target: Target
    addresses: Sequence[tuple[str, int]]
    keep_alive: bool = True
    parallel: bool = False
    left: int = 1
    jar: dict[str, str] = field(default_factory=dict)
    seq: int = 0
    clock_offset: float = 0.0
    _kept: list[Connection] = field(default_factory=list)

    async def ask(self, method: str, slow: int = 0, form: bytes = b"") -> Answer:
        """Send one request and say what came of it; never raises for what the cluster did."""
        loop = asyncio.get_running_loop()
        self.seq += 1
        seen: dict[str, Any] = {
            "client": self.id,
            "seq": self.seq,
            "method": method,
            "slow": slow,
            "parallel": self.parallel,
            "siteid": self.jar.get("SITEID", ""),
            "farmid": self.jar.get("FARMID", ""),
        }
        seen["sent"] = self.clock_offset + loop.time()
        try:
            async with asyncio.timeout(self.target.timeout + slow / 1000):
                reply = await self._exchange(self._request(method, slow, form), seen)
            self._keep_cookies(reply)
            seen |= _read(reply)
        except TimeoutError:
            seen |= {"kind": "timeout", "why": "no answer in time"}
        except Failed as failure:
            seen |= {"kind": failure.kind, "why": failure.why}
        seen["answered"] = self.clock_offset + loop.time()
        return Answer(**seen)

    def close(self) -> None:
        """The client goes away."""
        for connection in self._kept:
            connection.close()
        self._kept.clear()

    async def _exchange(self, request: bytes, seen: dict[str, Any]) -> Reply:
        connection = await self._connection(seen)
        keep = False
        try:
            reply = await connection.exchange(request)
            keep = self.keep_alive and connection.usable(self.target.idle_limit)
        except Malformed as error:
            raise Failed("malformed", str(error)) from error
        except (Disconnected, OSError) as error:
            raise Failed("reset", str(error) or type(error).__name__) from error
        finally:
            if keep:
                self._kept.append(connection)
            else:
                connection.close()
        return reply

    async def _connection(self, seen: dict[str, Any]) -> Connection:
        while self._kept:
            connection = self._kept.pop()
            if connection.usable(self.target.idle_limit):
                seen |= {"reused": True, "address": connection.address}
                return connection
            connection.close()
        why = ""
        for host, port in self.addresses:
            seen["address"] = host
            try:
                return await Connection.open(
                    host, port, self.target.context, self.target.domain, CONNECT_SECONDS
                )
            except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
                raise Failed("tls", f"{type(error).__name__}: {error}") from error
            except (TimeoutError, OSError) as error:
                why = f"{host}:{port}: {error or type(error).__name__}"
        raise Failed("connect", why)

    def _request(self, method: str, slow: int, form: bytes) -> bytes:
        lines = [
            f"{method} /{f'?ms={slow}' if slow else ''} HTTP/1.1",
            f"Host: {self.target.domain}",
            "User-Agent: webfarm-referee",
            "Accept: application/json",
        ]
        if self.jar:
            lines.append("Cookie: " + "; ".join(f"{k}={v}" for k, v in self.jar.items()))
        if not self.keep_alive:
            lines.append("Connection: close")
        if method == "POST":
            lines.append("Content-Type: application/x-www-form-urlencoded")
            lines.append(f"Content-Length: {len(form)}")
        return "\r\n".join([*lines, "", ""]).encode() + form

    def _keep_cookies(self, reply: Reply) -> None:
        for cookie in reply.all("set-cookie"):
            pair, *attributes = cookie.split(";")
            name, _, value = pair.partition("=")
            gone = any(a.strip().lower() == "max-age=0" for a in attributes)
            if gone or value.strip() in ("", "deleted"):
                self.jar.pop(name.strip(), None)
            else:
                self.jar[name.strip()] = value.strip()


def _read(reply: Reply) -> dict[str, Any]:
    """What the answer says of itself, and what is wrong with it."""
    seen: dict[str, Any] = {"status": reply.status}
    for name in ("release", "farm", "server"):
        seen[name] = reply.header(f"x-webfarm-{name}")
    if reply.status != 200:
        shed = reply.status == 503 and reply.header("retry-after")
        why = f"status {reply.status}: {reply.body[:120].decode('utf-8', 'replace').strip()}"
        return seen | {"kind": "shed" if shed else str(reply.status), "why": why}
    try:
        body = json.loads(reply.body)
        told = {name: body[name] for name in TEXT}
        if any(not isinstance(value, str) for value in told.values()):
            raise TypeError("a name that is no text")
        told["count"] = int(body["count"])
    except (ValueError, TypeError, KeyError) as error:
        why = f"{type(error).__name__} {error} in {reply.body[:120]!r}"
        return seen | {"kind": "malformed", "why": why}
    for name in ("release", "farm", "server"):
        if seen[name] and seen[name] != told[name]:
            why = f"the header says {name} {seen[name]}, the body {told[name]}"
            return seen | {"kind": "malformed", "why": why}
    if told["release"].startswith("unknown:"):
        return seen | {"release": "", "kind": "malformed", "why": f"release {told['release']}"}
    return seen | told

"""A web server behind HAProxy: it is ready, guarded, and answers what it was sent."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

RELEASES = ("2026.11.1", "2026.11.2")


@dataclass
class Server:
    """A web server with a guard: /ready, 425 for another release, an echo of what it was sent.

    A page takes as long as its ``ms`` says, or with ``hold`` until the world lets go.
    """

    id: str
    farm: str
    address: str
    port: int = 18080
    site: str = "site1"
    release: str = RELEASES[0]
    uncached: bool = False
    guarded: bool = True
    answered: Counter[str] = field(default_factory=Counter)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    listener: asyncio.Server | None = None
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self.listener = await asyncio.start_server(self.serve, self.address, self.port)

    async def stop(self) -> None:
        """Like a power cut: nothing listens any more and connections are reset."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for writer in list(self.connections):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = received[0].split(" ")
        headers: dict[str, str] = {}
        for line in received[1:-2]:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        expected = headers.get("x-webfarm-release", "")
        lines = []
        if url.path == "/ready":
            status = "200 OK" if expected == self.release else "503 Not Ready"
            content = json.dumps({"release": self.release})
        elif url.path == "/.webfarm/site-up":
            status, content = "200 OK", "up"
        elif expected != self.release and self.guarded:
            status, content = "425 Too Early", ""
            lines.append(f"X-Webfarm-Fence: {self.release}")
            self.answered["refused"] += 1
        else:
            query = parse_qs(url.query)
            if "hold" in query:
                await self.gate.wait()
            await asyncio.sleep(float(query.get("ms", ["0"])[0]) / 1000)
            status = query.get("status", ["200 OK"])[0]
            self.answered["served"] += 1
            content = json.dumps(
                {
                    "server": self.id,
                    "site": self.site,
                    "farm": self.farm,
                    "release": self.release,
                    "method": method,
                    "path": url.path,
                    "body": len(body),
                    "headers": headers,
                }
            )
            if url.path != "/static":
                lines.append(f"X-Webfarm-Release: {self.release}")
            if self.uncached:
                lines.append("X-Webfarm-Uncached: 1")
        lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
        head = "\r\n".join([f"HTTP/1.1 {status}", *lines])
        writer.write(f"{head}\r\n\r\n{content}".encode())
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

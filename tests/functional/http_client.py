"""A browser in an event loop: it keeps its cookies and its connection, and repeats nothing."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any

from loopback import PATIENCE


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k == name.lower()), None)

    @property
    def cookies(self) -> dict[str, str]:
        found = {}
        for name, value in self.headers:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                found[key] = rest.partition(";")[0]
        return found


class Http:
    """A client with one kept connection; a failed request raises, nothing is repeated."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.trust = host, port, trust
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.cookies: dict[str, str] = {}

    async def request(
        self,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        seconds: float = PATIENCE,
    ) -> Reply:
        return await asyncio.wait_for(self._request(path, method, headers or {}, body), seconds)

    async def _request(self, path: str, method: str, headers: dict[str, str], body: bytes) -> Reply:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                self.host,
                self.port,
                limit=1 << 20,
                ssl=self.trust,
                server_hostname="shop.example" if self.trust else None,
            )
        assert self.reader is not None
        sent = {"Host": "shop.example", **headers}
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        if body or method == "POST":
            sent["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items())]
        self.writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in head[1:-2])]
        found = dict(pairs)
        if found.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(await self.reader.readline(), 16):
                content += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        else:
            content = await self.reader.readexactly(int(found.get("content-length", 0)))
        reply = Reply(int(head[0].split(" ")[1]), pairs, content)
        self.cookies |= reply.cookies
        if found.get("connection", "").lower() == "close":
            self.close()
        return reply

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

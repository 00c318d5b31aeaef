"""A small real shop on loopback over TLS, which behaves well until it is told not to."""

import asyncio
import json
import ssl
import subprocess
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

DOMAIN = "shop.example"


def certificate(folder: Path) -> Path:
    """A self-signed certificate for the shop, with its key, in one file."""
    key, cert, pem = folder / "key.pem", folder / "cert.pem", folder / "shop.pem"
    words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    words += ["-pkeyopt", "ec_paramgen_curve:P-256"]
    names = ["-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}"]
    subprocess.run([*words, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    pem.write_text(cert.read_text() + key.read_text())
    return pem


class Shop:
    """The server, in a thread of its own; misbehaviour is set from outside, by request number.

    misbehave
        Called before the answer to a request that has a session, with (number of such requests so
        far, session id); what it returns is done to the answer: ``regress``, ``drop``, ``rewind``,
        ``reset``, ``stall``, ``500``, ``shed``, ``garbage``.
    enough
        Called once, before the answer to the request whose number is ``last``.
    """

    def __init__(self, pem: Path) -> None:
        self.misbehave: Callable[[int, str], str] = lambda number, session: ""
        self.last = 0
        self.enough: Callable[[], None] = lambda: None
        self.release = "2026.11.1"
        self.counts: dict[str, int] = defaultdict(int)
        self.requests = 0
        self.returning = 0
        self.methods: dict[str, int] = defaultdict(int)
        self.connections = 0
        self.port = 0
        self._born = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Shop":
        self._thread.start()
        assert self._open.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # the clients' ends are cut when the loop stops; nobody needs to hear of it
        self._loop.set_exception_handler(lambda loop, context: None)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._open.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:-2])}
        await reader.readexactly(int(headers.get("content-length", 0)))
        assert headers["host"] == DOMAIN
        self.methods[method] += 1
        self.requests += 1
        if self.requests == self.last:
            self.enough()
        cookies = dict(
            pair.split("=", 1) for pair in headers.get("cookie", "").split("; ") if "=" in pair
        )
        session = cookies.get("PHPSESSID", "")
        fault = ""
        if session:
            self.returning += 1
            fault = self.misbehave(self.returning, session)
        await asyncio.sleep(int(parse_qs(urlsplit(path).query).get("ms", ["0"])[0]) / 1000)
        if fault == "stall":
            await asyncio.sleep(5)
        if fault == "reset":
            writer.transport.abort()
            return False
        if not session or fault == "drop":
            self._born += 1
            session = f"s{self._born}"
        if fault == "rewind":
            self.counts[session] -= 2
        self.counts[session] += 1
        release = "2026.9.9" if fault == "regress" else self.release
        keep = headers.get("connection") != "close"
        await self._write(writer, session, release, fault, keep)
        return keep

    def _write(
        self, writer: asyncio.StreamWriter, session: str, release: str, fault: str, keep: bool
    ) -> Awaitable[None]:
        where = {"site": "site1", "farm": "farm1", "server": "site1-farm1-ws1"}
        told = {"session": session, "count": self.counts[session], "release": release, **where}
        body = json.dumps(told | {"php": "8.2.32", "webapp": "1"})
        status = {"500": "500 Internal Server Error", "shed": "503 Service Unavailable"}
        lines = [
            f"HTTP/1.1 {status.get(fault, '200 OK')}",
            f"X-Webfarm-Release: {release}",
            "X-Webfarm-Farm: farm1",
            "X-Webfarm-Server: site1-farm1-ws1",
            f"Set-Cookie: PHPSESSID={session}; path=/; Secure; HttpOnly",
            "Set-Cookie: SITEID=site1; path=/",
            "Set-Cookie: FARMID=site1:farm1:1; path=/",
        ]
        if fault == "shed":
            lines.append("Retry-After: 5")
        if fault == "garbage":
            body = "<br>Fatal error"
        if not keep:
            lines.append("Connection: close")
        if self.requests % 2:
            lines.append(f"Content-Length: {len(body)}")
        else:
            lines.append("Transfer-Encoding: chunked")
            half = len(body) // 2
            parts = (body[:half], body[half:], "")
            body = "".join(f"{len(part):x}\r\n{part}\r\n" for part in parts)
        writer.write("\r\n".join([*lines, "", body]).encode())
        return writer.drain()

"""A small world for HAProxy's tests: real HAProxy processes of the real templates, and web servers
on the loopback.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2
from loopback import NET, PATIENCE, wait_for
from webfarm.haproxy import farms, sites
from webfarm.haproxy.runtime import Balancer, Settings

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "salt" / "haproxy" / "files"
RELEASES = ("2026.11.1", "2026.11.2")


def render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,  # as Salt does
    )
    return environment.get_template(template).render(**context)


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


class Haproxy:
    """One HAProxy with its own folder, started and reloaded by the helper that systemd calls on a
    balancer.
    """

    def __init__(self, folder: Path, template: str, context: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.template, self.context = template, context
        self.config = folder / "haproxy.cfg"
        self.settings = Settings(
            socket=str(folder / "admin.sock"),
            master_socket=str(folder / "master.sock"),
            maps=str(folder / "maps"),
            state_file=str(folder / "servers.state"),
            lock=str(folder / "haproxy.lock"),
        )
        self.balancer = Balancer(self.settings)
        self.helper = folder / "webfarm-haproxy"
        self.helper.write_text(
            render(
                "webfarm-haproxy.py.j2",
                python=sys.executable,
                socket=self.settings.socket,
                state_file=self.settings.state_file,
                lock=self.settings.lock,
            )
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.write_config()

    def write_config(self) -> None:
        self.config.write_text(
            render(
                self.template,
                socket=self.settings.socket,
                maps=self.settings.maps,
                state_file=self.settings.state_file,
                **self.context,
            )
        )

    def help(self, word: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONFIG": str(self.config)}
        if self.process is not None:
            environment["MAINPID"] = str(self.process.pid)
        done = subprocess.run(
            [sys.executable, str(self.helper), word],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    def start(self, wait: bool = True) -> None:
        self.help("start")
        with (self.folder / "haproxy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "/usr/sbin/haproxy",
                    "-W",
                    "-S",
                    self.settings.master_socket,
                    "-f",
                    str(self.config),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            wait_for(self.balancer.running, f"HAProxy answers, see {self.folder}/haproxy.log")

    def pids(self) -> list[int]:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, text.split())]

    def kill(self) -> None:
        """SIGKILL of the master and all workers, as if the machine had lost its power."""
        if self.process is None:
            return
        pids = self.pids() if self.process.poll() is None else []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()


class World:
    """Farms of servers behind site balancers, in one event loop of its own thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: dict[str, Server] = {}
        self.balancers: list[Haproxy] = []
        self.gate = asyncio.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def submit(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def add_farms(self, count: int, servers: int, site: int = 1) -> None:
        for farm in range(1, count + 1):
            for number in range(1, servers + 1):
                server = Server(
                    f"site{site}-farm{farm}-ws{number}",
                    f"farm{farm}",
                    f"{NET}.{10 * (site - 1) + farm}.{number}",
                    site=f"site{site}",
                    gate=self.gate,
                )
                self.servers[server.id] = server
                self.run(server.start())

    def let_go(self) -> None:
        """Let the requests end that are held, and hold no more."""
        self.loop.call_soon_threadsafe(self.gate.set)

    def farm_servers(self, farm: str, site: str = "site1") -> list[Server]:
        return [s for s in self.servers.values() if (s.farm, s.site) == (farm, site)]

    def topology(self, site: str, **options: Any) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for server in self.servers.values():
            if server.site != site:
                continue
            farm = table.setdefault(
                server.farm, {"sticky_servers": False, "servers": {}, **options}
            )
            farm["servers"][server.id] = {
                "address": server.address,
                "port": server.port,
                "weight": 100,
                "max_children": 200,
            }
        return table

    def add_site_balancer(
        self, floor: str = "strict", start: bool = True, site: str = "site1", **options: Any
    ) -> Haproxy:
        number = len(self.balancers) + 1
        context = {
            "site": site,
            "farms": self.topology(site, **options),
            "balancers": 1,
            "primaries": ["127.0.0.1"],
            "siblings": [],
            "floor": floor,
            "hard_stop_after": "60s",
            "bind": f"{NET}.0.{number}:18001",
            "management": f"{NET}.0.{number}:18404",
        }
        balancer = Haproxy(self.folder / f"lb{number}", "site.cfg.j2", context)
        weights = {farm: len(table["servers"]) for farm, table in context["farms"].items()}
        farms.ensure(balancer.balancer, weights, RELEASES[0])
        self.balancers.append(balancer)
        if start:
            balancer.start()
        return balancer

    def add_primary(self, site_balancers: dict[str, list[Haproxy]]) -> Haproxy:
        """A primary with TLS in front of the sites' balancers."""
        certificate = self.folder / "public.pem"
        if not certificate.exists():
            subprocess.run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=shop.example",
                    "-addext",
                    "subjectAltName=DNS:shop.example",
                    "-keyout",
                    str(self.folder / "key.pem"),
                    "-out",
                    str(certificate),
                ],
                check=True,
                capture_output=True,
            )
            with certificate.open("a") as chain:
                chain.write((self.folder / "key.pem").read_text())
        table: dict[str, Any] = {}
        for site, members in site_balancers.items():
            table[site] = {"balancers": {}}
            for number, member in enumerate(members, 1):
                host, _, port = member.context["bind"].rpartition(":")
                table[site]["balancers"][f"{site}-lb{number}"] = {
                    "address": host,
                    "port": int(port),
                }
        number = len(self.balancers) + 1
        context = {
            "sites": table,
            "domain": "shop.example",
            "certificate": str(certificate),
            "hard_stop_after": "60s",
            "bind": f"{NET}.0.{number}:18443",
            "bind_https": f"{NET}.0.{number}:18443",
            "bind_http": f"{NET}.0.{number}:18080",
            "management": f"{NET}.0.{number}:18404",
        }
        primary = Haproxy(self.folder / f"lb{number}", "primary.cfg.j2", context)
        sites.ensure(primary.balancer, dict.fromkeys(table, 100))
        self.balancers.append(primary)
        primary.start()
        return primary

    def client(self, balancer: Haproxy) -> Http:
        host, _, port = balancer.context["bind"].rpartition(":")
        if balancer.template != "primary.cfg.j2":
            return Http(host, int(port))
        trust = ssl.create_default_context(cafile=balancer.context["certificate"])
        return Http(host, int(port), trust)

    def ask(
        self,
        balancer: Haproxy,
        path: str = "/",
        cookies: dict[str, str] | None = None,
        **options: Any,
    ) -> Reply:
        """One request on a connection of its own."""

        async def work() -> Reply:
            client = self.client(balancer)
            client.cookies = dict(cookies or {})
            try:
                return await client.request(path, **options)
            finally:
                client.close()

        reply = self.run(work())
        assert isinstance(reply, Reply)
        return reply

    def upgrade(self, farm: str, release: str = RELEASES[1]) -> None:
        for server in self.farm_servers(farm):
            server.release = release

    def close(self) -> None:
        for balancer in self.balancers:
            balancer.stop()
        for server in self.servers.values():
            self.run(server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        made.close()

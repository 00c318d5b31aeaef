"""A small world for HAProxy's tests: real HAProxy processes of the real templates, and web servers
on the loopback.
"""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import jinja2
from echo_server import RELEASES, Server
from http_client import Http, Reply
from loopback import NET, wait_for
from webfarm.haproxy import farms, sites
from webfarm.haproxy.runtime import Balancer, Settings

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "salt" / "haproxy" / "files"


def render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,  # as Salt does
    )
    return environment.get_template(template).render(**context)


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

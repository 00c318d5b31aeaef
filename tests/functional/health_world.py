"""One web server on the loopback, without a database, and a monitor that watches it."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loopback import listens, wait_for
from php_world import ROOT, WS1, Client, Daemon, Server, Site
from webfarm.health.monitor import Monitor
from webfarm.health.settings import Options, Settings
from webfarm.rebalance import report
from webfarm.topology import parse

Body = dict[str, Any]


class LoneSite(Site):
    """A site of which only one server runs; no database, so only pages without a session answer."""

    def _database(self) -> Daemon:
        return Daemon(["true"], self.home / "database.log")

    @property
    def server(self) -> Server:
        return self.servers[WS1]

    def start(self) -> None:
        self.heal()

    def heal(self) -> None:
        """All three services run, as at first."""
        server = self.server
        if server.cache.process is None:
            server.cache.start()
            wait_for(lambda: listens(server.address, self.cache_port), "memcached")
        if server.fpm.process is None or server.fpm.disturbed:
            server.restart_php()
            server.fpm.disturbed = False
            wait_for((server.home / "run/php-status.sock").exists, "php-fpm's status")
        if server.nginx.process is None:
            server.nginx.start()
            wait_for(lambda: listens(server.address, server.port), "nginx")

    def settings(self, **changes: Any) -> Settings:
        home = self.server.home
        node = parse(self.topology).node(WS1).node
        given: dict[str, Any] = {
            "www_socket": f"{home}/run/php-www.sock",
            "status_socket": f"{home}/run/php-status.sock",
            "access_log": f"{home}/log/access.log",
            "disks": [str(home)],
            **changes,
        }
        return Settings(
            port=self.server.port,
            children=node.max_children,  # type: ignore[union-attr]
            memcached=f"{self.server.address}:{self.cache_port}",
            options=Options.model_validate(given),
        )

    def ask(self, times: int = 1, ms: int = 0, status: int = 200) -> None:
        client = Client(self)
        for _ in range(times):
            path = f"/pages/health.php?ms={ms}&status={status}"
            assert client.ask(path=path).status == status


class Listener:
    """Asks a monitor as the beacon does, only more often, and keeps all of its reports."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.bodies: list[Body] = []

    def tick(self) -> Body | None:
        body = self.monitor.tick()
        if body is not None:
            report.parse(body)  # the engine takes each
            self.bodies.append(body)
        return body

    def until(self, condition: Callable[[Body], object], what: str) -> Body:
        """The first report from now on of which ``condition`` is true."""

        def reported() -> Body | None:
            body = self.tick()
            return body if body is not None and condition(body) else None

        return wait_for(reported, what)

    def sum(self, field: str) -> Any:
        return sum(body[field] for body in self.bodies)


@contextlib.contextmanager
def lone_site() -> Iterator[LoneSite]:
    home = Path(tempfile.mkdtemp(prefix="webfarm-health-"))
    try:
        home.chmod(0o755)
        shutil.copytree(ROOT / "salt/php/files/share", home / "php")
        site = LoneSite(home)
        try:
            site.start()
            yield site
        finally:
            site.stop()
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def watched(settings: Settings) -> Iterator[Listener]:
    """A monitor that has given its first report; ended with all its threads."""
    monitor = Monitor(WS1, settings)
    try:
        listener = Listener(monitor)
        listener.until(lambda body: True, "the first report")
        listener.bodies.clear()
        yield listener
    finally:
        monitor.close()
        assert monitor.join(20), "a thread of the monitor is left"


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own."""
    place = Path(tempfile.mkdtemp(prefix="webfarm-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "webfarm-test", str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()

"""A site on the loopback: web servers made of the state tree's own templates, real nginx, php-fpm,
memcached and MariaDB, and a client that treats cookies and headers as the site balancer would.
"""

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import jinja2
import psutil
from loopback import NET, PATIENCE, SHARED_PORTS, free_port, listens, wait_for
from webfarm import topology

ROOT = Path(__file__).parent.parent.parent
PHP_FPM = "/usr/sbin/php-fpm8.2"
PHP = "/usr/bin/php8.2"
BALANCER = f"{NET}.1.11"
STRANGER = f"{NET}.1.99"
DATABASE = f"{NET}.1.5"
PREPRODUCTION = "preproduction-r640"
WS1, WS2, OTHER_FARM = "site1-farm1-ws1", "site1-farm1-ws2", "site1-farm2-ws1"
PASSWORD = "o'clock \\ \" $HOME"  # as awkward as a generated one may be


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _accepts(socket_file: Path) -> bool:
    """The socket is there a moment before it is listened on."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(socket_file))
    return True


class Daemon:
    """A process that is started, and stopped with all that it started."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.command = [str(word) for word in command]
        self.log = log
        self.invocation = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.disturbed = False

    def start(self) -> None:
        self.invocation = uuid.uuid4().hex  # as systemd does it
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                env={**os.environ, "INVOCATION_ID": self.invocation},
            )

    def send(self, number: int) -> None:
        assert self.process is not None
        self.disturbed = True
        os.killpg(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Its children too: until the last has gone, a socket of theirs still takes connections."""
        if self.process is None:
            return
        self.disturbed = True
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
            os.killpg(self.process.pid, signal.SIGCONT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.process = None
        wait_for(lambda: not any(map(_lives, children)), f"{self.command[0]}'s children are gone")


@dataclass
class Server:
    """One web server: its folder stands for the node's root."""

    id: str
    address: str
    port: int
    home: Path
    fpm: Daemon
    nginx: Daemon
    cache: Daemon

    def restart_php(self, how: int = signal.SIGTERM) -> None:
        self.fpm.stop(how)
        if self.fpm.invocation:  # the unit's ExecStopPost
            own = {"INVOCATION_ID": self.fpm.invocation, "WEBFARM_CONFIGURATION": self.home / "etc"}
            ended = [PHP, "-n", ROOT / "salt/php/files/share/ended.php"]
            subprocess.run(ended, env=own, check=True)
        socket_file = self.home / "run/php-www.sock"
        socket_file.unlink(missing_ok=True)
        self.fpm.start()
        wait_for(lambda: _accepts(socket_file), "php-fpm answers")

    def switch_webapp(self, version: str) -> None:
        """As an upgrade does it: another tree behind `current`."""
        current = self.home / "srv/webapp/current"
        new = current.with_name("new")
        new.symlink_to(f"versions/{version}")
        new.rename(current)


class Site:
    """The servers, their caches and the database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.php = subprocess.run(
            [PHP, "-r", "echo PHP_VERSION;"], check=True, capture_output=True, text=True
        ).stdout
        self.cache_port = free_port(f"{NET}.1.101")
        self.database_port = free_port(DATABASE)
        self.topology = self._topology()
        self.database = self._database()
        self.servers = {
            id: self._server(id, farm, entry)
            for farm, farm_entry in self.topology["sites"]["site1"]["farms"].items()
            for id, entry in farm_entry["servers"].items()
        }

    def _topology(self) -> dict[str, Any]:
        ports = iter(SHARED_PORTS)  # each server listens on 127.0.0.1 too

        def server(host: int) -> dict[str, Any]:
            return {"address": f"{NET}.1.{host}", "port": next(ports), "max_children": 8}

        farms = {
            "farm1": {WS1: server(101), WS2: server(102)},
            "farm2": {OTHER_FARM: server(111)},
        }
        data = {
            "store": {"minion": "master", "address": f"{NET}.0.2"},
            "primary": {
                "balancers": {"lb1": {"address": f"{NET}.0.11"}},
                "domain": "shop.example",
            },
            "sites": {
                "site1": {
                    "balancers": {"site1-lb1": {"address": BALANCER}},
                    "database": {
                        "minion": "site1-db1",
                        "address": DATABASE,
                        "port": self.database_port,
                    },
                    "farms": {
                        name: {
                            "servers": servers,
                            "memcached": [
                                f"{one['address']}:{self.cache_port}" for one in servers.values()
                            ],
                        }
                        for name, servers in farms.items()
                    },
                }
            },
            "releases": {
                "2026.11.9": {"php": self.php, "webapp": "1"},
                "2026.11.10": {"php": self.php, "webapp": "2"},
            },
            "preproduction": {"servers": {PREPRODUCTION: {"address": f"{NET}.0.51"}}},
            "target": "2026.11.9",
        }
        return topology.parse(data).model_dump(mode="json")

    def render(
        self,
        template: str,
        minion: str,
        home: Path,
        change: dict[str, str] | None = None,
        manager: str = "apt",
        **context: object,
    ) -> str:
        """A template of the state tree, with the node's folders moved below ``home``."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(ROOT / "salt"),
            extensions=["jinja2.ext.do"],
            undefined=jinja2.StrictUndefined,
        )
        node = topology.parse(self.topology).node(minion).model_dump(mode="json")
        text = environment.get_template(template).render(
            salt={
                "webfarm_topology.get": lambda: self.topology,
                "webfarm_topology.node": lambda: node,
                "webfarm_packages.manager": lambda: manager,
                "file.is_link": lambda path: (home / path.removeprefix("/")).is_symlink(),
                "file.file_exists": lambda path: (home / path.removeprefix("/")).is_file(),
                "file.readlink": lambda path: os.readlink(home / path.removeprefix("/")),
                "file.read": lambda path: (home / path.removeprefix("/")).read_text(),
            },
            pillar={"webfarm_secrets": {"database_password": PASSWORD}},
            **context,
        )
        moves = {
            "/srv/webfarm": f"{home}/srv",
            "/run/webfarm": f"{home}/run",
            "/run/nginx.pid": f"{home}/run/nginx.pid",
            "/etc/webfarm": f"{home}/etc",
            "/usr/share/webfarm/php": f"{self.home}/php",
            "/var/log/nginx": f"{home}/log",
            "\nerror_log = syslog": f"\nerror_log = {home}/log/php-fpm-master.log",
            "[error_log] = syslog": f"[error_log] = {home}/log/php.log",
            **(change or {}),
        }
        for old, new in moves.items():
            text = text.replace(old, new)
        return text

    def _database(self) -> Daemon:
        home = self.home / "database"
        home.mkdir()
        shutil.chown(home, "mysql", "mysql")
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={home}/data", "--user=mysql",
             "--auth-root-authentication-method=socket", "--skip-test-db"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        configuration = home / "webfarm.cnf"
        configuration.write_text(self.render("database/files/webfarm.cnf.jinja", "site1-db1", home))
        command = ["mariadbd", f"--defaults-file={configuration}", "--user=mysql",
                   f"--datadir={home}/data", f"--socket={home}/socket", f"--pid-file={home}/pid",
                   "--innodb-buffer-pool-size=16M"]  # fmt: skip
        return Daemon(command, self.home / "database.log")

    def sql(self, statement: str) -> str:
        """Run a statement as the database's administrator."""
        return subprocess.run(
            ["mariadb", f"--socket={self.home}/database/socket", "--skip-column-names"],
            input=statement, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    def start_database(self) -> None:
        self.database.start()
        wait_for(lambda: listens(DATABASE, self.database_port), "MariaDB answers")

    def _create_schema(self) -> None:
        # on the loopback every connection comes from one address
        text = self.render(
            "database/files/database.sql.jinja",
            "site1-db1",
            self.home,
            hosts=["127.0.0.1"],
            connections=100,
            reader="nobody",
        )
        self.sql(text)

    def _server(self, id: str, farm: str, entry: dict[str, Any]) -> Server:
        home = self.home / id
        for folder in ("etc", "run", "log", "srv/webapp/versions"):
            (home / folder).mkdir(parents=True)
        (home / "log").chmod(0o777)
        for version in ("1", "2"):
            tree = home / "srv/webapp/versions" / version
            shutil.copytree(ROOT / "lab/webapp", tree)
            shutil.copytree(ROOT / "tests/functional/php_pages", tree / "public/pages")
        (home / "srv/webapp/current").symlink_to("versions/1")
        for name in ("session.php", "releases.php", "php-fpm.conf"):
            text = self.render(f"php/files/{name}.jinja", id, home)
            (home / "etc" / name).write_text(text)
        pages = {"include /etc/nginx/fastcgi_params;": "include /etc/nginx/fastcgi_params;\n"
                 f"        fastcgi_param WEBFARM_CONFIGURATION {home}/etc;"}  # fmt: skip
        nginx = self.render("nginx/files/nginx.conf.jinja", id, home, pages)
        (home / "etc/nginx.conf").write_text(nginx)
        fpm = [PHP_FPM, "--nodaemonize", "--fpm-config", home / "etc/php-fpm.conf"]
        memcached = ["memcached", "-u", "nobody", "-m", "16", "-U", "0", "-l", entry["address"],
                     "-p", str(self.cache_port)]  # fmt: skip
        return Server(
            id=id,
            address=entry["address"],
            port=entry["port"],
            home=home,
            fpm=Daemon(fpm, home / "log/php-fpm.log"),
            nginx=Daemon(
                ["nginx", "-g", "daemon off;", "-c", home / "etc/nginx.conf"],
                home / "log/nginx.log",
            ),
            cache=Daemon(memcached, home / "log/memcached.log"),
        )

    def start(self) -> None:
        self.start_database()
        self._create_schema()
        for server in self.servers.values():
            server.cache.start()
            server.fpm.start()
            server.nginx.start()
        for server in self.servers.values():
            wait_for(lambda: listens(server.address, self.cache_port), "memcached")  # noqa: B023
            wait_for(lambda: _accepts(server.home / "run/php-www.sock"), "php-fpm")  # noqa: B023
            wait_for(lambda: listens(server.address, server.port), "nginx")  # noqa: B023

    def stop(self) -> None:
        for server in self.servers.values():
            for daemon in (server.nginx, server.fpm, server.cache):
                daemon.stop()
        self.database.stop()

    def let_go(self, hold: bool = False, name: str = "") -> None:
        """Let the requests for /pages/hold.php (``?as=name``) end; or hold all from now on."""
        for server in self.servers.values():
            for version in ("1", "2"):
                folder = server.home / f"srv/webapp/versions/{version}/public/pages"
                if hold:
                    for file in folder.glob("let-go*"):
                        file.unlink()
                else:
                    (folder / ("let-go" + (f"-{name}" if name else ""))).touch()

    def retire(self, server: Server, **change: str) -> subprocess.Popen[str]:
        """Begin memcached's ExecStop, with what its unit leaves of root's rights."""
        text = self.render("memcached/files/retire.conf.jinja", server.id, server.home)
        [line] = [x for x in text.splitlines() if x.startswith("ExecStop=-")]
        for old, new in {
            f"{server.home}/srv/php/current/bin/php": change.get("php", PHP),
            "/usr/share/webfarm/memcached/retire.php": self._retire(change.get("seconds", "70.0")),
            f"{server.address}:11211": f"{server.address}:{self.cache_port}",
        }.items():
            assert old in line, (old, line)
            line = line.replace(old, new)
        bounded = ["setpriv", "--bounding-set=-all,+setuid,+setgid,+sys_resource", "--no-new-privs"]
        return subprocess.Popen(
            [*bounded, *shlex.split(line.removeprefix("ExecStop=-"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={},
        )

    def _retire(self, seconds: str) -> str:
        """The script, where its user can read it; it waits for so many seconds."""
        text = (ROOT / "salt/memcached/files/retire.php").read_text()
        assert "WAIT_SECONDS = 70.0;" in text
        file = self.home / f"retire-{seconds}.php"
        file.write_text(text.replace("WAIT_SECONDS = 70.0;", f"WAIT_SECONDS = {seconds};"))
        return str(file)

    def stop_cache(self, server: Server) -> None:
        """Stop its memcached as systemd does."""
        said, _ = self.retire(server).communicate(timeout=PATIENCE + 30)
        server.cache.stop()
        assert said == ""

    def start_cache(self, server: Server) -> None:
        """Empty."""
        server.cache.start()
        wait_for(lambda: listens(server.address, self.cache_port), "memcached is back")

    def settle(self) -> None:
        """Every member has been there for long, and nobody is at work from before that."""
        for server in self.servers.values():
            self.cache_command(server, "set since 0 0 1\r\n1")
            self.cache_command(server, "delete young")

    def heal(self) -> None:
        """Everything runs, nothing is remembered."""
        self.let_go(hold=True)
        if self.database.process is None:
            self.start_database()
        self.sql("DELETE FROM webfarm.sessions")
        if any(server.cache.disturbed for server in self.servers.values()):
            for server in self.servers.values():  # which leaves a cache that failed alone
                server.restart_php()
        for server in self.servers.values():
            if server.cache.process is None:
                server.cache.start()
            server.cache.disturbed = False
            os.killpg(server.cache.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
            wait_for(lambda: listens(server.address, self.cache_port), "memcached")  # noqa: B023
            self.cache_command(server, "flush_all")
            if os.readlink(server.home / "srv/webapp/current") != "versions/1":
                server.switch_webapp("1")
        self.settle()

    def cache_command(self, server: Server, command: str) -> str:
        with socket.create_connection((server.address, self.cache_port), timeout=5) as link:
            link.sendall(f"{command}\r\n".encode())
            reply = b""
            while not reply.endswith(
                (b"END\r\n", b"OK\r\n", b"STORED\r\n", b"DELETED\r\n", b"NOT_FOUND\r\n")
            ):
                more = link.recv(65536)
                assert more, (command, reply)
                reply += more
            return reply.decode()

    def cached_keys(self, server: Server, kind: str) -> list[str]:
        lines = self.cache_command(server, "lru_crawler metadump all").splitlines()
        keys = [line.split()[0].removeprefix("key=") for line in lines if line.startswith("key=")]
        return [key for key in keys if key.startswith(f"{kind}%3A")]


@dataclass
class Client:
    """A browser and the site balancer before the servers: one session."""

    site: Site
    release: str = "2026.11.9"
    generation: int = 1
    cookies: dict[str, str] = field(default_factory=dict)
    farmid: str = ""

    def ask(
        self,
        server: str = WS1,
        path: str = "/",
        method: str = "GET",
        body: bytes | None = None,
        release: str | None = "",
        source: str = BALANCER,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request. ``release``: what the fence expects; None: no such header."""
        there = self.site.servers[server]
        farm = server.split("-")[1]
        sent = {"Host": "shop.example"}
        if release is not None:
            sent["X-Webfarm-Release"] = release or self.release
        if self.farmid != f"site1:{farm}:{self.generation}":
            sent["X-Webfarm-Moved"] = "1"
        cookies = {**self.cookies, **({"FARMID": self.farmid} if self.farmid else {})}
        if cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        address = "127.0.0.1" if source == "127.0.0.1" else there.address
        link = http.client.HTTPConnection(
            address, there.port, timeout=60, source_address=(source, 0)
        )
        with contextlib.closing(link):
            link.request(method, path, body=body, headers={**sent, **(headers or {})})
            response = link.getresponse()
            answer = Answer(response.status, response.msg, response.read())
        if answer.headers["X-Webfarm-Release"]:
            uncached = ":u" if answer.headers["X-Webfarm-Uncached"] else ""
            self.farmid = f"site1:{farm}:{self.generation}{uncached}"
        for line in answer.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return answer

    def count(self, server: str = WS1, **options: Any) -> int:
        """Ask for the counter's page, which must answer, and return what it counted."""
        answer = self.ask(server, **options)
        assert answer.status == 200, (answer.status, answer.body)
        return int(answer.json["count"])


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    for program in (PHP_FPM, PHP, "/usr/sbin/mariadbd", "/usr/sbin/nginx", "/usr/bin/memcached"):
        assert Path(program).exists(), (
            f"{program} is missing: apt-get install"
            " php8.2-fpm php8.2-mysql php8.2-memcached mariadb-server nginx-light memcached"
        )
    home = Path(tempfile.mkdtemp(prefix="webfarm-php-"))
    try:
        home.chmod(0o755)  # the servers drop their privileges
        shutil.copytree(ROOT / "salt/php/files/share", home / "php")
        site = Site(home)
        try:
            site.start()
            yield site
        finally:
            site.stop()
    finally:
        shutil.rmtree(home)

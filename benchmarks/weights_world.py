"""The farms of benchmarks/weights.py: for each policy real web servers behind a real HAProxy.

All is made of the state tree's templates: nginx and php-fpm with the guard, but no database and no
memcached, since the page that is asked for uses no session; HAProxy with the site balancer's
configuration, in which the policy changes the farm's ``balance``, ``maxconn`` and agent.
"""

import contextlib
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haproxy_world import Haproxy
from loopback import NET, listens, wait_for
from php_world import BALANCER, ROOT, Daemon, Server, Site
from webfarm import topology
from webfarm.haproxy import farms
from webfarm.health.settings import Options, Settings

FARM = "farm1"
RELEASE = "2026.11.9"
COLD_SECONDS = 30
"""For so long a server that was started anew takes up to 4 times as long, less and less."""
_COLD_FACTOR = 4
_first, _second = map(int, NET.split("."))
_PORTS = range(23_000 + 50 * (_second - 70), 23_050 + 50 * (_second - 70))
"""This process's own, below those of clients' ends; each server listens on 127.0.0.1 too."""

PAGE = """<?php
// Takes `ms` milliseconds, times what this server's mood makes of it.
$mood = file_get_contents($_SERVER['WEBFARM_CONFIGURATION'] . '/mood');
[$factor, $status, $cold_until] = explode(' ', $mood);
header('Content-Length: 2');
if ($status !== '200') {
    usleep(1000);
    http_response_code((int) $status);
    exit('{}');
}
$cold = max(0, $cold_until - microtime(true)) / %d;
usleep((int) ($_GET['ms'] * 1000 * $factor * (1 + %d * $cold)));
echo '{}';
"""


@dataclass(frozen=True)
class Policy:
    """How requests are spread over a farm's servers.

    steer
        Who changes the weights: nobody, the ``loop``, or HAProxy's ``agent``.
    """

    balance: str
    maxconn: bool
    steer: str = ""

    @property
    def base(self) -> str:
        """The policy without any steering."""
        return self.balance + ("+maxconn" if self.maxconn else "")

    @property
    def name(self) -> str:
        return self.base + (f"+{self.steer}" if self.steer else "")


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("roundrobin", False),
        Policy("roundrobin", False, "loop"),
        Policy("leastconn", False),
        Policy("leastconn", False, "loop"),
        Policy("leastconn", True),
        Policy("leastconn", True, "loop"),
        Policy("leastconn", True, "agent"),
    )
}


class Farm(Site):
    """One farm of web servers without a database.

    number
        Which of the run's farms it is; from 1.
    """

    def __init__(self, home: Path, number: int, servers: int, children: int) -> None:
        self.number, self.count, self.children = number, servers, children
        super().__init__(home)
        for server in self.servers.values():
            for version in ("1", "2"):
                tree = server.home / "srv/webapp/versions" / version / "public"
                (tree / "work.php").write_text(PAGE % (COLD_SECONDS, _COLD_FACTOR - 1))
            self.set_mood(server)

    def _topology(self) -> dict[str, Any]:
        first = self.count * (self.number - 1)
        if first + self.count > len(_PORTS):
            raise SystemExit(f"more than {len(_PORTS)} servers in all: take fewer")
        servers = {
            f"site1-farm1-ws{n}": {
                "address": f"{NET}.{self.number}.{100 + n}",
                "port": _PORTS[first + n - 1],
                "max_children": self.children,
            }
            for n in range(1, self.count + 1)
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
                    "database": {"minion": "site1-db1", "address": f"{NET}.0.5"},
                    "farms": {
                        FARM: {
                            "servers": servers,
                            "memcached": [f"{one['address']}:11211" for one in servers.values()],
                        }
                    },
                }
            },
            "releases": {RELEASE: {"php": self.php, "webapp": "1"}},
            "target": RELEASE,
        }
        return topology.parse(data).model_dump(mode="json")

    def _database(self) -> Daemon:
        return Daemon(["true"], self.home / "database.log")

    def render(self, template: str, *given: Any, **context: Any) -> str:
        text = super().render(template, *given, **context)
        return text.replace("worker_processes auto;", "worker_processes 1;")

    def start(self) -> None:
        for server in self.servers.values():
            self.switch_on(server)

    def wait(self) -> None:
        """Until all servers listen."""
        for server in self.servers.values():
            wait_for((server.home / "run/php-www.sock").exists, f"php-fpm of {server.id}")
            wait_for(lambda: listens(server.address, server.port), server.id)  # noqa: B023

    def switch_on(self, server: Server, cold: bool = False) -> None:
        """Start a server; does not wait."""
        self.set_mood(server, cold=cold)
        server.fpm.start()
        server.nginx.start()

    def switch_off(self, server: Server) -> None:
        """As if its power had failed."""
        server.nginx.stop(signal.SIGKILL)
        server.fpm.stop(signal.SIGKILL)

    def set_mood(
        self, server: Server, factor: float = 1, status: int = 200, cold: bool = False
    ) -> None:
        """How the page answers from now on: how many times slower, with what, after a start."""
        mood = server.home / "etc/mood"
        new = mood.with_name("mood.new")
        new.write_text(f"{factor} {status} {time.time() + COLD_SECONDS if cold else 0}")
        new.replace(mood)

    def settings(self, server: Server) -> Settings:
        """What the beacon of a server would be told."""
        return Settings(
            port=server.port,
            children=self.children,
            memcached=None,
            options=Options.model_validate(
                {
                    "www_socket": f"{server.home}/run/php-www.sock",
                    "status_socket": f"{server.home}/run/php-status.sock",
                    "access_log": f"{server.home}/log/access.log",
                    "disks": [str(server.home)],
                }
            ),
        )


class SiteBalancer(Haproxy):
    """The HAProxy before a farm, with the policy in its configuration."""

    def __init__(self, folder: Path, farm: Farm, policy: Policy, agent: str) -> None:
        self.policy, self.agent = policy, agent
        context = {
            "site": "site1",
            "farms": farm.topology["sites"]["site1"]["farms"],
            "balancers": 1,
            "primaries": ["127.0.0.1"],
            "siblings": [],
            "floor": "strict",
            "hard_stop_after": "5s",
            "bind": f"{NET}.{farm.number}.11:18001",
            "management": f"{NET}.{farm.number}.11:18404",
        }
        super().__init__(folder, "site.cfg.j2", context)
        farms.ensure(self.balancer, {FARM: 100}, RELEASE)

    def write_config(self) -> None:
        super().write_config()
        lines = []
        for line in self.config.read_text().splitlines():
            if line.startswith("  server "):
                if not self.policy.maxconn:
                    line = re.sub(r" maxconn \d+", "", line)
                if self.policy.steer == "agent":
                    host, _, port = self.agent.rpartition(":")
                    line += f" agent-check agent-inter 1s agent-addr {host} agent-port {port}"
                    line += f' agent-send "{line.split()[1]}\\n"'
            elif line == "  balance leastconn":
                line = f"  balance {self.policy.balance}"
            elif line.startswith("  default-server "):
                line += f" source {BALANCER}"  # the servers answer nobody else
            lines.append(line)
        self.config.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class World:
    """One policy's farm and balancer."""

    policy: Policy
    farm: Farm
    balancer: SiteBalancer

    @property
    def address(self) -> str:
        return str(self.balancer.context["bind"])

    def weights(self) -> dict[str, int]:
        """What HAProxy gives each server now; 0 for one that is drained."""
        return {
            state.server: state.uweight if state.admin == "ready" else 0
            for state in self.balancer.balancer.states()
            if state.backend == FARM
        }

    def answers(self) -> bool:
        """Whether all servers are up."""
        table = self.balancer.balancer.servers(FARM)[FARM]
        return all(server["status"] == "UP" for server in table.values())


@contextlib.contextmanager
def worlds(
    policies: list[Policy], servers: int, children: int, agent: str
) -> Iterator[dict[str, World]]:
    """A world for each policy, all up; policy's name -> world. All processes end with it."""
    home = Path(tempfile.mkdtemp(prefix="webfarm-weights-"))
    made: list[World] = []
    try:
        home.chmod(0o755)
        for number, policy in enumerate(policies, 1):
            place = home / str(number)
            place.mkdir()
            shutil.copytree(ROOT / "salt/php/files/share", place / "php")
            farm = Farm(place, number, servers, children)
            made.append(World(policy, farm, SiteBalancer(place / "lb", farm, policy, agent)))
        for world in made:
            world.farm.start()
        for world in made:
            world.farm.wait()
            world.balancer.start()
        for world in made:
            wait_for(world.answers, f"all servers of {world.policy.name} are up")
        yield {world.policy.name: world for world in made}
    finally:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, home)
            for world in made:
                for server in world.farm.servers.values():
                    stack.callback(server.fpm.stop, signal.SIGKILL)
                    stack.callback(server.nginx.stop, signal.SIGKILL)
                stack.callback(world.balancer.kill)

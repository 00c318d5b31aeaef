"""A cluster in simulated time: sites, Salt, clients, and the judge of the promises.

The world moves only when an actor sleeps: see :mod:`.timeline`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from webfarm.topology import Topology, parse

from .judge import Judge
from .minion import Minions
from .network import Network
from .nodes import Balancer, Node, Place, Web, place
from .sessions import Clients, Flaw
from .systems import boots
from .timeline import START, Timeline

CHECK_SECONDS = 0.7  # until a balancer's health check has followed a server or a fence


class World(Timeline):
    """Everything outside the controllers.

    flaws
        What is wrong with which release, wherever it runs.
    """

    def __init__(
        self,
        seed: int,
        pillar: Mapping[str, Any],
        sites: tuple[str, ...] = ("site1",),
        sessions: int = 10,
        honours_moved: bool = True,
    ) -> None:
        super().__init__(seed)
        self.topology: Topology = parse(pillar)
        self.flaws: dict[str, Flaw] = {}
        self.provider = "btrfs"  # who makes snapshots of the servers
        self.broken_packages = False  # the new packages keep a server from serving
        self.judge = Judge(self)
        self.minions = Minions(self)
        self.network = Network(self)
        first = self.topology.initial
        self.places: dict[str, Place] = {
            name: place(name, self.topology.sites[name], first) for name in sites
        }
        self._nodes: dict[str, Node] = {
            node.name: node
            for site in self.places.values()
            for node in (*site.balancers.values(), *site.web.values(), site.keeper)
        }
        self.clients = {
            name: Clients(self, site, sessions, honours_moved) for name, site in self.places.items()
        }

    def node(self, name: str) -> Node:
        """The node with that minion id."""
        return self._nodes[name]

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return list(self._nodes.values())

    @property
    def balancers(self) -> list[Balancer]:
        """Every site's."""
        return [b for site in self.places.values() for b in site.balancers.values()]

    @property
    def web(self) -> list[Web]:
        """Every site's servers."""
        return [web for site in self.places.values() for web in site.web.values()]

    def powered(self, node: Node) -> bool:
        """Its minion can run: a balancer whose HAProxy is dead still answers, a dead server not."""
        return node.alive or isinstance(node, Balancer)

    @property
    def calm(self) -> float:
        """How much longer clients pause while nobody does anything: it saves the test's time."""
        return 1.0 if self.actors else 4.0

    @property
    def elapsed(self) -> float:
        """Simulated seconds so far."""
        return self.now - START

    @property
    def excused(self) -> int:
        """Requests that a fault took away."""
        return sum(clients.excused for clients in self.clients.values())

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(clients.requests for clients in self.clients.values())

    # -- health checks ----------------------------------------------------------------------------

    def checks(self, site: Place, webs: Iterable[Web] | None = None) -> None:
        """Every balancer's health checks of ``webs`` follow, each at its own moment."""
        for balancer in site.balancers.values():
            for web in site.web.values() if webs is None else webs:
                delay = self.random.uniform(0.1, CHECK_SECONDS)
                self.at(delay, lambda b=balancer, w=web: self._check(b, w))

    def _check(self, balancer: Balancer, web: Web) -> None:
        """One health check, with the fence in it."""
        fence = balancer.live.release[web.farm]
        balancer.up[web.name] = web.alive and web.ready and web.release == fence

    # -- faults -----------------------------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """A server loses its power, or HAProxy ends on a balancer."""
        self.log(f"{node.name} dies")
        node.alive = False
        node.boots += 1
        node.died = self.now
        node.running.clear()
        node.busy_until = 0.0
        if isinstance(node, Web):
            node.shown = {site: was._replace(looked=None) for site, was in node.shown.items()}
            self.checks(self.places[node.site], [node])

    def revive(self, node: Node) -> None:
        """It comes back with what is on its disk; a memcached remembers (the worst case)."""
        if node.alive:
            return
        self.log(f"{node.name} comes back")
        node.alive = True
        node.back = self.now
        if isinstance(node, Balancer):
            node.restart()
        elif isinstance(node, Web):
            boots(node, self.broken_packages)
            node.busy_until = 0.0
        self.checks(self.places[node.site])

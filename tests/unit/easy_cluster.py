"""A cluster where every command does at once what it says, for tests of what is asked of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from webfarm.rollout import outline
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Hold
from webfarm.rollout.model import (
    BalancerView,
    FarmAtBalancer,
    Reply,
    Seen,
    ServerAtBalancer,
    ServerView,
)
from webfarm.topology import Topology, parse

CHANGES = ("haproxy_runtime.set_farms", "webfarm_release.switch", "webfarm_release.stage")


class EasyCluster:
    """Also the clock: time passes only when somebody sleeps.

    broken
        Releases whose switch fails.
    silent
        Nodes that do not answer.
    on_call
        Called with each function before it is done.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.hold: Hold | None = None
        self.now = 1_700_000_000.0
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.sessions: Any = {"2026.11.1": 60, "2026.11.2": 40}
        self.observed: list[tuple[str, str | None, bool]] = []
        self.calls: list[tuple[str, tuple[str, ...], Mapping[str, Any]]] = []
        self.on_call: Callable[[str], None] = lambda function: None
        first = topology.releases[topology.initial]
        versions = frozenset({first.php}), frozenset({first.webapp})
        self.servers = {
            name: ServerView(name, True, "", topology.initial, True, *versions)
            for site in topology.sites.values()
            for farm in site.farms.values()
            for name in farm.servers
        }
        self.balancers = {
            name: BalancerView(
                name,
                True,
                farms={
                    farm: FarmAtBalancer(
                        "open",
                        1,
                        topology.initial,
                        servers={server: ServerAtBalancer("UP") for server in plan.servers},
                    )
                    for farm, plan in site.farms.items()
                },
                newest=1,
                pick={farm: 128 for farm in site.farms},
                pick_newest={farm: 128 for farm in site.farms},
            )
            for site in topology.sites.values()
            for name in site.balancers
        }

    # -- the clock -------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    # -- the cluster -----------------------------------------------------------------------------

    def observe(self, site: str, farm: str | None, servers: bool = True) -> Seen:
        self.observed.append((site, farm, servers))
        if self.hold:
            self.hold.beat()
        self._check()
        plan = self.topology.sites[site]
        farms = [plan.farms[farm]] if farm else plan.farms.values()
        asked = [name for one in farms for name in one.servers] if servers else []
        return Seen(
            {name: self._view(self.balancers[name]) for name in plan.balancers},
            {name: self._view(self.servers[name]) for name in asked},
        )

    def _view(self, view: Any) -> Any:
        if view.id in self.silent:
            return replace(view, answered=False, why="no answer in 10 s")
        return view

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> dict[str, Reply]:
        self.on_call(function)
        self.calls.append((function, tuple(targets), arguments))
        self.now += 1.0
        return {name: self._answer(function, name, arguments) for name in targets}

    def changes(self) -> list[str]:
        return [function for function, _, _ in self.calls if function in CHANGES]

    def _answer(self, function: str, name: str, arguments: Mapping[str, Any]) -> Reply:
        if name in self.silent:
            return Reply(None, error="no answer in 10 s")
        if function == "haproxy_runtime.set_farms":
            self.balancers[name] = outline._set_farms(self.balancers[name], arguments)
        elif function == "webfarm_release.stage":
            view = self.servers[name]
            self.servers[name] = replace(
                view,
                php_versions=view.php_versions | {arguments["php"]},
                webapp_versions=view.webapp_versions | {arguments["webapp"]},
            )
        elif function == "webfarm_release.switch":
            if arguments["release"] in self.broken:
                return Reply(False, error="php-fpm does not start")
            self.servers[name] = replace(
                self.servers[name], release=arguments["release"], ready=True
            )
        elif function in ("farm_cache.flush", "farm_cache.stats"):
            done = {member: {"flushed": True, "items": 0} for member in arguments["servers"]}
            return Reply(True, done)
        elif function == "webfarm_sessions.count":
            return Reply(True, self.sessions)
        return Reply(True, {})

    def _check(self) -> None:
        """Every balancer's health checks, with the fence in them."""
        for balancer, view in self.balancers.items():
            farms = {}
            for name, farm in view.farms.items():
                servers = {}
                for server, at in farm.servers.items():
                    up = self.servers[server].runs(farm.release) and server not in self.silent
                    servers[server] = replace(at, status="UP" if up else "DOWN")
                farms[name] = replace(farm, servers=servers)
            self.balancers[balancer] = replace(view, farms=farms)


class Shop:
    """An easy cluster and the commands on it."""

    def __init__(self, folder: Path, pillar: Mapping[str, Any]) -> None:
        self.cluster = EasyCluster(parse(pillar))
        self.stop = False
        self.context = Context(
            topology=self.cluster.topology,
            cluster=self.cluster,
            clock=self.cluster,
            journal_path=folder / "webfarm" / "journal.sqlite",
            holder="alice",
            interrupted=lambda: self.stop,
        )

    def as_user(self, name: str) -> Context:
        """The same commands, typed by somebody else."""
        return replace(self.context, holder=name)

    def releases(self, site: str = "site1") -> dict[str, str]:
        """What each farm of the site is open on."""
        view = next(iter(self.cluster.topology.sites[site].balancers))
        farms = self.cluster.balancers[view].farms
        return {name: farm.release for name, farm in farms.items() if farm.state == "open"}


def pillar_of(base: Mapping[str, Any], **policy: Any) -> dict[str, Any]:
    """The example with a third release and this policy in both sites."""
    quick = {"soak_seconds": 1, "canary_soak_seconds": 2, "gates": {"min_requests": 0}}
    sites = {
        name: {**site, "policy": {"min_capacity": 0.5, **quick, **policy}}
        for name, site in base["sites"].items()
    }
    releases = {**base["releases"], "2026.11.10": {"php": "8.2.36", "webapp": "10"}}
    return {**base, "sites": sites, "releases": releases}

"""The nodes of a lab, read from the pillar that the cluster itself is built from."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .places import REPO
from .terminal import LabError

Role = str
"""master, primary, balancer, server, database, preproduction or client."""


@dataclass(frozen=True)
class Node:
    """One machine: its name is its minion id; the first address is the one that Salt uses."""

    name: str
    role: Role
    addresses: tuple[str, ...]
    site: str | None = None
    farm: str | None = None

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def minion(self) -> bool:
        return self.role != "client"


@dataclass(frozen=True)
class Topology:
    size: str
    nodes: tuple[Node, ...]
    domain: str
    public: tuple[str, ...]
    pillar: Mapping[str, Any]

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise LabError(f"the lab has no node {name!r}; it has {known}")

    def of_role(self, *roles: Role) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.role in roles)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.pillar["webfarm"]["sites"])

    @property
    def subnets(self) -> tuple[ipaddress.IPv4Network, ...]:
        """A /24 for each site, the primary and the public side, by the nodes' addresses."""
        return tuple(sorted({subnet(address) for n in self.nodes for address in n.addresses}))


def subnet(address: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(f"{address}/24", strict=False)


def sizes() -> tuple[str, ...]:
    """The sizes that the repository's pillar folder offers."""
    files = (REPO / "pillar").glob("*.sls")
    return tuple(sorted(path.stem for path in files if path.stem != "top"))


def load(size: str, folder: Path = REPO / "pillar") -> Topology:
    path = folder / f"{size}.sls"
    if not path.exists():
        offered = ", ".join(sizes()) or "none"
        raise LabError(f"no size {size!r}: {path} is not there (sizes: {offered})")
    return parse(size, yaml.safe_load(path.read_text()))


def parse(size: str, pillar: Mapping[str, Any]) -> Topology:
    """The nodes that ``pillar`` names, the master first and the client last."""
    cluster = pillar["webfarm"]
    store = cluster["store"]
    nodes = [Node(store["minion"], "master", (store["address"],))]
    public: list[str] = []
    for name, entry in cluster["primary"]["balancers"].items():
        addresses = [entry["address"]]
        if entry.get("public", entry["address"]) != entry["address"]:
            addresses.append(entry["public"])
        public.append(addresses[-1])
        nodes.append(Node(name, "primary", tuple(addresses)))
    for site_name, site in cluster["sites"].items():
        database = site["database"]
        if database.get("minion"):
            nodes.append(Node(database["minion"], "database", (database["address"],), site_name))
        for name, entry in site["balancers"].items():
            nodes.append(Node(name, "balancer", (entry["address"],), site_name))
        for farm_name, farm in site["farms"].items():
            for name, entry in farm["servers"].items():
                nodes.append(Node(name, "server", (entry["address"],), site_name, farm_name))
    for name, entry in ((cluster.get("preproduction") or {}).get("servers") or {}).items():
        nodes.append(Node(name, "preproduction", (entry["address"],)))
    client = str(subnet(public[0]).network_address + 100)
    nodes.append(Node("client", "client", (client,)))
    return Topology(size, tuple(nodes), cluster["primary"]["domain"], tuple(public), pillar)

"""The wires: a switch namespace with one bridge per subnet, and a namespace for each node.

Nothing of it is in the host's own network namespace, so no address of the host can collide.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .places import PREFIX
from .terminal import run, wait_until
from .topology import Node, Topology, subnet

SWITCH = f"{PREFIX}switch"
NAMESPACES = Path("/run/netns")


def namespace(node: str) -> str:
    return f"{PREFIX}{node}"


def path(node: str) -> Path:
    return NAMESPACES / namespace(node)


def _bridge(net: ipaddress.IPv4Network) -> str:
    return f"br{str(net.network_address).replace('.', '-')}"[:15].rstrip("-")


def _batch(name: str, lines: Sequence[str]) -> None:
    run(["ip", "-n", name, "-batch", "-"], stdin="\n".join(lines) + "\n")


def _sysctl(name: str, *settings: str) -> None:
    run(["ip", "netns", "exec", name, "sysctl", "-q", "-w", *settings])


def build(topology: Topology) -> None:
    """The switch, its bridges, and every node's namespace with its interfaces up."""
    run(["ip", "netns", "add", SWITCH])
    lines = ["link set lo up"]
    for net in topology.subnets:
        bridge = _bridge(net)
        lines += [
            f"link add {bridge} type bridge forward_delay 0",
            f"addr add {net.network_address + 1}/24 dev {bridge}",
            f"link set {bridge} up",
        ]
    _batch(SWITCH, lines)
    # No reverse path filter: a primary balancer answers on the interface its route says.
    _sysctl(SWITCH, "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
    for number, node in enumerate(topology.nodes):
        _wire(number, node)


def _wire(number: int, node: Node) -> None:
    name = namespace(node.name)
    run(["ip", "netns", "add", name])
    switch_side, node_side = [], ["link set lo up"]
    for index, address in enumerate(node.addresses):
        port, net = f"p{number}-{index}", subnet(address)
        switch_side += [
            f"link add {port} type veth peer name eth{index} netns {name}",
            f"link set {port} master {_bridge(net)}",
            f"link set {port} alias {node.name}",
            f"link set {port} up",
        ]
        node_side += [f"addr add {address}/24 dev eth{index}", f"link set eth{index} up"]
    gateway = subnet(node.address).network_address + 1
    node_side.append(f"route add default via {gateway}")
    _batch(SWITCH, switch_side)
    _batch(name, node_side)
    _sysctl(name, "net.ipv4.ip_local_port_range=12000 65000")


def _ports(topology: Topology, node: Node) -> list[str]:
    number = topology.nodes.index(node)
    return [f"p{number}-{index}" for index in range(len(node.addresses))]


def set_cables(topology: Topology, node: Node, plugged: bool) -> None:
    """Pull out or put back every cable of a node, at the switch's side.

    Put back, they carry when this returns: the kernel may take a second to notice.
    """
    state = "up" if plugged else "down"
    ports = _ports(topology, node)
    _batch(SWITCH, [f"link set {port} {state}" for port in ports])
    for port in ports if plugged else ():
        wait_until(partial(_carries, port), 30, f"the cable {port} of {node.name} to carry")


def _carries(port: str) -> bool:
    shown = run(["ip", "-n", SWITCH, "-details", "-oneline", "link", "show", "dev", port]).stdout
    return "bridge_slave state forwarding" in shown


def unplugging(topology: Topology, node: Node) -> str:
    """The shell script that pulls out every cable of a node."""
    ports = _ports(topology, node)
    return "".join(f"ip -n {SWITCH} link set {port} down\n" for port in ports)


def cables_plugged(topology: Topology, node: Node) -> bool:
    first = _ports(topology, node)[0]
    return "state DOWN" not in run(["ip", "-n", SWITCH, "-o", "link", "show", first]).stdout


def existing() -> list[str]:
    """Every network namespace of any lab on this host."""
    return sorted(entry.name for entry in NAMESPACES.glob(f"{PREFIX}*"))


def remove_all() -> None:
    for name in existing():
        done = run(["ip", "netns", "delete", name], check=False)
        if done.returncode:  # a leftover of a creation that was killed half-way
            run(["umount", "-l", NAMESPACES / name], check=False)
            (NAMESPACES / name).unlink(missing_ok=True)

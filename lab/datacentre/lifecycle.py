"""Build a lab, look at it, take it away."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import cgroup, credentials, disks, image, machine, network, php, source, topology
from .places import LAB_FILE, LOCK_FILE, STATE, root
from .saltstack import Salt, prepare
from .terminal import LabError, phase, say
from .topology import Node, Topology

WAVE = 4
HOST_LIMITS = {
    Path("/proc/sys/fs/inotify/max_user_instances"): 8192,
    Path("/proc/sys/fs/inotify/max_user_watches"): 524288,
}


@contextmanager
def exclusive() -> Iterator[None]:
    """One build or removal at a time."""
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    with LOCK_FILE.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another lab/lab up or down is at work; wait for its end") from None
        yield


def remembered() -> dict[str, Any] | None:
    """What `up` wrote about the lab that is there; None: no lab."""
    try:
        facts: dict[str, Any] = json.loads(LAB_FILE.read_text())
    except (OSError, ValueError):
        return None
    return facts


def _remember(**facts: Any) -> None:
    LAB_FILE.write_text(json.dumps({**(remembered() or {}), **facts}, indent=2) + "\n")


def current() -> Topology:
    """The topology of the lab that is there, as it was built."""
    facts = remembered()
    if facts is None:
        raise LabError("there is no lab; build one with: lab/lab up")
    return topology.parse(facts["size"], facts["pillar"])


def require_root() -> None:
    if os.geteuid():
        raise LabError("the lab needs root: it makes namespaces, mounts and containers")


def up(size: str) -> None:
    with exclusive():
        facts = remembered()
        whole = bool(facts and facts.get("ready") and disks.there())
        if facts and whole and facts["size"] == size:
            _again(topology.parse(size, facts["pillar"]))
            return
        if facts or machine.containers() or network.existing():
            what = f"a {facts['size']} lab" if facts else "leftovers of a lab"
            if whole:
                raise LabError(f"{what} is up; take it away first: lab/lab down")
            with phase(f"{what}, not whole: removing"):
                _remove()
        begin = time.monotonic()
        _build(size)
        say(f"the lab is up after {time.monotonic() - begin:.0f} s; try: lab/lab status")
    status()


def _again(plan: Topology) -> None:
    nodes_off = [node for node in plan.nodes if machine.init(node.name) is None]
    off = [node.name for node in nodes_off]
    if off:
        _raise_limits()
        for node in nodes_off:
            network.set_cables(plan, node, plugged=True)
        with phase(f"the lab is there; starting {', '.join(off)}"):
            for begin in range(0, len(off), WAVE):
                machine.boot_wave(off[begin : begin + WAVE])
            Salt(plan).wait_for_minions()
    else:
        say(f"the {plan.size} lab is up already, nothing to do (lab/lab sync brings new code)")


def _build(size: str) -> None:
    plan = topology.load(size)
    base = image.build()
    trees = php.build()
    with phase(f"{len(plan.nodes)} disks and {len(plan.subnets)} networks"):
        _raise_limits()
        STATE.mkdir(parents=True, exist_ok=True)
        _remember(size=size, ready=False, begun=time.time(), image=str(base))
        _remember(pillar=dict(plan.pillar), php=list(trees))
        network.build(plan)
        disks.make_store(base)
        for node in plan.nodes:
            disks.make(node.name)
        _hosts(plan)
    salt = Salt(plan)
    with phase("certificates, keys, the master's files"):
        secrets = {site: {"database_password": credentials.password()} for site in plan.sites}
        secrets["tls"] = {"tls_pem": credentials.certificate(plan.domain, plan.public)}
        prepare(plan)
        _trust(plan)
        source.copy_repository(salt.master)
        source.copy_pillar(salt.master, plan, list(trees))
        source.write_secrets(salt.master, secrets)
        source.copy_trees(salt.master, trees, source.webapps())
    with phase("boot"):
        machine.boot_wave([salt.master])
        salt.wait_for_master()
        names = [node.name for node in plan.nodes if node.name != salt.master]
        for begin in range(0, len(names), WAVE):
            machine.boot_wave(names[begin : begin + WAVE])
    with phase("all minions answer"):
        salt.wait_for_minions()
    with phase("all minions have the modules"):
        salt.wait_for_modules()
    highstate(plan)
    with phase("all minions answer with their new configuration"):
        salt.wait_for_minions()


def highstate(plan: Topology) -> int:
    """Every role's highstate in the order in which they need each other."""
    salt = Salt(plan)
    changed = 0
    facts = remembered() or {}
    for title, roles in (
        ("master and release store", ("master",)),
        ("databases", ("database",)),
        ("web servers", ("server", "preproduction")),
        ("site balancers", ("balancer",)),
        ("primary balancers", ("primary",)),
    ):
        nodes = plan.of_role(*roles)
        if not nodes:
            continue
        with phase(f"highstate: {title}"):
            changed += salt.highstate(nodes)
            if roles == ("master",):
                salt.release(facts["php"], list(source.webapps()))
    _remember(ready=True)
    return changed


def _raise_limits() -> None:
    """Give the host's kernel room for so many machines: without it some hang as they boot."""
    for path, least in HOST_LIMITS.items():
        if int(path.read_text()) < least:
            path.write_text(f"{least}\n")


def _hosts(plan: Topology) -> None:
    lines = ["127.0.0.1 localhost"]
    lines += [f"{node.address} {node.name}" for node in plan.nodes]
    lines += [f"{address} {plan.domain}" for address in plan.public]
    for node in plan.nodes:
        (root(node.name) / "etc/hosts").write_text("\n".join(lines) + "\n")


def _trust(plan: Topology) -> None:
    """Let the clients trust the lab's CA, as they trust one on the Internet."""
    authority = credentials.AUTHORITY.read_text()
    for node in plan.of_role("client"):
        etc = root(node.name) / "etc/ssl"
        (etc / "lab-ca.pem").write_text(authority)
        with (etc / "certs/ca-certificates.crt").open("a") as bundle:
            bundle.write(authority)


def _remove() -> None:
    machine.kill_all()
    network.remove_all()
    disks.remove_store()
    machine.forget_all()
    cgroup.remove_all()
    for entry in STATE.glob("*"):
        if entry != LOCK_FILE:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def down() -> None:
    """Remove every container, mount, namespace and file of every lab on this host."""
    with exclusive(), phase("the lab and all leftovers: removing"):
        _remove()


def sync() -> None:
    """Bring the repository's working tree, and the pillar, to the master and the minions."""
    plan = current()
    salt = Salt(plan)
    facts = remembered() or {}
    with phase("working tree to the master"):
        changed = source.copy_repository(salt.master)
        fresh = topology.load(plan.size)
        source.copy_pillar(salt.master, fresh, facts["php"])
        source.copy_trees(salt.master, {}, source.webapps())
        _remember(pillar=dict(fresh.pillar))
    if changed:
        with phase("modules synced"):
            salt.sync()
    with phase("pillar refreshed"):
        salt.call(salt.minions, "saltutil.refresh_pillar")


def status() -> None:
    """Print a table of the nodes; exit code 0 only if all are on and the lab is whole."""
    facts = remembered()
    plan = current()
    print(f"size {plan.size}, {'ready' if facts and facts.get('ready') else 'not whole'}")
    rows: list[tuple[str, ...]] = [("node", "role", "address", "power", "cables")]
    rows += [_row(plan, node) for node in plan.nodes]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _row(plan: Topology, node: Node) -> tuple[str, ...]:
    power = "on" if machine.init(node.name) else "off"
    cables = "plugged" if network.cables_plugged(plan, node) else "cut"
    return node.name, node.role, " ".join(node.addresses), power, cables

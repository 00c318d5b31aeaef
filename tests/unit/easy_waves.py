"""The easy cluster with packages, snapshots and reboots, for tests of waves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from webfarm.rollout.model import Reply, Seen, ServerAtBalancer
from webfarm.rollout.waves.values import OsView

from tests.unit.easy_cluster import EasyCluster, Shop

OLD, NEW, DIGEST = "1.0", "2.0", "sha256:" + "a" * 64


class EasyOs(EasyCluster):
    """Every server has the package ``tool`` in version 1.0, and 2.0 can be had.

    bad
        Servers on which a service does not start with 2.0.
    refuses
        Servers that refuse to install.
    never
        Servers that do not come back from a reboot.
    digests
        Server -> what it would install, instead of what the others would.
    needs_reboot
        What an install says.
    """

    def __init__(self, topology: Any) -> None:
        super().__init__(topology)
        self.bad: set[str] = set()
        self.refuses: set[str] = set()
        self.never: set[str] = set()
        self.digests: dict[str, str] = {}
        self.disruptive: dict[str, str] = {}
        self.needs_reboot = True
        self.affects: dict[str, list[str]] = {}
        self.provider = "btrfs"
        self.boots = dict.fromkeys(self.servers, 1)
        self.snapshots: dict[str, dict[str, str]] = {name: {} for name in self.servers}
        self.next_root: dict[str, str] = {}
        self.most_out: dict[str, int] = {}
        for name, view in self.servers.items():
            os = OsView({"tool": OLD}, self.provider)
            self.servers[name] = replace(view, os=os, boot_id=f"{name}-1")

    def observe_members(
        self, site: str, servers: Sequence[str], arguments: Mapping[str, Any]
    ) -> Seen:
        seen = self.observe(site, None)
        return Seen(seen.balancers, {name: seen.servers[name] for name in servers})

    def has(self, name: str) -> str:
        os = self.servers[name].os
        assert os is not None
        return os.installed["tool"]

    def out(self) -> set[str]:
        return {
            name
            for view in self.balancers.values()
            for farm in view.farms.values()
            for name, at in farm.servers.items()
            if at.taken
        }

    def _answer(self, function: str, name: str, arguments: Mapping[str, Any]) -> Reply:
        if name in self.silent:
            return Reply(None, error="no answer in 10 s")
        module, _, verb = function.partition(".")
        if module in ("webfarm_os", "webfarm_packages", "webfarm_snapshot"):
            return self._system(verb, name, arguments)
        if function == "haproxy_runtime.set_servers":
            self._set_servers(name, arguments["states"])
            return Reply(True, {})
        return super()._answer(function, name, arguments)

    def _set_servers(self, balancer: str, states: Mapping[str, Mapping[str, str]]) -> None:
        view = self.balancers[balancer]
        farms = dict(view.farms)
        for farm, them in states.items():
            servers = dict(farms[farm].servers)
            for name, state in them.items():
                servers[name] = replace(servers[name], admin=state, taken=state != "ready")
            farms[farm] = replace(farms[farm], servers=servers)
            taken = sum(at.taken for at in servers.values())
            self.most_out[farm] = max(self.most_out.get(farm, 0), taken)
        self.balancers[balancer] = replace(view, farms=farms)

    def _system(self, verb: str, name: str, arguments: Mapping[str, Any]) -> Reply:
        view = self.servers[name]
        assert view.os is not None
        if verb == "space":
            return Reply(True, {"provider": self.provider, "ok": True, "free_percent": 50.0})
        if verb == "pretend":
            digest = self.digests.get(name, DIGEST)
            new = {"from": OLD, "to": NEW, "digest": digest, "size": 1}
            changes = {"tool": new} if self.has(name) == OLD else {}
            return Reply(True, {"changes": changes, "disruptive": self.disruptive})
        if verb == "take":
            self.snapshots[name][arguments["name"]] = self.has(name)
            self._set(name, snapshots=frozenset(self.snapshots[name]))
        if verb == "install":
            if name in self.refuses:
                return Reply(False, error="tool: the digest differs; nothing was changed")
            assert arguments["expected"] == {"tool": {"to": NEW, "digest": DIGEST}}
            self._set(name, installed={"tool": NEW})
            if name in self.bad:
                self._set(name, failed=("webfarm-php-fpm",))
            done = {"reboot": self.needs_reboot, "changed": {}, "affects": self.affects}
            return Reply(True, done)
        if verb == "restore":
            self.next_root[name] = arguments["name"]
        if verb == "reboot":
            if name in self.never:
                self.silent.add(name)
                return Reply(True, {"boot_id": view.boot_id})
            self.boots[name] += 1
            if snapshot := self.next_root.pop(name, ""):
                was = self.snapshots[name][snapshot]
                self._set(name, restored=snapshot, installed={"tool": was}, failed=())
            self.servers[name] = replace(self.servers[name], boot_id=f"{name}-{self.boots[name]}")
        if verb == "deleted":
            return Reply(True, [{"pid": 7, "command": "cron", "unit": "cron", "files": ["/x"]}])
        return Reply(True, {})

    def _set(self, name: str, **changes: Any) -> None:
        os = self.servers[name].os
        assert os is not None
        self.servers[name] = replace(
            self.servers[name], os=replace(os, provider=self.provider, **changes)
        )

    def _check(self) -> None:
        super()._check()
        for balancer, view in self.balancers.items():
            farms = {}
            for farm, at in view.farms.items():
                servers = {
                    name: replace(one, status=_status(one)) for name, one in at.servers.items()
                }
                farms[farm] = replace(at, servers=servers)
            self.balancers[balancer] = replace(view, farms=farms)


def _status(at: ServerAtBalancer) -> str:
    if at.admin == "maint":
        return "MAINT"
    return "DRAIN" if at.admin == "drain" and at.status == "UP" else at.status


class OsShop(Shop):
    """The easy cluster of waves and the commands on it."""

    cluster: EasyOs

    def __init__(self, folder: Path, pillar: Mapping[str, Any]) -> None:
        super().__init__(folder, pillar)
        self.cluster = EasyOs(self.context.topology)
        self.context = replace(self.context, cluster=self.cluster, clock=self.cluster)

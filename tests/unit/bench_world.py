"""Preproduction in memory: servers that do what they are told, an archive, faults on request.

The servers check each hold with the real :class:`webfarm.hold.Holds`, so a change without a look,
or of a holder that was replaced, is refused as a minion would.
"""

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from webfarm import hold
from webfarm.certificates import commands
from webfarm.certificates.settings import Certifying, Check
from webfarm.certificates.traffic import Answer, Soaked
from webfarm.errors import WebfarmError
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Hold, Process
from webfarm.rollout.model import Reply
from webfarm.topology import parse

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
TREES = {"php": "1" * 64, "webapp": "2" * 64}


class Killed(BaseException):
    """The process ends at this instant."""


def with_preproduction(pillar: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Two profiles: ws2 of each farm is an r660, all others are r640; a server for each."""
    data: dict[str, Any] = copy.deepcopy(dict(pillar))
    for site in data["sites"].values():
        for farm in site["farms"].values():
            for name, server in farm["servers"].items():
                server["hw_profile"] = "r660" if name.endswith("ws2") else "r640"
    data["preproduction"] = {
        "servers": {
            "pre1": {"address": "10.77.0.51", "hw_profile": "r640"},
            "pre2": {"address": "10.77.0.52", "hw_profile": "r660"},
        },
        "reboot_seconds": 60,
        **settings,
    }
    return data


class Machine:
    """One server. ``archive``: name -> (version, digest), of which ``needs`` names dependencies."""

    def __init__(self, name: str, profile: str, folder: Path, world: "World") -> None:
        self.name, self.profile, self.world = name, profile, world
        self.holds = hold.Holds(folder / name)
        self.boot = str(uuid.uuid4())
        self.installed = {"openssl": "3.0.1", "libssl3": "3.0.1", "nginx": "1.22.0", "bash": "5"}
        self.running = dict(self.installed)
        self.altered: list[str] = []
        self.release: str | None = "2026.11.1"
        self.ready = True
        self.down = 0  # looks for which it is silent
        self.trees: dict[str, str] = {}

    def do(self, function: str, given: dict[str, Any]) -> Any:
        proof = given.pop("hold", None)
        name = function.replace(".", "_")
        if function in ("webfarm_release.status", "webfarm_release.stage"):
            assert proof, f"{function} without a hold"
            self.holds.see(proof)
            return getattr(self, name)(**given)
        changes = ("webfarm_packages.install", "webfarm_release.switch", "webfarm_os.restart")
        if function in (*changes, "webfarm_os.reboot"):
            assert proof, f"{function} without a hold"
            look = ("webfarm_release.status", self.name)
            assert self.world.calls[-2] == look, f"{function} without a look just before"
            with self.holds.under(proof):
                return getattr(self, name)(**given)
        assert proof is None
        return getattr(self, name)(**given)

    # -- releases --------------------------------------------------------------------------------

    def webfarm_release_status(self) -> Any:
        pair = self.world.topology.releases.get(self.release or "")
        return {
            "release": self.release,
            "php": pair and pair.php,
            "webapp": pair and pair.webapp,
            "ready": self.ready,
            "why": "" if self.ready else "php-fpm does not answer",
            "boot_id": self.boot,
        }

    def webfarm_release_stage(
        self, release: str, php: str, webapp: str, deadline: float, digests: Any = None
    ) -> Any:
        for kind, version in (("php", php), ("webapp", webapp)):
            self.trees[f"{kind} {version}"] = self.world.trees[kind]
            if digests and digests[kind] != self.world.trees[kind]:
                raise WebfarmError(f"the tree of {kind} {version} has another digest")
        return {"php": "installed", "webapp": "present", "bytes": 1}

    def webfarm_release_switch(self, release: str, php: str, webapp: str) -> Any:
        assert f"php {php}" in self.trees and f"webapp {webapp}" in self.trees
        self.release = release
        return self.webfarm_release_status()

    def php_version_verify(self, version: str, digest: str | None = None) -> Any:
        return {"version": version, "digest": self.trees[f"php {version}"]}

    def webapp_verify(self, version: str, digest: str | None = None) -> Any:
        return {"version": version, "digest": self.trees[f"webapp {version}"]}

    # -- packages --------------------------------------------------------------------------------

    def _changes(self, packages: Sequence[str]) -> dict[str, Any]:
        names = [word.partition("=")[0] for word in packages]
        names += [need for name in names for need in self.world.needs.get(name, ())]
        return {
            name: {
                "from": self.installed.get(name),
                "to": self.world.archive[name][0],
                "digest": self.world.archive[name][1],
                "size": 1,
            }
            for name in names
            if self.installed.get(name) != self.world.archive[name][0]
        }

    def webfarm_packages_pretend(self, packages: list[str]) -> Any:
        return {
            "manager": "apt",
            "profile": self.profile,
            "changes": (changes := self._changes(packages)),
            "affects": self.world.affects if changes else {},
            "disruptive": {},
            "waiting": [],
            "boot_id": self.boot,
        }

    def webfarm_packages_install(self, packages: list[str], expected: Any) -> Any:
        changes = self._changes(packages)
        meant = {name: {"to": one["to"], "digest": one["digest"]} for name, one in changes.items()}
        if meant != expected:
            raise WebfarmError(f"{', '.join(changes)}: not the digest; nothing was changed")
        self.installed |= {name: one["to"] for name, one in changes.items()}
        return {
            "changed": {n: {"from": one["from"], "to": one["to"]} for n, one in changes.items()},
            "affects": self.world.affects,
            "reboot": self.world.reboot,
            "waiting": [],
        }

    def webfarm_packages_status(self) -> Any:
        found = dict(self.installed)
        return {
            "manager": "apt",
            "profile": self.profile,
            "installed": found,
            "boot_id": self.boot,
        }

    def webfarm_packages_verify(self, packages: list[str]) -> Any:
        return ["missing     /usr/share/doc/nginx/copyright", *self.altered]

    def webfarm_packages_deleted(self) -> Any:
        old = [name for name in self.world.sticky if self.running.get(name) != self.installed[name]]
        return [{"pid": 7, "command": name, "unit": "x.service", "files": ["/x"]} for name in old]

    # -- the system ------------------------------------------------------------------------------

    def webfarm_os_restart(self, units: list[str]) -> Any:
        assert units
        if self.world.broken_service:
            raise WebfarmError("nginx.service does not start")
        sticky = {name: self.running[name] for name in self.world.sticky}
        self.running = {**self.installed, **sticky}
        return {"restarted": units}

    def webfarm_os_reboot(self, boot_id: str) -> Any:
        assert boot_id == self.boot
        before, self.boot = self.boot, str(uuid.uuid4())
        self.running = dict(self.installed)
        self.down = 2
        return {"boot_id": before, "reboots": True}

    def webfarm_preproduction_command(self, command: list[str], deadline: float) -> Any:
        return {"code": self.world.code, "output": "all is\nwell"}


class World:
    """The servers, the clock, the traffic; what an operator types."""

    def __init__(self, folder: Path, pillar: Mapping[str, Any]) -> None:
        self.topology = parse(pillar)
        self.hold: Hold | None = None
        self.now = 1_700_000_000.0
        self.archive = {
            "openssl": ("3.0.2", A),
            "libssl3": ("3.0.2", B),
            "nginx": ("1.22.1", C),
            "bash": ("5", A),
        }
        self.needs = {"openssl": ("libssl3",)}
        self.affects: dict[str, Any] = {"nginx.service": ["libssl3"]}
        self.sticky: list[str] = []
        self.reboot = False
        self.broken_service = False
        self.code = 0
        self.trees = dict(TREES)
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[int, str, Machine], None] = lambda number, function, machine: None
        self.after: Callable[[int, str, Machine, Reply], Reply] = lambda n, f, m, reply: reply
        self.answer: Callable[[Machine, Check], Answer] = lambda machine, check: Answer(0.01)
        self.soaking: Callable[[Machine], Soaked | None] = lambda machine: None
        self.stop = False
        self.machines = {
            name: Machine(name, server.hw_profile, folder / "holds", self)
            for name, server in self.topology.preproduction.servers.items()
        }
        self.pid = 1
        self.dead: set[int] = set()
        self.context = Context(
            topology=self.topology,
            cluster=self,  # type: ignore[arg-type]
            clock=self,
            journal_path=folder / "webfarm" / "journal.sqlite",
            holder="alice",
            interrupted=lambda: self.stop,
            digests=lambda kind, version: self.trees[kind],
            process=self._process(1),
            dead=lambda process: process.pid in self.dead,
        )

    def _process(self, pid: int) -> Process:
        return Process("master", pid, str(pid), "boot")

    # -- the clock -------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.hold:
            self.hold.beat()

    # -- minions ---------------------------------------------------------------------------------

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> Mapping[str, Reply]:
        (name,) = targets
        machine = self.machines[name]
        number = len(self.calls)
        self.calls.append((function, name))
        self.before(number, function, machine)
        self.now += 0.5
        if machine.down:
            machine.down -= 1
            return {name: Reply(None, error="no answer in 15 s")}
        try:
            reply = Reply(True, copy.deepcopy(machine.do(function, copy.deepcopy(dict(arguments)))))
        except WebfarmError as error:
            reply = Reply(False, str(error), str(error))
        return {name: self.after(number, function, machine, reply)}

    # -- traffic ---------------------------------------------------------------------------------

    def smoke(self, server: str, check: Check) -> Answer:
        return self.answer(self.machines[server], check)

    def soak(self, server: str, settings: Certifying, beat: Callable[[], bool]) -> Soaked:
        for _ in range(4):
            self.now += settings.soak_seconds / 4
            if beat():
                return Soaked(1, 0, 0.01, 0.02, 1.0, stopped=True)
        found = self.soaking(self.machines[server])
        return found or Soaked(settings.soak_requests, 0, 0.01, 0.02, settings.soak_seconds)

    # -- what is typed ---------------------------------------------------------------------------

    def certify(self, **given: Any) -> dict[str, Any]:
        return commands.certify(self.context, traffic=self, **given)

    def killed(self, **given: Any) -> bool:
        """Certify in a process that may be killed; the next one is another."""
        try:
            self.certify(**given)
        except Killed:
            self.dead.add(self.pid)
            self.pid += 1
            self.context = replace(self.context, process=self._process(self.pid))
            self.before = lambda number, function, machine: None
            self.after = lambda number, function, machine, reply: reply
            self.hold = None
            self.calls.clear()
            for machine in self.machines.values():
                machine.down = 0
            return True
        return False

    def standing(self) -> list[str]:
        """The states of all certificates, newest first."""
        return [one["state"] for one in commands.certificates(self.context)["certificates"]]

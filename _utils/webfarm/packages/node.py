"""A machine's packages: say what a change would do, make it when it is exactly what was certified.

The same for every package manager; which one this is, is in :func:`manager`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from webfarm import hw_profiles
from webfarm.errors import WebfarmError
from webfarm.hw_profiles import HwProfile
from webfarm.packages import disruption, php_tree, running
from webfarm.packages.apt import Apt
from webfarm.packages.changes import Binary, Change, compare, expected
from webfarm.packages.portage import Portage
from webfarm.packages.settings import Packages
from webfarm.packages.wanted import wanted
from webfarm.topology import Topology

Under = Callable[[str | None], AbstractContextManager[None]]


class Manager(Protocol):
    """What a package manager can do."""

    name: str

    def resolve(
        self, words: Sequence[str], certified: Mapping[str, Binary] | None = None
    ) -> list[Change]:
        """What would be changed, dependencies included."""

    def world(self) -> list[Change]:
        """What an upgrade of everything would change."""

    def install(
        self, words: Sequence[str], changes: Sequence[Change], certified: Mapping[str, Binary]
    ) -> None:
        """Make these changes, and no others."""

    def build(self, words: Sequence[str], cflags: str, rebuild: bool) -> dict[str, Any]:
        """Build what the words need."""

    def publish(self) -> dict[str, Any]:
        """Serve what was built."""

    def configure(self, test: bool = False) -> dict[str, Any]:
        """Use the profile's binary host."""

    def installed(self) -> dict[str, str]:
        """Every package with its version."""

    def owned(self, changes: Iterable[Change]) -> dict[str, frozenset[str]]:
        """The files of the packages that would change."""

    def sync(self) -> str:
        """Fetch the indexes."""

    def waiting(self) -> list[str]:
        """Configuration files to merge."""

    def verify(self, names: Sequence[str]) -> list[str]:
        """What differs from what was installed."""

    def news(self) -> list[dict[str, str]]:
        """What the distribution wants to be read."""

    def reboot(self) -> bool:
        """Whether a package has asked for a reboot."""


class Node:
    """This machine.

    manager
        Its package manager.
    profile
        The name of its hardware profile.
    profiles
        Those of the pillar; when there are some, this machine must be of its own.
    under
        :meth:`webfarm.hold.Holds.under`: holds off a rollout that is newer while it changes.
    """

    def __init__(
        self,
        manager: Manager,
        settings: Packages,
        profile: str,
        profiles: Mapping[str, HwProfile],
        under: Under,
    ) -> None:
        self.manager = manager
        self.settings = settings
        self.profile = profile
        self._profiles = profiles
        self._under = under

    def pretend(self, packages: object) -> dict[str, Any]:
        """What installing the set would change and disturb; changes nothing."""
        self.check_machine()
        return self._told(self.manager.resolve(wanted(packages)))

    def world(self) -> dict[str, Any]:
        """The same for an upgrade of everything."""
        return self._told(self.manager.world())

    def install(self, packages: object, certified: object, hold: str | None) -> dict[str, Any]:
        """Install the set when this gives exactly what was certified; else nothing is changed."""
        self.check_machine()
        words = wanted(packages)
        binaries = expected(certified)
        with self._under(hold):
            before = self.manager.installed()
            changes = self.manager.resolve(words, binaries)
            compare(changes, binaries, before)
            affected = self._disruption(changes)
            if changes:
                self.manager.install(words, changes, binaries)
            after = self.manager.installed() if changes else before
        wrong = [
            f"{change.name} is {after.get(change.name)}, expected {change.new}"
            for change in changes
            if after.get(change.name) != change.new
        ]
        if wrong:
            raise WebfarmError(
                f"{self.manager.name} said that it installed them, but {'; '.join(wrong)}: look at"
                " `journalctl -t webfarm-packages`"
            )
        kernel = any(disruption.matching(c.name, self.settings.reboot) for c in changes)
        return {
            "changed": {c.name: {"from": c.old, "to": c.new} for c in changes},
            "affects": {unit: list(names) for unit, names in affected.affects.items()},
            "reboot": bool(changes) and (kernel or self.manager.reboot()),
            "waiting": self.manager.waiting(),
        }

    def build(self, packages: object, rebuild: bool) -> dict[str, Any]:
        """Build the set for this machine's profile, on a machine of this profile."""
        words = wanted(packages)
        self.check_machine()
        cflags = self._profiles.get(self.profile, HwProfile()).cflags
        return self.manager.build(words, cflags, rebuild)

    def export_php(self, package: str, version: str, name: str | None) -> dict[str, Any]:
        """Serve the PHP of a published package as a tree for the release store."""
        (atom,) = wanted([f"={package}-{version}"])
        if not isinstance(self.manager, Portage):
            raise WebfarmError("PHP is exported from Portage's packages only; nothing was exported")
        portage = self.manager
        done = php_tree.export(
            lambda root: portage.merge_into(root, package, version),
            name or version,
            portage.public.parent,
        )
        served = (portage.address or "").rpartition("/")[0]
        return {
            "version": done.version,
            "package": atom,
            "url": f"{served}/{php_tree.FOLDER}/{done.path.name}",
            "digest": done.digest,
            "archive": done.archive,
        }

    def check_machine(self) -> None:
        """Raise :class:`WebfarmError` when this machine is not of its profile."""
        if self._profiles:
            hw_profiles.check(self._profiles, self.profile, hw_profiles.machine())

    def verify(self, packages: object) -> list[str]:
        """What differs from what the packages installed; of all packages when none is named."""
        return self.manager.verify(wanted(packages) if packages else ())

    def status(self) -> dict[str, Any]:
        """What is installed."""
        return {
            "manager": self.manager.name,
            "profile": self.profile,
            "installed": self.manager.installed(),
            "boot_id": boot_id(),
        }

    def _told(self, changes: list[Change]) -> dict[str, Any]:
        found = self._disruption(changes)
        return {
            "manager": self.manager.name,
            "profile": self.profile,
            "changes": {change.name: change.shown() for change in changes},
            "affects": {unit: list(names) for unit, names in found.affects.items()},
            "disruptive": dict(found.disruptive),
            "waiting": self.manager.waiting(),
            "boot_id": boot_id(),
        }

    def _disruption(self, changes: list[Change]) -> disruption.Disruption:
        owned = self.manager.owned(changes)
        return disruption.look(owned, running.processes() if changes else (), self.settings)


def manager(settings: Packages, grains: Mapping[str, Any]) -> str:
    """``apt`` or ``portage``: the pillar's choice, or by the grain ``os_family``."""
    if settings.manager:
        return settings.manager
    family = grains.get("os_family")
    found = {"Debian": "apt", "Gentoo": "portage"}.get(str(family))
    if found is None:
        raise WebfarmError(
            f"packages of os_family {family!a:.40} cannot be changed: Debian and Gentoo are"
            " supported; set webfarm:packages:manager in the pillar when this is one of them"
        )
    return found


def deleted() -> list[dict[str, Any]]:
    """The processes that still run from files which were deleted or replaced."""
    found = [
        {
            "pid": process.pid,
            "command": process.command,
            "unit": process.unit,
            "files": sorted(process.deleted),
        }
        for process in running.processes()
        if process.deleted
    ]
    return sorted(found, key=lambda one: one["pid"])


def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def of(cluster: Topology, minion: str, grains: Mapping[str, Any], under: Under) -> Node:
    """The machine ``minion`` as the topology describes it."""
    settings = cluster.packages
    profile = getattr(cluster.node(minion).node, "hw_profile", "default")
    made: Manager
    if manager(settings, grains) == "apt":
        made = Apt()
    else:
        made = Portage(settings.portage, profile, address(cluster, profile))
    return Node(made, settings, profile, cluster.hw_profiles, under)


def address(cluster: Topology, profile: str) -> str | None:
    """Where the binary host of a profile is: its first preproduction server."""
    port = cluster.packages.portage.port
    for server in cluster.preproduction.servers.values():
        if server.hw_profile == profile:
            host = f"[{server.address}]" if ":" in server.address else server.address
            return f"http://{host}:{port}/{profile}"
    return None

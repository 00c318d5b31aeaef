"""A machine's packages: say what a change would do, make it when it is exactly what was certified.

The same for every package manager; which one this is, is in :func:`manager`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from webfarm.errors import WebfarmError
from webfarm.packages import disruption, running
from webfarm.packages.apt import Apt
from webfarm.packages.changes import Binary, Change, compare, expected
from webfarm.packages.settings import Packages
from webfarm.packages.wanted import wanted

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

    def install(self, words: Sequence[str], certified: Mapping[str, Binary]) -> list[Change]:
        """Install what was certified, and nothing else."""

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
        Its hardware profile.
    under
        :meth:`webfarm.hold.Holds.under`: holds off a rollout that is newer while it changes.
    """

    def __init__(self, manager: Manager, settings: Packages, profile: str, under: Under) -> None:
        self.manager = manager
        self.settings = settings
        self.profile = profile
        self._under = under

    def pretend(self, packages: object) -> dict[str, Any]:
        """What installing the set would change and disturb; changes nothing."""
        return self._told(self.manager.resolve(wanted(packages)))

    def world(self) -> dict[str, Any]:
        """The same for an upgrade of everything."""
        return self._told(self.manager.world())

    def install(self, packages: object, certified: object, hold: str | None) -> dict[str, Any]:
        """Install the set when this gives exactly what was certified; else nothing is changed."""
        words = wanted(packages)
        binaries = expected(certified)
        with self._under(hold):
            before = self.manager.installed()
            changes = self.manager.resolve(words, binaries)
            compare(changes, binaries, before)
            affected = self._disruption(changes)
            if changes:
                self.manager.install(words, binaries)
            after = self.manager.installed()
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


def of(name: str, settings: Packages) -> Manager:
    """The package manager of that name."""
    if name == "apt":
        return Apt()
    raise WebfarmError(f"there is no package manager {name}")

"""
Packages of the operating system on this machine: the same functions for Debian and for Gentoo.

The manager is chosen by the grain ``os_family``; the pillar's ``webfarm:packages:manager`` (``apt``
or ``portage``) overrides. What a manager says goes to the journal,
``journalctl -t webfarm-packages``.
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import hold as holds
from webfarm import topology
from webfarm.packages import node
from webfarm.packages.node import Node

__virtualname__ = "webfarm_packages"


def __virtual__() -> str:
    return __virtualname__


def _node() -> Node:
    cluster = topology.parse(__pillar__.get("webfarm"))  # type: ignore[name-defined]
    here = cluster.node(__opts__["id"])  # type: ignore[name-defined]
    settings = cluster.packages
    manager = node.of(node.manager(settings, __grains__), settings)  # type: ignore[name-defined]
    profile = getattr(here.node, "hw_profile", "default")
    return Node(manager, settings, profile, holds.of(__opts__).under)  # type: ignore[name-defined]


def pretend(packages: Any) -> dict[str, Any]:
    """
    Return what installing a package set would change and disturb; nothing is changed.

    The keys: ``manager``, ``profile``, ``changes`` (``{name: {"from", "to", "digest", "size"}}``,
    dependencies included), ``affects`` (``{unit: [packages whose files it runs from]}``),
    ``disruptive`` (``{package: why it must not be changed in service}``), ``waiting``
    (configuration files to merge), ``boot_id``.

    packages
        A list of words or one string, see ``docs/packages.md``.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_packages.pretend '[openssl, rsync]'
    """
    return _node().pretend(packages)


def install(packages: Any, expected: dict[str, Any], hold: str | None = None) -> dict[str, Any]:
    """
    Install a package set when that gives exactly what was certified. Nothing is compiled, and no
    service is restarted.

    Returns ``{"changed": {name: {"from", "to"}}, "affects", "reboot", "waiting"}``. A package that
    is missing, has another version or another content, or was not certified is refused by name,
    and nothing is changed.

    packages
        As in :py:func:`pretend`.
    expected
        ``{name: {"to": version, "digest": "sha256:…"}}`` of everything that may change.
    hold
        What a rollout proves its lease with, see ``webfarm_release.switch``.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_packages.install '[rsync]' '{"rsync": {"to": …, "digest": …}}'
    """
    return _node().install(packages, expected, hold)


def status() -> dict[str, Any]:
    """
    Return ``{"manager", "profile", "installed": {name: version}, "boot_id"}``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.status
    """
    return _node().status()


def deleted() -> list[dict[str, Any]]:
    """
    Return the processes that still run from deleted or replaced files, as after an upgrade:
    ``[{"pid", "command", "unit", "files"}]``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.deleted
    """
    return node.deleted()


def sync() -> str:
    """
    Fetch the package indexes anew; nothing is installed.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.sync
    """
    return _node().manager.sync()


def world() -> dict[str, Any]:
    """
    Return what an upgrade of everything would change, as :py:func:`pretend` does.

    CLI Example:

    .. code-block:: bash

        salt preproduction-r640 webfarm_packages.world
    """
    return _node().world()


def waiting() -> list[str]:
    """
    Return the new configuration files that wait beside edited ones; a person merges them.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.waiting
    """
    return _node().manager.waiting()


def news() -> list[dict[str, str]]:
    """
    Return the distribution's news that nobody has read on this machine; Gentoo has some.

    CLI Example:

    .. code-block:: bash

        salt preproduction-r640 webfarm_packages.news
    """
    return _node().manager.news()


def verify(packages: Any = None) -> list[str]:
    """
    Return what differs from what the packages have installed, configuration files aside.

    packages
        Names; default: every package of the machine, which reads all of its files.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_packages.verify '[nginx]'
    """
    return _node().verify(packages)

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
from webfarm import hw_profiles, topology
from webfarm.packages import node

__virtualname__ = "webfarm_packages"


def __virtual__() -> str:
    return __virtualname__


def _node() -> node.Node:
    return node.of(
        topology.parse(__pillar__.get("webfarm")),  # type: ignore[name-defined]
        __opts__["id"],  # type: ignore[name-defined]
        __grains__,  # type: ignore[name-defined]
        holds.of(__opts__).under,  # type: ignore[name-defined]
    )


def manager() -> str:
    """
    Return the package manager, ``apt`` or ``portage``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.manager
    """
    return _node().manager.name


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


def build(packages: Any, rebuild: bool = False) -> dict[str, Any]:
    """
    Compile what a package set needs, for the profile of this preproduction server. Nothing is
    installed. On Debian there is nothing to compile.

    Returns ``{"built": [...], "present": [...]}``, packages with their versions.

    packages
        As in :py:func:`pretend`.
    rebuild
        Build again what was built before. A certificate that names the old binary then no longer
        fits.

    CLI Example:

    .. code-block:: bash

        salt 'preproduction-*' webfarm_packages.build '[dev-libs/openssl]'
    """
    return _node().build(packages, rebuild)


def publish() -> dict[str, Any]:
    """
    Serve what was built, with an index of it: the binary host of this server's profile.

    Returns ``{"profile", "address", "index": digest, "packages": {path: digest}}``.

    CLI Example:

    .. code-block:: bash

        salt 'preproduction-*' webfarm_packages.publish
    """
    return _node().manager.publish()


def configure(test: bool = False) -> dict[str, Any]:
    """
    Use the binary host of this machine's profile; returns what changed in ``binrepos.conf``.

    test
        Only say what would change.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.configure
    """
    return _node().manager.configure(test)


def export_php(
    version: str, package: str = "dev-lang/php", name: str | None = None
) -> dict[str, Any]:
    """
    Serve the PHP of a package that this preproduction server has published, as a tree for the
    release store: ``salt-run store.add_export`` takes what this returns.

    Returns ``{"version", "package", "url", "digest", "archive"}``.

    version
        The package's version.
    package
        The package.
    name
        The version's name in the store; default: the package's version.

    CLI Example:

    .. code-block:: bash

        salt preproduction-r640 webfarm_packages.export_php "'8.2.36'"
    """
    return _node().export_php(package, version, name)


def machine() -> dict[str, Any]:
    """
    Return what this machine is, for a hardware profile: ``{"cpu", "flags", "memory_mib", "disk"}``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.machine
    """
    return hw_profiles.machine().shown()


def profile() -> str:
    """
    Return this machine's hardware profile; raises when the pillar describes it and it is not one.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_packages.profile
    """
    here = _node()
    here.check_machine()
    return here.profile

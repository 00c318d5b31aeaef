"""
The versions of PHP on this web server: install from the release store, activate, go back.

The trees are in ``/srv/webfarm/php/versions``; ``current`` and ``previous`` are symlinks.
An upgrade of a farm uses :py:mod:`webfarm_release <_modules.webfarm_release>`, which changes PHP
and webapp together; a server in service should not be changed with the functions here.
"""

from dataclasses import asdict
from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm.server import WebServer
from webfarm.versions import INSTALL_SECONDS

__virtualname__ = "php_version"
__func_alias__ = {"list_": "list"}

KIND = "php"


def __virtual__() -> str:
    return __virtualname__


def _server() -> WebServer:
    return WebServer(__opts__, __salt__, __pillar__)  # type: ignore[name-defined]


def list_() -> list[str]:
    """
    Return the complete, installed versions, oldest name first.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.list
    """
    return _server().versions[KIND].list()


def install(
    version: str,
    source: str | None = None,
    digest: str | None = None,
    bwlimit: int = 0,
    deadline: float = INSTALL_SECONDS,
) -> dict[str, Any]:
    """
    Fetch a version from the release store and verify its whole tree before it gets its name.

    Returns ``{"version", "result": "installed"|"present", "digest", "bytes"}``. Interrupted, it
    goes on where it was when it is called again. A disk that would get too full is refused first.

    version
        The version's name in the store.
    source
        ``rsync://HOST[:PORT]/MODULE``; default: the pillar's ``webfarm:store:address``.
    digest
        What the tree must be, see ``store.digest`` on the master; default: what the store says.
    bwlimit
        KiB per second, 0 for no limit.
    deadline
        Seconds for everything.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.install "'8.2.36'" bwlimit=10000
    """
    server = _server()
    tree = server.versions[KIND]
    return asdict(tree.install(version, server.source(source), digest, bwlimit, deadline))


def activate(version: str) -> dict[str, Any]:
    """
    Run another version: move the symlink, restart php-fpm, wait until ``/ready`` names it.

    Returns ``{"changed", "old", "new"}``. When ``/ready`` does not name it within 30 s, the
    symlinks are put back, php-fpm is restarted and an error says what php-fpm said.

    version
        An installed version.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 php_version.activate "'8.2.36'"
    """
    return _activate(_server(), version)


def initialise(version: str) -> dict[str, Any]:
    """
    Point ``current`` at a version where no version is active yet; nothing is restarted.

    Returns ``{"changed", "old", "new"}``, where ``new`` is the active version.

    version
        An installed version.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 php_version.initialise "'8.2.36'"
    """
    return _server().initialise(KIND, version)


def current() -> str | None:
    """
    Return the version that the symlink ``current`` names, or None.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.current
    """
    return _server().versions[KIND].links().current


def previous() -> str | None:
    """
    Return the version that :py:func:`rollback` would activate, or None.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.previous
    """
    return _server().versions[KIND].links().previous


def rollback() -> dict[str, Any]:
    """
    Activate the previous version, as :py:func:`activate` does; a second rollback goes forth again.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 php_version.rollback
    """
    server = _server()
    return _activate(server, server.versions[KIND].rollback_target())


def remove(version: str, force: bool = False) -> bool:
    """
    Delete a version, never the active one; True when there was one.

    version
        An installed version.
    force
        Also when a rollback would go back to it.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.remove "'8.2.36'"
    """
    return _server().versions[KIND].remove(version, force)


def verify(version: str, digest: str | None = None) -> dict[str, str]:
    """
    Read a version's whole tree; returns ``{"version", "digest"}``, raises with the damaged files.

    version
        An installed version.
    digest
        What the tree must be; default: what it was when it was installed.

    CLI Example:

    .. code-block:: bash

        salt '*' php_version.verify "'8.2.36'"
    """
    return {"version": version, "digest": _server().versions[KIND].verify(version, digest)}


def _activate(server: WebServer, version: str) -> dict[str, Any]:
    return server.activate(KIND, version)

"""
The versions of the webapp on a web server, as states.

.. code-block:: yaml

    webapp_is_there:
      webapp.installed:
        - name: "2"

    webapp_is_chosen:
      webapp.initialised:
        - name: "2"
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import version_states

__virtualname__ = "webapp"


def __virtual__() -> str:
    return __virtualname__


def _states() -> version_states.States:
    return version_states.States("webapp", __salt__, __opts__["test"])  # type: ignore[name-defined]


def installed(name: str, digest: str | None = None, source: str | None = None) -> dict[str, Any]:
    """
    Have a version installed and sound. What runs is not changed.

    name
        The version.
    digest
        What its tree must be; default: what the release store publishes.
    source
        ``rsync://HOST[:PORT]/MODULE``; default: the pillar's ``webfarm:store:address``.
    """
    return _states().installed(name, digest, source)


def initialised(name: str) -> dict[str, Any]:
    """
    Have some version active: where there is none, this one. An active version is never changed, and
    nothing is restarted.

    name
        The version for a server that has none; it must be installed.
    """
    return _states().initialised(name)


def active(name: str) -> dict[str, Any]:
    """
    Have this version active; php-fpm is restarted when it is not. For servers out of service: an
    upgrade is ``salt-run upgrade.farm``, which closes the farm before.

    name
        The version; it must be installed.
    """
    return _states().active(name)


def absent(name: str, force: bool = False) -> dict[str, Any]:
    """
    Have a version deleted; fails for the active one.

    name
        The version.
    force
        Also when a rollback would go back to it.
    """
    return _states().absent(name, force)

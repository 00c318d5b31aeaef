"""
The system beneath this web server: what state it is in, restart its services, reboot it.

The waves of ``salt-run upgrade.os`` use these functions.
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import osnode
from webfarm.errors import WebfarmError
from webfarm.server import WebServer

__virtualname__ = "webfarm_os"

MOST = 2000
NO_SNAPSHOTS = "none"


def __virtual__() -> str:
    return __virtualname__


def _server() -> WebServer:
    return WebServer(__opts__, __salt__, __pillar__)  # type: ignore[name-defined]


def _units() -> list[str]:
    """The services that must run here: the pillar's ``webfarm:packages:units``, or all of ours."""
    return osnode.check_units(__salt__["config.get"]("webfarm_units", default=None))  # type: ignore[name-defined]


def status(packages: list[str] | None = None, hold: str | None = None) -> dict[str, Any]:
    """
    Return what ``webfarm_release.status`` does, and ``os``: ``installed`` (version of each of
    ``packages`` that is installed), ``failed`` (services of ours that do not run), ``provider``,
    ``snapshots`` and ``restored`` (of the snapshots; ``restored`` is the one that the running root
    came from, or None).

    packages
        Names of packages.
    hold
        What a rollout proves its lease with, see ``webfarm_release.status``.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_os.status '[nginx, openssl]'
    """
    if packages is not None and (not isinstance(packages, list) or len(packages) > MOST):
        raise WebfarmError(f"packages is {packages!a:.80}, expected a list of names")
    server = _server()
    server.holds.see(hold)
    call = __salt__  # type: ignore[name-defined]
    answer: dict[str, Any] = call["webfarm_release.status"]()
    known = call["webfarm_packages.status"]()["installed"] if packages else {}
    provider, snapshots, restored = NO_SNAPSHOTS, [], None
    if "webfarm_snapshot.list" in call:
        provider = call["webfarm_snapshot.space"]()["provider"]
        if provider != NO_SNAPSHOTS:
            snapshots = [one["name"] for one in call["webfarm_snapshot.list"]()]
            restored = call["webfarm_snapshot.restored"]()
    answer["os"] = {
        "installed": {name: known[name] for name in packages or () if name in known},
        "failed": osnode.failed(_units()),
        "provider": provider,
        "snapshots": snapshots,
        "restored": restored,
    }
    return answer


def restart(units: list[str] | None = None, hold: str | None = None) -> dict[str, Any]:
    """
    Restart services, and prove that they run: ``{"restarted": [...]}``. Only for a server that is
    out of service.

    units
        Default: all that a web server must run. Those that are not installed are left out.
    hold
        As in :py:func:`status`, and it must have looked within 20 s.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_os.restart '[nginx]'
    """
    wanted = _units() if units is None else osnode.check_units(units)
    with _server().holds.under(hold):
        return {"restarted": osnode.restart(wanted)}


def reboot(boot_id: str | None = None, hold: str | None = None) -> dict[str, Any]:
    """
    Reboot this machine in two seconds, by a timer of systemd, so that the answer gets out:
    ``{"boot_id", "reboots"}``. Only for a server that is out of service.

    boot_id
        The boot in which this is asked for; in another one nothing is done.
    hold
        As in :py:func:`restart`.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_os.reboot
    """
    with _server().holds.under(hold):
        call = __salt__  # type: ignore[name-defined]
        if "webfarm_snapshot.carry" in call:  # a root that waits must know of this very message
            call["webfarm_snapshot.carry"]()
        return osnode.reboot(boot_id)

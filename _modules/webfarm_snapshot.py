"""
The way back for this server's root filesystem: take a snapshot before a change, restore it after.

The pillar's ``webfarm:snapshots``, or that of the site, names the provider: ``btrfs``, ``lvm`` or
``none``. How the disk must be laid out is in ``docs/snapshots.md``. Whatever a killed call has left
half done, the next call finishes.
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import hold as holding
from webfarm import topology
from webfarm.snapshots.model import Provider
from webfarm.snapshots.service import provider

__virtualname__ = "webfarm_snapshot"
__func_alias__ = {"list_": "list"}


def __virtual__() -> str:
    return __virtualname__


def _provider() -> Provider:
    cluster = topology.parse(__pillar__.get("webfarm"))  # type: ignore[name-defined]
    return provider(cluster.snapshots_of(__opts__["id"]))  # type: ignore[name-defined]


def _holds() -> holding.Holds:
    return holding.of(__opts__)  # type: ignore[name-defined]


def space() -> dict[str, Any]:
    """
    Return whether there is room for a snapshot: ``{"provider", "ok", "free_percent", "why"}``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_snapshot.space
    """
    return _provider().space()


def status() -> dict[str, Any]:
    """
    Return ``{"provider", "restored", "waiting", "snapshots", "aside"}``: the snapshot that the
    running root came from, the one that waits for the next boot (each None mostly), all snapshots,
    and the roots that restores have put aside.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_snapshot.status
    """
    here = _provider()
    return {
        "provider": here.space()["provider"],
        "restored": here.restored(),
        "waiting": here.waiting(),
        "snapshots": here.snapshots(),
        "aside": here.aside(),
    }


def list_() -> list[dict[str, Any]]:
    """
    Return the snapshots, oldest first: ``[{"name", "at": seconds since 1970}]``.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_snapshot.list
    """
    return _provider().snapshots()


def restored() -> str | None:
    """
    Return the name of the snapshot that the running root came from, or None.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_snapshot.restored
    """
    return _provider().restored()


def take(name: str, hold: str | None = None) -> dict[str, Any]:
    """
    Take a snapshot of the root: ``{"name", "taken": True, "at"}``; one of this name that is there
    already is left as it is. Refused when there is too little space, or a restore waits for a
    reboot. With the provider ``none`` it returns ``{"provider": "none"}``.

    name
        Its name, at most 48 characters.
    hold
        What a rollout proves its lease with, ``SITE:TOKEN.NUMBER``, and it must have looked within
        20 s. Left out by hand.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_snapshot.take before-openssl
    """
    with _holds().under(hold):
        return _provider().take(name)


def restore(name: str, hold: str | None = None) -> dict[str, Any]:
    """
    Let the next boot run the root as it was: ``{"name", "reboot": True}``. The root that runs now
    is put aside. The folders of ``webfarm:snapshots:preserve`` are carried over. Called again
    before the reboot it only carries them over again; after the reboot it is a new restore, so
    look at :py:func:`restored` first.

    name
        A snapshot's name.
    hold
        As in :py:func:`take`.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_snapshot.restore before-openssl
    """
    with _holds().under(hold):
        return _provider().restore(name)


def carry(hold: str | None = None) -> dict[str, Any]:
    """
    Give the root that waits for the next boot what is preserved, as it is now:
    ``{"carried": [folders], "waiting": True}``. Nothing is done when none waits. To be called last
    before the reboot.

    hold
        As in :py:func:`take`.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_snapshot.carry
    """
    with _holds().under(hold):
        return _provider().carry()


def drop(name: str, hold: str | None = None) -> dict[str, Any]:
    """
    Delete a snapshot, or a root that was put aside: ``{"name", "dropped": whether it was there}``.

    name
        Its name, as :py:func:`status` shows it.
    hold
        As in :py:func:`take`.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_snapshot.drop before-openssl
    """
    with _holds().under(hold):
        return _provider().drop(name)


def expire(hold: str | None = None) -> dict[str, Any]:
    """
    Delete the snapshots and the roots put aside that are too many or too old by the pillar's
    ``keep``, ``keep_aside`` and ``max_age_days``: ``{"dropped": [names]}``. The newest snapshot
    stays, and the one that the running root came from.

    hold
        As in :py:func:`take`.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_snapshot.expire
    """
    with _holds().under(hold):
        return _provider().expire()

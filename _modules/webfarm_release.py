"""
The release (a pair of PHP and webapp) of this web server: stage it, switch to it, say what runs.

The steps of an upgrade use these functions, see ``salt-run upgrade.plan``. What runs is what this
server's own ``/ready`` says, asked over the loopback through nginx.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import names, ready, releasefile
from webfarm.errors import WebfarmError
from webfarm.manifest import check_digest
from webfarm.server import WebServer
from webfarm.store import check_version
from webfarm.versions import INSTALL_SECONDS

__virtualname__ = "webfarm_release"


def __virtual__() -> str:
    return __virtualname__


def _server() -> WebServer:
    return WebServer(__opts__, __salt__, __pillar__)  # type: ignore[name-defined]


def status(release: str | None = None, hold: str | None = None) -> dict[str, Any]:
    """
    Return what this server runs, has installed, and whether it is ready. Never fails for a server
    that is not ready: ``why`` says so.

    The keys: ``release`` (None when the running pair is no known release), ``php`` and ``webapp``
    (running; None without an answer), ``php_current`` and ``webapp_current`` (the symlinks),
    ``php_versions`` and ``webapp_versions``, ``ready``, ``why``, ``boot_id``.

    release
        The release for which it must be ready; default: whichever it runs.
    hold
        What a rollout proves its lease with, ``SITE:TOKEN.NUMBER``; one that is older than the
        newest seen is refused. Left out by hand.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_release.status
    """
    if release is not None:
        names.check(release, "release")
    server = _server()
    server.holds.see(hold)
    return _status(server, release)


def stage(
    release: str,
    php: str,
    webapp: str,
    digests: dict[str, str] | None = None,
    source: str | None = None,
    bwlimit: int = 0,
    deadline: float = INSTALL_SECONDS,
    hold: str | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """
    Install a release's two trees where they are missing, verified, and enter its pair in
    ``/etc/webfarm/releases.php``. What runs is not touched.

    Returns ``{"php": "installed"|"present"|"replaced", "webapp": …, "bytes": fetched}``.

    release, php, webapp
        The release and its pair of versions.
    digests
        ``{"php": digest, "webapp": digest}``, either or both; default: what the store publishes.
    source
        ``rsync://HOST[:PORT]/MODULE``; default: the pillar's ``webfarm:store:address``.
    bwlimit
        KiB per second, 0 for no limit.
    deadline
        Seconds for each of the two trees.
    hold
        As in :py:func:`status`, checked at the beginning: an install that has begun goes on.
    verify
        A tree that is there and damaged, as after a power cut, is replaced by a whole one; without
        it is an error. When the tree was in use, php-fpm is restarted: only for a server that is
        out of service.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_release.stage 2026.11.2 8.2.36 "'2'"
    """
    wanted = _pair(release, php, webapp)
    given = digests or {}
    if not isinstance(given, dict) or given.keys() - wanted.keys():
        raise WebfarmError(f"digests must have the keys php and webapp only, it is {digests!a:.80}")
    for digest in given.values():
        check_digest(digest)
    server = _server()
    server.holds.see(hold)
    store = server.source(source)
    done = {
        kind: server.versions[kind].install(
            version, store, given.get(kind), bwlimit, deadline, replace=verify
        )
        for kind, version in wanted.items()
    }
    active = server.switch().active_pair()
    releasefile.add(server.releases_php, php, webapp, release, active)
    if any(
        one.result == "replaced" and server.versions[kind].links().current == one.version
        for kind, one in done.items()
    ):
        server.restart()
    return {
        "php": done["php"].result,
        "webapp": done["webapp"].result,
        "bytes": done["php"].bytes + done["webapp"].bytes,
    }


def switch(release: str, php: str, webapp: str, hold: str | None = None) -> dict[str, Any]:
    """
    Run a staged release: move both symlinks, restart php-fpm once, wait until ``/ready`` proves it.

    Returns :py:func:`status`. Nothing is done on a server that runs it already. When ``/ready``
    does not prove it within 30 s, the symlinks are put back, php-fpm is restarted and an error says
    what php-fpm said. Only for a server whose farm is closed, or that is out of service.

    release, php, webapp
        The release and its pair of versions.
    hold
        As in :py:func:`status`, and it must have looked within 20 s; nobody can take over before
        the change is made.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_release.switch 2026.11.2 8.2.36 "'2'"
    """
    _pair(release, php, webapp)
    server = _server()
    with server.holds.under(hold):
        server.switch().release(release, php, webapp)
    return _status(server, release)


def warm(
    paths: list[str] | None = None, requests: int = 2, deadline: float = 30.0
) -> dict[str, Any]:
    """
    Ask this server's webapp for some pages, so that the opcache is filled before the first client.

    Returns ``{path: {"status", "seconds": of the last request}}``; raises when a page has no answer
    or one of 425 or 5xx.

    paths
        Paths with their query; default: ``["/"]``.
    requests
        How often each is asked for.
    deadline
        Seconds for everything.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_release.warm '["/", "/login"]' requests=3
    """
    return _server().warm(["/"] if paths is None else paths, requests, deadline)


def _pair(release: str, php: str, webapp: str) -> dict[str, str]:
    names.check(release, "release")
    return {"php": check_version(php), "webapp": check_version(webapp)}


def _status(server: WebServer, release: str | None) -> dict[str, Any]:
    answer = asdict(ready.ask(server.port(), release))
    for kind, versions in server.versions.items():
        answer[f"{kind}_current"] = versions.links().current
        answer[f"{kind}_versions"] = versions.list()
    answer["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return answer

"""What the modules of a web server share: where its trees are, its port, its php-fpm unit.

Built from what Salt's loader hands to a module, so that the rest of the library knows no Salt.
"""

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from webfarm import hold, ready, releasefile, transfer
from webfarm.errors import WebfarmError
from webfarm.store import KINDS, check_version
from webfarm.switch import Switch
from webfarm.trees import ROOT
from webfarm.versions import Reserve, Versions

UNIT = "webfarm-php-fpm"
CONFIG = "/etc/webfarm"
SWITCH_SECONDS = 30.0
_PATH = re.compile(r"/[!-~]{0,1999}")
Functions = Mapping[str, Callable[..., Any]]


class WebServer:
    """This minion as a web server.

    opts
        The minion's configuration; ``webfarm_root`` (default ``/srv/webfarm``) holds the trees,
        ``webfarm_config`` (default ``/etc/webfarm``) the file ``releases.php``;
        ``webfarm_reserve`` is what installs leave free, ``{"percent": 5, "mib": 256}``;
        ``webfarm_holds`` is what rollouts' tokens are kept in.
    salt
        The execution modules: ``service.restart`` and ``webfarm_topology.node`` are used.
    pillar
        The pillar, for the address of the release store.
    """

    def __init__(self, opts: Mapping[str, Any], salt: Functions, pillar: Mapping[str, Any]) -> None:
        self._salt = salt
        self._pillar = pillar
        self.root = Path(opts.get("webfarm_root", ROOT))
        self.releases_php = Path(opts.get("webfarm_config", CONFIG)) / releasefile.NAME
        self.holds = hold.of(opts)
        reserve = _reserve(opts.get("webfarm_reserve", {}))
        self.versions = {kind: Versions(kind, self.root, reserve) for kind in KINDS}

    def source(self, source: str | None) -> str:
        """``source``, or the store that the pillar names."""
        if source is not None:
            return transfer.check_source(source)
        try:
            return transfer.default_source(self._pillar["webfarm"]["store"]["address"])
        except (KeyError, TypeError):
            raise WebfarmError(
                "the pillar has no webfarm:store:address: set it, or give"
                " source=rsync://HOST/MODULE"
            ) from None

    def port(self) -> int:
        """The port on which nginx serves the webapp, also on the loopback."""
        node = self._salt["webfarm_topology.node"]()
        if "port" not in node["node"] or node["role"] not in ("server", "preproduction"):
            raise WebfarmError(f"minion {node['id']} is a {node['role']}, not a web server")
        return int(node["node"]["port"])

    def switch(self) -> Switch:
        """The means to change what this server runs."""
        port = self.port()
        began = int(time.time())
        return Switch(
            versions=self.versions,
            releases_php=self.releases_php,
            restart=self.restart,
            ask=lambda release: ready.ask(port, release),
            complaints=lambda: _journal(began),
            deadline=SWITCH_SECONDS,
        )

    def activate(self, kind: str, version: str) -> dict[str, Any]:
        """Run another version of one kind; ``changed`` tells whether php-fpm was restarted."""
        check_version(version)
        old = self.versions[kind].links().current
        restarts = 0

        def restart() -> None:
            nonlocal restarts
            restarts += 1
            self.restart()

        replace(self.switch(), restart=restart).one(kind, version)
        return {"changed": restarts > 0, "old": old, "new": version}

    def initialise(self, kind: str, version: str) -> dict[str, Any]:
        """Choose the first version of one kind; php-fpm, which cannot run yet, is left alone."""
        check_version(version)
        old = self.versions[kind].links().current
        if old is None:
            self.versions[kind].activate(version)
        return {"changed": old is None, "old": old, "new": old or version}

    def warm(self, paths: Sequence[str], requests: int, deadline: float) -> dict[str, Any]:
        """Ask for each path ``requests`` times; raises when one does not work."""
        if isinstance(paths, str) or not paths:
            raise WebfarmError(f"paths must be a list of paths, it is {paths!a:.80}")
        for path in paths:
            if not isinstance(path, str) or not _PATH.fullmatch(path):
                raise WebfarmError(
                    f"path {path!a:.80} must begin with / and be printable ASCII without spaces;"
                    " nothing was sent"
                )
        if not isinstance(requests, int) or not 1 <= requests <= 1000:
            raise WebfarmError(f"requests must be 1..1000, it is {requests!a:.80}")
        port = self.port()
        end = time.monotonic() + deadline
        pages = {}
        for path in paths:
            for _ in range(requests):
                page = ready.get(port, path, {}, end - time.monotonic())
                if page.status in (0, 425) or page.status >= 500:
                    raise WebfarmError(
                        f"127.0.0.1:{port}{path} answered {page.status or 'nothing'}"
                        f" {page.why or ascii(page.body[:200])[2:-1]}; look at {UNIT}'s journal and"
                        " nginx' error log"
                    )
                pages[path] = {"status": page.status, "seconds": round(page.seconds, 3)}
        return pages

    def restart(self) -> None:
        """Restart php-fpm."""
        # A PHP that dies at once makes systemd refuse further starts for a while ("start request
        # repeated too quickly"), also that of the version we go back to.
        _run(["systemctl", "reset-failed", UNIT])
        try:
            done = self._salt["service.restart"](UNIT)
        except WebfarmError:
            raise
        except Exception as error:  # Salt's modules raise what they like
            raise WebfarmError(f"{UNIT} did not restart: {error}") from error
        if not done:
            raise WebfarmError(f"{UNIT} did not restart")


def _reserve(given: Any) -> Reserve:
    try:
        percent, mib = given.get("percent", 5), given.get("mib", 256)
        if 0 <= percent < 100 and mib >= 0 and not given.keys() - {"percent", "mib"}:
            return Reserve(percent / 100, int(mib * 1024 * 1024))
    except (AttributeError, TypeError):
        pass
    raise WebfarmError(
        f"webfarm_reserve in the minion's configuration is {given!a:.80}, expected"
        " {percent: 0..99, mib: 0 or more}"
    )


def _journal(since: int) -> str:
    """The last lines of php-fpm's journal from ``since`` (seconds since 1970) on."""
    command = ["journalctl", "--unit", UNIT, "--since", f"@{since}", "--lines", "12"]
    said = _run([*command, "--output", "cat", "--no-pager", "--quiet"])
    return " / ".join(line for line in said.split("\n") if line)[-1500:]


def _run(command: list[str]) -> str:
    """What a command printed; a command that fails is not an error here."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({command[0]}: {error})"
    return done.stdout

"""Count the sessions of a site by the release that answered them last, on its database's minion.

Over MariaDB's own socket, as a user of the system that may read that one column and nothing else:
MariaDB takes the kernel's word for who asks, so there is no password.
"""

import math
import pwd
import subprocess
from collections.abc import Mapping
from typing import Any

from webfarm.errors import WebfarmError

SOCKET = "/run/mysqld/mysqld.sock"
READER = "webfarm_reader"
_GRACE = 5.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}


class SessionsUnknown(WebfarmError):
    """The database could not be asked; the message has its own words."""


def count(node: Mapping[str, Any], opts: Mapping[str, Any], deadline: float) -> dict[str, int]:
    """The number of sessions of each release.

    node
        What ``webfarm_topology.node`` says of this minion, which must be a site's database.
    opts
        The minion's configuration: ``webfarm_database`` may have another ``socket`` and ``reader``.
    deadline
        Seconds, 1 to 600; MariaDB stops counting by itself.
    """
    if node["role"] != "database":
        raise SessionsUnknown(f"minion {node['id']} is a {node['role']}, not a site's database")
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)):
        raise SessionsUnknown(f"deadline {deadline!a:.80} must be a number of seconds")
    if not (math.isfinite(deadline) and 1 <= deadline <= 600):
        raise SessionsUnknown(f"deadline {deadline} must be 1 to 600 seconds")
    settings = {"socket": SOCKET, "reader": READER, **opts.get("webfarm_database", {})}
    table = f"`{node['node']['name']}`.sessions"
    text = _ask(
        f"SET STATEMENT max_statement_time={deadline:g} FOR"
        f" SELECT `release`, COUNT(*) FROM {table} GROUP BY `release`;\n",
        str(settings["socket"]),
        str(settings["reader"]),
        deadline + _GRACE,
    )
    try:
        rows = [line.split("\t") for line in text.splitlines()]
        return {release: int(number) for release, number in sorted(rows)}
    except ValueError:
        raise SessionsUnknown(f"MariaDB answered {text[:200]!a}, expected counts") from None


def _ask(statement: str, socket: str, reader: str, seconds: float) -> str:
    """What the client printed. The statement goes to its standard input."""
    client = ["mariadb", "--no-defaults", "--protocol=socket", f"--socket={socket}"]
    try:
        account = pwd.getpwnam(reader)
        done = subprocess.run(
            [*client, f"--user={reader}", "--batch", "--skip-column-names", "--connect-timeout=5"],
            input=statement,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env=_ENVIRONMENT,
            cwd="/",
        )
    except KeyError:
        raise SessionsUnknown(
            f"this system has no user {reader}: apply the highstate to this minion"
        ) from None
    except subprocess.TimeoutExpired:
        raise SessionsUnknown(f"MariaDB at {socket} did not answer in {seconds:g} s") from None
    except OSError as error:
        raise SessionsUnknown(f"the client of MariaDB could not be run: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise SessionsUnknown(f"MariaDB at {socket} did not count the sessions: {said}")
    return done.stdout

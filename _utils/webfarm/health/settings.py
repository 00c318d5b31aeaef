"""What the beacon is told: of its server by the topology, of the rest by its configuration."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from webfarm import shape
from webfarm.errors import WebfarmError
from webfarm.shape import Model
from webfarm.topology import Path, Port, Server, Topology

NAME = "webfarm_health"
# what Salt itself reads in a beacon's configuration
SALTS_OWN = frozenset(
    ("_beacon_name", "beacon_module", "disable_during_state_run", "enabled", "interval", "run_once")
)


class Options(Model):
    """The beacon's configuration; every key has a default.

    heartbeat
        Seconds between two reports when nothing changes. The weights' law takes a server for silent
        after ``stale_seconds``: stay well below.
    www_socket, status_socket
        php-fpm's sockets (``listen`` and ``pm.status_listen`` of its pool ``www``).
    access_log
        nginx' log, in the format of the state ``nginx``.
    disks
        Paths whose file systems the server must be able to write to; those that are missing are
        left out.
    full_mib
        A disk with fewer MiB left is full.
    """

    heartbeat: Annotated[float, Field(ge=1, le=60)] = 5.0
    www_socket: Path = "/run/webfarm/php-www.sock"
    status_socket: Path = "/run/webfarm/php-status.sock"
    access_log: Path = "/var/log/nginx/access.log"
    disks: tuple[Path, ...] = ("/srv/webfarm", "/var/lib/webfarm", "/var/log/nginx", "/tmp")
    full_mib: Annotated[int, Field(ge=1, le=1024 * 1024)] = 16


class Settings(Model):
    """All that a monitor needs to know; ``memcached`` is this server's own part of its pool."""

    port: Port
    children: Annotated[int, Field(ge=1)]
    memcached: str | None
    options: Options


def options(config: object) -> Options:
    """Read the beacon's configuration, a list of mappings as Salt wants it, or one mapping.

    Raises :class:`WebfarmError` with all mistakes.
    """
    given: dict[str, Any] = {}
    parts = config if isinstance(config, Sequence) and not isinstance(config, str) else [config]
    for part in parts:
        if not isinstance(part, Mapping):
            raise WebfarmError(f"beacons.{NAME}: expected a list of mappings, found {part!a:.60}")
        given.update(part)
    try:
        return Options.model_validate({k: v for k, v in given.items() if k not in SALTS_OWN})
    except ValidationError as error:
        raise WebfarmError("; ".join(shape.lines(error, f"beacons.{NAME}"))) from None


def of_server(topology: Topology, minion: str, given: Options) -> Settings | None:
    """The settings of ``minion``; None when it is no member of a farm.

    Raises :class:`WebfarmError` when the topology does not know it.
    """
    here = topology.node(minion)
    if not isinstance(here.node, Server) or here.site is None or here.farm is None:
        return None
    pool = topology.farm(here.site, here.farm).memcached
    own = [one for one in pool if one.rpartition(":")[0] == here.node.address]
    return Settings(
        port=here.node.port,
        children=here.node.max_children,
        memcached=own[0] if own else None,
        options=given,
    )

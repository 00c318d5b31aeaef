"""
Report how this web server is, for the weights of its farm (engine ``webfarm_rebalance``).

A report goes out when something changes and every few seconds else, signed with the minion's own
key. What is in it, and what counts as a change: docs/weights.md, "What a server reports". The
beacon itself never waits: threads of their own measure. Where the server stands comes from the
pillar ``webfarm``; a minion that is no member of a farm reports nothing.

.. code-block:: yaml

    beacons:
      webfarm_health: []
"""

import sys
from pathlib import Path
from typing import Any

try:
    import webfarm
except ImportError:
    # Of Salt's loaders, the beacons' does not find what was synced to `extmods/utils`.
    sys.path.append(str(Path(__file__).resolve().parent.parent / "utils"))
    import webfarm

webfarm.renew(__file__)

from webfarm import topology
from webfarm.errors import WebfarmError
from webfarm.health import settings
from webfarm.health.watch import Watch

__virtualname__ = "webfarm_health"

_WATCH = Watch()


def __virtual__() -> str:
    return __virtualname__


def validate(config: Any) -> tuple[bool, str]:
    """
    Say whether the beacon's configuration is valid, and what is wrong with it.
    """
    try:
        settings.options(config)
    except WebfarmError as error:
        return False, str(error)
    return True, "Valid beacon configuration"


def beacon(config: Any) -> list[dict[str, str]]:
    """
    Return the report that is due, ``[{"report": JSON text, "signature": base64}]``, or ``[]``.

    .. code-block:: yaml

        beacons:
          webfarm_health:
            - heartbeat: 5                # seconds between reports when nothing changes
            - disks: [/srv/webfarm, /var/lib/webfarm, /var/log/nginx, /tmp]
            - full_mib: 16                # a disk with fewer MiB left is full
            - access_log: /var/log/nginx/access.log
            - www_socket: /run/webfarm/php-www.sock
            - status_socket: /run/webfarm/php-status.sock
    """
    return _WATCH.reports(
        config,
        __opts__["id"],
        Path(__opts__["pki_dir"]) / "minion.pem",
        lambda: topology.parse(__pillar__.get("webfarm")),
    )


def close(config: Any) -> None:
    """
    Stop to measure; Salt calls it before it loads its beacons anew.
    """
    _WATCH.close()

"""
The sessions of a site, on the minion of its database.

:configuration: When MariaDB's socket or the user that may count is another than the state
``database`` makes it, the minion's configuration says so:

.. code-block:: yaml

    webfarm_database:
      socket: /run/mysqld/mysqld.sock
      reader: webfarm_reader
"""

import webfarm

webfarm.renew(__file__)

from webfarm import sessions

__virtualname__ = "webfarm_sessions"


def __virtual__() -> str:
    return __virtualname__


def count(deadline: float = 30) -> dict[str, int]:
    """
    Return how many sessions each release answered last: ``{"2026.11.1": 120, "2026.11.2": 3}``.

    Going back from a release resets its sessions; this says how many.

    deadline
        Seconds for everything.

    CLI Example:

    .. code-block:: bash

        salt site1-db1 webfarm_sessions.count
    """
    node = __salt__["webfarm_topology.node"]()  # type: ignore[name-defined]
    return sessions.count(node, __opts__, deadline)  # type: ignore[name-defined]

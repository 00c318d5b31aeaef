"""
The cluster's topology from the pillar ``webfarm``, validated.

SLS files and modules ask here, so that a mistake in the pillar stops a highstate before anything
is changed.
"""

from pathlib import Path
from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import __version__, topology

__virtualname__ = "webfarm_topology"


def __virtual__() -> str:
    return __virtualname__


def _parsed() -> topology.Topology:
    # __pillar__ and not pillar.get, which masks values in execution modules (Salt 3008)
    return topology.parse(__pillar__.get("webfarm"))  # type: ignore[name-defined]


def get() -> dict[str, Any]:
    """
    Return the whole pillar ``webfarm`` with all defaults filled in.

    Raises ``BadTopology`` with every mistake: its path, what was found, what is allowed.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_topology.get
    """
    return _parsed().model_dump(mode="json")


def node(minion: str | None = None) -> dict[str, Any]:
    """
    Return where a minion stands: ``{"id", "role", "site", "farm", "node": {…its own entry…}}``.

    minion
        A minion id; default: this minion.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 webfarm_topology.node
    """
    wanted = __opts__["id"] if minion is None else minion  # type: ignore[name-defined]
    return _parsed().node(wanted).model_dump(mode="json")


def check() -> bool:
    """
    Return True when the pillar is valid; raise with all its mistakes when it is not.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_topology.check
    """
    _parsed()
    return True


def version() -> str:
    """
    Return the version of the library ``webfarm`` that this minion runs.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_topology.version
    """
    return __version__


def where() -> str:
    """
    Return the folder that this minion runs the library ``webfarm`` from.

    CLI Example:

    .. code-block:: bash

        salt '*' webfarm_topology.where
    """
    return str(Path(webfarm.__file__).parent)

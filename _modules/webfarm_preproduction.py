"""
What a certification needs of a preproduction server beyond its releases and packages: the user's
own command.
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import topology
from webfarm.certificates import command as command_

__virtualname__ = "webfarm_preproduction"


def __virtual__() -> str:
    return __virtualname__


def command(command: list[str], deadline: float = 300) -> dict[str, Any]:
    """
    Run the command of the pillar's ``webfarm:preproduction:command``, as root, without a shell.

    Returns ``{"code": exit code, "output": the last 4000 bytes of what it wrote}``. Raises, and
    runs nothing, on a minion that is no preproduction server or whose pillar has another command.

    command
        The words of the command, which must be those of this minion's pillar.
    deadline
        Seconds after which it is killed, with all that it started; that is an error.

    CLI Example:

    .. code-block:: bash

        salt preproduction-r640 webfarm_preproduction.command '[/usr/local/bin/check-shop]'
    """
    # __pillar__ and not pillar.get, which masks values in execution modules (Salt 3008)
    known = topology.parse(__pillar__.get("webfarm"))  # type: ignore[name-defined]
    node = known.node(__opts__["id"]).model_dump(mode="json")  # type: ignore[name-defined]
    words = command_.agreed(command, node, known.preproduction.command)
    return command_.run(words, deadline)

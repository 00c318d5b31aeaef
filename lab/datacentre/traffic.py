"""The referee on the node `client`: brought there, started, stopped, asked for its verdict."""

from __future__ import annotations

from collections.abc import Sequence

from . import machine
from .places import REPO, root
from .source import copy_tree
from .terminal import LabError
from .topology import Topology

FOLDER = "opt/referee"
PYTHON = "/opt/salt/bin/python3"
AUTHORITY = "/etc/ssl/lab-ca.pem"


def command(plan: Topology, arguments: Sequence[str]) -> list[str]:
    """The host's command line for one word of the referee, with all its options passed on.

    ``start`` is told where the public side is, unless the options say it.
    """
    if not arguments:
        raise LabError("lab/lab traffic start|stop|status|mark|report [the referee's options]")
    client = plan.of_role("client")[0].name
    if not (REPO / "lab/referee").is_dir():
        raise LabError(f"{REPO / 'lab/referee'} is not there")
    word, *rest = arguments
    if word == "start":
        copy_tree(REPO / "lab/referee", root(client) / FOLDER / "referee")
        given = {option.partition("=")[0] for option in rest}
        if "--domain" not in given:
            rest += ["--domain", plan.domain]
        if "--address" not in given:
            for address in plan.public:
                rest += ["--address", address]
        if not given & {"--ca", "--insecure"}:
            rest += ["--ca", AUTHORITY]
    return machine.enter(
        client, ["env", f"PYTHONPATH=/{FOLDER}", PYTHON, "-m", "referee", word, *rest]
    )

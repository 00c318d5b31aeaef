"""Break things on purpose, and mend them."""

from __future__ import annotations

from collections.abc import Sequence

from . import cgroup, machine, network
from .terminal import LabError, say
from .topology import Topology

WORDS = ("kill", "stop", "start", "cut", "heal", "burn", "reboot", "strand")
BURN_SECONDS = 30.0
BURN_CORES = 0.5
BURN = "i=0; while :; do i=$((i+1)); done"


def inflict(plan: Topology, word: str, name: str, rest: Sequence[str]) -> None:
    """Do one fault to one node.

    word
        ``kill`` (with a service: SIGKILL of its processes; without: a power cut), ``stop`` and
        ``start`` (a service, or the whole node), ``cut`` and ``heal`` (its cables), ``burn``
        (seconds of CPU load that only this node feels), ``reboot``, ``strand`` (its next reboot
        ends in the dark).
    """
    if word not in WORDS:
        raise LabError(f"no fault {word!r}; there are: {', '.join(WORDS)}")
    node = plan.node(name)
    if word == "kill":
        if rest:
            _service(name, ["kill", "--signal=SIGKILL", "--kill-whom=all"], rest)
        else:
            network.set_cables(plan, node, plugged=False)  # a node without power answers no ping
            machine.power_cut(name)
    elif word == "stop":
        if rest:
            _service(name, ["stop"], rest)
        else:
            machine.shut_down(name)
            network.set_cables(plan, node, plugged=False)
    elif word == "start":
        if rest:
            _service(name, ["start"], rest)
        elif machine.init(name) is None:
            network.set_cables(plan, node, plugged=True)
            machine.boot_wave([name])
    elif word in ("cut", "heal"):
        network.set_cables(plan, node, plugged=word == "heal")
    elif word == "burn":
        burn(name, float(rest[0]) if rest else BURN_SECONDS)
    elif word == "strand":
        machine.strand(name, network.unplugging(plan, node))
    else:
        machine.restart(name)
    say(f"{word} {' '.join([name, *rest])}: done")


def _service(name: str, verb: Sequence[str], services: Sequence[str]) -> None:
    machine.execute(name, ["systemctl", *verb, *services])


def burn(name: str, seconds: float) -> None:
    """Keep the node's CPU busy, within half a core, so that the other nodes do not feel it."""
    pid = machine.need_init(name)
    cgroup.limit_cpu(pid, BURN_CORES)
    try:
        run_for = [f"timeout {seconds} sh -c '{BURN}' &" for _ in range(4)]
        machine.execute(name, ["sh", "-c", " ".join([*run_for, "wait"])], timeout=seconds + 60)
    finally:
        if machine.init(name) == pid:
            cgroup.limit_cpu(pid, None)

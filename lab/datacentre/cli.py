"""The words of `lab/lab`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from . import faults, lifecycle, machine, traffic
from .terminal import LabError, say

USAGE = """\
lab/lab up [--size small|ha|full]   build the lab, or say that it is there
lab/lab down                        remove everything of it
lab/lab status                      its nodes
lab/lab sync                        bring the working tree to the master and the minions
lab/lab highstate                   apply every role's highstate, in the right order
lab/lab shell NODE
lab/lab exec NODE -- COMMAND…       stdin, stdout, stderr and the exit code pass through
lab/lab address NODE|public         its address(es), one a line
lab/lab traffic start|stop|status|mark|report …
                                    the referee on node `client`, with all its options
lab/lab fault kill|stop|start NODE [SERVICE…]
lab/lab fault cut|heal|reboot|strand NODE
lab/lab fault burn NODE [SECONDS]
"""


def _become(node: str, command: Sequence[str]) -> None:
    """Replace this process by the command in the node."""
    words = machine.enter(node, command)
    sys.stdout.flush()
    os.execvp(words[0], words)


def _up(words: list[str]) -> None:
    size = "small"
    if words[:1] == ["--size"] and len(words) == 2:
        size = words[1]
    elif len(words) == 1 and words[0].startswith("--size="):
        size = words[0].partition("=")[2]
    elif words:
        raise LabError(USAGE)
    lifecycle.up(size)


def _shell(words: list[str]) -> None:
    if len(words) != 1:
        raise LabError(USAGE)
    _become(lifecycle.current().node(words[0]).name, ["bash", "-l"])


def _exec(words: list[str]) -> None:
    if len(words) < 3 or words[1] != "--":
        raise LabError(USAGE)
    _become(lifecycle.current().node(words[0]).name, words[2:])


def _address(words: list[str]) -> None:
    if len(words) != 1:
        raise LabError(USAGE)
    plan = lifecycle.current()
    found = plan.public if words[0] == "public" else plan.node(words[0]).addresses[:1]
    print("\n".join(found))


def _traffic(words: list[str]) -> None:
    command = traffic.command(lifecycle.current(), words)
    os.execvp(command[0], command)


def _fault(words: list[str]) -> None:
    if len(words) < 2:
        raise LabError(USAGE)
    faults.inflict(lifecycle.current(), words[0], words[1], words[2:])


def _plain(action: Callable[[], object]) -> Callable[[list[str]], None]:
    def word(words: list[str]) -> None:
        if words:
            raise LabError(USAGE)
        action()

    return word


def _highstate() -> None:
    changed = lifecycle.highstate(lifecycle.current())
    say(f"{changed} states changed")


WORDS: dict[str, Callable[[list[str]], None]] = {
    "up": _up,
    "down": _plain(lifecycle.down),
    "status": _plain(lifecycle.status),
    "sync": _plain(lifecycle.sync),
    "highstate": _plain(_highstate),
    "shell": _shell,
    "exec": _exec,
    "address": _address,
    "traffic": _traffic,
    "fault": _fault,
}


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    try:
        word = WORDS.get(words[0])
        if word is None:
            raise LabError(f"no word {words[0]!r}\n{USAGE}")
        lifecycle.require_root()
        word(words[1:])
    except LabError as error:
        say(f"lab: {error}")
        return 1
    except KeyboardInterrupt:
        say("lab: interrupted; lab/lab down removes what is there")
        return 130
    return 0

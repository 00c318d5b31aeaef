"""Run the user's own command of a certification on a preproduction server: words, no shell."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from webfarm.certificates.settings import LONGEST_COMMAND
from webfarm.errors import WebfarmError

LAST_BYTES = 4000
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}


def agreed(asked: object, node: Mapping[str, Any], own: Sequence[str]) -> list[str]:
    """The command that may run here: what is asked for, when this minion's pillar has it too.

    node
        Where this minion stands, as ``webfarm_topology.node`` says it.
    own
        The command in this minion's pillar.

    So a caller of Salt cannot have anything else run, and a pillar that is out of date is found.
    """
    if node.get("role") != "preproduction":
        raise WebfarmError(
            f"minion {node.get('id')} is a {node.get('role')}, no preproduction server; nothing "
            "was run"
        )
    if not own:
        raise WebfarmError("webfarm:preproduction:command is empty here; nothing was run")
    if not isinstance(asked, list) or asked != list(own):
        raise WebfarmError(
            f"the command {asked!a:.200} is not the one of this minion's pillar, "
            f"{list(own)!a:.200}; nothing was run. Refresh its pillar with "
            "`saltutil.refresh_pillar`"
        )
    return list(own)


def run(words: Sequence[str], deadline: float) -> dict[str, Any]:
    """Run a program; ``{"code": exit code, "output": the last of what it wrote}``.

    A program that takes longer than ``deadline`` seconds is killed with all that it started.
    """
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)):
        raise WebfarmError(f"deadline is {deadline!a:.40}, expected seconds; nothing was run")
    if not 0 < deadline <= 3600 or sum(map(len, words)) > LONGEST_COMMAND:
        raise WebfarmError("the deadline must be 1..3600 s, and the command not too long")
    try:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise WebfarmError(
            f"{words[0]} cannot be run: {error.strerror}; see webfarm:preproduction:command"
        ) from error
    assert process.stdout is not None
    last = bytearray()
    reader = threading.Thread(target=_read, args=(process.stdout, last), daemon=True)
    reader.start()
    try:
        code = process.wait(deadline)
    except subprocess.TimeoutExpired:
        raise WebfarmError(
            f"{words[0]} did not end in {deadline:g} s and was killed; it said: {_shown(last)}"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(5.0)
    return {"code": code, "output": _shown(last)}


def _read(stream: IO[bytes], last: bytearray) -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 65536):
            last += chunk
            del last[:-LAST_BYTES]


def _shown(last: bytearray) -> str:
    return bytes(last).decode("utf-8", "replace").strip()

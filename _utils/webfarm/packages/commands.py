"""Run a package manager: its output goes to the journal line by line, an error shows the end."""

import contextlib
import os
import subprocess
import syslog
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from webfarm.errors import WebfarmError

TAG = "webfarm-packages"
LAST_LINES = 12
_PLAIN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
}
# how to reach the archive: the only things of the caller's environment that a manager sees
_KEPT = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a package manager; nothing of the minion's but the proxies."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**_PLAIN, **kept, **extra}


def answer(
    command: Sequence[str | Path], env: Mapping[str, str], seconds: float = 300.0
) -> tuple[int, str, str]:
    """Exit status, output and errors of a command that changes nothing."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=environment(env),
        )
    except FileNotFoundError as error:
        raise WebfarmError(
            f"{error.filename} is not on this machine; is webfarm:packages:manager in the pillar"
            " right? Nothing was changed"
        ) from None
    except subprocess.TimeoutExpired:
        raise WebfarmError(
            f"`{shown(command)}` took more than {seconds:g} s and was ended; nothing was changed"
        ) from None
    return done.returncode, done.stdout, done.stderr


def ask(
    command: Sequence[str | Path], env: Mapping[str, str], what: str, seconds: float = 300.0
) -> str:
    """What a command printed; :class:`WebfarmError` with the end of what it said when it fails."""
    status, output, errors = answer(command, env, seconds)
    if status:
        said = errors.strip() or output.strip()
        raise WebfarmError(f"{what}: {last(said.splitlines())}; nothing was changed")
    return output


def follow(
    command: Sequence[str | Path],
    env: Mapping[str, str],
    seconds: float,
    keep: Sequence[int] = (),
) -> tuple[int, str]:
    """Run a command to its end; its lines go to the journal (``journalctl -t webfarm-packages``).

    Returns the exit status and the last lines. It runs in a scope of its own where systemd does, so
    that a minion which is restarted, perhaps by this very change, does not end it.

    keep
        File descriptors that it keeps open, locks as a rule.
    """
    if Path("/run/systemd/system").is_dir():
        command = ["systemd-run", "--quiet", "--scope", "--", *command]
    syslog.openlog(TAG, 0, syslog.LOG_DAEMON)
    lines: deque[str] = deque(maxlen=LAST_LINES)
    syslog.syslog(syslog.LOG_NOTICE, f"begins: {shown(command)}")
    # a file and not a pipe: a daemon that inherits it would keep a pipe open for ever
    with tempfile.TemporaryFile("w+b") as output:
        child = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(env),
            pass_fds=tuple(keep),
        )
        end = time.monotonic() + seconds
        at = 0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
            over = child.poll() is not None
            data = os.pread(output.fileno(), 1 << 20, at)
            whole = len(data) if over else data.rfind(b"\n") + 1
            at += whole
            for line in data[:whole].decode("utf-8", "replace").splitlines():
                if line.strip():
                    lines.append(line.strip()[:400])
                    syslog.syslog(syslog.LOG_INFO, line.replace("\0", "")[:900])
            if over and whole == 0:
                break
            if not over and time.monotonic() > end:
                child.terminate()
                lines.append(f"took more than {seconds:g} s and was ended")
                end = float("inf")
    syslog.syslog(syslog.LOG_NOTICE, f"ended with {child.returncode}")
    return child.returncode, last(lines)


def last(lines: Sequence[str] | deque[str]) -> str:
    """The last lines in one."""
    return " / ".join(list(lines)[-LAST_LINES:])[-2000:] or "it said nothing"


def shown(command: Sequence[str | Path]) -> str:
    """A command for a message, shortened."""
    text = " ".join(map(str, command))
    return text if len(text) <= 300 else text[:297] + "..."

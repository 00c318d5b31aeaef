"""Say what is being done and how long it took; run commands and explain their failures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """The lab cannot do what was asked; the message says what to do next."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def phase(title: str) -> Iterator[None]:
    """Announce a phase, and say at its end how long it took."""
    say(f"{time.strftime('%H:%M:%S')}  {title} …")
    begin = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{time.strftime('%H:%M:%S')}  {title}: FAILED after {time.monotonic() - begin:.1f} s")
        raise
    say(f"{time.strftime('%H:%M:%S')}  {title}: {time.monotonic() - begin:.1f} s")


def run(
    command: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output kept.

    Raises :class:`LabError` with the end of that output when it fails, unless ``check`` is off.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin if stdin is not None else "",
            text=True,
            errors="replace",
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env=env,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not there; run lab/install first") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"no end after {timeout} s: {' '.join(words)}") from error
    if check and done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise LabError(f"exit code {done.returncode} of: {' '.join(words)}\n{tail}")
    return done


def run_logged(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> None:
    """Run a long command with its output appended to a file."""
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as out:
        out.write(f"\n$ {' '.join(words)}\n")
        out.flush()
        code = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise LabError(f"exit code {code} of: {' '.join(words)}\n(whole output in {log})\n{tail}")


def wait_until(probe: Callable[[], bool], seconds: float, what: str, pause: float = 0.2) -> None:
    """Ask ``probe`` until it is true; raise :class:`LabError` naming ``what`` at the deadline."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause)

"""A command on the master while it runs: wait for a step of its journal, signal it, end it."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from datacentre import machine
from lab_words import Lab

JOURNAL = "/var/cache/salt/master/webfarm/journal.sqlite"
PYTHON = "/opt/salt/bin/python3"
SALT_RUN = ("salt-run", "--out=json", "--log-level=error")

# Runs in the master, so that the signal follows the journal's entry within milliseconds.
WATCH = """
import os, sqlite3, sys, time
pidfile, step, farm = sys.argv[1:4]
after, number, seconds = map(int, sys.argv[4:])
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        pid = int(open(pidfile).read())
        os.kill(pid, 0)
    except ProcessLookupError:
        sys.exit(f"the command ended before {step}")
    except (OSError, ValueError):
        time.sleep(0.05)
        continue
    try:
        with sqlite3.connect(f"file:{JOURNAL}?mode=ro", uri=True) as journal:
            row = journal.execute(
                "SELECT steps.state FROM steps LEFT JOIN rollouts ON rollouts.id = rollout "
                "WHERE steps.id > ? AND name = ? AND ? IN ('', farm) ORDER BY steps.id",
                (after, step, farm),
            ).fetchone()
    except sqlite3.OperationalError:
        row = None
    if row:
        if number:
            os.kill(pid, number)
        print(row[0])
        sys.exit(0)
    time.sleep(0.005)
sys.exit(f"no {step} in the journal within {seconds} s")
"""
LATEST = "SELECT coalesce(max(id), 0) FROM steps"
STEP_SECONDS = 180


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its data (None when it printed none), what it said."""

    exit: int
    data: dict[str, Any] | None
    said: str

    @property
    def ok(self) -> bool:
        return self.exit == 0 and bool(self.data and self.data.get("result"))

    def __str__(self) -> str:
        shown = json.dumps(self.data, indent=1) if self.data else self.said
        return f"exit {self.exit}: {shown[-3000:]}"


def sql(lab: Lab, query: str) -> list[list[Any]]:
    """Rows of the journal; none when there is no journal yet."""
    script = (
        f"import json, os, sqlite3\nif os.path.exists({JOURNAL!r}):\n"
        f"    rows = sqlite3.connect('file:{JOURNAL}?mode=ro', uri=True).execute({query!r})\n"
        "    print(json.dumps(list(rows)))"
    )
    out = lab.exec("master", PYTHON, "-c", script).stdout
    rows: list[list[Any]] = json.loads(out or "[]")
    return rows


class Runner:
    """`salt-run WORDS` on the master, in the background."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.lab = lab
        self.words = words
        self.pidfile = f"/run/runner-{uuid4().hex}.pid"
        self.after = int((sql(lab, LATEST) or [[0]])[0][0])
        start = 'echo $$ > "$0"; exec "$@"'
        self.process = subprocess.Popen(
            machine.enter("master", ["sh", "-c", start, self.pidfile, *SALT_RUN, *words]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def at(self, step: str, number: int = 0, farm: str = "") -> str:
        """Return when the journal has the step (of a farm), after sending that signal (0: none).

        The step's state then: ``intended``, unless it was very quick.
        """
        script = WATCH.replace("{JOURNAL}", JOURNAL)
        words = (self.pidfile, step, farm, str(self.after), str(number), str(STEP_SECONDS))
        done = self.lab.exec(
            *("master", PYTHON, "-c", script, *words), check=False, timeout=STEP_SECONDS + 30
        )
        if done.returncode:
            ended = self.wait() if "ended before" in done.stderr else "it still runs"
            raise AssertionError(f"{' '.join(self.words)}: {done.stderr.strip()}; {ended}")
        return done.stdout.strip()

    def signal(self, name: str) -> None:
        """Send a signal to it."""
        self.lab.sh("master", f"kill -{name} $(cat {self.pidfile})")
        if name == "CONT":  # nsenter has stopped itself with what it runs
            self.process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float = 300) -> Ended:
        """Its end."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.signal("KILL")
            out, err = self.process.communicate(timeout=60)
            raise AssertionError(
                f"no end after {seconds:.0f} s: {' '.join(self.words)}\n{out}\n{err[-3000:]}"
            ) from None
        try:
            data = json.loads(out)
        except ValueError:
            data = None
        found = data if isinstance(data, dict) else None
        return Ended(self.process.returncode, found, f"{out}\n{err}".strip())


def command(lab: Lab, *words: str, seconds: float = 300) -> Ended:
    """`salt-run WORDS`, to its end."""
    return Runner(lab, *words).wait(seconds)

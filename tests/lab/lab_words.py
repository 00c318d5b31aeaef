"""The words of `lab/lab` for tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datacentre import machine
from datacentre.terminal import LabError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "lab" / "lab"


def _run(
    words: Sequence[str], check: bool, stdin: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, input=stdin or "", text=True, capture_output=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(
            f"exit code {done.returncode} of {' '.join(words)}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done


class Lab:
    """The words of `lab/lab`, and what tests ask of the nodes behind them."""

    def __call__(
        self, *words: str, check: bool = True, stdin: str | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        return _run([str(PROGRAM), *words], check, stdin, timeout)

    def exec(
        self, node: str, *command: str, check: bool = True, stdin: str | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """What `lab/lab exec` does, without a start of Python for each of some hundred times."""
        try:
            words = machine.enter(node, command)
        except LabError as error:
            assert not check, error
            return subprocess.CompletedProcess(command, 1, "", str(error))
        return _run(words, check, stdin, timeout)

    def sh(self, node: str, script: str, check: bool = True, timeout: float = 300) -> str:
        """The output of a shell script in a node."""
        return self.exec(node, "sh", "-c", script, check=check, timeout=timeout).stdout

    def address(self, name: str) -> str:
        return self("address", name).stdout.split()[0]

    def fault(self, word: str, node: str, *rest: str) -> None:
        self("fault", word, node, *rest)

    def salt(self, targets: str | Sequence[str], function: str, *arguments: str) -> dict[str, Any]:
        """Minion -> result; of a glob, or of a list of minion ids."""
        target = ["-L", ",".join(targets)] if not isinstance(targets, str) else [targets]
        done = self.exec(
            *("master", "salt", "--out=json", "--static", "--log-level=error", "--timeout=60"),
            *(*target, function, *arguments),
            check=False,
        )
        return json.loads(done.stdout or "{}")

    def run(self, function: str, *arguments: str, check: bool = True, timeout: float = 600) -> Any:
        """A runner's result."""
        done = self.exec(
            *("master", "salt-run", "--out=json", "--log-level=error", function, *arguments),
            check=check,
            timeout=timeout,
        )
        return json.loads(done.stdout)

    def traffic(
        self, word: str, *options: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self("traffic", word, *options, check=check)

    def verdict(self, *options: str) -> dict[str, Any]:
        """The referee's report as data."""
        return json.loads(self.traffic("report", "--json", *options, check=False).stdout)

    @property
    def up(self) -> bool:
        done = self("status", check=False)
        return not done.returncode and "ready" in done.stdout.splitlines()[0]

    @property
    def nodes(self) -> list[dict[str, str]]:
        """The table of `lab/lab status`; of several addresses the first."""
        lines = [line.split() for line in self("status").stdout.splitlines()[1:]]
        head = lines[0]
        return [dict(zip(head, [*line[:3], *line[-2:]], strict=True)) for line in lines[1:]]

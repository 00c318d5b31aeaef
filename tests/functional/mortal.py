"""A process that is killed at a step of its choice, whatever it does."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from webfarm.snapshots.tools import Tools


class Mortal(Tools):
    """Dies by SIGKILL before or after its ``step``-th effect."""

    def __init__(self, step: int, after: bool) -> None:
        super().__init__()
        self.left, self.after = step, after

    def _count(self, act: Callable[[], object]) -> str:
        self.left -= 1
        if self.left == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = act()
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return str(answer)

    def run(self, command: Sequence[str]) -> str:
        return self._count(lambda: super(Mortal, self).run(command))

    def exchange(self, one: Path, other: Path) -> None:
        self._count(lambda: super(Mortal, self).exchange(one, other))

    def rename(self, old: Path, new: Path) -> None:
        self._count(lambda: super(Mortal, self).rename(old, new))

    def write(self, path: Path, text: str) -> None:
        self._count(lambda: super(Mortal, self).write(path, text))

    def remove(self, path: Path) -> None:
        self._count(lambda: super(Mortal, self).remove(path))


def killed(act: Callable[[str], object], name: str) -> bool:
    """Do it in a child; whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act(name)
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WIFSIGNALED(ended)

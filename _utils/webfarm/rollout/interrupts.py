"""Ctrl-C as a wish and not as an exception."""

import signal
import sys
from typing import Any


class Interrupts:
    """Within the block SIGINT and SIGTERM ask to stop after the current step; again is no more.

    words
        What is said then; empty: nothing.
    ends
        The process ends after the block, so that a further signal must not cut off what is shown.
    """

    def __init__(self, words: str, ends: bool) -> None:
        self.words = words
        self.ends = ends
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def asked(self) -> bool:
        """Somebody asked."""
        return self._asked

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: salt-api or a reactor, nobody types there
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ends and self._asked else handler)

    def _handle(self, *_: object) -> None:
        self._asked = True
        if self.words:
            sys.stderr.write(f"\n{self.words}\n")

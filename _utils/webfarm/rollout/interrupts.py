"""Ctrl-C as a wish and not as an exception."""

import signal
import sys
from contextlib import suppress
from typing import Any


class Interrupts:
    """Within the block SIGINT and SIGTERM ask to stop after the current step; again is no more.

    A terminal that hangs up stops nothing: a farm that nobody brings back into service is worse
    than a run that nobody watches.

    words
        What is said when asked; empty: nothing.
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
        handlers: dict[signal.Signals, Any] = {
            signal.SIGINT: self._handle,
            signal.SIGTERM: self._handle,
            signal.SIGHUP: signal.SIG_IGN,
        }
        for number, handler in handlers.items():
            try:
                self._before[number] = signal.signal(number, handler)
            except ValueError:  # not in the main thread: salt-api or a reactor, nobody types there
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.ends and self._asked else handler)

    def _handle(self, *_: object) -> None:
        self._asked = True
        if self.words:
            with suppress(OSError):
                sys.stderr.write(f"\n{self.words}\n")

"""What is added up between two reports."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Sums:
    """Sums of a period.

    seconds
        The period's length.
    requests, errors
        Requests that ended in it, and those of them with a status of 500 and more.
    busy
        Seconds that php-fpm took for them, added up.
    squares
        The squares of those seconds, added up: how much the times differ.
    active
        Mean of php-fpm's active processes; None when it was not seen.
    full
        How often php-fpm wanted more children than it may have.
    """

    seconds: float
    requests: int = 0
    errors: int = 0
    busy: float = 0.0
    squares: float = 0.0
    active: float | None = None
    full: int = 0


class Period:
    """The current period: sensors add to it from their threads, a report takes it."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self.served = float("-inf")
        """When (monotonic) a request was last seen to have ended."""
        self._clear(now)

    def add_requests(
        self, requests: int, errors: int, busy: float, squares: float, now: float
    ) -> None:
        """Requests that have ended, seen at ``now``."""
        with self._lock:
            self._requests += requests
            self._errors += errors
            self._busy += busy
            self._squares += squares
            if requests > errors:
                self.served = now

    def add_status(self, active: int, full: int) -> None:
        """A look at php-fpm's status."""
        with self._lock:
            self._active += active
            self._looks += 1
            self._full += full

    def peek(self, now: float) -> Sums:
        """The sums until ``now``."""
        with self._lock:
            return self._sums(now)

    def take(self, now: float) -> Sums:
        """The sums until ``now``, where a new period begins."""
        with self._lock:
            sums = self._sums(now)
            self._clear(now)
            return sums

    def _sums(self, now: float) -> Sums:
        return Sums(
            seconds=max(now - self._began, 0.001),
            requests=self._requests,
            errors=self._errors,
            busy=self._busy,
            squares=self._squares,
            active=self._active / self._looks if self._looks else None,
            full=self._full,
        )

    def _clear(self, now: float) -> None:
        self._began = now
        self._requests = self._errors = self._active = self._looks = self._full = 0
        self._busy = self._squares = 0.0

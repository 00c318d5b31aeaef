"""Whether a service is alive, told from how it answers; with hysteresis."""

HUNG_SECONDS = 5.0
BACK_SECONDS = 2.0
REFUSALS = 2


class Life:
    """The life of one service; all times are monotonic seconds.

    Dead is a service that refused twice in a row, whose process was seen to end, or that was silent
    for ``hung`` seconds in which it served nobody. A service that is slow because it is busy still
    serves, so load alone never makes it dead. It is alive again when it has answered for ``back``
    seconds without a failure.
    """

    def __init__(self, hung: float = HUNG_SECONDS, back: float = BACK_SECONDS) -> None:
        self.dead = False
        self._hung = hung
        self._back = back
        self._refusals = 0
        self._silent_since: float | None = None
        self._good_since: float | None = None

    def answered(self, now: float) -> None:
        """It did what it was asked."""
        self._refusals = 0
        self._silent_since = None
        if self._good_since is None:
            self._good_since = now
        if now - self._good_since >= self._back:
            self.dead = False

    def refused(self) -> None:
        """Nobody listens."""
        self._good_since = None
        self._refusals += 1
        if self._refusals >= REFUSALS:
            self.dead = True

    def ended(self) -> None:
        """Its process is no more."""
        self._good_since = None
        self.dead = True

    def silent(self, now: float, served: float) -> None:
        """No answer in time, or a senseless one.

        served
            When it last served anybody.
        """
        self._refusals = 0
        self._good_since = None
        if self._silent_since is None:
            self._silent_since = now
        if min(now - self._silent_since, now - served) >= self._hung:
            self.dead = True

"""A sensor's thread: it looks, waits, and looks again, until nobody wants to know any more."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

TROUBLE_SECONDS = 5.0
MOST_HUNG = 4

_hung: dict[str, list[threading.Thread]] = {}


class Loop:
    """Runs ``look`` in a daemon thread.

    name
        The sensor's, for the log.
    look
        Measures once and returns the seconds to wait; what it raises is logged, once per kind.
    wanted
        Asked before each look; False ends the thread. So no thread stays behind when whoever
        started it is gone without a word.
    wait
        Waits, at most as long as it is told; default: until then or until :meth:`stop`.
    close
        Called in the thread at its end.

    ``looked_at`` is when (monotonic) it last looked; None before the first time.

    :meth:`stop` does not wait: a thread that hangs in the kernel ends when the kernel lets go. When
    four of a name hang already, no further one is started.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], float],
        wanted: Callable[[], bool],
        wait: Callable[[float], object] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.looked_at: float | None = None
        self._name = name
        self._look = look
        self._wanted = wanted
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._close = close
        self._troubles: set[str] = set()
        self._thread = threading.Thread(
            target=self._run, name=f"webfarm-health-{name}", daemon=True
        )

    def start(self) -> None:
        """Begin to look."""
        alive = [thread for thread in _hung.get(self._name, ()) if thread.is_alive()]
        _hung[self._name] = alive
        if len(alive) >= MOST_HUNG:
            log.error(
                "webfarm_health: %d looks at %s hang; it is not looked at any more until one of"
                " them ends (is a disk or a mount dead?)",
                len(alive),
                self._name,
            )
            return
        self._thread.start()
        alive.append(self._thread)

    def stop(self) -> None:
        """End the thread as soon as it is not within a look."""
        self._stopping.set()

    def join(self, seconds: float) -> bool:
        """Wait for the thread's end, at most ``seconds``; whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._wanted():
                pause = self._once()
                self.looked_at = time.monotonic()
                self._wait(pause)
        finally:
            self._close()

    def _once(self) -> float:
        try:
            return self._look()
        except Exception as error:  # a sensor must not die of what nobody has thought of
            kind = type(error).__name__
            if kind not in self._troubles:
                self._troubles.add(kind)
                log.exception("webfarm_health: looking at %s failed", self._name)
            return TROUBLE_SECONDS

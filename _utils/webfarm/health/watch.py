"""What the beacon does each second: keep a monitor at work, and sign what it has to report."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from webfarm import signed
from webfarm.errors import WebfarmError
from webfarm.health import settings
from webfarm.health.monitor import Monitor
from webfarm.topology import Topology

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0


class Watch:
    """One minion's watch over itself.

    Without a usable topology or key it reports nothing, logs why once, and tries again each minute:
    a beacon that raises would be logged, and sent to the master, every second.
    """

    def __init__(self) -> None:
        self._monitor: Monitor | None = None
        self._process = 0
        self._options: settings.Options | None = None
        self._again = 0.0
        self._said = ""

    def reports(
        self, config: object, minion: str, key: Path, topology: Callable[[], Topology]
    ) -> list[dict[str, str]]:
        """The events to send now: none, or one ``{"report": JSON text, "signature": base64}``.

        config
            The beacon's configuration.
        key
            The minion's private key.
        topology
            Asked when the watch begins, not each time.
        """
        try:
            given = settings.options(config)
            monitor = self._running(given, minion, topology)
            body = None if monitor is None else monitor.tick()
            if body is None:
                return []
            envelope = signed.seal(body, key, signed.REPORT)
        # OSError, RuntimeError: a machine without descriptors or threads left
        except (WebfarmError, OSError, RuntimeError) as error:
            self._trouble(str(error))
            return []
        return [{"report": envelope["body"], "signature": envelope["signature"]}]

    def close(self) -> None:
        """Stop to look; the next call of :meth:`reports` begins anew."""
        monitor, self._monitor = self._monitor, None
        self._again = 0.0
        if monitor is not None:
            monitor.close()

    def _running(
        self, given: settings.Options, minion: str, topology: Callable[[], Topology]
    ) -> Monitor | None:
        monitor = self._monitor
        if monitor is not None and monitor.alive and self._process == os.getpid():
            if given == self._options:
                return monitor
            monitor.close()
            self._again = 0.0
        now = time.monotonic()
        if monitor is None and now < self._again:
            return None
        self._monitor = None
        self._again = now + AGAIN_SECONDS
        found = settings.of_server(topology(), minion, given)
        if found is None:
            return None
        self._options, self._process = given, os.getpid()
        self._monitor = Monitor(minion, found)
        self._said = ""
        return self._monitor

    def _trouble(self, what: str) -> None:
        if what != self._said:
            log.error("webfarm_health reports nothing: %s", what)
        self._said = what

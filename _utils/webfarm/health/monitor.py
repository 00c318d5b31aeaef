"""All sensors of a web server together; asked each second whether there is something to report."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webfarm.health import reading
from webfarm.health.accesslog import AccessLog
from webfarm.health.fpm import PhpFpm
from webfarm.health.front import Cache, Nginx
from webfarm.health.machine import RESOURCES, Disks, Pressure, Psi, RunDelay
from webfarm.health.period import Period, Sums
from webfarm.health.reading import Reading
from webfarm.health.settings import Settings
from webfarm.health.threads import Loop

log = logging.getLogger(__name__)

FORGOTTEN_SECONDS = 30.0
FIRST_SECONDS = 3.0
OLD_SECONDS = 10.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Monitor:
    """The sensors of this server, each in a thread of its own.

    minion
        Its id.

    When nobody has asked for 30 s, the threads end (:attr:`alive` is false then): a minion drops
    its beacons without a word when it connects anew.
    """

    def __init__(self, minion: str, settings: Settings) -> None:
        now = time.monotonic()
        self.settings = settings
        self._minion = minion
        self._boot = BOOT_ID.read_text(encoding="ascii").strip()
        self._began = self._asked = now
        self._closed = False
        self._last: Reading | None = None
        given = settings.options
        self._period = Period(now)
        self._fpm = PhpFpm(given.status_socket, given.www_socket, self._period)
        self._log = AccessLog(Path(given.access_log), self._period)
        self._nginx = Nginx(settings.port, self._period, lambda: self._fpm.listener)
        self._cache = Cache(settings.memcached)
        self._disks = Disks(given.disks, given.full_mib)
        self._pressure = Pressure(RunDelay(lambda: self._fpm.listener))
        self._loops = {
            "php-fpm": self._loop("php-fpm", self._fpm.look, self._fpm.wait, self._fpm.close),
            "log": self._loop("log", self._log.look, close=self._log.close),
            "nginx": self._loop("nginx", self._nginx.look),
            "memcached": self._loop("memcached", self._cache.look),
            "disks": self._loop("disks", self._disks.look),
            "pressure": self._loop("pressure", self._pressure.look),
        }
        for loop in self._loops.values():
            loop.start()

    @property
    def alive(self) -> bool:
        """Whether the sensors still look."""
        return not self._closed and time.monotonic() - self._asked < FORGOTTEN_SECONDS

    def tick(self) -> dict[str, Any] | None:
        """The body of a report that should be sent now, or None; never waits."""
        now = self._asked = time.monotonic()
        if self._last is None and not self._ready(now):
            return None
        why = reading.why_now(
            self._last,
            self._reading(self._period.peek(now), self._pressure.peek()),
            self.settings.options.heartbeat,
        )
        if why is None:
            return None
        found = self._reading(self._period.take(now), self._pressure.take())
        if self._last is None or found.critical != self._last.critical:
            log.log(
                logging.WARNING if found.critical else logging.INFO,
                "webfarm_health: critical here: %s",
                ", ".join(sorted(found.critical)) or "nothing",
            )
        self._last = found
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        return reading.body(found, self._minion, self._boot, time.time(), up)

    def close(self) -> None:
        """End the sensors; does not wait for them."""
        self._closed = True
        for loop in self._loops.values():
            loop.stop()

    def join(self, seconds: float) -> bool:
        """Wait for the end of all threads after :meth:`close`; whether they have ended."""
        return all([loop.join(seconds) for loop in self._loops.values()])

    def _loop(
        self,
        name: str,
        look: Callable[[], float],
        wait: Callable[[float], object] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> Loop:
        return Loop(name, look, lambda: self.alive, wait, close)

    def _ready(self, now: float) -> bool:
        """Whether every sensor has looked, or had its time to: the first report says it all."""
        looked = all(loop.looked_at is not None for loop in self._loops.values())
        return looked or now - self._began >= FIRST_SECONDS

    def _reading(self, sums: Sums, psi: Psi) -> Reading:
        critical = {
            "php-fpm": self._fpm.life.dead,
            "nginx": self._nginx.life.dead,
            "disk-full": self._disks.full,
            "read-only": self._disks.read_only,
        }
        return Reading(
            sums=sums,
            children=self.settings.children,
            queue=self._fpm.queue,
            psi=psi if self._fresh("pressure") else dict.fromkeys(RESOURCES),
            disk=self._disks.free if self._fresh("disks") else None,
            memcached=self._cache.reachable if self._fresh("memcached") else None,
            release=self._nginx.release if self._fresh("nginx") else None,
            critical=frozenset(name for name, is_so in critical.items() if is_so),
        )

    def _fresh(self, name: str) -> bool:
        """Whether a sensor looked lately; one that hangs knows nothing."""
        looked = self._loops[name].looked_at
        return looked is not None and time.monotonic() - looked < OLD_SECONDS

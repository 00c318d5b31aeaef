"""nginx and what it serves, and the session cache: asked over the loopback and the network."""

import json
import time
from collections.abc import Callable

from webfarm import memcache, names
from webfarm.health import links
from webfarm.health.life import Life
from webfarm.health.period import Period
from webfarm.ready import UNKNOWN

NGINX_SECONDS = 1.0
LOOK_SECONDS = 1.0
AGAIN_SECONDS = 0.1
RELEASE_SECONDS = 5.0
CACHE_SECONDS = 0.5
CACHE_LOOK_SECONDS = 2.0
CACHE_FAILURES = 2


def page(port: int, path: str, seconds: float) -> tuple[int, bytes]:
    """``GET path`` from this server's nginx: status and body; raises OSError, also for nonsense."""
    end = time.monotonic() + seconds
    question = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    with links.tcp("127.0.0.1", port, end) as link:
        answer = links.exchange(link, question.encode("ascii"), end)
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise OSError(f"no HTTP answer: {answer[:40]!a}")
    return int(words[1]), body


def release_of(body: bytes) -> str | None:
    """The release that ``/ready`` names; None for an unknown pair and for nonsense."""
    try:
        found = json.loads(body)["release"]
    except (ValueError, TypeError, KeyError):
        return None
    known = isinstance(found, str) and not found.startswith(UNKNOWN)
    return found if known and names.problem(found) is None else None


class Nginx:
    """Looks at nginx once a second, and at ``/ready`` every 5 s and when php-fpm was started anew.

    listener
        Tells the process id of php-fpm's master.
    """

    def __init__(self, port: int, period: Period, listener: Callable[[], int]) -> None:
        self.life = Life()
        self.release: str | None = None
        self._port = port
        self._period = period
        self._listener = listener
        self._asked: tuple[float, int] | None = None

    def look(self) -> float:
        """Ask once; returns the seconds to wait until the next look."""
        try:
            page(self._port, "/.webfarm/alive", NGINX_SECONDS)
        except ConnectionRefusedError:
            self.life.refused()
            self._asked = self.release = None
            return AGAIN_SECONDS
        except OSError:
            self.life.silent(time.monotonic(), self._period.served)
            return LOOK_SECONDS
        self.life.answered(time.monotonic())
        self._look_at_release()
        return LOOK_SECONDS

    def _look_at_release(self) -> None:
        now, listener = time.monotonic(), self._listener()
        asked = self._asked
        if asked is not None and now - asked[0] < RELEASE_SECONDS and asked[1] == listener:
            return
        self._asked = (now, listener)
        try:
            self.release = release_of(page(self._port, "/ready", NGINX_SECONDS)[1])
        except OSError:
            if asked is None or asked[1] != listener:  # else a busy server is just slow to answer
                self.release = None


class Cache:
    """Asks this server's memcached for its version every two seconds.

    ``reachable`` is None where the server has none, and before the first answer; False after two
    failures in a row.
    """

    def __init__(self, endpoint: str | None) -> None:
        self.reachable: bool | None = None
        self._at = None if endpoint is None else memcache.check_endpoint(endpoint)
        self._failures = 0

    def look(self) -> float:
        """Ask once; returns the seconds to wait until the next look."""
        if self._at is None:
            return CACHE_LOOK_SECONDS
        end = time.monotonic() + CACHE_SECONDS
        try:
            with links.tcp(*self._at, end) as link:
                if not links.exchange(link, b"version\r\n", end, b"\r\n").startswith(b"VERSION "):
                    raise OSError("no memcached")
        except OSError:
            self._failures += 1
            if self._failures >= CACHE_FAILURES:
                self.reachable = False
        else:
            self._failures = 0
            self.reachable = True
        return CACHE_LOOK_SECONDS

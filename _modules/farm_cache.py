"""
Empty a farm's memcached pool and prove that it is empty.
"""

from typing import Any

import webfarm

webfarm.renew(__file__)

from webfarm import hold as _hold
from webfarm import memcache

__virtualname__ = "farm_cache"


def __virtual__() -> str:
    return __virtualname__


def flush(
    servers: list[str], deadline: float = 10, hold: str | None = None
) -> dict[str, dict[str, Any]]:
    """
    Empty every server of the pool, until each lists no item any more.

    Returns ``{server: {"flushed": True, "items": 0, "flushes", "took": seconds}}``; raises, naming
    each server that could not be proved empty, at the latest after ``deadline`` seconds.

    servers
        ``HOST:PORT`` of each memcached server of the farm.
    deadline
        Seconds for all of them together.
    hold
        What a rollout proves its lease with, ``SITE:TOKEN.NUMBER``; one that is older than the
        newest seen is refused, and so is one that has not looked within 20 s. Left out by hand.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 farm_cache.flush '["10.77.1.101:11211", "10.77.1.102:11211"]'
    """
    with _hold.of(__opts__).under(hold):  # type: ignore[name-defined]
        return memcache.flush(servers, deadline)


def stats(servers: list[str], deadline: float = 10) -> dict[str, dict[str, Any]]:
    """
    Return memcached's ``stats`` of every server of the pool.

    servers
        ``HOST:PORT`` of each memcached server of the farm.
    deadline
        Seconds for all of them together.

    CLI Example:

    .. code-block:: bash

        salt site1-farm1-ws1 farm_cache.stats '["10.77.1.101:11211"]'
    """
    return memcache.stats(servers, deadline)

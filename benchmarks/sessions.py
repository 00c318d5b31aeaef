"""What the session handler costs a request, on real nginx, php-fpm, memcached and MariaDB.

    python benchmarks/sessions.py [REQUESTS]

One client on the loopback, one request after another; the kinds take turns, so that all meet the
same noise. Printed is the median of each kind, and what it costs beside a page without a session.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/functional"), str(ROOT / "_utils")]

from php_world import WS1, WS2, Client, Site, running_site  # noqa: E402

READ, CHANGE, NONE = "/pages/read.php", "/", "/pages/stateless.php"
KINDS = {
    "no session": (NONE, True, True),
    "read": (READ, True, True),
    "changed": (CHANGE, True, True),
    "moved, read": (READ, True, False),
    "moved, changed": (CHANGE, True, False),
    "young, read": (READ, False, True),
    "young, changed": (CHANGE, False, True),
}
"""A page, whether the caches are settled, whether the session stays."""


def age(site: Site, settled: bool) -> None:
    for server in (site.servers[WS1], site.servers[WS2]):
        site.cache_command(server, "set since 0 0 1\r\n1")
        site.cache_command(server, "delete young" if settled else "set young 0 0 1\r\n1")


def measure(site: Site, requests: int) -> dict[str, float]:
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    client = Client(site)
    client.count()
    for turn in range(requests + 20):
        for kind, (path, settled, stays) in KINDS.items():
            age(site, settled)
            client.ask(path=CHANGE)  # the cache has its entry, if it is settled
            farmid = client.farmid
            client.farmid = farmid if stays else "site1:farm1:0"
            began = time.perf_counter()
            answer = client.ask(path=path)
            if turn >= 20:
                took[kind].append(time.perf_counter() - began)
            client.farmid = farmid
            assert answer.status == 200, (kind, answer)
    return {kind: 1000 * statistics.median(times) for kind, times in took.items()}


def main() -> None:
    with running_site() as site:
        found = measure(site, int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    for kind, milliseconds in found.items():
        print(f"{kind:16}{milliseconds:6.2f} ms  + {milliseconds - found['no session']:5.2f} ms")


if __name__ == "__main__":
    main()

"""How soon the weights of the lab follow: `lab/weights` prints it."""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from lab_words import Lab
from shop import Shop
from weigher import Farm, Watch, Weigher, drained, in_service, is_base, looping, lowered, weighed

FARM = "farm1"
BURN_SECONDS = 16.0


@dataclass
class Row:
    """One kind of event and the seconds that it took each time, until the last balancer had it."""

    name: str
    what: str
    seconds: list[float] = field(default_factory=list)
    lost: int | None = None
    """Failed requests that were sent after the event, so that nothing excuses them."""

    def __str__(self) -> str:
        if not self.seconds:
            return f"| {self.what} | 0 | – | – | – |"
        median, most = statistics.median(self.seconds), max(self.seconds)
        lost = "–" if self.lost is None else str(self.lost)
        return f"| {self.what} | {len(self.seconds)} | {median:.2f} | {most:.2f} | {lost} |"


HEAD = "| what | times | s, median | most | requests lost |\n|---|---:|---:|---:|---:|"
Step = Callable[[Weigher, random.Random, int, float], list[Row]]


def burn(weigher: Weigher, chance: random.Random, tries: int, cut: float) -> list[Row]:
    """Down, and back to the base after the end."""
    down = Row("burn", "a server's CPU is taken away: less weight on every balancer")
    up = Row("burn", "given back: the base weight again on every balancer")
    for number in range(max(1, tries // 3)):
        server = weigher.servers[number % len(weigher.servers)]
        weigher.at_base()
        time.sleep(chance.uniform(0, 4))
        with weigher.burning(server, BURN_SECONDS) as since:
            down.seconds.append(weigher.when(lowered(server), since, f"{server} has less"))
        up.seconds.append(weigher.when(is_base, time.time(), "the base weights", 180))
    return [down, up]


def php(weigher: Weigher, chance: random.Random, tries: int, cut: float) -> list[Row]:
    """SIGKILL for php-fpm."""
    row = Row("php", "php-fpm killed: drained on every balancer", lost=0)
    back = Row("php", "in service again on every balancer, after the kill")
    weigher.at_base()
    for number in range(tries):
        server = weigher.servers[number % len(weigher.servers)]
        time.sleep(chance.uniform(2, 6))
        since = weigher.kill_php(server)
        took = weigher.when(drained(server), since, f"{server} is drained")
        row.seconds.append(took)
        returned = weigher.when(in_service(server), since + took, f"{server} is in service", 120)
        back.seconds.append(took + returned)
        time.sleep(1)
        row.lost = (row.lost or 0) + _lost(weigher, since)
    return [row, back]


def _lost(weigher: Weigher, since: float) -> int:
    """Requests that failed and were sent after the kill, but for the moment of it."""
    return sum(1 for one in weigher.shop.failed(since) if one.kind and one.sent > since + 0.2)


def restart(weigher: Weigher, chance: random.Random, tries: int, cut: float) -> list[Row]:
    """SIGKILL for a HAProxy at any time; php-fpm of a server stays stopped, so it is drained."""
    row = Row("restart", "HAProxy killed, answers again: the vector on it")
    server = weigher.servers[-1]
    with weigher.without_php(server) as since:
        weigher.when(drained(server), since, f"{server} is drained")
        time.sleep(5)
        for number in range(max(1, tries // 2)):
            balancer = weigher.shop.balancers[number % len(weigher.shop.balancers)]
            time.sleep(chance.uniform(0, 4))
            [watch] = [watch for watch in weigher.watches if watch.balancer == balancer]
            wanted = _agreed(weigher)
            since = time.time()
            weigher.shop.lab.fault("kill", balancer, "haproxy")
            answers = weigher.when(lambda farm: True, _gone(watch, since), "answers", on=[balancer])
            back = _gone(watch, since) + answers
            same = weigher.when(wanted.__eq__, back, "the same vector", on=[balancer])
            row.seconds.append(same)
    return [row]


def _agreed(weigher: Weigher) -> Farm:
    """What every balancer carries; waits until they do, for a while without a change."""
    quiet = 0
    while quiet < 10:
        farms = [watch.farm for watch in weigher.watches]
        quiet = quiet + 1 if farms[0] and all(farm == farms[0] for farm in farms) else 0
        time.sleep(0.1)
    assert farms[0] is not None
    return farms[0]


def _gone(watch: Watch, since: float) -> float:
    """When the balancer's HAProxy was first seen not to answer."""
    deadline = time.monotonic() + 30
    while True:
        for sight in list(watch.sights):
            if sight.at >= since and sight.farm is None:
                return sight.at
        assert time.monotonic() < deadline, "HAProxy was not seen to die"
        time.sleep(0.01)


def cut(weigher: Weigher, chance: random.Random, tries: int, cut: float) -> list[Row]:
    """A balancer without network while a server dies: when it is back, does it know?"""
    row = Row("cut", f"a balancer cut off for {cut:.0f} s: the vector on it after its return")
    for number in range(max(1, tries // 8)):
        server = weigher.servers[number % len(weigher.servers)]
        weigher.at_base()
        away, here = weigher.shop.balancers[-1], weigher.shop.balancers[:-1]
        since = time.time()
        weigher.shop.lab.fault("cut", away)
        try:
            with weigher.without_php(server) as since:
                weigher.when(drained(server), since, f"{server} is drained", on=here)
                time.sleep(max(0.0, since + cut - time.time()))
                weigher.shop.lab.fault("heal", away)
                row.seconds.append(
                    weigher.when(drained(server), time.time(), f"{server} is drained on {away}")
                )
        finally:
            weigher.shop.lab.fault("heal", away)
    return [row]


STEPS: dict[str, Step] = {"burn": burn, "php": php, "restart": restart, "cut": cut}


def rows(shop: Shop, names: Sequence[str], tries: int, seconds: float, seed: int) -> Iterator[Row]:
    """Row after row under one traffic."""
    chance = random.Random(seed)
    with (
        looping(shop.lab),
        weighed(shop.lab, shop, FARM) as weigher,
        shop.traffic(rate=100),
    ):
        for name in names:
            yield from STEPS[name](weigher, chance, tries, seconds)
        weigher.at_base()


def main(words: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser("lab/weights", description=__doc__)
    parser.add_argument("--row", default=",".join(STEPS), metavar="NAME,…", help=", ".join(STEPS))
    often = "of php; a restart is tried half, a burn a third, a cut an eighth as often"
    parser.add_argument("--tries", type=int, default=20, help=often)
    parser.add_argument("--seconds", type=float, default=60, help="how long a balancer is cut off")
    parser.add_argument("--site", default="site1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="the rows as data on stdout")
    options = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # all is mended also then
    names = options.row.split(",")
    if unknown := set(names) - set(STEPS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(STEPS)}")
    lab = Lab()
    if not lab.up:
        print("lab/weights: there is no lab; build one with: lab/lab up", file=sys.stderr)
        return 2
    shop = Shop(lab, options.site)
    shop.level()
    table = sys.stderr if options.json else sys.stdout
    print(HEAD, file=table, flush=True)
    found = []
    for row in rows(shop, names, options.tries, options.seconds, options.seed):
        found.append(row)
        print(row, file=table, flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

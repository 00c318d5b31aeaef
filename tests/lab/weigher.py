"""What the balancers of a site do with a farm's weights, from moment to moment."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from datacentre import faults, machine
from lab_words import Lab
from runner import PYTHON
from shop import SOCKET, Shop, until

BASE = 100  # of every server in the lab's pillars
FPM = "webfarm-php-fpm"
FORCED_DRAIN = 0x08  # HAProxy's srv_admin_state

# Runs in a balancer. A line for each change; null when HAProxy does not answer.
WATCH = """
import json, socket, sys, time
path, farm = sys.argv[1:]
last = 0
while True:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(path)
            client.sendall(f"show servers state {farm}\\n".encode())
            text = b""
            while chunk := client.recv(65536):
                text += chunk
        rows = [line.split() for line in text.decode().splitlines()[2:] if line.strip()]
        seen = {row[3]: [int(row[7]), int(row[6])] for row in rows} or None
    except (OSError, ValueError, IndexError):
        seen = None
    if seen != last:
        last = seen
        print(json.dumps([time.time(), seen]), flush=True)
    time.sleep(0.02)
"""


@dataclass(frozen=True)
class Held:
    """A server as a balancer has it."""

    weight: int
    drained: bool


Farm = dict[str, Held]


@dataclass(frozen=True)
class Sight:
    """A farm on one balancer from this moment on; no farm: HAProxy did not answer."""

    at: float
    farm: Farm | None


class Watch:
    """A farm on one balancer, looked at each 20 ms in the balancer itself."""

    def __init__(self, balancer: str, farm: str) -> None:
        self.balancer = balancer
        self.sights: list[Sight] = []
        self._process = subprocess.Popen(
            machine.enter(balancer, [PYTHON, "-c", WATCH, SOCKET, farm]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, rows = json.loads(line)
            farm = None
            if rows is not None:
                farm = {
                    name: Held(weight, bool(admin & FORCED_DRAIN))
                    for name, (weight, admin) in rows.items()
                }
            self.sights.append(Sight(at, farm))

    @property
    def farm(self) -> Farm | None:
        """As it was last seen."""
        return self.sights[-1].farm if self.sights else None

    def first(self, holds: Callable[[Farm], bool], since: float) -> float | None:
        """When it was first seen to be so, at ``since`` or later; None: never yet."""
        for number, sight in enumerate(self.sights):
            following = self.sights[number + 1].at if number + 1 < len(self.sights) else None
            if following is not None and following <= since:
                continue
            if sight.farm is not None and holds(sight.farm):
                return max(sight.at, since)
        return None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(5)


class Weigher:
    """A farm of the lab on all balancers of its site."""

    def __init__(self, shop: Shop, farm: str, watches: Sequence[Watch]) -> None:
        self.shop, self.farm, self.watches = shop, farm, watches

    @property
    def servers(self) -> list[str]:
        return self.shop.farms[self.farm]

    def when(
        self,
        holds: Callable[[Farm], bool],
        since: float,
        what: str,
        seconds: float = 60,
        on: Sequence[str] = (),
    ) -> float:
        """Wait until every balancer (or those) was seen so; seconds since then of the last one."""
        deadline = time.monotonic() + seconds
        asked = [watch for watch in self.watches if not on or watch.balancer in on]
        while True:
            found = {watch.balancer: watch.first(holds, since) for watch in asked}
            known = [at for at in found.values() if at is not None]
            if len(known) == len(found):
                return max(known) - since
            assert time.monotonic() < deadline, (
                f"not within {seconds:.0f} s on {[b for b, at in found.items() if at is None]}: "
                f"{what}; {[(watch.balancer, watch.farm) for watch in asked]}; {self.status()}"
            )
            time.sleep(0.02)

    def at_base(self, seconds: float = 180) -> None:
        """Wait until every server has its base weight and no drain on every balancer."""
        deadline = time.monotonic() + seconds
        while not all(watch.farm and is_base(watch.farm) for watch in self.watches):
            assert time.monotonic() < deadline, (
                f"not at the base weights within {seconds:.0f} s: "
                f"{[(watch.balancer, watch.farm) for watch in self.watches]}; {self.status()}"
            )
            time.sleep(0.1)

    def status(self) -> dict[str, Any]:
        """The farm in `rebalance.status`."""
        data = self.shop.lab.run("rebalance.status", self.shop.site, self.farm, check=False)
        [farm] = data["farms"]
        return dict(farm)

    @contextmanager
    def burning(self, server: str, seconds: float) -> Iterator[float]:
        """`lab/lab fault burn SERVER` while the block runs, and to its end; since when."""
        thread = threading.Thread(target=faults.burn, args=(server, seconds))
        since = time.time()
        thread.start()
        try:
            yield since
        finally:
            thread.join()

    def kill_php(self, server: str) -> float:
        """SIGKILL for all of its php-fpm; when."""
        since = time.time()
        kill = ["systemctl", "kill", "--signal=SIGKILL", "--kill-whom=all", FPM]
        machine.execute(server, kill)
        return since

    @contextmanager
    def without_php(self, server: str) -> Iterator[float]:
        """php-fpm stopped while the block runs; since when."""
        since = time.time()
        machine.execute(server, ["systemctl", "kill", "--signal=SIGKILL", "--kill-whom=all", FPM])
        machine.execute(server, ["systemctl", "stop", FPM])
        try:
            yield since
        finally:
            machine.execute(server, ["systemctl", "start", FPM])


def is_base(farm: Farm) -> bool:
    """Every server has its base weight and is not drained."""
    return all(held == Held(BASE, False) for held in farm.values())


def lowered(server: str) -> Callable[[Farm], bool]:
    """The server's weight is below its base."""
    return lambda farm: farm[server].weight < BASE


def drained(server: str) -> Callable[[Farm], bool]:
    """The server is drained."""
    return lambda farm: farm[server].drained


def in_service(server: str) -> Callable[[Farm], bool]:
    """The server is not drained."""
    return lambda farm: not farm[server].drained


@contextmanager
def looping(lab: Lab) -> Iterator[None]:
    """The engine on the lab's master while the block runs."""
    configuration = "/etc/salt/master.d/weights.conf"
    engines = "engines: [webfarm_rebalance: {}]"
    restart = "systemctl restart salt-master"
    lab.sh("master", f"echo '{engines}' > {configuration}; {restart}")
    try:
        # the master's restart brings every minion's start with it, and that work is not the loop's
        until(lambda: _settled(lab), "the engine decides and every balancer has answered", 300)
        yield
        # without the loop nobody would lift what it has drained
        until(lambda: _settled(lab), "no server is drained", 300)
    finally:
        lab.sh("master", f"rm {configuration}; {restart}")


def _settled(lab: Lab) -> bool:
    """Whether for some seconds nothing is drained, and every balancer answers before a tick."""
    for _ in range(3):
        status = lab.run("rebalance.status", check=False)
        if not (status["result"] and status["farms"]):
            return False
        for farm in status["farms"]:
            said = farm["balancers"].values()
            if not said or any((one["owes_since"] or farm["at"]) < farm["at"] for one in said):
                return False
            if any(server["drained"] for server in farm["servers"].values()):
                return False
        time.sleep(2)
    return True


@contextmanager
def weighed(lab: Lab, shop: Shop, farm: str) -> Iterator[Weigher]:
    """Watch a farm on all balancers of its site while the block runs."""
    watches: list[Watch] = []
    try:
        for balancer in shop.balancers:
            watches.append(Watch(balancer, farm))
        yield Weigher(shop, farm, watches)
    finally:
        for watch in watches:
            watch.close()

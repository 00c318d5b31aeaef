"""What the beacon webfarm_health costs a server: CPU per second, and the main loop's time.

    python3 benchmarks/health.py [--seconds 20] [--rates 0 100 1000]

Starts real php-fpm, nginx and memcached on the loopback (the tests' own), and asks the monitor once
a second as a minion does, signing with a key of 4096 bits as Salt makes it. A second process writes
lines into nginx' log at each rate: clients would cost more than what is measured. Then php-fpm is
killed 20 times, at any moment of the beacon's second.
"""

import argparse
import contextlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "_utils"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests/functional"))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from health_world import LoneSite, lone_site
from php_world import WS1
from webfarm import signed, topology
from webfarm.health.watch import Watch

KILLS = 20
WRITER = """
import sys, time
path, rate = sys.argv[1], int(sys.argv[2])
line = ('10.77.1.11 10.77.1.11 [2026-11-23T07:00:00+00:00] "GET /shop?article=4711 HTTP/1.1" 200 '
        '5120 0.030 2026.11.1 2026.11.1 200 "0.030"\\n')
while True:
    with open(path, "a") as log:
        log.write(line * (rate // 10))
    time.sleep(0.1)
"""


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def services_cpu(site: LoneSite) -> float:
    """Seconds that php-fpm, nginx and memcached have used."""
    server = site.server
    groups = {d.process.pid for d in (server.fpm, server.nginx, server.cache) if d.process}
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[2]) in groups:
                ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Beacon:
    """The beacon's second, and the CPU time that it takes of the main loop."""

    def __init__(self, site: LoneSite, home: Path) -> None:
        self.key = home / "minion.pem"
        key = rsa.generate_private_key(65537, 4096)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        self.config = [site.settings().options.model_dump(mode="json")]
        self.topology = topology.parse(site.topology)
        self.watch = Watch()
        self.took: list[float] = []
        self.reports: list[str] = []

    def tick(self) -> list[dict[str, str]]:
        began = time.thread_time()
        found = self.watch.reports(self.config, WS1, self.key, lambda: self.topology)
        self.took.append(time.thread_time() - began)
        self.reports += [event["report"] for event in found]
        return found

    def run(self, seconds: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tick()
            time.sleep(1)


def cost(site: LoneSite, beacon: Beacon, rate: int, seconds: int) -> str:
    log = site.server.home / "log/access.log"
    command = [sys.executable, "-c", WRITER, str(log), str(rate)]
    writer = subprocess.Popen(command) if rate else None
    try:
        beacon.run(5)
        beacon.took.clear()
        beacon.reports.clear()
        began, used, services = time.monotonic(), cpu(), services_cpu(site)
        beacon.run(seconds)
        took = time.monotonic() - began
        share = 1000 * (cpu() - used) / took
        others = 1000 * (services_cpu(site) - services) / took
    finally:
        if writer is not None:
            writer.kill()
            writer.wait()
    ticks = sorted(1000 * took for took in beacon.took)
    middle, most = statistics.median(ticks), ticks[-1]
    return f"| {rate} | {share:.1f} | {others:.1f} | {middle:.2f} | {most:.1f} |"


def deaths(site: LoneSite, beacon: Beacon) -> list[float]:
    """Seconds from the kill to the signed report."""
    found = []
    for _ in range(KILLS):
        while not (beacon.reports and '"critical":[]' in beacon.reports[-1]):
            beacon.tick()
            time.sleep(1)
        began = time.monotonic()
        kill_at = began + random.uniform(0, 1)
        while time.monotonic() < kill_at:
            time.sleep(0.001)
        killed = time.monotonic()
        site.server.fpm.send(9)
        beacon.reports.clear()
        tick_at = began + 1
        while not any("php-fpm" in report for report in beacon.reports):
            time.sleep(max(tick_at - time.monotonic(), 0))
            beacon.tick()
            tick_at += 1
        found.append(time.monotonic() - killed)
        site.heal()
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rates", type=int, nargs="*", default=[0, 100, 1000])
    chosen = parser.parse_args()
    with lone_site() as site, tempfile.TemporaryDirectory() as home:
        beacon = Beacon(site, Path(home))
        signed.seal({}, beacon.key, signed.REPORT)
        print("| requests/s | CPU ms per s | services' | main loop, CPU ms: median | most |")
        print("|---:|---:|---:|---:|---:|")
        for rate in chosen.rates:
            print(cost(site, beacon, rate, chosen.seconds), flush=True)
        took = deaths(site, beacon)
        middle, most = statistics.median(took), took[-1]
        print(f"php-fpm killed {KILLS} times: reported after {middle:.2f} s, at most {most:.2f} s")
        beacon.watch.close()


if __name__ == "__main__":
    main()

"""What a test sees of an upgrade of packages: the balancers all the while, boots, certificates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab_words import Lab
from runner import PYTHON, Ended, Runner
from shop import SOCKET, Shop, told

CLEAN = {"S1": 0, "S2": 0, "S3": 0}
PREPRODUCTION = "preprod-ws1"
RUN_SECONDS = 1800
UNIT = "lab-sampler"
SAMPLES = "/var/tmp/lab-samples"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CERTIFICATES = "/var/cache/salt/master/webfarm/webfarm_certificates.sqlite"

# Runs in a balancer: a line for each moment in which the servers are not as the moment before.
SAMPLER = """
import csv, json, socket, time
last = None
while True:
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(2)
            asked.connect("{SOCKET}")
            asked.sendall(b"show stat\\n")
            text = b"".join(iter(lambda: asked.recv(65536), b"")).decode()
    except OSError:
        text = ""
    rows = csv.DictReader(text.splitlines())
    now = [(r["# pxname"], r["svname"], r["status"]) for r in rows if r["type"] == "2"]
    if now and now != last:
        last = now
        print(json.dumps([time.time(), now]), flush=True)
    time.sleep(0.05)
"""


@dataclass
class Sampled:
    """Who was out of service, by balancer: farm -> the sets of servers that were out at once."""

    out: dict[str, dict[str, list[frozenset[str]]]] = field(default_factory=dict)

    @property
    def most(self) -> int:
        """The most servers of one farm that were out at the same moment on one balancer."""
        sets = [out for farms in self.out.values() for many in farms.values() for out in many]
        return max(map(len, sets), default=0)

    def ever(self, balancer: str) -> set[str]:
        """The servers that were out of service at some moment."""
        return {server for many in self.out[balancer].values() for out in many for server in out}


@contextmanager
def sampled(lab: Lab, sites: Mapping[str, Mapping[str, Any]]) -> Iterator[Sampled]:
    """Look at every site balancer twenty times a second while the block runs."""
    balancers = {name: site for site in sites.values() for name in site["balancers"]}
    script = SAMPLER.replace("{SOCKET}", SOCKET)
    found = Sampled()
    try:
        for balancer in balancers:
            lab.exec(
                *(balancer, "systemd-run", "--quiet", "--collect", f"--unit={UNIT}"),
                *(f"--property=StandardOutput=truncate:{SAMPLES}", PYTHON, "-c", script),
            )
        yield found
        for balancer, site in balancers.items():
            assert lab.sh(balancer, f"systemctl is-active {UNIT}") == "active\n"
            found.out[balancer] = _out(lab.sh(balancer, f"cat {SAMPLES}"), site["farms"])
    finally:
        for balancer in balancers:
            clean = f"systemctl stop {UNIT}; rm -f {SAMPLES}"
            lab.sh(balancer, clean, check=False)


def _out(lines: str, farms: Mapping[str, Any]) -> dict[str, list[frozenset[str]]]:
    moments = [json.loads(line)[1] for line in lines.splitlines()]
    assert moments, "the sampler saw nothing"
    return {
        farm: [
            frozenset(
                server
                for name, server, status in moment
                if name == farm and server in farms[farm]["servers"] and status != "UP"
            )
            for moment in moments
        ]
        for farm in farms
    }


def packages(words: Sequence[str]) -> str:
    """A package set as Salt's command line takes it."""
    return f"packages={json.dumps(list(words))}"


def started(lab: Lab, scope: str, words: Sequence[str], kind: str, *more: str) -> Runner:
    """`salt-run upgrade.os`, in the background."""
    return Runner(lab, "upgrade.os", scope, packages(words), f"kind={kind}", *more)


def upgraded(lab: Lab, scope: str, words: Sequence[str], kind: str, *more: str) -> Ended:
    """`salt-run upgrade.os`, to its end."""
    return started(lab, scope, words, kind, *more).wait(RUN_SECONDS)


def certified(lab: Lab, words: Sequence[str]) -> dict[str, Any]:
    """Certify a set; the certificate."""
    ended = Runner(lab, "upgrade.certify", packages(words)).wait(RUN_SECONDS)
    assert ended.ok and ended.data, ended
    return ended.data


def age(lab: Lab, certificate: int, days: int) -> None:
    """Make a certificate older than it is: the lab has no time to wait."""
    lab.exec(
        *("master", PYTHON, "-c", AGE, CERTIFICATES, str(certificate), str(days * 86400)),
    )


AGE = """
import sqlite3, sys
path, number, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with sqlite3.connect(path) as book:
    done = book.execute(
        "UPDATE certificates SET started = started - ?, ended = ended - ? WHERE id = ?",
        (seconds, seconds, number),
    )
    assert done.rowcount == 1, f"no certificate {number}"
"""


def boots(lab: Lab, servers: Sequence[str]) -> dict[str, str]:
    """Server -> the id of its boot."""
    return {server: lab.sh(server, f"cat {BOOT_ID}").strip() for server in servers}


def untouched(lab: Lab, servers: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What differs when anything was installed on a server, or it has booted."""
    database = "sha256sum /var/lib/dpkg/status"
    return {
        server: (boot, lab.sh(server, database).split()[0])
        for server, boot in boots(lab, servers).items()
    }


class Cluster:
    """Both sites of the lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.shops = {name: Shop(lab, name) for name in ("site1", "site2")}
        self.shop = self.shops["site1"]  # the traffic and the pillar are everybody's
        self.sites: dict[str, Any] = self.shop.topology["sites"]

    @property
    def farms(self) -> dict[str, list[str]]:
        """All farms of all sites: their servers in the pillar's order."""
        return {
            f"{site}/{farm}": servers
            for site, shop in self.shops.items()
            for farm, servers in shop.farms.items()
        }

    @property
    def servers(self) -> list[str]:
        return [server for servers in self.farms.values() for server in servers]

    def members(self, number: int, site: str = "") -> list[str]:
        """The servers of a wave, counted from 0."""
        return [servers[number] for farm, servers in self.farms.items() if farm.startswith(site)]

    def level(self) -> None:
        """Both sites whole, no run left behind."""
        for shop in self.shops.values():
            shop.level()

    def connected(self) -> None:
        for shop in self.shops.values():
            shop.connected()

    @contextmanager
    def pillar(self, **keys: object) -> Iterator[None]:
        """Top-level keys of the pillar `webfarm` while the block runs, on every minion."""
        try:
            with self.shop.also(**keys):
                self.lab.salt("*", "saltutil.refresh_pillar", "wait=True")
                yield
        finally:
            self.lab.salt("*", "saltutil.refresh_pillar", "wait=True")

    def verdict(self, *options: str) -> None:
        """Nothing failed, no regression, no session lost."""
        data = self.shop.judge(*options)
        found = {promise: one["breaches"] for promise, one in data["promises"].items()}
        assert (found, data["verdict"]) == (CLEAN, "innocent"), told(data)
        assert data["requests"] > 500, told(data)

    def untouched(self, servers: list[str] | None = None) -> dict[str, tuple[str, str]]:
        return untouched(self.lab, servers or self.servers)


def refused(ended: Ended, *words: str) -> None:
    """The command did nothing, and says these words."""
    assert ended.exit == 1 and not ended.ok, ended
    lacking = [word for word in words if word not in ended.said]
    assert not lacking, f"{lacking} not in {ended}"


def finished(ended: Ended) -> dict[str, Any]:
    assert ended.ok and ended.data and ended.data["state"] == "done", ended
    return ended.data

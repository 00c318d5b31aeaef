#!/usr/bin/env python3
"""The weights' engine under a flood of reports, on the bus of a real Salt master on loopback.

512 servers' signed reports are fired on the master's bus, first at a steady rate, then as a storm;
beside it the same events through reactors alone, each starting a runner that notes its event::

    python benchmarks/events.py                           200/s for 300 s, a storm of 2,000/s
    python benchmarks/events.py --seconds 20 --storm 5    quicker

Accounted: every report that the engine has heard was accepted, refused, or coalesced (a newer one
of the same server was waiting). CPU is in percent of one core; memory is the resident set.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "_utils"), str(ROOT / "tests/functional")]

import salt.transport.frame  # noqa: E402
import salt.utils.event  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from salt_world import SaltWorld, descendants, salt_world  # noqa: E402
from webfarm import signed  # noqa: E402
from webfarm.rebalance.book import Book  # noqa: E402
from webfarm.rebalance.report import example  # noqa: E402
from webfarm.rebalance.salt_bus import book_path  # noqa: E402

from benchmarks.rollout_scale import pillar  # noqa: E402

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SIGN_SECONDS = 20.0
REACTOR_SECONDS = 300.0
RUNNER = """
def note():
    with open({path!r}, "a") as notes:
        notes.write("x")
"""
SLS = "note:\n  runner.webfarm_flood.note: []\n"


class Fleet:
    """The servers: one key for all, accepted under each name; every report is really signed."""

    def __init__(self, world: SaltWorld, data: dict[str, Any]) -> None:
        self.names = [
            name
            for site in data["sites"].values()
            for farm in site["farms"].values()
            for name in farm["servers"]
        ]
        key = rsa.generate_private_key(65537, 2048)
        self.key = world.home / "fleet.pem"
        self.key.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        world.accepted.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (world.accepted / name).write_bytes(public)
        self.count = 0

    def report(self, at: float) -> tuple[str, dict[str, Any]]:
        """The next server's next report: tag and data."""
        name = self.names[self.count % len(self.names)]
        self.count += 1
        turn = self.count // len(self.names)
        body = example(id=name, at=at, up=float(turn + 1), busy=10.0 + (turn * 7 + self.count) % 5)
        envelope = signed.seal(body, self.key, signed.REPORT)
        data = {"id": name, "report": envelope["body"], "signature": envelope["signature"]}
        return f"salt/beacon/{name}/webfarm_health/", data


def cpu(pids: list[int]) -> float:
    """Seconds of CPU that these processes have used."""
    used = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return used


def resident(pid: int) -> float:
    """MiB of a process's resident set."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def paced(rate: float, number: int, fire: Callable[[int], None]) -> float:
    """Call ``fire`` so many times at that rate, or as fast as it goes; the rate that it became."""
    begin = time.monotonic()
    for n in range(number):
        wait = begin + n / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        fire(n)
    return number / (time.monotonic() - begin)


def engine(world: SaltWorld) -> dict[str, Any]:
    """What the engine says of itself."""
    with contextlib.closing(Book(book_path(world.opts))) as book:
        return book.engine()


@contextlib.contextmanager
def bus(world: SaltWorld) -> Iterator[Any]:
    """The master's bus, to fire on."""
    opts = world.opts
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as event:
        yield event


def say(text: str) -> None:
    """What goes on, for who waits."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def wait_until(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait for it, at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


def measured(world: SaltWorld, rate: float, number: int, fire: Callable[[int], None]) -> Any:
    """Fire, wait until all was heard, and compare before and after."""
    about = engine(world)
    say(f"{number} reports at {rate:.0f}/s")
    master, own = world.daemons[0].pid, int(about["pid"])
    before = {"master": cpu(list(descendants(master))), "engine": cpu([own])}
    memory = [resident(own)]
    begin = time.monotonic()
    since = [begin]

    def watched(n: int) -> None:
        fire(n)
        if time.monotonic() - since[0] > 5:
            since[0] = time.monotonic()
            memory.append(resident(own))

    became = paced(rate, number, watched)
    spent = time.monotonic() - begin
    say(f"fired in {spent:.0f} s")
    used = {
        "master": (cpu(list(descendants(master))) - before["master"]) / spent,
        "engine": (cpu([own]) - before["engine"]) / spent,
    }
    heard = about["counts"].get("heard", 0) + number
    wait_until(lambda: engine(world)["counts"]["heard"] >= heard, 60)
    time.sleep(9)  # two ticks: all that was heard has been opened and counted
    after = engine(world)
    memory.append(resident(own))

    def grown(name: str) -> int:
        return int(after["counts"].get(name, 0)) - int(about["counts"].get(name, 0))

    refused = sum(after["refused"].values()) - sum(about["refused"].values())
    accepted = after["accepted"] - about["accepted"]
    third = max(1, len(memory) // 3)
    return {
        "asked, events/s": f"{rate:.0f}",
        "fired": f"{number} ({became:.0f}/s)",
        "heard": str(grown("heard")),
        "accepted": str(accepted),
        "refused": str(refused),
        "coalesced": str(grown("coalesced")),
        "lost unaccounted": str(number - accepted - refused - grown("coalesced")),
        "decisions": str(grown("ticks")),
        "of them late by more than 0.5 s": str(grown("late")),
        "vectors": str(grown("vectors")),
        "master's CPU": f"{100 * used['master']:.0f} %",
        "of it the engine": f"{100 * used['engine']:.0f} %",
        "engine, MiB first, last third": (
            f"{sum(memory[:third]) / third:.1f}, {sum(memory[-third:]) / third:.1f}"
        ),
    }


def stormy(world: SaltWorld, fleet: Fleet, seconds: float) -> tuple[int, Callable[[int], None]]:
    """Reports signed beforehand, and what writes the n-th to the bus as ``fire_event`` does.

    ``fire_event`` itself does not reach that rate from one process.
    """
    made, at = [], time.time() + 28.0  # of now in half a minute, as far as is taken
    end = time.monotonic() + SIGN_SECONDS
    while time.monotonic() < end and len(made) < 2000 * seconds:
        tag, report = fleet.report(at)
        packed = salt.utils.event.SaltEvent.pack(tag, report)
        made.append(salt.transport.frame.frame_msg_ipc(packed))
    pull = socket.socket(socket.AF_UNIX)
    pull.connect(str(Path(world.opts["sock_dir"]) / "master_event_pull.ipc"))
    return len(made), lambda n: pull.sendall(made[n])


def through_engine(seconds: float, rate: float, storm: float) -> list[dict[str, str]]:
    """The engine: a steady rate, then a storm."""
    data = pillar(2, 16, 16)
    with salt_world(data, engines=[{"webfarm_rebalance": {}}], log_level="error") as world:
        fleet = Fleet(world, data)
        say("a master with the engine starts")
        world.start_master()
        assert wait_until(lambda: engine(world).get("at"), 180), world.said("master")
        rows = []
        with bus(world) as event:

            def fresh(n: int) -> None:
                tag, report = fleet.report(time.time())
                event.fire_event(report, tag)

            for _ in range(1024):  # every server has spoken: nothing is made for the first time
                fresh(0)
            wait_until(lambda: engine(world)["accepted"] >= 1024, 60)
            rows.append(measured(world, rate, round(rate * seconds), fresh))
            if storm > 0:
                rows.append(measured(world, 2000, *stormy(world, fleet, storm)))
        return rows


def through_reactors(seconds: float, rate: float) -> dict[str, str]:
    """The same events, each of them a reaction of Salt's reactor: a runner that does nothing."""
    data = pillar(2, 16, 16)
    reactor = [{"salt/beacon/*/webfarm_health/": []}]
    with salt_world(data, reactor=reactor, log_level="error") as world:
        sls, runners, notes = (world.home / name for name in ("flood.sls", "runners", "notes"))
        sls.write_text(SLS)
        runners.mkdir()
        (runners / "webfarm_flood.py").write_text(RUNNER.format(path=str(notes)))
        config = world.home / "master/master"
        text = config.read_text().replace("webfarm_health/: []", f"webfarm_health/: [{sls}]")
        config.write_text(text.replace(str(ROOT / "_runners"), str(runners)))
        fleet = Fleet(world, data)
        world.start_master()
        say("a master with the reactor has started")
        time.sleep(10)  # the reactor says nowhere that it listens
        number = round(rate * seconds)
        begin = cpu(list(descendants(world.daemons[0].pid)))
        with bus(world) as event:

            def fire(n: int) -> None:
                tag, report = fleet.report(time.time())
                event.fire_event(report, tag)

            start = time.monotonic()
            became = paced(rate, number, fire)
            spent = time.monotonic() - start
            used = (cpu(list(descendants(world.daemons[0].pid))) - begin) / spent

            def ran() -> int:
                return notes.stat().st_size if notes.exists() else 0

            at_once, last = ran(), -1
            say(f"fired in {spent:.0f} s; {at_once} reactions so far")
            end = time.monotonic() + REACTOR_SECONDS
            while last != ran() and time.monotonic() < end:
                last = ran()
                time.sleep(10)
        return {
            "asked, events/s": f"{rate:.0f}",
            "fired": f"{number} ({became:.0f}/s)",
            "heard": f"{at_once} reactions by the end",
            "accepted": f"{ran()} reactions in all",
            "lost unaccounted": str(number - ran()),
            "master's CPU": f"{100 * used:.0f} %",
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="of the steady rate")
    parser.add_argument("--rate", type=float, default=200, help="events/s of the steady rate")
    parser.add_argument(
        "--storm", type=float, default=10, help="seconds of 2,000 events/s; 0: none"
    )
    parser.add_argument(
        "--reactors", type=float, default=30, help="seconds through reactors; 0: none"
    )
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the master ends with this
    rows = [("engine", row) for row in through_engine(asked.seconds, asked.rate, asked.storm)]
    if asked.reactors > 0:
        rows.append(("reactors alone", through_reactors(asked.reactors, asked.rate)))
    print("| " + " | ".join(["512 servers", *(name for name, _ in rows)]) + " |")
    print("|---|" + "---:|" * len(rows))
    for key in rows[0][1]:
        print("| " + " | ".join([key, *(row.get(key, "–") for _, row in rows)]) + " |")


if __name__ == "__main__":
    main()

"""Time 500 weight changes: one batch, one by one, and with the haproxyadmin library.

    python3 benchmarks/runtime_api.py [--servers 500] [--rounds 9]

Starts a HAProxy of its own. haproxyadmin is not a dependency of Webfarm: install it for the
comparison with ``pip install haproxyadmin``; without it that row is left out.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "_utils"))

from webfarm.haproxy.client import Client
from webfarm.haproxy.runtime import Balancer, Settings

FARM = 50


def start(folder: Path, servers: int) -> subprocess.Popen[bytes]:
    lines = [
        "global",
        f"  stats socket {folder}/admin.sock mode 600 level admin",
        "defaults",
        "  mode http",
        "  timeout connect 1s",
        "  timeout client 1s",
        "  timeout server 1s",
        "frontend none",
        "  bind 127.71.250.1:18001",
    ]
    for number in range(servers):
        if number % FARM == 0:
            lines.append(f"backend farm{number // FARM}")
        lines.append(f"  server ws{number} 127.71.251.{number % 250 + 1}:8080 weight 100")
    config = folder / "haproxy.cfg"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        ["/usr/sbin/haproxy", "-db", "-f", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    balancer = Balancer(Settings(socket=f"{folder}/admin.sock", master_socket=None))
    end = time.monotonic() + 10
    while not balancer.running():
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"HAProxy did not start: haproxy -c -f {config}")
        time.sleep(0.02)
    return process


def measure(rounds: int, change: Callable[[int], object]) -> float:
    """Seconds of the best round of ``change``, with another weight in each: the rest is noise."""
    times = []
    for number in range(rounds):
        begin = time.perf_counter()
        change(10 + number)
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    names = [(f"farm{n // FARM}", f"ws{n}") for n in range(options.servers)]
    with tempfile.TemporaryDirectory(prefix="webfarm-benchmark-") as text:
        folder = Path(text)
        process = start(folder, options.servers)
        try:
            rows = run(folder, names, options.rounds)
        finally:
            process.terminate()
            process.wait(10)
    fastest = rows[0][1]
    print(f"{options.servers} weights, best of {options.rounds} rounds\n")
    print("| way | ms | changes/s | ratio |\n|---|---:|---:|---:|")
    for way, seconds in rows:
        print(
            f"| {way} | {seconds * 1000:.1f} | {options.servers / seconds:,.0f} "
            f"| {seconds / fastest:.1f} |"
        )


def run(folder: Path, names: list[tuple[str, str]], rounds: int) -> list[tuple[str, float]]:
    client = Client(f"{folder}/admin.sock")
    balancer = Balancer(
        Settings(
            socket=f"{folder}/admin.sock",
            master_socket=None,
            maps=f"{folder}/maps",
            state_file=f"{folder}/servers.state",
            lock=f"{folder}/lock",
        )
    )

    def command(backend: str, server: str, weight: int) -> str:
        return f"set server {backend}/{server} weight {weight}"

    def table(weight: int) -> dict[str, dict[str, int]]:
        wanted: dict[str, dict[str, int]] = {}
        for backend, server in names:
            wanted.setdefault(backend, {})[server] = weight
        return wanted

    rows = [
        (
            "one batch",
            measure(rounds, lambda w: client.ask([command(b, s, w) for b, s in names])),
        ),
        (
            "`haproxy_runtime.set_weights`: checked, one batch, read back, kept on disk",
            measure(rounds, lambda w: balancer.set_weights(table(w + 20))),
        ),
        (
            "one by one, a connection each",
            measure(rounds, lambda w: [client.one(command(b, s, w + 40)) for b, s in names]),
        ),
    ]
    try:
        from haproxyadmin import haproxy
    except ImportError:
        print("haproxyadmin is not installed: `pip install haproxyadmin` for the comparison\n")
        return rows
    theirs = haproxy.HAProxy(socket_file=f"{folder}/admin.sock")

    def by_library(weight: int) -> None:
        for backend, server in names:
            theirs.server(server, backend)[0].setweight(weight + 60)

    rows.append(("haproxyadmin: `server(…)[0].setweight(…)`", measure(min(rounds, 3), by_library)))
    members = [theirs.server(server, backend)[0] for backend, server in names]

    def held(weight: int) -> None:
        for member in members:
            member.setweight(weight + 80)

    rows.append(("haproxyadmin: `setweight` of servers that are held", measure(rounds, held)))
    return rows


if __name__ == "__main__":
    main()

"""Measure what each balancer layer costs: nginx direct, the site layer, primary and site layer.

    python3 benchmarks/layers.py [--seconds 5] [--rounds 3] [--connections 32]

Needs haproxy, nginx, wrk and jinja2, and root. The configurations are rendered from the state
tree's templates. All rows are taken in turn in each round, so that they share the machine's mood;
the table shows the best of each: the rest is noise. The CPU column is HAProxy's own: its processes'
CPU time per request.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "_utils"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/functional"))

from haproxy_world import RELEASES, Haproxy, Server, World, world
from loopback import NET, wait_for

NGINX = """
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests 10000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {net}.1.1:18080;
    listen {net}.1.2:18080;
    add_header X-Webfarm-Release {release} always;
    location / {{ return 200 "{body}"; }}
  }}
}}
"""


def cpu(hops: list[Haproxy]) -> float:
    """Seconds of CPU that these have used."""
    ticks = 0
    for pid in (pid for hop in hops for pid in hop.pids()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[None]:
    """The web servers, which answer 500 bytes."""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, net=NET, release=RELEASES[0], body="x" * 500))
    with (folder / "nginx.out").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/nginx", "-c", config, "-p", folder], stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def build(made: World) -> dict[str, tuple[str, list[Haproxy]]]:
    """Start the balancers; returns row -> (URL, those on its way)."""
    for farm in ("farm1", "farm2"):
        for number in (1, 2):
            server = Server(f"site1-{farm}-ws{number}", farm, f"{NET}.1.{number}")
            made.servers[server.id] = server
    site = made.add_site_balancer()
    found = {
        "direct: nginx": (f"http://{NET}.1.1:18080/", []),
        "one layer: site": (f"http://{site.context['bind']}/", [site]),
    }
    for row, scheme in (
        ("two layers: primary (clear) and site", "http"),
        ("two layers: primary (TLS) and site", "https"),
    ):
        primary = made.add_primary({"site1": [site]})
        if scheme == "http":
            clear = re.sub(r" ssl crt \S+ alpn \S+", "", primary.config.read_text())
            primary.config.write_text(clear)
            primary.restart()
        found[row] = (f"{scheme}://{primary.context['bind']}/", [primary, site])

    def answers() -> bool:
        with urllib.request.urlopen(found["two layers: primary (clear) and site"][0]) as answer:
            return bool(answer.headers["X-Webfarm-Release"] == RELEASES[0])

    wait_for(answers, "the layers answer")
    return found


def wrk(url: str, options: argparse.Namespace, close: bool) -> tuple[float, float]:
    """Requests per second, and the 99th percentile of the latency in ms."""
    command = [
        "wrk",
        "-t2",
        f"-c{options.connections}",
        f"-d{options.seconds}s",
        "--latency",
        "-H",
        "Host: shop.example",
        "-H",
        "Cookie: SITEID=site1; FARMID=site1:farm1:1",
    ]
    if close:
        command += ["-H", "Connection: close"]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(f"{url}: not all answers are 2xx\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    assert rate and tail, text
    return float(rate[1]), float(tail[1]) * {"us": 0.001, "ms": 1, "s": 1000}[tail[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="webfarm-benchmark-"))
    folder.chmod(0o755)
    try:
        with nginx(folder), world(folder) as made:
            measure(build(made), options)
    finally:
        shutil.rmtree(folder)


def measure(rows: dict[str, tuple[str, list[Haproxy]]], options: argparse.Namespace) -> None:
    for close in (False, True):
        results: dict[str, list[tuple[float, float, float]]] = {row: [] for row in rows}
        for _ in range(options.rounds):
            for row, (url, hops) in rows.items():
                before = cpu(hops)
                rate, tail = wrk(url, options, close)
                used = cpu(hops) - before
                results[row].append((rate, tail, used / (rate * options.seconds) * 1e6))
        show("connection: close" if close else "keep-alive", results, options)


def show(
    mode: str, results: dict[str, list[tuple[float, float, float]]], options: argparse.Namespace
) -> None:
    load = os.getloadavg()[0]
    print(
        f"\n{mode}: {options.connections} connections, {options.rounds} rounds of "
        f"{options.seconds} s, {os.cpu_count()} CPUs shared by all, load {load:.1f} at the end\n"
    )
    print("| way | requests/s | of direct | p99 ms | HAProxy CPU µs/request |")
    print("|---|---:|---:|---:|---:|")
    direct = max(rate for rate, _, _ in next(iter(results.values())))
    for row, taken in results.items():
        rates, tails, cpus = zip(*taken, strict=True)
        rate, tail, cpu = max(rates), min(tails), min(cpus)
        print(
            f"| {row} | {rate:,.0f} | {rate / direct:.0%} | {tail:.1f} | "
            f"{f'{cpu:.0f}' if cpu else '-'} |"
        )


if __name__ == "__main__":
    main()

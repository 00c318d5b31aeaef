"""Measure what each balancer layer costs: nginx direct, the site layer, primary and site layer.

    python3 benchmarks/layers.py [--seconds 5] [--rounds 3] [--connections 32]

Needs haproxy, nginx, wrk and jinja2, and root. The configurations are rendered from the state
tree's templates. All rows are taken in turn in each round, so that they share the machine's mood;
the table shows the best of each: the rest is noise. The CPU column is HAProxy's own: its processes'
CPU time per request.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import jinja2

sys.path.insert(0, str(Path(__file__).parent.parent / "_utils"))

from webfarm.haproxy import farms, sites
from webfarm.haproxy.runtime import Balancer, Settings

ROOT = Path(__file__).parent.parent
NET = f"127.{70 + os.getpid() % 150}"
RELEASE = "2026.11.1"
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


class Processes:
    """What was started, to be ended in any case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return self.started[-1]

    def stop(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait(20)

    def cpu(self, processes: list[subprocess.Popen[bytes]]) -> float:
        """Seconds of CPU that these have used."""
        ticks = 0
        for process in processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "salt" / "haproxy" / "files"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**context)


def balancer(folder: Path, name: str) -> Balancer:
    home = folder / name
    home.mkdir()
    return Balancer(
        Settings(
            f"{home}/admin.sock", None, f"{home}/maps", f"{home}/servers.state", f"{home}/lock"
        )
    )


def launch(processes: Processes, name: str, text: str, api: Balancer) -> subprocess.Popen[bytes]:
    config = processes.folder / name / "haproxy.cfg"
    config.write_text(text)
    process = processes.start("/usr/sbin/haproxy", "-db", "-f", str(config))
    end = time.monotonic() + 10
    while not api.running():
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"{name} did not start: haproxy -c -f {config}")
        time.sleep(0.05)
    return process


def build(processes: Processes) -> dict[str, tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start all; returns row -> (URL, the HAProxy processes on its way)."""
    folder = processes.folder
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, net=NET, release=RELEASE, body="x" * 500)
    )
    processes.start("/usr/sbin/nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder))
    site = balancer(folder, "site")
    servers = {
        f"site1-farm1-ws{n}": {
            "address": f"{NET}.1.{n}",
            "port": 18080,
            "weight": 100,
            "max_children": 1000,
        }
        for n in (1, 2)
    }
    table = {f: {"sticky_servers": False, "servers": servers} for f in ("farm1", "farm2")}
    paths = {
        "socket": site.settings.socket,
        "maps": site.settings.maps,
        "state_file": site.settings.state_file,
    }
    farms.ensure(site, dict.fromkeys(table, 1), RELEASE)
    text = render(
        "site.cfg.j2",
        site="site1",
        farms=table,
        balancers=1,
        primaries=["127.0.0.1"],
        siblings=[],
        floor="strict",
        bind=f"{NET}.0.1:18001",
        management=f"{NET}.0.1:18404",
        **paths,
    )
    one = launch(processes, "site", text, site)
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=shop.example",
            "-keyout",
            f"{folder}/key",
            "-out",
            f"{folder}/chain",
        ],
        check=True,
        capture_output=True,
    )
    (folder / "pem").write_text((folder / "chain").read_text() + (folder / "key").read_text())
    found = {
        "direct: nginx": (f"http://{NET}.1.1:18080/", []),
        "one layer: site": (f"http://{NET}.0.1:18001/", [one]),
    }
    for number, (row, scheme) in enumerate(
        {
            "two layers: primary (clear) and site": "http",
            "two layers: primary (TLS) and site": "https",
        }.items(),
        2,
    ):
        primary = balancer(folder, scheme)
        sites.ensure(primary, {"site1": 1})
        paths = {
            "socket": primary.settings.socket,
            "maps": primary.settings.maps,
            "state_file": primary.settings.state_file,
        }
        address = f"{NET}.0.{number}"
        table2 = {"site1": {"balancers": {"site1-lb1": {"address": f"{NET}.0.1", "port": 18001}}}}
        text = render(
            "primary.cfg.j2",
            sites=table2,
            domain="shop.example",
            certificate=f"{folder}/pem",
            bind_https=f"{address}:18443",
            bind_http=f"{address}:18080",
            management=f"{address}:18404",
            **paths,
        )
        if scheme == "http":
            text = re.sub(r" ssl crt \S+ alpn \S+", "", text)
        two = launch(processes, scheme, text, primary)
        found[row] = (f"{scheme}://{address}:18443/", [two, one])
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(found["two layers: primary (clear) and site"][0]) as answer:
                if answer.headers["X-Webfarm-Release"] == RELEASE:
                    return found
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the layers do not answer, see {folder}/log")


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
    processes = Processes(folder)
    try:
        rows = build(processes)
        for close in (False, True):
            results: dict[str, list[tuple[float, float, float]]] = {row: [] for row in rows}
            for _ in range(options.rounds):
                for row, (url, hops) in rows.items():
                    before = processes.cpu(hops)
                    rate, tail = wrk(url, options, close)
                    used = processes.cpu(hops) - before
                    results[row].append((rate, tail, used / (rate * options.seconds) * 1e6))
            show("connection: close" if close else "keep-alive", results, options)
    finally:
        processes.stop()
        shutil.rmtree(folder)


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

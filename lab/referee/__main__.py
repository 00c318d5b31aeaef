"""`python3 -m referee start|run|stop|status|mark|report`: traffic, and the verdict on it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import report
from .client import Target
from .store import DEFAULT, Folder, Log
from .traffic import Mix, Traffic
from .verdict import PROMISES, Terms, judge

FLUSH_SECONDS = 0.5
START_SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the command's."""
    options = _parser().parse_args(arguments)
    folder = Folder(options.dir)
    try:
        return int(options.command(folder, options))
    except (OSError, ValueError) as error:
        print(f"referee: {error}", file=sys.stderr)
        return 3


def _start(folder: Folder, options: argparse.Namespace) -> int:
    """Run in the background; return when the first answer has been written."""
    if (pid := folder.running()) is not None:
        print(f"referee: traffic runs already (process {pid}); stop it first", file=sys.stderr)
        return 3
    folder.create()
    child = os.fork()
    if child == 0:
        os.setsid()
        errors = os.open(folder.errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        nothing = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, nothing), (1, nothing), (2, errors)):
            os.dup2(source, target)
        code = 3
        try:
            code = _traffic(folder, options)
        finally:
            os._exit(code)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        if folder.log.stat().st_size:
            print(f"traffic runs: {options.rate:g} requests/s of {options.sessions} sessions")
            return 0
        time.sleep(0.1)
    print(f"referee: no traffic: {folder.errors.read_text().strip()[-2000:]}", file=sys.stderr)
    return 3


def _run(folder: Folder, options: argparse.Namespace) -> int:
    if (pid := folder.running()) is not None:
        print(f"referee: traffic runs already (process {pid}); stop it first", file=sys.stderr)
        return 3
    folder.create()
    return _traffic(folder, options)


def _traffic(folder: Folder, options: argparse.Namespace) -> int:
    folder.claim()
    try:
        asyncio.run(_drive(folder, options))
    finally:
        folder.release()
    return 0


async def _drive(folder: Folder, options: argparse.Namespace) -> None:
    context = ssl.create_default_context(cafile=options.ca)
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    target = Target(options.domain, options.address, context, options.timeout)
    names = Mix.__dataclass_fields__
    mix = Mix(**{name: getattr(options, name) for name in names})
    log = Log(folder.log)
    traffic = Traffic(target, mix, log.write, options.seed)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, traffic.stop)
    flusher = asyncio.create_task(_flush(log))
    try:
        await traffic.run(options.duration)
    finally:
        flusher.cancel()
        log.flush()


async def _flush(log: Log) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        log.flush()


def _stop(folder: Folder, options: argparse.Namespace) -> int:
    if folder.running() is None:
        print("no traffic runs")
        return 0
    if not folder.stop(options.wait):
        print(f"referee: still running after {options.wait:g} s", file=sys.stderr)
        return 3
    print("traffic stopped")
    return 0


def _status(folder: Folder, options: argparse.Namespace) -> int:
    pid = folder.running()
    size = folder.log.stat().st_size if folder.log.exists() else 0
    print(
        f"traffic runs (process {pid})" if pid else "no traffic runs",
        f"log {folder.log}, {size} bytes",
    )
    return 0 if pid else 1


def _mark(folder: Folder, options: argparse.Namespace) -> int:
    folder.mark(options.name)
    return 0


def _report(folder: Folder, options: argparse.Namespace) -> int:
    if options.log:
        folder.log = options.log
    terms = Terms(options.promises, options.allow_resets, options.min_requests, options.examples)
    verdict = judge(folder.entries, terms)
    if options.json:
        print(json.dumps(verdict.data, indent=2))
    else:
        print(report.text(verdict.data), end="")
    return verdict.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="referee", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--dir", type=Path, default=DEFAULT, help="the referee's folder (%(default)s)"
    )
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, summary in (
        ("start", _start, "make traffic in the background; begins a new log"),
        ("run", _run, "make traffic until SIGTERM or for --duration; begins a new log"),
    ):
        word = words.add_parser(name, parents=[common], help=summary)
        word.set_defaults(command=command)
        _traffic_options(word)
    word = words.add_parser(
        "stop", parents=[common], help="end the traffic; waits for what is under way"
    )
    word.add_argument("--wait", type=float, default=60.0, metavar="SECONDS")
    word.set_defaults(command=_stop)
    word = words.add_parser("status", parents=[common], help="exit 0 while traffic runs")
    word.set_defaults(command=_status)
    word = words.add_parser(
        "mark", parents=[common], help="record a moment; NAME-start, NAME-end make a phase"
    )
    word.add_argument("name", type=_mark_name)
    word.set_defaults(command=_mark)
    word = words.add_parser(
        "report", parents=[common], help="the verdict; exit 0 innocent, 1 guilty, 2 too little"
    )
    word.set_defaults(command=_report)
    word.add_argument("--log", type=Path, help="judge this log instead of the folder's")
    word.add_argument("--json", action="store_true")
    word.add_argument(
        "--promises", type=_promise_names, default=tuple(PROMISES), metavar="S1,S2,S3"
    )
    word.add_argument("--min-requests", type=int, default=Terms.min_requests, metavar="N")
    word.add_argument(
        "--allow-resets", type=int, default=0, metavar="N", help="so many sessions may be replaced"
    )
    word.add_argument("--examples", type=int, default=Terms.examples, metavar="N")
    return parser


def _traffic_options(word: argparse.ArgumentParser) -> None:
    word.add_argument("--domain", required=True, help="for Host and the certificate")
    word.add_argument(
        "--address", required=True, action="append", type=_address, metavar="IP[:PORT]",
        help="a public balancer; again for each",
    )  # fmt: skip
    word.add_argument("--ca", metavar="FILE", help="trust this authority")
    word.add_argument("--insecure", action="store_true", help="accept any certificate")
    word.add_argument("--duration", type=float, metavar="SECONDS")
    word.add_argument("--timeout", type=float, default=Target.timeout, metavar="SECONDS")
    word.add_argument("--seed", type=int, help="the same choices again")
    help_of = {
        "rate": "requests per second",
        "sessions": "clients at any moment",
        "life": "requests of a session, on average",
        "posts": "share of POST requests",
        "slow": "share of slow requests",
        "slow_ms": "how slow they are",
        "kept": "share of clients that keep their connection",
        "parallel": "share of clients with two requests at once",
    }
    for name, field in Mix.__dataclass_fields__.items():
        word.add_argument(
            f"--{name.replace('_', '-')}", type=type(field.default), default=field.default,
            metavar="N", help=f"{help_of[name]} (%(default)s)",
        )  # fmt: skip


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":") if value.count(":") == 1 else (value, "", "443")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not IP or IP:PORT")
    return host.strip("[]"), int(port)


def _mark_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not a name")
    return value


def _promise_names(value: str) -> tuple[str, ...]:
    names = tuple(value.split(","))
    if wrong := [name for name in names if name not in PROMISES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(PROMISES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())

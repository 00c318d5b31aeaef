"""Measure what weights that follow health are worth: real HAProxy, nginx and php-fpm, real reports.

    python3 benchmarks/weights.py                                    # four scenarios of 20 + 240 s
    python3 benchmarks/weights.py --scenario failing --seconds 60 --policy leastconn \\
        --policy leastconn+loop                                      # one question

Needs haproxy, nginx, php8.2-fpm and what the functional tests need, root, and a quiet machine. Each
policy has a farm of its own, and all of them run at the same time under the same traffic: the same
requests at the same moments, the same events. A server's work is sleep, so that many fit on a small
machine; its php-fpm processes are what it has. The loop and HAProxy's agents hear what the beacon's
own sensors report. How the load generators and the machine fared is printed with the table.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "_utils"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/functional"))

from loopback import NET
from weights_scenarios import SCENARIOS, Event, traffic
from weights_steer import Listener, Steer, listening, steers
from weights_world import POLICIES, Policy, World, worlds

LOAD = Path(__file__).parent / "weights_load.py"
PATIENCE = 30.0
"""Seconds that a client waits for an answer."""
LATE_MS, BUSY = 20.0, 0.8
"""Above these, the generators' lateness and the machine's load spoil the numbers."""


@dataclass(frozen=True)
class Strain:
    """How a run went: share of the CPUs in use, longest pause in steering (s), and the reports of
    the server that sent fewest (None: nobody steered).
    """

    busy: float
    pause: float
    reports: int | None


@dataclass
class Outcome:
    """What came of one policy in one scenario; latencies in ms, of the requests that succeeded."""

    policy: Policy
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    lateness: list[float] = field(default_factory=list)
    cpu: float = 0.0
    weights: dict[str, list[int]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return len(self.latencies) + self.errors

    def read(self, printed: dict[str, Any], warmup: float) -> None:
        """The load generator's results, without those of the warm-up."""
        self.cpu = printed["cpu"]
        for offset, latency, status, late in printed["results"]:
            if offset < warmup:
                continue
            self.lateness.append(late * 1000)
            if isinstance(status, str):
                self.errors += 1
                self.unanswered[status] += 1
            elif 200 <= status < 400:
                self.latencies.append(latency * 1000)
            else:
                self.errors += 1
        self.latencies.sort()
        self.lateness.sort()

    def reversals(self, seconds: float) -> float:
        """How often a weight turned round, per server and minute."""
        turns = sum(map(turned, self.weights.values()))
        return turns / max(1, len(self.weights)) / (seconds / 60)


def turned(weights: list[int]) -> int:
    """How often these go down after they went up, or up after they went down."""
    moves = [after - before for before, after in pairwise(weights) if after != before]
    return sum((before > 0) != (after > 0) for before, after in pairwise(moves))


def quantile(ordered: list[float], share: float) -> float:
    """The value that ``share`` of these do not exceed; NaN of none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Generator:
    """A load generator that has its orders; it ends with the block at the latest."""

    def __init__(self, address: str, **orders: Any) -> None:
        self.orders = {"address": address, **orders}

    def __enter__(self) -> "Generator":
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            self._write(json.dumps(self.orders))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def wait(self) -> None:
        """Until it is ready."""
        assert self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit(f"a load generator does not start: {LOAD}")

    def begin(self, at: float) -> None:
        """Tell it when to begin (monotonic seconds)."""
        self._write(str(at))

    def result(self, seconds: float) -> dict[str, Any]:
        """What it printed in the end."""
        text, _ = self.process.communicate(timeout=seconds)
        if self.process.returncode:
            raise SystemExit(f"a load generator ended with {self.process.returncode}")
        return dict(json.loads(text))

    def _write(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def machine() -> tuple[float, float]:
    """CPU seconds that this machine has worked, and has had."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def conduct(
    made: dict[str, World],
    steering: list[Steer],
    events: list[Event],
    begin: float,
    seconds: float,
    found: dict[str, Outcome],
) -> float:
    """Let everything happen until the measured part is over; ``begin``: when that begins.

    Returns the longest time (s) in which it did not come to steer.
    """
    left = sorted(events)
    next_look = begin
    last, longest = time.monotonic(), 0.0
    while (now := time.monotonic()) < begin + seconds:
        last, longest = now, max(longest, now - last)
        while left and begin + left[0].at <= now:
            event = left.pop(0)
            for world in made.values():
                happen(world, event)
        for steer in steering:
            steer.beat(now)
        if now >= next_look:
            next_look += 1.0
            for name, world in made.items():
                for server, weight in world.weights().items():
                    found[name].weights.setdefault(server, []).append(weight)
        time.sleep(0.02)
    return longest


def happen(world: World, event: Event) -> None:
    server = list(world.farm.servers.values())[event.server]
    if event.kind == "off":
        world.farm.switch_off(server)
    elif event.kind == "on":
        world.farm.switch_on(server, cold=True)
    else:
        world.farm.set_mood(server, event.factor, event.status)


def measure(
    name: str, made: dict[str, World], listener: Listener, options: argparse.Namespace
) -> tuple[list[Outcome], Strain]:
    """Run one scenario."""
    scenario = SCENARIOS[name]
    found = {policy: Outcome(world.policy) for policy, world in made.items()}
    rate = scenario.rate(options.servers, options.children, options.work)
    duration = options.warmup + options.seconds
    requests = traffic(rate, options.work, duration, random.Random(f"{options.seed} traffic"))
    events = scenario.events(
        options.servers, options.seconds, random.Random(f"{options.seed} events")
    )
    for world in made.values():
        for number, factor in enumerate(scenario.factors(options.servers)):
            happen(world, Event(0, number, factor=factor))
    with contextlib.ExitStack() as stack:
        steering: list[Steer] = []
        for world in made.values():
            steer = steers(world, listener)
            if steer is not None:
                steering.append(steer)
                stack.callback(steer.close)
        running = {
            policy: stack.enter_context(
                Generator(world.address, requests=requests, patience=PATIENCE)
            )
            for policy, world in made.items()
        }
        for one in running.values():
            one.wait()
        start = time.monotonic() + 0.5
        for one in running.values():
            one.begin(start)
        before = machine()
        begin = start + options.warmup
        pause = conduct(made, steering, events, begin, options.seconds, found)
        worked, had = (after - was for after, was in zip(machine(), before, strict=True))
        for policy, one in running.items():
            found[policy].read(one.result(2 * PATIENCE), options.warmup)
    counts = [count for steer in steering for count in steer.reports.counts.values()]
    return list(found.values()), Strain(worked / max(had, 1), pause, min(counts, default=None))


def limit(options: argparse.Namespace, listener: Listener) -> float:
    """Requests/s that one generator gets from HAProxy alone, with all else at rest."""
    with worlds([POLICIES["leastconn"]], 1, 2, listener.address) as made:
        seconds = min(3.0, options.seconds)
        address = made["leastconn"].address
        with Generator(address, flood=seconds, connections=32, path="/.webfarm/site-up") as one:
            one.wait()
            one.begin(time.monotonic())
            return float(one.result(60)["rate"])


def compared(value: float, base: float | None) -> str:
    """The ratio to the same policy without steering."""
    if base is None:
        return ""
    if not base:
        return " (=)" if not value else " (none without)"
    return f" ({value / base:.2f})"


def rows(scenario: str, outcomes: list[Outcome], seconds: float) -> Iterator[str]:
    bases = {one.policy.name: one for one in outcomes if not one.policy.steer}
    for one in outcomes:
        base = bases.get(one.policy.base) if one.policy.steer else None
        cells = []
        for share in (0.5, 0.99, 0.999):
            value = quantile(one.latencies, share)
            cells.append(
                f"{value:,.0f}" + compared(value, base and quantile(base.latencies, share))
            )
        errors = one.errors / max(1, one.requests)
        cells.append(
            f"{one.errors:,} = {errors:.2%}"
            + compared(errors, base and base.errors / max(1, base.requests))
        )
        cells.append(f"{one.reversals(seconds):.1f}" if one.policy.steer else "–")
        yield f"| {scenario} | {one.policy.name} | {' | '.join(cells)} |"


def health(
    scenario: str, outcomes: list[Outcome], strain: Strain, options: argparse.Namespace
) -> Iterator[str]:
    """How far the numbers can be trusted."""
    late = max(quantile(one.lateness, 0.99) for one in outcomes)
    longest = max(quantile(one.lateness, 1.0) for one in outcomes)
    cpu = max(one.cpu for one in outcomes) / (options.warmup + options.seconds)
    unanswered = sum((one.unanswered for one in outcomes), Counter[str]())
    causes = ", ".join(f"{count} {name}" for name, count in unanswered.most_common()) or "none"
    yield (
        f"{scenario}: {outcomes[0].requests / options.seconds:.0f} requests/s for each policy; "
        f"generators late by {late:.1f} ms (p99), {longest:.1f} ms (longest), {cpu:.0%} of a core "
        f"each at most; steering paused for {strain.pause * 1000:.0f} ms at most; "
        f"machine {strain.busy:.0%} busy; "
        f"reports of each server: {'none wanted' if strain.reports is None else strain.reports}; "
        f"without an answer: {causes}"
    )
    if late > LATE_MS or strain.busy > BUSY:
        yield f"{scenario}: DO NOT USE: the machine was too busy for these numbers"
    if strain.reports == 0:
        yield f"{scenario}: DO NOT USE: a server did not report at all"


def chosen(given: list[str] | None, known: dict[str, Any], what: str) -> list[str]:
    for name in given or []:
        if name not in known:
            raise SystemExit(f"there is no {what} {name}; there are: {', '.join(known)}")
    return [name for name in known if not given or name in given]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=240, help="measured, for each scenario")
    parser.add_argument("--warmup", type=float, default=20, help="seconds before that")
    parser.add_argument("--scenario", action="append", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--policy", action="append", help=f"of {', '.join(POLICIES)}")
    parser.add_argument("--servers", type=int, default=6, help="in each farm")
    parser.add_argument("--children", type=int, default=6, help="php-fpm processes of a server")
    parser.add_argument("--work", type=float, default=200, help="ms that a request takes, mean")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.scenario = chosen(options.scenario, SCENARIOS, "scenario")
    options.policy = chosen(options.policy, POLICIES, "policy")
    if options.servers < 2 or options.children < 1 or options.seconds <= 0 or options.warmup < 0:
        raise SystemExit("at least two servers, one child, and some time")
    return options


def leave(number: int, _: object) -> None:
    """End as after an error, with all that was started, and without being disturbed at that."""
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(f"ended by {signal.Signals(number).name}")


def main() -> None:
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    table: list[str] = []
    trust: list[str] = []
    with listening(f"{NET}.0.1") as listener:
        trust.append(
            f"A load generator can do {limit(options, listener):,.0f} requests/s "
            "against HAProxy alone."
        )
        try:
            for name in options.scenario:
                policies = [POLICIES[policy] for policy in options.policy]
                with worlds(policies, options.servers, options.children, listener.address) as made:
                    listener.answers.clear()
                    outcomes, strain = measure(name, made, listener, options)
                table += rows(name, outcomes, options.seconds)
                trust += health(name, outcomes, strain, options)
                print(f"{name}: measured", file=sys.stderr, flush=True)
        finally:
            show(table, trust, options)


def show(table: list[str], trust: list[str], options: argparse.Namespace) -> None:
    """Print what was measured, also when a later scenario failed."""
    print(
        f"\n{options.servers} servers of {options.children} php-fpm processes for each policy, "
        f"{options.work:.0f} ms a request; {options.seconds:.0f} s measured; seed {options.seed}; "
        f"{os.cpu_count()} CPUs shared by all, load {os.getloadavg()[0]:.1f} at the end"
    )
    print("In brackets: the ratio to the same policy without loop or agents.\n")
    print("| scenario | policy | p50 ms | p99 ms | p99.9 ms | errors | reversals/server/min |")
    print("|---|---|---:|---:|---:|---:|---:|")
    print("\n".join([*table, "", *trust]))


if __name__ == "__main__":
    main()

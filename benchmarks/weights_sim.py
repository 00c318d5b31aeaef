#!/usr/bin/env python3
"""What the weights' loop is worth: a simulated farm under several policies, side by side.

The law is the real one (`webfarm.weights`); servers, balancers, reports and time are simulated. The
same seed gives every policy the same arrivals and the same troubles::

    python benchmarks/weights_sim.py                         16 servers, every policy and scenario
    python benchmarks/weights_sim.py --servers 512 --service 0.8 --policies leastconn

A server works on 8 requests at a time, 100 ms each in the mean (exponential), the others wait in
its listen queue; who waits for more than 50 times that gets an error. Two balancers, each with its
own view.
A server looks at itself every second and reports at once when something has changed, else every
5 s; 0.3 s later the master has it, and 0.3 s after a decision it is in force.
"""

import argparse
import heapq
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_utils"))

from webfarm.weights import Decision, Farm, Law, Load, absorb, decide, urgent  # noqa: E402

SLOTS, SERVICE, PATIENCE = 8, 0.1, 50
BALANCERS, TRIP = 2, 0.3
FAIL_SECONDS = 0.002
WARM = 10.0  # the first seconds do not count


@dataclass
class Trouble:
    """How much slower a server is, and whether it fails, at a time."""

    slow: Callable[[int, float], float] = lambda server, now: 1.0
    fails: Callable[[int, float], bool] = lambda server, now: False
    load: float = 0.62


def even(count: int, rng: random.Random, seconds: float) -> Trouble:
    """All alike."""
    return Trouble(load=0.7)


def hetero(count: int, rng: random.Random, seconds: float) -> Trouble:
    """A quarter of the servers has half of the speed; the load counts that."""
    weak = set(range(0, count, 4))
    share = 1 - len(weak) / count / 2
    return Trouble(slow=lambda s, now: 2.0 if s in weak else 1.0, load=0.7 * share)


def antagonist(count: int, rng: random.Random, seconds: float) -> Trouble:
    """Every server is 3 times slower for 20 to 40 s, about every 90 s."""
    spans: list[list[tuple[float, float]]] = []
    for _ in range(count):
        at, own = rng.uniform(-90, 90), []
        while at < seconds:
            long = rng.uniform(20, 40)
            own.append((at, at + long))
            at += long + rng.expovariate(1 / 60)
        spans.append(own)
    return Trouble(slow=lambda s, now: 3.0 if any(a <= now < b for a, b in spans[s]) else 1.0)


def fastfail(count: int, rng: random.Random, seconds: float) -> Trouble:
    """One server of 16 fails every request within 2 ms, from the 20th second on."""
    return Trouble(fails=lambda s, now: s % 16 == 1 and now >= 20)


def cold(count: int, rng: random.Random, seconds: float) -> Trouble:
    """One server of 8 has cold caches from the 20th second on: 4 times slower, half each 10 s."""
    return Trouble(
        slow=lambda s, now: 1 + 3 * 0.5 ** ((now - 20) / 10) if s % 8 == 1 and now >= 20 else 1.0
    )


SCENARIOS = {f.__name__: f for f in (even, hetero, antagonist, fastfail, cold)}


@dataclass(frozen=True)
class Policy:
    """How a balancer picks, how many requests it lets a server have, and who moves the weights."""

    leastconn: bool
    maxconn: int | None
    loop: str  # "", "loop", "agent"


POLICIES = {
    f"{algorithm}{'+maxconn' if most else ''}{' + ' + loop if loop else ''}": Policy(
        algorithm == "leastconn", most, loop
    )
    for algorithm, most in (
        ("roundrobin", None),
        ("leastconn", None),
        ("leastconn", math.ceil(1.25 * SLOTS / BALANCERS)),
    )
    for loop in ("", "loop", *(["agent"] if most else []))
}


class Balancer:
    """One balancer's view: requests in flight at each server, and who is next."""

    def __init__(self, policy: Policy, count: int) -> None:
        self.policy = policy
        self.inflight = [0] * count
        self.weight = [100] * count
        self.drained: set[int] = set()
        self.waiting: deque[float] = deque()
        self.order: list[tuple[float, int, int]] = []
        self.turn = 0
        self.stamp = [0] * count
        self.past = [0.0] * count
        for server in range(count):
            self.rank(server)

    def rank(self, server: int) -> None:
        """Put the server where it belongs; what is in the heap of it is void."""
        self.turn += 1
        self.stamp[server] = self.turn
        if self.policy.leastconn:
            key = self.inflight[server] / self.weight[server]
        else:
            key = self.past[server]
        heapq.heappush(self.order, (key, self.turn, server))

    def usable(self, server: int) -> bool:
        most = self.policy.maxconn
        return server not in self.drained and (most is None or self.inflight[server] < most)

    def pick(self) -> int | None:
        """The next server, its request counted; None: all are full."""
        order, skipped, found = self.order, [], None
        while order:
            top = heapq.heappop(order)
            server = top[2]
            if top[1] != self.stamp[server]:
                continue
            if self.usable(server):
                found = server
                break
            skipped.append(top)
        for top in skipped:
            heapq.heappush(order, top)
        if found is not None:
            self.inflight[found] += 1
            self.past[found] += 1 / self.weight[found]
            self.rank(found)
        return found

    def carry(self, weights: list[int], drained: set[int]) -> None:
        """Take a new vector."""
        for server, weight in enumerate(weights):
            if self.weight[server] != weight or (server in drained) != (server in self.drained):
                self.weight[server] = weight
                if server in self.drained:  # it does not catch up for the time that it was out
                    self.past[server] = max(self.past)
                self.drained = self.drained - {server} | ({server} & drained)
                self.rank(server)


@dataclass
class Host:
    """One server: who is at work, who waits, and what it counted since its last report."""

    working: int = 0
    queue: deque[tuple[float, int]] = field(default_factory=deque)
    busy: float = 0.0
    requests: int = 0
    errors: int = 0
    active: float = 0.0
    since: float = 0.0
    told: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mean time, errors, busy


@dataclass
class Outcome:
    """What a run showed."""

    times: list[float]
    errors: int
    reversals: float
    cpu: float

    def row(self) -> list[str]:
        times = sorted(self.times)
        quantile = [times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.99, 0.999)]
        share = 100 * self.errors / max(1, len(times))
        return [*(f"{1000 * t:.0f}" for t in quantile), f"{share:.3g} %", f"{self.reversals:.2f}"]


class Run:
    """One policy in one scenario."""

    def __init__(
        self, policy: Policy, trouble: Trouble, count: int, seed: int, service: float = SERVICE
    ) -> None:
        self.policy, self.trouble, self.law, self.service = policy, trouble, Law(), service
        self.rng = random.Random(seed)
        self.work = random.Random(seed + 1)
        self.balancers = [Balancer(policy, count) for _ in range(BALANCERS)]
        self.hosts = [Host() for _ in range(count)]
        self.names = [f"ws{n}" for n in range(count)]
        self.base = dict.fromkeys(self.names, 100)
        self.state = Farm()
        self.events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self.number = 0
        self.now = 0.0
        self.times: list[float] = []
        self.errors = 0
        self.direction = [0] * count
        self.last = [100] * count
        self.turns = 0

    def at(self, when: float, call: Callable[..., None], *given: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, call, given))

    def run(self, seconds: float) -> Outcome:
        """Let ``seconds`` pass."""
        begun = time.process_time()
        rate = len(self.hosts) * SLOTS / self.service * self.trouble.load
        self.at(self.rng.expovariate(rate), self.arrive, rate)
        for server in range(len(self.hosts)):
            self.at(self.rng.uniform(0, 1), self.look, server)
        if self.policy.loop == "loop":
            self.at(self.law.tick, self.tick)
        while self.events and self.events[0][0] < seconds:
            self.now, _, call, given = heapq.heappop(self.events)
            call(*given)
        minutes = (seconds - WARM) / 60 * len(self.hosts)
        return Outcome(self.times, self.errors, self.turns / minutes, time.process_time() - begun)

    def arrive(self, rate: float) -> None:
        self.at(self.now + self.rng.expovariate(rate), self.arrive, rate)
        number = self.rng.randrange(BALANCERS)
        balancer = self.balancers[number]
        server = None if balancer.waiting else balancer.pick()
        if server is None:
            balancer.waiting.append(self.now)
        else:
            self.reach(server, number, self.now)

    def reach(self, server: int, number: int, came: float) -> None:
        host = self.hosts[server]
        if host.working < SLOTS:
            self.start(server, number, came)
        else:
            host.queue.append((came, number))

    def start(self, server: int, number: int, came: float) -> None:
        host = self.hosts[server]
        host.working += 1
        fails = self.trouble.fails(server, self.now)
        takes = self.service * self.work.expovariate(1)
        takes = FAIL_SECONDS if fails else takes * self.trouble.slow(server, self.now)
        if self.now - came > PATIENCE * self.service:
            fails, takes = True, 0.0
        self.at(self.now + takes, self.finish, server, number, came, fails, takes)

    def finish(self, server: int, number: int, came: float, failed: bool, took: float) -> None:
        host, balancer = self.hosts[server], self.balancers[number]
        host.working -= 1
        host.requests += 1
        host.errors += failed
        host.busy += took
        balancer.inflight[server] -= 1
        balancer.rank(server)
        if came >= WARM:
            self.times.append(self.now - came)
            self.errors += failed
        if host.queue:
            first, by = host.queue.popleft()
            self.start(server, by, first)
        while balancer.waiting:
            free = balancer.pick()
            if free is None:
                break
            self.reach(free, number, balancer.waiting.popleft())

    def look(self, server: int) -> None:
        """The server's beacon."""
        self.at(self.now + 1, self.look, server)
        host = self.hosts[server]
        host.active += host.working
        seconds = self.now - host.since
        mean = host.busy / host.requests if host.requests else host.told[0]
        share = host.errors / host.requests if host.requests else 0.0
        used = host.busy / seconds / SLOTS
        if self.policy.loop == "agent":
            # what an agent can know: how much of this server is idle and well
            percent = max(1, round(100 * (1 - min(1.0, used)) * (1 - share)))
            self.at(self.now + 0.05, self.agent, server, percent)
            self.forget(host)
            return
        changed = (
            abs(share - host.told[1]) > 0.05
            or abs(used - host.told[2]) > 0.15
            or not 0.75 < (mean + 1e-9) / (host.told[0] + 1e-9) < 1.33
        )
        if seconds < 4.9 and not changed:
            return
        host.told = (mean, share, used)
        load = Load(
            seconds=seconds,
            requests=host.requests,
            errors=host.errors,
            busy=host.busy,
            active=host.active / max(1, round(seconds)),
            children=SLOTS,
            queue=len(host.queue),
        )
        self.forget(host)
        if self.policy.loop:
            self.at(self.now + TRIP, self.hear, server, load)

    def forget(self, host: Host) -> None:
        host.busy, host.requests, host.errors, host.active = 0.0, 0, 0, 0.0
        host.since = self.now

    def hear(self, server: int, load: Load) -> None:
        name = self.names[server]
        self.state = absorb(self.law, self.state, name, load, self.now)
        if hurried := urgent(self.law, self.base, self.state, name, self.now):
            self.state = hurried[1]
            self.send(hurried[0])

    def tick(self) -> None:
        self.at(self.now + self.law.tick, self.tick)
        decision, self.state = decide(self.law, self.base, self.state, self.now)
        self.send(decision)

    def send(self, decision: Decision) -> None:
        weights = [decision.weights[name] for name in self.names]
        drained = {n for n, name in enumerate(self.names) if name in decision.drained}
        for server, weight in enumerate(weights):
            if server not in drained:
                self.count(server, weight)
        self.at(self.now + TRIP, self.carry, weights, drained)

    def carry(self, weights: list[int], drained: set[int]) -> None:
        for number, balancer in enumerate(self.balancers):
            balancer.carry(weights, drained)
            while balancer.waiting and (free := balancer.pick()) is not None:
                self.reach(free, number, balancer.waiting.popleft())

    def agent(self, server: int, weight: int) -> None:
        self.count(server, weight)
        weights = list(self.balancers[0].weight)
        weights[server] = weight
        self.carry(weights, set())

    def count(self, server: int, weight: int) -> None:
        """Count a weight that turns round."""
        way = (weight > self.last[server]) - (weight < self.last[server])
        if way and self.now >= WARM:
            self.turns += way == -self.direction[server]
            self.direction[server] = way
        self.last[server] = weight


def main() -> None:
    """Print a table for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--service", type=float, default=SERVICE, help="mean time of a request, s")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scenarios", nargs="*", default=[*SCENARIOS], choices=[*SCENARIOS])
    parser.add_argument("--policies", nargs="*", default=[""], help="those that begin with this")
    given = parser.parse_args()
    for name in given.scenarios:
        print(f"\n**{name}**: {SCENARIOS[name].__doc__}\n")
        print("| policy | p50 ms | p99 | p99.9 | errors | reversals a server and minute |")
        print("|---|---:|---:|---:|---:|---:|")
        for title, policy in POLICIES.items():
            if not any(title.startswith(start) for start in given.policies):
                continue
            outcomes = []
            for seed in range(given.seeds):
                trouble = SCENARIOS[name](given.servers, random.Random(seed), given.seconds)
                run = Run(policy, trouble, given.servers, seed, given.service)
                outcomes.append(run.run(given.seconds))
            both = Outcome(
                [t for outcome in outcomes for t in outcome.times],
                sum(outcome.errors for outcome in outcomes),
                sum(outcome.reversals for outcome in outcomes) / len(outcomes),
                sum(outcome.cpu for outcome in outcomes),
            )
            print(f"| {title} | {' | '.join(both.row())} |", flush=True)


if __name__ == "__main__":
    main()

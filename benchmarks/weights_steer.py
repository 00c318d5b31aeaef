"""Who changes the weights in benchmarks/weights.py: Webfarm's loop, or agents that HAProxy asks.

Both hear the same: the beacon's own sensors and its own choice of when to report. Nothing here has
a thread but the sensors and the agents' listener; ``beat`` is called often and waits for nobody.
"""

import contextlib
import heapq
import socketserver
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from webfarm.haproxy import weights
from webfarm.haproxy.vector import Vector
from webfarm.health import threads
from webfarm.health.monitor import Monitor
from webfarm.rebalance import report
from webfarm.rebalance.report import Report
from webfarm.weights import Decision, Farm, Law, absorb, decide, urgent
from weights_world import FARM, World

BUS_SECONDS = 0.2
"""From a beacon to what follows on another minion; measured through Salt: 0.15 to 0.25 s."""
BEACON_SECONDS = 1.0
threads.MOST_HUNG = 1000  # which is meant for one server's process; here are many servers in one


class Steer(Protocol):
    reports: "Reports"

    def beat(self, now: float) -> None: ...

    def close(self) -> None: ...


class Reports:
    """The beacons of a farm: each is asked once a second, not all at the same time."""

    def __init__(self, world: World) -> None:
        self.monitors = {
            server.id: Monitor(server.id, world.farm.settings(server))
            for server in world.farm.servers.values()
        }
        self.next = {
            name: BEACON_SECONDS * place / len(self.monitors)
            for place, name in enumerate(self.monitors)
        }
        self.began: float | None = None
        self.counts = dict.fromkeys(self.monitors, 0)

    def due(self, now: float) -> Iterator[Report]:
        if self.began is None:
            self.began = now
        for name, monitor in self.monitors.items():
            if now - self.began < self.next[name]:
                continue
            self.next[name] = max(self.next[name] + BEACON_SECONDS, now - self.began)
            if body := monitor.tick():
                self.counts[name] += 1
                yield report.parse(body)  # as the master takes it

    def close(self) -> None:
        for monitor in self.monitors.values():
            monitor.close()
        for monitor in self.monitors.values():
            monitor.join(20)


class Loop:
    """The law, at its tick and at once for what is urgent, and the balancer's own way to apply it.

    Salt's part is played by a delay.
    """

    def __init__(self, world: World) -> None:
        # roundrobin does not follow a server's speed by itself: see gamma in webfarm.weighing.law
        self.law = Law(gamma=1.0 if world.policy.balance == "roundrobin" else 0.5)
        self.balancer = world.balancer.balancer
        self.base = dict.fromkeys(world.farm.servers, 100)
        self.state = Farm()
        self.reports = Reports(world)
        self.flying: list[tuple[float, int, Any]] = []
        self.sent = 0
        self.next_tick: float | None = None
        self.epoch = 0

    def beat(self, now: float) -> None:
        for heard in self.reports.due(now):
            self._later(now, heard)
        while self.flying and self.flying[0][0] <= now:
            what = heapq.heappop(self.flying)[2]
            if isinstance(what, Decision):
                self._apply(what)
            else:
                self._absorb(what, now)
        if self.next_tick is None:
            self.next_tick = now + self.law.tick
        if now >= self.next_tick:
            self.next_tick = now + self.law.tick
            decision, self.state = decide(self.law, self.base, self.state, now)
            self._later(now, decision)

    def close(self) -> None:
        self.reports.close()

    def _later(self, now: float, what: Report | Decision) -> None:
        """Both ways take some of the bus's time."""
        self.sent += 1
        heapq.heappush(self.flying, (now + BUS_SECONDS / 2, self.sent, what))

    def _absorb(self, heard: Report, now: float) -> None:
        self.state = absorb(self.law, self.state, heard.id, heard.load(), now)
        found = urgent(self.law, self.base, self.state, heard.id, now)
        if found is not None:
            decision, self.state = found
            self._later(now, decision)

    def _apply(self, decision: Decision) -> None:
        self.epoch += 1
        share = max(1, round(sum(self.base.values()) * decision.share))
        vector = Vector(FARM, self.epoch, decision.weights, decision.drained, share)
        weights.apply(self.balancer, "site1", vector)


class Agents:
    """What an agent on each server answers HAProxy: its own idle share, without its errors.

    This is the usual agent: it knows nothing of the others. Weight in percent = 100 (1 - u)(1 - e),
    at least 1; a critical server says ``drain``.
    """

    def __init__(self, world: World, listener: "Listener") -> None:
        self.reports = Reports(world)
        self.answers = listener.answers

    def beat(self, now: float) -> None:
        for heard in self.reports.due(now):
            self.answers[heard.id] = answer(heard)

    def close(self) -> None:
        self.reports.close()


def answer(heard: Report) -> str:
    """The agent's line."""
    if heard.critical:
        return "drain"
    used = max(heard.busy / heard.seconds, heard.active) / heard.children
    errors = heard.errors / heard.requests if heard.requests else 0.0
    return f"ready {max(1, round(100 * max(0.0, 1 - used) * (1 - errors)))}%"


class Listener(socketserver.TCPServer):
    """All agents at one address; HAProxy names the server that it asks for."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str) -> None:
        self.answers: dict[str, str] = {}
        super().__init__((host, 0), _Ask)

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"


class _Ask(socketserver.StreamRequestHandler):
    timeout = 1
    server: Listener

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            name = self.rfile.readline(256).decode("ascii", "replace").strip()
            self.wfile.write((self.server.answers.get(name, "ready") + "\n").encode("ascii"))


@contextlib.contextmanager
def listening(host: str) -> Iterator[Listener]:
    with Listener(host) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield listener
        finally:
            listener.shutdown()
            thread.join(5)


def steers(world: World, listener: Listener) -> Steer | None:
    """Who steers this world."""
    if world.policy.steer == "loop":
        return Loop(world)
    return Agents(world, listener) if world.policy.steer == "agent" else None

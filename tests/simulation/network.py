"""Salt between the controllers and the nodes: what is sent may be lost, late or arrive twice.

:class:`Client` has what :class:`webfarm.rollout.salt_cluster.SaltCluster` needs of Salt's
LocalClient, so the adapter that the simulation runs through is the real one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .nodes import Node, Refusal


@dataclass
class Weather:
    """How likely a message meets which trouble."""

    loss: float = 0.0  # of a reply
    refusal: float = 0.0  # of a command that never arrives
    late: float = 0.0  # of a command or a reply that arrives after seconds to minutes
    twice: float = 0.0  # of a command that is executed again later
    slow: float = 0.05  # of a node that acts three seconds after the others
    publish: float = 0.0  # of a master that cannot publish


class Network:
    """Carries jobs to nodes and replies to who asked."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.weather = Weather()
        self.sent = 0
        self._jobs = 0

    def job(self) -> str:
        """A new job id."""
        self._jobs += 1
        return f"{self._jobs:020d}"

    def send(
        self, client: "Client", name: str, function: str, arguments: Mapping[str, Any], jid: str
    ) -> None:
        """One command to one node."""
        self.sent += 1
        choose, weather = self.world.random, self.weather
        if choose.random() < weather.refusal:
            self.world.log(f"lost on its way: {function} to {name}")
            return
        node = self.world.node(name)

        def arrive() -> None:
            self._arrive(client, node, function, arguments, jid)

        delay = choose.uniform(0.02, 0.2) + (3.0 if choose.random() < weather.slow else 0.0)
        if choose.random() < weather.late:
            delay += choose.uniform(5.0, 90.0)
        self.world.at(delay, arrive)
        if choose.random() < weather.twice:
            self.world.at(delay + choose.uniform(0.0, 60.0), arrive)

    def _arrive(
        self, client: "Client", node: Node, function: str, arguments: Mapping[str, Any], jid: str
    ) -> None:
        world = self.world
        if function != "saltutil.find_job":
            if world.now < node.cut_until:  # TCP keeps it, in whatever order jobs then start
                delay = node.cut_until - world.now + world.random.uniform(0.0, 3.0)
                world.at(delay, lambda: self._arrive(client, node, function, arguments, jid))
                return
            if world.now < node.busy_until:  # the node's lock
                delay = node.busy_until - world.now + 0.05
                world.at(delay, lambda: self._arrive(client, node, function, arguments, jid))
                return
        if not node.minion or world.now < node.cut_until or not world.powered(node):
            return
        node.running.add(jid)

        def reply(value: Any, ok: bool = True) -> None:
            node.running.discard(jid)
            self._reply(client, node, function, jid, value, ok)

        try:
            world.minions.run(node, function, arguments, reply)
        except Refusal as error:
            reply(f"ERROR: {error}", ok=False)

    def _reply(
        self, client: "Client", node: Node, function: str, jid: str, value: Any, ok: bool
    ) -> None:
        choose, weather = self.world.random, self.weather
        if function != "saltutil.find_job" and choose.random() < weather.loss:
            self.world.log(f"lost on its way back: {function} of {node.name}")
            return
        delay = choose.uniform(0.01, 0.1)
        if choose.random() < weather.late:
            delay += choose.uniform(1.0, 60.0)
        data = {"id": node.name, "return": value, "retcode": 0 if ok else 1, "success": ok}
        event = {"tag": f"salt/job/{jid}/ret/{node.name}", "data": data}
        for _ in range(2 if choose.random() < weather.twice else 1):
            self.world.at(delay, lambda: client.arrived(event))


class Client:
    """One controller's LocalClient; ``event`` is its bus."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.event = self
        self.inbox: deque[dict[str, Any]] = deque()
        self.reader: Any = None

    def pub(
        self, tgt: Sequence[str], fun: str, arg: Sequence[Any] = (), **_: Any
    ) -> dict[str, Any]:
        """Publish to a list of minions."""
        world = self.world
        world.sleep(0.02)
        if world.random.random() < world.network.weather.publish:
            raise TimeoutError("the master did not answer")
        arguments = {k: v for k, v in arg[0].items() if k != "__kwarg__"} if arg else {}
        jid = world.network.job()
        for name in tgt:
            world.network.send(self, name, fun, arguments, jid)
        return {"jid": jid, "minions": list(tgt)}

    def get_event(self, wait: float = 5.0, **_: Any) -> dict[str, Any] | None:
        """The next event of the bus, or None after ``wait`` seconds."""
        if not self.inbox:
            self.reader = self.world.current
            self.world.sleep(wait)
            self.reader = None
        return self.inbox.popleft() if self.inbox else None

    def arrived(self, event: dict[str, Any]) -> None:
        """A return reaches the master's bus."""
        if len(self.inbox) < 10_000:
            self.inbox.append(event)
        if self.reader is not None:
            self.world.wake(self.reader)
            self.reader = None

"""A cluster without Salt for the tests of the weights' loop: keys, a clock, letters, balancers."""

import copy
import json
from pathlib import Path
from typing import Any

import msgpack
from conftest import EXAMPLE
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from webfarm import signed, topology
from webfarm.rebalance import confirm
from webfarm.rebalance.book import Book
from webfarm.rebalance.controller import Controller, Event
from webfarm.rebalance.mailbox import Mailbox
from webfarm.rebalance.report import example
from webfarm.signed import REPORT, VECTOR

START = 1_800_000_000.0
WS1, WS2 = "site1-farm1-ws1", "site1-farm1-ws2"
LB1, LB2 = "site1-lb1", "site1-lb2"
FARM = ("site1", "farm1")


def pillar(servers: int = 2, **law: Any) -> dict[str, Any]:
    """The example with so many servers a farm, and these parameters of site1's law."""
    found = copy.deepcopy(EXAMPLE)
    for s, site in enumerate(found["sites"].values(), 1):
        for f, farm in enumerate(site["farms"].values(), 1):
            farm["servers"] = {
                f"site{s}-farm{f}-ws{n}": {"address": f"10.{s}.{f}.{n}"}
                for n in range(1, servers + 1)
            }
    found["sites"]["site1"]["weights"] = law
    return found


class Keys:
    """Keys as Salt keeps them: each minion's own, and on the master ``minions/ID``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "minions").mkdir(parents=True)

    def private(self, name: str) -> Path:
        """The key of a minion or of ``master``, made at need; a minion's is accepted."""
        path = self.folder / f"{name}.pem"
        if not path.exists():
            key = rsa.generate_private_key(65537, 2048)
            path.write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
            )
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (self.folder / "minions" / name).write_bytes(public)
        return path

    @property
    def accepted(self) -> Path:
        return self.folder / "minions"


class World:
    """The loop with a clock of its own; what it fires is in ``fired``."""

    def __init__(self, keys: Keys, book: Path | str = ":memory:", **law: Any) -> None:
        self.keys = keys
        keys.private("master")
        self.now = START
        self.up: dict[str, float] = {}
        self.fired: list[Event] = []
        self.topology = topology.parse(pillar(law.pop("servers", 2), **law))
        self.book = Book(book)
        self.mailbox = Mailbox()
        self.controller = self.begin()

    def begin(self) -> Controller:
        """A new process of the engine, with the same disk."""
        self.controller = Controller(
            self.topology,
            self.keys.accepted,
            self.book,
            lambda body: signed.seal(body, self.keys.private("master"), VECTOR),
            self.now,
            self.now,
        )
        return self.controller

    # -- servers ---------------------------------------------------------------------------------

    def body(self, server: str = WS1, **changes: Any) -> dict[str, Any]:
        """The next report of a server."""
        self.up[server] = self.up.get(server, 1000.0) + 1.0
        return example(**{"id": server, "at": self.now, "up": self.up[server], **changes})

    def data(self, server: str = WS1, signer: str = "", **changes: Any) -> dict[str, Any]:
        """That report as a beacon's data, signed by ``signer`` or the server itself."""
        sealed = signed.seal(
            self.body(server, **changes), self.keys.private(signer or server), REPORT
        )
        return {"id": server, "report": sealed["body"], "signature": sealed["signature"]}

    def event(self, tag: str, data: Any) -> None:
        """Something is fired on the master's bus, by anybody."""
        raw = tag.encode() + b"\n\n" + msgpack.packb(data, use_bin_type=True)
        letter = self.controller.post.letter(raw, self.now)
        if letter is not None:
            self.mailbox.put(letter)
        self.open()

    def open(self) -> None:
        """The loop opens all its letters."""
        while letters := self.mailbox.take():
            for letter in letters:
                self.fired += self.controller.hear(letter)

    def beacon(self, server: str, data: Any) -> None:
        """An event with that server's tag."""
        self.event(f"salt/beacon/{server}/webfarm_health/", data)

    def report(self, server: str = WS1, **changes: Any) -> None:
        """A genuine report."""
        self.beacon(server, self.data(server, **changes))

    # -- time ------------------------------------------------------------------------------------

    def turn(self, seconds: float = 0.0) -> list[Event]:
        """Time passes in steps of a second; what was fired meanwhile."""
        begin = len(self.fired)
        for _ in range(max(1, round(seconds))):
            self.now += min(1.0, seconds)
            self.fired += self.controller.turn(self.now, self.now)
        return self.fired[begin:]

    def settle(self, seconds: float = 4.0, **loads: dict[str, Any]) -> None:
        """Every server of the farm reports each two seconds, calmly but for ``loads``."""
        for _ in range(round(seconds / 2)):
            for server in self.loop.base:
                self.report(server, **loads.get(server, {}))
            self.turn(2)

    # -- balancers -------------------------------------------------------------------------------

    @property
    def loop(self) -> Any:
        return self.controller.farms[FARM]

    def vectors(self, farm: str = "farm1", to: str = "") -> list[dict[str, Any]]:
        """The vectors of site1 that were fired, each checked as a balancer does.

        to
            Only those that were for this balancer.
        """
        public = self.keys.accepted / "master"
        found = [
            signed.open_(envelope, public, VECTOR)
            for tag, data in self.fired
            if tag in ("webfarm/weights/site1", f"webfarm/weights/site1/{farm}")
            and (not to or to in data["balancers"])
            for envelope in data["vectors"]
        ]
        return [vector for vector in found if vector["farm"] == farm]

    def answer(self, balancer: str = LB1, signer: str = "", **changes: Any) -> None:
        """A balancer's return of ``apply_weights``, by default that it has the newest vector."""
        vector = self.loop.vector
        result = {
            "site": "site1",
            "farm": "farm1",
            "epoch": vector.epoch,
            "applied": {s: {"weight": w, "state": "ready"} for s, w in vector.weights.items()},
            "left_alone": {},
            "changed": False,
            **changes,
        }
        self.job(balancer, [self.proven(result, signer or balancer, balancer)])

    def proven(self, result: Any, signer: str, balancer: str) -> Any:
        """One of the results of ``apply_weights`` as it arrives."""
        done = confirm.proven(result, balancer, self.keys.private(signer), float(self.now))
        return json.loads(json.dumps(done))

    def job(self, balancer: str, returned: Any, fun: str = confirm.FUNCTION) -> None:
        """A job's return on the bus, by anybody."""
        self.event(
            f"salt/job/20261123000000000000/ret/{balancer}",
            {"fun": fun, "id": balancer, "return": returned},
        )

    def seen(self) -> Any:
        """All that a forged event must not change."""
        self.controller.intake.order()
        return (
            self.controller.intake.accepted,
            self.controller.intake.order(),
            {place: (loop.state, loop.vector, dict(loop.answers), dict(loop.owing))
             for place, loop in self.controller.farms.items()},
        )  # fmt: skip

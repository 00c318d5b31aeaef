"""The engine on a real master: reports over its bus, vectors to a minion, answers, the runner.

Two minions: a web server, whose root is also the attacker, and a balancer whose ``apply_weights``
checks and answers as the real one, without HAProxy.
"""

import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.utils.event
from conftest import EXAMPLE
from loopback import wait_for
from salt_world import BIN, ROOT, SaltWorld, salt_world
from webfarm import signed
from webfarm.rebalance.book import Book
from webfarm.rebalance.report import example
from webfarm.rebalance.salt_bus import book_path
from webfarm.signed import REPORT

SERVER, NEIGHBOUR, BALANCER = "site1-farm1-ws1", "site1-farm1-ws2", "site1-lb1"
FARM = ("site1", "farm1")
STUB = """
import json, time
from pathlib import Path
from webfarm import signed
from webfarm.rebalance import confirm
__virtualname__ = "haproxy_runtime"
def apply_weights(envelopes):
    return [applied(envelope) for envelope in envelopes]
def applied(envelope):
    keys = Path(__opts__["pki_dir"])
    body = signed.open_(envelope, keys / "minion_master.pub", signed.VECTOR, 65536)
    new = Path({applied!r} + ".new")
    new.write_text(json.dumps(body))
    new.rename({applied!r})
    servers = {{s: {{"weight": w, "state": "drain" if s in body["drained"] else "ready"}}
               for s, w in body["weights"].items()}}
    result = {{"site": body["site"], "farm": body["farm"], "epoch": body["epoch"],
              "applied": servers, "left_alone": {{}}, "changed": True}}
    return confirm.proven(result, __opts__["id"], keys / "minion.pem", time.time())
"""


class Cluster:
    """The master with the engine, and its two minions."""

    def __init__(self, world: SaltWorld) -> None:
        self.world = world
        self.up = 1000.0
        self.opts = world.opts
        self.minion_opts = world.minion_opts(SERVER)

    def body(self, **changes: Any) -> dict[str, Any]:
        self.up += 1.0
        return example(**{"id": SERVER, "at": time.time(), "up": self.up, **changes})

    def sealed(self, **changes: Any) -> dict[str, Any]:
        envelope = signed.seal(self.body(**changes), self.world.key(SERVER), REPORT)
        return {"id": SERVER, "report": envelope["body"], "signature": envelope["signature"]}

    def fire(self, tag: str, data: Any) -> None:
        """As root on the web server: its minion hands a list of events to the master."""
        with salt.utils.event.get_event("minion", opts=self.minion_opts, listen=False) as bus:
            assert bus.fire_event({"beacons": [{"tag": tag, "data": data}]}, "__beacons_return")

    def report(self, **changes: Any) -> None:
        """A genuine report."""
        self.fire(f"salt/beacon/{SERVER}/webfarm_health/", self.sealed(**changes))

    def engine(self) -> dict[str, Any]:
        with contextlib.closing(Book(book_path(self.opts))) as book:
            return book.engine()

    def view(self) -> dict[str, Any]:
        with contextlib.closing(Book(book_path(self.opts))) as book:
            return book.views().get(FARM, {})

    def refused(self, kind: str) -> int:
        return int(self.engine().get("refused", {}).get(kind, 0))

    def applied(self) -> dict[str, Any]:
        """The newest vector that the balancer has."""
        return dict(json.loads((self.world.home / "applied").read_text()))

    def runner(self, *words: str) -> Any:
        command = [BIN / "salt-run", "-c", self.world.home / "master", "--out=json", *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=180,
            env={"PYTHONPATH": str(ROOT / "_utils"), "PATH": "/usr/bin:/bin"},
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def speak(self, condition: Any, what: str, **changes: Any) -> Any:
        """Report every half second, as the beacon would, until something is true."""

        def spoken() -> Any:
            self.report(**changes)
            time.sleep(0.5)
            return condition()

        return wait_for(spoken, f"{what}; master: {self.world.said('master')[-2000:]}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pillar = json.loads(json.dumps(EXAMPLE))
    del pillar["sites"]["site1"]["balancers"]["site1-lb2"]
    reactor = [{"webfarm/weights/*": [str(ROOT / "reactor/weights.sls")]}]
    engines = [{"webfarm_rebalance": {"reload_seconds": 5}}]
    with salt_world(pillar, reactor=reactor, engines=engines) as world:
        modules = world.home / "modules"
        modules.mkdir()
        text = STUB.format(applied=str(world.home / "applied"))
        (modules / "haproxy_runtime.py").write_text(text)
        world.start_master()
        world.start_minion(SERVER)
        world.start_minion(BALANCER, module_dirs=[str(modules)])
        # the neighbour's key is accepted too; its minion is not needed
        (world.accepted / NEIGHBOUR).write_bytes((world.accepted / BALANCER).read_bytes())
        cluster = Cluster(world)
        wait_for(lambda: cluster.engine().get("at"), "the engine decides", 180)
        yield cluster


def test_a_report_becomes_weights_on_the_balancer_and_in_the_status(cluster: Cluster) -> None:
    cluster.speak((cluster.world.home / "applied").exists, "the balancer has a vector")
    assert set(cluster.applied()["weights"]) == {SERVER, NEIGHBOUR}
    cluster.speak(
        lambda: BALANCER in cluster.view()["servers"][SERVER]["applied"], "the engine knows it"
    )
    data = cluster.runner("rebalance.status", *FARM)
    (farm,) = data["farms"]
    assert data["result"] is True
    assert farm["servers"][SERVER]["applied"][BALANCER]["state"] == "ready"
    assert farm["balancers"][BALANCER]["epoch"] == cluster.applied()["epoch"]


def test_a_dead_php_fpm_is_drained_on_the_balancer(cluster: Cluster) -> None:
    cluster.speak(
        lambda: SERVER in cluster.applied()["drained"], "it is drained", critical=["php-fpm"]
    )
    told = cluster.runner("rebalance.explain", SERVER)
    assert "php-fpm" in told["changes"][0]["drained"]
    cluster.speak(lambda: SERVER not in cluster.applied()["drained"], "it is back")


def forgeries(cluster: Cluster) -> list[tuple[str, str, Any]]:
    """Kind, tag and data of what root on the web server tries in its neighbour's name, and more."""
    own, other = (f"salt/beacon/{name}/webfarm_health/" for name in (SERVER, NEIGHBOUR))
    dead = {"critical": ["php-fpm"]}
    first = cluster.sealed(**dead)
    return [
        ("identity", own, cluster.sealed(id=NEIGHBOUR, **dead)),
        ("signature", other, cluster.sealed(id=NEIGHBOUR, **dead)),
        ("signature", other, {**cluster.sealed(**dead), "id": NEIGHBOUR}),
        ("stranger", "salt/beacon/nobody/webfarm_health/", cluster.sealed()),
        *(("fields", own, cluster.sealed(requests=value)) for value in (-1, 1e9, "257", None)),
        ("fields", own, cluster.sealed(children=0)),
        ("fields", own, cluster.sealed(weight=257)),
        ("shape", own, {"report": {"weights": {NEIGHBOUR: 0}}, "signature": "AAAA"}),
        ("shape", own, {"id": SERVER}),
        ("size", own, {**cluster.sealed(), "more": "x" * 1_000_000}),
        ("clock", own, cluster.sealed(at=time.time() - 3600)),
        ("clock", own, cluster.sealed(at=time.time() + 3600)),
        ("signature", own, {**first, "report": first["report"].replace("php-fpm", "nginx")}),
    ]


def test_what_root_on_a_web_server_forges_changes_nothing(cluster: Cluster) -> None:
    cluster.speak(lambda: not cluster.applied()["drained"], "all is calm")
    before = Counter(cluster.engine()["refused"])
    tried = forgeries(cluster)
    expected = before + Counter(kind for kind, _, _ in tried)
    for _, tag, data in tried:
        cluster.fire(tag, data)
    replay = cluster.sealed()
    for _ in range(3):
        cluster.fire(f"salt/beacon/{SERVER}/webfarm_health/", replay)
    expected["replay"] += 2
    wait_for(lambda: cluster.engine()["refused"] == expected, f"refused as expected: {expected}")
    view = cluster.view()
    assert view["servers"][NEIGHBOUR]["heard"] is None
    assert not view["servers"][SERVER]["drained"]
    assert cluster.applied()["weights"][NEIGHBOUR] == 100


def test_forged_vectors_and_answers_change_nothing(cluster: Cluster) -> None:
    cluster.speak(lambda: not cluster.applied()["drained"], "all is calm")
    before = cluster.applied()
    key = cluster.world.key(SERVER)
    for weight in (0, -1, 257, 1_000_000_000, "100"):
        body = {**before, "epoch": before["epoch"] + 1000, "weights": {NEIGHBOUR: weight}}
        envelope = signed.seal({**body, "at": time.time()}, key, signed.VECTOR)
        vectors = {"vectors": [envelope], "balancers": [BALANCER]}
        cluster.fire(f"webfarm/weights/{FARM[0]}/{FARM[1]}", vectors)
    refused = cluster.refused("signature")
    result = {"site": "site1", "farm": "farm1", "epoch": before["epoch"], "id": BALANCER}
    proof = signed.seal(
        {**result, "left": "left alone: drain", "at": time.time()}, key, signed.APPLIED
    )
    cluster.fire(
        f"salt/job/20261123000000000000/ret/{BALANCER}",
        {"fun": "haproxy_runtime.apply_weights", "return": [{**result, "proof": proof}]},
    )
    wait_for(lambda: cluster.refused("signature") == refused + 1, "the answer is refused")
    assert cluster.view()["left_alone"] == ""
    # the balancer has refused the vectors: it still takes the master's next, of a lower epoch
    cluster.speak(
        lambda: SERVER in cluster.applied()["drained"], "it is drained", critical=["nginx"]
    )
    assert cluster.applied()["weights"][NEIGHBOUR] == 100


def test_the_runner_freezes_and_reconciles_while_the_engine_runs(cluster: Cluster) -> None:
    cluster.speak(lambda: not cluster.applied()["drained"], "all is calm")
    done = cluster.runner("rebalance.freeze", *FARM, SERVER, "reason=a test", "expires=1h")
    assert done["result"] is True
    cluster.speak(
        lambda: "a test" in cluster.view()["servers"][SERVER]["held"], "the engine knows it"
    )
    for _ in range(3):
        cluster.report(critical=["php-fpm"])
    weight = cluster.applied()["weights"][SERVER]
    assert cluster.runner("rebalance.reconcile", *FARM)["result"] is True
    after = cluster.applied()
    assert (after["weights"][SERVER], after["drained"]) == (weight, {})
    assert cluster.runner("rebalance.thaw", *FARM, SERVER)["result"] is True


def test_a_changed_pillar_is_taken_up(cluster: Cluster) -> None:
    path = Path(cluster.world.home / "pillar/cluster.sls")
    text = path.read_text()
    path.write_text(text.replace(NEIGHBOUR, "site1-farm1-ws9"))
    wait_for(
        lambda: set(cluster.view()["servers"]) == {SERVER, "site1-farm1-ws9"}, "the new server"
    )
    path.write_text(text)
    wait_for(lambda: NEIGHBOUR in cluster.view()["servers"], "the old server")

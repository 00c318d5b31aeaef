"""The weights' loop's vectors on a real HAProxy: bounded, owned, kept, in no rollout's way."""

import base64
import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from webfarm import signed
from webfarm.errors import WebfarmError

sys.path.insert(0, str(Path(__file__).parent))

from haproxy_world import RELEASES, ROOT, Haproxy, World, farms, world
from loopback import wait_for
from test_haproxy_runtime import Loaded
from webfarm.haproxy import kept, maps, vector, weights
from webfarm.haproxy.client import BalancerError
from webfarm.haproxy.runtime import Balancer
from webfarm.haproxy.vector import Refused
from webfarm.rebalance import confirm
from webfarm.rollout import opening, preflight, views
from webfarm.rollout.model import BalancerView, Goal, Memory, Reply, Seen, ServerView
from webfarm.rollout.plan_id import plan_id
from webfarm.rollout.situation import Situation
from webfarm.topology import Site, parse

FARM, OTHER = "farm1", "farm2"
WS1, WS2, WS3 = (f"site1-farm1-ws{number}" for number in (1, 2, 3))
LB = "site1-lb1"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.add_farms(count=2, servers=3)
        yield made


def started(cluster: World) -> Haproxy:
    made = cluster.add_site_balancer()
    wait_for(
        lambda: all(f["up"] == 3 for f in farms.farms(made.balancer)["farms"].values()), "all up"
    )
    return made


@pytest.fixture
def balancer(cluster: World) -> Haproxy:
    return started(cluster)


def body_of(epoch: int = 1, farm: str = FARM, **given: Any) -> dict[str, Any]:
    """A vector; the servers of ``weights`` and ``drained`` by their numbers."""
    prefix = f"site1-{farm}-ws"
    weights_ = {1: 100, 2: 100, 3: 100, **given.pop("weights", {})}
    drained = given.pop("drained", {})
    if isinstance(drained, int):
        drained = {drained: "errors"}
    return {
        "v": 1,
        "site": "site1",
        "farm": farm,
        "epoch": epoch,
        "at": time.time(),
        "weights": {f"{prefix}{number}": weight for number, weight in weights_.items()},
        "drained": {f"{prefix}{number}": why for number, why in drained.items()},
        "share": 300,
        **given,
    }


def take(balancer: Haproxy, epoch: int = 1, farm: str = FARM, **given: Any) -> dict[str, Any]:
    """The balancer takes a vector that the master signed."""
    body = body_of(epoch, farm, **given)
    return weights.apply(balancer.balancer, "site1", vector.read(body, "site1", time.time()))


def held(balancer: Haproxy, farm: str = FARM) -> dict[str, tuple[int, str]]:
    """Server -> weight and state, as HAProxy has them."""
    servers = balancer.balancer.servers(farm)[farm]
    return {name: (one["uweight"], one["admin_state"]) for name, one in servers.items()}


def states(balancer: Haproxy, farm: str = FARM) -> list[str]:
    return [state for _, state in held(balancer, farm).values()]


def slots(balancer: Haproxy, name: str = "pick") -> dict[str, int]:
    return dict(farms.farms(balancer.balancer)[name])


def raw(balancer: Haproxy, command: str) -> None:
    """Somebody at HAProxy's socket."""
    balancer.balancer.tell([command])


# -- what is applied ------------------------------------------------------------------------------


def test_a_vector_is_applied_and_read_back(balancer: Haproxy) -> None:
    done = take(balancer, weights={1: 256, 2: 1}, drained=3)
    assert done["applied"] == {
        WS1: {"weight": 256, "state": "ready", "status": "UP"},
        WS2: {"weight": 1, "state": "ready", "status": "UP"},
        WS3: {"weight": 100, "state": "drain", "status": "DRAIN"},
    }
    assert (done["farm"], done["epoch"], done["farm_state"]) == (FARM, 1, "open")
    assert (done["changed"], done["left_alone"], done["kept_ready"]) == (True, {}, {})
    assert held(balancer) == {WS1: (256, "ready"), WS2: (1, "ready"), WS3: (100, "drain")}
    assert held(balancer, OTHER) == {f"site1-farm2-ws{n}": (100, "ready") for n in (1, 2, 3)}


def test_the_same_vector_again_changes_nothing_but_what_differs_by_then(balancer: Haproxy) -> None:
    take(balancer, weights={1: 40}, drained=3)
    files = [kept.load(balancer.settings.state_file).path, Path(balancer.settings.state_file)]
    before = [path.stat().st_mtime_ns for path in files]
    assert take(balancer, weights={1: 40}, drained=3)["changed"] is False
    assert [path.stat().st_mtime_ns for path in files] == before
    balancer.balancer.set_weight(FARM, WS1, 77)
    done = take(balancer, weights={1: 40}, drained=3)
    assert done["changed"] is True
    assert held(balancer)[WS1] == (40, "ready")


def test_an_older_epoch_that_arrives_late_is_refused(balancer: Haproxy) -> None:
    take(balancer, epoch=7, weights={1: 70})
    done = take(balancer, epoch=6, weights={1: 60})
    assert "epoch 6 is older than 7" in done["refused"]
    assert done["epoch"] == 7
    assert held(balancer)[WS1] == (70, "ready")
    balancer.restart()
    assert "refused" in take(balancer, epoch=6, weights={1: 60})
    assert "refused" not in take(balancer, epoch=8, weights={1: 80})


def test_of_two_vectors_of_one_epoch_every_balancer_keeps_the_same(cluster: World) -> None:
    """Two masters may decide in one millisecond."""
    here, there = started(cluster), started(cluster)
    one, two = {"weights": {1: 50}}, {"weights": {1: 60}}
    for balancer, order in ((here, (one, two)), (there, (two, one))):
        for given in order:
            take(balancer, **given)
    assert held(here) == held(there)


def test_requests_do_not_notice(cluster: World, balancer: Haproxy) -> None:
    end = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not end.is_set():
            statuses.append(cluster.ask(balancer, "/?ms=5").status)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for epoch in range(1, 60):
            drained = epoch % 4  # 0: nobody
            weights_ = {1: 1 + epoch * 37 % 256, 2: 1 + epoch * 91 % 256}
            given = {drained: "errors"} if drained else {}
            take(balancer, epoch, weights=weights_, drained=given, share=100 + epoch * 7 % 300)
    finally:
        end.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {200}


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        {"weights": {1: 0}},
        {"weights": {1: -1}},
        {"weights": {1: 257}},
        {"weights": {1: 10**9}},
        {"weights": {1: float("nan")}},
        {"weights": {1: 100.0}},
        {"weights": {1: "100"}},
        {"weights": {1: True}},
        {"weights": {1: None}},
        {"weights": {"1 weight 5; disable server farm1/x": 100}},
        {"drained": {9: "nobody"}},
        {"drained": {1: "a\nb"}},
        {"drained": {1: "x" * 300}},
        {"drained": {1: 5}},
        {"share": 0},
        {"share": -5},
        {"share": 1.5},
        {"share": 10**9},
        {"epoch": 0},
        {"epoch": "1"},
        {"epoch": 10**30},
        {"site": "site2"},
        {"site": None},
        {"farm": "../x"},
        {"farm": None},
        {"v": 2},
        {"at": 1.0},
        {"at": 4e9},
        {"at": "now"},
        {"at": None},
    ],
    ids=lambda odd: ascii(odd)[:40],
)
def test_odd_vectors_are_refused_even_from_the_master(odd: dict[str, Any]) -> None:
    body = body_of(**{"epoch": 1, **odd})
    with pytest.raises(Refused, match="Nothing was changed"):
        vector.read(body, "site1", time.time())


@pytest.mark.parametrize("odd", [None, [], "x", {}], ids=ascii)
@pytest.mark.parametrize("what", ["weights", "drained"])
def test_vectors_of_another_shape_are_refused(what: str, odd: object) -> None:
    if (what, odd) != ("drained", {}):
        with pytest.raises(Refused):
            vector.read({**body_of(), what: odd}, "site1", time.time())


def test_a_vector_is_of_now(balancer: Haproxy) -> None:
    body, now = body_of(), time.time()
    for age in (0, 59, -29):
        vector.read({**body, "at": now - age}, "site1", now)
    for age in (61, -31):
        with pytest.raises(Refused, match="clock"):
            vector.read({**body, "at": now - age}, "site1", now)


def test_a_farm_that_is_not_here_is_an_error(balancer: Haproxy) -> None:
    with pytest.raises(WebfarmError, match="there is no farm farm9"):
        take(balancer, farm="farm9")


def write_keys(folder: Path) -> None:
    """What Salt keeps on a balancer, and the master's private key beside it."""
    for private, public in (("minion.pem", "minion.pub"), ("master.pem", "minion_master.pub")):
        key = rsa.generate_private_key(65537, 2048)
        (folder / private).write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        (folder / public).write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )


def module_of(balancer: Haproxy, keys: Path, test: bool = False) -> tuple[Loaded, Loaded]:
    """``haproxy_runtime`` and the state ``haproxy_server`` as Salt loads them."""
    settings = dataclasses.asdict(balancer.settings)
    module = Loaded(
        ROOT / "_modules" / "haproxy_runtime.py",
        __salt__={"config.get": lambda key, default=None: settings},
        __grains__={"webfarm": {"role": "balancer", "site": "site1"}},
        __opts__={
            "id": LB,
            "pki_dir": str(keys),
            "webfarm_holds": str(balancer.folder / "holds"),
        },
    )
    functions = {
        f"haproxy_runtime.{name}": getattr(module, name)
        for name in ("servers", "set_state", "set_weight", "evidence")
    }
    server = Loaded(
        ROOT / "_states" / "haproxy_server.py", __salt__=functions, __opts__={"test": test}
    )
    return module, server


def test_only_what_the_master_signed_is_applied_and_the_answer_is_proven(
    balancer: Haproxy, tmp_path: Path
) -> None:
    write_keys(tmp_path)
    module, _ = module_of(balancer, tmp_path)
    master, minion = tmp_path / "master.pem", tmp_path / "minion.pem"
    good = signed.seal(body_of(weights={1: 40}), master, signed.VECTOR)
    (done,) = json.loads(json.dumps(module.apply_weights([good])))
    site, farm, said = confirm.read(LB, done, tmp_path / "minion.pub", time.time())
    assert (site, farm, said.epoch, said.left, said.refused) == ("site1", FARM, 1, "", "")
    assert said.applied[WS1] == {"weight": 40, "state": "ready", "status": "UP"}

    before = held(balancer), slots(balancer)
    wild = body_of(2, weights={1: 1, 2: 1, 3: 1})
    other = {**good, "body": good["body"].replace('"epoch":1', '"epoch":3')}
    huge = {**good, "body": good["body"] + " " * 1_000_000}
    for forged in (
        signed.seal(wild, minion, signed.VECTOR),  # a minion's own key
        signed.seal(wild, master, signed.REPORT),  # signed by the master, for something else
        signed.seal({**wild, "site": "site2"}, master, signed.VECTOR),
        signed.seal({**wild, "at": time.time() - 90}, master, signed.VECTOR),
        signed.seal({**wild, "at": time.time() + 90}, master, signed.VECTOR),
        signed.seal({**wild, "weights": {WS1: 0}}, master, signed.VECTOR),
        {"body": json.dumps(wild), "signature": base64.b64encode(b"x" * 256).decode()},
        {"body": json.dumps(wild)},
        other,
        huge,
        wild,
        None,
        "x",
        [],
        7,
    ):
        with pytest.raises(WebfarmError):
            module.apply_weights([forged])
        with pytest.raises(WebfarmError):
            module.apply_weights(forged)
        assert (held(balancer), slots(balancer)) == before
    for none in ([], {"0": good}):
        with pytest.raises(WebfarmError, match="expected a list"):
            module.apply_weights(none)
    again, error = module.apply_weights([other, good])
    assert "refused" not in again  # a replay asserts what is there
    assert error.keys() == {"error"}
    assert "not signed" in error["error"]
    strange = signed.seal({**body_of(5), "farm": "farm9"}, master, signed.VECTOR)
    newer = signed.seal(body_of(5, weights={1: 50}), master, signed.VECTOR)
    answers = [
        confirm.read(LB, one, tmp_path / "minion.pub", time.time())
        for one in module.apply_weights([strange, newer])
    ]
    assert [(farm, said.epoch) for _, farm, said in answers] == [("farm9", 0), (FARM, 5)]
    assert "there is no farm farm9" in answers[0][2].refused
    assert answers[1][2].applied[WS1]["weight"] == 50
    module.__dict__["module"].__grains__ = {}
    with pytest.raises(WebfarmError, match="no site balancer"):
        module.apply_weights([good])


# -- whose drain it is ----------------------------------------------------------------------------


def test_the_loops_drain_is_lifted_by_its_later_vector(cluster: World, balancer: Haproxy) -> None:
    take(balancer, 1, drained=1)
    assert states(balancer) == ["drain", "ready", "ready"]
    shown = farms.farms(balancer.balancer)["farms"][FARM]["servers"]
    assert [one["drained_by"] for one in shown.values()] == ["weights", None, None]
    answered = [cluster.ask(balancer).json["server"] for _ in range(30)]
    assert WS1 not in [server for server in answered]
    assert take(balancer, 2)["applied"][WS1]["state"] == "ready"
    assert states(balancer) == ["ready", "ready", "ready"]


def test_w3_a_hands_drain_and_maint_are_untouched(balancer: Haproxy) -> None:
    weights.set_state(balancer.balancer, FARM, WS1, "drain")
    weights.set_state(balancer.balancer, FARM, WS2, "maint")
    for epoch, drained in ((1, {}), (2, {1: "errors", 2: "errors"}), (3, {})):
        done = take(balancer, epoch, weights={1: 50, 2: 50}, drained=drained)
        assert done["left_alone"] == {WS1: "drain by hand", WS2: "maint"}
        assert held(balancer) == {WS1: (100, "drain"), WS2: (100, "maint"), WS3: (100, "ready")}
    weights.set_state(balancer.balancer, FARM, WS1, "ready")
    assert take(balancer, 3, weights={1: 50, 2: 50})["applied"][WS1]["weight"] == 50


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_w3_a_hand_takes_a_drain_of_the_loop_over(balancer: Haproxy, state: str) -> None:
    take(balancer, 1, drained=1)
    said = weights.set_state(balancer.balancer, FARM, WS1, state)
    assert said["new"] == state
    for epoch in (2, 3):
        take(balancer, epoch)
        assert held(balancer)[WS1] == (100, state)


def test_w3_a_server_that_a_hand_makes_ready_is_not_drained_again_for_the_same(
    balancer: Haproxy,
) -> None:
    take(balancer, 1, drained=1)
    weights.set_state(balancer.balancer, FARM, WS1, "ready")
    for epoch in (2, 2, 3):
        done = take(balancer, epoch, weights={1: 30}, drained=1)
        assert done["kept_ready"] == {WS1: "made ready by hand"}
        assert held(balancer)[WS1] == (30, "ready")
    balancer.restart()
    take(balancer, 3, weights={1: 30}, drained=1)
    assert held(balancer)[WS1] == (30, "ready")
    take(balancer, 4)  # it was well again
    take(balancer, 5, drained=1)
    assert held(balancer)[WS1] == (100, "drain")


def test_w3_what_somebody_does_at_the_socket_is_noticed(balancer: Haproxy) -> None:
    take(balancer, 1, drained=1)
    raw(balancer, f"set server {FARM}/{WS1} state ready")
    take(balancer, 2, drained=1)
    assert states(balancer) == ["ready", "ready", "ready"]
    raw(balancer, f"set server {FARM}/{WS2} state drain")
    take(balancer, 3)
    assert states(balancer) == ["ready", "drain", "ready"]


def test_the_state_drained_makes_a_drain_of_the_loop_its_own(
    balancer: Haproxy, tmp_path: Path
) -> None:
    module, server = module_of(balancer, tmp_path)
    take(balancer, 1, drained=1)
    assert module.servers(FARM)[FARM][WS1]["drained_by"] == "weights"
    done = server.drained(WS1, FARM)
    assert done["result"] is True
    assert done["changes"]
    take(balancer, 2)
    assert states(balancer) == ["drain", "ready", "ready"]
    assert server.drained(WS1, FARM)["changes"] == {}


def test_never_the_last_server(cluster: World, balancer: Haproxy) -> None:
    everybody = {1: "errors", 2: "errors", 3: "errors"}
    done = take(balancer, 1, weights={2: 120}, drained=everybody)
    assert states(balancer) == ["drain", "ready", "drain"]
    assert done["kept_ready"] == {WS2: "the last server of its farm"}
    # the one that is left dies: another comes back
    cluster.run(cluster.servers[WS2].stop())
    wait_for(lambda: balancer.balancer.servers()[FARM][WS2]["status"] == "DOWN", "DOWN")
    take(balancer, 1, weights={2: 120}, drained=everybody)
    assert states(balancer) == ["drain", "drain", "ready"]
    # a hand holds the others: the only one that is left is not drained
    take(balancer, 2)
    for name in (WS1, WS2):
        weights.set_state(balancer.balancer, FARM, name, "maint")
    done = take(balancer, 3, drained=3)
    assert done["kept_ready"] == {WS3: "the last server of its farm"}
    assert states(balancer) == ["maint", "maint", "ready"]


def test_a_balancer_that_dies_between_two_steps_knows_its_drains(
    balancer: Haproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Balancer.tell

    def dies_before(self: Balancer, commands: list[str]) -> None:
        raise BalancerError("killed")

    def dies_after(self: Balancer, commands: list[str]) -> None:
        tell(self, commands)
        raise BalancerError("killed")

    for epoch, dies in enumerate((dies_before, dies_after)):
        for drained, state in ((1, "drain"), ({}, "ready")):
            number = 10 * epoch + (2 if state == "ready" else 1)
            with monkeypatch.context() as patch, pytest.raises(BalancerError):
                patch.setattr(Balancer, "tell", dies)
                take(balancer, number, drained=drained)
            take(balancer, number, drained=drained)
            assert states(balancer) == [state, "ready", "ready"]


# -- kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["reload", "restart", "kill", "state file lost"])
def test_w4_after_any_restart_the_vector_is_there_again(balancer: Haproxy, event: str) -> None:
    take(balancer, 1, weights={1: 30, 2: 200}, drained=3)
    take(balancer, 1, farm=OTHER, weights={1: 7}, share=150)
    before = held(balancer), held(balancer, OTHER), slots(balancer)
    if event == "reload":
        balancer.balancer.reload(lambda: balancer.help("reload") and None)
    elif event == "restart":
        balancer.restart()
    else:
        balancer.kill()
        if event == "state file lost":
            Path(balancer.settings.state_file).unlink()
        balancer.start()
    changed = weights.reassert(balancer.balancer)
    assert (held(balancer), held(balancer, OTHER), slots(balancer)) == before
    assert (changed != {}) == (event == "state file lost")
    # and the drain is still the loop's
    take(balancer, 2)
    assert states(balancer) == ["ready", "ready", "ready"]


def test_reconcile_asserts_the_vectors_that_are_on_disk(balancer: Haproxy, tmp_path: Path) -> None:
    module, _ = module_of(balancer, tmp_path)
    module.reconcile()  # writes the first state file
    assert module.reconcile() == {}
    take(balancer, 3, weights={1: 30})
    raw(balancer, f"set server {FARM}/{WS1} weight 9")
    assert module.reconcile()["weights"] == {FARM: {"old": "differs", "new": "epoch 3"}}
    assert held(balancer)[WS1] == (30, "ready")
    assert module.reconcile() == {}


def test_a_damaged_memory_is_named_and_stops_no_rollout(balancer: Haproxy) -> None:
    take(balancer, 1, drained=1)
    path = kept.load(balancer.settings.state_file).path
    path.write_text('{"v": 1, "farms"')
    with pytest.raises(WebfarmError, match=r"weights\.json cannot be read.*Delete it"):
        take(balancer, 2)
    seen = farms.set_farms(balancer.balancer, state={OTHER: "drain"}, pick={FARM: 1})
    assert seen["farms"][FARM]["servers"][WS1]["drained_by"] is None
    assert path.read_text() == '{"v": 1, "farms"'  # for a person to look at
    path.unlink()
    assert take(balancer, 2)["left_alone"] == {WS1: "drain by hand"}


# -- a farm in a rollout's hand -------------------------------------------------------------------


@pytest.mark.parametrize("state", ["drain", "closed", "ready"])
def test_w3_a_farm_that_is_not_open_is_left_alone_until_it_is(
    balancer: Haproxy, state: str
) -> None:
    farms.set_farms(balancer.balancer, state={FARM: state}, pick={OTHER: 1})
    before = held(balancer), slots(balancer)
    done = take(balancer, 1, weights={1: 30}, drained=3, share=200)
    assert (done["left"], done["farm_state"]) == (f"left alone: {state}", state)
    assert done["applied"][WS1] == {"weight": 100, "state": "ready", "status": "UP"}
    assert done["changed"] is False
    assert (held(balancer), slots(balancer)) == before
    farms.set_farms(balancer.balancer, state={FARM: "open"}, pick={FARM: 300, OTHER: 300})
    weights.reassert(balancer.balancer)
    assert held(balancer) == {WS1: (30, "ready"), WS2: (100, "ready"), WS3: (100, "drain")}


def test_a_farm_that_is_closed_has_no_drain_of_the_loop(balancer: Haproxy) -> None:
    """Else a rollout could have to open a farm of which only drained servers live."""
    take(balancer, 1, drained=1)
    weights.set_state(balancer.balancer, FARM, WS2, "drain")
    farms.set_farms(balancer.balancer, state={FARM: "drain"}, pick={OTHER: 1})
    assert states(balancer) == ["drain", "drain", "ready"]
    farms.set_farms(balancer.balancer, state={FARM: "closed"})
    assert states(balancer) == ["ready", "drain", "ready"]
    farms.set_farms(balancer.balancer, state={FARM: "open"}, pick={FARM: 1, OTHER: 1})
    take(balancer, 2)
    assert states(balancer) == ["ready", "drain", "ready"]


# -- shares ---------------------------------------------------------------------------------------


def test_the_farms_share_follows_among_those_in_the_map(balancer: Haproxy) -> None:
    assert slots(balancer) == {FARM: 128, OTHER: 128}
    done = take(balancer, 1, share=100)
    assert done["changed"] is True
    assert slots(balancer) == slots(balancer, "pick_newest") == {FARM: 64, OTHER: 192}
    assert take(balancer, 1, share=100)["changed"] is False
    take(balancer, 1, farm=OTHER, share=100)
    assert slots(balancer) == {FARM: 128, OTHER: 128}
    # a rollout takes a farm out: nobody puts it back
    farms.set_farms(balancer.balancer, state={FARM: "drain"}, pick={OTHER: 300})
    for farm in (FARM, OTHER):
        take(balancer, 2, farm=farm, share=50)
    assert slots(balancer) == {OTHER: 256}
    # it opens it with the pillar's weights, and the next assertion weighs again
    farms.set_farms(balancer.balancer, state={FARM: "open"}, pick={FARM: 300, OTHER: 300})
    assert slots(balancer) == {FARM: 128, OTHER: 128}
    take(balancer, 2, farm=OTHER, share=50)
    assert slots(balancer) == {FARM: 128, OTHER: 128}
    take(balancer, 3, share=150)
    assert slots(balancer) == {FARM: 192, OTHER: 64}


def test_w3_the_shares_that_a_hand_asked_for_are_what_is_weighed(balancer: Haproxy) -> None:
    farms.set_farms(balancer.balancer, pick={FARM: 1, OTHER: 3})
    take(balancer, 1)
    assert slots(balancer) == {FARM: 64, OTHER: 192}
    take(balancer, 2, share=100)
    assert slots(balancer) == {FARM: 26, OTHER: 230}  # a third of its part
    take(balancer, 3)
    assert slots(balancer) == {FARM: 64, OTHER: 192}


def test_a_pick_map_that_was_cut_short_is_left_to_who_made_it(balancer: Haproxy) -> None:
    path = balancer.balancer.map_path("farm_pick")
    both = maps.read(path)
    maps.write(path, maps.ranges({OTHER: 1}))
    assert not farms.farms(balancer.balancer)["disk_agrees"]
    done = take(balancer, 1, weights={1: 30}, share=100)
    assert "farm_pick has other farms on disk" in done["shares_left_alone"]
    assert maps.show(balancer.balancer.client, path) == both
    assert held(balancer)[WS1] == (30, "ready")
    farms.reconcile(balancer.balancer)
    assert slots(balancer) == {OTHER: 256}


# -- a rollout looks ------------------------------------------------------------------------------


def site_of(cluster: World, count: int) -> Site:
    servers = {
        farm: {
            server.id: {"address": server.address, "hw_profile": "r640", "weight": 100}
            for server in cluster.farm_servers(farm)
        }
        for farm in (FARM, OTHER)
    }
    pillar: dict[str, Any] = {
        "primary": {"balancers": {"lb1": {"address": "10.0.0.1"}}, "domain": "shop.example"},
        "sites": {
            "site1": {
                "balancers": {
                    f"site1-lb{n}": {"address": f"10.1.0.{n}"} for n in range(1, count + 1)
                },
                "database": {"minion": "site1-db1", "address": "10.1.0.9", "name": "sessions"},
                "farms": {
                    farm: {
                        "servers": its,
                        "memcached": [f"{one['address']}:11211" for one in its.values()],
                    }
                    for farm, its in servers.items()
                },
            }
        },
        "store": {"minion": "store1", "address": "10.0.0.8"},
        "releases": {
            RELEASES[0]: {"php": "8.2.32", "webapp": "1"},
            RELEASES[1]: {"php": "8.2.36", "webapp": "2"},
        },
        "initial": RELEASES[0],
        "target": RELEASES[1],
    }
    return parse(pillar).sites["site1"]


def look(site: Site, balancers: Mapping[str, Haproxy]) -> Seen:
    """What a rollout sees of them."""
    found: dict[str, BalancerView] = {}
    for name, balancer in balancers.items():
        answer = json.loads(json.dumps(farms.farms(balancer.balancer)))
        found[name] = views.balancer(name, Reply(True, answer))
    servers = {
        name: ServerView(name, True, "", RELEASES[0], True) for name in site.farms[FARM].servers
    }
    return Seen(found, servers)


def test_a_rollout_sees_neither_a_stale_plan_nor_balancers_that_disagree(cluster: World) -> None:
    """Two balancers get a vector at different moments, and a plan is made before it."""
    balancers = {"site1-lb1": started(cluster), "site1-lb2": started(cluster)}
    site = site_of(cluster, 2)
    goal = Goal("site1", FARM, RELEASES[1], "8.2.36", "2")

    def digest() -> str:
        return plan_id([goal], {"site1": site}, {("site1", FARM): look(site, balancers)})

    before = digest()
    for balancer in balancers.values():
        take(balancer, 1, weights={1: 30}, drained=3, share=170)
        now = Situation(goal, site, look(site, balancers), Memory())
        assert digest() == before
        assert preflight.disagreements(now) == []
        assert now.out_of_service == {}
        assert all(now.up(name) and not now.withheld(name) for name in site.farms[FARM].servers)
        assert opening.lacking(now) == []
    # nothing is counted on a server that rests
    now = Situation(goal, site, look(site, balancers), Memory())
    assert now.capacity() == pytest.approx(5 / 6)
    # while a hand's drain is the plan's business
    weights.set_state(balancers["site1-lb1"].balancer, FARM, WS2, "drain")
    assert digest() != before


def test_a_look_in_the_middle_of_a_change_of_shares_sees_nothing_cut_short(
    balancer: Haproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is written first; a rollout looks without the lock."""
    looks = []
    replace = maps.replace

    def looking(*given: Any) -> bool:
        looks.append(farms.farms(balancer.balancer)["disk_agrees"])
        return replace(*given)

    monkeypatch.setattr(maps, "replace", looking)
    take(balancer, 1, share=100)
    assert looks
    assert all(looks)


# -- the reactor ----------------------------------------------------------------------------------

REACTOR = """
import json, sys
import salt.config, salt.loader, salt.state, salt.utils.reactor
home, sls = sys.argv[1:3]
opts = dict(salt.config.DEFAULT_MASTER_OPTS) | {
    "root_dir": home, "cachedir": home, "sock_dir": home, "pki_dir": home,
    "extension_modules": home, "conf_file": home + "/master",
    "reactor": [{"webfarm/weights/*": [sls]}],
}
reactor = salt.utils.reactor.Reactor(opts)
salt.state.Compiler.__init__(reactor, opts, salt.loader.render(opts, {}))
print(json.dumps([
    reactor.reactions(tag, data, reactor.list_reactors(tag)) for tag, data in json.load(sys.stdin)
]))
"""


def test_the_reactor_relays_a_vector_to_the_sites_balancers_and_nothing_else(
    tmp_path: Path,
) -> None:
    tag, text = "webfarm/weights/site1/farm1", {"body": '{"a": "{{ 7 * 7 }}"}', "signature": "eA=="}
    balancers, one = ["site1-lb1", "site1-lb2"], {"vectors": [text]}
    extra = {"_stamp": "now", "fun": "cmd.run", "tgt": "*"}
    relayed = [
        (tag, {"vectors": [{**text, "x": "y"}], "balancers": balancers, **extra}),
        (tag, one),
        ("webfarm/weights/site1", {"vectors": [text] * 40, "balancers": balancers}),
    ]
    odd = [
        (tag, {}),
        (tag, text),
        *(
            (tag, {"vectors": wild})
            for wild in (None, [], {}, "x", text, [None], ["x"], [text] * 9999, [text, 7])
        ),
        *(
            (tag, {"vectors": [text, {**text, **wild}]})
            for wild in (
                {"body": None},
                {"body": ["x"]},
                {"body": "x" * 1_000_000},
                {"signature": 5},
            )
        ),
        (tag, {"vectors": [{**text, "body": "x" * 100_000}] * 3}),
        *((tag, {**one, "balancers": wild}) for wild in ("*", [], ["*"], ["a,b"], [7], ["a"] * 99)),
        *((f"webfarm/weights/{site}/farm1", one) for site in ("*", "x or *", "{{ 7 }}", "")),
    ]
    done = subprocess.run(
        [sys.executable, "-c", REACTOR, str(tmp_path), str(ROOT / "reactor/weights.sls")],
        input=json.dumps([*relayed, *odd]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Failed to render" not in done.stderr
    by_list, by_grains, many, *others = json.loads(done.stdout)
    assert others == [[]] * len(odd)
    for (chunk,), number in ((by_list, 1), (by_grains, 1), (many, 40)):
        assert (chunk["state"], chunk["fun"]) == ("local", "haproxy_runtime.apply_weights")
        assert chunk["args"] == [{"envelopes": [text] * number}]
    assert (by_list[0]["tgt"], by_list[0]["tgt_type"]) == (",".join(balancers), "list")
    assert by_grains[0]["tgt"] == "G@webfarm:role:balancer and G@webfarm:site:site1"

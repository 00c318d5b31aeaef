"""Salt as the engine sees it: no call hangs, no reply is believed without a look at its shape."""

from typing import Any

import pytest
from webfarm.rollout import views
from webfarm.rollout.model import Reply
from webfarm.rollout.salt_cluster import SaltCluster
from webfarm.topology import parse


class Bus:
    """A LocalClient and its event bus in simulated time; ``answers`` is minion -> (delay, data)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs = 0
        self.published: list[tuple[str, list[str], Any]] = []
        self.queue: list[tuple[float, dict[str, Any]]] = []
        self.answers: dict[str, tuple[float, dict[str, Any]]] = {}
        self.running: set[str] = set()
        self.unknown: set[str] = set()
        self.event = self

    def monotonic(self) -> float:
        return self.now

    def pub(self, targets: list[str], function: str, arguments: Any, **_: Any) -> dict[str, Any]:
        self.jobs += 1
        self.published.append((function, targets, arguments))
        for name in targets:
            if function == "saltutil.find_job":
                if name in self.running:
                    self._put(0.1, name, {"return": {"pid": 1}})
            elif name in self.answers:
                delay, data = self.answers[name]
                self._put(delay, name, data)
        return {"jid": str(self.jobs), "minions": [t for t in targets if t not in self.unknown]}

    def _put(self, delay: float, name: str, data: dict[str, Any]) -> None:
        event = {"tag": f"salt/job/{self.jobs}/ret/{name}", "data": {"id": name, **data}}
        self.queue.append((self.now + delay, event))

    def get_event(self, wait: float, **_: Any) -> dict[str, Any] | None:
        end = self.now + wait
        for entry in sorted(self.queue, key=lambda item: item[0]):
            if entry[0] <= end:
                self.queue.remove(entry)
                self.now = max(self.now, entry[0])
                return entry[1]
        self.now = end
        return None


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def cluster(bus: Bus, pillar: dict[str, Any]) -> SaltCluster:
    return SaltCluster(bus, parse(pillar), bus.monotonic)


def good(value: Any) -> dict[str, Any]:
    return {"return": value, "success": True, "retcode": 0}


def test_a_minion_that_does_not_answer_is_a_reply_after_the_deadline(
    bus: Bus, cluster: SaltCluster
) -> None:
    bus.answers["a"] = (0.5, good(1))
    bus.running = {"b"}
    replies = cluster.call("site1", "test.ping", ["a", "b"], {}, 20)
    assert replies["a"] == Reply(True, 1)
    assert replies["b"].ok is None
    assert "no answer in 20 s" in replies["b"].error
    assert 20 <= bus.now < 22


def test_a_minion_that_lost_a_long_job_is_noticed_long_before_the_deadline(
    bus: Bus, cluster: SaltCluster
) -> None:
    bus.running = {"a"}
    bus.answers["a"] = (100.0, good("installed"))
    replies = cluster.call("site1", "webfarm_release.stage", ["a", "b"], {}, 3600)
    assert replies["a"].ok
    assert "stopped running the job" in replies["b"].error
    assert bus.now < 110


def test_an_error_is_a_reply_without_its_traceback(bus: Bus, cluster: SaltCluster) -> None:
    bus.answers["a"] = (0.1, {"return": "ERROR: no room on /srv", "success": False, "retcode": 1})
    trace = "Traceback (most recent call last):\n  File x\nwebfarm.errors.WebfarmError: weight is 0"
    bus.answers["b"] = (0.1, {"return": trace, "success": False, "retcode": 1})
    replies = cluster.call("site1", "f.g", ["a", "b"], {"x": 1}, 20)
    assert replies["a"] == Reply(False, "ERROR: no room on /srv", "no room on /srv")
    assert replies["b"].error == "weight is 0"
    assert bus.published[0] == ("f.g", ["a", "b"], [{"__kwarg__": True, "x": 1}])


def test_a_minion_without_an_accepted_key_is_not_waited_for(bus: Bus, cluster: SaltCluster) -> None:
    bus.unknown = {"a"}
    assert "accepted no key" in cluster.call("site1", "f.g", ["a"], {}, 20)["a"].error
    assert bus.now == 0


def test_a_master_that_cannot_publish_is_a_reply(
    bus: Bus, cluster: SaltCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no master")

    monkeypatch.setattr(bus, "pub", fail)
    [error] = [r.error for r in cluster.call("site1", "f.g", ["a"], {}, 20).values()]
    assert "could not publish f.g: no master" in error


def test_only_the_minion_itself_speaks_and_only_once(bus: Bus, cluster: SaltCluster) -> None:
    bus.answers["a"] = (1.0, good("first"))
    forged = {"tag": "salt/job/1/ret/a", "data": {"id": "b", **good("forged")}}
    bus.queue.append((0.1, forged))
    bus.queue.append((0.2, {"tag": "salt/job/0/ret/a", "data": {"id": "a", **good("old job")}}))
    bus.queue.append((0.3, {"tag": "salt/job/1/ret/a", "data": "no mapping"}))
    assert cluster.call("site1", "f.g", ["a"], {}, 20)["a"].value == "first"


def test_a_server_that_was_silent_does_not_slow_every_look(bus: Bus, cluster: SaltCluster) -> None:
    for name in ("site1-lb1", "site1-lb2", "site1-farm2-ws1"):
        bus.answers[name] = (0.1, good({}))
    cluster.observe("site1", "farm2")
    first = bus.now
    cluster.observe("site1", "farm2")
    assert first >= 20
    assert bus.now - first < 7


FARMS: dict[str, Any] = {
    "farms": {
        "farm1": {
            "state": "open",
            "generation": 1,
            "release": "r",
            "in_flight": 0,
            "queued": 0,
            "servers": {"ws1": {"status": "UP", "admin_state": "ready", "in_flight": 0}},
        }
    },
    "newest": 1,
    "pick": {"farm1": 256},
    "pick_newest": {"farm1": 256},
    "disk_agrees": True,
}


def test_a_good_reply_is_a_view() -> None:
    view = views.balancer("lb", Reply(True, FARMS))
    assert view.answered
    assert view.farms["farm1"].servers["ws1"].up


@pytest.mark.parametrize(
    "change",
    [
        lambda f: [],
        lambda f: {**f, "newest": "1"},
        lambda f: {**f, "newest": True},
        lambda f: {**f, "pick": {"farm;1": 1}},
        lambda f: {**f, "farms": {"farm1": {**f["farms"]["farm1"], "state": "ajar"}}},
        lambda f: {**f, "farms": {"farm1": {**f["farms"]["farm1"], "in_flight": -1}}},
        lambda f: {**f, "farms": {"farm1": {**f["farms"]["farm1"], "servers": None}}},
        lambda f: {**f, "farms": {"a b": f["farms"]["farm1"]}},
        lambda f: "x" * 100_000,
    ],
)
def test_nonsense_from_a_balancer_is_no_answer(change: Any) -> None:
    view = views.balancer("lb", Reply(True, change(FARMS)))
    assert not view.answered
    assert "nonsense" in view.why
    assert len(view.why) < 300


@pytest.mark.parametrize("value", [None, [], {"php_versions": "8"}, {"release": 7}])
def test_nonsense_from_a_server_is_no_answer(value: Any) -> None:
    assert not views.server("ws", Reply(True, value)).answered


def test_a_truthy_ready_is_not_ready() -> None:
    value = {"release": "r", "ready": "yes", "php_versions": [], "webapp_versions": []}
    assert not views.server("ws", Reply(True, value)).ready

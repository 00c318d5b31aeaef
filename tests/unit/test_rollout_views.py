"""A balancer's reply as a view: its counters, and what becomes of a reply without sense."""

import copy
from typing import Any

import pytest
from webfarm.rollout import views
from webfarm.rollout.model import Counters, Reply

FARM: dict[str, Any] = {
    "state": "open",
    "generation": 1,
    "release": "2026.11.1",
    "in_flight": 0,
    "queued": 0,
    "servers": {},
    "counters": {"requests": 512, "errors": 3, "response_ms": 41},
}
REPLY: dict[str, Any] = {
    "farms": {"farm1": FARM},
    "newest": 1,
    "pick": {"farm1": 256},
    "pick_newest": {"farm1": 256},
    "disk_agrees": True,
}


def test_the_counters_of_a_farm() -> None:
    view = views.balancer("lb", Reply(True, REPLY))
    assert view.farms["farm1"].counters == Counters(512, 3, 41)


def test_a_farm_that_nothing_was_counted_for_has_none() -> None:
    reply = copy.deepcopy(REPLY)
    del reply["farms"]["farm1"]["counters"]
    assert views.balancer("lb", Reply(True, reply)).farms["farm1"].counters is None


@pytest.mark.parametrize(
    "counters",
    [7, [], {}, {**FARM["counters"], "errors": -1}, {**FARM["counters"], "requests": "9"}],
)
def test_counters_without_sense_make_the_whole_reply_none(counters: Any) -> None:
    reply = copy.deepcopy(REPLY)
    reply["farms"]["farm1"]["counters"] = counters
    view = views.balancer("lb", Reply(True, reply))
    assert not view.answered
    assert "nonsense" in view.why
    assert "farm1" in view.why

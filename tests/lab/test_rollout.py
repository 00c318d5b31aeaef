"""Runs of whole sites for real: crash-safe, stopped by their gates, paused, aborted, taken back.

All under traffic. The tests follow one another from release to release.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fault_table import FAULTS, strike
from lab_words import Lab
from runner import LATEST, Ended, Runner, command, sql
from shop import Shop, told, until

pytestmark = pytest.mark.lab

CLEAN = {"S1": 0, "S2": 0, "S3": 0}
LEASE_SECONDS = 15
ANY_RESETS = "--allow-resets=1000000"


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[Shop]:
    """Site 1 of the lab, whole."""
    shop = Shop(lab)
    shop.level()
    yield shop
    shop.level()


@pytest.fixture(scope="module")
def traffic(shop: Shop) -> Iterator[None]:
    """One traffic for the tests that mark their own phase of it.

    Short sessions: a farm that opens is judged by the new ones, the others stay where they are.
    """
    with shop.traffic(rate=50, sessions=50, life=12):
        yield


def breaches(shop: Shop, phase: str, *options: str) -> dict[str, int]:
    """Breaches by promise in one phase of the traffic that runs."""
    promises = shop.judge(*options)["promises"]
    return {promise: found["phases"].get(phase, 0) for promise, found in promises.items()}


def test_upgrade_all_takes_both_sites_to_a_release_and_to_a_third_and_loses_nothing(
    shop: Shop,
) -> None:
    """S1, S2, S3; slow requests, POSTs, kept and new connections, two at once. S5: one of two."""
    releases: list[str] = []
    with shop.traffic(sessions=160):
        for phase, at_once in (("second", 1), ("third", 2)):
            releases.append(shop.following())
            with shop.phase(phase):
                asked = ("upgrade.all", f"release={releases[-1]}")
                runners = [Runner(shop.lab, *asked) for _ in range(at_once)]
                ended = sorted((runner.wait(600) for runner in runners), key=lambda one: one.exit)
            assert ended[0].ok and ended[0].data and ended[0].data["state"] == "done", ended[0]
            for refused in ended[1:]:  # the other names who holds the sites
                assert refused.exit == 1 and "held by" in refused.said, refused
        shop.answers(500)
    data = shop.judge()
    found = {promise: one["breaches"] for promise, one in data["promises"].items()}
    assert (found, data["verdict"]) == (CLEAN, "innocent"), told(data)
    assert data["methods"]["POST"] > 500 and data["slow"] > 50
    assert 500 < data["new_connections"] < data["requests"] - 500
    farms = {f"{site}/{farm}" for site in ("site1", "site2") for farm in ("farm1", "farm2")}
    assert set(data["farms"]) == farms
    for name, farm in data["farms"].items():
        assert set(farm["releases"]) > set(releases), (name, farm["releases"])
    for release in releases:
        served = {(a.php, a.webapp) for a in shop.log() if a.release == release}
        assert served == {shop.pair(release)}


def test_a_runner_killed_at_steps_is_resumed_to_the_end(shop: Shop, traffic: None) -> None:
    """S6, three times in one run; `lab/faults` has every step, and more faults."""
    farm, release = shop.next_farm(), shop.following()
    with shop.phase("killed"):
        runner = Runner(shop.lab, "upgrade.farm", shop.site, farm, f"release={release}")
        for step in ("close", "switch", "ready"):
            runner.at(step, signal.SIGKILL)
            assert runner.wait().data is None
            assert shop.unfinished()
            runner = Runner(shop.lab, "upgrade.resume")
        assert runner.wait().ok
        assert shop.releases()[farm] == release and not shop.unfinished()
        shop.healthy()
        shop.answers(100)
    assert breaches(shop, "killed") == CLEAN, told(shop.judge())


def test_a_row_of_the_fault_table(shop: Shop, traffic: None) -> None:
    """`lab/faults` has the others: a balancer's HAProxy dies while the farm closes."""
    row = strike(shop, FAULTS["kill-haproxy"], "close")
    assert row.kept, (str(row), row.failures)


def test_a_runner_suspended_past_its_lease_does_nothing_more(shop: Shop, traffic: None) -> None:
    farm, release = shop.next_farm(), shop.following()
    with shop.phase("suspended"):
        with _lease_seconds(shop, LEASE_SECONDS):
            runner = Runner(shop.lab, "upgrade.farm", shop.site, farm, f"release={release}")
            runner.at("drain", signal.SIGSTOP)  # as bad as any: sent late, it takes the farm out
        said: list[Ended] = []

        def resumed() -> bool:
            said.append(command(shop.lab, "upgrade.resume"))
            return said[-1].ok

        until(resumed, "the lease expires, and resume finishes the run", 240)
        before = shop.views(), sql(shop.lab, LATEST)
        runner.signal("CONT")
        ended = runner.wait()
        assert ended.exit == 1, ended
        assert (shop.views(), sql(shop.lab, LATEST)) == before, ended
        shop.answers(100)
    assert shop.releases()[farm] == release
    assert breaches(shop, "suspended") == CLEAN, told(shop.judge())


@contextmanager
def _lease_seconds(shop: Shop, seconds: int) -> Iterator[None]:
    path = "/etc/salt/master.d/lease.conf"
    shop.lab.sh("master", f"echo 'webfarm_lease_seconds: {seconds}' > {path}")
    try:
        yield
    finally:
        shop.lab.sh("master", f"rm {path}")


# -- releases that are no good ---------------------------------------------------------------------


def _stopped(shop: Shop, kind: str, on_failure: str) -> dict[str, Any]:
    """Ask for a bad release on the whole site: the run's data."""
    shop.level()
    release = shop.bad(kind)
    with shop.governed(on_failure=on_failure, gates={"min_requests": 50}):
        with shop.phase(kind):
            ended = command(shop.lab, "upgrade.site", shop.site, f"release={release}")
            assert ended.exit == 1 and ended.data, ended
            if ended.data["state"] == "paused":
                number = str(ended.data["run"])
                left = command(shop.lab, "upgrade.rollback", number, "reset_sessions=True")
                assert left.ok, left
            shop.answers(100)
        shop.healthy()
    return ended.data


def test_a_corrupted_tree_is_refused_before_a_farm_leaves_service(
    shop: Shop, traffic: None
) -> None:
    shop.level()
    before = shop.views()
    data = _stopped(shop, "corrupt", "abort")
    assert data["state"] == "refused" and not data["outcomes"], data
    assert "content differs" in data["message"], data
    assert breaches(shop, "corrupt") == CLEAN, told(shop.judge())
    assert shop.views() == before


@pytest.mark.parametrize(
    ("kind", "gate", "on_failure", "state"),
    [("errors", "warm", "abort", "failed"), ("php", "switch", "pause", "paused")],
)
def test_a_release_that_does_not_run_is_stopped_before_it_opens(
    shop: Shop, traffic: None, kind: str, gate: str, on_failure: str, state: str
) -> None:
    old = shop.level()
    data = _stopped(shop, kind, on_failure)
    assert data["state"] == state, data
    assert gate in data["message"], data
    assert set(shop.releases().values()) == {old}
    assert breaches(shop, kind) == CLEAN, told(shop.judge())


@pytest.mark.parametrize(
    ("kind", "on_failure", "state"),
    [("session-errors", "rollback", "rolled_back"), ("slow", "pause", "paused")],
)
def test_a_release_that_is_worse_for_its_users_is_stopped_by_the_soak_gate(
    shop: Shop, traffic: None, kind: str, on_failure: str, state: str
) -> None:
    """Only sessions of the canary see it: no request of another one fails."""
    old = shop.level()
    began = time.time()
    data = _stopped(shop, kind, on_failure)
    assert data["state"] == state, data
    assert "soak" in data["message"], data
    assert set(shop.releases().values()) == {old}
    found = breaches(shop, kind, ANY_RESETS)
    assert (found["S1"], found["S3"]) == (0, 0), told(shop.judge(ANY_RESETS))
    canary = f"{shop.site}:{data['outcomes'][0]['farm']}:"
    others = [answer for answer in shop.failed(began) if not answer.farmid.startswith(canary)]
    assert not others, others[-5:]


# -- an operator in another shell ------------------------------------------------------------------


def test_pause_resume_abort_and_rollback_from_another_shell(shop: Shop, traffic: None) -> None:
    """Each is said while a step runs, and obeyed after it."""
    lab, site = shop.lab, shop.site
    old, release = shop.level(), shop.following()
    generation = shop.view(shop.balancers[0])["farm_generation"]
    last = sorted(shop.farms, key=lambda farm: int(generation[farm]))[-1]
    with shop.phase("operator"):
        runner = Runner(lab, "upgrade.site", site, f"release={release}")
        paused = _said(runner, "close", "", "upgrade.pause", "reason='the shop is busy'")
        assert paused["state"] == "paused", paused
        run = str(paused["run"])
        [unfinished] = lab.run("upgrade.status")["unfinished"]
        assert (str(unfinished["id"]), unfinished["conducted"]) == (run, False), unfinished
        other = command(lab, "upgrade.farm", site, last, f"release={old}")
        assert other.exit == 1 and f"upgrade.resume {run}" in other.said, other

        aborted = _said(Runner(lab, "upgrade.resume", run), "switch", "", "upgrade.abort", run)
        assert aborted["state"] == "aborted", aborted
        assert set(shop.releases().values()) == {old} and shop.up(*shop.farms)
    assert breaches(shop, "operator", ANY_RESETS)["S2"] == 0, told(shop.judge(ANY_RESETS))
    with shop.phase("rollback"):
        runner = Runner(lab, "upgrade.site", site, f"release={release}")
        back = _said(runner, "drain", last, "upgrade.rollback", "reset_sessions=True")
        assert back["state"] == "rolled_back", back
        assert set(shop.releases().values()) == {old} and shop.up(*shop.farms)
        assert not shop.unfinished()
        shop.answers(100)
    found = breaches(shop, "rollback", ANY_RESETS)
    assert (found["S1"], found["S3"]) == (0, 0), told(shop.judge(ANY_RESETS))


def _said(runner: Runner, step: str, farm: str, *words: str) -> dict[str, Any]:
    """How a run ends that is told something at a step; it stands still until it is said."""
    runner.at(step, signal.SIGSTOP, farm)
    if words[-1] == "reset_sessions=True":
        refused = command(runner.lab, *words[:-1])
        assert refused.exit == 1 and "sessions" in refused.said, refused
    said = command(runner.lab, *words)
    assert said.ok, said
    runner.signal("CONT")
    ended = runner.wait()
    assert ended.data, ended
    return ended.data


def test_a_server_that_fails_is_left_out_and_brought_back_by_a_command(
    shop: Shop, traffic: None
) -> None:
    """S8; php-fpm of one server does not start again."""
    farm, release = shop.next_farm(), shop.following()
    broken = shop.farms[farm][0]
    with shop.phase("quarantine"):
        folder = "/run/systemd/system/webfarm-php-fpm.service.d"
        wrong = (
            f"mkdir {folder} && printf '[Service]\\nExecStartPre=/bin/false\\n' > {folder}/a.conf"
        )
        shop.lab.sh(broken, f"{wrong} && systemctl daemon-reload")
        try:
            shop.upgrade(farm, release)
        finally:
            shop.lab.sh(broken, f"rm -r {folder} && systemctl daemon-reload")
        [(server, why)] = shop.lab.run("upgrade.status")["quarantined"].items()
        assert server.split() == [shop.site, farm, broken] and why
        assert command(shop.lab, "upgrade.server", shop.site, farm, broken).ok
        shop.healthy()
        assert not shop.lab.run("upgrade.status")["quarantined"]
        shop.answers(100)
    assert breaches(shop, "quarantine", ANY_RESETS) == CLEAN, told(shop.judge(ANY_RESETS))

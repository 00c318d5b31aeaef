"""What a web server reports of itself, with real php-fpm, nginx and memcached on the loopback."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from health_world import Listener, LoneSite, lone_site, small_disk, watched
from loopback import wait_for
from webfarm.health import machine

FAILED, SLOW = 5, 20


@pytest.fixture(scope="module")
def running() -> Iterator[LoneSite]:
    with lone_site() as site:
        yield site


@pytest.fixture
def site(running: LoneSite) -> Iterator[LoneSite]:
    running.heal()
    yield running
    running.heal()


@pytest.fixture
def listener(site: LoneSite) -> Iterator[Listener]:
    with watched(site.settings(heartbeat=1)) as found:
        yield found


def test_requests_errors_and_their_times_are_counted_exactly(
    site: LoneSite, listener: Listener
) -> None:
    site.ask(SLOW, ms=30)
    site.ask(FAILED, status=500)
    listener.until(lambda _: listener.sum("requests") >= SLOW + FAILED, "all are counted")
    assert (listener.sum("requests"), listener.sum("errors")) == (SLOW + FAILED, FAILED)
    assert listener.sum("busy") >= SLOW * 0.03
    assert all(body["critical"] == [] for body in listener.bodies)
    assert listener.bodies[-1]["children"] == 8


def test_checks_static_files_and_the_monitor_itself_count_for_nothing(
    site: LoneSite, listener: Listener
) -> None:
    client_pages = site.server.home / "srv/webapp/current/public"
    (client_pages / "shop.css").write_text("body {}")
    page = f"http://127.0.0.1:{site.server.port}"
    for path in ("/shop.css", "/ready", "/.webfarm/alive"):
        subprocess.run(["curl", "-s", "-o", "/dev/null", page + path], check=True)
    site.ask()  # the log comes in its order
    listener.until(lambda _: listener.sum("requests"), "the page is counted")
    assert listener.sum("requests") == 1


def test_a_busy_server_tells_its_load_and_its_queue_and_is_not_critical(
    site: LoneSite, listener: Listener
) -> None:
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(site.ask, 1, 2500) for _ in range(20)]
        body = listener.until(lambda body: body["active"] > 7 and body["queue"], "the load is seen")
        assert body["queue"] <= 12
        for one in asked:
            one.result()
    listener.until(lambda body: body["active"] < 1 and body["queue"] == 0, "it is calm again")
    assert all(body["critical"] == [] for body in listener.bodies)
    assert listener.sum("full") >= 1


def test_php_fpm_killed_is_critical_and_its_return_is_told(
    site: LoneSite, listener: Listener
) -> None:
    site.server.fpm.stop(signal.SIGKILL)
    body = listener.until(lambda body: body["critical"], "the death is reported")
    assert body["critical"] == ["php-fpm"]
    site.heal()
    listener.until(lambda body: not body["critical"], "the return is reported")


def test_the_death_of_php_fpms_master_alone_is_critical_though_children_answer(
    site: LoneSite, listener: Listener
) -> None:
    fpm = site.server.fpm
    assert fpm.process is not None
    os.kill(fpm.process.pid, signal.SIGKILL)
    try:
        fpm.process.wait()
        listener.until(lambda body: body["critical"] == ["php-fpm"], "the death is reported")
        told = len(listener.bodies)
        listener.until(lambda _: len(listener.bodies) >= told + 4, "it stays critical")
        assert all(body["critical"] == ["php-fpm"] for body in listener.bodies[told:])
    finally:
        fpm.stop(signal.SIGKILL)


def test_a_reload_of_php_fpm_is_not_critical(site: LoneSite, listener: Listener) -> None:
    started = (site.server.home / "log/php-fpm-master.log").read_text().count("ready to handle")
    assert site.server.fpm.process is not None
    os.kill(site.server.fpm.process.pid, signal.SIGUSR2)
    log = site.server.home / "log/php-fpm-master.log"
    wait_for(lambda: log.read_text().count("ready to handle") > started, "php-fpm is reloaded")
    site.ask(3)
    listener.until(lambda _: listener.sum("requests") >= 3, "requests are counted as before")
    assert all(body["critical"] == [] for body in listener.bodies)


def test_php_fpm_that_hangs_is_critical(site: LoneSite, listener: Listener) -> None:
    site.server.fpm.send(signal.SIGSTOP)
    try:
        listener.until(lambda body: body["critical"] == ["php-fpm"], "that it hangs is reported")
    finally:
        site.server.fpm.send(signal.SIGCONT)
    listener.until(lambda body: not body["critical"], "the return is reported")


def test_nginx_killed_is_critical_and_its_return_is_told(
    site: LoneSite, listener: Listener
) -> None:
    site.server.nginx.stop(signal.SIGKILL)
    body = listener.until(lambda body: body["critical"], "the death is reported")
    assert body["critical"] == ["nginx"]
    site.heal()
    listener.until(lambda body: not body["critical"], "the return is reported")


def test_no_request_is_lost_or_counted_twice_when_the_log_is_rotated(
    site: LoneSite, listener: Listener
) -> None:
    log = site.server.home / "log/access.log"
    site.ask(3)
    log.rename(log.with_name("access.log.1"))
    site.ask(3)  # still to the old file
    listener.until(lambda _: listener.sum("requests") >= 6, "those before are counted")
    site.server.nginx.process.send_signal(signal.SIGUSR1)  # type: ignore[union-attr]
    wait_for(log.exists, "nginx writes a new log")
    site.ask(3)
    listener.until(lambda _: listener.sum("requests") >= 9, "those after are counted")
    assert listener.sum("requests") == 9


def test_memcached_that_is_gone_is_told(site: LoneSite, listener: Listener) -> None:
    listener.until(lambda body: body["memcached"] is True, "it is there")
    site.server.cache.stop()
    listener.until(lambda body: body["memcached"] is False, "it is gone")
    site.heal()
    listener.until(lambda body: body["memcached"] is True, "it is back")


def test_the_release_is_what_really_runs(site: LoneSite, listener: Listener) -> None:
    listener.until(lambda body: body["release"] == "2026.11.9", "the release is told")
    site.server.switch_webapp("2")
    try:
        listener.until(lambda body: body["release"] == "2026.11.10", "the new release is told")
    finally:
        site.server.switch_webapp("1")


def test_a_full_disk_is_critical_until_there_is_room_again(site: LoneSite) -> None:
    with small_disk(40) as disk, watched(site.settings(disks=[str(disk)])) as listener:
        (disk / "flood").write_bytes(b"x" * 39 * 1024 * 1024)
        body = listener.until(lambda body: body["critical"], "the full disk is reported")
        assert body["critical"] == ["disk-full"]
        assert body["disk"] < 0.1
        (disk / "flood").unlink()
        listener.until(lambda body: not body["critical"], "the room is reported")


def test_a_disk_that_cannot_be_written_to_is_critical(site: LoneSite) -> None:
    with small_disk(40) as disk, watched(site.settings(disks=[str(disk)])) as listener:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        body = listener.until(lambda body: body["critical"], "the read-only disk is reported")
        assert body["critical"] == ["read-only"]


def test_a_log_that_is_missing_takes_no_report_away(site: LoneSite) -> None:
    settings = site.settings(access_log="/nowhere/access.log", heartbeat=1)
    with watched(settings) as listener:
        body = listener.until(lambda body: True, "a report without the log")
        assert (body["requests"], body["critical"]) == (0, [])


def test_a_sensor_that_hangs_delays_neither_the_beacon_nor_the_others(
    site: LoneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, hangs = threading.Event(), threading.Event()

    def dead_disk(path: str) -> machine.Disk:
        hangs.set()
        let_go.wait()
        raise OSError("Input/output error")

    with watched(site.settings(heartbeat=1)) as listener:
        monkeypatch.setattr(machine, "disk", dead_disk)
        try:
            wait_for(hangs.is_set, "the sensor hangs")
            site.server.fpm.stop(signal.SIGKILL)
            listener.until(lambda body: body["critical"] == ["php-fpm"], "the death is reported")
            listener.until(lambda body: body["disk"] is None, "the disk is unknown")
        finally:
            let_go.set()

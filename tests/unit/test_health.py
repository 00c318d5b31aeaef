"""The parts of a server's report: what is read, what is counted, what is worth a report."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webfarm import topology
from webfarm.errors import WebfarmError
from webfarm.health import accesslog, fastcgi, fpm, front, machine, monitor, reading, settings
from webfarm.health.accesslog import Counted, Tail
from webfarm.health.fastcgi import NoFastCgi
from webfarm.health.life import Life
from webfarm.health.period import Period, Sums
from webfarm.health.reading import Reading
from webfarm.health.threads import Loop
from webfarm.health.watch import Watch
from webfarm.rebalance import report

PREFIX = b'1.2.3.4 1.2.3.5 [2026-11-23T07:00:00+00:00] "GET /%s HTTP/1.1" 200 2 0.030 r r '


def line(status: int = 200, times: str = "0.030", path: bytes = b"") -> bytes:
    return PREFIX % path + f'{status} "{times}"'.encode()


# --- the access log


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line(), line(), line(500, "0.001")], Counted(3, 1, 0.061)),
        ([line(200, "-")], Counted()),  # a static file
        ([line(404, "0.002")], Counted(1, 0, 0.002)),
        ([line(502, "-"), line(504, "60.000")], Counted(2, 2, 60.0)),
        ([line(425, "0.000"), line(425, "0.002")], Counted()),  # sent elsewhere
        ([line(200, "0.012 : 0.003")], Counted(1, 0, 0.015)),
        ([line(200, "0.100, -")], Counted(1, 0, 0.1)),
        ([line(200, "-, -")], Counted()),
        ([line(path=b'x" 500 "9')], Counted(1, 0, 0.03)),  # what a client sent is not looked at
        ([b"", b"x", b'""', b'"" ""', b'"', b'200 "0.1" x', b'2x0 "0.1"'], Counted()),
    ],
)
def test_log_lines_are_counted(lines: list[bytes], expected: Counted) -> None:
    counted = accesslog.count(lines)
    assert (counted.requests, counted.errors) == (expected.requests, expected.errors)
    assert counted.busy == pytest.approx(expected.busy)


def test_the_squares_of_the_times_are_added_up_too() -> None:
    counted = accesslog.count([line(200, "0.2"), line(200, "0.1, 0.3"), line(200, "-")])
    assert counted.squares == pytest.approx(0.2**2 + 0.4**2)


@given(st.lists(st.binary(max_size=200)))
def test_no_bytes_in_the_log_break_the_count(lines: list[bytes]) -> None:
    counted = accesslog.count(lines)
    assert 0 <= counted.errors <= counted.requests <= len(lines)


class Log:
    """A log file and its reader."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.tail = Tail(self.path)

    def write(self, *words: str, path: Path | None = None) -> None:
        with (path or self.path).open("a") as file:
            file.write("".join(f"{word}\n" for word in words))

    def read(self) -> list[str]:
        return [line.decode() for line in self.tail.lines()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    found = Log(tmp_path)
    yield found
    found.tail.close()


def test_only_what_is_appended_is_read_and_a_line_only_when_it_is_whole(log: Log) -> None:
    log.write("old")
    assert log.read() == []
    log.write("a", "b")
    assert log.read() == ["a", "b"]
    with log.path.open("a") as file:
        file.write("half")
        file.flush()
        assert log.read() == []
        file.write(" and half\n")
    assert log.read() == ["half and half"]
    assert log.read() == []


def test_a_rotated_log_is_read_to_its_end_and_the_new_one_from_its_beginning(log: Log) -> None:
    log.write("old")
    log.read()
    moved = log.path.rename(log.path.with_name("access.log.1"))
    log.write("a", path=moved)
    assert log.read() == ["a"]
    log.path.touch()  # logrotate makes it; nginx still writes to the old one
    log.write("b", path=moved)
    assert log.read() == ["b"]
    log.write("c", path=moved)
    log.write("d")
    assert log.read() == ["c", "d"]


def test_a_truncated_log_is_read_from_its_beginning(log: Log) -> None:
    log.write("a long line that was there before")
    log.read()
    log.path.write_text("")
    log.write("new")
    assert log.read() == ["new"]


def test_a_log_that_appears_later_is_read_from_its_beginning(log: Log) -> None:
    with pytest.raises(FileNotFoundError):
        log.read()
    log.write("first")
    assert log.read() == ["first"]


def test_a_reader_that_is_far_behind_reads_the_newest_only(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "LAG_BYTES", 100)
    log.write("old")
    log.read()
    log.write(*(f"{n:09}" for n in range(1000)))
    found = log.read()
    assert len(found) == 10
    assert found[-1] == "000000999"


def test_a_line_without_an_end_does_not_fill_the_memory(log: Log) -> None:
    log.write("old")
    log.read()
    with log.path.open("a") as file:
        file.write("x" * (3 * accesslog.LINE_BYTES))
        file.write("\nnext\n")
    assert log.read()[-1] == "next"


# --- php-fpm

STATUS = (
    b'{"pool":"www","start time":1795416812,"active processes":3,"max children reached":2,'
    b'"listen queue":0}'
)


def answer_of(text: bytes) -> bytes:
    record = fastcgi._HEADER
    head = b"Content-Type: application/json\r\n\r\n"
    parts = [head + text[:10], text[10:]]
    printed = b"".join(record.pack(1, 6, 1, len(p), 3) + p + b"\0\0\0" for p in parts)
    return printed + record.pack(1, 6, 1, 0, 0) + record.pack(1, 3, 1, 8, 0) + bytes(8)


def test_the_status_page_is_read_out_of_a_fastcgi_answer() -> None:
    status = fpm.parse_status(fastcgi.body(answer_of(STATUS)))
    assert status == fpm.Status(started=1795416812, active=3, full=2)


@given(st.integers(0, len(answer_of(STATUS)) - 9))
def test_an_answer_that_was_cut_off_is_none(length: int) -> None:
    with pytest.raises(NoFastCgi):
        fastcgi.body(answer_of(STATUS)[:length])


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reading_of_the_status(text: bytes) -> None:
    try:
        fpm.parse_status(fastcgi.body(text))
    except NoFastCgi as error:
        assert len(str(error)) < 300


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"start time":null}', b"File not found."])
def test_what_is_no_status_page_is_named(text: bytes) -> None:
    with pytest.raises(NoFastCgi, match="no status page of php-fpm"):
        fpm.parse_status(text)


def test_the_queue_is_what_waits_to_be_accepted(tmp_path: Path) -> None:
    table = tmp_path / "unix"
    table.write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000015697802: 00000002 00000000 00010000 0001 01 16000965 /run/www.sock\n"
        "00000000c89b150b: 00000003 00000000 00000000 0001 02     0 /run/www.sock\n"
        "00000000ea32625b: 00000003 00000000 00000000 0001 02     0 /run/www.sock\n"
        "000000002861db0d: 00000003 00000000 00000000 0001 03 16001237 /run/www.sock\n"
        "00000000aa32625b: 00000003 00000000 00000000 0001 02     0 /other/run/www.sock\n"
        "00000000aa32625c: 00000003 00000000 00000000 0001 02     0\n"
    )
    assert fpm.queue_length("/run/www.sock", str(table)) == 2


# --- alive or dead


def test_one_refusal_is_no_death_and_two_are() -> None:
    life = Life()
    life.answered(0)
    life.refused()
    assert not life.dead
    life.answered(1)
    life.refused()
    assert not life.dead
    life.refused()
    assert life.dead


def test_a_service_is_back_when_it_has_answered_for_two_seconds_without_a_failure() -> None:
    life = Life(back=2)
    life.ended()
    for now in (10, 11, 11.9):
        life.answered(now)
        assert life.dead
    life.refused()
    life.answered(12)
    assert life.dead
    life.answered(14)
    assert not life.dead


def test_silence_is_death_only_while_nobody_is_served() -> None:
    life = Life(hung=5)
    for now in range(100):
        life.silent(now, served=now - 4)
    assert not life.dead
    life.silent(101, served=96)
    assert life.dead


def test_a_silence_begins_anew_after_an_answer() -> None:
    life = Life(hung=5)
    never = float("-inf")
    life.silent(0, never)
    life.silent(4, never)
    life.answered(4.5)
    life.silent(5, never)
    life.silent(9, never)
    assert not life.dead
    life.silent(10, never)
    assert life.dead


# --- the machine


def test_pressure_is_read() -> None:
    text = "some avg10=1.00 avg60=1.00 avg300=0.00 total=5000000\nfull avg10=9.00 total=1\n"
    assert machine.total(text) == 5.0
    for nonsense in ("", "full total=1", "some avg60=1", "some total=x"):
        with pytest.raises(ValueError):
            machine.total(nonsense)


class Kernel:
    """Files as the kernel has them: pressure, and php-fpm's children."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.own, self.host = folder / "cgroup", folder / "pressure"
        self.container, self.proc = folder / "container", folder / "proc"
        self.master = 7
        self.now = 100.0
        self.own.mkdir()
        self.host.mkdir()
        monkeypatch.setattr(machine.time, "monotonic", lambda: self.now)
        self.boot()

    def boot(self, contained: bool = False) -> None:
        if contained:
            self.container.write_text("systemd-nspawn")
        delay = machine.RunDelay(lambda: self.master, self.proc)
        self.pressure = machine.Pressure(delay, self.own, self.host, self.container)

    def some(self, path: Path, seconds: float) -> None:
        path.write_text(f"some avg10=0.00 avg60=0.00 total={round(seconds * 1e6)}\n")

    def children(self, **seconds: tuple[float, float]) -> None:
        """Running and waiting, by a name like ``p8``."""
        task = self.proc / str(self.master) / "task" / str(self.master)
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text(" ".join(name[1:] for name in seconds) + " 99 ")
        for name, (ran, waited) in seconds.items():
            (self.proc / name[1:]).mkdir(exist_ok=True)
            text = f"{round(ran * 1e9)} {round(waited * 1e9)} 12\n"
            (self.proc / name[1:] / "schedstat").write_text(text)

    def look(self, seconds: float = 0.0) -> machine.Psi:
        self.now += seconds
        self.pressure.look()
        return self.pressure.peek()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("contained", "memory"), [(False, 30.0), (True, None)], ids=["machine", "container"]
)
def test_the_own_pressure_goes_before_the_hosts_which_says_nothing_of_a_container(
    kernel: Kernel, contained: bool, memory: float | None
) -> None:
    kernel.boot(contained)
    for seconds in (0, 2):
        kernel.some(kernel.own / "cpu.pressure", 50 + 0.7 * seconds)
        for name in ("cpu", "memory"):
            kernel.some(kernel.host / name, 9 + 0.3 * seconds)
        assert kernel.look(seconds).keys() == {"cpu", "memory", "io"}
        if not seconds:
            kernel.pressure.take()
    assert kernel.pressure.take() == {"cpu": 70.0, "memory": memory, "io": None}


def test_pressure_is_that_of_the_time_since_it_was_taken(kernel: Kernel) -> None:
    kernel.some(kernel.host / "cpu", 0)
    assert kernel.look()["cpu"] is None  # there is no time yet to speak of
    kernel.pressure.take()
    kernel.some(kernel.host / "cpu", 1)
    assert kernel.look(4)["cpu"] == 25.0
    assert kernel.pressure.take()["cpu"] == 25.0
    assert kernel.pressure.peek()["cpu"] == 25.0  # nobody has looked since
    kernel.some(kernel.host / "cpu", 1.5)
    assert kernel.look(1)["cpu"] == 50.0
    kernel.some(kernel.host / "cpu", 0)  # a kernel that counts backwards
    assert kernel.look(1)["cpu"] == 0.0


def test_a_stall_that_has_just_begun_is_not_hidden_by_the_calm_before_it(kernel: Kernel) -> None:
    kernel.some(kernel.host / "cpu", 0)
    kernel.look()
    kernel.pressure.take()
    for _ in range(6):
        assert kernel.look(0.5)["cpu"] == 0.0
    kernel.some(kernel.host / "cpu", 0.45)
    assert kernel.look(0.5)["cpu"] == 45.0  # of the last second; of the period it is 13
    kernel.some(kernel.host / "cpu", 0.9)
    assert kernel.look(0.5)["cpu"] == 90.0
    for _ in range(2):
        kernel.look(0.5)
    assert kernel.pressure.take()["cpu"] == 18.0  # it is over: 0.9 of 5 seconds


def test_a_container_without_pressure_tells_how_long_phps_children_wait_for_a_cpu(
    kernel: Kernel,
) -> None:
    kernel.boot(contained=True)
    kernel.children(p8=(5, 9), p9=(1, 1))
    assert kernel.look()["cpu"] is None
    kernel.pressure.take()
    kernel.children(p8=(5.3, 9.1), p10=(0.2, 1.4))  # one ended, one is new
    assert kernel.look(2) == {"cpu": 75.0, "memory": None, "io": None}
    kernel.pressure.take()
    kernel.children(p8=(5.301, 9.102), p10=(0.2, 1.4))  # too little to tell
    assert kernel.look(2)["cpu"] is None
    kernel.pressure.take()
    kernel.master = 70  # started anew: what its children did before is not of this period
    kernel.children(p71=(3, 3))
    assert kernel.look(2)["cpu"] is None
    kernel.pressure.take()
    kernel.children(p71=(3.5, 3.5))
    assert kernel.look(2)["cpu"] == 50.0
    kernel.master = 0
    assert kernel.look(2)["cpu"] is None


def test_a_process_that_is_kept_from_the_cpu_is_seen_to_wait() -> None:
    """This kernel's own numbers: two that must share one CPU wait for half of the time."""
    burn = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    fork = f"import os\nfor _ in range(2): os.fork() or exec({burn!r})\nos.wait()"
    parent = subprocess.Popen([sys.executable, "-c", fork])

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    try:
        delay = machine.RunDelay(lambda: parent.pid)
        until(lambda: delay.look() and delay.ran > 0.05)
        before = delay.ran, delay.waited
        until(lambda: delay.look() and delay.ran > before[0] + 0.3)
        ran, waited = delay.ran - before[0], delay.waited - before[1]
        assert 0.25 < waited / (ran + waited) < 1
    finally:
        for child in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        parent.kill()
        parent.wait()


def test_a_disk_is_full_until_there_is_twice_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    left = {"/a": 100, "/b": 100}

    def disk(path: str) -> machine.Disk:
        if path not in left:
            raise FileNotFoundError(path)
        return machine.Disk(left[path] / 1000, left[path] * 1024**2, True, False)

    monkeypatch.setattr(machine, "disk", disk)
    disks = machine.Disks(["/a", "/b", "/missing"], full_mib=16)
    for free, full in ((100, False), (16, False), (15, True), (31, True), (32, False), (17, False)):
        left["/b"] = free
        disks.look()
        assert (disks.full, disks.free) == (full, free / 1000), free
    left.clear()
    disks.look()
    assert disks.free is None


@pytest.mark.parametrize(
    ("body", "release"),
    [
        (b'{"release": "2026.11.2", "ready": false}', "2026.11.2"),
        (b'{"release": "unknown:8.2.1+9"}', None),
        (b'{"release": "a b"}', None),
        (b'{"release": null}', None),
        (b"[1]", None),
        (b"<html>502</html>", None),
        (b"\xff", None),
    ],
)
def test_the_release_is_a_known_one_or_none(body: bytes, release: str | None) -> None:
    assert front.release_of(body) == release


# --- what is worth a report

CALM = Reading(
    sums=Sums(seconds=3.0, requests=30, errors=0, busy=3.0, active=1.0),
    children=10,
    queue=0,
    psi={"cpu": 1.0, "memory": None, "io": 0.0},
    disk=0.5,
    memcached=True,
    release="2026.11.1",
    critical=frozenset(),
)


def later(**changes: Any) -> Reading:
    """The calm server in a changed state; names of sums change the sums."""
    sums = {key: changes.pop(key) for key in list(changes) if key in CALM.sums.__dict__}
    return replace(CALM, sums=replace(CALM.sums, **sums), **changes)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (later(), None),
        (later(seconds=5.0), "heartbeat"),
        (later(seconds=1.0, critical=frozenset({"php-fpm"})), "critical"),
        (later(seconds=0.4, critical=frozenset({"php-fpm"})), None),
        (later(release="2026.11.2"), "release"),
        (later(memcached=False), "memcached"),
        (later(errors=3), "errors"),
        (later(errors=2), None),
        (later(errors=3, seconds=1.0), "errors"),
        (later(requests=5, errors=5, busy=0.5), None),  # too few to tell
        (later(busy=4.6), "time"),
        (later(requests=60, busy=6.0, active=2.0), None),  # more load, as fast as before
        (later(requests=120, busy=12.0), "load"),
        (later(requests=0, busy=0.0, active=3.5), "load"),
        (later(requests=0, busy=0.0, active=None), None),
        (later(queue=5), "queue"),
        (later(queue=4), None),
        (later(psi={"cpu": 61.0, "memory": None, "io": 0.0}), "stall"),
        (later(psi={"cpu": None, "memory": 50.0, "io": 61.0}), "stall"),
        (later(psi={"cpu": 59.0, "memory": None, "io": 0.0}), None),
        (later(psi={"cpu": 90.0, "memory": None, "io": 0.0}, seconds=1.0), "stall"),
        (later(psi={"cpu": 90.0, "memory": None, "io": 0.0}, seconds=0.9), None),
    ],
)
def test_what_is_worth_a_report(now: Reading, why: str | None) -> None:
    assert reading.why_now(CALM, now, heartbeat=5.0) == why


def test_errors_that_fall_wait_for_two_seconds() -> None:
    failing = later(errors=15)
    assert reading.why_now(failing, later(seconds=1.0), 5.0) is None
    assert reading.why_now(failing, later(seconds=2.0), 5.0) == "errors"


def test_a_pressure_that_falls_waits_for_two_seconds() -> None:
    pressed = later(psi={"cpu": 90.0, "memory": None, "io": 0.0})
    assert reading.why_now(pressed, later(seconds=1.9), 5.0) is None
    assert reading.why_now(pressed, later(seconds=2.0), 5.0) == "stall"


def test_the_first_reading_is_reported_and_the_end_of_a_crisis_too() -> None:
    assert reading.why_now(None, CALM, 5.0) == "first"
    crisis = later(critical=frozenset({"disk-full"}))
    assert reading.why_now(crisis, CALM, 5.0) == "critical"


counts = st.integers(0, 10**6)
shares = st.none() | st.floats(0, 100)


@given(
    seconds=st.floats(0.001, 100),
    requests=counts,
    errors=counts,
    busy=st.floats(0, 1e6),
    squares=st.floats(0, 1e9),
    active=st.none() | st.floats(0, 4096),
    full=counts,
    queue=counts,
    psi=st.fixed_dictionaries(dict.fromkeys(machine.RESOURCES, shares)),
    disk=st.none() | st.floats(0, 1),
    memcached=st.none() | st.booleans(),
    release=st.sampled_from([None, "2026.11.1"]),
    critical=st.sets(st.sampled_from(["php-fpm", "nginx", "disk-full", "read-only"])),
)
def test_the_engine_takes_every_report(requests: int, errors: int, **values: Any) -> None:
    values["critical"] = frozenset(values["critical"])
    now = later(requests=requests + errors, errors=errors, **values)
    reading.why_now(CALM, now, 5.0)
    body = reading.body(now, "site1-farm1-ws1", "b" * 32, 1.8e9, 12.5)
    assert report.parse(body).load().critical == now.critical


def test_a_period_begins_where_the_last_one_was_taken() -> None:
    period = Period(10.0)
    period.add_requests(3, 1, 0.5, 0.125, 11.0)
    period.add_status(active=2, full=1)
    period.add_status(active=4, full=0)
    expected = Sums(seconds=2.0, requests=3, errors=1, busy=0.5, squares=0.125, active=3.0, full=1)
    assert period.peek(12.0) == expected == period.take(12.0)
    assert period.take(13.0) == Sums(seconds=1.0)
    assert period.served == 11.0


# --- threads


@pytest.fixture
def loops() -> Iterator[Callable[..., Loop]]:
    made = []

    def make(look: Callable[[], float], wanted: Callable[[], bool] = lambda: True) -> Loop:
        loop = Loop("test", look, wanted)
        made.append(loop)
        return loop

    yield make
    for loop in made:
        loop.stop()
        assert loop.join(20)


def test_a_sensor_that_fails_is_logged_once_and_looks_again(
    loops: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("webfarm.health.threads.TROUBLE_SECONDS", 0.0)
    looks = threading.Semaphore(0)

    def look() -> float:
        looks.release()
        raise RuntimeError("nobody has thought of this")

    loops(look).start()
    for _ in range(5):
        assert looks.acquire(timeout=60)
    assert caplog.text.count("looking at test failed") == 1


def test_a_sensor_ends_when_nobody_wants_to_know(loops: Callable[..., Loop]) -> None:
    wanted = [True, True, False]
    loop = loops(lambda: 0.0, lambda: wanted.pop(0))
    loop.start()
    assert loop.join(20)
    assert wanted == []


def test_threads_that_hang_do_not_pile_up(
    loops: Callable[..., Loop], caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()
    try:
        started = [loops(lambda: float(let_go.wait() and 0)) for _ in range(6)]
        for loop in started:
            loop.start()
            loop.stop()
        hanging = [t for t in threading.enumerate() if t.name == "webfarm-health-test"]
        assert len(hanging) == 4
        assert "looks at test hang" in caplog.text
    finally:
        let_go.set()


# --- settings, and the watch over the monitor


def test_a_servers_settings_come_from_the_topology(pillar: dict[str, Any]) -> None:
    servers = pillar["sites"]["site1"]["farms"]["farm1"]["servers"]
    servers["site1-farm1-ws2"] |= {"port": 8081, "max_children": 7}
    servers["site1-farm1-ws3"] = {"address": "10.77.1.119"}
    parsed = topology.parse(pillar)
    given = settings.options([])
    found = settings.of_server(parsed, "site1-farm1-ws2", given)
    assert found is not None
    assert (found.port, found.children, found.memcached) == (8081, 7, "10.77.1.112:11211")
    other = settings.of_server(parsed, "site1-farm1-ws3", given)
    assert other is not None
    assert other.memcached is None, "another server's cache is that one's to watch"
    for minion in ("site1-lb1", "lb1", "master", "site1-db1"):
        assert settings.of_server(parsed, minion, given) is None


@pytest.mark.parametrize("config", [[], {}, [{}], [{"interval": 3}, {"_beacon_name": "x"}]])
def test_salts_own_words_in_the_configuration_are_not_ours(config: object) -> None:
    assert settings.options(config) == settings.Options()


def test_a_monitor_that_nobody_asks_ends_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(monitor, "FORGOTTEN_SECONDS", 0.1)
    nowhere = {name: f"{tmp_path}/none" for name in ("www_socket", "status_socket", "access_log")}
    given = settings.options([nowhere])
    found = settings.Settings(port=1, children=1, memcached=None, options=given)
    forgotten = monitor.Monitor("site1-farm1-ws1", found)
    assert forgotten.join(20)
    assert not forgotten.alive


def test_a_mistake_in_the_pillar_is_logged_once_and_raises_nothing(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    watch = Watch()
    asked = []

    def broken() -> topology.Topology:
        asked.append(True)
        raise WebfarmError("the pillar is not there")

    for _ in range(3):
        assert watch.reports([], "ws1", tmp_path / "none", broken) == []
    assert len(asked) == 1, "it is asked again after a minute only"
    watch.close()
    assert watch.reports([], "ws1", tmp_path / "none", broken) == []
    assert len(asked) == 2
    assert caplog.text.count("the pillar is not there") == 1


def test_a_machine_that_gives_no_threads_is_tried_again_later(
    pillar: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    def refused(loop: Loop) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Loop, "start", refused)
    watch = Watch()
    for _ in range(3):
        told = watch.reports(
            [], "site1-farm1-ws1", tmp_path / "none", lambda: topology.parse(pillar)
        )
        assert told == []
    assert caplog.text.count("can't start new thread") == 1

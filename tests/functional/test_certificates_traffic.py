"""Smoke tests, soaks and commands of a certification, against real HTTP servers and processes."""

import http.server
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loopback import NET, PATIENCE, wait_for
from webfarm.certificates import command, traffic
from webfarm.certificates.settings import Check
from webfarm.errors import WebfarmError

ADDRESS = f"{NET}.5.1"


class Shop(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Counts a session's requests in a cookie; ``faulty`` says which requests it spoils."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((ADDRESS, 0), Page)
        self.seen: list[tuple[str, str, int]] = []
        self.faulty: Callable[[int], bool] = lambda number: False
        self.lock = threading.Lock()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def do_GET(self) -> None:
        cookie = self.headers.get("Cookie", "")
        count = int(cookie.partition("n=")[2] or 0) + 1
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((self.path, self.headers["Host"], count))
        status = 502 if self.server.faulty(number) else 404 if self.path == "/missing" else 200
        body = f"count {count}".encode()
        self.send_response(status)
        self.send_header("Set-Cookie", f"n={count}; Path=/; HttpOnly")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def smoke(shop: Shop, **check: Any) -> traffic.Answer:
    return traffic.smoke(ADDRESS, shop.server_port, "shop.example", Check(**check))


def soak(shop: Shop, requests: int, seconds: float, *checks: Check) -> traffic.Soaked:
    asked = checks or (Check(),)
    at = (ADDRESS, shop.server_port, "shop.example")
    return traffic.soak(*at, asked, requests, seconds, lambda: False)


def test_a_smoke_test_is_one_request_to_the_servers_own_address(shop: Shop) -> None:
    assert smoke(shop, path="/?a=1", contains="count 1").why == ""
    assert shop.seen == [("/?a=1", "shop.example", 1)]


def test_status_and_content_must_be_what_the_pillar_says(shop: Shop) -> None:
    assert smoke(shop, path="/missing", status=404).why == ""
    assert smoke(shop, path="/missing").why == "GET /missing: status 404, expected 200"
    assert smoke(shop, contains="carts").why == "GET /: the body does not hold 'carts'"


def test_a_soak_makes_exactly_its_requests_spread_over_its_time(shop: Shop) -> None:
    done = soak(shop, 40, 0.5, Check(path="/a"), Check(path="/b"))
    assert (done.requests, done.failed, done.faults, done.stopped) == (40, 0, (), False)
    assert done.seconds >= 0.5
    assert 0 < done.p50 <= done.p99
    paths = [path for path, _, _ in shop.seen]
    assert (paths.count("/a"), paths.count("/b")) == (20, 20)
    counts = [count for _, _, count in shop.seen]
    assert counts.count(1) <= traffic.WORKERS  # its clients keep their sessions
    assert max(counts) > 1


def test_each_failed_request_of_a_soak_is_counted_and_none_is_repeated(shop: Shop) -> None:
    shop.faulty = lambda number: number in (3, 17)
    done = soak(shop, 30, 0.2)
    assert (done.requests, done.failed, len(shop.seen)) == (30, 2, 30)
    assert done.faults == ("2 times GET /: status 502, expected 200",)


def test_a_soak_ends_when_it_is_told_to(shop: Shop) -> None:
    at = (ADDRESS, shop.server_port, "shop.example")
    done = traffic.soak(*at, [Check()], 1000, 3600.0, lambda: len(shop.seen) >= 0)
    assert done.stopped
    assert done.requests < 1000


def test_a_server_that_dies_in_the_middle_fails_every_later_request(shop: Shop) -> None:
    shop.faulty = lambda number: number >= 5 and shop.socket.close() is None
    done = soak(shop, 20, 0.2)
    assert done.requests == 20
    assert done.failed >= 1


@contextmanager
def odd_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accepts, reads a request, and answers as ``talk`` likes."""
    with socket.create_server((ADDRESS, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    try:
                        client.recv(65536)
                        talk(client)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE)
    assert not thread.is_alive()


OK = b"HTTP/1.1 200 OK\r\n"
ODD: dict[str, bytes] = {
    "closes": b"",
    "garbage": b"\x00\xff" * 500,
    "cut off": OK + b"Content-Length: 100\r\n\r\nshort",
    "no number": OK + b"Content-Length: -5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "endless header": OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": OK + b"X: 1\r\n" * 500 + b"\r\n",
    "bad cookie": OK + b"Set-Cookie: a\x01b=\xff\r\nContent-Length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("name", list(ODD))
def test_whatever_a_server_sends_is_an_answer_and_no_traceback(name: str) -> None:
    with odd_server(lambda client: client.sendall(ODD[name])) as port:
        one = traffic.smoke(ADDRESS, port, "shop.example", Check())
        many = traffic.soak(ADDRESS, port, "shop.example", [Check()], 3, 0.1, lambda: False)
    if name == "bad cookie":  # a cookie that cannot be sent back is not kept
        assert (one.why, many.failed) == ("", 0)
    else:
        assert "GET /: " in one.why
        assert one.why.isprintable()
        assert (many.requests, many.failed) == (3, 3)


def test_a_body_without_end_is_read_only_so_far() -> None:
    sent = 0

    def pour(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(OK + b"\r\n")
        while sent < 1 << 30:
            sent += client.send(b"x" * 65536)

    with odd_server(pour) as port:
        answer = traffic.smoke(ADDRESS, port, "shop.example", Check(contains="y"))
    assert answer.why == "GET /: the body does not hold 'y'"
    assert sent < 1 << 28


def test_a_server_that_drips_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "GRACE_SECONDS", 0.3)
    gone = threading.Event()

    def drip(client: socket.socket) -> None:
        client.sendall(OK + b"Content-Length: 100000\r\n\r\n")
        while not gone.wait(0.05):
            client.sendall(b"x")

    with odd_server(drip) as port:
        one = traffic.smoke(ADDRESS, port, "shop.example", Check())
        many = traffic.soak(ADDRESS, port, "shop.example", [Check()], 2, 0.1, lambda: False)
        gone.set()
    assert "no whole answer from" in one.why
    assert (many.requests, many.failed) == (2, 2)


def test_where_nobody_listens_every_request_fails() -> None:
    with socket.create_server((ADDRESS, 0)) as held:
        port = held.getsockname()[1]
    assert "no answer from" in traffic.smoke(ADDRESS, port, "shop.example", Check()).why
    done = traffic.soak(ADDRESS, port, "shop.example", [Check()], 5, 0.1, lambda: False)
    assert (done.requests, done.failed, done.p99) == (5, 5, 0.0)


def test_quantiles_are_the_smallest_values_that_the_share_does_not_exceed() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [traffic.quantile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert (traffic.quantile([], 0.5), traffic.quantile([7.0], 0.01)) == (0.0, 7.0)


# -- the user's own command ------------------------------------------------------------------------


def script(folder: Path, text: str) -> str:
    path = folder / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_command_gets_its_words_as_they_are_and_no_shell(tmp_path: Path) -> None:
    own = script(tmp_path, 'printf "%s|" "$#" "$@"; pwd; echo "$SECRET" >&2; exit 3')
    os.environ["SECRET"] = "of the minion"
    try:
        done = command.run([own, "a b", "$(reboot)", ";", "*"], 30.0)
    finally:
        del os.environ["SECRET"]
    assert done == {"code": 3, "output": "4|a b|$(reboot)|;|*|/"}


def test_only_the_end_of_what_it_writes_is_kept(tmp_path: Path) -> None:
    own = script(tmp_path, "yes 0123456789 | head -c 3000000; printf '\\377the end'")
    done = command.run([own], 60.0)
    assert done["code"] == 0
    assert done["output"].endswith("\ufffdthe end")
    assert len(done["output"]) <= command.LAST_BYTES


def test_one_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    own = script(tmp_path, f"sleep 3600 & echo $$ $! > {pids}; echo begun; wait")
    with pytest.raises(WebfarmError, match="did not end in 1 s and was killed; it said: begun"):
        command.run([own], 1.0)
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: _ended(pid), f"{pid} has ended")  # type: ignore[misc]


def test_what_it_leaves_running_is_killed_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    own = script(tmp_path, f"sleep 3600 & echo $! > {pids}; exit 0")
    assert command.run([own], 30.0)["code"] == 0
    wait_for(lambda: _ended(int(pids.read_text())), "it has ended")


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return True
    return state in "ZX"


def test_a_program_that_is_killed_by_a_signal_has_not_passed(tmp_path: Path) -> None:
    assert command.run([script(tmp_path, "kill -9 $$")], 30.0)["code"] == -signal.SIGKILL


@pytest.mark.parametrize("words", [["/nowhere/at/all"], ["/etc/passwd"], ["/"]])
def test_a_program_that_cannot_be_run_is_named(words: list[str]) -> None:
    with pytest.raises(WebfarmError, match=f"{words[0]} cannot be run"):
        command.run(words, 30.0)


@pytest.mark.parametrize("deadline", [0, -1, 3601, True, "30", None, float("nan")])
def test_a_deadline_without_sense_runs_nothing(tmp_path: Path, deadline: Any) -> None:
    own = script(tmp_path, f"touch {tmp_path}/ran")
    with pytest.raises(WebfarmError):
        command.run([own], deadline)
    assert not (tmp_path / "ran").exists()


PRE = {"id": "pre1", "role": "preproduction"}


def test_only_the_command_of_the_minions_own_pillar_runs_and_only_in_preproduction() -> None:
    own = ["/bin/check", "shop"]
    assert command.agreed(own, PRE, own) == own
    for asked in (["/bin/check"], ["/bin/check", "shop", "x"], "/bin/check shop", None, 7, []):
        with pytest.raises(WebfarmError, match="nothing was run"):
            command.agreed(asked, PRE, own)
    with pytest.raises(WebfarmError, match="is a server, no preproduction server"):
        command.agreed(own, {"id": "ws1", "role": "server"}, own)
    with pytest.raises(WebfarmError, match="is empty here"):
        command.agreed([], PRE, [])

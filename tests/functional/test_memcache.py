"""A flushed memcached pool is proved empty, and what cannot be proved is an error."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from loopback import NET, PATIENCE, free_port, listens, wait_for
from webfarm import memcache
from webfarm.memcache import CacheError

HOST = f"{NET}.1.3"


def start(*options: str) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port(HOST)
    server = subprocess.Popen(
        ["memcached", "-u", "nobody", "-l", HOST, "-p", str(port), "-U", "0", *options]
    )
    wait_for(lambda: listens(HOST, port), "memcached answers")
    return server, f"{HOST}:{port}"


@pytest.fixture(params=[(), ("-C",)], ids=["with CAS", "without CAS"])
def cache(request: pytest.FixtureRequest) -> Iterator[str]:
    server, endpoint = start(*request.param)
    yield endpoint
    server.terminate()
    server.wait(PATIENCE)


class Client:
    """A plain client, for what a webapp does."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=5)
        self.file = self.socket.makefile("rwb")

    def command(self, text: str) -> str:
        self.file.write(text.encode() + b"\r\n")
        self.file.flush()
        return self.file.readline().decode().strip()

    def set(self, key: str) -> None:
        assert self.command(f"set {key} 0 0 1\r\nx") == "STORED"

    def has(self, key: str) -> bool:
        first = self.command(f"get {key}")
        if first != "END":
            self.file.readline()
            assert self.file.readline() == b"END\r\n"
        return first != "END"


def connected() -> set[str]:
    """The endpoints that this process has a connection to."""
    links = psutil.Process().net_connections("tcp")
    return {f"{x.raddr.ip}:{x.raddr.port}" for x in links if x.status == psutil.CONN_ESTABLISHED}


def clock(endpoint: str) -> int:
    """The second that the server is in."""
    return int(memcache.stats([endpoint])[endpoint]["time"])


@pytest.mark.parametrize(("options", "kept"), [((), True), (("-C",), False)], ids=["CAS", "no CAS"])
def test_what_flush_all_does_to_the_rest_of_its_second(
    options: tuple[str, ...], kept: bool
) -> None:
    """Why flush_all's OK is not taken for a proof: it is exact only with CAS numbers."""
    server, endpoint = start(*options)
    try:
        client = Client(endpoint)

        def in_one_second() -> tuple[bool, bool] | None:
            began = clock(endpoint)
            client.set("before")
            assert client.command("flush_all") == "OK"
            client.set("after")
            found = client.has("before"), client.has("after")
            return found if clock(endpoint) == began else None

        assert wait_for(in_one_second, "all of it within one second") == (False, kept)
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_a_flushed_server_has_no_item_of_the_same_second(cache: str) -> None:
    client = Client(cache)
    for turn in range(3):
        client.set(f"key{turn}")
        proof = memcache.flush([cache])[cache]
        assert proof["flushed"] is True
        assert proof["items"] == 0
        assert not client.has(f"key{turn}")


def test_thousands_of_items_are_gone(cache: str) -> None:
    client = Client(cache)
    for number in range(5000):
        client.file.write(f"set key{number} 0 0 1 noreply\r\nx\r\n".encode())
    client.set("last")
    with memcache.Memcached(*memcache.check_endpoint(cache), time.monotonic() + 10) as server:
        assert server.items() == 5001
    memcache.flush([cache])
    assert not any(client.has(f"key{number}") for number in range(0, 5000, 100))


def test_a_whole_pool_is_flushed_at_once() -> None:
    servers = [start("-C") for _ in range(16)]
    try:
        for _, endpoint in servers:
            Client(endpoint).set("key")
        for server, _ in servers:
            server.send_signal(signal.SIGSTOP)
        endpoints = [endpoint for _, endpoint in servers]
        with ThreadPoolExecutor(1) as pool:
            flushed = pool.submit(memcache.flush, endpoints, deadline=PATIENCE)
            wait_for(lambda: connected() == set(endpoints), "all are asked before one answers")
            for server, _ in servers:
                server.send_signal(signal.SIGCONT)
            done = flushed.result(PATIENCE)
        assert list(done) == endpoints
        assert all(proof["items"] == 0 for proof in done.values())
    finally:
        for server, _ in servers:
            server.send_signal(signal.SIGCONT)
            server.terminate()
        for server, _ in servers:
            server.wait(PATIENCE)


def test_a_server_that_is_down_is_named_and_the_others_are_done(cache: str) -> None:
    with pytest.raises(CacheError, match=rf"memcached {HOST}:1: .*refused.*done: {cache}"):
        memcache.flush([f"{HOST}:1", cache])


@pytest.fixture
def impostor() -> Iterator[tuple[str, list[bytes]]]:
    """A server that says whatever the test puts into the list, once for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    says: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(PATIENCE)
                try:
                    for line in says:
                        peer.recv(4096)
                        peer.sendall(line)
                    peer.recv(4096)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", says
    listener.close()


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ([], "connection was closed|timed out|deadline has passed"),
        ([b""], "timed out|deadline has passed"),
        ([b"ERROR\r\n"], "flush_all answered 'ERROR'"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "answered 'HTTP/1.1 400"),
        ([b"OK\r\n", b"ERROR\r\n"], "needs its lru_crawler"),
        ([b"OK\r\n", b"key=a exp=-1\r\n"], "timed out|deadline has passed"),
        ([b"x" * 200_000], "this is no memcached"),
    ],
)
def test_a_server_that_is_no_memcached_is_never_taken_for_empty(
    impostor: tuple[str, list[bytes]], says: list[bytes], said: str
) -> None:
    endpoint, script = impostor
    script.extend(says)
    before = time.monotonic()
    with pytest.raises(CacheError, match=said):
        memcache.flush([endpoint], deadline=1)
    assert time.monotonic() - before < PATIENCE / 2


def test_the_flush_is_repeated_until_nothing_is_listed(impostor: tuple[str, list[bytes]]) -> None:
    endpoint, script = impostor
    script.extend([b"OK\r\n", b"key=a exp=-1\r\nkey=b exp=-1\r\nEND\r\n", b"OK\r\n", b"END\r\n"])
    assert memcache.flush([endpoint])[endpoint]["flushes"] == 2


def test_a_server_that_never_becomes_empty_is_an_error(impostor: tuple[str, list[bytes]]) -> None:
    endpoint, script = impostor
    script.extend([b"OK\r\n", b"key=a exp=-1\r\nEND\r\n"] * 50)
    with pytest.raises(CacheError, match=r"still lists 1 items after \d+ flushes; does something"):
        memcache.flush([endpoint], deadline=1)


def test_a_busy_crawler_is_asked_again(impostor: tuple[str, list[bytes]]) -> None:
    endpoint, script = impostor
    script.extend([b"OK\r\n", b"BUSY currently processing crawler request\r\n", b"END\r\n"])
    assert memcache.flush([endpoint])[endpoint]["items"] == 0


def test_statistics_are_numbers(cache: str) -> None:
    found = memcache.stats([cache])[cache]
    assert found["curr_items"] == 0
    assert isinstance(found["version"], str)

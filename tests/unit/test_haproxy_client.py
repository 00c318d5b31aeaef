"""The client of the runtime API: deadlines, batches, limits, nothing built from a hostile name."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webfarm.errors import BadName, WebfarmError
from webfarm.haproxy import client as client_module
from webfarm.haproxy import farms, sites
from webfarm.haproxy.client import BalancerDown, BalancerError, Client
from webfarm.haproxy.runtime import Balancer, Settings


class Listener:
    """A socket that records what it is sent and answers by ``answer``."""

    def __init__(self, path: Path, answer: Callable[[socket.socket, str], None]) -> None:
        self.path = str(path)
        self.lines: list[str] = []
        self.answer = answer
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"\n") and (part := connection.recv(65536)):
                    data += part
                self.lines.append(data.decode())
                with contextlib.suppress(OSError):
                    self.answer(connection, data.decode().rstrip("\n"))

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(5)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(answer: Callable[[socket.socket, str], None]) -> Listener:
        made.append(Listener(tmp_path / f"{len(made)}.sock", answer))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def empty_replies(connection: socket.socket, line: str) -> None:
    connection.sendall(b"\n" * len(line.split(";")))


def test_a_batch_is_one_line_and_gives_a_reply_each(listen: Callable[..., Listener]) -> None:
    listener = listen(lambda c, line: c.sendall(b"\nNo such server.\n\nPid: 1\nName: x\n\n"))
    assert Client(listener.path).ask(["a", "b", "c"]) == ["", "No such server.", "Pid: 1\nName: x"]
    assert listener.lines == ["a;b;c\n"]


def test_batches_stay_below_the_limit_of_haproxy(listen: Callable[..., Listener]) -> None:
    listener = listen(empty_replies)
    commands = [f"set server farm1/server-{n:04} weight 100" for n in range(2000)]
    assert Client(listener.path).ask(commands) == [""] * 2000
    assert max(map(len, listener.lines)) <= client_module.BATCH_BYTES + 1
    assert ";".join(line.rstrip("\n") for line in listener.lines).split(";") == commands


def test_a_command_that_haproxy_would_hang_on_is_not_sent(listen: Callable[..., Listener]) -> None:
    listener = listen(empty_replies)
    with pytest.raises(BalancerError, match="too long"):
        Client(listener.path).ask(["x" * 15_001])
    assert listener.lines == []


@pytest.mark.parametrize("command", ["a;b", "a\nb", "a <<", "a'b", 'a"b', "é", "", "\x00", "a\\b"])
def test_only_plain_commands_are_sent(listen: Callable[..., Listener], command: str) -> None:
    listener = listen(empty_replies)
    with pytest.raises(BalancerError, match="nothing was sent"):
        Client(listener.path).ask([command])
    assert listener.lines == []


def test_a_silent_haproxy_costs_the_deadline_and_no_more(listen: Callable[..., Listener]) -> None:
    given_up = threading.Event()
    listener = listen(lambda c, line: given_up.wait(60) and None)
    begin = time.monotonic()
    with pytest.raises(BalancerError, match=r"show info.*within 0\.2 s"):
        Client(listener.path, deadline=0.2).one("show info")
    assert time.monotonic() - begin < 30
    given_up.set()


def test_a_trickle_does_not_extend_the_deadline(listen: Callable[..., Listener]) -> None:
    def trickle(connection: socket.socket, line: str) -> None:
        for _ in range(1200):  # a minute, if it is listened to so long
            connection.sendall(b"x")
            time.sleep(0.05)

    listener = listen(trickle)
    begin = time.monotonic()
    with pytest.raises(BalancerError, match="within"):
        Client(listener.path, deadline=0.3).one("show info")
    assert time.monotonic() - begin < 30


def test_an_endless_answer_is_cut_off(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REPLY_BYTES", 100_000)

    def endless(connection: socket.socket, line: str) -> None:
        while True:
            connection.sendall(b"x" * 65536)

    with pytest.raises(BalancerError, match="longer than 100000"):
        Client(listen(endless).path).one("show info")


def test_a_cut_answer_is_noticed(listen: Callable[..., Listener]) -> None:
    listener = listen(lambda c, line: c.sendall(b"\n"))
    with pytest.raises(BalancerError, match="1 replies to 2 commands"):
        Client(listener.path).ask(["a", "b"])


def test_no_haproxy_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BalancerDown, match="systemctl status haproxy"):
        Client(str(tmp_path / "none.sock")).one("show info")
    with pytest.raises(BalancerDown):
        Client("127.0.0.1:1").one("show info")


def test_tcp_is_spoken_too() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"Pid: 7\n\n")

    thread = threading.Thread(target=serve)
    thread.start()
    assert Client(f"127.0.0.1:{server.getsockname()[1]}").one("show info") == "Pid: 7"
    thread.join(5)
    server.close()


CALLS: dict[str, Callable[[Balancer, Any], object]] = {
    "servers": lambda b, name: b.servers(name),
    "evidence": lambda b, name: b.evidence(name),
    "get_map": lambda b, name: b.get_map(name),
    "set_weight backend": lambda b, name: b.set_weight(name, "ws1", 1),
    "set_weight server": lambda b, name: b.set_weight("farm1", name, 1),
    "set_weights": lambda b, name: b.set_weights({"farm1": {name: 1}}),
    "set_state backend": lambda b, name: b.set_state(name, "ws1", "drain"),
    "set_state server": lambda b, name: b.set_state("farm1", name, "drain"),
    "set_state state": lambda b, name: b.set_state("farm1", "ws1", name),
    "set_farms state": lambda b, name: farms.set_farms(b, state={name: "open"}),
    "set_farms state value": lambda b, name: farms.set_farms(b, state={"farm1": name}),
    "set_farms generation": lambda b, name: farms.set_farms(b, generation={name: 2}),
    "set_farms release": lambda b, name: farms.set_farms(b, release={name: "1"}),
    "set_farms release value": lambda b, name: farms.set_farms(b, release={"farm1": name}),
    "set_farms pick": lambda b, name: farms.set_farms(b, pick={name: 1}),
    "set_farms pick_newest": lambda b, name: farms.set_farms(b, pick_newest={name: 1}),
    "set_sites state": lambda b, name: sites.set_sites(b, state={name: "open"}),
    "set_sites state value": lambda b, name: sites.set_sites(b, state={"site1": name}),
    "set_sites pick": lambda b, name: sites.set_sites(b, pick={name: 1}),
    "ensure farm": lambda b, name: farms.ensure(b, {name: 1}, "1"),
    "ensure release": lambda b, name: farms.ensure(b, {"farm1": 1}, name),
    "ensure site": lambda b, name: sites.ensure(b, {name: 1}),
}


@pytest.mark.parametrize("call", CALLS)
def test_hostile_names_are_refused_before_anything_is_sent_or_written(
    call: str, hostile_name: Any, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    if isinstance(hostile_name, list) or (hostile_name is None and call in ("servers",)):
        hostile_name = "a;b"  # a list is no key, and None means all servers
    listener = listen(empty_replies)
    folder = tmp_path / "state"
    balancer = Balancer(
        Settings(listener.path, listener.path, f"{folder}/maps", f"{folder}/file", f"{folder}/lock")
    )
    with pytest.raises(WebfarmError) as caught:
        CALLS[call](balancer, hostile_name)
    assert isinstance(caught.value, BadName) or "nothing was changed" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert listener.lines == []
    assert not folder.exists()


@pytest.mark.parametrize("weight", [0, -1, 257, 1.5, "7", None, True])
def test_w1_weights_are_whole_numbers_of_1_to_256(
    weight: Any, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    listener = listen(empty_replies)
    balancer = Balancer(Settings(socket=listener.path, lock=str(tmp_path / "lock")))
    with pytest.raises(WebfarmError, match=r"[Nn]othing was changed") as caught:
        balancer.set_weights({"farm1": {"ws1": 100, "ws2": weight}})
    assert ("drain" in str(caught.value)) == (weight == 0 and weight is not False)
    assert listener.lines == []


@pytest.mark.parametrize(
    "weights", ["farm1", {"farm1": 5}, {"farm1": ["ws1"]}, None, [("farm1", 1)]]
)
def test_a_table_of_weights_is_a_table(
    weights: Any, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    listener = listen(empty_replies)
    balancer = Balancer(Settings(socket=listener.path, lock=str(tmp_path / "lock")))
    with pytest.raises(WebfarmError, match="nothing was changed"):
        balancer.set_weights(weights)
    assert listener.lines == []


@pytest.mark.parametrize("number", [0, -3, 1.0, "2", True, 10**9])
def test_generations_are_positive_whole_numbers(
    number: Any, listen: Callable[..., Listener], tmp_path: Path
) -> None:
    listener = listen(empty_replies)
    balancer = Balancer(Settings(socket=listener.path, lock=str(tmp_path / "lock")))
    for change in ({"generation": {"farm1": number}}, {"newest": number}):
        with pytest.raises(WebfarmError, match=r"[Nn]othing was changed"):
            farms.set_farms(balancer, **change)
    assert listener.lines == []

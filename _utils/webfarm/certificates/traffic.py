"""Ask a preproduction server for pages: once for a smoke test, many times for a soak.

The master asks the server's nginx itself, at its address, so what a certificate says of the answers
does not rest on the word of the server that is tested. Every request is real, nothing is repeated:
a connection that breaks is a failed request.
"""

import http.client
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from webfarm.certificates.settings import Check

ANSWER_SECONDS = 10.0
BODY_BYTES = 1024 * 1024
WORKERS = 8
GRACE_SECONDS = 30.0  # how long the last answers of a soak are waited for
_COOKIES = 20
_BEAT = 0.5


@dataclass(frozen=True)
class Answer:
    """One answer: ``why`` is empty when it was what the check expects."""

    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Soaked:
    """What a soak measured; ``p50`` and ``p99`` are seconds of the requests that were answered.

    faults
        What failed how often, the most frequent first, at most ten.
    stopped
        It was ended before its time.
    """

    requests: int
    failed: int
    p50: float
    p99: float
    seconds: float
    faults: tuple[str, ...] = ()
    stopped: bool = False


class Visitor:
    """A client with one kept connection and its cookies, like a browser."""

    def __init__(self, address: str, port: int, host: str) -> None:
        self.connection = http.client.HTTPConnection(address, port, timeout=ANSWER_SECONDS)
        self.where = f"{address}:{port}"
        self.host = host
        self.cookies: dict[str, str] = {}
        self.socket: socket.socket | None = None

    def ask(self, check: Check) -> Answer:
        """One GET; whatever comes is an :class:`Answer`."""
        headers = {"Host": self.host, "User-Agent": "webfarm-certify"}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        start = time.monotonic()
        try:
            self.connection.request("GET", check.path, headers=headers)
            self.socket = self.connection.sock
            with self.connection.getresponse() as answer:
                body = answer.read(BODY_BYTES)
                whole = answer.isclosed()
                if answer.length and len(body) < BODY_BYTES:
                    raise http.client.IncompleteRead(body, answer.length)
            if not whole:  # there is more than we want to see
                self.connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            what = f"{type(error).__name__}: {error}"[:120]
            spent = time.monotonic() - start
            return Answer(spent, f"GET {check.path}: no answer from {self.where} ({what!a})")
        spent = time.monotonic() - start
        self._remember(answer)
        if answer.status != check.status:
            return Answer(
                spent, f"GET {check.path}: status {answer.status}, expected {check.status}"
            )
        if check.contains.encode() not in body:
            return Answer(spent, f"GET {check.path}: the body does not hold {check.contains!a}")
        return Answer(spent)

    def _remember(self, answer: http.client.HTTPResponse) -> None:
        for header in answer.headers.get_all("Set-Cookie") or []:
            key, _, rest = header.partition("=")
            value = rest.partition(";")[0].strip()
            fit = (key.strip() + value).isascii() and (key.strip() + value).isprintable()
            if fit and len(header) < 4096 and len(self.cookies) < _COOKIES:
                self.cookies[key.strip()] = value

    def close(self) -> None:
        """Leave; for the thread that asks."""
        self.connection.close()

    def abort(self) -> None:
        """End a request that another thread waits for."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


def smoke(address: str, port: int, host: str, check: Check) -> Answer:
    """One request of a client that is new."""
    answered: list[Answer] = []
    visitor = Visitor(address, port, host)
    worker = threading.Thread(target=lambda: answered.append(visitor.ask(check)), daemon=True)
    worker.start()
    worker.join(GRACE_SECONDS)
    if not answered:
        visitor.abort()
        why = f"GET {check.path}: no whole answer from {visitor.where} in {GRACE_SECONDS:.0f} s"
        return Answer(GRACE_SECONDS, why)
    visitor.close()
    return answered[0]


def soak(
    address: str,
    port: int,
    host: str,
    checks: Sequence[Check],
    requests: int,
    seconds: float,
    beat: Callable[[], bool],
) -> Soaked:
    """Spread ``requests`` over ``seconds``, each check in turn, by clients that keep their cookies.

    beat
        Called at least every half second by the caller's own thread; True ends the soak.

    A server that is slower than the traffic is measured, not spared: what it has not answered
    ``GRACE_SECONDS`` after the soak's time has failed.
    """
    done: list[Answer] = []
    lock = threading.Lock()
    stop = threading.Event()
    start = time.monotonic()
    turn = iter(range(requests))
    visitors: list[Visitor] = []

    def work() -> None:
        visitor = Visitor(address, port, host)
        visitors.append(visitor)
        try:
            while not stop.is_set():
                with lock:
                    number = next(turn, None)
                if number is None:
                    return
                due = start + seconds * (number + 1) / requests
                if stop.wait(max(0.0, due - time.monotonic())):
                    return
                answer = visitor.ask(checks[number % len(checks)])
                with lock:
                    done.append(answer)
        finally:
            visitor.close()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(WORKERS, requests))]
    end = start + seconds + GRACE_SECONDS
    stopped = False
    try:
        for worker in workers:
            worker.start()
        while time.monotonic() < end and any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(_BEAT / len(workers))
            if beat():
                stopped = True
                break
    finally:
        stop.set()
    with lock:
        answers = list(done)
    for visitor in visitors:
        visitor.abort()
    if not stopped and len(answers) < requests:
        spent = time.monotonic() - start
        late = Answer(spent, f"no answer from {address}:{port} in time")
        answers += [late] * (requests - len(answers))
    return _measured(answers, time.monotonic() - start, stopped)


def _measured(answers: Sequence[Answer], seconds: float, stopped: bool) -> Soaked:
    faults = Counter(answer.why for answer in answers if answer.why)
    good = sorted(answer.seconds for answer in answers if not answer.why)
    return Soaked(
        requests=len(answers),
        failed=sum(faults.values()),
        p50=round(quantile(good, 0.5), 4),
        p99=round(quantile(good, 0.99), 4),
        seconds=round(seconds, 1),
        faults=tuple(f"{count} times {why}" for why, count in faults.most_common(10)),
        stopped=stopped,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values that at least ``share`` of them do not exceed; 0 for none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

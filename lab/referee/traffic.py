"""Keep many clients busy at a steady rate, and write down every answer.

Requests are due at random moments of a given mean rate, whether or not earlier ones have been
answered; each goes to a client that has nothing under way, taken at random. So the think times
follow from the number of clients, a slow cluster is not spared, and within one session requests
follow one another.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

from .answer import Entry, Note
from .client import Client, Target

NOTE_SECONDS = 10.0
MAX_LATE_SECONDS = 1.0


@dataclass(frozen=True)
class Mix:
    """What the clients do; shares are 0..1.

    life
        Requests of a session before the client leaves and another one comes, on average.
    kept
        Share of clients that keep their connection; the others connect for each request.
    parallel
        Share of clients that send two requests at once (judged on S1 and S2 only).
    """

    rate: float = 120.0
    sessions: int = 300
    life: float = 40.0
    posts: float = 0.3
    slow: float = 0.03
    slow_ms: int = 2000
    kept: float = 0.7
    parallel: float = 0.05


class Traffic:
    """The clients and their dispatcher; ``write`` is given each entry of the log."""

    def __init__(
        self, target: Target, mix: Mix, write: Callable[[Entry], None], seed: int | None = None
    ) -> None:
        self.target = target
        self.mix = mix
        self.answers = 0
        self._write = write
        self._random = random.Random(seed)
        self._born = 0
        self._idle: list[Client] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._error: BaseException | None = None
        self._late = 0
        self._stall = 0.0
        self._offset = 0.0

    def stop(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self._stop.set()

    async def run(self, duration: float | None = None) -> None:
        """Make traffic until told to stop, or for ``duration`` seconds."""
        loop = asyncio.get_running_loop()
        self._offset = time.time() - loop.time()
        begun, cpu = loop.time(), _cpu()
        if duration is not None:
            loop.call_later(duration, self.stop)
        self._idle = [self._client() for _ in range(self.mix.sessions)]
        due = noted = loop.time()
        while not self._stop.is_set():
            due += self._random.expovariate(self.mix.rate)
            now = loop.time()
            if due > now:
                await asyncio.sleep(due - now)
                self._stall = max(self._stall, loop.time() - due)
            elif now - due > MAX_LATE_SECONDS:
                self._late += 1
                due = now
            else:
                await asyncio.sleep(0)
            self._dispatch()
            if loop.time() - noted > NOTE_SECONDS:
                noted = loop.time()
                self._note(begun, cpu, ended=False)
        if self._under_way:
            await asyncio.wait(self._under_way)
        for client in self._idle:
            client.close()
        if self._error is not None:
            raise self._error
        self._note(begun, cpu, ended=True)

    def _client(self) -> Client:
        self._born += 1
        addresses = list(self.target.addresses)
        self._random.shuffle(addresses)
        return Client(
            id=f"c{self._born}",
            target=self.target,
            addresses=addresses,
            keep_alive=self._random.random() < self.mix.kept,
            parallel=self._random.random() < self.mix.parallel,
            left=1 + int(self._random.expovariate(1 / max(self.mix.life - 0.5, 0.5))),
            clock_offset=self._offset,
        )

    def _dispatch(self) -> None:
        if not self._idle:
            self._late += 1
            return
        chosen = self._random.randrange(len(self._idle))
        self._idle[chosen], self._idle[-1] = self._idle[-1], self._idle[chosen]
        task = asyncio.create_task(self._turn(self._idle.pop()))
        self._under_way.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if (error := task.exception()) is not None:
            self._error = self._error or error
            self.stop()

    async def _turn(self, client: Client) -> None:
        pair = client.parallel and client.seq > 0
        await asyncio.gather(*(self._ask(client) for _ in range(2 if pair else 1)))
        client.left -= 1
        if client.left <= 0:
            client.close()
            client = self._client()
        self._idle.append(client)

    async def _ask(self, client: Client) -> None:
        mix, chance = self.mix, self._random
        method = "POST" if chance.random() < mix.posts else "GET"
        slow = mix.slow_ms if chance.random() < mix.slow else 0
        form = b"note=" + b"x" * chance.randrange(2000) if method == "POST" else b""
        answer = await client.ask(method, slow, form)
        self.answers += 1
        self._write(answer)

    def _note(self, begun: float, cpu: float, ended: bool) -> None:
        now = asyncio.get_running_loop().time()
        used = 100 * (_cpu() - cpu) / max(now - begun, 0.001)
        self._write(
            Note(
                self._offset + now,
                {
                    "ended": ended,
                    "cpu_percent": round(used, 1),
                    "stall_ms": round(1000 * self._stall, 1),
                    "late": self._late,
                    "wanted_rate": self.mix.rate,
                    "seconds": round(now - begun, 1),
                },
            )
        )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

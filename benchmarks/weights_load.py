"""The load generator of benchmarks/weights.py, a process of its own: standard library only.

It reads its orders, a line of JSON, from the standard input, answers ``ready``, reads a line with
the moment to begin (monotonic seconds), and prints what came of it as JSON.

``{"address": "host:port", "requests": [[offset, ms], …], "patience": seconds}``
    Open loop: each request is sent at its time, however many are still unanswered, and its latency
    counts from that time, so that a late generator hides nothing. Prints ``{"cpu": seconds,
    "results": [[offset, latency, status, lateness], …]}``, in seconds; without an answer the
    status is the error's name.
``{"address": "host:port", "flood": seconds, "connections": n, "path": "/…"}``
    Closed loop: as many requests as it can. Prints ``{"rate": requests/s}``.
"""

import asyncio
import json
import sys
import time
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = "GET {} HTTP/1.1\r\nHost: shop.example\r\nCookie: FARMID=site1:farm1:1\r\n\r\n"


class Clients:
    """As many connections as are needed at a time, kept open for the next request."""

    def __init__(self, address: str) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.idle: list[Connection] = []

    async def ask(self, path: str) -> int:
        """The answer's status; raises OSError, EOFError, ValueError when there is none."""
        while self.idle:
            try:
                return await self._ask(self.idle.pop(), path)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                # the balancer had closed it, being idle: as a browser, ask again on another
                if getattr(error, "partial", b""):
                    raise
        return await self._ask(await asyncio.open_connection(self.host, self.port), path)

    async def _ask(self, connection: Connection, path: str) -> int:
        reader, writer = connection
        kept = False
        try:
            writer.write(HEAD.format(path).encode("ascii"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = head.partition("\r\ncontent-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length))
            kept = "\r\nconnection: close" not in head
            return int(head.split(" ", 2)[1])
        finally:
            if kept:
                self.idle.append(connection)
            else:
                writer.close()

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


async def steady(orders: dict[str, Any], begin: float) -> dict[str, Any]:
    clients = Clients(orders["address"])
    results: list[tuple[float, float, int | str, float]] = []
    cpu = time.process_time()

    async def one(offset: float, ms: float) -> None:
        late = time.monotonic() - begin - offset
        status: int | str
        try:
            async with asyncio.timeout(orders["patience"]):
                status = await clients.ask(f"/work.php?ms={ms:.1f}")
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            status = type(error).__name__
        results.append((offset, time.monotonic() - begin - offset, status, late))

    async with asyncio.TaskGroup() as tasks:
        for offset, ms in orders["requests"]:
            await asyncio.sleep(begin + offset - time.monotonic())
            tasks.create_task(one(offset, ms))
    clients.close()
    return {"cpu": time.process_time() - cpu, "results": results}


async def flood(orders: dict[str, Any], began: float) -> dict[str, Any]:
    clients = Clients(orders["address"])
    count = 0

    async def worker() -> None:
        nonlocal count
        while time.monotonic() - began < orders["flood"]:
            await clients.ask(orders["path"])
            count += 1

    await asyncio.gather(*(worker() for _ in range(orders["connections"])))
    clients.close()
    return {"rate": count / (time.monotonic() - began)}


def main() -> None:
    orders = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    work = flood if "flood" in orders else steady
    json.dump(asyncio.run(work(orders, begin)), sys.stdout)


if __name__ == "__main__":
    main()

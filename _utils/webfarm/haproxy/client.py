"""Ask one HAProxy process: a batch of commands to its runtime API, one reply each, one deadline."""

import re
import socket
import time
from collections.abc import Iterator, Sequence

from webfarm.errors import WebfarmError

# HAProxy 2.6 hangs on a command of about its buffer's size (16 kB) and resets on a longer one
BATCH_BYTES = 15_000
REPLY_BYTES = 64 * 1024 * 1024
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9 @!/_.:%#,+*=-]*")


class BalancerError(WebfarmError):
    """HAProxy could not be asked, or said no; the message names the socket and the command."""


class BalancerDown(BalancerError):
    """Nothing listens on the socket: HAProxy does not run, or is not reachable."""


class Client:
    """Where and how to ask; holds no connection, so that it outlives a reload of HAProxy.

    address
        Path of a UNIX socket, or ``host:port``.
    deadline
        Seconds for a whole exchange: connect, send and receive, all batches of it together.
    worker
        With the master's socket: the process id of the worker that is meant.
    """

    def __init__(self, address: str, deadline: float = 5.0, worker: int | None = None) -> None:
        self.address = address
        self.deadline = deadline
        self.worker = worker

    def __str__(self) -> str:
        return self.address if self.worker is None else f"{self.address} (worker {self.worker})"

    def ask(self, commands: Sequence[str]) -> list[str]:
        """Send ``commands`` and return one reply each, in order, without trailing newline.

        HAProxy tells an error by its text only, and goes on with the next command: read back what
        matters. Raises :class:`BalancerError` when the exchange fails; none of the commands may be
        repeated blindly then.
        """
        for command in commands:
            if not _COMMAND.fullmatch(command):
                raise BalancerError(
                    f"{self}: refused to send {ascii(command)[:80]}: not a plain command; nothing "
                    "was sent"
                )
        end = time.monotonic() + self.deadline
        replies: list[str] = []
        for batch in _batches(commands):
            text = self._exchange(";".join(batch), end)
            answers = _replies(text)
            if len(answers) != len(batch):
                raise BalancerError(
                    f"{self}: {len(answers)} replies to {len(batch)} commands, the first was "
                    f"`{batch[0][:80]}`; HAProxy said: {text[:200]!a}"
                )
            replies.extend(answers)
        return replies

    def one(self, command: str) -> str:
        """Send one command and return its reply."""
        return self.ask([command])[0]

    def _exchange(self, line: str, end: float) -> str:
        prefix = "" if self.worker is None else f"@!{self.worker};"
        shown = line if len(line) <= 80 else line[:77] + "..."
        try:
            with self._connect(end) as connection:
                self._limit(connection, end)
                connection.sendall(f"{prefix}{line}\n".encode("ascii"))
                # the master waits for more commands until it sees the end of them
                connection.shutdown(socket.SHUT_WR)
                return self._receive(connection, end, shown)
        except TimeoutError:
            raise BalancerError(
                f"{self}: no complete answer to `{shown}` within {self.deadline:g} s; HAProxy may "
                "be stopped or "
                "overloaded, look at it before the next change"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise BalancerDown(
                f"{self}: HAProxy does not answer there ({error.strerror}); is it running? "
                "`systemctl status haproxy`"
            ) from None
        except OSError as error:
            raise BalancerError(f"{self}: `{shown}` failed: {error}") from error

    def _connect(self, end: float) -> socket.socket:
        if self.address.startswith("/"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._limit(connection, end)
                connection.connect(self.address)
            except BaseException:
                connection.close()
                raise
            return connection
        host, _, port = self.address.rpartition(":")
        return socket.create_connection(
            (host.strip("[]"), int(port)), timeout=max(0.001, end - time.monotonic())
        )

    def _limit(self, connection: socket.socket, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)

    def _receive(self, connection: socket.socket, end: float, shown: str) -> str:
        parts: list[bytes] = []
        size = 0
        while True:
            self._limit(connection, end)
            part = connection.recv(65536)
            if not part:
                return b"".join(parts).decode("utf-8", "replace")
            size += len(part)
            if size > REPLY_BYTES:
                raise BalancerError(
                    f"{self}: the answer to `{shown}` is longer than {REPLY_BYTES} bytes; reading "
                    "was stopped"
                )
            parts.append(part)


def _batches(commands: Sequence[str]) -> Iterator[list[str]]:
    """Split so that each line stays below BATCH_BYTES; a single longer command is refused."""
    batch: list[str] = []
    size = 0
    for command in commands:
        if len(command) > BATCH_BYTES:
            raise BalancerError(
                f"a command of {len(command)} bytes is too long for HAProxy (limit {BATCH_BYTES}): "
                f"`{command[:60]}...`; nothing was sent"
            )
        if batch and size + len(command) + 1 > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += len(command) + 1
    if batch:
        yield batch


def _replies(text: str) -> list[str]:
    """A reply ends with an empty line; a silent success is the empty line alone."""
    replies: list[str] = []
    lines: list[str] = []
    for line in text.split("\n")[:-1]:
        if line:
            lines.append(line)
        else:
            replies.append("\n".join(lines))
            lines = []
    if lines:  # the master's own errors have no empty line
        replies.append("\n".join(lines))
    return replies

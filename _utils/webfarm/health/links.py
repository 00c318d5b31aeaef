"""One question and its answer over a socket, all of it before a deadline."""

import socket
import time

ANSWER_BYTES = 64 * 1024


def left(end: float) -> float:
    """Seconds until ``end`` (monotonic); raises TimeoutError when it has passed."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds


def unix(path: str, end: float) -> socket.socket:
    """Connect to a UNIX socket; BlockingIOError when its backlog is full."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(left(end))
        link.connect(path)
    except BaseException:
        link.close()
        raise
    return link


def tcp(host: str, port: int, end: float) -> socket.socket:
    """Connect to a TCP port."""
    return socket.create_connection((host, port), timeout=left(end))


def exchange(link: socket.socket, question: bytes, end: float, last: bytes | None = None) -> bytes:
    """Send ``question`` and return the answer.

    last
        What the answer ends with; None: it ends when the other side closes the connection.

    An answer longer than 64 KiB is cut off there. Raises OSError; TimeoutError at ``end``, however
    slowly the other side speaks.
    """
    link.settimeout(left(end))
    link.sendall(question)
    answer = b""
    while len(answer) < ANSWER_BYTES and not (last is not None and answer.endswith(last)):
        link.settimeout(left(end))
        received = link.recv(ANSWER_BYTES)
        if not received:
            break
        answer += received
    return answer

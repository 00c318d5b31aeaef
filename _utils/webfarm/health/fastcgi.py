"""Ask php-fpm over its socket, without a web server in between (FastCGI 1.0, role responder)."""

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from webfarm.errors import WebfarmError
from webfarm.health import links

_HEADER = struct.Struct(">BBHHBx")  # version, type, request, length of the content, of the padding
_BEGIN, _END, _PARAMS, _STDIN, _STDOUT = 1, 3, 4, 5, 6
_RESPONDER = struct.pack(">HB5x", 1, 0)
_CREDENTIALS = struct.Struct("3i")


class NoFastCgi(WebfarmError):
    """What came back is no whole FastCGI answer."""


@dataclass(frozen=True)
class Answer:
    """``body`` without its headers, and the process that listens: php-fpm's master (0: unknown)."""

    body: bytes
    listener: int


def get(path: str, script: str, query: str, seconds: float) -> Answer:
    """``GET script?query`` from the php-fpm that listens at ``path``, within ``seconds``.

    Raises OSError (ConnectionRefusedError and FileNotFoundError: nobody listens; BlockingIOError:
    the backlog is full; TimeoutError) and :class:`NoFastCgi`.
    """
    end = time.monotonic() + seconds
    question = request(
        {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": script,
            "SCRIPT_FILENAME": script,
            "QUERY_STRING": query,
        }
    )
    with links.unix(path, end) as link:
        listener = _CREDENTIALS.unpack(
            link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )[0]
        answer = links.exchange(link, question, end)
    return Answer(body(answer), listener)


def request(params: Mapping[str, str]) -> bytes:
    """A request without a body; names and values of less than 128 bytes."""
    pairs = b""
    for name, value in params.items():
        if len(name) > 127 or len(value) > 127:
            raise ValueError(f"{name!a} is too long for a short pair")
        pairs += bytes((len(name), len(value))) + name.encode("ascii") + value.encode("ascii")
    parts = ((_BEGIN, _RESPONDER), (_PARAMS, pairs), (_PARAMS, b""), (_STDIN, b""))
    return b"".join(_HEADER.pack(1, kind, 1, len(text), 0) + text for kind, text in parts)


def body(answer: bytes) -> bytes:
    """What the script printed after its headers; :class:`NoFastCgi` when the end is missing."""
    printed = b""
    at = 0
    while at + _HEADER.size <= len(answer):
        version, kind, _, length, padding = _HEADER.unpack_from(answer, at)
        at += _HEADER.size
        if version != 1:
            break
        if kind == _STDOUT:
            printed += answer[at : at + length]
        if kind == _END:
            return printed.partition(b"\r\n\r\n")[2]
        at += length + padding
    raise NoFastCgi(f"{len(answer)} bytes that are no whole FastCGI answer: {answer[:40]!a}")

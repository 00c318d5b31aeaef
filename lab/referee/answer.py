"""One line of the log: an answer that a client got, a mark, or a note of the traffic itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

# nothing of the request was sent, so it cannot have been counted
UNSENT = frozenset({"connect", "tls"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request of one client came to; times are seconds since the epoch.

    kind
        Empty when it was answered well; otherwise how it failed: ``connect``, ``tls``, ``timeout``,
        ``reset``, ``malformed``, ``shed`` (503 with Retry-After) or the HTTP status.
    session, count
        The session's id and its counter, as the answer told them.
    siteid, farmid
        The cookies as they were sent with the request.
    parallel
        The client may have other requests under way, so its counter is not judged.
    """

    client: str
    seq: int
    sent: float
    answered: float
    method: str = "GET"
    address: str = ""
    status: int = 0
    kind: str = ""
    why: str = ""
    session: str = ""
    count: int = 0
    release: str = ""
    site: str = ""
    farm: str = ""
    server: str = ""
    php: str = ""
    webapp: str = ""
    siteid: str = ""
    farmid: str = ""
    slow: int = 0
    parallel: bool = False
    reused: bool = False

    @property
    def took(self) -> float:
        """Seconds between the request and the end of its answer."""
        return self.answered - self.sent


@dataclass(frozen=True, slots=True)
class Mark:
    """A named moment; ``NAME-start`` and ``NAME-end`` enclose the phase NAME."""

    mark: str
    at: float


@dataclass(frozen=True, slots=True)
class Note:
    """What the traffic says of itself, from time to time and at its end."""

    at: float
    note: dict[str, Any]


Entry = Answer | Mark | Note
_FIELDS = tuple((field.name, field.default) for field in fields(Answer))


def encode(entry: Entry) -> str:
    """The entry as one line; fields at their defaults are left out."""
    if isinstance(entry, Mark):
        data: dict[str, Any] = {"mark": entry.mark, "at": round(entry.at, 4)}
    elif isinstance(entry, Note):
        data = {"note": entry.note, "at": round(entry.at, 4)}
    else:
        data = {
            name: value for name, default in _FIELDS if (value := getattr(entry, name)) != default
        }
        data["sent"] = round(entry.sent, 4)
        data["answered"] = round(entry.answered, 4)
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False) + "\n"


def decode(line: str) -> Entry:
    """The entry of one line. Raises ValueError for what is none."""
    try:
        data = json.loads(line)
        if "mark" in data:
            return Mark(**data)
        if "note" in data:
            return Note(**data)
        return Answer(**data)
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a line of the referee's log: {line[:120]!r}: {error}") from error


def decode_all(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of a log; a last line that is still being written is left out."""
    for line in lines:
        if line.endswith("\n"):
            yield decode(line)

"""Ask this server's own nginx what it runs: ``GET /ready``, and any page to warm it."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

_BODY_BYTES = 64 * 1024
UNKNOWN = "unknown:"


@dataclass(frozen=True)
class Ready:
    """What ``/ready`` said; a server that does not answer is ``ready=False`` with the reason."""

    release: str | None = None
    php: str | None = None
    webapp: str | None = None
    ready: bool = False
    why: str = ""


@dataclass(frozen=True)
class Page:
    """The answer to one request: ``status`` 0 when there was none, ``why`` says so then."""

    status: int
    seconds: float
    why: str = ""
    body: bytes = b""


def get(port: int, path: str, headers: dict[str, str], timeout: float) -> Page:
    """``GET path`` from nginx on the loopback; at most 64 KiB of the body are read."""
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(timeout, 0.1))
    try:
        connection.request("GET", path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(_BODY_BYTES)
        return Page(answer.status, time.monotonic() - start, "", body)
    except (OSError, http.client.HTTPException) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        return Page(0, time.monotonic() - start, why)
    finally:
        connection.close()


def ask(port: int, release: str | None = None, timeout: float = 5.0) -> Ready:
    """Ask ``/ready`` what runs, expecting ``release`` (None: whatever the server calls its own)."""
    if release is not None:
        return _ask(port, release, timeout)
    first = _ask(port, None, timeout)
    return first if first.release is None else _ask(port, first.release, timeout)


def _ask(port: int, release: str | None, timeout: float) -> Ready:
    headers = {} if release is None else {"X-Webfarm-Release": release}
    page = get(port, "/ready", headers, timeout)
    if not page.status:
        return Ready(why=f"no answer from 127.0.0.1:{port}/ready: {page.why}")
    try:
        data = json.loads(page.body)
        if not isinstance(data, dict):
            raise ValueError("not an object")
    except ValueError as error:
        shown = ascii(page.body[:120])[2:-1]
        return Ready(why=f"/ready answered {page.status} without JSON ({error}): {shown}")
    own = _text(data.get("release"))
    return Ready(
        release=None if own is None or own.startswith(UNKNOWN) else own,
        php=_text(data.get("php")),
        webapp=_text(data.get("webapp")),
        ready=page.status == 200 and data.get("ready") is True,
        why=_text(data.get("why")) or ("" if page.status == 200 else f"status {page.status}"),
    )


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) and value else None

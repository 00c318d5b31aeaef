"""Which of the master's events concern the loop, told from their tags; and what is in them.

An event on the bus is its tag, two newlines, and MessagePack (``SaltEvent.pack`` in Salt's
``utils/event.py``). The bus carries all of Salt's events, so what does not concern the loop is not
decoded. A tag proves nothing: a minion may fire any.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgpack

from webfarm.rebalance.confirm import FUNCTION
from webfarm.rebalance.mailbox import MAX_ANSWER, MAX_LETTER, Letter
from webfarm.signed import Forged

_BEACON = re.compile(rb"salt/beacon/([^/\n]{1,200})/webfarm_health/")
_START = re.compile(rb"salt/minion/([^/\n]{1,200})/start")
_RETURN = re.compile(rb"salt/job/[0-9]{1,40}/ret/([^/\n]{1,200})")
_FUNCTION = FUNCTION.encode()


@dataclass(frozen=True)
class Post:
    """Whose letters are taken in; the pillar's servers and balancers."""

    servers: Collection[str]
    balancers: Collection[str]

    def letter(self, raw: bytes, came: float) -> Letter | None:
        """The event as a letter, or None when it does not concern the loop."""
        tag, _, payload = raw.partition(b"\n\n")
        if tag.startswith(b"salt/beacon/"):
            found = _BEACON.fullmatch(tag)
            known, limit = self.servers, MAX_LETTER
        elif tag.startswith(b"salt/job/"):
            found = _RETURN.fullmatch(tag) if _FUNCTION in payload else None
            known, limit = self.balancers, MAX_ANSWER
        else:
            found = _START.fullmatch(tag)
            known, limit = self.balancers, MAX_LETTER
        if found is None:
            return None
        name = found[1].decode("utf-8", "replace")
        if name not in known:
            if known is self.balancers:
                return None
            # strangers share one queue, so that their number does not matter
            return Letter("?", f"salt/beacon/{name}/webfarm_health/", None, 0, came)
        kept = payload if len(payload) <= limit else None
        return Letter(name, tag.decode(), kept, len(payload), came)


def unpack(payload: bytes) -> dict[str, Any]:
    """An event's data; :class:`Forged` when it is no mapping."""
    try:
        data = msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise Forged("shape", f"it cannot be decoded: {error}") from None
    if not isinstance(data, dict):
        raise Forged("shape", f"its data are {type(data).__name__}")
    return data

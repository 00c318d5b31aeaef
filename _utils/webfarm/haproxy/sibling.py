"""Learn the farms' states from another balancer of the site, for one that has none of its own.

A balancer that is reinstalled into a site that has been upgraded must not begin with generation 1:
it would take the sessions' floors for forged ones. Each site balancer tells its siblings, and
nobody else, what its maps say.
"""

import errno
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webfarm import names
from webfarm.errors import WebfarmError

PATH = "/.webfarm/farms"
_LIMIT = 1024 * 1024
# a sibling that does not run or is out of reach; timeouts of connect(2) have no number
_NOT_THERE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, None)


@dataclass(frozen=True)
class Told:
    """What a sibling said: farm to state, generation and release; the newest, and the amnesty."""

    address: str
    newest: int
    amnesty: int
    state: Mapping[str, str]
    generation: Mapping[str, int]
    release: Mapping[str, str]


def ask(addresses: Sequence[str], deadline: float = 3.0) -> Told | None:
    """The answer of the first of ``addresses`` (``host:port``) that runs, or None.

    Raises :class:`WebfarmError` when one runs and does not tell: then nobody knows whether the site
    is bare.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=deadline)
        connected = False
        try:
            connection.connect()
            connected = True
            connection.request("GET", PATH, headers={"Host": "sibling.webfarm"})
            response = connection.getresponse()
            return _read(address, response.status, response.read(_LIMIT))
        except (OSError, http.client.HTTPException) as error:
            if not connected and getattr(error, "errno", None) in _NOT_THERE:
                continue
            raise WebfarmError(
                f"the sibling balancer {address} runs and does not tell its farms ({error!r}); "
                "apply the highstate there first, so that it knows this one. Nothing was changed"
            ) from None
        finally:
            connection.close()
    return None


def _read(address: str, status: int, body: bytes) -> Told:
    try:
        if status != 200:
            raise ValueError(f"status {status}")
        data = json.loads(body)
        told = Told(
            address,
            int(data["newest"]),
            int(data.get("amnesty", 0)),
            {names.check(f, "farm"): a["state"] for f, a in data["farms"].items()},
            {farm: int(about["generation"]) for farm, about in data["farms"].items()},
            {f: names.check(a["release"], "release") for f, a in data["farms"].items()},
        )
        if told.newest < 1 or not set(told.state.values()) <= {"open", "drain", "closed", "ready"}:
            raise ValueError("no such state or generation")
    except (ValueError, KeyError, TypeError, AttributeError, WebfarmError) as error:
        raise WebfarmError(
            f"the sibling balancer {address} answers {PATH} with {body[:80]!r} ({error}), expected "
            "its farms; repair it first, then apply the highstate again. Nothing was changed"
        ) from None
    return told
